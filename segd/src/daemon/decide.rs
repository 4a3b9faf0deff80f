//! `segd apply`, `confirm` and `rollback`, as the loop handles them.

use std::{
    sync::{Arc, MutexGuard},
    time::{Duration, SystemTime},
};

use tokio::sync::oneshot;

use super::{
    Decision, Event,
    asking::{NotYet, Waiting},
    engine::{Engine, Origin},
    error::ApplyError,
    gate::Gate,
    rollback::NoWayBack,
    shared::{DECIDE, Shared, conflict, lock},
};
use crate::{
    cli::log::ALWAYS,
    control::{
        protocol::{Refusal, RefusalKind},
        types::{Applied, Candidate, SealText, Trial},
    },
    policy::model::Source,
    report::chain,
    source::{
        Known, LoadError, SourceError, Sources, Trust,
        git::Provenance,
        resolve_read,
        signature::{Seal, Sealed, SignatureError, Signers},
    },
    telemetry::clock::rfc3339,
};

/// A policy that a client sent, looked at as far as that takes no engine.
#[derive(Clone, Debug)]
pub struct Brought {
    sources: Sources,
    allow_empty: bool,
    confirm: Option<Duration>,
}

/// The longest trial: a forgotten one must end.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

impl Shared {
    /// Looks at what a client sent, beside the loop: who signed it, where it has to be signed.
    pub async fn examine(&self, candidate: Candidate) -> Result<Brought, Refusal> {
        let confirm = candidate.confirm_seconds.map(Duration::from_secs);
        if confirm.is_some_and(|confirm| confirm.is_zero() || confirm > LONGEST) {
            let message = "a trial lasts from one second to 24 hours";
            return Err(Refusal::new(RefusalKind::Invalid, message));
        }
        let claimed = candidate.commit.map(Provenance::from);
        if claimed.as_ref().is_some_and(|claimed| !claimed.is_a_commit()) {
            let message = "a commit is named by 40 or 64 hexadecimal digits";
            return Err(Refusal::new(RefusalKind::Invalid, message));
        }
        let texts = candidate.texts.into_iter();
        let mut sources = Sources::of(texts.map(Source::from).collect());
        if let Some(gate) = self.options.gate.clone() {
            let (seal, trust) = (candidate.seal, self.options.trust.clone());
            let signed = tokio::task::spawn_blocking(move || signed(sources, seal, &gate, &trust)).await;
            let signed = signed.map_err(|error| Refusal::new(RefusalKind::Internal, error.to_string()))?;
            sources = signed.map_err(|error| {
                let refusal = self.not_believed(error.to_string());
                match error.help() {
                    Some(help) => refusal.help(help),
                    None => refusal,
                }
            })?;
        }
        sources.claimed = claimed;
        Ok(Brought {
            sources,
            allow_empty: candidate.allow_empty,
            confirm,
        })
    }

    /// Does what a client decides, and tells him.
    pub(super) fn decide(
        self: &Arc<Self>,
        decision: Decision,
        answer: oneshot::Sender<Result<Applied, Refusal>>,
    ) {
        let result = match &decision {
            Decision::Apply(brought) => self.apply(brought.clone()),
            Decision::Confirm => self.confirm().map_err(NotYet::Refused),
            Decision::Rollback => self.rollback(),
        };
        let result = match result {
            Err(NotYet::Ask(names)) => {
                let against = brought(&self.engine());
                return self.ask_users(names, Waiting::Decision(decision, answer, against));
            }
            Err(NotYet::Refused(refusal)) => Err(refusal),
            Ok(applied) => Ok(applied),
        };
        self.ask_git(true);
        // Whoever asked may have gone; an unconfirmed trial ends by itself.
        let _ = answer.send(result);
    }

    /// Why what was decided against a policy a while ago comes to nothing: another is in force by now, and whoever brought that was told so.
    pub(super) fn overtaken(&self, against: u32) -> Option<Refusal> {
        let engine = self.engine();
        (brought(&engine) != against).then(|| came_meanwhile(revision(&engine)))
    }

    /// Puts a policy in force that a client sent.
    fn apply(&self, brought: Brought) -> Result<Applied, NotYet> {
        let Brought {
            sources,
            allow_empty,
            confirm,
        } = brought;
        let mut engine = self.engine();
        let before = revision(&engine);
        if engine.trial.is_some() {
            return Err(conflict(format!("revision {before} is on trial already"))
                .help(DECIDE)
                .into());
        }
        let invalid = |error: LoadError| Refusal::new(RefusalKind::Invalid, error.to_string());
        let loaded = resolve_read(sources, allow_empty).map_err(invalid)?;
        // Its tests may take a while: they are for when it goes on.
        engine.users.ask_first(&loaded.policy).map_err(NotYet::Ask)?;
        let loaded = loaded.tested().map_err(invalid)?;
        let origin = Origin::of(&loaded, &self.files());
        let admitted = engine.admit(&loaded, origin, confirm);
        let now = admitted.map_err(|error| self.not_admitted(&error))?;
        self.believed();
        match (confirm, &engine.trial) {
            (Some(_), Some(trial)) => {
                let left = trial.left();
                self.look_after(left);
                tracing::warn!(
                    "enforcing revision {now} on trial: revision {before} is back in {} s unless it is confirmed",
                    left.as_nanos().div_ceil(1_000_000_000)
                );
            }
            _ => tracing::info!(target: ALWAYS, "enforcing revision {now}, which `segd apply` brought"),
        }
        Ok(self.outcome(&engine, before))
    }

    /// Keeps what is on trial.
    fn confirm(&self) -> Result<Applied, Refusal> {
        let mut engine = self.engine();
        let now = revision(&engine);
        match engine.confirm().map_err(|error| self.not_admitted(&error))? {
            Some(before) => {
                tracing::info!("revision {now} is confirmed");
                self.files_may_go_on();
                Ok(self.outcome(&engine, before))
            }
            None => {
                drop(engine);
                // A trial that ended just now ends here.
                let now = revision(&self.engine());
                Err(conflict(match lock(&self.state).overdue {
                    tried if tried > now => {
                        format!(
                            "too late: revision {tried} was not confirmed in time, revision {now} is in force again"
                        )
                    }
                    _ => "nothing is on trial".to_owned(),
                }))
            }
        }
    }

    /// Puts back the policy before.
    fn rollback(&self) -> Result<Applied, NotYet> {
        let mut engine = self.engine();
        let ended_trial = engine.trial.is_some();
        let given_up = engine.roll_back(&self.files()).map_err(|error| {
            NotYet::Refused(match error {
                NoWayBack::Ask(names) => return NotYet::Ask(names),
                NoWayBack::Nothing | NoWayBack::Same => conflict(error.to_string()),
                NoWayBack::NotUnderstood(_) => Refusal::new(RefusalKind::Invalid, error.to_string()),
                NoWayBack::Apply(error) => self.not_admitted(&error),
            })
        })?;
        tracing::warn!(
            "revision {given_up} is rolled back: enforcing revision {}",
            revision(&engine)
        );
        if ended_trial {
            self.trial_is_over(&engine);
        } else {
            // It stays until the files change: those that failed before are not tried over it.
            self.believed();
            self.files_may_go_on();
        }
        Ok(self.outcome(&engine, given_up))
    }

    /// The policy before a trial is back. What was applied stays over the files that it was applied over, and no others.
    pub(super) fn trial_is_over(&self, engine: &Engine) {
        if let Some(Origin::Applied { files }) = engine.in_force.as_ref().map(|now| now.origin) {
            let mut state = lock(&self.state);
            state.files = Known::Hash(files);
            state.files_wait = true;
        }
        self.files_may_go_on();
    }

    /// What status says about a trial.
    pub(super) fn trial_now(&self, engine: &Engine) -> Option<Trial> {
        let trial = engine.trial.as_ref()?;
        let left = trial.left();
        Some(Trial {
            revision: revision(engine),
            before: trial.before.active.revision(),
            until: rfc3339(SystemTime::now() + left),
            seconds_left: left.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX),
            files_wait: lock(&self.state).files_wait,
        })
    }

    /// Looks again when a trial is over, not only at the next tick.
    pub(super) fn look_after(&self, time: Duration) {
        let send = self.send.clone();
        tokio::spawn(async move {
            // SLEEP: the deadline is a time. One that comes later by a suspended host's clock is met by the tick.
            tokio::time::sleep(time).await;
            let _ = send.send(Event::Tick).await;
        });
    }

    /// Why a client's policy did not come into force; if it is not believed, that is counted and told.
    fn not_admitted(&self, error: &ApplyError) -> Refusal {
        match error {
            ApplyError::Gate(gate) => {
                let refusal = self.not_believed(chain(error)).help(gate.help());
                Refusal {
                    kind: refused(error).kind,
                    ..refusal
                }
            }
            _ => refused(error),
        }
    }

    fn outcome(&self, engine: &MutexGuard<'_, Engine>, before: u32) -> Applied {
        Applied {
            revision: revision(engine),
            before,
            trial: self.trial_now(engine),
            differs_from_files: engine
                .in_force
                .as_ref()
                .is_some_and(|in_force| in_force.origin != Origin::Files),
        }
    }

    fn files(&self) -> Known {
        lock(&self.state).files.clone()
    }
}

fn revision(engine: &Engine) -> u32 {
    engine
        .in_force
        .as_ref()
        .map_or(0, |in_force| in_force.active.revision())
}

/// The revision that brought the policy in force; 0: none is.
fn brought(engine: &Engine) -> u32 {
    engine.in_force.as_ref().map_or(0, |in_force| in_force.brought)
}

/// What a client sent, and who signed it.
fn signed(
    sources: Sources,
    seal: Option<SealText>,
    gate: &Gate,
    trust: &Trust,
) -> Result<Sources, SourceError> {
    let seal = seal.ok_or_else(SignatureError::nothing_sent)?;
    let sealed = Sealed {
        sources,
        seal: Seal {
            path: seal.path.into(),
            manifest: seal.manifest,
            signature: Some(seal.signature),
        },
        signers: Signers::read(&gate.signers, trust)?,
    };
    let signed = sealed.verify()?;
    Ok(sealed.signed_by(signed))
}

/// Why a request that had to wait comes to nothing.
pub(super) fn came_meanwhile(revision: u32) -> Refusal {
    conflict(format!("revision {revision} came into force meanwhile"))
}

pub(super) fn refused(error: &ApplyError) -> Refusal {
    let kind = match error {
        ApplyError::Gate(error) if error.is_the_hosts() => RefusalKind::Internal,
        ApplyError::Compile(_) | ApplyError::Ambiguous(_) | ApplyError::Gate(_) => RefusalKind::Invalid,
        ApplyError::OnTrial(_) => RefusalKind::Conflict,
        ApplyError::Workload(_) | ApplyError::Datapath(_) => RefusalKind::Internal,
    };
    Refusal::new(kind, chain(error))
}
