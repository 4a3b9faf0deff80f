//! Which cgroup is in which segment, and which segment lives in which network namespace.
//!
//! `glob`, `selector` and `orphan` are pure; `users`, `cgroupfs`, `births` and `namespaces` look at the host. What
//! the kernel does with a newborn is `segd_common::matching`; `docs/identity.md` tells the whole.

pub mod births;
pub mod cgroupfs;
pub mod error;
pub mod glob;
pub mod namespaces;
pub mod own;
pub mod orphan;
pub mod selector;
pub mod users;
