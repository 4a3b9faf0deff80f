//! Whether a socket can be ended from outside (SOCK_DESTROY, CONFIG_INET_DIAG_DESTROY).

use super::{Finding, Host};
use crate::datapath::kernel;

pub(super) fn check(_: &Host) -> Finding {
    const NAME: &str = "socket-destroy";
    match kernel::can_destroy_sockets() {
        Ok(true) => Finding::ok(NAME, "sockets can be ended from outside"),
        Ok(false) => Finding::degraded(
            NAME,
            "the kernel cannot end a socket from outside (CONFIG_INET_DIAG_DESTROY)",
            "a session that lost its right is cut at its next packet, and not before: its ends learn of it by time-out",
        ),
        Err(error) => Finding::unknown(NAME, crate::report::chain(&error)),
    }
}
