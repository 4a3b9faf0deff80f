//! Cgroups, network namespaces, processes and scratch folders for the demo and the benchmarks.
//!
//! INVARIANT: whatever is made here is gone when its guard is dropped, on success, failure and ctrl-c; what a killed
//! run left behind is swept away by the next one. Only what carries the fixture's own name is ever touched.

pub mod cgroup;
pub mod daemon;
pub mod interrupt;
pub mod network;
pub mod process;
pub mod scratch;
