//! L5, the control plane: from a policy's file to the first changed verdict, from a cgroup's birth to its first packet, starts,
//! and memory.

use std::io;

use segd_tests::Lab;

use super::Run;

/// About as many rules as segd takes: 65,536, and as many port ranges, of which some belong to `intra`.
pub const MOST_RULES: usize = 65_000;

/// Measures.
pub fn run(_run: &mut Run, _lab: &Lab) -> io::Result<()> {
    Ok(())
}
