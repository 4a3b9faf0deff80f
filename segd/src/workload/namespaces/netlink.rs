//! Addresses of network namespaces, asked from outside by routing netlink.
//!
//! The kernel lets who has CAP_NET_ADMIN over a namespace ask for its addresses by a number (`IFA_TARGET_NETNSID`), and
//! give it that number by a process in it or a file of it (`RTM_NEWNSID`). Nobody has to go there.

use std::{
    cell::Cell,
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use segd_common::address::{self, Address};

pub use read::Device;
pub use read::Held;
pub(super) use read::Leads;
use read::{Answer, attributes, device, held, route};

mod read;

/// include/uapi/linux/rtnetlink.h, net_namespace.h and if_addr.h.
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNSID: u16 = 88;
const RTM_GETNSID: u16 = 90;
const NETNSA_NSID: u16 = 1;
const NETNSA_PID: u16 = 2;
const NETNSA_FD: u16 = 3;
const IFA_TARGET_NETNSID: u16 = 10;
const IFLA_TARGET_NETNSID: u16 = 46;
const RTA_DST: u16 = 1;
/// include/uapi/linux/netlink.h.
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const DUMP_INTR: u16 = 0x10;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTMGRP_IPV6_ROUTE: libc::c_int = 0x400;
const NETLINK_LISTEN_ALL_NSID: libc::c_int = 8;
const NETLINK_GET_STRICT_CHK: libc::c_int = 12;
const HEADER: usize = 16;

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
pub(super) struct Netlink {
    socket: OwnedFd,
    /// How many requests were sent.
    asked: Cell<u32>,
}

/// What there is of one kind.
#[derive(Debug)]
pub(super) struct Dump<T> {
    /// All, as far as it was told.
    pub all: Vec<T>,
    /// It did not change while it was told.
    pub is_whole: bool,
}

impl<T> Dump<T> {
    /// All of it.
    pub fn whole(self) -> io::Result<Vec<T>> {
        if self.is_whole {
            return Ok(self.all);
        }
        Err(io::Error::new(
            io::ErrorKind::Interrupted,
            "it changed while it was listed",
        ))
    }
}

/// A socket that hears of links and addresses, and one that hears of this namespace's routes.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    routes: OwnedFd,
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
        let groups = libc::RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE;
        Ok(Listener {
            socket,
            routes: self::socket(groups as u32)?,
            everywhere,
        })
    }

    /// The socket that hears of routes.
    pub(super) fn routes(&self) -> i32 {
        self.routes.as_raw_fd()
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
        Ok(Netlink {
            socket,
            asked: Cell::new(0),
        })
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

    /// The addresses of a namespace and where it has them, tentative ones included, sorted. `None`: of this one.
    pub fn addresses(&self, number: Option<i32>) -> io::Result<Dump<Held>> {
        let mut found = Vec::new();
        let target = number.map(|number| (IFA_TARGET_NETNSID, number));
        let mut is_whole = true;
        for family in [libc::AF_INET, libc::AF_INET6] {
            let head = [family as u8, 0, 0, 0, 0, 0, 0, 0];
            is_whole &= self.ask(
                RTM_GETADDR,
                REQUEST | DUMP,
                &head,
                target.as_slice(),
                |kind, body| {
                    if kind == RTM_NEWADDR {
                        found.extend(held(body));
                    }
                },
            )?;
        }
        found.sort_unstable();
        found.dedup();
        Ok(Dump { all: found, is_whole })
    }

    /// The devices of a namespace. `None`: of this one.
    pub fn devices(&self, number: Option<i32>) -> io::Result<Dump<Device>> {
        let mut found = Vec::new();
        let target = number.map(|number| (IFLA_TARGET_NETNSID, number));
        let is_whole = self.ask(
            RTM_GETLINK,
            REQUEST | DUMP,
            &[0; 16],
            target.as_slice(),
            |kind, body| {
                if kind == RTM_NEWLINK {
                    found.extend(device(body));
                }
            },
        )?;
        Ok(Dump { all: found, is_whole })
    }

    /// Where the routes of this namespace lead an address.
    pub fn route(&self, to: &Address) -> Leads {
        let (family, bytes) = if address::is_v4(to) {
            (libc::AF_INET, &to[12..])
        } else {
            (libc::AF_INET6, &to[..])
        };
        // struct rtmsg: family, length of the destination, the rest zero.
        let head = [
            family as u8,
            (bytes.len() * 8) as u8,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
        ];
        let mut leads = Leads::Nowhere;
        let asked = self.ask_for(
            RTM_GETROUTE,
            REQUEST | ACK,
            &head,
            &[(RTA_DST, bytes)],
            |kind, body| {
                if kind == RTM_NEWROUTE {
                    leads = route(body);
                }
            },
        );
        asked.map_or(Leads::Nowhere, |_| leads)
    }

    /// As [`Netlink::ask_for`], with attributes that are numbers.
    fn ask(
        &self,
        kind: u16,
        flags: u16,
        head: &[u8],
        attributes: &[(u16, i32)],
        each: impl FnMut(u16, &[u8]),
    ) -> io::Result<bool> {
        let bytes: Vec<(u16, [u8; 4])> = attributes
            .iter()
            .map(|(kind, value)| (*kind, value.to_ne_bytes()))
            .collect();
        let attributes: Vec<(u16, &[u8])> = bytes.iter().map(|(kind, value)| (*kind, &value[..])).collect();
        self.ask_for(kind, flags, head, &attributes, each)
    }

    /// Sends a request and hands every answer to `each`: its type and its body. The values of attributes are whole words. Whether
    /// what was listed did not change meanwhile.
    fn ask_for(
        &self,
        kind: u16,
        flags: u16,
        head: &[u8],
        attributes: &[(u16, &[u8])],
        mut each: impl FnMut(u16, &[u8]),
    ) -> io::Result<bool> {
        let values: usize = attributes.iter().map(|(_, value)| 4 + value.len()).sum();
        let len = HEADER + head.len() + values;
        let number = self.asked.get().wrapping_add(1);
        self.asked.set(number);
        let mut request = Vec::with_capacity(len);
        request.extend((len as u32).to_ne_bytes());
        request.extend(kind.to_ne_bytes());
        request.extend(flags.to_ne_bytes());
        request.extend(number.to_ne_bytes());
        request.extend([0; 4]);
        request.extend(head);
        for (kind, value) in attributes {
            request.extend((4 + value.len() as u16).to_ne_bytes());
            request.extend(kind.to_ne_bytes());
            request.extend(*value);
        }
        let socket = self.socket.as_raw_fd();
        // SAFETY: the bytes are ours, as long as stated, and outlive the call.
        uninterrupted(|| unsafe { libc::send(socket, request.as_ptr().cast(), request.len(), 0) })?;
        let mut buffer = vec![0_u8; 64 << 10];
        let mut answer = Answer::to(number);
        loop {
            // SAFETY: the buffer is ours, as long as stated, and outlives the call.
            let read =
                uninterrupted(|| unsafe { libc::recv(socket, buffer.as_mut_ptr().cast(), buffer.len(), 0) })?;
            if let Some(end) = answer.read(buffer.get(..read).unwrap_or_default(), &mut each) {
                return end;
            }
        }
    }
}

/// A call that signals may interrupt, until it comes to something.
fn uninterrupted(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        if let Ok(done) = usize::try_from(call()) {
            return Ok(done);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_answer_that_was_given_up_left_behind_is_not_taken_for_another() {
        let netlink = Netlink::open().unwrap();
        // A dump of addresses whose answer nobody reads.
        let mut request = Vec::new();
        request.extend(24_u32.to_ne_bytes());
        request.extend(RTM_GETADDR.to_ne_bytes());
        request.extend((REQUEST | DUMP).to_ne_bytes());
        request.extend(77_u32.to_ne_bytes());
        request.extend([0; 4]);
        request.extend([libc::AF_INET as u8, 0, 0, 0, 0, 0, 0, 0]);
        let socket = netlink.socket.as_raw_fd();
        // SAFETY: the bytes are ours, as long as stated, and outlive the call.
        uninterrupted(|| unsafe { libc::send(socket, request.as_ptr().cast(), request.len(), 0) }).unwrap();
        let has_loopback = |asked: &Netlink| {
            let devices = asked.devices(None).and_then(Dump::whole);
            devices.map(|devices| devices.iter().any(|device| device.is_loopback))
        };
        // It may be busy with the first yet, and then says so.
        let busy = has_loopback(&netlink).map_err(|error| error.raw_os_error());
        assert!(matches!(busy, Ok(true) | Err(Some(libc::EBUSY))), "{busy:?}");
        assert!(has_loopback(&netlink).unwrap(), "it has recovered");
    }
}
