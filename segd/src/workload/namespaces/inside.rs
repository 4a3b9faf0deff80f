//! What must be asked inside a network namespace, and the threads that go there.

use std::{
    fs::File,
    io,
    mem::size_of,
    net::{Ipv4Addr, Ipv6Addr},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    ptr, thread,
};

use segd_common::address::{Address, mapped};

/// What a namespace says of itself.
#[derive(Debug)]
pub(super) struct Answer {
    pub inode: u64,
    pub cookie: u64,
    pub addresses: Vec<Address>,
}

/// Asks each namespace; those that do not answer are left out.
pub(super) fn ask(namespaces: Vec<File>) -> io::Result<Vec<Answer>> {
    visit(namespaces, |namespace| {
        Ok(Answer {
            inode: namespace.metadata()?.ino(),
            cookie: cookie()?,
            addresses: if is_delegated(namespace) {
                Vec::new()
            } else {
                addresses()?
            },
        })
    })
}

/// Opens in each namespace a socket that hears of links and addresses; it stays in that namespace.
pub(super) fn listen(namespaces: Vec<File>) -> io::Result<Vec<(u64, OwnedFd)>> {
    visit(namespaces, |namespace| {
        Ok((namespace.metadata()?.ino(), listener()?))
    })
}

/// Calls `inside` in each namespace, on a thread of its own that then ends: it never returns to other work.
fn visit<T: Send + 'static>(
    namespaces: Vec<File>,
    inside: impl Fn(&File) -> io::Result<T> + Send + 'static,
) -> io::Result<Vec<T>> {
    let thread = thread::Builder::new()
        .name("segd-netns".to_owned())
        .spawn(move || {
            let entered = namespaces.iter().filter(|namespace| {
                // SAFETY: no pointers. It moves this thread only.
                unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) == 0 }
            });
            entered.filter_map(|namespace| inside(namespace).ok()).collect()
        })?;
    thread
        .join()
        .map_err(|_| io::Error::other("the thread that visits namespaces ended early"))
}

/// Whether a network namespace belongs to another user namespace than segd's. Anybody may make one and give it any
/// address, the host's or another machine's: what such a namespace says of itself moves nobody else's traffic.
fn is_delegated(namespace: &File) -> bool {
    /// `NS_GET_USERNS`, ioctl_ns(2).
    const NS_GET_USERNS: libc::c_ulong = 0xb701;
    // SAFETY: no pointers; the descriptor is open. The result is a new descriptor or an error.
    let owner = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS as _) };
    if owner < 0 {
        // EPERM: its owner is no descendant of segd's user namespace.
        return io::Error::last_os_error().raw_os_error() == Some(libc::EPERM);
    }
    // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
    let owner = File::from(unsafe { OwnedFd::from_raw_fd(owner) });
    match (owner.metadata(), std::fs::metadata("/proc/self/ns/user")) {
        (Ok(owner), Ok(own)) => owner.ino() != own.ino(),
        _ => false,
    }
}

/// The cookie of the namespace the thread is in.
fn cookie() -> io::Result<u64> {
    /// `SO_NETNS_COOKIE`, since Linux 5.14.
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let socket = socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0)?;
    let mut cookie = 0_u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the value and its length are ours, fit each other, and outlive the call.
    let status = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            ptr::from_mut(&mut cookie).cast(),
            &mut len,
        )
    };
    if status == 0 {
        Ok(cookie)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The addresses of the namespace the thread is in, sorted.
fn addresses() -> io::Result<Vec<Address>> {
    let mut first: *mut libc::ifaddrs = ptr::null_mut();
    // SAFETY: the place for the list outlives the call.
    if unsafe { libc::getifaddrs(&mut first) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut addresses = Vec::new();
    let mut next = first;
    // SAFETY: null or an entry of the list, which lives until it is freed below.
    while let Some(entry) = unsafe { next.as_ref() } {
        addresses.extend(address(entry.ifa_addr));
        next = entry.ifa_next;
    }
    // SAFETY: the list of the call above, freed once; nothing of it is kept.
    unsafe { libc::freeifaddrs(first) };
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

fn address(address: *const libc::sockaddr) -> Option<Address> {
    // SAFETY: `getifaddrs` gives null or a valid `sockaddr`.
    let family = unsafe { address.as_ref() }?.sa_family;
    match i32::from(family) {
        libc::AF_INET => {
            // SAFETY: the family says which type it is; unaligned, so nothing is asked of its place.
            let v4 = unsafe { address.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(mapped(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)).octets()))
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { address.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(Ipv6Addr::from(v6.sin6_addr.s6_addr).octets())
        }
        _ => None,
    }
}

/// A routing netlink socket in the namespace the thread is in, subscribed to links and addresses.
fn listener() -> io::Result<OwnedFd> {
    let socket = socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?;
    // SAFETY: all zeros is a valid `sockaddr_nl`.
    let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
    address.nl_groups = (libc::RTMGRP_LINK | libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR) as u32;
    let len = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
    // SAFETY: the address is ours, as long as stated, and outlives the call.
    let status = unsafe { libc::bind(socket.as_raw_fd(), ptr::from_ref(&address).cast(), len) };
    if status == 0 {
        Ok(socket)
    } else {
        Err(io::Error::last_os_error())
    }
}

fn socket(family: libc::c_int, kind: libc::c_int, protocol: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the result is checked.
    let socket = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, protocol) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}
