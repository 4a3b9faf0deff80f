//! Which addresses of namespaces are believed.
//!
//! Whoever may configure a network namespace may give it any address, another machine's too, and nothing that is said of
//! the namespace itself tells whether the network agrees. The host's routes do: what they lead elsewhere is elsewhere.
//!
//! INVARIANT: an address that a workload can give itself alone takes nobody's traffic away by a route of the host.
//! INVARIANT: what the host has is nobody else's, those of a link alone aside: every link has its own.
//! Deliberately absent: who of those that share a link, or a bridge, has an address rightly. Their neighbours ask each
//! other (ARP, neighbour discovery), and the host does not hear the answer.

use std::collections::BTreeSet;

use segd_common::address::{Address, is_link_local, is_loopback, is_multicast};

use super::netlink::{Device, Held, Leads};

/// Devices that stand on another one and send by it.
const ON_TOP: &[&str] = &["macsec", "macvlan", "macvtap", "ipvlan", "ipvtap", "vlan"];
/// Devices that join others.
const JOINS: &[&str] = &["bond", "bridge", "openvswitch", "team", "vrf"];
/// How many devices may stand on one another.
const DEPTH: usize = 8;

/// What a namespace says of itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// The host's number for it.
    pub number: Option<i32>,
    /// Its addresses.
    pub held: Vec<Held>,
    /// Its devices.
    pub devices: Vec<Device>,
}

/// The addresses that are believed of a namespace among others. `host`: the host's devices; `route`: where its routes lead
/// an address.
pub(super) fn believed(
    told: &Told,
    others: &[&Told],
    host: &[Device],
    route: impl Fn(&Address) -> Leads,
) -> Vec<Address> {
    let near = neighbourhood(told, others);
    let is_believed = |held: &&Held| {
        let address = &held.address;
        if is_loopback(address) || is_link_local(address) || is_multicast(address) {
            return true;
        }
        let leads = route(address);
        if leads == Leads::Here {
            return false;
        }
        let device = told.devices.iter().find(|device| device.index == held.device);
        if device.is_some_and(|device| is_outside(device) || is_confirmed(address, device, others)) {
            return true;
        }
        !matches!(leads, Leads::By(by) if leads_elsewhere(by, host, &near))
    };
    let mut addresses: Vec<Address> = told
        .held
        .iter()
        .filter(is_believed)
        .map(|held| held.address)
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// Whether a device is a leg in a network of its own: hardware, or one that stands on another namespace's.
fn is_outside(device: &Device) -> bool {
    let on_top = ON_TOP.contains(&device.kind.as_str()) && device.other_end.is_some();
    on_top || device.kind.is_empty() && !device.is_loopback
}

/// Whether the namespace at a link's other end, which is not the host's, has the address in one of its networks.
fn is_confirmed(address: &Address, device: &Device, others: &[&Told]) -> bool {
    let mut ends = others
        .iter()
        .filter(|other| other.number.is_some() && other.number == device.other_end);
    ends.any(|end| {
        let mut held = end.held.iter();
        held.any(|held| held.address != *address && held.is_near(address))
    })
}

/// The numbers of the namespaces that links join with one, itself included.
fn neighbourhood(told: &Told, others: &[&Told]) -> BTreeSet<i32> {
    let mut near = BTreeSet::from_iter(told.number);
    let mut ahead: Vec<&Told> = vec![told];
    while let Some(one) = ahead.pop() {
        let ends: BTreeSet<i32> = one.devices.iter().filter_map(|device| device.other_end).collect();
        for other in others {
            if let Some(number) = other.number
                && ends.contains(&number)
                && near.insert(number)
            {
                ahead.push(other);
            }
        }
    }
    near
}

/// Whether a device of the host leads to the network, or to others than these namespaces.
fn leads_elsewhere(by: u32, host: &[Device], near: &BTreeSet<i32>) -> bool {
    let find = |index: u32| host.iter().find(|device| device.index == index);
    // A VLAN of a bridge leads where the bridge does.
    let mut by = by;
    for _ in 0..DEPTH {
        match find(by) {
            Some(Device {
                kind,
                lower: Some(lower),
                other_end: None,
                ..
            }) if ON_TOP.contains(&kind.as_str()) => by = *lower,
            _ => break,
        }
    }
    let Some(device) = find(by) else {
        return false;
    };
    // A link's end on the host, and all that it is a port of.
    let leads_there = |end: &&Device| {
        let mut at = Some(end.index);
        for _ in 0..DEPTH {
            match at {
                Some(index) if index == by => return true,
                Some(index) => at = find(index).and_then(|device| device.master),
                None => return false,
            }
        }
        false
    };
    let mut ends = host
        .iter()
        .filter(|end| end.other_end.is_some_and(|number| near.contains(&number)));
    if ends.any(|end| leads_there(&end)) {
        return false;
    }
    // What both ends of are on the host, or nobody knows, may be where a kernel program takes over.
    device.leads_outside() || device.other_end.is_some() || JOINS.contains(&device.kind.as_str())
}

#[cfg(test)]
mod tests;
