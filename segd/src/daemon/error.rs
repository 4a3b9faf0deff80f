//! Why a policy that is right is not in force.

use super::gate::GateError;

/// Why a policy that is right is not in force.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// It does not fit into the tables.
    #[error(transparent)]
    Compile(#[from] crate::policy::compile::CompileError),
    /// The workloads could not be told apart.
    #[error(transparent)]
    Workload(#[from] crate::workload::error::WorkloadError),
    /// Two segments claim one workload with equal right.
    #[error("{0}")]
    Ambiguous(String),
    /// It is not signed, or older than what was accepted.
    #[error(transparent)]
    Gate(#[from] GateError),
    /// Both slots are in use.
    #[error("revision {0} is on trial")]
    OnTrial(u32),
    /// The kernel refused.
    #[error(transparent)]
    Datapath(#[from] crate::datapath::Error),
}
