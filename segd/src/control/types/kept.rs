//! What a policy was made from, as one daemon leaves it for the next.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Commit, Signature, Text};
use crate::policy::model::Source;

/// What a daemon leaves for the next one beside a slot of the tables: what the slot was made from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kept {
    /// The revision of the slot.
    pub revision: u32,
    /// It came by `segd apply`, and stays until the files that segd follows change.
    pub applied: bool,
    /// The hash of those files when it came.
    pub files: String,
    /// The policy.
    pub texts: Vec<Text>,
    /// Where whoever applied it said that it comes from.
    pub commit: Option<Commit>,
    /// Who signed it, if it had to be signed.
    pub signature: Option<Signature>,
    /// The users that it names and that had a number on this host.
    pub users: BTreeMap<String, u32>,
}

/// A [`Kept`] as it is written: a large policy is not copied for it.
#[derive(Clone, Debug, Serialize)]
pub struct KeptOf<'k> {
    /// As there.
    pub revision: u32,
    /// As there.
    pub applied: bool,
    /// As there.
    pub files: String,
    /// As there.
    pub commit: Option<Commit>,
    /// As there.
    pub signature: Option<Signature>,
    /// As there.
    pub users: BTreeMap<String, u32>,
    /// As there. Last, so that they can be written one by one.
    pub texts: Vec<TextOf<'k>>,
}

/// A [`Text`] as it is written.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct TextOf<'k> {
    /// As there.
    pub name: &'k str,
    /// As there.
    pub text: &'k str,
}

impl<'k> From<&'k Source> for TextOf<'k> {
    fn from(Source { name, text }: &'k Source) -> TextOf<'k> {
        TextOf { name, text }
    }
}
