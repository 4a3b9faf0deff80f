//! Listing the network namespaces, beside the loop.

use std::sync::Arc;

use super::{Event, queue, shared::Shared};

/// The listing of namespaces, on a thread that may block. One at a time: a list that is older comes never after one that is newer.
#[derive(Debug, Default)]
pub(super) struct Listing {
    busy: bool,
    again: bool,
}

impl Listing {
    /// Begins one, or has one follow that is under way.
    pub fn begin(&mut self, shared: &Arc<Shared>, send: &queue::Sender) {
        if self.busy {
            self.again = true;
            return;
        }
        (self.busy, self.again) = (true, false);
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

    /// One was taken.
    pub fn end(&mut self, shared: &Arc<Shared>, send: &queue::Sender) {
        self.busy = false;
        if self.again {
            self.begin(shared, send);
        }
    }
}
