//! Addresses on the network: few are named, many are `world`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use segd_common::service::Service;

use super::{Member, Segment, Side, WORLD, name};

/// Up to so many addresses that one segment talks to on one service are named.
pub const FEW: usize = 8;

/// Which addresses get a segment.
pub struct Remotes {
    named: BTreeMap<IpAddr, String>,
}

/// What a segment does with an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    /// The segment starts.
    Asks(String, Service),
    /// The address starts.
    Serves(String, Service),
}

/// Finds the addresses to be named; those that are used alike become one segment, so that none of them gets what only
/// another one has.
pub fn segments(sides: &[(Side, Side, Service)], taken: &BTreeSet<String>, few: usize) -> Remotes {
    let mut by_use: BTreeMap<Use, BTreeSet<IpAddr>> = BTreeMap::new();
    for (from, to, service) in sides {
        let (usage, address) = match (from, to) {
            (Side::Peer(name), Side::Address(address)) => (Use::Asks(name.clone(), *service), address),
            (Side::Address(address), Side::Peer(name)) => (Use::Serves(name.clone(), *service), address),
            _ => continue,
        };
        by_use.entry(usage).or_default().insert(*address);
    }
    let of_a_segment = |usage: &Use| {
        let (Use::Asks(name, _) | Use::Serves(name, _)) = usage;
        name != super::HOST && name != WORLD
    };
    let named: BTreeSet<IpAddr> = by_use
        .iter()
        .filter(|(usage, addresses)| of_a_segment(usage) && addresses.len() <= few)
        .flat_map(|(_, addresses)| addresses)
        .copied()
        .collect();
    let mut alike: BTreeMap<IpAddr, BTreeSet<&Use>> = BTreeMap::new();
    for (usage, addresses) in &by_use {
        for address in addresses.intersection(&named) {
            alike.entry(*address).or_default().insert(usage);
        }
    }
    let mut groups: BTreeMap<BTreeSet<&Use>, Vec<IpAddr>> = BTreeMap::new();
    for (address, uses) in alike {
        groups.entry(uses).or_default().push(address);
    }
    let mut taken = taken.clone();
    let mut remotes = Remotes {
        named: BTreeMap::new(),
    };
    for (uses, addresses) in groups {
        let name = name::free(&called(&uses), &mut taken);
        for address in addresses {
            remotes.named.insert(address, name.clone());
        }
    }
    remotes
}

/// `web-peers` if one segment alone talks to them, else `net`.
fn called(uses: &BTreeSet<&Use>) -> String {
    let names: BTreeSet<&str> = uses
        .iter()
        .map(|usage| {
            let (Use::Asks(name, _) | Use::Serves(name, _)) = usage;
            name.as_str()
        })
        .collect();
    let asked = uses.iter().all(|usage| matches!(usage, Use::Asks(..)));
    let kind = if asked { "servers" } else { "clients" };
    match names.first() {
        Some(name) if names.len() == 1 && name.len() < 50 => format!("{name}-{kind}"),
        _ => "net".to_owned(),
    }
}

impl Remotes {
    /// The peer that a side is in a rule; or why it is none.
    pub fn name(&self, side: &Side) -> Result<String, &'static str> {
        match side {
            Side::Peer(name) => Ok(name.clone()),
            Side::Address(address) => Ok(self.named.get(address).map_or(WORLD, String::as_str).to_owned()),
            Side::Nobody(why) => Err(why),
        }
    }

    /// The segments.
    pub fn into_segments(self) -> Vec<Segment> {
        let mut by_name: BTreeMap<String, Vec<Member>> = BTreeMap::new();
        for (address, name) in self.named {
            by_name.entry(name).or_default().push(Member::Address(address));
        }
        let mut segments: Vec<Segment> = by_name
            .into_iter()
            .map(|(name, members)| Segment {
                name,
                members,
                remarks: Vec::new(),
            })
            .collect();
        for segment in &mut segments {
            let count = segment.members.len();
            segment.remarks.push(format!(
                "{count} {} on the network, no longer `world`: whoever talks to {} needs a rule",
                if count == 1 { "address" } else { "addresses" },
                if count == 1 { "it" } else { "them" },
            ));
        }
        segments
    }
}

/// Why a rule says `world`.
pub fn remark(addresses: &BTreeSet<IpAddr>) -> Option<String> {
    let mut some: Vec<String> = addresses.iter().take(3).map(ToString::to_string).collect();
    if addresses.len() > some.len() {
        some.push("…".to_owned());
    }
    let count = addresses.len();
    let noun = if count == 1 { "address" } else { "addresses" };
    (count > 0).then(|| format!("`world`: {count} {noun} on the network ({})", some.join(", ")))
}
