//! A network namespace with nothing but loopback in it, for traffic that must disturb nobody and leave no host.

use super::{Error, sys};

/// Takes this thread, and only it, into one. It is gone with the thread and its sockets.
///
/// # Errors
///
/// What the kernel said: it takes CAP_SYS_ADMIN and CAP_NET_ADMIN.
pub fn enter() -> Result<(), Error> {
    sys::leave_namespace()
        .and_then(|()| sys::raise_loopback())
        .map_err(|error| Error::system("making a network namespace for the probes", error))
}
