//! What is told of policies that did not come into force: each mistake once.
//!
//! INVARIANT: what is told is counted.

use std::time::SystemTime;

use super::{
    shared::{Shared, State, lock},
    start::style,
};
use crate::{
    control::{
        protocol::{Refusal, RefusalKind},
        types::{Reload, Reloaded},
    },
    source::{LoadError, SourceError},
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
    /// Counts and tells files that came to nothing; the same mistake only once.
    pub(super) fn failed(&self, line: String, drawn: &str) -> Refusal {
        // What kept them out may pass: they are tried again.
        lock(&self.state).files_failed = true;
        self.tell(line, drawn, false)
    }

    /// Counts and tells files that cannot be read. What they say when they can be is looked at then, and nothing more is known: what was
    /// applied over them, or rolled back to, stays over the same.
    pub(super) fn unread(&self, error: SourceError) -> Refusal {
        let help = error.help();
        let error = LoadError::Unreadable(error);
        let refusal = self.tell(error.to_string(), &error.render(style()), true);
        match help {
            Some(help) => refusal.help(help),
            None => refusal,
        }
    }

    /// The files say what a client has brought, which is theirs from now on.
    pub(super) fn caught_up(&self, revision: u32) -> Reloaded {
        let mut state = lock(&self.state);
        state.refused = None;
        if state.told.take().is_some() {
            state.last = reload_of(SystemTime::now(), None);
        }
        tracing::info!("the policy files say what was applied: revision {revision} is theirs");
        Reloaded {
            revision,
            changed: false,
        }
    }

    fn tell(&self, line: String, drawn: &str, unread: bool) -> Refusal {
        let mut state = lock(&self.state);
        if state.told.as_deref() != Some(drawn) {
            state.failure += 1;
            state.last = reload_of(SystemTime::now(), Some(&line));
            tracing::error!("the policy was not loaded, what is in force stays in force: {line}");
            crate::output::draw(drawn);
            state.told = Some(drawn.to_owned());
        }
        state.unread = unread;
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

impl State {
    /// The files say what they said. If they could not be read meanwhile, that is over.
    pub(super) fn readable_again(&mut self) {
        if std::mem::take(&mut self.unread) && self.told.take().is_some() {
            tracing::info!("the policy files can be read again, and say what they said");
            self.last = reload_of(SystemTime::now(), None);
        }
    }
}
