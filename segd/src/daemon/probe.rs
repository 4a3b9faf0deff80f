//! The live probe: a datagram that must be refused.
//!
//! A child process enters a cgroup of its own, makes a socket there and hands it over: the socket keeps the cgroup's
//! identity, which is in no segment and is never allowed anything, in audit mode neither. If its datagram gets out,
//! nothing is enforced, whatever the links say.

use std::{
    fs, io,
    net::UdpSocket,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::{fs::MetadataExt as _, net::UnixStream},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::workload::{cgroupfs::CgroupRoot, own::places};

/// The environment variable that tells the child its cgroup.
const CGROUP: &str = "SEGD_PROBE_CGROUP";

/// A socket that must not be able to send.
#[derive(Debug)]
pub struct Probe {
    socket: UdpSocket,
    target: UdpSocket,
    /// Its cgroup's id.
    pub cgroup: u64,
}

/// What a probe showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probed {
    /// It was refused, as it must be.
    Refused,
    /// It got out.
    Passed,
    /// It failed for another reason, which proves nothing.
    Unclear,
}

impl Probe {
    /// Makes the probe's socket.
    ///
    /// # Errors
    ///
    /// The cgroup cannot be made, or the child fails.
    pub fn start(root: &CgroupRoot) -> io::Result<Probe> {
        let mut made = Err(io::Error::from(io::ErrorKind::NotFound));
        for place in places(root) {
            made = at(&place.join(format!("segd-probe-{}", std::process::id())));
            if made.is_ok() {
                break;
            }
        }
        let (socket, cgroup) = made?;
        let target = UdpSocket::bind("127.0.0.1:0")?;
        target.set_nonblocking(true)?;
        socket.set_nonblocking(true)?;
        Ok(Probe {
            socket,
            target,
            cgroup,
        })
    }

    /// Tries to send.
    #[must_use]
    pub fn send(&self) -> Probed {
        let mut buffer = [0; 8];
        while self.target.recv(&mut buffer).is_ok() {}
        let Ok(to) = self.target.local_addr() else {
            return Probed::Unclear;
        };
        match self.socket.send_to(b"probe", to) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => Probed::Refused,
            Err(_) => Probed::Unclear,
            Ok(_) => Probed::Passed,
        }
    }
}

/// Makes the socket in a cgroup that is there for this moment alone.
fn at(directory: &Path) -> io::Result<(UdpSocket, u64)> {
    fs::create_dir(directory)?;
    let made = make(directory);
    // The socket keeps the cgroup's identity without its directory, and a daemon that is killed leaves none.
    fs::remove_dir(directory)?;
    made
}

fn make(directory: &Path) -> io::Result<(UdpSocket, u64)> {
    let cgroup = fs::metadata(directory)?.ino();
    let (ours, theirs) = UnixStream::pair()?;
    let mut child = Command::new("/proc/self/exe")
        .arg("probe")
        .env(CGROUP, directory)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .spawn()?;
    let received = receive(&ours);
    let status = child.wait()?;
    let socket = received?;
    if !status.success() {
        return Err(io::Error::other(format!("its process ended with {status}")));
    }
    Ok((UdpSocket::from(socket), cgroup))
}

/// What the child does: enter, make a socket, hand it over.
///
/// # Errors
///
/// Any step of it.
pub fn child() -> io::Result<()> {
    let directory = std::env::var_os(CGROUP).ok_or_else(|| io::Error::other("this is for segd's own use"))?;
    fs::write(PathBuf::from(directory).join("cgroup.procs"), "0")?;
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    send(&socket)
}

/// Room for one descriptor's control message, aligned as the kernel wants it.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Sends a socket over standard input, which is a unix socket.
fn send(socket: &UdpSocket) -> io::Result<()> {
    let mut byte = [0_u8];
    let mut part = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    let mut control = Control([0; 64]);
    // SAFETY: a message of one live byte and one control message that fits its buffer.
    let sent = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(4) as usize;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(4) as usize;
        libc::CMSG_DATA(header)
            .cast::<i32>()
            .write_unaligned(socket.as_raw_fd());
        libc::sendmsg(0, &raw const message, 0)
    };
    if sent < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Receives a socket.
fn receive(stream: &UnixStream) -> io::Result<OwnedFd> {
    let mut byte = [0_u8];
    let mut part = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    let mut control = Control([0; 64]);
    // SAFETY: a message of one live byte and a live control buffer; the header is checked before it is read.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = control.0.len();
        if libc::recvmsg(stream.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) <= 0 {
            return Err(io::Error::other("its process handed nothing over"));
        }
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        if header.is_null() || (*header).cmsg_type != libc::SCM_RIGHTS {
            return Err(io::Error::other("its process handed no socket over"));
        }
        Ok(OwnedFd::from_raw_fd(
            libc::CMSG_DATA(header).cast::<i32>().read_unaligned(),
        ))
    }
}
