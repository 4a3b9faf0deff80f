//! Ending a socket from outside: SOCK_DESTROY of the socket diagnosis (include/uapi/linux/sock_diag.h).

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use segd_common::{address::is_v4, service, session::Session};

const SOCK_DESTROY: u16 = 21;

/// `struct nlmsghdr` and `struct inet_diag_req_v2`.
#[repr(C)]
struct Request {
    len: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
    family: u8,
    protocol: u8,
    extensions: u8,
    padding: u8,
    states: u32,
    id: SocketId,
}

/// `struct inet_diag_sockid`. All zero: no socket.
#[repr(C)]
#[derive(Default)]
struct SocketId {
    /// In network order.
    own_port: u16,
    /// In network order.
    peer_port: u16,
    own: [u8; 16],
    peer: [u8; 16],
    device: u32,
    /// Two halves, the lower one first.
    cookie: [u32; 2],
}

const _: () = assert!(size_of::<Request>() == 16 + 56);

/// Ends sockets of this network namespace.
#[derive(Debug)]
pub struct Destroyer(OwnedFd);

impl Destroyer {
    /// Opens a socket to ask on.
    pub fn open() -> io::Result<Destroyer> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: no pointers; the result is checked.
        let socket = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_SOCK_DIAG) };
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        Ok(Destroyer(unsafe { OwnedFd::from_raw_fd(socket) }))
    }

    /// Asks for the end of a connection that cannot be. `Ok(false)`: the kernel cannot end any.
    pub fn works(&self) -> io::Result<bool> {
        match self.ask(libc::AF_INET, service::TCP, SocketId::default())? {
            // The second: no diagnosis of TCP at all.
            libc::EOPNOTSUPP | libc::EINVAL => Ok(false),
            libc::EPERM => Err(io::Error::from_raw_os_error(libc::EPERM)),
            _ => Ok(true),
        }
    }

    /// Ends one socket: its process is told (ECONNABORTED), and its peer by a reset. `Ok(false)`: it has ended already.
    pub fn end(&self, session: &Session) -> io::Result<bool> {
        let v4 = is_v4(&session.own) && is_v4(&session.peer);
        let family = if v4 { libc::AF_INET } else { libc::AF_INET6 };
        let place = |address: &[u8; 16]| {
            let mut placed = *address;
            if v4 {
                placed.rotate_left(12);
                placed[4..].fill(0);
            }
            placed
        };
        let id = SocketId {
            own_port: session.own_port.to_be(),
            peer_port: session.peer_port.to_be(),
            own: place(&session.own),
            peer: place(&session.peer),
            device: session.device,
            // The one that counts: whatever else bears the tuple by now has another.
            cookie: [session.cookie as u32, (session.cookie >> 32) as u32],
        };
        match self.ask(family, session.protocol, id)? {
            0 => Ok(true),
            // Gone, another in its place, or ending by itself.
            libc::ENOENT | libc::ESTALE => Ok(false),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    /// Asks for a socket's end. Returns the error that was answered, 0 if none.
    fn ask(&self, family: libc::c_int, protocol: u8, id: SocketId) -> io::Result<i32> {
        const REQUEST_ACK: u16 = 1 | 4;
        let request = Request {
            len: size_of::<Request>() as u32,
            kind: SOCK_DESTROY,
            flags: REQUEST_ACK,
            sequence: 1,
            port: 0,
            family: family as u8,
            protocol,
            extensions: 0,
            padding: 0,
            states: u32::MAX,
            id,
        };
        // SAFETY: a live value of the length given.
        let sent = unsafe {
            libc::send(
                self.0.as_raw_fd(),
                (&raw const request).cast(),
                size_of::<Request>(),
                0,
            )
        };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        // `struct nlmsghdr`, then the error of `struct nlmsgerr`; the rest of the answer is cut off.
        let mut answer = [0_i32; 5];
        // SAFETY: a live buffer of the length given.
        let received = unsafe {
            libc::recv(
                self.0.as_raw_fd(),
                answer.as_mut_ptr().cast(),
                size_of_val(&answer),
                0,
            )
        };
        if received < size_of_val(&answer) as isize {
            return Err(io::Error::last_os_error());
        }
        Ok(-answer[4])
    }
}
