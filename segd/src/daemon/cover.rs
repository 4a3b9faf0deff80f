//! Which programs belong on which devices of the host, and seeing that they are there.
//!
//! What a container sends comes out of its link's end on the host, whatever made it; what a packet socket of the host
//! sends goes in there.
//!
//! INVARIANT: a link has its programs for as long as its other end is in another namespace, whoever is seen there: a
//! namespace lives by its sockets alone, and who may make one can hide in it. But for a link by which the host's own routes
//! lead to the world, if nobody is seen there.
//! Deliberately absent: devices of other namespaces, which only CAP_SYS_ADMIN could reach, and links between containers
//! that the host has no end of.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    io,
};

use segd_common::address::{
    Address, Link, MAX_SOURCES, SOURCE_BEHIND, SOURCE_OWN, Source, is_link_local, is_loopback,
};

use crate::{
    datapath::{
        devices::{Devices, Hook, Seat},
        links::{Attached, Repair},
    },
    workload::namespaces::{Device, NamespaceInfo},
};

/// How many devices may stand on one another, or be ports of one another.
const DEPTH: usize = 8;

/// How many addresses behind links are known: who owns none of them must find room.
const MAX_BEHIND: usize = MAX_SOURCES as usize / 2;
/// How many behind one link.
const MAX_BEHIND_ONE: usize = 1024;

/// What follows from who is linked with whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// The host's ends of links, by index.
    pub links: BTreeMap<u32, Link>,
    /// Who may send by them.
    pub sources: BTreeMap<Source, u32>,
    /// Where programs belong.
    pub seats: BTreeSet<Seat>,
    /// The names of links to namespaces that nobody is seen in.
    pub unseen: Vec<String>,
    /// How many addresses behind links are one too many.
    pub left_out: usize,
}

impl Topology {
    /// Works it out. `wires`: devices of the host that the operator calls wires to the network.
    #[must_use]
    pub fn of(all: &[NamespaceInfo], wires: &[String]) -> Topology {
        let mut map = Topology::default();
        let Some(host) = all.iter().find(|info| info.is_host) else {
            return map;
        };
        let is_end = |device: &Device, info: &NamespaceInfo| {
            is_link(device) && !info.is_host && device.other_end == info.number
        };
        let linked = |info: &NamespaceInfo| host.devices.iter().any(|device| is_end(device, info));
        let hosts = Own::of(host);
        // Containers in containers come out by some link of those that hold them. What is a link's alone does not get that far.
        let joined = joined(all, host.number);
        let mut behind: BTreeMap<i32, BTreeSet<Address>> = BTreeMap::new();
        for info in all.iter().filter(|info| !info.is_host && !linked(info)) {
            let addresses = info.addresses.iter();
            let routed = addresses.filter(|address| !is_loopback(address) && !is_link_local(address));
            if let Some(group) = info.number.and_then(|number| joined.get(&number)) {
                let theirs = routed.filter(|address| !hosts.everywhere.contains(*address));
                behind.entry(*group).or_default().extend(theirs.copied());
            }
        }
        let mut room = MAX_BEHIND;
        for device in &host.devices {
            let wire = wires.contains(&device.name);
            let mut seat = |hook| {
                map.seats.insert(Seat {
                    namespace: host.cookie,
                    hook,
                    device: device.index,
                });
            };
            if device.is_loopback {
                seat(Hook::Leave);
                seat(Hook::ComeIn);
            } else if is_link(device) && !wire {
                // To the programs a link without an entry leads to anybody.
                let Some(end) = all.iter().find(|info| is_end(device, info)) else {
                    // The host may be in a container itself, and the network at the other end. No workload sets the host's routes.
                    if device.is_way_out {
                        seat(Hook::Depart);
                    } else {
                        seat(Hook::Leave);
                        seat(Hook::ComeOut);
                        map.unseen.push(device.name.clone());
                    }
                    continue;
                };
                seat(Hook::Leave);
                seat(Hook::ComeOut);
                let namespace = end.cookie;
                map.links.insert(device.index, Link { namespace });
                let by = |address: &Address| Source {
                    device: device.index,
                    address: *address,
                };
                let own = end.addresses.iter();
                let own = own.filter(|address| !is_loopback(address) && !hosts.has(address, device));
                map.sources.extend(own.map(|address| (by(address), SOURCE_OWN)));
                let group = end.number.and_then(|number| joined.get(&number));
                let more = group.and_then(|group| behind.get(group)).into_iter().flatten();
                let more: Vec<Source> = more
                    .map(by)
                    .filter(|source| !map.sources.contains_key(source))
                    .collect();
                let fit = more.len().min(MAX_BEHIND_ONE).min(room);
                room -= fit;
                map.left_out += more.len() - fit;
                map.sources
                    .extend(more.into_iter().take(fit).map(|source| (source, SOURCE_BEHIND)));
            } else if wire || device.is_nic() || hosts.is_stacked(device) {
                seat(Hook::Depart);
                // XDP does what this one would.
                if !wire {
                    seat(Hook::Arrive);
                }
            } else if device.leads_outside() {
                // A tunnel's other end may be in a container, whose address nobody believes: its answers are no stranger's.
                seat(Hook::Leave);
                seat(Hook::Enter);
            }
        }
        map
    }
}

/// Whether a device is one end of a pair whose other end is in another namespace.
fn is_link(device: &Device) -> bool {
    matches!(device.kind.as_str(), "veth" | "netkit") && device.other_end.is_some()
}

/// Which namespaces are joined by links, macvlans and the like without the host: the number of each, with a number that stands for all
/// that it is joined with.
fn joined(all: &[NamespaceInfo], host: Option<i32>) -> BTreeMap<i32, i32> {
    let mut beside: BTreeMap<i32, BTreeSet<i32>> = BTreeMap::new();
    for info in all.iter().filter(|info| !info.is_host) {
        let Some(number) = info.number else { continue };
        beside.entry(number).or_default();
        // A namespace that is not listed may be one on the way.
        for end in info.ends.iter().filter(|end| **end >= 0 && Some(**end) != host) {
            beside.entry(number).or_default().insert(*end);
            beside.entry(*end).or_default().insert(number);
        }
    }
    let mut joined = BTreeMap::new();
    for start in beside.keys() {
        let mut ahead = vec![*start];
        while let Some(number) = ahead.pop() {
            if let Entry::Vacant(vacant) = joined.entry(number) {
                vacant.insert(*start);
                ahead.extend(beside.get(&number).into_iter().flatten());
            }
        }
    }
    joined
}

/// The host's own addresses, which nobody else sends by.
struct Own<'a> {
    devices: BTreeMap<u32, &'a Device>,
    /// Those that it is spoken to by on every link.
    everywhere: BTreeSet<Address>,
    /// Those of one link alone, by the device that has them and what that stands on.
    of_link: BTreeSet<(u32, Address)>,
}

impl Own<'_> {
    fn of(host: &NamespaceInfo) -> Own<'_> {
        let mut own = Own {
            devices: host.devices.iter().map(|device| (device.index, device)).collect(),
            everywhere: BTreeSet::new(),
            of_link: BTreeSet::new(),
        };
        for held in &host.held {
            if !is_link_local(&held.address) {
                own.everywhere.insert(held.address);
                continue;
            }
            let mut at = Some(held.device);
            for _ in 0..DEPTH {
                let Some(index) = at else { break };
                own.of_link.insert((index, held.address));
                let device = own.devices.get(&index);
                at = device.and_then(|device| device.lower.filter(|_| device.other_end.is_none()));
            }
        }
        own
    }

    /// Whether it is a VLAN in a VLAN: below it the one tag hides the packet behind the other.
    fn is_stacked(&self, device: &Device) -> bool {
        let lower = device.lower.filter(|_| device.other_end.is_none());
        let lower = lower.and_then(|lower| self.devices.get(&lower));
        device.kind == "vlan" && lower.is_some_and(|lower| lower.kind == "vlan")
    }

    /// Whether the host is spoken to by an address through a link.
    fn has(&self, address: &Address, link: &Device) -> bool {
        if !is_link_local(address) {
            return self.everywhere.contains(address);
        }
        // The link's end, and what it is a port of.
        let mut at = Some(link);
        for _ in 0..DEPTH {
            let Some(device) = at else { break };
            if self.of_link.contains(&(device.index, *address)) {
                return true;
            }
            at = device
                .master
                .and_then(|master| self.devices.get(&master).copied());
        }
        false
    }
}

/// What status says of links.
#[must_use]
pub fn warnings(all: &[NamespaceInfo], wires: &[String]) -> Vec<String> {
    let map = Topology::of(all, wires);
    let unseen = map.unseen.iter().map(|link| {
        format!(
            "the link {link} leads to a network namespace that nobody is seen in: what no socket accounts for does not \
             come out of it"
        )
    });
    let left_out = (map.left_out > 0).then(|| {
        format!(
            "{} addresses of namespaces behind others are one too many: what they send by a link is refused",
            map.left_out
        )
    });
    unseen.chain(left_out).collect()
}

/// The programs on devices.
#[derive(Debug)]
pub struct Cover {
    devices: Devices,
    wanted: BTreeSet<Seat>,
    /// The kernel cannot do it.
    unsupported: bool,
    trouble: Option<String>,
}

impl Cover {
    /// None yet.
    #[must_use]
    pub fn new(devices: Devices) -> Cover {
        let unsupported = !devices.can_sit();
        if unsupported {
            tracing::warn!("{NO_TCX}");
        }
        Cover {
            devices,
            wanted: BTreeSet::new(),
            unsupported,
            trouble: None,
        }
    }

    /// Makes what is attached what is wanted. What was taken away since the last look is put back, and told.
    pub fn follow(&mut self, all: &[NamespaceInfo], wanted: BTreeSet<Seat>) -> Option<Repair> {
        let repair = self.repair(all);
        self.wanted = wanted;
        let looked_at = all.iter().map(|info| info.cookie).collect();
        // A device that changes its programs is not without one.
        self.sit(all);
        self.devices.keep(&self.wanted, &looked_at);
        repair
    }

    /// Puts back what was taken away. A device that is gone since the last list is not missed.
    pub fn repair(&mut self, all: &[NamespaceInfo]) -> Option<Repair> {
        let before = self.missing();
        if before.is_empty() {
            return None;
        }
        let had = self.trouble.is_some();
        self.sit(all);
        let now = self.devices.seated();
        let back = before.iter().filter(|seat| now.contains(*seat)).count();
        (back > 0 && !had).then(|| Repair {
            lost: "detached",
            what: format!("tcx: {back} programs on links were detached; attached again"),
        })
    }

    fn missing(&self) -> BTreeSet<Seat> {
        if self.unsupported {
            return BTreeSet::new();
        }
        let seated = self.devices.seated();
        self.wanted.difference(&seated).copied().collect()
    }

    fn sit(&mut self, all: &[NamespaceInfo]) {
        self.trouble = None;
        let missing = self.missing();
        let host = all.iter().find(|info| info.is_host);
        for (seat, host) in missing.into_iter().zip(host.into_iter().cycle()) {
            if let Err(error) = self.devices.seat(seat) {
                self.failed(host, seat, &error);
            }
        }
    }

    fn failed(&mut self, info: &NamespaceInfo, seat: Seat, error: &io::Error) {
        // The device is gone since the last look.
        if error.raw_os_error() == Some(libc::ENODEV) {
            self.wanted.remove(&seat);
            return;
        }
        // A link whose pin was taken away lets go of the device a moment later. Until the next look the seat is missing.
        if error.raw_os_error() == Some(libc::EEXIST) {
            tracing::debug!("tcx: the program still hangs on device {}", seat.device);
            return;
        }
        let device = info.devices.iter().find(|device| device.index == seat.device);
        let name = device.map_or("?", |device| device.name.as_str());
        let line = format!("{name}: {error}");
        tracing::error!("tcx: {line}");
        self.trouble = Some(line);
    }

    /// One line for status.
    #[must_use]
    pub fn status(&self) -> Attached {
        let seated = self.wanted.len() - self.missing().len();
        let attached = self.trouble.is_none() && (self.unsupported || seated == self.wanted.len());
        let note = if self.unsupported {
            NO_TCX.to_owned()
        } else {
            let found = format!("{seated} of {} programs on links", self.wanted.len());
            match &self.trouble {
                Some(trouble) => format!("{found}; {trouble}"),
                None => found,
            }
        };
        Attached {
            hook: "tcx".to_owned(),
            attached,
            link: 0,
            note,
        }
    }

    /// What is not covered on this kernel.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        self.unsupported.then(|| NO_TCX.to_owned())
    }
}

const NO_TCX: &str = "this kernel has no tcx (Linux 6.6): frames of packet sockets and TUN devices, and false source \
                      addresses of containers, are not judged on their way";

#[cfg(test)]
mod tests;
