//! Sessions that have lost their right: found where the kernel keeps them, and ended.
//!
//! INVARIANT: nothing here takes more than CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN.
//! Deliberately absent: a decision. The kernel program asks the one that judges packets.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use segd_common::session::{self, Foreign, Session};

use super::{Error, sys, walk::Walk};

/// The program that tells, and the socket to end on.
#[derive(Debug)]
pub struct Sessions {
    walk: Walk<Session>,
    destroyer: sys::Destroyer,
}

impl Sessions {
    /// Those among the TCP sockets of this process' network namespace.
    pub(super) fn of_tcp(program: BorrowedFd<'_>) -> Result<Sessions, Error> {
        Sessions::by(Walk::of(program, "sessions")?)
    }

    /// Those among all sockets that have something in a map.
    pub(super) fn of_judged(program: BorrowedFd<'_>, sockets: OwnedFd) -> Result<Sessions, Error> {
        Sessions::by(Walk::over_map(program, sockets.as_fd(), "sessions")?)
    }

    fn by(walk: Walk<Session>) -> Result<Sessions, Error> {
        Ok(Sessions {
            walk,
            destroyer: destroyer()?,
        })
    }

    /// Every end of a session that the policy in force does not allow any more, in this process' network namespace at
    /// least.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn without_right(&self) -> io::Result<Vec<Session>> {
        self.walk.all()
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
    walk: Walk<session::Living>,
}

impl Living {
    pub(super) fn of_tcp(program: BorrowedFd<'_>) -> Result<Living, Error> {
        Ok(Living {
            walk: Walk::of(program, "sessions")?,
        })
    }

    /// Every end of a TCP session in this process' network namespace.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn all(&self) -> io::Result<Vec<session::Living>> {
        self.walk.all()
    }
}

/// The program that tells of sockets in the hands of another segment, and the socket to end them on.
#[derive(Debug)]
pub struct Foreigners {
    walk: Walk<Foreign>,
    destroyer: sys::Destroyer,
}

impl Foreigners {
    pub(super) fn of_files(program: BorrowedFd<'_>) -> Result<Foreigners, Error> {
        Ok(Foreigners {
            walk: Walk::of(program, "open files")?,
            destroyer: destroyer()?,
        })
    }

    /// Every TCP connection and UDP socket that a process holds whose segment is another than the socket's, once for each
    /// descriptor of it.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn all(&self) -> io::Result<Vec<Foreign>> {
        self.walk.all()
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

fn destroyer() -> Result<sys::Destroyer, Error> {
    sys::Destroyer::open().map_err(|error| Error::system("opening a socket that ends others", error))
}
