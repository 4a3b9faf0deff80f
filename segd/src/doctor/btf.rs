//! Whether the kernel describes itself: segd reads the offsets of six fields from its BTF.

use super::{Finding, Host};
use crate::datapath::kernel;

pub(super) fn check(_: &Host) -> Finding {
    const NAME: &str = "btf";
    match kernel::check_btf() {
        Ok(()) => Finding::ok(NAME, "the kernel describes itself"),
        Err(error) => Finding::refused(NAME, &error),
    }
}
