//! Where a policy comes from and who signed it, as client, daemon and the next daemon tell each other.

use serde::{Deserialize, Serialize};

use crate::source::{git::Provenance, signature::Signed};

/// A commit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// Its hash.
    pub commit: String,
    /// The policy is not what it has.
    pub dirty: bool,
}

impl From<Provenance> for Commit {
    fn from(Provenance { commit, dirty }: Provenance) -> Commit {
        Commit { commit, dirty }
    }
}

impl From<Commit> for Provenance {
    fn from(Commit { commit, dirty }: Commit) -> Provenance {
        Provenance { commit, dirty }
    }
}

/// What lies beside a policy that is signed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealText {
    /// The file or directory; the names of the texts begin with it.
    pub path: String,
    /// Of a directory: its manifest.
    #[serde(default)]
    pub manifest: Option<String>,
    /// The signature.
    pub signature: String,
}

/// A signature that was found good.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// The policy's serial.
    pub serial: u64,
    /// The SHA-256 of what was signed.
    pub digest: String,
    /// Who signed.
    pub signer: String,
}

impl From<Signed> for Signature {
    fn from(signed: Signed) -> Signature {
        let Signed {
            serial,
            digest,
            signer,
        } = signed;
        Signature {
            serial,
            digest,
            signer,
        }
    }
}

impl From<Signature> for Signed {
    fn from(signature: Signature) -> Signed {
        let Signature {
            serial,
            digest,
            signer,
        } = signature;
        Signed {
            serial,
            digest,
            signer,
        }
    }
}
