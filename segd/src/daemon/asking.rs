//! What waits for the numbers of users, and goes on when they are there; and who has another number by now.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use segd_common::config::Active;
use tokio::sync::oneshot;

use super::{
    Decision, Event,
    decide::refused,
    engine::Engine,
    error::ApplyError,
    last_good,
    reading::{Reading, Wanted},
    shared::{Shared, lock},
};
use crate::{
    cli::log::ALWAYS,
    control::{
        protocol::Refusal,
        types::{Applied, Reloaded},
    },
    report::chain,
    source::Loaded,
    workload::users::{Answers, PATIENCE},
};

/// Why a policy is not in force.
#[derive(Debug)]
pub(super) enum NotYet {
    /// It may not be.
    Refused(Refusal),
    /// These users have to be asked about first.
    Ask(BTreeSet<String>),
}

impl From<Refusal> for NotYet {
    fn from(refusal: Refusal) -> NotYet {
        NotYet::Refused(refusal)
    }
}

/// What goes on when users were asked about.
#[derive(Debug)]
pub(super) enum Waiting {
    /// A look at the followed files.
    Look(Wanted),
    /// A policy that was read and verified.
    Reading(Reading),
    /// A client's decision, who is told, and the revision that brought the policy it was decided against.
    Decision(Decision, oneshot::Sender<Result<Applied, Refusal>>, u32),
    /// Nothing: it was time to look.
    Nothing,
}

/// Users were asked about.
#[derive(Debug)]
pub(super) struct Said {
    asking: u64,
    names: BTreeSet<String>,
    answers: Answers,
    then: Waiting,
}

impl Shared {
    /// Asks about users on a thread that may wait; then goes on.
    pub(super) fn ask_users(self: &Arc<Self>, names: BTreeSet<String>, then: Waiting) {
        let (asking, asker) = {
            let users = &mut lock(&self.engine).users;
            (users.begin(), users.asker())
        };
        let send = self.send.clone();
        tracing::debug!("asking about {} users", names.len());
        tokio::task::spawn_blocking(move || {
            let answers = asker.ask(&names, PATIENCE);
            let said = Said {
                asking,
                names,
                answers,
                then,
            };
            // The loop may have ended.
            drop(send.blocking_send(Event::UsersSaid(said)));
        });
    }

    /// Users were asked about: what waited for it goes on. The files are not read again while somebody is in the middle of writing them,
    /// unless that was asked for: when he is done the watch says so.
    pub(super) fn users_said(self: &Arc<Self>, said: Said, half_written: bool) {
        let Said {
            asking,
            names,
            answers,
            then,
        } = said;
        tracing::debug!("asked about {} users: {} answers", names.len(), answers.len());
        {
            let users = &mut lock(&self.engine).users;
            users.learn(asking, &names, &answers, Instant::now());
            users.asked_for(names);
        }
        match then {
            Waiting::Look(wanted) if half_written && !wanted.is_asked() => {}
            Waiting::Look(wanted) => {
                self.look_at_policy(wanted);
                self.ask_git(true);
            }
            Waiting::Reading(reading) => self.take_reading(reading),
            Waiting::Decision(decision, answer, against) => match self.overtaken(against) {
                None => self.decide(decision, answer),
                // Whoever asked may have gone.
                Some(refusal) => drop(answer.send(Err(refusal))),
            },
            Waiting::Nothing => {
                // What fails is told, and tried again at the next look.
                let _ = self.follow_users();
                lock(&self.engine).users.looked(Instant::now());
            }
        }
        lock(&self.engine).users.asked_for(BTreeSet::new());
    }

    /// Asks about the users of the policy in force, if it is time to.
    pub(super) fn look_at_users(self: &Arc<Self>) {
        let names = {
            let mut engine = self.engine();
            if engine.trial.is_some() || !engine.users.is_due(Instant::now()) {
                return;
            }
            let now = engine.in_force.iter();
            let names: BTreeSet<String> = now.flat_map(|now| now.selectors.users.keys().cloned()).collect();
            engine.users.forget_all_but(&names);
            if names.is_empty() {
                return;
            }
            engine.users.begin_look(&names);
            names
        };
        self.ask_users(names, Waiting::Nothing);
    }

    /// Somebody asked for a load, and the texts are those in force: users may have other numbers since.
    pub(super) fn reload_users(&self, same: Reloaded) -> Result<Reloaded, NotYet> {
        {
            let engine = self.engine();
            let Some(now) = engine.in_force.as_ref().filter(|_| engine.trial.is_none()) else {
                return Ok(same);
            };
            engine.users.ask_first(&now.policy).map_err(NotYet::Ask)?;
        }
        let followed = self.follow_users().map_err(|error| refused(&error))?;
        Ok(followed.map_or(same, |revision| Reloaded {
            revision,
            changed: true,
        }))
    }

    /// Puts the policy in force anew if a user of it has another number. The revision, if it did.
    fn follow_users(&self) -> Result<Option<u32>, ApplyError> {
        let mut engine = self.engine();
        let followed = engine.follow_users();
        match &followed {
            Ok(None) => engine.users.stuck = None,
            Ok(Some(revision)) => {
                tracing::info!(target: ALWAYS, "users have other numbers: enforcing revision {revision}");
                super::notify::changed(*revision);
                engine.date_hits();
            }
            Err(error) => {
                let line = format!(
                    "users have other numbers, and the policy cannot be put in force with them: {}",
                    chain(error)
                );
                if engine.users.stuck.as_ref() != Some(&line) {
                    tracing::error!("{line}");
                    engine.users.stuck = Some(line);
                }
            }
        }
        followed
    }
}

impl Engine {
    /// Takes over what was known of users before: by a daemon whose policy is in force still, or was when the host went down.
    pub(super) fn recall_users(&mut self, carried: BTreeMap<String, u32>, enforced: bool) {
        let slot = self.tables.active().map(Active::slot);
        let kept = slot.ok().and_then(|slot| self.text_of(slot));
        self.users
            .remember(kept.map(|(kept, _)| kept.users).unwrap_or_default());
        self.users.remember(carried);
        if let Some(path) = self.options.last_good.as_ref().filter(|_| !enforced) {
            self.users.remember(last_good::numbers(path));
        }
    }

    /// Puts the policy in force anew, as a revision of its own, if a user of it has another number now.
    ///
    /// # Errors
    ///
    /// What is in force stays.
    fn follow_users(&mut self) -> Result<Option<u32>, ApplyError> {
        let Some(now) = self.in_force.as_ref().filter(|_| self.trial.is_none()) else {
            return Ok(None);
        };
        // Others are asked about by the next look: this would wait for them where it is.
        if self.users.ask_first(&now.policy).is_err() {
            return Ok(None);
        }
        let mut used = now.selectors.users.iter();
        if used.all(|(name, number)| self.users.number(name) == *number) {
            return Ok(None);
        }
        let (origin, brought) = (now.origin, now.brought);
        let same = Loaded {
            policy: Arc::clone(&now.policy),
            warnings: Vec::new(),
            allowances: Vec::new(),
            matchers: Arc::default(),
            rules: Vec::new(),
            tests: Vec::new(),
            sources: now.texts.sources().to_vec(),
            signed: now.signed.clone(),
            claimed: now.claimed.clone(),
        };
        // It was accepted when it came: no serial is asked for.
        let revision = self.apply(&same, origin, None)?;
        if let Some(now) = &mut self.in_force {
            now.brought = brought;
        }
        Ok(Some(revision))
    }
}
