//! Looks at newborn cgroups that the kernel could not classify.
//!
//! INVARIANT: whoever makes cgroups, however many, takes no more than a tenth of the loop's time: it is asked once for all that waits, and
//! rests afterwards. Until then newborns are denied.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::oneshot, time};

use super::{
    Event, queue,
    shared::{Shared, lock},
};
use crate::{report::chain, workload::births::News};

/// How many times as long as it took to look, nothing is looked at.
const REST: u32 = 9;

/// Asks the loop to look for as long as there is news.
pub(super) async fn ask(news: Arc<News>, send: queue::Sender) {
    loop {
        news.come().await;
        let (done, took) = oneshot::channel();
        if send.send(Event::Born(done)).await.is_err() {
            return;
        }
        let Ok(took) = took.await else { return };
        // SLEEP: the rest is the point.
        time::sleep(took.saturating_mul(REST)).await;
    }
}

impl Shared {
    /// Classifies what was born. Returns how long that took.
    pub(super) fn classify_newborns(&self) -> Duration {
        let began = Instant::now();
        let mut engine = lock(&self.engine);
        let news = engine.births.as_ref().map(|births| births.news().take());
        for birth in news.into_iter().flatten() {
            if let Err(error) = engine.classify(&birth) {
                tracing::error!("classifying newborn cgroups: {}", chain(&error));
            }
        }
        began.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::births::Birth;

    #[tokio::test]
    async fn one_question_waits_whatever_is_born_and_a_rest_follows_each() {
        let (send, mut queue) = queue::queue();
        let news = Arc::new(News::default());
        tokio::spawn(ask(Arc::clone(&news), send));
        for number in 0..1000 {
            news.tell(Birth::Below(format!("/a/{number}")));
        }
        let Event::Born(done) = queue.next().await else {
            panic!("a birth");
        };
        assert_eq!(news.take().len(), 1000);
        news.tell(Birth::Anywhere);
        let waits = time::timeout(Duration::from_millis(50), queue.next()).await;
        assert!(waits.is_err(), "a second question before the first is answered");
        let (began, took) = (Instant::now(), Duration::from_millis(10));
        done.send(took).expect("somebody waits");
        assert!(matches!(queue.next().await, Event::Born(_)));
        assert!(began.elapsed() >= took * REST, "after {:?}", began.elapsed());
    }
}
