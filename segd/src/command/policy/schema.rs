//! `segd policy schema`.

use super::{Reply, YES};
use crate::output::{json, schema::schema};

/// Print the JSON Schema of a policy.
#[derive(Debug, clap::Args)]
pub struct Schema {}

impl Schema {
    /// The answer.
    pub(super) fn reply(&self) -> Reply {
        Reply::of(json(&schema(), true), String::new(), YES)
    }
}
