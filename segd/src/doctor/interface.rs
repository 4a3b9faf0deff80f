//! Whether an interface of `--interface` is there, and how it takes XDP.

use super::{Finding, Host};
use crate::datapath::{kernel, links};

pub(super) fn check(host: &Host, interface: &str) -> Finding {
    let name = format!("xdp:{interface}");
    if let Err(error) = kernel::interface_index(interface) {
        return Finding::refused(&name, &error);
    }
    match links::interface_mode(&host.pin_dir, interface) {
        Ok(Some("generic")) => Finding::degraded(
            &name,
            "the driver does not take XDP natively",
            "generic mode: what is dropped early costs about as much as it does without",
        ),
        Ok(Some(mode)) => Finding::ok(&name, format!("attached, {mode} mode")),
        Ok(None) => Finding::ok(&name, "the interface is there; its mode shows when segd attaches"),
        Err(error) => Finding::unknown(&name, crate::report::chain(&error)),
    }
}
