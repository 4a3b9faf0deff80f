//! Who somebody is under a policy: a segment by name, an address, a cgroup, a process, a side of a recorded flow.

use std::{fmt, net::IpAddr, sync::Arc};

use segd_common::{
    matching::{Name, child_flags},
    segment,
    workload::{AMBIGUOUS, CgroupSlot},
};

use crate::{
    control::types::FlowRecord,
    policy::{
        compiled::{CompiledTables, SelectorInfo},
        prefixes,
    },
    workload::{
        cgroupfs::{Cgroup, CgroupRoot},
        selector::{Position, SelectorTables},
        users,
    },
};

/// One side of a question, as it was asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// A segment, `host` or `world`, or an address.
    Named(String),
    /// A cgroup by its path from the root.
    Cgroup(String),
    /// A process.
    Process(u32),
}

/// Who that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identified {
    /// The segment's name.
    pub segment: String,
    /// How that is known, if it was not said.
    pub because: Option<String>,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::Named(text) | Who::Cgroup(text) => f.write_str(text),
            Who::Process(pid) => write!(f, "process {pid}"),
        }
    }
}

/// Why it cannot be told who somebody is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unidentified {
    /// The question is wrong.
    #[error("{0}")]
    Question(String),
    /// Several segments claim him with equal right: an answer, and no good one.
    #[error("{0}")]
    Ambiguous(String),
}

impl From<String> for Unidentified {
    fn from(why: String) -> Unidentified {
        Unidentified::Question(why)
    }
}

impl Who {
    /// The cgroup of a process; a cgroup as it is.
    ///
    /// # Errors
    ///
    /// If there is no such process, or it is in no cgroup of version 2.
    pub fn settled(self) -> Result<Who, String> {
        let Who::Process(pid) = self else { return Ok(self) };
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))
            .map_err(|error| format!("cannot tell the cgroup of process {pid}: {error}"))?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::"));
        let path = path.ok_or_else(|| format!("process {pid} is in no cgroup of version 2"))?;
        Ok(Who::Cgroup(path.trim_end_matches(" (deleted)").to_owned()))
    }

    /// Who it is under a policy.
    ///
    /// # Errors
    ///
    /// Why that cannot be told, in words.
    pub fn identify(self, tables: &CompiledTables) -> Result<Identified, Unidentified> {
        match self.settled()? {
            Who::Named(name) => Ok(match name.parse::<IpAddr>() {
                Ok(address) => of_address(tables, address),
                Err(_) => Identified {
                    segment: name,
                    because: None,
                },
            }),
            Who::Cgroup(path) => of_cgroup(tables, &path),
            Who::Process(_) => Err("a process without a cgroup".to_owned().into()),
        }
    }
}

fn named(tables: &CompiledTables, index: u16) -> String {
    tables.names.get(usize::from(index)).cloned().unwrap_or_default()
}

fn of_address(tables: &CompiledTables, address: IpAddr) -> Identified {
    let index = tables.claimed_by(&prefixes::bits(address));
    let segment = named(tables, index);
    let because = match index {
        segment::WORLD => format!("{address} is `world`: no segment claims it on the network"),
        _ => format!("{address} is `{segment}` on the network, by its prefix"),
    };
    Identified {
        segment,
        because: Some(because),
    }
}

/// Classifies a cgroup as segd would. Who made its directories counts, so this host is asked if it has them.
fn of_cgroup(tables: &CompiledTables, path: &str) -> Result<Identified, Unidentified> {
    check_path(path)?;
    let here = on_this_host(path);
    let slot = slot_under(tables, path, &here)?;
    if slot.identity.flags & AMBIGUOUS != 0 {
        let claims = tied(tables, path, &here)?;
        let by = if claims.is_empty() {
            "two segments claim it".to_owned()
        } else {
            format!("{} claim it", claims.join(" and "))
        };
        return Err(Unidentified::Ambiguous(format!(
            "{path} is ambiguous: {by} with equal right, and it is denied everything"
        )));
    }
    let segment = named(tables, slot.identity.segment);
    let there = if here.len() == depth(path) {
        ""
    } else {
        "; this host has no such cgroup now"
    };
    let selector = (slot.selector as usize)
        .checked_sub(1)
        .and_then(|index| tables.selectors.get(index));
    let because = match selector {
        Some(selector) => format!(
            "{path} is `{segment}` by {} at {}{there}",
            selector.kind, selector.location
        ),
        None => format!("{path} is `host`: no segment claims it{there}"),
    };
    Ok(Identified {
        segment,
        because: Some(because),
    })
}

/// What a cgroup gets under the selectors of some tables.
fn slot_under(tables: &CompiledTables, path: &str, here: &[u16]) -> Result<CgroupSlot, String> {
    let selectors = SelectorTables::compile(tables, 1, &users::uid).map_err(|error| error.to_string())?;
    let mut position: Position = selectors.root_position();
    let mut flags = 0;
    for (at, name) in path.split('/').filter(|name| !name.is_empty()).enumerate() {
        flags = match here.get(at) {
            Some(found) => *found,
            None => child_flags(flags, true, &Name::new(name.as_bytes())),
        };
        position = selectors.descend(&position, flags, name.as_bytes());
    }
    Ok(position.slot)
}

/// The claims between which nothing decides, in words: two that are ambiguous by themselves and with each of the others.
fn tied(tables: &CompiledTables, path: &str, here: &[u16]) -> Result<Vec<String>, String> {
    let under = |selectors: &[&SelectorInfo]| {
        let alone = CompiledTables {
            selectors: Arc::new(selectors.iter().map(|selector| (*selector).clone()).collect()),
            ..CompiledTables::default()
        };
        slot_under(&alone, path, here)
    };
    let mut claims = Vec::new();
    for selector in tables.selectors.iter() {
        if under(&[selector])?.selector != 0 {
            claims.push(selector);
        }
    }
    let is_tie = |selectors: &[&SelectorInfo]| -> Result<bool, String> {
        Ok(under(selectors)?.identity.flags & AMBIGUOUS != 0)
    };
    for (at, one) in claims.iter().enumerate() {
        for other in claims.iter().skip(at + 1) {
            let mut wins = is_tie(&[one, other])?;
            for third in &claims {
                wins = wins && is_tie(&[one, other, third])?;
            }
            if wins {
                let told = |selector: &SelectorInfo| {
                    let segment = named(tables, selector.segment);
                    format!("`{segment}` by {} at {}", selector.kind, selector.location)
                };
                return Ok(vec![told(one), told(other)]);
            }
        }
    }
    Ok(Vec::new())
}

/// Whether a text is a cgroup's path from the root, as the kernel tells it: it begins there, and makes no detours.
///
/// # Errors
///
/// What is wrong with it.
pub fn check_path(path: &str) -> Result<(), String> {
    if !path.starts_with('/') {
        return Err(format!(
            "`{path}` is no cgroup path; write `/{path}`, from the cgroup root"
        ));
    }
    match path.split('/').find(|name| matches!(*name, "." | "..")) {
        Some(detour) => Err(format!(
            "`{path}` has the component `{detour}`; write the path without detours"
        )),
        None => Ok(()),
    }
}

/// The flags of each cgroup on the way, as far as this host has them.
pub fn on_this_host(path: &str) -> Vec<u16> {
    way_to(path).iter().skip(1).map(|cgroup| cgroup.flags).collect()
}

/// The kernel's ids of a cgroup of this host and of those above it, up to the root; none if there is no such cgroup.
pub fn ids_on_this_host(path: &str) -> Vec<u64> {
    let way = way_to(path);
    if way.len() <= depth(path) {
        return Vec::new();
    }
    way.iter().rev().map(|cgroup| cgroup.id).collect()
}

fn way_to(path: &str) -> Vec<Cgroup> {
    let way = CgroupRoot::find().and_then(|root| root.way_to(path));
    way.unwrap_or_default()
}

fn depth(path: &str) -> usize {
    path.split('/').filter(|name| !name.is_empty()).count()
}

/// The question that a recorded flow asks: both sides, and the port as a policy writes it.
///
/// # Errors
///
/// What is wrong with the line.
pub fn of_flow(line: &str) -> Result<(Who, Who, String), String> {
    let flow: FlowRecord = serde_json::from_str(line.trim())
        .map_err(|error| format!("this is no line of `segd flows -o json`: {error}"))?;
    of_record(&flow)
}

/// As [`of_flow`], of a line that is read.
///
/// # Errors
///
/// What it lacks.
pub fn of_record(flow: &FlowRecord) -> Result<(Who, Who, String), String> {
    // `cgroup` is the local side: who sends at an egress hook or a system call, who receives at an ingress hook.
    let sends = &*flow.hook != "ingress";
    let (own, peer) = (flow.cgroup.clone(), flow.peer_cgroup.clone());
    own.iter().chain(&peer).try_for_each(|path| check_path(path))?;
    let (from, to) = if sends { (own, peer) } else { (peer, own) };
    let side = |cgroup: Option<Arc<str>>, segment: &str, address: &str| match cgroup {
        Some(path) => Who::Cgroup(path.to_string()),
        // On the network an address tells more than the segment it was in then; `host` has no address of its own.
        None if segment != "host" && address.parse::<IpAddr>().is_ok() => Who::Named(address.to_owned()),
        None => Who::Named(segment.to_owned()),
    };
    let from = side(from, &flow.from, &flow.source);
    let to = side(to, &flow.to, &flow.destination);
    let protocol = &*flow.protocol;
    let port = match (flow.destination_port, flow.icmp_type, flow.icmp_code) {
        (Some(port), ..) => format!("{protocol}/{port}"),
        (None, Some(kind), Some(code)) => format!("{protocol}/{kind}/{code}"),
        _ => protocol.to_owned(),
    };
    if flow.from.is_empty() || flow.to.is_empty() || port.is_empty() {
        return Err("the line has no `from`, `to` or `protocol`".to_owned());
    }
    Ok((from, to, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOW: &str = r#"{"from":"web","to":"db","protocol":"tcp","source":"10.0.0.1","destination":"10.0.0.2",
        "source_port":40000,"destination_port":5432,"hook":"ingress","cgroup":"/db","peer_cgroup":null}"#;

    #[test]
    fn reads_the_sides_of_a_flow_by_where_it_was_judged() {
        let (from, to, port) = of_flow(FLOW).expect("a flow");
        assert_eq!(
            (from, to),
            (Who::Named("10.0.0.1".into()), Who::Cgroup("/db".into()))
        );
        assert_eq!(port, "tcp/5432");
        let sent = FLOW.replace("ingress", "connect");
        let (from, to, _) = of_flow(&sent).expect("a flow");
        assert_eq!(
            (from, to),
            (Who::Cgroup("/db".into()), Who::Named("10.0.0.2".into()))
        );
    }

    #[test]
    fn a_cgroup_that_is_no_path_is_no_flow() {
        for odd in ["db", "", "../db", "/on/../db", "/./db"] {
            for field in ["cgroup", "peer_cgroup"] {
                let line = FLOW.replace(
                    r#""cgroup":"/db","peer_cgroup":null"#,
                    &format!(r#""{field}":"{odd}""#),
                );
                assert!(of_flow(&line).is_err(), "{line}");
            }
        }
        let tables = CompiledTables::default();
        for odd in ["db", "/on/../db"] {
            assert!(Who::Cgroup(odd.to_owned()).identify(&tables).is_err(), "{odd}");
        }
    }

    #[test]
    fn refuses_what_is_no_flow() {
        for line in ["", "{}", "[]", "web -> db", r#"{"from": 3}"#] {
            assert!(of_flow(line).is_err(), "{line}");
        }
    }

    #[test]
    fn knows_the_cgroup_of_a_process() {
        let own = Who::Process(std::process::id()).settled();
        let Ok(Who::Cgroup(path)) = own else {
            eprintln!("skipped: {own:?}");
            return;
        };
        assert!(path.starts_with('/'), "{path}");
        assert!(Who::Process(u32::MAX).settled().is_err());
    }
}
