//! What was born and not looked at yet.
//!
//! INVARIANT: however much comes before somebody looks, it is no more to look at than every cgroup once: what lies below something that waits
//! waits with it.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use tokio::sync::Notify;

use super::Birth;

/// What waits, and who waits for it.
#[derive(Debug, Default)]
pub struct News {
    waiting: Mutex<Waiting>,
    came: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    anywhere: bool,
    /// None of them lies below another.
    below: BTreeSet<String>,
}

impl News {
    /// Adds to what waits.
    pub fn tell(&self, birth: Birth) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.add(birth);
        drop(waiting);
        self.came.notify_one();
    }

    /// Takes what waits.
    #[must_use]
    pub fn take(&self) -> Vec<Birth> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let Waiting { anywhere, below } = std::mem::take(&mut *waiting);
        if anywhere {
            return vec![Birth::Anywhere];
        }
        below.into_iter().map(Birth::Below).collect()
    }

    /// Returns once something waits.
    pub async fn come(&self) {
        while self.is_empty() {
            self.came.notified().await;
        }
    }

    fn is_empty(&self) -> bool {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        !waiting.anywhere && waiting.below.is_empty()
    }
}

impl Waiting {
    fn add(&mut self, birth: Birth) {
        let Birth::Below(path) = birth else {
            *self = Waiting {
                anywhere: true,
                below: BTreeSet::new(),
            };
            return;
        };
        let above = path.match_indices('/').filter_map(|(end, _)| path.get(..end));
        if self.anywhere
            || self.below.contains("/")
            || above.into_iter().any(|above| self.below.contains(above))
        {
            return;
        }
        let prefix = format!("{}/", path.trim_end_matches('/'));
        let covered = |other: &&String| other.starts_with(&prefix);
        let covered: Vec<String> = (self.below.range(prefix.clone()..).take_while(covered))
            .cloned()
            .collect();
        for path in covered {
            self.below.remove(&path);
        }
        self.below.insert(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn waits(told: &[&str], left: &[&str]) {
        let news = News::default();
        for path in told {
            news.tell(Birth::Below((*path).to_owned()));
        }
        let left: Vec<Birth> = left.iter().map(|path| Birth::Below((*path).to_owned())).collect();
        assert_eq!(news.take(), left, "{told:?}");
        assert_eq!(news.take(), [], "taken");
    }

    #[test]
    fn what_lies_below_something_that_waits_is_looked_at_with_it() {
        waits(&["/a", "/b", "/a"], &["/a", "/b"]);
        waits(&["/a", "/a/b", "/a/b/c", "/ab"], &["/a", "/ab"]);
        waits(
            &["/a/b/c", "/a/x", "/a-b", "/a.b", "/ab", "/a"],
            &["/a", "/a-b", "/a.b", "/ab"],
        );
        waits(&["/a/b", "/c", "/"], &["/"]);
        waits(&["/", "/a"], &["/"]);
    }

    #[test]
    fn a_chain_of_directories_is_one_walk() {
        let chain: Vec<String> = (1..=300).map(|depth| "/d".repeat(depth)).collect();
        let up: Vec<&str> = chain.iter().rev().map(String::as_str).collect();
        waits(&up, &["/d"]);
    }

    #[test]
    fn anywhere_is_everywhere() {
        let news = News::default();
        news.tell(Birth::Below("/a".into()));
        news.tell(Birth::Anywhere);
        news.tell(Birth::Below("/b".into()));
        assert_eq!(news.take(), [Birth::Anywhere]);
        news.tell(Birth::Below("/b".into()));
        assert_eq!(news.take(), [Birth::Below("/b".into())]);
    }

    #[tokio::test]
    async fn whoever_waits_is_woken_and_not_for_what_was_taken() {
        let news = News::default();
        news.tell(Birth::Anywhere);
        news.come().await;
        assert_eq!(news.take().len(), 1);
        let waits = tokio::time::timeout(std::time::Duration::from_millis(20), news.come());
        assert!(waits.await.is_err());
    }
}
