//! Ending a socket from outside: SOCK_DESTROY of the socket diagnosis (include/uapi/linux/sock_diag.h).

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

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
    /// `struct inet_diag_sockid`: ports, addresses, interface, cookie. All zero: no socket.
    id: [u32; 12],
}

const _: () = assert!(size_of::<Request>() == 16 + 56);

/// Asks for the end of a connection that cannot be. `Ok(false)`: the kernel cannot end any.
pub fn destroy_nothing() -> io::Result<bool> {
    const REQUEST_ACK: u16 = 1 | 4;
    let raw = |result: libc::c_int| {
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(result)
        }
    };
    // SAFETY: no pointers; the answer is a new descriptor that nobody else owns.
    let socket = unsafe {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        OwnedFd::from_raw_fd(raw(libc::socket(
            libc::AF_NETLINK,
            kind,
            libc::NETLINK_SOCK_DIAG,
        ))?)
    };
    let request = Request {
        len: size_of::<Request>() as u32,
        kind: SOCK_DESTROY,
        flags: REQUEST_ACK,
        sequence: 1,
        port: 0,
        family: libc::AF_INET as u8,
        protocol: libc::IPPROTO_TCP as u8,
        extensions: 0,
        padding: 0,
        states: u32::MAX,
        id: [0; 12],
    };
    // SAFETY: a live value of the length given.
    let sent = unsafe {
        libc::send(
            socket.as_raw_fd(),
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
            socket.as_raw_fd(),
            answer.as_mut_ptr().cast(),
            size_of_val(&answer),
            0,
        )
    };
    if received < size_of_val(&answer) as isize {
        return Err(io::Error::last_os_error());
    }
    match -answer[4] {
        libc::EOPNOTSUPP => Ok(false),
        // No diagnosis of TCP at all.
        libc::EINVAL => Ok(false),
        libc::EPERM => Err(io::Error::from_raw_os_error(libc::EPERM)),
        _ => Ok(true),
    }
}
