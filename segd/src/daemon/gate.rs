//! Which signed policies may come into force: none older than one that was accepted.
//!
//! INVARIANT: whatever a crash leaves in force is acceptable again: before a policy comes into force for good the disk
//! names it *and* the one in force, afterwards it alone. What was accepted before it is older from then on.
//! INVARIANT: what is on trial is not accepted yet. It is when it is confirmed, so the one before can come back.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

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
/// Three short lines.
const MOST_BYTES: u64 = 512;

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

/// One signed text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Mark {
    serial: u64,
    /// Its SHA-256.
    digest: String,
}

impl Mark {
    fn of(signed: &Signed) -> Mark {
        Mark {
            serial: signed.serial,
            digest: signed.digest.clone(),
        }
    }
}

/// What was accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Accepted {
    /// The newest. Serial 0: none.
    highest: Mark,
    /// An older one that is acceptable all the same: it is in force, or was until a moment ago.
    back: Option<Mark>,
}

impl Accepted {
    /// Whether a policy may come into force.
    fn admits(&self, given: &Mark) -> Result<(), GateError> {
        let Mark { serial, .. } = *given;
        let highest = self.highest.serial;
        if serial > highest || *given == self.highest || self.back.as_ref() == Some(given) {
            Ok(())
        } else if serial == highest {
            Err(GateError::Twice(serial))
        } else {
            Err(GateError::Older { serial, highest })
        }
    }

    /// Once a policy is in force.
    fn after(&self, given: Mark) -> Accepted {
        if given.serial > self.highest.serial {
            return Accepted {
                highest: given,
                back: None,
            };
        }
        Accepted {
            highest: self.highest.clone(),
            back: (given != self.highest).then_some(given),
        }
    }

    /// While it takes the place of another.
    fn beside(self, in_force: Option<Mark>) -> Accepted {
        let back = self.back.or(in_force).filter(|mark| *mark != self.highest);
        Accepted { back, ..self }
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

    fn file(&self) -> PathBuf {
        self.state_dir.join(NAME)
    }

    /// What was accepted; `None` if nothing is kept.
    fn accepted(&self) -> Result<Option<Accepted>, GateError> {
        let path = self.file();
        let unknown = |why: String| GateError::Unknown {
            path: path.clone(),
            why,
        };
        let said = |error: io::Error| unknown(error.to_string());
        let directory = match fs::metadata(&self.state_dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            directory => directory.map_err(said)?,
        };
        if is_others(&directory) {
            return Err(unknown("others may write its directory".to_owned()));
        }
        let open = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&path);
        let file = match open {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(said)?,
        };
        if is_others(&file.metadata().map_err(said)?) {
            return Err(unknown("others may write it".to_owned()));
        }
        let mut text = String::new();
        file.take(MOST_BYTES).read_to_string(&mut text).map_err(said)?;
        let understood = understood(&text).ok_or_else(|| unknown("it is damaged".to_owned()))?;
        Ok(Some(understood))
    }

    fn note(&self, accepted: &Accepted) -> Result<(), GateError> {
        write(&self.file(), accepted).map_err(|source| GateError::Write {
            path: self.file(),
            source,
        })
    }
}

/// Whether somebody else than root and this process' user may write it.
pub(super) fn is_others(metadata: &fs::Metadata) -> bool {
    // SAFETY: no arguments, cannot fail.
    let own = unsafe { libc::geteuid() };
    metadata.mode() & 0o022 != 0 || ![0, own].contains(&metadata.uid())
}

/// Begins to count anew: the next signed policy is accepted whatever its serial.
///
/// # Errors
///
/// The directory cannot be made, or not be written.
pub fn reset(state_dir: &Path) -> io::Result<PathBuf> {
    let path = state_dir.join(NAME);
    write(&path, &Accepted::default())?;
    Ok(path)
}

/// `serial N HEX`, perhaps `back N HEX`, `end`, a line each: what was cut off is noticed.
fn understood(text: &str) -> Option<Accepted> {
    let mark = |line: &str, name: &str| {
        let (serial, digest) = line.strip_prefix(name)?.split_once(' ')?;
        Some(Mark {
            serial: serial.parse().ok()?,
            digest: digest.to_owned(),
        })
    };
    let lines: Vec<&str> = text.strip_suffix("\nend\n")?.split('\n').collect();
    let (highest, back) = match lines.as_slice() {
        [highest] => (highest, None),
        [highest, back] => (highest, Some(mark(back, "back ")?)),
        _ => return None,
    };
    Some(Accepted {
        highest: mark(highest, "serial ")?,
        back,
    })
}

/// Writes it beside, to the disk, and renames it over.
fn write(path: &Path, accepted: &Accepted) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let mut make = fs::DirBuilder::new();
    make.recursive(true).mode(0o700).create(directory)?;
    let beside = path.with_extension("new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)?;
    let line = |name: &str, mark: &Mark| format!("{name} {} {}\n", mark.serial, mark.digest);
    let back = accepted.back.as_ref().map(|back| line("back", back));
    let text = [
        line("serial", &accepted.highest),
        back.unwrap_or_default(),
        "end\n".to_owned(),
    ];
    file.write_all(text.concat().as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(directory)?.sync_all()
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
        deadline_ns: Option<u64>,
    ) -> Result<u32, ApplyError> {
        let Some(gate) = self.options.gate.clone() else {
            return self.apply(loaded, origin, deadline_ns);
        };
        let signed = loaded.signed.as_ref().ok_or(GateError::Unsigned)?;
        let last = self.accepted(&gate)?;
        last.admits(&Mark::of(signed))?;
        if deadline_ns.is_some() {
            return self.apply(loaded, origin, deadline_ns);
        }
        let before = self.in_force.as_ref().and_then(|now| now.signed.clone());
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
        let before = self.in_force.as_ref().and_then(|now| now.signed.clone());
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
        if let Some(accepted) = gate.accepted()? {
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

    fn mark(serial: u64, digest: &str) -> Mark {
        Mark {
            serial,
            digest: digest.to_owned(),
        }
    }

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
    fn an_older_serial_and_one_that_was_given_twice_are_refused() {
        let first = Accepted::default();
        assert!(first.admits(&mark(5, "a")).is_ok(), "the first is taken on trust");
        let five = first.after(mark(5, "a"));
        assert!(five.admits(&mark(5, "a")).is_ok() && five.admits(&mark(6, "b")).is_ok());
        assert!(matches!(five.admits(&mark(5, "b")), Err(GateError::Twice(5))));
        let older = five.admits(&mark(4, "a"));
        assert!(matches!(
            older,
            Err(GateError::Older {
                serial: 4,
                highest: 5
            })
        ));
    }

    #[test]
    fn what_was_rolled_back_to_may_come_again_and_nothing_between() {
        let back = Accepted::default().after(mark(5, "e")).after(mark(3, "c"));
        assert_eq!(back.highest, mark(5, "e"), "the mark stays");
        assert!(back.admits(&mark(3, "c")).is_ok() && back.admits(&mark(5, "e")).is_ok());
        for (serial, digest) in [(4, "d"), (3, "x"), (5, "x"), (2, "c")] {
            assert!(back.admits(&mark(serial, digest)).is_err(), "{serial} {digest}");
        }
        for newer in [mark(5, "e"), mark(6, "f")] {
            let after = back.after(newer);
            assert!(after.admits(&mark(3, "c")).is_err(), "that is over: {after:?}");
        }
    }

    #[test]
    fn a_crash_while_a_policy_takes_the_place_of_another_leaves_both_acceptable() {
        let directory = tempfile::tempdir().unwrap();
        let gate = gate(&directory);
        assert_eq!(gate.accepted().unwrap(), None);
        let (old, new) = (signed(3, "c"), signed(5, "e"));
        let begin = |last: Accepted, given, before| Change::begin(gate.clone(), last, given, before).unwrap();
        begin(Accepted::default(), &old, None)
            .end(Ok::<(), ()>(()))
            .unwrap();
        let three = gate.accepted().unwrap().unwrap();
        assert_eq!(three, Accepted::default().after(mark(3, "c")));

        let change = begin(three.clone(), &new, Some(&old));
        let between = gate.accepted().unwrap().unwrap();
        assert!(between.admits(&mark(3, "c")).is_ok() && between.admits(&mark(5, "e")).is_ok());
        change.end(Err::<(), ()>(())).unwrap_err();
        assert_eq!(
            gate.accepted().unwrap().unwrap(),
            three,
            "it did not come into force"
        );

        begin(three, &new, Some(&old)).end(Ok::<(), ()>(())).unwrap();
        let five = gate.accepted().unwrap().unwrap();
        assert!(five.admits(&mark(3, "c")).is_err(), "{five:?}");
        let change = begin(five.clone(), &old, Some(&new));
        let between = gate.accepted().unwrap().unwrap();
        assert!(between.admits(&mark(3, "c")).is_ok() && between.admits(&mark(5, "e")).is_ok());
        change.end(Ok::<(), ()>(())).unwrap();
    }

    #[test]
    fn what_is_cut_off_or_belongs_to_others_is_not_understood() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let gate = gate(&directory);
        reset(&gate.state_dir).unwrap();
        assert_eq!(gate.accepted().unwrap(), Some(Accepted::default()));
        gate.note(&Accepted::default().after(mark(15, "ab")).after(mark(3, "c")))
            .unwrap();
        let whole = fs::read(gate.file()).unwrap();
        for len in 0..whole.len() {
            fs::write(gate.file(), whole.get(..len).unwrap()).unwrap();
            assert!(
                matches!(gate.accepted(), Err(GateError::Unknown { .. })),
                "cut off at {len}"
            );
        }
        fs::write(gate.file(), &whole).unwrap();
        gate.accepted().unwrap().unwrap();
        for path in [gate.file(), gate.state_dir.clone()] {
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode | 0o020)).unwrap();
            let unknown = gate.accepted().unwrap_err();
            assert!(unknown.to_string().contains("others may write"), "{unknown}");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
    }
}
