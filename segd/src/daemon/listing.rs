//! Listing the network namespaces, beside the loop.

use std::{sync::Arc, time::Duration};

use tokio::task::AbortHandle;

use super::{Event, queue, shared::Shared};
use crate::workload::namespaces::Listed;

/// How long after a listing that lacks something the next one begins, if nothing moves before; each time twice as long, up to half
/// a minute: whoever is not heard then may never be.
const AGAIN: Duration = Duration::from_secs(1);
const MOST_DOUBLINGS: u32 = 5;

/// The listing of namespaces, on a thread that may block. One at a time: a list that is older comes never after one that is newer.
#[derive(Debug, Default)]
pub(super) struct Listing {
    busy: bool,
    again: bool,
    /// How many listings in a row lacked something.
    lacking: u32,
    /// The next one, if it is for what the last one lacked.
    next: Option<AbortHandle>,
}

impl Listing {
    /// Begins one, or has one follow that is under way.
    pub fn begin(&mut self, shared: &Arc<Shared>, send: &queue::Sender) {
        if self.busy {
            self.again = true;
            return;
        }
        (self.busy, self.again) = (true, false);
        if let Some(next) = self.next.take() {
            next.abort();
        }
        let (census, send) = (shared.census(), send.clone());
        let list = move || {
            let list = crate::workload::namespaces::namespaces(&census);
            list.map_err(|error| tracing::warn!("network namespaces: {}", crate::report::chain(&error)))
        };
        tokio::spawn(async move {
            let list = tokio::task::spawn_blocking(list).await;
            let list = list.ok().and_then(Result::ok);
            let _ = send.send(Event::NamespacesListed(list)).await;
        });
    }

    /// One is there. What it lacks is asked for again.
    pub fn end(&mut self, list: Option<&Listed>, shared: &Arc<Shared>, send: &queue::Sender) {
        self.busy = false;
        let pause = self.pause(list.is_none_or(Listed::lacks_something));
        if self.again {
            self.begin(shared, send);
        } else if let Some(pause) = pause {
            self.next = Some(again(pause, send));
        }
    }

    /// When to ask again.
    fn pause(&mut self, lacks_something: bool) -> Option<Duration> {
        if !lacks_something {
            self.lacking = 0;
            return None;
        }
        let pause = AGAIN * (1 << self.lacking.min(MOST_DOUBLINGS));
        self.lacking = self.lacking.saturating_add(1);
        Some(pause)
    }
}

/// Asks again for what the first list lacks.
pub(super) fn follow_first(list: &Listed, send: &queue::Sender) {
    if list.lacks_something() {
        again(AGAIN, send);
    }
}

fn again(pause: Duration, send: &queue::Sender) -> AbortHandle {
    let send = send.clone();
    let task = tokio::spawn(async move {
        // SLEEP: what the kernel did not tell now it may tell later.
        tokio::time::sleep(pause).await;
        let _ = send.send(Event::NamespacesMoved).await;
    });
    task.abort_handle()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lacking_is_asked_for_after_a_second_and_more_and_more_rarely() {
        let mut listing = Listing::default();
        let mut seconds = |lacks| listing.pause(lacks).map(|pause| pause.as_secs());
        assert_eq!(seconds(false), None);
        let pauses: Vec<_> = [true; 7].into_iter().map(&mut seconds).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 32].map(Some));
        assert_eq!(seconds(false), None);
        assert_eq!(seconds(true), Some(1));
    }
}
