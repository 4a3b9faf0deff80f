//! `segd apply`, `confirm` and `rollback`, as the loop handles them.

use std::{
    path::Path,
    sync::MutexGuard,
    time::{Duration, SystemTime},
};

use super::{
    Event,
    engine::{Engine, Origin},
    error::ApplyError,
    shared::{DECIDE, Shared, conflict, lock},
    trial::{NoWayBack, now_ns},
};
use crate::{
    control::{
        protocol::{Refusal, RefusalKind},
        types::{Applied, Candidate, SealText, Text, Trial},
    },
    policy::model::Source,
    report::chain,
    source::{
        ContentHash, Loaded, SourceError, Sources, Trust,
        git::Provenance,
        resolve_read,
        signature::{Seal, SignatureError, Signed, Signers, verify},
    },
    telemetry::clock::rfc3339,
};

/// The longest trial: a forgotten one must end.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

impl Shared {
    /// Puts a policy in force that a client sent.
    pub fn apply(&self, candidate: Candidate) -> Result<Applied, Refusal> {
        let confirm = candidate.confirm_seconds.map(Duration::from_secs);
        if confirm.is_some_and(|confirm| confirm.is_zero() || confirm > LONGEST) {
            let message = "a trial lasts from one second to 24 hours";
            return Err(Refusal::new(RefusalKind::Invalid, message));
        }
        let mut engine = self.engine();
        let before = revision(&engine);
        if engine.trial.is_some() {
            return Err(conflict(format!("revision {before} is on trial already")).help(DECIDE));
        }
        let texts = candidate.texts.into_iter();
        let mut sources = Sources::of(texts.map(|Text { name, text }| Source { name, text }).collect());
        sources.claimed = candidate.commit.map(Provenance::from);
        if let Some(gate) = &self.options.gate {
            let signed = signed(&sources, candidate.seal, &gate.signers, &self.options.trust);
            sources.signed = Some(signed.map_err(|error| {
                let refusal = self.failed(error.to_string(), &format!("error: {error}\n"));
                match error.help() {
                    Some(help) => refusal.help(help),
                    None => refusal,
                }
            })?);
        }
        let loaded = resolve_read(sources, candidate.allow_empty)
            .and_then(Loaded::tested)
            .map_err(|error| Refusal::new(RefusalKind::Invalid, error.to_string()))?;
        let origin = Origin::of(&loaded, self.files());
        let deadline = confirm
            .map(|confirm| now_ns().saturating_add(u64::try_from(confirm.as_nanos()).unwrap_or(u64::MAX)));
        let now = engine.admit(&loaded, origin, deadline).map_err(|error| {
            if let ApplyError::Gate(error) = &error {
                let text = error.to_string();
                return self
                    .failed(text.clone(), &format!("error: {text}\n"))
                    .help(error.help());
            }
            refused(&error)
        })?;
        match (confirm, &engine.trial) {
            (Some(confirm), Some(_)) => {
                self.look_after(confirm);
                tracing::warn!(
                    "enforcing revision {now} on trial: revision {before} is back in {} s unless it is confirmed",
                    confirm.as_secs()
                );
            }
            _ => tracing::info!("enforcing revision {now}, which `segd apply` brought"),
        }
        Ok(self.outcome(&engine, before))
    }

    /// Keeps what is on trial.
    pub fn confirm(&self) -> Result<Applied, Refusal> {
        let mut engine = self.engine();
        let now = revision(&engine);
        match engine.confirm().map_err(|error| refused(&error))? {
            Some(before) => {
                tracing::info!("revision {now} is confirmed");
                self.files_may_go_on();
                Ok(self.outcome(&engine, before))
            }
            None => Err(conflict(match lock(&self.state).overdue {
                tried if tried > now => {
                    format!(
                        "too late: revision {tried} was not confirmed in time, revision {now} is in force again"
                    )
                }
                _ => "nothing is on trial".to_owned(),
            })),
        }
    }

    /// Puts back the policy before.
    pub fn rollback(&self) -> Result<Applied, Refusal> {
        let mut engine = self.engine();
        let given_up = engine.roll_back(self.files()).map_err(|error| match &error {
            NoWayBack::Nothing => conflict(error.to_string()),
            NoWayBack::NotUnderstood(_) => Refusal::new(RefusalKind::Invalid, error.to_string()),
            NoWayBack::Apply(error) => refused(error),
        })?;
        tracing::warn!(
            "revision {given_up} is rolled back: enforcing revision {}",
            revision(&engine)
        );
        self.files_may_go_on();
        Ok(self.outcome(&engine, given_up))
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

    fn files(&self) -> ContentHash {
        lock(&self.state).files
    }
}

fn revision(engine: &Engine) -> u32 {
    engine
        .in_force
        .as_ref()
        .map_or(0, |in_force| in_force.active.revision())
}

/// Who signed what a client sent.
fn signed(
    sources: &Sources,
    seal: Option<SealText>,
    signers: &Path,
    trust: &Trust,
) -> Result<Signed, SourceError> {
    let seal = seal.ok_or_else(SignatureError::nothing_sent)?;
    let seal = Seal {
        path: seal.path.into(),
        manifest: seal.manifest,
        signature: Some(seal.signature),
    };
    Ok(verify(&sources.sources, &seal, &Signers::read(signers, trust)?)?)
}

pub(super) fn refused(error: &ApplyError) -> Refusal {
    let kind = match error {
        ApplyError::Compile(_) | ApplyError::Ambiguous(_) | ApplyError::Gate(_) => RefusalKind::Invalid,
        ApplyError::OnTrial(_) => RefusalKind::Conflict,
        ApplyError::Workload(_) | ApplyError::Datapath(_) => RefusalKind::Internal,
    };
    Refusal::new(kind, chain(error))
}
