//! Whether the kernel has each type of table that segd keeps.

use super::{Finding, Host};
use crate::datapath::feature;

pub(super) fn check(_: &Host) -> Finding {
    const NAME: &str = "maps";
    match feature::missing_maps() {
        Ok(missing) if missing.is_empty() => Finding::ok(NAME, "the kernel has every type of table"),
        Ok(missing) => Finding::missing(NAME, format!("the kernel has no {}", missing.join(", ")))
            .help("README.md says what the kernel must have"),
        Err(error) => Finding::refused(NAME, &error),
    }
}
