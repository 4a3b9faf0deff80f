//! Whether the kernel offers what the programs call. Lockdown takes some of it away.

use super::{Finding, Host};
use crate::datapath::feature;

pub(super) fn check(_: &Host) -> Finding {
    const NAME: &str = "helpers";
    match feature::missing_helpers() {
        Ok(missing) if missing.is_empty() => {
            Finding::ok(NAME, "the kernel offers every function the programs call")
        }
        Ok(missing) => {
            let finding = Finding::missing(NAME, format!("the kernel does not offer {}", missing.join(", ")));
            if missing.iter().any(|name| name.contains("probe_read_kernel")) {
                finding.help(
                    "lockdown=confidentiality forbids reading kernel memory; lockdown=integrity does not",
                )
            } else {
                finding.help("README.md says what the kernel must have")
            }
        }
        Err(error) => Finding::refused(NAME, &error),
    }
}
