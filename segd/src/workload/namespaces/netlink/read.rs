//! What routing netlink answers, read: `Documentation/userspace-api/netlink`, include/uapi/linux/rtnetlink.h.

use std::io;

use segd_common::address::{Address, mapped};

use super::{DUMP_INTR, HEADER, NLMSG_DONE, NLMSG_ERROR};

/// A network device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What made it (`veth`, `vxlan`, …; a TUN device of Ethernet is `tap`); empty for hardware and for loopback.
    pub kind: String,
    /// It is loopback.
    pub is_loopback: bool,
    /// The device it stands on, or that is its other end.
    pub lower: Option<u32>,
    /// The bridge, bond or the like that it is a port of.
    pub master: Option<u32>,
    /// The number of the namespace that `lower` is in, where that is another one.
    pub other_end: Option<i32>,
    /// The routes to the rest of the world lead by it.
    pub is_way_out: bool,
}

impl Device {
    /// Whether packets come in by it from elsewhere than this host.
    #[must_use]
    pub fn leads_outside(&self) -> bool {
        !self.is_loopback && OUTSIDE.contains(&self.kind.as_str())
    }

    /// Whether machines are at its other end: it is hardware, or leads to virtual ones.
    #[must_use]
    pub fn is_nic(&self) -> bool {
        !self.is_loopback && (self.kind.is_empty() || self.kind == "tap")
    }
}

/// Devices by which packets come in from elsewhere; hardware says no kind.
const OUTSIDE: &[&str] = &[
    "",
    "amt",
    "bareudp",
    "erspan",
    "geneve",
    "gre",
    "gretap",
    "gtp",
    "ip6erspan",
    "ip6gre",
    "ip6gretap",
    "ip6tnl",
    "ipip",
    "sit",
    "tap",
    "tun",
    "vti",
    "vti6",
    "vxlan",
    "wireguard",
    "xfrm",
];

/// An address that a namespace has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Held {
    /// The address.
    pub address: Address,
    /// How many of its bits are the network's, as IPv6 counts.
    pub prefix: u8,
    /// The index of the device that has it.
    pub device: u32,
}

impl Held {
    /// Whether another address is in the same network. A network of all addresses is none.
    pub fn is_near(&self, other: &Address) -> bool {
        let (one, other) = (u128::from_be_bytes(self.address), u128::from_be_bytes(*other));
        let of_v4 = self.address[..12] == mapped([0; 4])[..12];
        self.prefix > if of_v4 { 96 } else { 0 }
            && (one ^ other)
                .checked_shr(128 - u32::from(self.prefix))
                .unwrap_or(1)
                == 0
    }
}

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message<'a> {
    /// `RTM_` or `NLMSG_`.
    pub kind: u16,
    /// `NLM_F_`.
    pub flags: u16,
    /// The number of the request that it answers.
    pub request: u32,
    /// What follows its header.
    pub body: &'a [u8],
}

/// The first message, and what comes after it.
pub(super) fn message(bytes: &[u8]) -> Option<(Message<'_>, &[u8])> {
    let len = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let half = |at: usize| Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let message = Message {
        kind: half(4)?,
        flags: half(6)?,
        request: u32::from_ne_bytes(bytes.get(8..12)?.try_into().ok()?),
        body: bytes.get(HEADER..len)?,
    };
    Some((message, bytes.get(len.next_multiple_of(4)..).unwrap_or_default()))
}

/// The answer to one request, as its messages come in.
#[derive(Debug)]
pub(super) struct Answer {
    request: u32,
    torn: bool,
}

impl Answer {
    pub fn to(request: u32) -> Answer {
        Answer { request, torn: false }
    }

    /// Hands what messages tell to `each`; how it ended, if it did: whether it is whole. What answers another request is left
    /// out: an answer that was given up may still be coming in. What is listed while it changes may lack something.
    pub fn read(&mut self, mut bytes: &[u8], each: &mut impl FnMut(u16, &[u8])) -> Option<io::Result<bool>> {
        while let Some((message, next)) = message(bytes) {
            bytes = next;
            if message.request != self.request {
                continue;
            }
            self.torn |= message.flags & DUMP_INTR != 0;
            match message.kind {
                NLMSG_ERROR | NLMSG_DONE => return Some(result(message.body).map(|()| !self.torn)),
                kind => each(kind, message.body),
            }
        }
        None
    }
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

pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// `struct ifinfomsg` and what follows it.
pub(super) fn device(body: &[u8]) -> Option<Device> {
    const IFF_LOOPBACK: u32 = 8;
    const IFLA_IFNAME: u16 = 3;
    const IFLA_LINK: u16 = 5;
    const IFLA_MASTER: u16 = 10;
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
        let number = || value.try_into().ok().map(u32::from_ne_bytes);
        match kind & !FLAGS {
            IFLA_IFNAME => device.name = text(value),
            IFLA_LINK => device.lower = number(),
            IFLA_MASTER => device.master = number(),
            IFLA_LINKINFO => {
                let kind = attributes(value).find(|(kind, _)| *kind == IFLA_INFO_KIND);
                device.kind = kind.map(|(_, value)| text(value)).unwrap_or_default();
            }
            IFLA_LINK_NETNSID => device.other_end = number().map(u32::cast_signed),
            _ => {}
        }
    }
    const ARPHRD_ETHER: [u8; 2] = 1_u16.to_ne_bytes();
    if device.kind == "tun" && body.get(2..4)? == ARPHRD_ETHER {
        "tap".clone_into(&mut device.kind);
    }
    Some(device)
}

/// `struct ifaddrmsg` and what follows it. The interface's own address: `IFA_ADDRESS` is the other side's on a
/// point-to-point link.
pub(super) fn held(body: &[u8]) -> Option<Held> {
    const IFA_ADDRESS: u16 = 1;
    const IFA_LOCAL: u16 = 2;
    let mut found = None;
    for (kind, value) in attributes(body.get(8..)?) {
        if kind == IFA_LOCAL || kind == IFA_ADDRESS && found.is_none() {
            found = match value.len() {
                4 => Some((mapped(value.try_into().ok()?), 96)),
                16 => Some((value.try_into().ok()?, 0)),
                _ => None,
            };
        }
    }
    let (address, more) = found?;
    Some(Held {
        address,
        prefix: body.get(1)?.saturating_add(more).min(128),
        device: u32::from_ne_bytes(body.get(4..8)?.try_into().ok()?),
    })
}

/// Where the routes of this namespace lead an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Leads {
    /// Nowhere, or where nobody can tell.
    Nowhere,
    /// To this namespace itself: it is one of its own, or it listens to a whole network.
    Here,
    /// By a device.
    By(u32),
}

/// `struct rtmsg` and what follows it.
pub(super) fn route(body: &[u8]) -> Leads {
    const RTN_UNICAST: u8 = 1;
    const RTN_LOCAL: u8 = 2;
    const RTA_OIF: u16 = 4;
    let by = || attributes(body.get(12..)?).find(|(kind, _)| *kind == RTA_OIF);
    match body.get(7) {
        Some(&RTN_LOCAL) => Leads::Here,
        Some(&RTN_UNICAST) => by()
            .and_then(|(_, value)| value.try_into().ok())
            .map_or(Leads::Nowhere, |index| Leads::By(u32::from_ne_bytes(index))),
        _ => Leads::Nowhere,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLD: u16 = 20;

    fn bytes(kind: u16, flags: u16, request: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(((HEADER + body.len()) as u32).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(request.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// What is told by parts, and how it ends.
    fn answer(parts: &[Vec<u8>]) -> (Vec<u8>, Option<Result<bool, io::ErrorKind>>) {
        let (mut told, mut answer) = (Vec::new(), Answer::to(7));
        for part in parts {
            let read = answer.read(part, &mut |_, body| told.extend(body.first()));
            if let Some(end) = read {
                return (told, Some(end.map_err(|error| error.kind())));
            }
        }
        (told, None)
    }

    #[test]
    fn an_answer_is_whole_when_its_end_says_so() {
        let (one, two) = (bytes(TOLD, 2, 7, &[1]), bytes(TOLD, 2, 7, &[2]));
        let done = bytes(NLMSG_DONE, 2, 7, &[0; 4]);
        assert_eq!(answer(&[one.clone(), two.clone()]), (vec![1, 2], None));
        assert_eq!(answer(&[[one, two].concat(), done]), (vec![1, 2], Some(Ok(true))));
        let refused = bytes(NLMSG_ERROR, 0, 7, &(-libc::EBUSY).to_ne_bytes());
        assert_eq!(
            answer(&[refused]),
            (vec![], Some(Err(io::ErrorKind::ResourceBusy)))
        );
    }

    #[test]
    fn what_changes_while_it_is_listed_is_not_whole() {
        let one = bytes(TOLD, 2, 7, &[1]);
        for torn in [0, 1] {
            let flags = |part| if part == torn { 2 | DUMP_INTR } else { 2 };
            let parts = [
                bytes(TOLD, flags(0), 7, &[2]),
                one.clone(),
                bytes(NLMSG_DONE, flags(1), 7, &[0; 4]),
            ];
            assert_eq!(
                answer(&parts),
                (vec![2, 1], Some(Ok(false))),
                "it was torn at {torn}"
            );
        }
    }

    #[test]
    fn the_rest_of_an_answer_that_was_given_up_is_not_the_next_ones() {
        let parts = [
            bytes(TOLD, 2, 6, &[9]),
            bytes(NLMSG_DONE, 2, 6, &[0; 4]),
            bytes(TOLD, 2, 7, &[1]),
            bytes(NLMSG_DONE, 2, 7, &[0; 4]),
        ];
        assert_eq!(answer(&parts), (vec![1], Some(Ok(true))));
        assert_eq!(answer(&[parts.concat()]), (vec![1], Some(Ok(true))));
    }
}
