//! Whether a new address in a container is heard of at once.

use super::{Finding, Host, privilege};
use crate::workload::namespaces::Listener;

pub(super) fn check(_: &Host) -> Finding {
    const NAME: &str = "namespaces";
    match Listener::open() {
        Ok(listener) if listener.everywhere => {
            Finding::ok(NAME, "new addresses in every network namespace are heard of")
        }
        Ok(_) if privilege::is_complete() => Finding::degraded(
            NAME,
            "may not listen in other network namespaces (CAP_NET_BROADCAST)",
            "a container's new address is noticed within a second, not at once",
        )
        .help("give segd CAP_NET_BROADCAST at start; it gives it up at once"),
        Ok(_) => Finding::unknown(NAME, "this user may not listen in other network namespaces"),
        Err(error) => Finding::unknown(NAME, format!("listening for addresses: {error}")),
    }
}
