//! Addresses of network namespaces, asked from outside by routing netlink.
//!
//! The kernel lets who has CAP_NET_ADMIN over a namespace ask for its addresses by a number (`IFA_TARGET_NETNSID`), and
//! give it that number by a process in it or a file of it (`RTM_NEWNSID`). Nobody has to go there.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use segd_common::address::{Address, mapped};

/// include/uapi/linux/rtnetlink.h, net_namespace.h and if_addr.h.
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWNSID: u16 = 88;
const RTM_GETNSID: u16 = 90;
const NETNSA_NSID: u16 = 1;
const NETNSA_PID: u16 = 2;
const NETNSA_FD: u16 = 3;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_TARGET_NETNSID: u16 = 10;
/// include/uapi/linux/netlink.h.
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NETLINK_LISTEN_ALL_NSID: libc::c_int = 8;
const NETLINK_GET_STRICT_CHK: libc::c_int = 12;
const HEADER: usize = 16;

/// A network device of this namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What made it (`veth`, `vxlan`, …); empty for hardware.
    pub kind: String,
    /// It is loopback.
    pub is_loopback: bool,
    /// The number of the namespace that its other end is in, where that is another one.
    pub other_end: Option<i32>,
}

/// How a namespace is named to the kernel.
#[derive(Clone, Copy, Debug)]
pub(super) enum By<'a> {
    /// By a task in it.
    Task(u32),
    /// By a file of it.
    File(BorrowedFd<'a>),
}

/// A socket to ask on.
#[derive(Debug)]
pub(super) struct Netlink(OwnedFd);

/// A socket that hears of links and addresses.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    /// In every namespace that has a number, not just in this one.
    pub everywhere: bool,
}

impl Listener {
    /// Listens in every namespace, if the process may (CAP_NET_BROADCAST, which it does not need afterwards: the kernel
    /// remembers who opened the socket), else in its own.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn open() -> io::Result<Listener> {
        let groups = libc::RTMGRP_LINK | libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR;
        let socket = socket(groups as u32)?;
        let everywhere = option(&socket, NETLINK_LISTEN_ALL_NSID).is_ok();
        Ok(Listener { socket, everywhere })
    }

    /// The socket.
    pub(super) fn as_raw_fd(&self) -> i32 {
        self.socket.as_raw_fd()
    }
}

impl Netlink {
    pub fn open() -> io::Result<Netlink> {
        let socket = socket(0)?;
        // Without it the kernel would not look at which namespace is meant, and tell of this one.
        option(&socket, NETLINK_GET_STRICT_CHK)?;
        Ok(Netlink(socket))
    }

    /// A namespace's number as this one knows it; one is given if there is none.
    pub fn number(&self, by: By<'_>) -> io::Result<i32> {
        if let Some(number) = self.known_number(by)? {
            return Ok(number);
        }
        match self.ask(
            RTM_NEWNSID,
            REQUEST | ACK,
            &[0; 4],
            &[by.attribute(), (NETNSA_NSID, -1)],
            |_, _| {},
        ) {
            // Somebody else was faster.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        self.known_number(by)?
            .ok_or_else(|| io::Error::other("the namespace got no number"))
    }

    fn known_number(&self, by: By<'_>) -> io::Result<Option<i32>> {
        let mut number = None;
        self.ask(
            RTM_GETNSID,
            REQUEST | ACK,
            &[0; 4],
            &[by.attribute()],
            |kind, body| {
                if kind == RTM_NEWNSID {
                    let told =
                        attributes(body.get(4..).unwrap_or_default()).find(|(kind, _)| *kind == NETNSA_NSID);
                    number = told.and_then(|(_, value)| Some(i32::from_ne_bytes(value.try_into().ok()?)));
                }
            },
        )?;
        Ok(number.filter(|number| *number >= 0))
    }

    /// The addresses of a namespace, tentative ones included, sorted. `None`: of this one.
    pub fn addresses(&self, number: Option<i32>) -> io::Result<Vec<Address>> {
        let mut found = Vec::new();
        let target = number.map(|number| (IFA_TARGET_NETNSID, number));
        for family in [libc::AF_INET, libc::AF_INET6] {
            let head = [family as u8, 0, 0, 0, 0, 0, 0, 0];
            self.ask(
                RTM_GETADDR,
                REQUEST | DUMP,
                &head,
                target.as_slice(),
                |kind, body| {
                    if kind == RTM_NEWADDR {
                        found.extend(address(body));
                    }
                },
            )?;
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// The devices of this namespace.
    pub fn devices(&self) -> io::Result<Vec<Device>> {
        let mut found = Vec::new();
        self.ask(RTM_GETLINK, REQUEST | DUMP, &[0; 16], &[], |kind, body| {
            if kind == RTM_NEWLINK {
                found.extend(device(body));
            }
        })?;
        Ok(found)
    }

    /// Sends a request and hands every answer to `each`: its type and its body.
    fn ask(
        &self,
        kind: u16,
        flags: u16,
        head: &[u8],
        attributes: &[(u16, i32)],
        mut each: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        let len = HEADER + head.len() + attributes.len() * 8;
        let mut request = Vec::with_capacity(len);
        request.extend((len as u32).to_ne_bytes());
        request.extend(kind.to_ne_bytes());
        request.extend(flags.to_ne_bytes());
        request.extend([0; 8]);
        request.extend(head);
        for (kind, value) in attributes {
            request.extend(8_u16.to_ne_bytes());
            request.extend(kind.to_ne_bytes());
            request.extend(value.to_ne_bytes());
        }
        // SAFETY: the bytes are ours, as long as stated, and outlive the call.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), request.as_ptr().cast(), request.len(), 0) };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut buffer = vec![0_u8; 64 << 10];
        loop {
            // SAFETY: the buffer is ours, as long as stated, and outlives the call.
            let read = unsafe { libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
            if read < 0 {
                return Err(io::Error::last_os_error());
            }
            let mut rest = buffer.get(..read as usize).unwrap_or_default();
            while let Some((kind, body, next)) = message(rest) {
                match kind {
                    NLMSG_ERROR | NLMSG_DONE => return result(body),
                    _ => each(kind, body),
                }
                rest = next;
            }
        }
    }
}

impl By<'_> {
    fn attribute(&self) -> (u16, i32) {
        match self {
            By::Task(number) => (NETNSA_PID, *number as i32),
            By::File(file) => (NETNSA_FD, file.as_raw_fd()),
        }
    }
}

/// The first message: its type, its body, and what comes after it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let len = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let body = bytes.get(HEADER..len)?;
    Some((
        kind,
        body,
        bytes.get(len.next_multiple_of(4)..).unwrap_or_default(),
    ))
}

/// What an error message says: 0 is the acknowledgement. The end of a dump may say it, too.
fn result(body: &[u8]) -> io::Result<()> {
    let code = body
        .get(..4)
        .and_then(|code| code.try_into().ok())
        .map_or(0, i32::from_ne_bytes);
    if code < 0 {
        return Err(io::Error::from_raw_os_error(-code));
    }
    Ok(())
}

fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// `struct ifinfomsg` and what follows it.
fn device(body: &[u8]) -> Option<Device> {
    const IFF_LOOPBACK: u32 = 8;
    const IFLA_IFNAME: u16 = 3;
    const IFLA_LINKINFO: u16 = 18;
    const IFLA_INFO_KIND: u16 = 1;
    const IFLA_LINK_NETNSID: u16 = 37;
    /// `NLA_F_NESTED` and its like.
    const FLAGS: u16 = 0xc000;
    let text = |value: &[u8]| String::from_utf8_lossy(value).trim_end_matches('\0').to_owned();
    let word = |at: usize| Some(u32::from_ne_bytes(body.get(at..at + 4)?.try_into().ok()?));
    let mut device = Device {
        index: word(4)?,
        is_loopback: word(8)? & IFF_LOOPBACK != 0,
        ..Device::default()
    };
    for (kind, value) in attributes(body.get(16..)?) {
        match kind & !FLAGS {
            IFLA_IFNAME => device.name = text(value),
            IFLA_LINKINFO => {
                let kind = attributes(value).find(|(kind, _)| *kind == IFLA_INFO_KIND);
                device.kind = kind.map(|(_, value)| text(value)).unwrap_or_default();
            }
            IFLA_LINK_NETNSID => device.other_end = value.try_into().ok().map(i32::from_ne_bytes),
            _ => {}
        }
    }
    Some(device)
}

/// The interface's own address: `IFA_ADDRESS` is the other side's on a point-to-point link.
fn address(body: &[u8]) -> Option<Address> {
    let mut found = None;
    for (kind, value) in attributes(body.get(8..)?) {
        if kind == IFA_LOCAL || kind == IFA_ADDRESS && found.is_none() {
            found = match value.len() {
                4 => Some(mapped(value.try_into().ok()?)),
                16 => Some(value.try_into().ok()?),
                _ => None,
            };
        }
    }
    found
}

/// A routing netlink socket in this namespace.
fn socket(groups: u32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the result is checked.
    let socket = unsafe {
        libc::socket(
            libc::AF_NETLINK,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            libc::NETLINK_ROUTE,
        )
    };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: all zeros is a valid `sockaddr_nl`.
    let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
    address.nl_groups = groups;
    let len = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
    // SAFETY: the address is ours, as long as stated, and outlives the call.
    let status = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}

/// Turns a netlink option on.
fn option(socket: &OwnedFd, name: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the value is ours, as long as stated, and outlives the call.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_NETLINK,
            name,
            (&raw const on).cast(),
            len,
        )
    };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
