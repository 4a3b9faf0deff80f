//! One file per subcommand. Each returns the exit code of the contract (docs/cli.md).

pub mod live;
pub mod policy;
