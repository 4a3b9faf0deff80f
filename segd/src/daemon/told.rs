//! What is told of policies that did not come into force: each mistake once.
//!
//! INVARIANT: what is told is counted.

use std::time::SystemTime;

use super::shared::{Shared, lock};
use crate::{
    control::{
        protocol::{Refusal, RefusalKind},
        types::Reload,
    },
    telemetry::clock::rfc3339,
};

/// What is told of the last reload.
pub(super) fn reload_of(at: SystemTime, error: Option<&str>) -> Reload {
    let result = if error.is_some() { "failure" } else { "success" };
    Reload {
        result: result.into(),
        time: rfc3339(at),
        error: error.map(str::to_owned),
    }
}

impl Shared {
    /// Counts and tells a policy that did not come into force; the same mistake only once.
    pub(super) fn failed(&self, line: String, drawn: &str) -> Refusal {
        let mut state = lock(&self.state);
        // What kept it out may pass: it is tried again, and told once.
        state.files_failed = true;
        if state.told.as_deref() != Some(drawn) {
            state.failure += 1;
            state.last = reload_of(SystemTime::now(), Some(&line));
            tracing::error!("the policy was not loaded, what is in force stays in force: {line}");
            eprint!("{drawn}");
            state.told = Some(drawn.to_owned());
        }
        Refusal::new(RefusalKind::Invalid, line)
    }

    /// Counts and tells a policy of a client that is not believed. The files are not to blame: what is told of them stays.
    pub(super) fn not_believed(&self, line: String) -> Refusal {
        let mut state = lock(&self.state);
        state.failure += 1;
        state.last = reload_of(SystemTime::now(), Some(&line));
        tracing::error!("a policy was refused, what is in force stays in force: {line}");
        Refusal::new(RefusalKind::Invalid, line)
    }

    /// A client's policy came into force: what was told of one before it is over.
    pub(super) fn believed(&self) {
        let mut state = lock(&self.state);
        state.files_failed = false;
        if state.told.is_none() && state.last.error.is_some() {
            state.last = reload_of(SystemTime::now(), None);
        }
    }
}
