//! The vocabulary that segd's kernel programs and its daemon share, and the one decision both run.
//!
//! INVARIANT: depends on `core` alone; the feature `user` only adds `aya::Pod` impls.
//! Deliberately absent: allocation, I/O, strings, anything that knows how a policy is written.
#![no_std]

pub mod segment;
pub mod reason;
pub mod verdict;
pub mod service;
pub mod tables;
pub mod prefixes;
pub mod decide;
pub mod bytes;
pub mod packet;
pub mod workload;
pub mod census;
pub mod matching;
pub mod address;
pub mod flow;
pub mod kept;
pub mod session;
pub mod fragment;
pub mod event;
pub mod told;
pub mod counter;
pub mod config;
pub mod lsm;
#[cfg(feature = "user")]
mod pod;

/// The version of every layout in this crate. Pinned state of another version is not adopted.
pub const ABI_VERSION: u32 = if OTHER_LAYOUT { 1006 } else { 6 };
/// Whether this is the build with other layouts, from and to which a test upgrades.
pub const OTHER_LAYOUT: bool = cfg!(feature = "other-layout");
