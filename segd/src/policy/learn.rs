//! A minimal policy for what was seen: recorded flows in, a document out.
//!
//! INVARIANT: between learned segments nothing is opened that was not seen; `any` is never proposed.
//!
//! Deliberately absent: reading flows, classifying them under a policy, judging the proposal. Who asks does that.

mod member;
mod name;
mod ports;
mod remote;
mod text;
pub mod patch;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use segd_common::service::Service;

pub use member::Member;

/// One side of a flow.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Party {
    /// This host's kernel, and processes that stay in no segment.
    Host,
    /// The network.
    World,
    /// One address on the network.
    Address(IpAddr),
    /// A cgroup by its path from the cgroup root.
    Cgroup(String),
    /// A segment that exists already.
    Segment(String),
}

/// A flow that has to be allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Who started it.
    pub from: Party,
    /// Towards whom.
    pub to: Party,
    /// On what.
    pub service: Service,
    /// How many flows were alike.
    pub flows: u64,
    /// `10.0.0.1:4000 -> 10.0.0.2:5432 at TIME`, for a comment.
    pub example: String,
}

/// What the proposal is put on.
#[derive(Clone, Debug, Default)]
pub struct Ground {
    /// Segment names that are taken.
    pub taken: BTreeSet<String>,
    /// By cgroup path, how many of its leading components root made; a path that is not here was made by root.
    pub made_by_root: BTreeMap<String, usize>,
    /// Whether `host` needs rules towards `host` and `world`, too.
    pub enforce_host: bool,
    /// Whether every address is `world`: one that is named no longer is, and rules that exist may count on it.
    pub world_only: bool,
}

/// What is proposed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proposal {
    /// Segments, by name.
    pub segments: Vec<Segment>,
    /// `allow` rules, one for each pair.
    pub rules: Vec<Rule>,
    /// Flows that no rule can be written for: why, and how many.
    pub left_out: BTreeMap<&'static str, u64>,
    /// By place in what was seen: whether a rule speaks of it, or none is needed.
    pub covered: Vec<bool>,
}

/// A segment to add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its name.
    pub name: String,
    /// Who belongs to it.
    pub members: Vec<Member>,
    /// What to know about it.
    pub remarks: Vec<String>,
}

/// A rule to add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Who starts.
    pub from: String,
    /// Towards whom.
    pub to: String,
    /// On what, as a policy writes it.
    pub ports: Vec<String>,
    /// How many flows it is for.
    pub flows: u64,
    /// The first of them.
    pub example: String,
    /// What to know about it.
    pub remarks: Vec<String>,
}

/// A side that stays what it is, or a member of something new.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Peer(String),
    Address(IpAddr),
    Nobody(&'static str),
}

/// What one rule is for.
#[derive(Default)]
struct Traffic {
    services: BTreeSet<Service>,
    addresses: BTreeSet<IpAddr>,
    flows: u64,
    example: String,
}

const HOST: &str = "host";
const WORLD: &str = "world";

/// Proposes a minimal policy under which all of these flows pass.
#[must_use]
pub fn learn(seen: &[Seen], ground: &Ground) -> Proposal {
    let mut proposal = Proposal::default();
    let mut members: BTreeMap<&str, Option<Member>> = BTreeMap::new();
    for party in seen.iter().flat_map(|flow| [&flow.from, &flow.to]) {
        if let Party::Cgroup(path) = party {
            members
                .entry(path)
                .or_insert_with(|| Member::of_cgroup(path, ground.made_by_root.get(path).copied()));
        }
    }
    let families = member::families(members.values().flatten());
    let names = name::names(families.keys(), &ground.taken);
    for (family, remarks) in &families {
        if let Some(name) = names.get(family) {
            proposal.segments.push(Segment {
                name: name.clone(),
                members: vec![family.clone()],
                remarks: remarks.clone(),
            });
        }
    }
    let side = |party: &Party| match party {
        Party::Host => Side::Peer(HOST.to_owned()),
        Party::World => Side::Peer(WORLD.to_owned()),
        Party::Segment(name) => Side::Peer(name.clone()),
        Party::Address(address) => Side::Address(*address),
        Party::Cgroup(path) if path.trim_matches('/').is_empty() => Side::Peer(HOST.to_owned()),
        Party::Cgroup(path) => {
            let member = members.get(path.as_str()).and_then(Option::as_ref);
            let name = member.and_then(|member| names.get(&member::family(member, &families)));
            name.map_or(Side::Nobody("a cgroup whose path no matcher can say"), |name| {
                Side::Peer(name.clone())
            })
        }
    };
    let sides: Vec<(Side, Side, Service)> = seen
        .iter()
        .map(|flow| (side(&flow.from), side(&flow.to), flow.service))
        .collect();
    let taken: BTreeSet<String> = names.values().chain(&ground.taken).cloned().collect();
    let few = if ground.world_only { 0 } else { remote::FEW };
    let remotes = remote::segments(&sides, &taken, few);
    let mut traffic: BTreeMap<(String, String), Traffic> = BTreeMap::new();
    for (flow, (from, to, service)) in seen.iter().zip(&sides) {
        let wanted = match (remotes.name(from), remotes.name(to)) {
            (Ok(from), Ok(to)) => Ok((from, to)),
            (Err(why), _) | (_, Err(why)) => Err(why),
        };
        let covered = wanted.and_then(|(from, to)| {
            let built_in = |name: &str| name == HOST || name == WORLD;
            match (from.as_str(), to.as_str()) {
                (WORLD, WORLD) => return Err("neither side is on this host"),
                (a, b) if built_in(a) && built_in(b) && !ground.enforce_host => return Ok(()),
                _ if ports::written(*service).is_none() => {
                    return Err("a protocol or port that a rule cannot name");
                }
                _ => {}
            }
            let entry = traffic.entry((from, to)).or_insert_with(|| Traffic {
                example: flow.example.clone(),
                ..Traffic::default()
            });
            entry.flows += flow.flows;
            entry.services.insert(*service);
            for party in [&flow.from, &flow.to] {
                if let Party::Address(address) = party {
                    entry.addresses.insert(*address);
                }
            }
            Ok(())
        });
        proposal.covered.push(covered.is_ok());
        if let Err(why) = covered {
            *proposal.left_out.entry(why).or_default() += flow.flows;
        }
    }
    proposal.segments.extend(remotes.into_segments());
    for ((from, to), traffic) in traffic {
        let mut remarks = ports::remarks(&traffic.services);
        if from == WORLD || to == WORLD {
            remarks.extend(remote::remark(&traffic.addresses));
        }
        proposal.rules.push(Rule {
            ports: ports::merged(&traffic.services),
            flows: traffic.flows,
            example: traffic.example,
            from,
            to,
            remarks,
        });
    }
    // A segment that nothing speaks of would only take its members out of `host`.
    let spoken: BTreeSet<&String> = proposal
        .rules
        .iter()
        .flat_map(|rule| [&rule.from, &rule.to])
        .collect();
    proposal.segments.retain(|segment| spoken.contains(&segment.name));
    proposal
}

impl Proposal {
    /// The proposal as a whole document; every line of `heading` becomes a comment.
    #[must_use]
    pub fn document(&self, name: &str, heading: &[String]) -> String {
        text::document(self, name, heading)
    }

    /// Whether there is nothing to add.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}

#[cfg(test)]
mod tests;
