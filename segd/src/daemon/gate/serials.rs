//! The serials that were accepted, and the file that keeps them.
//!
//! INVARIANT: what cannot be understood to its last byte, or may be somebody else's word, accepts nothing.

use std::{
    fs,
    io::{self, Read as _},
    os::unix::fs::DirBuilderExt as _,
    path::Path,
};

use super::GateError;
use crate::{
    daemon::state_file::{self, directory_of, is_others},
    source::signature::Signed,
};

/// Three short lines.
const MOST_BYTES: u64 = 512;

/// One signed text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Higher with every policy.
    pub serial: u64,
    /// Its SHA-256.
    pub digest: String,
}

impl Mark {
    /// Of a policy whose signature is good.
    pub fn of(signed: &Signed) -> Mark {
        Mark {
            serial: signed.serial,
            digest: signed.digest.clone(),
        }
    }
}

/// What was accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// The newest. Serial 0: none.
    pub highest: Mark,
    /// An older one that is acceptable all the same: it is in force, or was until a moment ago.
    pub back: Option<Mark>,
}

impl Accepted {
    /// Whether a policy may come into force.
    ///
    /// # Errors
    ///
    /// It is older than what was accepted, or another of the same serial.
    pub fn admits(&self, given: &Mark) -> Result<(), GateError> {
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
    pub fn after(&self, given: Mark) -> Accepted {
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
    pub fn beside(self, in_force: Option<Mark>) -> Accepted {
        let back = self.back.or(in_force).filter(|mark| *mark != self.highest);
        Accepted { back, ..self }
    }

    /// Reads what is kept; `None` if nothing is.
    ///
    /// # Errors
    ///
    /// It is damaged, or somebody else may write it.
    pub fn read(path: &Path) -> Result<Option<Accepted>, GateError> {
        let unknown = |why: String| GateError::Unknown {
            path: path.to_owned(),
            why,
        };
        let said = |error: io::Error| unknown(error.to_string());
        let directory = match fs::metadata(directory_of(path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            directory => directory.map_err(said)?,
        };
        if is_others(&directory) {
            return Err(unknown("others may write its directory".to_owned()));
        }
        let file = match state_file::open(path) {
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

    /// Writes it beside, to the disk, and renames it over.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut make = fs::DirBuilder::new();
        make.recursive(true).mode(0o700).create(directory_of(path))?;
        let line = |name: &str, mark: &Mark| format!("{name} {} {}\n", mark.serial, mark.digest);
        let back = self.back.as_ref().map(|back| line("back", back));
        let text = [
            line("serial", &self.highest),
            back.unwrap_or_default(),
            "end\n".to_owned(),
        ];
        state_file::write(path, text.concat().as_bytes())
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(serial: u64, digest: &str) -> Mark {
        Mark {
            serial,
            digest: digest.to_owned(),
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
    fn what_is_cut_off_or_belongs_to_others_is_not_understood() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("made/when/needed/serial");
        Accepted::default().write(&path).unwrap();
        assert_eq!(Accepted::read(&path).unwrap(), Some(Accepted::default()));
        let accepted = Accepted::default().after(mark(15, "ab")).after(mark(3, "c"));
        accepted.write(&path).unwrap();
        let whole = fs::read(&path).unwrap();
        for len in 0..whole.len() {
            fs::write(&path, whole.get(..len).unwrap()).unwrap();
            assert!(
                matches!(Accepted::read(&path), Err(GateError::Unknown { .. })),
                "cut off at {len}"
            );
        }
        fs::write(&path, &whole).unwrap();
        Accepted::read(&path).unwrap().unwrap();
        let file = path.clone();
        for path in [path.as_path(), path.parent().unwrap()] {
            let mode = fs::metadata(path).unwrap().permissions().mode();
            fs::set_permissions(path, fs::Permissions::from_mode(mode | 0o020)).unwrap();
            let unknown = Accepted::read(&file).unwrap_err();
            assert!(unknown.to_string().contains("others may write"), "{unknown}");
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
    }
}
