//! Which signed policies may come into force: none older than one that was accepted.
//!
//! INVARIANT: whatever a crash leaves in force is acceptable again: before a policy comes into force for good the disk
//! names it *and* the one in force, afterwards it alone. What was accepted before it is older from then on.
//! INVARIANT: what is on trial is not accepted yet. It is when it is confirmed, so the one before can come back.

mod serials;

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use self::serials::{Accepted, Mark};
use super::{
    engine::{Engine, Origin},
    error::ApplyError,
};
use crate::{
    report::chain,
    source::{
        Loaded, SourceError, Sources, Trust, read, read_sealed,
        signature::{Sealed, Signed},
    },
};

/// The file in `--state-dir`.
const NAME: &str = "serial";

/// Why a signed policy does not come into force.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// It is older than what was accepted.
    #[error("the policy's serial {serial} is older than {highest}, which was accepted before")]
    Older {
        /// The policy's.
        serial: u64,
        /// The highest.
        highest: u64,
    },
    /// The serial was given twice.
    #[error("serial {0} was accepted before, for another policy: every change takes a higher one")]
    Twice(u64),
    /// It is not signed, and has to be.
    #[error("the policy is not signed")]
    Unsigned,
    /// What was accepted is not known.
    #[error("which serial was accepted last is not known: `{}`: {why}", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// It cannot be noted.
    #[error("cannot note the serial in `{}`: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl GateError {
    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            GateError::Unknown { .. } => "if you know why: `segd policy trust-reset` begins to count anew",
            GateError::Write { .. } => "--state-dir takes another directory",
            _ => "sign it with a higher serial: `segd policy sign PATH --key FILE`",
        }
    }

    /// The host is to blame, not the policy.
    pub fn is_the_hosts(&self) -> bool {
        matches!(self, GateError::Write { .. } | GateError::Unknown { .. })
    }
}

/// `--require-signature` and `--state-dir`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    /// The allowed signers.
    pub signers: PathBuf,
    /// Where it is kept what was accepted.
    pub state_dir: PathBuf,
}

impl Gate {
    /// Reads the followed policy with its signature, unverified.
    pub(super) fn read(&self, paths: &[PathBuf], trust: &Trust) -> Result<Sealed, SourceError> {
        // `segd run` takes one path only with a signature.
        let path = paths.first().map_or(Path::new("."), PathBuf::as_path);
        read_sealed(path, trust, &self.signers)
    }

    /// Whether the policy of the files may come into force where nothing is enforced yet.
    ///
    /// # Errors
    ///
    /// It may not, or nobody knows.
    pub(super) fn judge(&self, loaded: &Loaded) -> Result<(), GateError> {
        let signed = loaded.signed.as_ref().ok_or(GateError::Unsigned)?;
        let accepted = Accepted::read(&self.file())?.unwrap_or_default();
        accepted.admits(&Mark::of(signed))
    }

    fn file(&self) -> PathBuf {
        self.state_dir.join(NAME)
    }

    fn note(&self, accepted: &Accepted) -> Result<(), GateError> {
        accepted.write(&self.file()).map_err(|source| GateError::Write {
            path: self.file(),
            source,
        })
    }
}

/// Begins to count anew: the next signed policy is accepted whatever its serial.
///
/// # Errors
///
/// The directory cannot be made, or not be written.
pub fn reset(state_dir: &Path) -> io::Result<PathBuf> {
    let path = state_dir.join(NAME);
    Accepted::default().write(&path)?;
    Ok(path)
}

/// Reads the followed policy, and believes it only if it is signed where that is required.
///
/// # Errors
///
/// It cannot be read, or is not to be believed.
pub fn read_followed(paths: &[PathBuf], trust: &Trust, gate: Option<&Gate>) -> Result<Sources, SourceError> {
    let Some(gate) = gate else {
        return read(paths, trust);
    };
    let sealed = gate.read(paths, trust)?;
    let signed = sealed.verify()?;
    Ok(sealed.signed_by(signed))
}

/// A policy is about to be accepted.
pub(super) struct Change {
    gate: Gate,
    last: Accepted,
    after: Accepted,
    noted: bool,
}

impl Change {
    /// `before`: what it takes the place of, which is in force until then.
    fn begin(
        gate: Gate,
        last: Accepted,
        given: &Signed,
        before: Option<&Signed>,
    ) -> Result<Change, GateError> {
        let after = last.after(Mark::of(given));
        // Most often it is in force already, and there is nothing to note.
        let noted = after != last;
        if noted {
            gate.note(&after.clone().beside(before.map(Mark::of)))?;
        }
        Ok(Change {
            gate,
            last,
            after,
            noted,
        })
    }

    /// It is in force, or it is not.
    pub(super) fn end<T, E>(self, done: Result<T, E>) -> Result<T, E> {
        let accepted = if done.is_ok() { &self.after } else { &self.last };
        if self.noted
            && let Err(error) = self.gate.note(accepted)
        {
            // What is on the disk accepts both.
            tracing::warn!("{}", chain(&error));
        }
        done
    }
}

impl Engine {
    /// Puts a policy in force that comes from outside, if it may.
    ///
    /// # Errors
    ///
    /// Nothing has changed then.
    pub fn admit(
        &mut self,
        loaded: &Loaded,
        origin: Origin,
        trial: Option<Duration>,
    ) -> Result<u32, ApplyError> {
        let Some(gate) = self.options.gate.clone() else {
            return self.apply(loaded, origin, trial);
        };
        let signed = loaded.signed.as_ref().ok_or(GateError::Unsigned)?;
        let last = self.accepted(&gate)?;
        last.admits(&Mark::of(signed))?;
        if trial.is_some() {
            return self.apply(loaded, origin, trial);
        }
        let before = self.replaced();
        let change = Change::begin(gate, last, signed, before.as_ref())?;
        change.end(self.apply(loaded, origin, None))
    }

    /// Puts a policy in force again that was in force before: it was accepted then.
    ///
    /// # Errors
    ///
    /// Nothing has changed then.
    pub(super) fn readmit(&mut self, loaded: &Loaded, origin: Origin) -> Result<u32, ApplyError> {
        let Some(gate) = self.options.gate.clone() else {
            return self.apply(loaded, origin, None);
        };
        let signed = loaded.signed.as_ref().ok_or(GateError::Unsigned)?;
        let last = self.accepted(&gate)?;
        let before = self.replaced();
        let change = Change::begin(gate, last, signed, before.as_ref())?;
        change.end(self.apply(loaded, origin, None))
    }

    /// The policy on trial is about to be kept.
    ///
    /// # Errors
    ///
    /// It may not be: something newer was accepted since, or it cannot be noted.
    pub(super) fn accept_tried(&self) -> Result<Option<Change>, GateError> {
        let Some(gate) = self.options.gate.clone() else {
            return Ok(None);
        };
        let tried = self.in_force.as_ref().and_then(|now| now.signed.as_ref());
        let tried = tried.ok_or(GateError::Unsigned)?;
        let before = self.trial.as_ref().and_then(|trial| trial.before.signed.as_ref());
        let last = self.accepted(&gate)?;
        last.admits(&Mark::of(tried))?;
        Change::begin(gate, last, tried, before).map(Some)
    }

    /// What was accepted. Where nothing is kept, what the kernel enforces was; where it enforces nothing, the first one is
    /// taken on trust.
    fn accepted(&self, gate: &Gate) -> Result<Accepted, GateError> {
        if let Some(accepted) = Accepted::read(&gate.file())? {
            return Ok(accepted);
        }
        let file = gate.file();
        let Some(signed) = self.enforced() else {
            tracing::warn!(
                "no serial is kept in {}: this policy's is taken on trust",
                file.display()
            );
            return Ok(Accepted::default());
        };
        let serial = signed.serial;
        tracing::warn!(
            "no serial is kept in {}: {serial} was, by what is in force",
            file.display()
        );
        Ok(Accepted {
            highest: Mark::of(&signed),
            back: None,
        })
    }

    /// Who signed what the next policy takes the place of: at a start only the kernel knows what that is.
    fn replaced(&self) -> Option<Signed> {
        match &self.in_force {
            Some(now) => now.signed.clone(),
            None => self.enforced(),
        }
    }

    /// Who signed what the kernel enforces for good.
    fn enforced(&self) -> Option<Signed> {
        let mut active = self.tables.active().ok()?;
        if active.is_on_trial() {
            active = self.tables.trial().ok()?.before;
        }
        let (kept, sources) = self.text_of(active.slot())?;
        sources.signed.filter(|_| kept.revision == active.revision())
    }

    /// Whether what was kept from before may be put in force without being asked for again.
    pub(super) fn believes(&self, signed: Option<&Signed>) -> bool {
        self.options.gate.is_none() || signed.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(serial: u64, digest: &str) -> Signed {
        Signed {
            serial,
            digest: digest.to_owned(),
            signer: "alice".to_owned(),
        }
    }

    fn gate(directory: &tempfile::TempDir) -> Gate {
        Gate {
            signers: PathBuf::new(),
            state_dir: directory.path().join("made/when/needed"),
        }
    }

    #[test]
    fn a_crash_while_a_policy_takes_the_place_of_another_leaves_both_acceptable() {
        let directory = tempfile::tempdir().unwrap();
        let gate = gate(&directory);
        assert_eq!(Accepted::read(&gate.file()).unwrap(), None);
        let (old, new) = (signed(3, "c"), signed(5, "e"));
        let begin = |last: Accepted, given, before| Change::begin(gate.clone(), last, given, before).unwrap();
        begin(Accepted::default(), &old, None)
            .end(Ok::<(), ()>(()))
            .unwrap();
        let three = Accepted::read(&gate.file()).unwrap().unwrap();
        assert_eq!(three, Accepted::default().after(Mark::of(&signed(3, "c"))));

        let change = begin(three.clone(), &new, Some(&old));
        let between = Accepted::read(&gate.file()).unwrap().unwrap();
        assert!(
            between.admits(&Mark::of(&signed(3, "c"))).is_ok()
                && between.admits(&Mark::of(&signed(5, "e"))).is_ok()
        );
        change.end(Err::<(), ()>(())).unwrap_err();
        assert_eq!(
            Accepted::read(&gate.file()).unwrap().unwrap(),
            three,
            "it did not come into force"
        );

        begin(three, &new, Some(&old)).end(Ok::<(), ()>(())).unwrap();
        let five = Accepted::read(&gate.file()).unwrap().unwrap();
        assert!(five.admits(&Mark::of(&signed(3, "c"))).is_err(), "{five:?}");
        let change = begin(five.clone(), &old, Some(&new));
        let between = Accepted::read(&gate.file()).unwrap().unwrap();
        assert!(
            between.admits(&Mark::of(&signed(3, "c"))).is_ok()
                && between.admits(&Mark::of(&signed(5, "e"))).is_ok()
        );
        change.end(Ok::<(), ()>(())).unwrap();
    }
}
