//! Ways to connect that few programs take, and that a filter on system calls or on first packets would miss.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use io_uring::{IoUring, opcode, squeue, types};

use crate::{
    protocol::{Kind, Probe},
    sys,
};

/// Tries one of [`Kind::Mptcp`], [`Kind::FastOpen`], [`Kind::IoUring`], [`Kind::SqPoll`].
///
/// # Errors
/// The kernel's.
pub fn attempt(probe: &Probe, timeout: Duration, micros: &mut u64) -> io::Result<&'static str> {
    let start = Instant::now();
    let token = probe.token.as_bytes();
    let connected = match probe.kind {
        Kind::Mptcp => multipath(probe.to, timeout).map(|stream| (stream, token)),
        Kind::FastOpen => fast_open(probe.to, timeout, token).map(|stream| (stream, &[][..])),
        Kind::IoUring | Kind::SqPoll => {
            ring(probe.to, timeout, token, probe.kind == Kind::SqPoll).map(|stream| (stream, &[][..]))
        }
        other => panic!("{other:?} is an ordinary way"),
    };
    *micros = start.elapsed().as_micros() as u64;
    let (mut stream, rest) = connected?;
    stream.set_read_timeout(Some(timeout.max(Duration::from_secs(1))))?;
    stream.write_all(rest)?;
    stream.shutdown(Shutdown::Write)?;
    Ok(if stream.read_to_end(&mut Vec::new()).is_ok() {
        "ok"
    } else {
        "stalled"
    })
}

fn family(to: SocketAddr) -> i32 {
    if to.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    }
}

/// Connects by Multipath TCP.
///
/// # Errors
/// The kernel's.
pub fn multipath(to: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let socket = sys::socket(family(to), libc::SOCK_STREAM, libc::IPPROTO_MPTCP)?;
    sys::set_send_timeout(&socket, timeout)?;
    sys::connect(&socket, to)?;
    Ok(socket.into())
}

/// A listener that speaks Multipath TCP.
///
/// # Errors
/// The kernel's.
pub fn multipath_listener(at: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = sys::socket(family(at), libc::SOCK_STREAM, libc::IPPROTO_MPTCP)?;
    sys::bind(&socket, at)?;
    listen(&socket)?;
    Ok(socket.into())
}

fn listen(socket: &OwnedFd) -> io::Result<()> {
    // SAFETY: no memory is passed.
    if unsafe { libc::listen(socket.as_raw_fd(), 64) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sends the data with the SYN.
fn fast_open(to: SocketAddr, timeout: Duration, data: &[u8]) -> io::Result<TcpStream> {
    let socket = sys::socket(family(to), libc::SOCK_STREAM, 0)?;
    sys::set_send_timeout(&socket, timeout)?;
    sys::send_with(&socket, data, to, libc::MSG_FASTOPEN)?;
    Ok(socket.into())
}

/// Makes the socket, connects and sends without a system call that bears the name.
fn ring(to: SocketAddr, timeout: Duration, data: &[u8], kernel_thread: bool) -> io::Result<TcpStream> {
    let mut ring = if kernel_thread {
        IoUring::builder().setup_sqpoll(50).build(8)?
    } else {
        IoUring::new(8)?
    };
    let made = opcode::Socket::new(family(to), libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0).build();
    let fd = perform(&mut ring, &made, timeout)?;
    // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let (storage, length) = sys::sockaddr(to);
    let fd = types::Fd(fd);
    perform(
        &mut ring,
        &opcode::Connect::new(fd, (&raw const storage).cast(), length).build(),
        timeout,
    )?;
    perform(
        &mut ring,
        &opcode::Send::new(fd, data.as_ptr(), data.len() as u32).build(),
        timeout,
    )?;
    Ok(socket.into())
}

fn perform(ring: &mut IoUring, entry: &squeue::Entry, timeout: Duration) -> io::Result<i32> {
    // SAFETY: what the entry points to outlives this call, which returns when the entry is done, or gives up on a
    // connection attempt whose address the kernel has copied by then.
    unsafe { ring.submission().push(entry) }.map_err(io::Error::other)?;
    let patience = types::Timespec::from(timeout);
    let arguments = types::SubmitArgs::new().timespec(&patience);
    if let Err(error) = ring.submitter().submit_with_args(1, &arguments) {
        return Err(match error.raw_os_error() {
            Some(libc::ETIME) => io::ErrorKind::TimedOut.into(),
            _ => error,
        });
    }
    let done = ring.completion().next().ok_or(io::ErrorKind::TimedOut)?;
    match done.result() {
        result if result < 0 => Err(io::Error::from_raw_os_error(-result)),
        result => Ok(result),
    }
}

/// A listener beside others on the same address and port.
///
/// # Errors
/// The kernel's.
pub fn listener_beside(at: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = sys::socket(family(at), libc::SOCK_STREAM, 0)?;
    sys::set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    sys::bind(&socket, at)?;
    listen(&socket)?;
    Ok(socket.into())
}

/// Takes another process' socket by its local address, as if it had been passed over a unix socket: both make a new
/// reference to the same socket, and neither changes what it is.
///
/// # Errors
/// The kernel's; `NotFound` if that process has no such socket.
pub fn taken_over(pid: u32, local: SocketAddr) -> io::Result<OwnedFd> {
    let mut found = None;
    take(pid, |socket| {
        let socket = TcpStream::from(socket);
        let fits = socket.local_addr().is_ok_and(|address| address == local);
        found = fits.then(|| socket.into());
        fits
    })?;
    found.ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Takes another process' packet socket in the same way.
///
/// # Errors
/// As [`taken_over`].
pub fn taken_packet_socket(pid: u32) -> io::Result<OwnedFd> {
    let mut found = None;
    take(pid, |socket| {
        let domain = sys::option(&socket, libc::SOL_SOCKET, libc::SO_DOMAIN);
        let fits = domain.is_ok_and(|domain| domain == libc::AF_PACKET);
        found = fits.then_some(socket);
        fits
    })?;
    found.ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Copies one descriptor of another process after the other until one `fits`.
fn take(pid: u32, mut fits: impl FnMut(OwnedFd) -> bool) -> io::Result<()> {
    // SAFETY: no memory is passed.
    let process = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if process < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
    let process = unsafe { OwnedFd::from_raw_fd(process as i32) };
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
        let Ok(number) = entry.file_name().to_string_lossy().parse::<i32>() else {
            continue;
        };
        // SAFETY: no memory is passed.
        let copy = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) };
        if copy < 0 {
            continue;
        }
        // SAFETY: as above.
        if fits(unsafe { OwnedFd::from_raw_fd(copy as i32) }) {
            break;
        }
    }
    Ok(())
}
