//! Whether programs can hang on an interface's traffic control by a link (tcx, 6.6).

use super::{Finding, Host};
use crate::datapath::feature;

pub(super) fn check(_: &Host) -> Finding {
    const NAME: &str = "tcx";
    match feature::takes_tcx() {
        Ok(true) => Finding::ok(NAME, "programs can be linked to an interface's traffic control"),
        Ok(false) => Finding::degraded(
            NAME,
            "the kernel has no tcx (6.6)",
            "packets that no socket of this host sends, as those of packet sockets, are judged only where they arrive",
        ),
        Err(error) => Finding::unknown(NAME, crate::report::chain(&error)),
    }
}
