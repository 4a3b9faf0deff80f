//! The kernel programs as a judge: whether somebody may start something towards somebody, asked by a packet.
//!
//! Each question is one packet to one hook of a private load: leaving, where the sender is a workload or the host; arriving,
//! where the sender is on the network. The other side is an address that is made to be who the question says.
//!
//! Deliberately absent: replies, and messages that start nothing (ICMP errors, neighbour discovery), which other rules judge.

use std::net::{Ipv4Addr, Ipv6Addr};

use segd_common::{
    address::{Address, NAMESPACE_SINGLE, mapped},
    event::Hook,
    reason::Reason,
    segment::{self, SegmentIndex},
    service::{self, Service},
    verdict::Verdict,
    workload::Identity,
};

use super::{Carrier, Heard, Rehearsal, Vantage, Way};
use crate::{
    datapath::{
        Error,
        places::{Addresses, Lives},
    },
    policy::compiled::{CompiledTables, Moment},
};

/// One side of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A member of a segment on this host, `HOST`, or `WORLD`.
    Segment(SegmentIndex),
    /// An address on the network.
    Address(Address),
}

/// A private load with a policy in force.
pub struct Jury {
    rehearsal: Rehearsal,
    /// Of the initial namespace.
    own: Pair,
    /// Of another namespace of this host.
    beside: Pair,
    /// Of nobody: `world`.
    outside: Pair,
    source_port: u16,
}

/// An address of each family, if the policy leaves one unclaimed.
#[derive(Clone, Copy, Debug, Default)]
struct Pair {
    v4: Option<Address>,
    v6: Option<Address>,
}

/// The cookie of a namespace that does not exist.
const BESIDE: u64 = 1 << 40;

impl Jury {
    /// Loads the programs and puts a policy in force in them. It takes the calling thread into a network namespace of
    /// its own, for good: call it on a thread that ends with it.
    ///
    /// # Errors
    ///
    /// As [`Rehearsal::open`].
    pub fn open(tables: &CompiledTables) -> Result<Jury, Error> {
        let mut rehearsal = Rehearsal::open(Vantage::Host)?;
        // The tables are read as they are, at whatever time they were compiled for.
        rehearsal.enact(tables, Moment::FIRST)?;
        let [own, beside, outside] = unclaimed(tables);
        let namespaces = [(rehearsal.namespace(), true, own), (BESIDE, false, beside)];
        let lists = namespaces.map(|(namespace, is_host, pair)| {
            let addresses: Vec<Address> = [pair.v4, pair.v6].into_iter().flatten().collect();
            (namespace, is_host, addresses)
        });
        let addresses = lists.iter().map(|(namespace, is_host, addresses)| Addresses {
            namespace: *namespace,
            is_host: *is_host,
            by_link: false,
            addresses,
        });
        rehearsal.places().set_addresses(addresses)?;
        Ok(Jury {
            rehearsal,
            own,
            beside,
            outside,
            source_port: 32_768,
        })
    }

    /// What the hooks rule; `None` if no packet asks this: of machines among themselves this host is not asked, some
    /// messages start nothing, and some are left to a receiving socket, of which there is none here.
    ///
    /// # Errors
    ///
    /// A write or a run that failed.
    pub fn ask(&mut self, from: Side, to: Side, service: Service) -> Result<Option<Heard>, Error> {
        if !starts_something(service) {
            return Ok(None);
        }
        let is_v6 = |address: &Address| mapped_of(address).is_none();
        let fixed = [from, to].iter().find_map(|side| match side {
            Side::Address(address) => Some(is_v6(address)),
            Side::Segment(_) => None,
        });
        let wanted = match service::protocol(service) {
            service::ICMP => Some(false),
            service::ICMPV6 => Some(true),
            _ => None,
        };
        if fixed.zip(wanted).is_some_and(|(fixed, wanted)| fixed != wanted) {
            return Ok(None);
        }
        let v6 = fixed
            .or(wanted)
            .unwrap_or(self.own.v4.is_none() || self.outside.v4.is_none());
        let own = self.own.of(v6);
        let arriving = match from {
            Side::Address(address) => Some(Some(address)),
            Side::Segment(segment::WORLD) => Some(self.outside.of(v6)),
            Side::Segment(_) => None,
        };
        let (hook, played, source, destination, way) = match (arriving, from, to) {
            (Some(_), _, Side::Address(_) | Side::Segment(segment::WORLD)) => return Ok(None),
            (Some(source), _, Side::Segment(to)) => (Hook::Ingress, to, source, own, Way::Wire),
            (None, Side::Segment(from), Side::Segment(segment::HOST)) => {
                let loopback = Some(if v6 {
                    Ipv6Addr::LOCALHOST.octets()
                } else {
                    mapped([127, 0, 0, 1])
                });
                (Hook::Egress, from, loopback, loopback, Way::Loopback)
            }
            (None, Side::Segment(from), Side::Segment(segment::WORLD)) => {
                (Hook::Egress, from, own, self.outside.of(v6), Way::Wire)
            }
            (None, Side::Segment(from), Side::Segment(to)) => {
                let lives = Lives {
                    owner: to,
                    flags: NAMESPACE_SINGLE,
                    claimed: 0,
                };
                let slot = self.rehearsal.slot()?;
                let _ = self.rehearsal.places().set_lives(BESIDE, slot, lives)?;
                (Hook::Egress, from, own, self.beside.of(v6), Way::Wire)
            }
            (None, Side::Segment(from), Side::Address(to)) => (Hook::Egress, from, own, Some(to), Way::Wire),
            (None, Side::Address(_), _) => return Ok(None),
        };
        let (Some(source), Some(destination)) = (source, destination) else {
            return Ok(None);
        };
        // No packet is to be taken for one of an exchange before.
        self.source_port = self.source_port.checked_add(1).unwrap_or(32_768);
        let Some((carrier, packet)) = packet(&source, &destination, service, self.source_port) else {
            return Ok(None);
        };
        self.rehearsal.play(Identity::of(played))?;
        let heard = self.rehearsal.stage().run(hook, carrier, &packet, way)?;
        // What is left to a socket that would receive it (SCTP and UDP-Lite over loopback) passes here by a right without a
        // rule; a rule that decides is always named.
        let told = &heard.told;
        let left = told.reason == Reason::Rule as u8 && told.rule == Verdict::NO_RULE;
        Ok((!left).then_some(heard))
    }
}

impl Pair {
    fn of(self, v6: bool) -> Option<Address> {
        if v6 { self.v6 } else { self.v4 }
    }
}

/// Addresses that no segment claims, for three places.
fn unclaimed(tables: &CompiledTables) -> [Pair; 3] {
    let free = |address: &Address| tables.claimed_by(address) == segment::WORLD;
    let v4 = (1..=223)
        .filter(|first| *first != 127)
        .map(|first| mapped([first, 254, 253, 77]));
    let v6 = (0x2000..=0x3fff)
        .step_by(0x1f)
        .map(|first| Ipv6Addr::new(first, 0xfefd, 0, 0, 0, 0, 0, 0x77).octets());
    let (mut v4, mut v6) = (v4.filter(free), v6.filter(free));
    std::array::from_fn(|_| Pair {
        v4: v4.next(),
        v6: v6.next(),
    })
}

/// Whether a message asks for something, so that the policy is what judges it.
fn starts_something(service: Service) -> bool {
    let (kind, code) = (service >> 8 & 0xff, service & 0xff);
    match service::protocol(service) {
        // Requests: echo, timestamp, address mask.
        service::ICMP => matches!(kind, 8 | 13 | 17) && code == 0,
        service::ICMPV6 => kind == 128 && code == 0,
        service::TCP | service::UDP | service::SCTP | service::UDPLITE => service & 0xffff != 0,
        // Membership reports go by a list; hop-by-hop options are no protocol.
        0 | service::IGMP => false,
        _ => service & 0xffff == 0,
    }
}

fn mapped_of(address: &Address) -> Option<Ipv4Addr> {
    Ipv6Addr::from(*address).to_ipv4_mapped()
}

/// The first packet of what is asked for.
fn packet(
    source: &Address,
    destination: &Address,
    service: Service,
    source_port: u16,
) -> Option<(Carrier, Vec<u8>)> {
    let protocol = service::protocol(service);
    let body = body(service, source_port);
    match (mapped_of(source), mapped_of(destination)) {
        (Some(from), Some(to)) => {
            let len = u16::try_from(20 + body.len()).ok()?.to_be_bytes();
            let mut packet = vec![0x45, 0, len[0], len[1], 0, 0, 0, 0, 64, protocol, 0, 0];
            packet.extend(from.octets());
            packet.extend(to.octets());
            packet.extend(body);
            Some((Carrier::V4, packet))
        }
        (None, None) => {
            // What is an extension header in IPv6 is no protocol there.
            if matches!(protocol, 43 | 44 | 51 | 59 | 60) {
                return None;
            }
            let len = u16::try_from(body.len()).ok()?.to_be_bytes();
            let mut packet = vec![0x60, 0, 0, 0, len[0], len[1], protocol, 64];
            packet.extend(source);
            packet.extend(destination);
            packet.extend(body);
            Some((Carrier::V6, packet))
        }
        _ => None,
    }
}

/// What stands behind the IP header. Nobody looks at checksums here.
fn body(service: Service, source_port: u16) -> Vec<u8> {
    let port = (service & 0xffff) as u16;
    let mut body = Vec::new();
    let ports = [source_port.to_be_bytes(), port.to_be_bytes()].concat();
    match service::protocol(service) {
        service::TCP => {
            body.extend(ports);
            // Sequence numbers, 20 bytes of header, SYN, a window.
            body.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 4, 0, 0, 0, 0, 0]);
        }
        service::UDP | service::UDPLITE => {
            body.extend(ports);
            body.extend([0, 8, 0, 0]);
        }
        service::SCTP => {
            body.extend(ports);
            body.resize(12, 0);
            // INIT.
            body.extend([1, 0, 0, 20]);
            body.resize(32, 0);
        }
        service::ICMP | service::ICMPV6 => {
            body.extend(port.to_be_bytes());
            body.extend([0, 0]);
            body.extend(source_port.to_be_bytes());
            body.extend([0, 1]);
        }
        _ => body.resize(8, 0),
    }
    body
}
