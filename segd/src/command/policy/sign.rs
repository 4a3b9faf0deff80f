//! `segd policy sign`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{CANNOT, Reply, YES};
use crate::{
    policy::model::Source,
    source::{
        Trust, read,
        signature::{self, MANIFEST, beside, manifest, serial, with_serial},
    },
};

/// Sign a policy.
#[derive(Debug, clap::Args)]
pub struct Sign {
    /// The policy: a file, whose first line gets the serial, or a directory, which gets a `segd.manifest`
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// The private key, or the public one of a key that an agent holds
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The serial [default: one more than what is there]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    serial: Option<u64>,
}

impl Sign {
    /// Signs it.
    pub(super) fn reply(&self) -> Reply {
        let sources = match read(std::slice::from_ref(&self.path), &Trust::Everybody) {
            Ok(sources) => sources.sources,
            Err(error) => return Reply::refusal(&error.to_string()),
        };
        // What stands for bytes that are no text is not to be signed, nor written over them.
        let odd = |source: &&Source| source.text.contains(char::REPLACEMENT_CHARACTER);
        if let Some(odd) = sources.iter().find(odd) {
            return Reply::refusal(&format!(
                "`{}` is not UTF-8: `segd policy check` says where",
                odd.name
            ));
        }
        let (file, text, serial) = match self.statement(&sources) {
            Ok(statement) => statement,
            Err(why) => return Reply::refusal(&why),
        };
        let signature = match signature::sign(&text, &self.key) {
            Ok(signature) => signature,
            Err(why) => {
                return Reply {
                    code: CANNOT,
                    ..Reply::refusal(&why)
                };
            }
        };
        // The signature first: a daemon that follows the text finds it there when the text changes.
        let written = write(&beside(&file), &signature).and_then(|()| write(&file, &text));
        match written {
            Ok(()) => Reply {
                answer: format!("signed: {} with serial {serial}\n", file.display()),
                code: YES,
                ..Reply::default()
            },
            Err(error) => Reply {
                code: CANNOT,
                ..Reply::refusal(&format!("cannot write `{}`: {error}", file.display()))
            },
        }
    }

    /// What is signed: where it lies, what it says, and its serial.
    fn statement(&self, sources: &[Source]) -> Result<(PathBuf, String, u64), String> {
        let directory = self.path.is_dir();
        let file = if directory {
            self.path.join(MANIFEST)
        } else {
            self.path.clone()
        };
        let before = match (directory, sources) {
            (false, [one]) => one.text.to_string(),
            (false, _) => return Err(format!("`{}` is not one file", self.path.display())),
            (true, _) => match fs::read_to_string(&file) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
                Err(error) => return Err(format!("cannot read `{}`: {error}", file.display())),
            },
        };
        let next = serial(&before).map_or(Some(1), |last| last.checked_add(1));
        let next = self.serial.or(next).ok_or("there is no higher serial")?;
        let text = if directory {
            manifest(&self.path, sources, next)
        } else {
            with_serial(&before, next)
        };
        Ok((file, text, next))
    }
}

/// Writes beside, and renames over what the path leads to; who may read it stays.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut beside = real.clone().into_os_string();
    beside.push(".new");
    fs::write(&beside, text)?;
    if let Ok(before) = fs::metadata(&real) {
        fs::set_permissions(&beside, before.permissions())?;
    }
    fs::rename(&beside, &real)
}
