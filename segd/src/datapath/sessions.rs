//! Sessions that have lost their right: found where the kernel keeps them, and ended.
//!
//! INVARIANT: nothing here takes more than CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN.
//! Deliberately absent: a decision. The kernel program asks the one that judges packets.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use segd_common::session::{self, Session};

use super::{Error, sys};

/// `BPF_TRACE_ITER`.
const TRACE_ITER: u32 = 28;

/// The program that tells, and the socket to end on.
#[derive(Debug)]
pub struct Sessions {
    walk: OwnedFd,
    destroyer: sys::Destroyer,
}

impl Sessions {
    /// Those among the TCP sockets of this process' network namespace.
    pub(super) fn of_tcp(program: BorrowedFd<'_>) -> Result<Sessions, Error> {
        Sessions::by(sys::link_create(program, 0, TRACE_ITER, 0))
    }

    /// Those among all sockets that have something in a map.
    pub(super) fn of_judged(program: BorrowedFd<'_>, sockets: OwnedFd) -> Result<Sessions, Error> {
        Sessions::by(sys::link_over_map(program, TRACE_ITER, sockets.as_fd()))
    }

    fn by(walk: io::Result<OwnedFd>) -> Result<Sessions, Error> {
        Ok(Sessions {
            walk: walk.map_err(|error| Error::system("making an iterator over sessions", error))?,
            destroyer: sys::Destroyer::open()
                .map_err(|error| Error::system("opening a socket that ends others", error))?,
        })
    }

    /// Every end of a session that the policy in force does not allow any more, in this process' network namespace at
    /// least.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn without_right(&self) -> io::Result<Vec<Session>> {
        let bytes = run(&self.walk)?;
        let whole = bytes.chunks_exact(size_of::<Session>());
        // SAFETY: as many bytes as a `Session` has, of any alignment; any bytes are a valid one.
        Ok(whole
            .map(|bytes| unsafe { bytes.as_ptr().cast::<Session>().read_unaligned() })
            .collect())
    }

    /// Ends one, which must be in this process' network namespace. `false`: it has ended already.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn end(&self, session: &Session) -> io::Result<bool> {
        self.destroyer.end(session)
    }
}

/// The program that tells of every session, whatever right it has.
#[derive(Debug)]
pub struct Living {
    walk: OwnedFd,
}

impl Living {
    pub(super) fn of_tcp(program: BorrowedFd<'_>) -> Result<Living, Error> {
        let walk = sys::link_create(program, 0, TRACE_ITER, 0);
        Ok(Living {
            walk: walk.map_err(|error| Error::system("making an iterator over sessions", error))?,
        })
    }

    /// Every end of a TCP session in this process' network namespace.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn all(&self) -> io::Result<Vec<session::Living>> {
        let bytes = run(&self.walk)?;
        let whole = bytes.chunks_exact(size_of::<session::Living>());
        // SAFETY: as many bytes as a `Living` has, of any alignment; any bytes are a valid one.
        Ok(whole
            .map(|bytes| unsafe { bytes.as_ptr().cast::<session::Living>().read_unaligned() })
            .collect())
    }
}

/// All that an iterator says.
fn run(walk: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::from(sys::iterate(walk.as_fd())?).read_to_end(&mut bytes)?;
    Ok(bytes)
}
