//! Which git commit a revision comes from: asked beside everything else, so that git never delays a policy.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Event,
    engine::Origin,
    shared::{Shared, lock},
};
use crate::source::git::{Provenance, provenance};

/// A commit can be made without a change of any policy file: so long after the last answer git is asked again.
const AGAIN: Duration = Duration::from_secs(30);
/// How many revisions are known: those of living flows, and the one that a trial goes back to.
const KEPT: usize = 16;

/// Where revisions come from.
#[derive(Debug, Default)]
pub(super) struct Provenances {
    known: BTreeMap<u32, Provenance>,
    asking: bool,
    /// Something moved while git was asked.
    again: bool,
    last: Option<Instant>,
}

impl Provenances {
    /// Where a revision comes from, if that is known.
    pub fn of(&self, revision: u32) -> Option<&Provenance> {
        self.known.get(&revision)
    }

    fn note(&mut self, revision: u32, said: Option<Provenance>) {
        match said {
            Some(said) => drop(self.known.insert(revision, said)),
            None => drop(self.known.remove(&revision)),
        }
        while self.known.len() > KEPT {
            self.known.pop_first();
        }
    }
}

impl Shared {
    /// Finds out where the policy in force comes from: by git, on a thread that may wait, if it is that of the followed
    /// files; else by what whoever applied it said. `moved`: now, and not only if the last time is long ago.
    pub fn ask_git(self: &Arc<Self>, moved: bool) {
        let engine = self.engine();
        let Some(in_force) = &engine.in_force else { return };
        let (revision, texts, origin) = (
            in_force.active.revision(),
            in_force.texts.clone(),
            in_force.origin,
        );
        if origin != Origin::Files {
            let known = lock(&self.state).provenances.of(revision).is_some();
            let claimed = in_force.claimed.clone().filter(|_| !known);
            drop(engine);
            if claimed.is_some() {
                self.note(revision, claimed);
            }
            return;
        }
        drop(engine);
        let state = &mut *lock(&self.state);
        // Files that are not in force say nothing of what is.
        let looked = state.files.are(&texts);
        let provenances = &mut state.provenances;
        let fresh = provenances.last.is_some_and(|last| last.elapsed() < AGAIN);
        if provenances.asking {
            provenances.again |= moved;
            return;
        }
        if fresh && !moved {
            return;
        }
        provenances.asking = true;
        let known = provenances.of(revision).cloned();
        let shared = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let options = &shared.options;
            let said = match looked {
                true => provenance(&options.policy, texts.sources()),
                false => known,
            };
            drop(shared.send.blocking_send(Event::GitSaid(revision, said)));
        });
    }

    /// Takes git's answer.
    pub fn git_said(self: &Arc<Self>, revision: u32, said: Option<Provenance>) {
        let again = {
            let provenances = &mut lock(&self.state).provenances;
            provenances.asking = false;
            provenances.last = Some(Instant::now());
            std::mem::take(&mut provenances.again)
        };
        self.note(revision, said);
        if again {
            self.ask_git(true);
        }
    }

    fn note(&self, revision: u32, said: Option<Provenance>) {
        self.flows
            .note_commit(revision, said.as_ref().map(|said| said.commit.clone()));
        lock(&self.state).provenances.note(revision, said);
    }
}
