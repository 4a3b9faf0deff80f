//! Files that were refused for what stands in them: only another text puts that right, and to find out the same of a large policy again and
//! again would keep the daemon from everything else.
//!
//! INVARIANT: whoever asks for a reload is answered by a reading of his own.

use std::time::{Duration, Instant};

use super::{
    error::ApplyError,
    shared::{Shared, lock},
};
use crate::{control::protocol::Refusal, report::chain, source::Texts};

/// They are looked into again after this long all the same, in case it was not the text alone: a table that has room again.
const AT_LEAST: Duration = Duration::from_secs(60);
/// And after so many times what it took: a twentieth of the time may go into it.
const TIMES: u32 = 20;

/// The files that were refused last.
#[derive(Debug)]
pub(super) struct RefusedFiles {
    files: Texts,
    answer: Refusal,
    until: Instant,
}

impl RefusedFiles {
    fn new(files: Texts, answer: Refusal, began: Instant, now: Instant) -> RefusedFiles {
        let took = now.saturating_duration_since(began);
        RefusedFiles {
            files,
            answer,
            until: now + took.saturating_mul(TIMES).max(AT_LEAST),
        }
    }

    /// What was said of them, if these are they and it is not too long ago.
    fn answer(&self, files: &Texts, now: Instant) -> Option<Refusal> {
        (now < self.until && self.files.are(files.sources())).then(|| self.answer.clone())
    }
}

impl Shared {
    /// What was said of just these files a while ago.
    pub(super) fn refused(&self, files: &Texts) -> Option<Refusal> {
        let mut state = lock(&self.state);
        let answer = state.refused.as_ref()?.answer(files, Instant::now())?;
        state.files_failed = true;
        Some(answer)
    }

    /// Counts and tells files whose policy is right, and not in force. What does not fit into the tables is kept as refused; anything else may
    /// be over at the next look.
    pub(super) fn not_in_force(&self, error: &ApplyError, files: &Texts, began: Instant) -> Refusal {
        let text = chain(error);
        let plain = format!("error: {text}\n");
        match error {
            ApplyError::Gate(error) => {
                let drawn = format!("{plain}help: {}\n", error.help());
                self.failed(text, &drawn).help(error.help())
            }
            ApplyError::Compile(_) => self.refuse(files, began, self.failed(text, &plain)),
            _ => self.failed(text, &plain),
        }
    }

    /// Keeps what is said of files for what stands in them, which took from then until now to find out.
    pub(super) fn refuse(&self, files: &Texts, began: Instant, answer: Refusal) -> Refusal {
        let refused = RefusedFiles::new(files.clone(), answer.clone(), began, Instant::now());
        lock(&self.state).refused = Some(refused);
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{control::protocol::RefusalKind, policy::model::Source};

    fn files(text: &str) -> Texts {
        Texts::of(&[Source {
            name: "/etc/segd/policy.yaml".into(),
            text: text.into(),
        }])
    }

    #[test]
    fn the_same_files_are_looked_into_again_after_a_while_and_others_at_once() {
        let answer = || Refusal::new(RefusalKind::Invalid, "wrong");
        for (took, lasts) in [(0, 60), (1, 60), (13, 260)] {
            let (took, lasts) = (Duration::from_secs(took), Duration::from_secs(lasts));
            let began = Instant::now();
            let now = began + took;
            let refused = RefusedFiles::new(files("wrong"), answer(), began, now);
            let soon = now + Duration::from_secs(5);
            let said = refused
                .answer(&files("wrong"), soon)
                .map(|refusal| refusal.message);
            assert_eq!(said.as_deref(), Some("wrong"), "after {took:?}");
            assert!(refused.answer(&files("right"), soon).is_none(), "others");
            let late = now + lasts;
            assert!(refused.answer(&files("wrong"), late).is_none(), "after {lasts:?}");
            let before = late - Duration::from_millis(1);
            assert!(refused.answer(&files("wrong"), before).is_some(), "{took:?}");
        }
    }
}
