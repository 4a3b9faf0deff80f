//! The way back, and what must not cost it: files that come to say what a client has brought.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    engine::{Engine, Origin},
    error::ApplyError,
};
use crate::{
    policy::model::Source,
    source::{Known, LoadError, Loaded, Sources, Texts, resolve_read},
};

/// Why the policy before cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum NoWayBack {
    /// There is none.
    #[error("there is no policy to go back to")]
    Nothing,
    /// It is this one, whatever its files are called.
    #[error("the policy before says the same as the one in force: there is no other to go back to")]
    Same,
    /// It could be read when it was in force, and cannot be now.
    #[error("the policy before is not understood any more: {0}")]
    NotUnderstood(LoadError),
    /// Its users have to be asked about first.
    #[error("its users have to be asked about first")]
    Ask(BTreeSet<String>),
    /// It does not fit.
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

impl Engine {
    /// Puts back the policy before: at once if the present one is on trial, else as a new revision of its own.
    /// Returns the revision that was given up.
    ///
    /// # Errors
    ///
    /// The policy before is not known. What is in force stays.
    pub(super) fn roll_back(&mut self, files: &Known) -> Result<u32, NoWayBack> {
        if self.trial.is_some() {
            return Ok(self.put_back()?);
        }
        let now = self.in_force.as_ref().ok_or(NoWayBack::Nothing)?;
        let given_up = now.active.revision();
        // The other slot holds what was in force before this one, or what came to nothing: that has a higher number.
        let (kept, sources) = self.text_of(1 - now.active.slot()).ok_or(NoWayBack::Nothing)?;
        if kept.revision >= given_up {
            return Err(NoWayBack::Nothing);
        }
        if say_the_same(now.texts.sources(), &sources.sources) {
            return Err(NoWayBack::Same);
        }
        let loaded = resolve_read(sources, true).map_err(NoWayBack::NotUnderstood)?;
        self.users.ask_first(&loaded.policy).map_err(NoWayBack::Ask)?;
        self.readmit(&loaded, Origin::of(&loaded, files))?;
        Ok(given_up)
    }

    /// The files say what a client brought, under other names: they take its place in the same revision, and what was in force before
    /// stays the way back. The revision; `None` if they say something else, or something is on trial.
    pub(super) fn take_names(&mut self, files: &Loaded) -> Option<u32> {
        let same = self.in_force.as_ref().filter(|now| {
            // In one order, or rules would have other numbers.
            now.origin != Origin::Files
                && now.signed == files.signed
                && texts(now.texts.sources()).eq(texts(&files.sources))
        });
        let active = same.filter(|_| self.trial.is_none())?.active;
        // The kernel has them already; people are told other places. Why something cannot be compiled is told by who puts it in force.
        let tables = self
            .compiler
            .compile(&files.policy, &self.indexes, self.options.mode)
            .ok()?;
        self.flows.adopt(active.revision(), Arc::clone(&tables));
        if let Some(now) = &mut self.in_force {
            now.policy = Arc::clone(&files.policy);
            now.tables = tables;
            now.texts = Texts::of(&files.sources);
            now.claimed.clone_from(&files.claimed);
            now.origin = Origin::Files;
        }
        self.files_caught_up(&Sources::from(files));
        Some(active.revision())
    }

    /// What was on trial is kept: if the files had caught up with it meanwhile, that can be noted now.
    pub(super) fn note_whose_it_is(&mut self) {
        let now = self.in_force.as_ref().filter(|now| now.origin == Origin::Files);
        let files = now.map(|now| Sources {
            sources: now.texts.sources().to_vec(),
            signed: now.signed.clone(),
            claimed: now.claimed.clone(),
        });
        if let Some(files) = files {
            self.files_caught_up(&files);
        }
    }
}

fn texts(sources: &[Source]) -> impl Iterator<Item = &str> {
    sources.iter().map(|source| &*source.text)
}

/// Whether two policies are one but for the names of their files. Their order means nothing.
fn say_the_same(one: &[Source], other: &[Source]) -> bool {
    let sorted = |sources| {
        let mut texts: Vec<&str> = texts(sources).collect();
        texts.sort_unstable();
        texts
    };
    one.len() == other.len() && sorted(one) == sorted(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_the_same_whatever_their_files_are_called() {
        let source = |(name, text): &(&str, &str)| Source {
            name: (*name).to_owned(),
            text: (*text).into(),
        };
        let policy = |files: &[(&str, &str)]| files.iter().map(source).collect::<Vec<Source>>();
        let one = policy(&[("/root/a.yaml", "a"), ("/root/b.yaml", "b")]);
        assert!(say_the_same(&one, &one));
        assert!(say_the_same(
            &one,
            &policy(&[("/etc/segd/1.yaml", "b"), ("/etc/segd/2.yaml", "a")])
        ));
        assert!(!say_the_same(&one, &policy(&[("/root/a.yaml", "a")])));
        assert!(!say_the_same(
            &one,
            &policy(&[("/root/a.yaml", "a"), ("/root/b.yaml", "c")])
        ));
    }
}
