//! Sessions that have lost their right: found where the kernel keeps them, and ended.
//!
//! INVARIANT: nothing here takes more than CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN.
//! Deliberately absent: a decision. The kernel program asks the one that judges packets.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use segd_common::session::{self, Foreign, Session};

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
        read(&self.walk)
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
        read(&self.walk)
    }
}

/// The program that tells of sockets in the hands of another segment, and the socket to end them on.
#[derive(Debug)]
pub struct Foreigners {
    walk: OwnedFd,
    destroyer: sys::Destroyer,
}

impl Foreigners {
    pub(super) fn of_files(program: BorrowedFd<'_>) -> Result<Foreigners, Error> {
        let walk = sys::link_create(program, 0, TRACE_ITER, 0);
        Ok(Foreigners {
            walk: walk.map_err(|error| Error::system("making an iterator over open files", error))?,
            destroyer: sys::Destroyer::open()
                .map_err(|error| Error::system("opening a socket that ends others", error))?,
        })
    }

    /// Every TCP connection and UDP socket that a process holds whose segment is another than the socket's, once for each
    /// descriptor of it.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn all(&self) -> io::Result<Vec<Foreign>> {
        read(&self.walk)
    }

    /// As [`Sessions::end`].
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn end(&self, socket: &Session) -> io::Result<bool> {
        self.destroyer.end(socket)
    }
}

/// A record that an iterator writes.
///
/// # Safety
///
/// Any bytes are a valid value.
// SAFETY: the implementations', above.
unsafe trait Told: Copy {}
// SAFETY: integers and arrays of them.
unsafe impl Told for Session {}
// SAFETY: as above.
unsafe impl Told for session::Living {}
// SAFETY: as above.
unsafe impl Told for Foreign {}

/// All that an iterator says.
fn read<T: Told>(walk: &OwnedFd) -> io::Result<Vec<T>> {
    let mut bytes = Vec::new();
    File::from(sys::iterate(walk.as_fd())?).read_to_end(&mut bytes)?;
    let whole = bytes.chunks_exact(size_of::<T>());
    let one = |bytes: &[u8]| {
        // SAFETY: as many bytes as the value has, of any alignment; `Told` says that any will do.
        unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }
    };
    Ok(whole.map(one).collect())
}
