//! What the end-to-end tests stand on: real cgroups, network namespaces, sockets, a real other machine.
//!
//! INVARIANT: a test judges by what arrived at the receiver, never by the client's errno alone.
//! Deliberately absent: anything that knows segd from the inside. The binary is a black box.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test code: a broken fixture must stop the test where it stands"
)]

pub mod agent;
pub mod bpf;
pub mod calendar;
pub mod cgroup;
pub mod chance;
pub mod craft;
pub mod exotic;
pub mod foreign;
pub mod hostile;
pub mod lab;
pub mod machine;
pub mod netns;
pub mod protocol;
pub mod remote;
pub mod segd;
pub mod spare;
pub mod sys;
pub mod wait;
pub mod wire;
pub mod worker;
pub mod xdp;

pub use calendar::Step;
pub use cgroup::Cgroup;
pub use craft::Craft;
pub use lab::Lab;
pub use machine::Machine;
pub use netns::{Bridge, Netns};
pub use protocol::{Inbox, Kind, Outcome, Probe, Tally};
pub use remote::Remote;
pub use segd::Segd;
pub use worker::Worker;
