//! Which signed policies may come into force: none older than one that was accepted.
//!
//! INVARIANT: the serial of a policy is on the disk before the policy is in force for good. What an earlier daemon put in
//! force, and what comes back from before, was accepted then.

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
use crate::source::{Loaded, SourceError, Sources, Trust, read, read_signed, signature::Signed};

/// The file in `--state-dir`.
const NAME: &str = "serial";
/// A number and a digest.
const MOST_BYTES: u64 = 256;

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
            GateError::Unknown { .. } => {
                "`segd policy trust-reset` begins to count anew: the first time, or if you know why the file is gone"
            }
            GateError::Write { .. } => "--state-dir takes another directory",
            _ => "sign it with a higher serial: `segd policy sign PATH --key FILE`",
        }
    }
}

/// What was accepted last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Accepted {
    serial: u64,
    digest: String,
}

/// `--require-signature` and `--state-dir`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    /// The allowed signers.
    pub signers: PathBuf,
    /// Where the highest serial is kept.
    pub state_dir: PathBuf,
}

impl Gate {
    fn file(&self) -> PathBuf {
        self.state_dir.join(NAME)
    }

    fn accepted(&self) -> Result<Accepted, GateError> {
        let path = self.file();
        let unknown = |why: String| GateError::Unknown {
            path: path.clone(),
            why,
        };
        let mut text = String::new();
        let open = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path);
        let file = open.map_err(|error| unknown(error.to_string()))?;
        let metadata = file.metadata().map_err(|error| unknown(error.to_string()))?;
        // SAFETY: no arguments, cannot fail.
        let own = unsafe { libc::geteuid() };
        if metadata.mode() & 0o022 != 0 || ![0, own].contains(&metadata.uid()) {
            return Err(unknown("others may write it".to_owned()));
        }
        file.take(MOST_BYTES)
            .read_to_string(&mut text)
            .map_err(|error| unknown(error.to_string()))?;
        understood(&text).ok_or_else(|| unknown("it is damaged".to_owned()))
    }

    /// Whether a policy may come into force.
    fn check(&self, signed: Option<&Signed>) -> Result<Accepted, GateError> {
        let signed = signed.ok_or(GateError::Unsigned)?;
        let last = self.accepted()?;
        let serial = signed.serial;
        if serial < last.serial {
            let highest = last.serial;
            return Err(GateError::Older { serial, highest });
        }
        if serial == last.serial && signed.digest != last.digest {
            return Err(GateError::Twice(serial));
        }
        Ok(last)
    }

    fn note(&self, accepted: &Accepted) -> Result<(), GateError> {
        write(&self.file(), accepted).map_err(|source| GateError::Write {
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
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state_dir)?;
    let path = state_dir.join(NAME);
    write(&path, &Accepted::default())?;
    Ok(path)
}

/// `serial N digest HEX end`: what was cut off is noticed.
fn understood(text: &str) -> Option<Accepted> {
    let words: Vec<&str> = text.strip_suffix('\n')?.split(' ').collect();
    let ["serial", serial, "digest", digest, "end"] = words.as_slice() else {
        return None;
    };
    Some(Accepted {
        serial: serial.parse().ok()?,
        digest: (*digest).to_owned(),
    })
}

/// Writes it beside, to the disk, and renames it over.
fn write(path: &Path, accepted: &Accepted) -> io::Result<()> {
    let beside = path.with_extension("new");
    let Accepted { serial, digest } = accepted;
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(format!("serial {serial} digest {digest} end\n").as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

/// Reads the followed policy, and believes it only if it is signed where that is required.
///
/// # Errors
///
/// It cannot be read, or is not to be believed.
pub fn read_followed(paths: &[PathBuf], trust: &Trust, gate: Option<&Gate>) -> Result<Sources, SourceError> {
    match (gate, paths) {
        (None, _) => read(paths, trust),
        // `segd run` takes one path only with a signature.
        (Some(gate), paths) => match paths.first() {
            Some(path) => read_signed(path, trust, &gate.signers),
            None => read(paths, trust),
        },
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
        let last = gate.check(loaded.signed.as_ref())?;
        if deadline_ns.is_some() {
            // It is accepted when it is confirmed: until then the one before must be able to come back.
            return self.apply(loaded, origin, deadline_ns);
        }
        gate.note(&of(loaded.signed.as_ref()))?;
        let applied = self.apply(loaded, origin, None);
        if applied.is_err() {
            gate.note(&last)?;
        }
        applied
    }

    /// Notes the serial of the policy on trial, which is about to be kept.
    pub(super) fn accept_tried(&self, signed: Option<&Signed>) -> Result<(), ApplyError> {
        if let Some(gate) = &self.options.gate {
            gate.check(signed)?;
            gate.note(&of(signed))?;
        }
        Ok(())
    }

    /// Whether what was kept from before may be put in force without being asked for again.
    pub(super) fn believes(&self, signed: Option<&Signed>) -> bool {
        self.options.gate.is_none() || signed.is_some()
    }
}

fn of(signed: Option<&Signed>) -> Accepted {
    signed.map_or_else(Accepted::default, |signed| Accepted {
        serial: signed.serial,
        digest: signed.digest.clone(),
    })
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

    #[test]
    fn an_older_serial_and_one_that_was_given_twice_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let gate = Gate {
            signers: PathBuf::new(),
            state_dir: directory.path().join("state"),
        };
        let check = |serial, digest| gate.check(Some(&signed(serial, digest))).map(|last| last.serial);
        assert!(
            matches!(check(5, "a"), Err(GateError::Unknown { .. })),
            "no count was begun"
        );
        reset(&gate.state_dir).unwrap();
        assert_eq!(check(5, "a").unwrap(), 0);
        gate.note(&of(Some(&signed(5, "a")))).unwrap();
        assert_eq!((check(5, "a").unwrap(), check(6, "b").unwrap()), (5, 5));
        assert!(matches!(check(5, "b"), Err(GateError::Twice(5))));
        assert!(matches!(
            check(4, "a"),
            Err(GateError::Older {
                serial: 4,
                highest: 5
            })
        ));
        assert!(matches!(gate.check(None), Err(GateError::Unsigned)));
        let whole = fs::read(gate.file()).unwrap();
        for len in 0..whole.len() {
            fs::write(gate.file(), whole.get(..len).unwrap()).unwrap();
            assert!(
                matches!(check(9, "c"), Err(GateError::Unknown { .. })),
                "cut off at {len}"
            );
        }
    }
}
