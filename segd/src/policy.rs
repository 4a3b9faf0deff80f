//! From the text a person wrote to the tables the kernel reads. Pure: no I/O, no clock, no log.
//!
//! `Source` texts → `document` (serde) → `model::Policy` (resolved) → `compiled::CompiledTables`.
//!
//! INVARIANT: the same input gives the same bytes; only ordered maps are used.

pub mod model;
pub mod compiled;
