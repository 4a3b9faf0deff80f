//! Whether segd may load and attach its programs.

use super::{Finding, Host};
use crate::datapath::kernel;

/// Whether this process has every capability; if not, what others refuse may be this process's own fault.
pub(super) fn is_complete() -> bool {
    kernel::missing_capabilities().is_empty()
}

pub(super) fn check(_: &Host) -> Finding {
    const NAME: &str = "privilege";
    let missing = kernel::missing_capabilities();
    if missing.is_empty() {
        Finding::ok(NAME, "may load and attach kernel programs")
    } else if kernel::is_root() {
        // A container's root, or a bounding set: whoever starts segd here would not have more.
        Finding::missing(NAME, format!("root lacks {}", missing.join(", ")))
            .help("give segd CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON")
    } else {
        Finding::unknown(NAME, format!("this user lacks {}", missing.join(", ")))
    }
}
