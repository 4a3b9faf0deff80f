//! How the daemon waits until no packet is judged by what it will write next.

use super::{Finding, Host};
use crate::datapath::kernel;

pub(super) fn check(_: &Host) -> Finding {
    const NAME: &str = "grace-period";
    if kernel::has_global_membarrier() {
        Finding::ok(NAME, "membarrier(2) waits for running programs")
    } else {
        Finding::ok(
            NAME,
            "membarrier(2) cannot wait for running programs; a map of maps does",
        )
    }
}
