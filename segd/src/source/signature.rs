//! Whether a policy is signed: by an allowed signer, to the last byte, with a serial (docs/signing.md).
//!
//! One text is signed. Of a policy in one file it is the file; of a directory its `segd.manifest`, which names every
//! file with its SHA-256. Its first line is `# segd: serial N`, its signature lies beside it under its name and `.sig`.
//!
//! INVARIANT: what is verified are the bytes that were read and will be used, before anything else is made of them.

mod keygen;

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use self::keygen::signer;
pub use self::keygen::{NAMESPACE, sign};
use super::{SourceError, Sources, Trust, io_at, open};
use crate::policy::model::Source;

/// What is signed of a directory.
pub const MANIFEST: &str = "segd.manifest";
/// How the first line of what is signed begins.
const SERIAL: &str = "# segd: serial ";
/// The largest manifest, signature or list of signers.
const MOST_BYTES: u64 = 2 << 20;
/// What was signed, by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// Higher with every policy that is signed.
    pub serial: u64,
    /// The SHA-256 of the signed text.
    pub digest: String,
    /// The signer's name in the list of allowed signers.
    pub signer: String,
}

/// Why a policy is not believed.
#[derive(Debug, thiserror::Error)]
#[error("`{}`: {why}", path.display())]
pub struct SignatureError {
    path: PathBuf,
    why: String,
    help: &'static str,
    /// Nobody could look: that says nothing of the signature.
    pub unverified: bool,
}

const SIGN: &str = "sign it: `segd policy sign PATH --key FILE`";
const INSTALL: &str =
    "signatures are verified by `ssh-keygen` of OpenSSH 8.2 or newer (Debian: openssh-client)";

impl SignatureError {
    fn new(path: &Path, why: impl Into<String>, help: &'static str) -> SignatureError {
        SignatureError {
            path: path.to_owned(),
            why: why.into(),
            help,
            unverified: false,
        }
    }

    fn unverified(path: &Path, why: &str) -> SignatureError {
        SignatureError {
            unverified: true,
            ..SignatureError::new(path, format!("its signature cannot be verified: {why}"), INSTALL)
        }
    }

    /// A client sent no signature.
    #[must_use]
    pub fn nothing_sent() -> SignatureError {
        SignatureError::new(Path::new("segd apply"), "the policy is not signed", SIGN)
    }

    /// The file that is to blame.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What to do about it.
    #[must_use]
    pub fn help(&self) -> String {
        format!("{}; docs/signing.md says how", self.help)
    }
}

/// What lies beside the files of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    /// The file or directory.
    pub path: PathBuf,
    /// Of a directory: its manifest.
    pub manifest: Option<String>,
    /// The signature, if there is one.
    pub signature: Option<String>,
}

impl Seal {
    /// Reads what lies beside a policy.
    ///
    /// # Errors
    ///
    /// It is there, and cannot be read or is not to be trusted.
    pub fn read(path: &Path, trust: &Trust) -> Result<Seal, SourceError> {
        let manifest = path.is_dir().then(|| path.join(MANIFEST));
        let signed = manifest.as_deref().unwrap_or(path);
        Ok(Seal {
            path: path.to_owned(),
            signature: small(&beside(signed), trust)?,
            manifest: match &manifest {
                Some(manifest) => Some(small(manifest, trust)?.ok_or_else(|| {
                    SignatureError::new(path, format!("is not signed: it has no {MANIFEST}"), SIGN)
                })?),
                None => None,
            },
        })
    }
}

/// Where the signature of a file lies.
#[must_use]
pub fn beside(signed: &Path) -> PathBuf {
    let mut name = signed.as_os_str().to_owned();
    name.push(".sig");
    PathBuf::from(name)
}

/// A small text; `None` if there is no such file.
fn small(path: &Path, trust: &Trust) -> Result<Option<String>, SourceError> {
    let held = match open::path(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        held => held.map_err(io_at("read", path))?,
    };
    trust.check_way(path)?;
    let metadata = held.metadata().map_err(io_at("read", path))?;
    if !metadata.is_file() {
        return Err(SourceError::NotAFile {
            path: path.to_owned(),
        });
    }
    trust.check(path, &metadata, open::fd(&held))?;
    let mut bytes = Vec::new();
    let file = open::reading(&held).map_err(io_at("open", path))?;
    file.take(MOST_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(io_at("read", path))?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(
            SignatureError::new(path, format!("is larger than {MOST_BYTES} bytes"), "give another").into(),
        );
    }
    let utf8 = String::from_utf8(bytes).map_err(|error| SourceError::NotUtf8 {
        path: path.to_owned(),
        offset: error.utf8_error().valid_up_to(),
    })?;
    Ok(Some(utf8))
}

/// Who may sign, as `ssh-keygen -Y verify` reads it (ALLOWED SIGNERS in ssh-keygen(1)).
#[derive(Clone, Debug)]
pub struct Signers {
    path: PathBuf,
    text: String,
}

impl Signers {
    /// Reads the list.
    ///
    /// # Errors
    ///
    /// There is none, or others may write it.
    pub fn read(path: &Path, trust: &Trust) -> Result<Signers, SourceError> {
        let text = small(path, trust)?.ok_or_else(|| {
            SignatureError::new(path, "there is no such list of allowed signers", "write one")
        })?;
        Ok(Signers {
            path: path.to_owned(),
            text,
        })
    }
}

/// A policy with what is to prove who signed it: verified are the bytes that are here, whatever becomes of the files.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// The texts.
    pub sources: Sources,
    /// What lies beside them.
    pub seal: Seal,
    /// Who may sign.
    pub signers: Signers,
}

impl Sealed {
    /// Who signed the texts.
    ///
    /// # Errors
    ///
    /// No allowed signer did.
    pub fn verify(&self) -> Result<Signed, SignatureError> {
        verify(&self.sources.sources, &self.seal, &self.signers)
    }

    /// The texts, once that is known.
    #[must_use]
    pub fn signed_by(self, signed: Signed) -> Sources {
        Sources {
            signed: Some(signed),
            ..self.sources
        }
    }

    /// Differs between any two that differ in a byte of the texts, of their seal or of the list of signers.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let texts = self.sources.sources.iter();
        let seal =
            [&self.seal.manifest, &self.seal.signature].map(|text| text.as_deref().unwrap_or_default());
        let whole = texts
            .flat_map(|source| [source.name.as_str(), &source.text])
            .chain(seal)
            .chain([self.signers.text.as_str()]);
        let mut digest = Sha256::new();
        for text in whole {
            digest.update((text.len() as u64).to_le_bytes());
            digest.update(text.as_bytes());
        }
        hexadecimal(&digest.finalize())
    }
}

/// Whether the texts of a policy are what an allowed signer has signed.
///
/// # Errors
///
/// They are not.
fn verify(sources: &[Source], seal: &Seal, signers: &Signers) -> Result<Signed, SignatureError> {
    let one = match sources {
        [one] if seal.manifest.is_none() && Path::new(&one.name) == seal.path => Some(&*one.text),
        _ => None,
    };
    let name = match &seal.manifest {
        Some(_) => seal.path.join(MANIFEST),
        None => seal.path.clone(),
    };
    let Some(text) = seal.manifest.as_deref().or(one) else {
        return Err(SignatureError::new(&seal.path, "is not what was signed", SIGN));
    };
    let Some(signature) = &seal.signature else {
        let why = format!("is not signed: there is no `{}`", beside(&name).display());
        return Err(SignatureError::new(&name, why, SIGN));
    };
    let signer = signer(&name, text, signature, signers)?;
    let serial = serial(text)
        .ok_or_else(|| SignatureError::new(&name, "its first line is not `# segd: serial N`", SIGN))?;
    if let Some(manifest) = &seal.manifest {
        same_files(&seal.path, manifest, sources)?;
    }
    Ok(Signed {
        serial,
        digest: sha256(text),
        signer,
    })
}

/// The serial in the first line of a signed text.
#[must_use]
pub fn serial(text: &str) -> Option<u64> {
    let number = text.lines().next()?.strip_prefix(SERIAL)?;
    let plain = number.bytes().all(|byte| byte.is_ascii_digit()) && !number.starts_with('0');
    number.parse().ok().filter(|_| plain)
}

/// A file's text with a serial, in place of the one it has.
#[must_use]
pub fn with_serial(text: &str, new: u64) -> String {
    let rest = match serial(text) {
        Some(_) => text.split_once('\n').map_or("", |(_, rest)| rest),
        None => text,
    };
    format!("{SERIAL}{new}\n{rest}")
}

/// The manifest of a directory's files.
#[must_use]
pub fn manifest(directory: &Path, sources: &[Source], serial: u64) -> String {
    let mut lines: Vec<String> = sources.iter().map(|source| line(directory, source)).collect();
    lines.sort_unstable();
    format!("{SERIAL}{serial}\n{}", lines.concat())
}

/// As `sha256sum` writes it.
fn line(directory: &Path, source: &Source) -> String {
    let name = Path::new(&source.name);
    let name = name.strip_prefix(directory).unwrap_or(name);
    format!("{}  {}\n", sha256(&source.text), name.display())
}

/// Whether a manifest names all files, as they are, and no other.
fn same_files(directory: &Path, manifest: &str, sources: &[Source]) -> Result<(), SignatureError> {
    let mut signed: Vec<&str> = manifest.split_inclusive('\n').skip(1).collect();
    let wrong = |name: &str, why: &str| Err(SignatureError::new(&directory.join(name), why, SIGN));
    let name = |line: &str| {
        line.trim_end_matches('\n')
            .get(66..)
            .unwrap_or_default()
            .to_owned()
    };
    for source in sources {
        let line = line(directory, source);
        let Some(at) = signed.iter().position(|signed| *signed == line) else {
            let known = signed.iter().any(|signed| name(signed) == name(&line));
            let why = if known {
                "is not what was signed"
            } else {
                "is not in the signed manifest"
            };
            return wrong(&name(&line), why);
        };
        signed.swap_remove(at);
    }
    match signed.first() {
        Some(line) => wrong(&name(line), "is in the signed manifest, and is not there"),
        None => Ok(()),
    }
}

/// The SHA-256 of a text, in hexadecimal digits.
fn sha256(text: &str) -> String {
    hexadecimal(&Sha256::digest(text.as_bytes()))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
