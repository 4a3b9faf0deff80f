//! A socket made to order and one message sent by it: what an attacker does with socket options and raw sockets.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd as _, OwnedFd},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::sys;

/// How the socket is made, and what it sends.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Craft {
    family: i32,
    kind: i32,
    protocol: i32,
    options: Vec<(i32, i32, Vec<u8>)>,
    bind: Option<SocketAddr>,
    /// `IP_PKTINFO`, `IPV6_PKTINFO`: the source of this message.
    source: Option<IpAddr>,
    connect: bool,
    to: SocketAddr,
    data: Vec<u8>,
}

impl Craft {
    fn new(kind: i32, protocol: i32, to: SocketAddr, data: &[u8]) -> Craft {
        Craft {
            family: if to.is_ipv4() {
                libc::AF_INET
            } else {
                libc::AF_INET6
            },
            kind,
            protocol,
            options: Vec::new(),
            bind: None,
            source: None,
            connect: kind == libc::SOCK_STREAM,
            to,
            data: data.to_vec(),
        }
    }

    /// A datagram.
    #[must_use]
    pub fn udp(to: impl Into<SocketAddr>, token: &str) -> Craft {
        Craft::new(libc::SOCK_DGRAM, 0, to.into(), token.as_bytes())
    }

    /// A datagram that is no text.
    #[must_use]
    pub fn datagram(to: impl Into<SocketAddr>, payload: &[u8]) -> Craft {
        Craft::new(libc::SOCK_DGRAM, 0, to.into(), payload)
    }

    /// A connection and what it carries first.
    #[must_use]
    pub fn tcp(to: impl Into<SocketAddr>, token: &str) -> Craft {
        Craft::new(libc::SOCK_STREAM, 0, to.into(), token.as_bytes())
    }

    /// The payload of an IP packet.
    #[must_use]
    pub fn raw(to: impl Into<IpAddr>, protocol: i32, payload: &[u8]) -> Craft {
        Craft::new(libc::SOCK_RAW, protocol, SocketAddr::new(to.into(), 0), payload)
    }

    /// A whole IP packet, its header included.
    #[must_use]
    pub fn packet(to: impl Into<IpAddr>, packet: &[u8]) -> Craft {
        Craft::raw(to, libc::IPPROTO_RAW, packet)
    }

    /// Sets a socket option first.
    #[must_use]
    pub fn option(mut self, level: i32, name: i32, value: &[u8]) -> Craft {
        self.options.push((level, name, value.to_vec()));
        self
    }

    /// Sets an integer option first.
    #[must_use]
    pub fn flag(self, level: i32, name: i32, value: i32) -> Craft {
        self.option(level, name, &value.to_ne_bytes())
    }

    /// Binds first.
    #[must_use]
    pub fn bind(mut self, to: impl Into<SocketAddr>) -> Craft {
        self.bind = Some(to.into());
        self
    }

    /// Chooses the source of the message.
    #[must_use]
    pub fn source(mut self, source: impl Into<IpAddr>) -> Craft {
        self.source = Some(source.into());
        self
    }

    /// Connects, then sends.
    #[must_use]
    pub fn connected(mut self) -> Craft {
        self.connect = true;
        self
    }

    /// Does it.
    ///
    /// # Errors
    /// The kernel's, of whichever call refuses first.
    pub fn send(&self) -> io::Result<()> {
        let socket = sys::socket(self.family, self.kind, self.protocol)?;
        // A denied connect must not hang.
        sys::set_send_timeout(&socket, Duration::from_millis(400))?;
        for (level, name, value) in &self.options {
            sys::set_bytes(&socket, *level, *name, value)?;
        }
        if let Some(address) = self.bind {
            sys::bind(&socket, address)?;
        }
        if self.connect {
            sys::connect(&socket, self.to)?;
        }
        match (self.source, self.connect) {
            (Some(source), _) => send_from(&socket, source, self.to, &self.data),
            (None, true) => sys::send(&socket, &self.data),
            (None, false) => sys::send_to(&socket, &self.data, self.to),
        }
    }
}

/// `sendmsg` with the source address in a control message.
fn send_from(socket: &OwnedFd, source: IpAddr, to: SocketAddr, data: &[u8]) -> io::Result<()> {
    let (level, kind, info) = match source {
        IpAddr::V4(source) => {
            // struct in_pktinfo: interface, ipi_spec_dst, ipi_addr.
            let mut info = vec![0; 4];
            info.extend(source.octets());
            info.extend([0; 4]);
            (libc::IPPROTO_IP, libc::IP_PKTINFO, info)
        }
        IpAddr::V6(source) => {
            let mut info = source.octets().to_vec();
            info.extend([0; 4]);
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info)
        }
    };
    let (mut name, length) = sys::sockaddr(to);
    let mut vector = libc::iovec {
        iov_base: data.as_ptr().cast_mut().cast(),
        iov_len: data.len(),
    };
    // Aligned for its header.
    let mut control = [0_u64; 8];
    // SAFETY: all zeroes is a valid msghdr; every pointer in it outlives the call; the control buffer has room for one
    // header and 20 bytes.
    let sent = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_name = (&raw mut name).cast();
        message.msg_namelen = length;
        message.msg_iov = &raw mut vector;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(info.len() as u32) as usize;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = level;
        (*header).cmsg_type = kind;
        (*header).cmsg_len = libc::CMSG_LEN(info.len() as u32) as usize;
        std::ptr::copy_nonoverlapping(info.as_ptr(), libc::CMSG_DATA(header), info.len());
        libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL)
    };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
