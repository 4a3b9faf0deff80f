//! From the text a person wrote to the tables the kernel reads. Pure: no I/O, no clock, no log.
//!
//! `Source` texts → `document` (as written) → `model::Policy` (resolved) → `compiled::CompiledTables`.
//!
//! INVARIANT: the same input gives the same bytes; only ordered maps are used.

pub mod diagnostic;
pub mod document;
pub mod port;
pub mod time;
pub mod window;
pub mod term;
pub mod model;
pub mod pattern;
pub mod numbers;
pub mod resolve;
pub mod lint;
pub mod prefixes;
pub mod compiled;
pub mod compile;
pub mod explain;
pub mod expectation;
pub mod diff;
pub mod picture;
pub mod learn;
pub mod format;
pub mod oracle;
#[cfg(test)]
pub(crate) mod testing;
