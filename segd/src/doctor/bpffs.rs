//! Whether programs and maps can be pinned, so that enforcement outlives the daemon.

use super::{Finding, Host};
use crate::datapath::kernel;

pub(super) fn check(host: &Host) -> Finding {
    const NAME: &str = "bpffs";
    match kernel::check_bpffs(&host.pin_dir) {
        Ok(()) => Finding::ok(
            NAME,
            format!("`{}` is on a bpf filesystem", host.pin_dir.display()),
        ),
        Err(error) => Finding::refused(NAME, &error),
    }
}
