//! segd: an eBPF micro-segmentation enforcer. Identity is the cgroup, not the address.
//!
//! Data flows one way: text, `Document`, `Policy`, `CompiledTables`, map writes, packets, events, metrics.

mod report;
mod crowd;
pub mod policy;
pub mod source;
pub mod workload;
pub mod datapath;
pub mod telemetry;
pub mod control;
pub mod doctor;
pub mod daemon;
pub mod output;
pub mod cli;
pub mod command;
