//! A policy on trial: kept, put back, or over because nobody said anything.
//!
//! INVARIANT: the kernel puts the policy before back by itself when the time is over ([`segd_common::config`]). What is
//! done here only takes note of it: whoever reads the engine ends a trial that is over first.
//! INVARIANT: while a trial runs both slots are in use, and nothing but workloads and places is written to either.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use segd_common::config::{Active, Trial};

use super::{
    engine::{Engine, InForce, Origin},
    error::ApplyError,
    gate::GateError,
    handover::not_gone_on_with,
};
use crate::{
    control::types::{Commit, Kept, KeptOf, Signature, TextOf},
    datapath::texts::Parts,
    policy::{compile::compile, model::Source},
    report::chain,
    source::{ContentHash, Known, Loaded, Sources, Texts, git::Provenance, resolve_read, signature::Signed},
    telemetry::clock::EventClock,
    workload::{births::Birth, selector::SelectorTables},
};

/// The other half of a policy on trial.
#[derive(Debug)]
pub struct OnTrial {
    /// What comes back.
    pub before: InForce,
    /// When, on the boot clock.
    pub deadline_ns: u64,
}

impl OnTrial {
    /// How long that is from now.
    pub fn left(&self) -> Duration {
        Duration::from_nanos(self.deadline_ns.saturating_sub(now_ns()))
    }
}

/// The clock that the kernel programs compare with the deadline.
pub fn now_ns() -> u64 {
    EventClock::Boot.now_ns()
}

/// When a trial is over that begins now.
pub fn deadline_ns(time: Duration) -> u64 {
    now_ns().saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

/// What a daemon that starts has to enforce.
#[derive(Debug)]
pub enum Found {
    /// The policy of the followed files.
    Files(Loaded),
    /// It may not come into force, and nothing is: what was accepted before. No serial is asked for, nor noted.
    LastGood(Loaded),
}

impl Found {
    /// The policy.
    pub fn policy(&self) -> &Loaded {
        match self {
            Found::Files(loaded) | Found::LastGood(loaded) => loaded,
        }
    }
}

impl Engine {
    /// Keeps what a slot is made from beside it, for the next daemon and for a rollback.
    pub(super) fn keep_text(
        &mut self,
        next: Active,
        policy: &Sources,
        users: &BTreeMap<String, Option<u32>>,
        origin: Origin,
    ) -> Result<(), ApplyError> {
        let kept = KeptOf {
            revision: next.revision(),
            applied: origin != Origin::Files,
            files: match origin {
                // Whoever asks for it asks only what was applied.
                Origin::Files => String::new(),
                Origin::Applied { files } => files.to_string(),
            },
            commit: policy.claimed.clone().map(Commit::from),
            signature: policy.signed.clone().map(Signature::from),
            users: (users.iter())
                .filter_map(|(name, number)| Some((name.clone(), (*number)?)))
                .collect(),
            texts: Vec::new(),
        };
        let head = serde_json::to_vec(&kept).unwrap_or_default();
        let parts = Parts {
            head: head.strip_suffix(TAIL).unwrap_or_default(),
            sources: &policy.sources,
            part: &|place, source| {
                let mut part = Vec::with_capacity(source.text.len() + source.text.len() / 16);
                part.extend((place > 0).then_some(b','));
                // Writing into memory does not fail, and texts have no keys.
                let _ = serde_json::to_writer(&mut part, &TextOf::from(source));
                part
            },
            tail: TAIL,
        };
        self.maps.keep_text(next.slot(), &parts)?;
        // It may be a map that nobody guards yet.
        if let Some(guard) = &mut self.guard {
            guard.follow(&self.maps, &self.options.pin_dir)?;
        }
        Ok(())
    }

    /// The files have caught up with what was applied. A later daemon must not take it for applied still: the files may have gone on by
    /// then, and come back to what they were.
    pub(super) fn files_caught_up(&mut self, files: &Sources) {
        let now = self.in_force.as_ref();
        let Some((active, users)) = now.map(|now| (now.active, now.selectors.users.clone())) else {
            return;
        };
        if let Err(error) = self.keep_text(active, files, &users, Origin::Files) {
            tracing::error!(
                "noting that the policy in force is that of the files: {}",
                chain(&error)
            );
        }
    }

    /// What a slot was made from, as far as that is known. Whether it was complete is told by the revision.
    pub(super) fn text_of(&self, slot: u32) -> Option<(Kept, Sources)> {
        let bytes = self.maps.text(slot).ok()??;
        kept(&bytes)
    }

    /// Takes note that the kernel has put the policy before back: nobody confirmed in time. Returns what was on trial.
    pub(super) fn end_overdue_trial(&mut self) -> Option<u32> {
        let trial = self.trial.as_ref()?;
        if now_ns() < trial.deadline_ns {
            return None;
        }
        match self.put_back() {
            Ok(tried) => {
                let now = self.in_force.as_ref().map_or(0, |now| now.active.revision());
                tracing::warn!(
                    "revision {tried} was not confirmed in time: revision {now} is in force again"
                );
                Some(tried)
            }
            Err(error) => {
                // The kernel judges by the policy before all the same; the next look tries again.
                tracing::error!("the end of the trial cannot be noted: {}", chain(&error));
                None
            }
        }
    }

    /// Keeps what is on trial. `None` if nothing is.
    ///
    /// # Errors
    ///
    /// The write failed: the trial goes on.
    pub(super) fn confirm(&mut self) -> Result<Option<u32>, ApplyError> {
        let (Some(trial), Some(in_force)) = (&self.trial, &self.in_force) else {
            return Ok(None);
        };
        let (before, deadline_ns) = (trial.before.active.revision(), trial.deadline_ns);
        let tried = in_force.active;
        let change = self.accept_tried()?;
        // To note it may have taken a while: what the kernel has put back meanwhile stays.
        if now_ns() >= deadline_ns {
            let _ = change.map(|change| change.end(Err::<(), ()>(())));
            return Ok(None);
        }
        let flipped = self.tables.flip(tried.for_good());
        match change {
            Some(change) => change.end(flipped)?,
            None => flipped?,
        }
        self.trial = None;
        self.note_whose_it_is();
        self.cut();
        self.watch_births();
        Ok(Some(before))
    }

    /// Puts back the policy that the one on trial replaced. Returns the revision that was on trial.
    pub(super) fn put_back(&mut self) -> Result<u32, ApplyError> {
        self.collect_hits_or_warn();
        let Some(trial) = &self.trial else {
            return Ok(0);
        };
        self.tables.flip(trial.before.active)?;
        let before = self.trial.take().map(|trial| trial.before);
        if let Some(now) = &before {
            // The flow log forgets what is neither in force nor was so last.
            self.flows.adopt(now.active.revision(), Arc::clone(&now.tables));
        }
        let tried = std::mem::replace(&mut self.in_force, before);
        // What began under the trial alone has no right any more.
        self.cut();
        self.watch_births();
        Ok(tried.map_or(0, |tried| tried.active.revision()))
    }

    /// What a daemon that starts makes of what it finds in force: a trial goes on; a policy that was applied stays, in a
    /// revision of its own, if the followed files are still those it was applied over; else the files' policy
    /// comes into force.
    ///
    /// # Errors
    ///
    /// The policy cannot be put in force.
    pub(super) fn take_over(&mut self, found: &Found) -> Result<(), ApplyError> {
        let files = match found {
            Found::Files(files) => files,
            Found::LastGood(kept) if self.believes(kept.signed.as_ref()) => {
                // Nothing is in force, whatever was on trial.
                if self.tables.active()?.is_on_trial() {
                    self.tables.flip(self.tables.trial()?.before)?;
                }
                return self.apply(kept, Origin::Files, None).map(drop);
            }
            Found::LastGood(_) => return Err(GateError::Unsigned.into()),
        };
        let active = self.tables.active()?;
        if active.is_on_trial() {
            let trial = self.tables.trial()?;
            if trial.is_over(now_ns()) {
                let before = trial.before.revision();
                tracing::warn!(
                    "revision {} was not confirmed in time: revision {before} is in force again",
                    active.revision()
                );
            } else {
                match self.go_on(active, trial) {
                    Ok(()) => {
                        tracing::warn!(
                            "revision {} is still on trial: revision {} is back in {} s unless it is confirmed",
                            active.revision(),
                            trial.before.revision(),
                            trial.deadline_ns.saturating_sub(now_ns()).div_ceil(1_000_000_000)
                        );
                        return Ok(());
                    }
                    Err(why) => tracing::warn!(
                        "the trial of revision {} cannot go on ({why}): revision {} is put back",
                        active.revision(),
                        trial.before.revision()
                    ),
                }
            }
            self.tables.flip(trial.before)?;
        }
        let active = self.tables.active()?;
        if let Some(applied) = self.applied(active, files) {
            let revision = self.apply(&applied, Origin::Applied { files: files.hash() }, None)?;
            tracing::info!(
                "revision {revision} is what `segd apply` brought; it stays until the files change"
            );
            return Ok(());
        }
        self.admit(files, Origin::Files, None).map(drop)
    }

    /// The policy in force, if it was applied over just these files. What cannot be gone on with is told.
    fn applied(&mut self, active: Active, files: &Loaded) -> Option<Loaded> {
        let (kept, sources) = self.text_of(active.slot())?;
        if !kept.applied || kept.revision != active.revision() || kept.files != files.hash().to_string() {
            return None;
        }
        self.users.remember(kept.users);
        let lost = if self.believes(sources.signed.as_ref()) {
            match resolve_read(sources, true) {
                Ok(loaded) => return Some(loaded),
                Err(error) => error.to_string(),
            }
        } else {
            "it is not signed".to_owned()
        };
        let line = not_gone_on_with(active.revision(), &lost);
        tracing::error!("{line}");
        self.degraded.push(line);
        None
    }

    /// Takes a trial over that another daemon began.
    fn go_on(&mut self, active: Active, trial: Trial) -> Result<(), String> {
        let tried = self.understand(active.for_good())?;
        let before = self.understand(trial.before)?;
        let deadline_ns = trial.deadline_ns;
        for policy in [&before, &tried] {
            let (slot, revision) = (policy.active.slot(), policy.active.revision());
            self.flows.adopt(revision, Arc::clone(&policy.tables));
            // The probe is this daemon's own.
            let probe = self.tag_probe(slot, revision).map_err(|error| chain(&error));
            let owners = probe.and_then(|()| {
                self.write_owners(slot, &policy.tables)
                    .map_err(|error| chain(&error))
            });
            self.ownerless = owners?;
        }
        self.in_force = Some(tried);
        self.trial = Some(OnTrial { before, deadline_ns });
        let classified = self.classify(&Birth::Anywhere);
        if let Err(error) = classified {
            (self.in_force, self.trial) = (None, None);
            return Err(chain(&error));
        }
        Ok(())
    }

    /// What another daemon put in force, if it is to the last byte what this one would make of the same text.
    fn understand(&mut self, active: Active) -> Result<InForce, String> {
        let unknown = || format!("the text of revision {} is not there", active.revision());
        let (kept, sources) = self.text_of(active.slot()).ok_or_else(unknown)?;
        if kept.revision != active.revision() {
            return Err(unknown());
        }
        if !self.believes(sources.signed.as_ref()) {
            return Err(format!("revision {} is not signed", active.revision()));
        }
        let loaded = resolve_read(sources, true).map_err(|error| error.to_string())?;
        let failed = |error: &dyn std::error::Error| chain(error);
        let tables =
            compile(&loaded.policy, &self.indexes, self.options.mode).map_err(|error| failed(&error))?;
        // With the numbers of then: who has another one now is looked up when the trial is over.
        let users = kept.users;
        let selectors = SelectorTables::compile(&tables, active.revision(), &|name| users.get(name).copied())
            .map_err(|error| failed(&error))?;
        self.users.remember(users);
        let held = self
            .tables
            .holds(active.slot(), active.revision(), &tables, &selectors);
        if !held.map_err(|error| failed(&error))? {
            return Err("this segd would make other tables of it".to_owned());
        }
        let texts = Texts::of(&loaded.sources);
        Ok(InForce {
            active,
            policy: loaded.policy,
            tables: Arc::new(tables),
            selectors,
            origin: if kept.applied {
                Origin::Applied {
                    files: ContentHash::of_text(&kept.files).unwrap_or_else(|| texts.hash()),
                }
            } else {
                Origin::Files
            },
            brought: active.revision(),
            texts,
            signed: loaded.signed,
            claimed: loaded.claimed,
            ties: Vec::new(),
        })
    }
}

/// How what is kept ends, behind the texts.
const TAIL: &[u8] = b"]}";

/// What [`Engine::keep_text`] kept.
pub(super) fn kept(bytes: &[u8]) -> Option<(Kept, Sources)> {
    let mut kept: Kept = serde_json::from_slice(bytes).ok()?;
    let texts = std::mem::take(&mut kept.texts).into_iter();
    let sources = texts.map(Source::from).collect();
    let mut sources = Sources::of(sources);
    sources.claimed = kept.commit.take().map(Provenance::from);
    sources.signed = kept.signature.take().map(Signed::from);
    Some((kept, sources))
}

impl Origin {
    /// Where a policy comes from that was not read from the followed files, which are given: it may be theirs.
    pub fn of(loaded: &Loaded, files: &Known) -> Origin {
        if files.are(&Texts::of(&loaded.sources)) {
            Origin::Files
        } else {
            Origin::Applied { files: files.hash() }
        }
    }
}
