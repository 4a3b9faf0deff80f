//! The few system calls that std does not have.

use std::{
    fs::File,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

/// The errno's name, for people and for asserts.
#[must_use]
pub fn errno_name(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM) => "EPERM".into(),
        Some(libc::EACCES) => "EACCES".into(),
        Some(libc::ECONNREFUSED) => "ECONNREFUSED".into(),
        Some(libc::ECONNRESET) => "ECONNRESET".into(),
        Some(libc::EPIPE) => "EPIPE".into(),
        Some(libc::ETIMEDOUT) => "ETIMEDOUT".into(),
        Some(libc::EHOSTUNREACH) => "EHOSTUNREACH".into(),
        Some(libc::ENETUNREACH) => "ENETUNREACH".into(),
        Some(libc::EAGAIN) => "EAGAIN".into(),
        Some(libc::EADDRINUSE) => "EADDRINUSE".into(),
        Some(libc::EADDRNOTAVAIL) => "EADDRNOTAVAIL".into(),
        Some(libc::EMSGSIZE) => "EMSGSIZE".into(),
        Some(number) => format!("errno {number}"),
        None if error.kind() == io::ErrorKind::TimedOut => "ETIMEDOUT".into(),
        None => error.to_string(),
    }
}

/// Whether the process is root.
#[must_use]
pub fn is_root() -> bool {
    // SAFETY: geteuid has no preconditions.
    unsafe { libc::geteuid() == 0 }
}

/// Enters the network namespace behind `path`.
///
/// # Errors
/// The kernel's.
pub fn enter_netns(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    // SAFETY: the descriptor is open for the duration of the call.
    if unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Becomes nobody: uid and gid 65534, without any privilege.
///
/// # Errors
/// The kernel's.
pub fn become_nobody() -> io::Result<()> {
    const NOBODY: u32 = 65_534;
    // SAFETY: no memory is passed but an empty list.
    let failed = unsafe {
        libc::setgroups(0, std::ptr::null()) != 0
            || libc::setresgid(NOBODY, NOBODY, NOBODY) != 0
            || libc::setresuid(NOBODY, NOBODY, NOBODY) != 0
    };
    if failed {
        return Err(io::Error::last_os_error());
    }
    // The kernel forgets it with the identity.
    die_with_parent();
    Ok(())
}

/// The process dies with the thread that started it.
pub fn die_with_parent() {
    // SAFETY: prctl with these arguments touches no memory.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

/// Lifts the limit of open files to its hard limit.
pub fn raise_file_limit() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` lives across both calls.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

/// Sends a signal.
pub fn kill(pid: u32, signal: i32) {
    // SAFETY: kill touches no memory; pids here are children of ours.
    unsafe { libc::kill(pid.cast_signed(), signal) };
}

/// A socket.
///
/// # Errors
/// The kernel's.
pub fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// An address as the kernel takes it.
#[must_use]
pub fn sockaddr(to: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: all zeroes is a valid sockaddr_storage.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let length = match to {
        SocketAddr::V4(v4) => {
            let address = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr {
                    s_addr: u32::from_ne_bytes(v4.ip().octets()),
                },
                sin_zero: [0; 8],
            };
            // SAFETY: sockaddr_storage is larger and aligned for every sockaddr.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in>().write(address) };
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            let address = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr {
                    s6_addr: v6.ip().octets(),
                },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: as above.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in6>().write(address) };
            size_of::<libc::sockaddr_in6>()
        }
    };
    (storage, length as libc::socklen_t)
}

/// `sendto`.
///
/// # Errors
/// The kernel's.
pub fn send_to(fd: &OwnedFd, data: &[u8], to: SocketAddr) -> io::Result<()> {
    send_with(fd, data, to, 0)
}

/// `sendto` with flags.
///
/// # Errors
/// The kernel's.
pub fn send_with(fd: &OwnedFd, data: &[u8], to: SocketAddr, flags: i32) -> io::Result<()> {
    let (storage, length) = sockaddr(to);
    // SAFETY: both buffers live across the call and their lengths are right.
    let sent = unsafe {
        libc::sendto(
            fd.as_raw_fd(),
            data.as_ptr().cast(),
            data.len(),
            libc::MSG_NOSIGNAL | flags,
            (&raw const storage).cast(),
            length,
        )
    };
    if sent < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// `connect`.
///
/// # Errors
/// The kernel's.
pub fn connect(fd: &OwnedFd, to: SocketAddr) -> io::Result<()> {
    let (storage, length) = sockaddr(to);
    // SAFETY: the address lives across the call and its length is right.
    if unsafe { libc::connect(fd.as_raw_fd(), (&raw const storage).cast(), length) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A TCP socket that is bound and connected.
///
/// # Errors
/// The kernel's, of whichever call refuses first.
pub fn connected_from(from: SocketAddr, to: SocketAddr, timeout: std::time::Duration) -> io::Result<OwnedFd> {
    let family = if to.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let fd = socket(family, libc::SOCK_STREAM, 0)?;
    set_send_timeout(&fd, timeout)?;
    bind(&fd, from)?;
    connect(&fd, to)?;
    Ok(fd)
}

/// `bind`.
///
/// # Errors
/// The kernel's.
pub fn bind(fd: &OwnedFd, to: SocketAddr) -> io::Result<()> {
    let (storage, length) = sockaddr(to);
    // SAFETY: the address lives across the call and its length is right.
    if unsafe { libc::bind(fd.as_raw_fd(), (&raw const storage).cast(), length) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// How long `connect` and `send` may take.
///
/// # Errors
/// The kernel's.
pub fn set_send_timeout(fd: &OwnedFd, timeout: std::time::Duration) -> io::Result<()> {
    let value = libc::timeval {
        tv_sec: timeout.as_secs() as libc::time_t,
        tv_usec: libc::suseconds_t::from(timeout.subsec_micros()),
    };
    // SAFETY: the value lives across the call and its size is right.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_SNDTIMEO,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Receives one packet, or `None` at the deadline.
///
/// # Errors
/// The kernel's.
pub fn receive(fd: &OwnedFd, buffer: &mut [u8], deadline: Instant) -> io::Result<Option<usize>> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut poll = libc::pollfd {
            fd: fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one valid pollfd.
        let ready = unsafe { libc::poll(&raw mut poll, 1, left.as_millis() as i32) };
        if ready < 0 {
            return Err(io::Error::last_os_error());
        }
        if ready == 0 {
            return Ok(None);
        }
        // SAFETY: the buffer lives across the call.
        let read = unsafe {
            libc::recv(
                fd.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                libc::MSG_DONTWAIT,
            )
        };
        if read >= 0 {
            return Ok(Some(read as usize));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::WouldBlock {
            return Err(error);
        }
    }
}

/// Sends on a connected socket.
///
/// # Errors
/// The kernel's.
pub fn send(fd: &OwnedFd, data: &[u8]) -> io::Result<()> {
    // SAFETY: the buffer lives across the call.
    let sent = unsafe {
        libc::send(
            fd.as_raw_fd(),
            data.as_ptr().cast(),
            data.len(),
            libc::MSG_NOSIGNAL,
        )
    };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Sets a socket option given as bytes.
///
/// # Errors
/// The kernel's.
pub fn set_bytes(fd: &impl AsRawFd, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    // SAFETY: the value lives across the call and its length is right.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            value.as_ptr().cast(),
            value.len() as libc::socklen_t,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// An integer socket option.
///
/// # Errors
/// The kernel's.
pub fn option(fd: &OwnedFd, level: i32, name: i32) -> io::Result<i32> {
    let mut value = 0_i32;
    let mut length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the value and its length live across the call.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(value)
}

/// Sets an integer socket option.
///
/// # Errors
/// The kernel's.
pub fn set_option(fd: &OwnedFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: the value lives across the call and its size is right.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    if result != 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// A socket bound to an address and port that others may bind too, and that need not be here (CAP_NET_RAW).
fn bound(kind: i32, at: SocketAddr) -> io::Result<OwnedFd> {
    let family = if at.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let fd = socket(family, kind, 0)?;
    set_option(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    let (storage, length) = sockaddr(at);
    // SAFETY: the address lives across the call and its length is right.
    let bind = || unsafe { libc::bind(fd.as_raw_fd(), (&raw const storage).cast(), length) };
    if bind() != 0 {
        let (level, name) = if at.is_ipv4() {
            (libc::SOL_IP, libc::IP_TRANSPARENT)
        } else {
            (libc::SOL_IPV6, libc::IPV6_FREEBIND)
        };
        set_option(&fd, level, name, 1)?;
        if bind() != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(fd)
}

/// A datagram socket on an address and port that others may bind too; also on one that is not here.
///
/// # Errors
/// The kernel's.
pub fn share_udp(at: SocketAddr) -> io::Result<UdpSocket> {
    bound(libc::SOCK_DGRAM, at).map(UdpSocket::from)
}

/// Connects from an address and port of one's choice.
///
/// # Errors
/// The kernel's.
pub fn dial(from: SocketAddr, to: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::from(bound(libc::SOCK_STREAM, from)?);
    // On Linux the time for sending is the time for connecting too (socket(7)).
    stream.set_write_timeout(Some(timeout))?;
    let (storage, length) = sockaddr(to);
    // SAFETY: as above.
    if unsafe { libc::connect(stream.as_raw_fd(), (&raw const storage).cast(), length) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(stream)
}

/// Ends a connection with its process: without this, what a killed worker's peer never acknowledged is sent again by
/// nobody's socket, for minutes, and counted in the test that runs then.
///
/// Not with Multipath TCP: there a close as hard as this overtakes the end of the data, and the peer reads an error instead.
///
/// # Errors
/// The kernel's.
pub fn leave_nothing_behind(stream: &TcpStream) -> io::Result<()> {
    if is_multipath(stream)? {
        return Ok(());
    }
    // `struct linger`: on, for no second.
    let bytes = [1_i32.to_ne_bytes(), 0_i32.to_ne_bytes()].concat();
    set_bytes(stream, libc::SOL_SOCKET, libc::SO_LINGER, &bytes)
}

fn is_multipath(stream: &TcpStream) -> io::Result<bool> {
    let mut protocol: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: both places live across the call, and the length is that of the first.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PROTOCOL,
            (&raw mut protocol).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(protocol == libc::IPPROTO_MPTCP)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sets a segment routing header (RFC 8754) with one waypoint on a socket. Needs no privilege.
///
/// # Errors
/// The kernel's.
pub fn route_via(socket: &impl AsRawFd, via: Ipv6Addr) -> io::Result<()> {
    // Next header, length in units of 8, type 4, segments left, last entry, flags, tag; the destination's place; via.
    let mut header = vec![0, 4, 4, 1, 1, 0, 0, 0];
    header.extend([0; 16]);
    header.extend(via.octets());
    // SAFETY: the header lives across the call and its length is right.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IPV6,
            libc::IPV6_RTHDR,
            header.as_ptr().cast(),
            header.len() as libc::socklen_t,
        )
    };
    if result != 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Sends one echo request and waits for its reply. `ping_socket` chooses the datagram kind of socket.
///
/// # Errors
/// The kernel's; `TimedOut` when no reply came.
pub fn echo(
    to: IpAddr,
    identifier: u16,
    token: &[u8],
    timeout: Duration,
    ping_socket: bool,
) -> io::Result<()> {
    let kind = if ping_socket {
        libc::SOCK_DGRAM
    } else {
        libc::SOCK_RAW
    };
    let (family, protocol, request, reply) = match to {
        IpAddr::V4(_) => (libc::AF_INET, libc::IPPROTO_ICMP, 8u8, 0u8),
        IpAddr::V6(_) => (libc::AF_INET6, libc::IPPROTO_ICMPV6, 128, 129),
    };
    let fd = socket(family, kind, protocol)?;
    let mut packet = vec![request, 0, 0, 0];
    packet.extend(identifier.to_be_bytes());
    packet.extend(1u16.to_be_bytes());
    packet.extend(token);
    if to.is_ipv4() {
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    send_to(&fd, &packet, SocketAddr::new(to, 0))?;
    let deadline = Instant::now() + timeout;
    let mut buffer = [0u8; 2048];
    while let Some(length) = receive(&fd, &mut buffer, deadline)? {
        let mut answer = &buffer[..length];
        if to.is_ipv4() && !ping_socket && length >= 20 {
            answer = &answer[usize::from(answer[0] & 15) * 4..];
        }
        if answer.first() == Some(&reply) && answer.get(8..) == Some(token) {
            return Ok(());
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// Sends a UDP datagram made by hand on a raw socket.
///
/// # Errors
/// The kernel's.
pub fn raw_udp(to: SocketAddr, source_port: u16, token: &[u8]) -> io::Result<()> {
    let family = if to.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let fd = socket(family, libc::SOCK_RAW, libc::IPPROTO_UDP)?;
    if to.is_ipv6() {
        // The offset of the checksum: the kernel fills it in.
        set_option(&fd, libc::IPPROTO_IPV6, libc::IPV6_CHECKSUM, 6)?;
    }
    let mut packet = Vec::new();
    packet.extend(source_port.to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend((8 + token.len() as u16).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(token);
    send_to(&fd, &packet, SocketAddr::new(to.ip(), 0))
}

/// Sends a SYN made by hand on a raw socket. Its checksum is that of nobody: a hook looks at it before TCP does.
///
/// # Errors
/// The kernel's.
pub fn raw_syn(to: SocketAddr) -> io::Result<()> {
    let family = if to.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let fd = socket(family, libc::SOCK_RAW, libc::IPPROTO_TCP)?;
    send_to(&fd, &crate::wire::syn(to.port()), SocketAddr::new(to.ip(), 0))
}

/// Makes a TUN or TAP device (`IFF_TUN`, `IFF_TAP`); it lives as long as the file.
///
/// # Errors
/// The kernel's.
pub fn open_tun(name: &str, kind: i32) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let file = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")?;
    // SAFETY: all zeroes is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (kind | libc::IFF_NO_PI) as i16;
    // SAFETY: the request lives across the call.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
}

/// RFC 1071.
#[must_use]
pub fn checksum(data: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in data.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
