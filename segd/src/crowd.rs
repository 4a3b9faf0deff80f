//! As many clients as are served at once, the newest first.
//!
//! INVARIANT: a new client is always let in: one too many ends the one that has been there longest. Who asks and reads
//! is gone within milliseconds, or waits for a large answer behind a few others; who has been there longest is mostly who says
//! nothing, or reads nothing, and would keep the others out.

use std::{collections::VecDeque, future::Future};

use tokio::task::{AbortHandle, JoinSet};

/// The clients that are served. They end with it.
#[derive(Debug)]
pub struct Crowd {
    tasks: JoinSet<()>,
    /// Who came first stands first.
    order: VecDeque<AbortHandle>,
    most: usize,
}

impl Crowd {
    /// Nobody yet, and never more than so many.
    #[must_use]
    pub fn new(most: usize) -> Crowd {
        Crowd {
            tasks: JoinSet::new(),
            order: VecDeque::new(),
            most,
        }
    }

    /// Lets a client in.
    pub fn admit(&mut self, client: impl Future<Output = ()> + Send + 'static) {
        while self.tasks.try_join_next().is_some() {}
        self.order.retain(|client| !client.is_finished());
        if self.order.len() >= self.most
            && let Some(longest) = self.order.pop_front()
        {
            longest.abort();
        }
        self.order.push_back(self.tasks.spawn(client));
    }
}
