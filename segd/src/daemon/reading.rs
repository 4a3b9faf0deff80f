//! Reading the followed policy where it has to be signed: on a thread that may wait, since `ssh-keygen` may take its time.
//!
//! INVARIANT: one reading at a time; whoever asks for one is answered by a reading that began after he asked.
//! INVARIANT: what was verified is what comes into force: the bytes are handed over, never read again.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{
    Event,
    asking::{NotYet, Waiting},
    decide::came_meanwhile,
    engine::Origin,
    gate::Gate,
    shared::{Shared, lock},
};
use crate::{
    control::{protocol::Refusal, types::Reloaded},
    source::{Look, SourceError, Sources, signature::Signed},
};

/// Whoever waits for a reload.
pub(super) type Asker = oneshot::Sender<Result<Reloaded, Refusal>>;

/// The readings.
#[derive(Debug, Default)]
pub(super) struct Readings {
    busy: bool,
    /// Something moved, or somebody asked, while one was under way.
    next: Option<Wanted>,
    verified: Option<Verified>,
}

/// What was verified last: as long as it is in force, the timer need not ask again each time.
#[derive(Clone, Debug)]
struct Verified {
    fingerprint: String,
    signed: Signed,
    at: Instant,
}

/// Then it asks all the same: a key's time may be over, and that has to be told before the next start.
const AGAIN: Duration = Duration::from_secs(60);

/// Why something is read.
#[derive(Debug)]
pub(super) struct Wanted {
    look: Look,
    asked: bool,
    askers: Vec<Asker>,
    /// The revision that had brought the policy in force when it was asked for last.
    against: Option<u32>,
}

/// What was read.
#[derive(Debug)]
pub(super) struct Reading {
    wanted: Wanted,
    read: Result<Sources, SourceError>,
    verified: Option<Verified>,
}

impl Wanted {
    /// Because something moved.
    pub fn by_watch() -> Wanted {
        Wanted {
            look: Look::AtChanges,
            asked: false,
            askers: Vec::new(),
            against: None,
        }
    }

    /// Because something may have moved that nobody saw.
    pub fn by_timer() -> Wanted {
        Wanted {
            look: Look::Whole,
            ..Wanted::by_watch()
        }
    }

    /// Because somebody says so; who waits for the answer is told.
    pub fn by(asker: Option<Asker>) -> Wanted {
        Wanted {
            look: Look::Whole,
            asked: true,
            askers: asker.into_iter().collect(),
            against: None,
        }
    }

    /// Whether somebody said so.
    pub fn is_asked(&self) -> bool {
        self.asked
    }

    fn answer(self, result: &Result<Reloaded, Refusal>) {
        for asker in self.askers {
            // Whoever asked may have gone.
            let _ = asker.send(result.clone());
        }
    }
}

impl Shared {
    /// Reads the policy and puts it in force if it changed; if `asked`, also over one that was applied.
    fn reload(&self, look: Look, asked: bool) -> Result<Reloaded, NotYet> {
        let began = Instant::now();
        let texts = {
            let looked = &mut lock(&self.looked);
            let texts = looked.read(&self.options.policy, &self.options.trust, look);
            let read = looked.bytes_read();
            tracing::trace!(
                "looked at the policy's files in {:?}, read {read} bytes",
                began.elapsed()
            );
            texts
        };
        self.take(texts.map_err(|error| self.unread(error))?, asked)
    }

    /// Reads the policy and puts it in force if it changed: at once, or, where it has to be signed, as soon as it is verified.
    pub(super) fn look_at_policy(self: &Arc<Self>, mut wanted: Wanted) {
        let overtaken = self.overtaken_reload(&mut wanted);
        let Some(gate) = self.options.gate.clone() else {
            let result = match overtaken.map_or_else(|| self.reload(wanted.look, wanted.asked), Err) {
                Err(NotYet::Ask(names)) => return self.ask_users(names, Waiting::Look(wanted)),
                Err(NotYet::Refused(refusal)) => Err(refusal),
                Ok(reloaded) => Ok(reloaded),
            };
            return wanted.answer(&result);
        };
        let in_force = self.engine().in_force.as_ref().and_then(|now| now.signed.clone());
        let readings = &mut lock(&self.state).readings;
        if readings.busy {
            let next = readings.next.get_or_insert_with(Wanted::by_watch);
            if wanted.asked {
                (next.asked, next.against) = (true, wanted.against);
            }
            next.askers.extend(wanted.askers);
            return;
        }
        readings.busy = true;
        // Whoever asks wants it verified, by the signers and the time of now.
        let known = readings.verified.clone().filter(|known| {
            !wanted.asked && in_force.as_ref() == Some(&known.signed) && known.at.elapsed() < AGAIN
        });
        let shared = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let (read, verified) = match shared.verified(&gate, known) {
                Ok((sources, verified)) => (Ok(sources), Some(verified)),
                Err(error) => (Err(error), None),
            };
            let reading = Reading {
                wanted,
                read,
                verified,
            };
            drop(shared.send.blocking_send(Event::PolicyRead(reading)));
        });
    }

    /// Why a reload that had to wait comes to nothing: a client has brought a policy since, and was told that it is in force.
    fn overtaken_reload(&self, wanted: &mut Wanted) -> Option<NotYet> {
        let engine = self.engine();
        let now = engine.in_force.as_ref()?;
        let revision = now.active.revision();
        let was = *wanted.against.get_or_insert(now.brought);
        if now.brought == was || now.origin == Origin::Files {
            return None;
        }
        if !wanted.asked {
            // Where it has to be signed, this may be the first look at all.
            if self.options.gate.is_none() {
                tracing::info!(
                    "the policy files are older than revision {revision}: it stays until they change"
                );
            }
            return None;
        }
        tracing::warn!("a reload is given up: revision {revision} came into force meanwhile");
        Some(came_meanwhile(revision).into())
    }

    fn verified(&self, gate: &Gate, known: Option<Verified>) -> Result<(Sources, Verified), SourceError> {
        let sealed = gate.read(&self.options.policy, &self.options.trust)?;
        let fingerprint = sealed.fingerprint();
        let verified = match known.filter(|known| known.fingerprint == fingerprint) {
            Some(known) => known,
            None => Verified {
                fingerprint,
                signed: sealed.verify()?,
                at: Instant::now(),
            },
        };
        Ok((sealed.signed_by(verified.signed.clone()), verified))
    }

    /// Takes what was read, and reads again if that was wanted meanwhile.
    pub(super) fn take_reading(self: &Arc<Self>, reading: Reading) {
        let Reading {
            mut wanted,
            read,
            verified,
        } = reading;
        let overtaken = self.overtaken_reload(&mut wanted);
        let take = |sources| overtaken.map_or_else(|| self.take(sources, wanted.asked), Err);
        let result = match read {
            Ok(sources) => match take(sources.clone()) {
                // One reading at a time: it goes on with what was verified.
                Err(NotYet::Ask(names)) => {
                    let reading = Reading {
                        wanted,
                        read: Ok(sources),
                        verified,
                    };
                    return self.ask_users(names, Waiting::Reading(reading));
                }
                Err(NotYet::Refused(refusal)) => Err(refusal),
                Ok(reloaded) => Ok(reloaded),
            },
            Err(error) => Err(self.unread(error)),
        };
        let changed = result.as_ref().is_ok_and(|reloaded| reloaded.changed);
        wanted.answer(&result);
        let next = {
            let readings = &mut lock(&self.state).readings;
            readings.busy = false;
            readings.verified = verified;
            readings.next.take()
        };
        if let Some(next) = next {
            self.look_at_policy(next);
        }
        self.ask_git(changed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_event_is_believed_to_tell_what_changed() {
        assert_eq!(Wanted::by_watch().look, Look::AtChanges);
        assert_eq!(Wanted::by_timer().look, Look::Whole);
        assert_eq!(Wanted::by(None).look, Look::Whole);
        assert!(!Wanted::by_watch().is_asked() && !Wanted::by_timer().is_asked());
        assert!(Wanted::by(None).is_asked());
    }
}
