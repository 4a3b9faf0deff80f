//! The flow log: what the kernel told of, in people's words; the newest kept, all passed on to followers.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use jiff::Timestamp;
use segd_common::{
    event::{EVENT_REVOKED, FlowEvent, Hook},
    reason::Reason,
    service,
    verdict::{Outcome, Verdict},
};
use tokio::sync::broadcast;

use super::{
    clock::{EventClock, rfc3339, timestamp},
    denials::{self, Limiter},
    names::Names,
};
use crate::{
    control::{
        protocol::FlowFilter,
        types::{FlowRecord, Word},
    },
    policy::compiled::CompiledTables,
};

/// How many flows are kept.
pub const KEPT: usize = 4096;
/// How many revisions' commits are known.
const COMMITS: usize = 16;
/// How far a follower may lag before it misses flows.
const LAG: usize = 1024;

/// The flow log. Shared: the daemon records, the control socket reads.
#[derive(Debug)]
pub struct FlowLog {
    clock: EventClock,
    sender: broadcast::Sender<Arc<FlowRecord>>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    names: Names,
    /// The revision in force and the one before: packets of both may still be told of.
    revisions: VecDeque<(u32, Arc<CompiledTables>)>,
    /// The commits that revisions come from, as far as that is known.
    commits: BTreeMap<u32, String>,
    kept: VecDeque<Arc<FlowRecord>>,
    texts: Texts,
    limiter: Limiter,
}

impl FlowLog {
    /// An empty log of events that are timed by a clock.
    #[must_use]
    pub fn new(clock: EventClock) -> FlowLog {
        FlowLog {
            clock,
            sender: broadcast::Sender::new(LAG),
            inner: Mutex::new(Inner {
                names: Names::default(),
                revisions: VecDeque::new(),
                commits: BTreeMap::new(),
                kept: VecDeque::new(),
                texts: Texts::default(),
                limiter: Limiter::new(Instant::now()),
            }),
        }
    }

    /// Takes the names and rules of a revision. Call it before the revision comes into force.
    pub fn adopt(&self, revision: u32, tables: Arc<CompiledTables>) {
        let mut inner = self.inner();
        inner.names.adopt(&tables.names);
        inner.revisions.retain(|(known, _)| *known != revision);
        inner.revisions.push_back((revision, tables));
        while inner.revisions.len() > 2 {
            inner.revisions.pop_front();
        }
    }

    /// Notes the commit that a revision comes from: flows that are recorded from now on carry it.
    pub fn note_commit(&self, revision: u32, commit: Option<String>) {
        let commits = &mut self.inner().commits;
        match commit {
            Some(commit) => drop(commits.insert(revision, commit)),
            None => drop(commits.remove(&revision)),
        }
        while commits.len() > COMMITS {
            commits.pop_first();
        }
    }

    /// Segment names by index, those that left the policy included; for the metrics.
    #[must_use]
    pub fn names(&self) -> Names {
        self.inner().names.clone()
    }

    /// Records an event, passes it on, and writes a denial to the log unless there were too many. `path` gives
    /// the path of a cgroup that is known. What segd's own probe did is left out.
    pub fn record(&self, event: &FlowEvent, path: impl Fn(u64) -> Option<String>) {
        if event.reason == Reason::Probe as u8 {
            return;
        }
        let mut inner = self.inner();
        let mut flow = inner.translate(self.clock, event, path);
        inner.texts.share(&mut flow);
        let flow = Arc::new(flow);
        inner.log(event, &flow);
        if inner.kept.len() >= KEPT {
            inner.kept.pop_front();
        }
        inner.kept.push_back(Arc::clone(&flow));
        // Nobody follows: no error. Sent under the lock, so that `follow` neither misses nor repeats.
        let _ = self.sender.send(flow);
    }

    /// The newest kept flows that match, oldest first, and every flow recorded from now on.
    #[must_use]
    pub fn follow(
        &self,
        last: usize,
        filter: &FlowFilter,
    ) -> (Vec<Arc<FlowRecord>>, broadcast::Receiver<Arc<FlowRecord>>) {
        let inner = self.inner();
        let mut flows: Vec<_> = inner
            .kept
            .iter()
            .rev()
            .filter(|flow| filter.matches(flow))
            .take(last)
            .map(Arc::clone)
            .collect();
        flows.reverse();
        (flows, self.sender.subscribe())
    }

    /// Writes what was left out of the log for causes that went quiet. Call it every few seconds.
    pub fn tick(&self) {
        let mut inner = self.inner();
        for ((from, to, reason, outcome), count) in inner.limiter.quiet(Instant::now()) {
            let cause = (from, to, reason, outcome);
            if cause == denials::OTHER {
                tracing::warn!("{count} more of other causes suppressed");
            } else {
                let word = Outcome::from_number(outcome).label();
                let (from, to) = (inner.names.name(from), inner.names.name(to));
                let reason = Reason::from_number(reason).map_or("unknown", Reason::label);
                tracing::warn!("{word} {from} -> {to}: {reason}: {count} more suppressed");
            }
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Texts that many records have in common: names, rules, addresses, cgroups. A flood is told of in few words.
#[derive(Debug, Default)]
struct Texts(HashSet<Arc<str>>);

impl Texts {
    /// As many as are remembered; records hold theirs for themselves.
    const MOST: usize = 1024;

    /// Lets a record have the texts of those before it, where they say the same.
    fn share(&mut self, flow: &mut FlowRecord) {
        let FlowRecord {
            from,
            to,
            rule,
            location,
            source,
            destination,
            commit,
            cgroup,
            peer_cgroup,
            ..
        } = flow;
        let optional = [rule, location, commit, cgroup, peer_cgroup];
        for text in [from, to, source, destination]
            .into_iter()
            .chain(optional.into_iter().flatten())
        {
            match self.0.get(text) {
                Some(known) => *text = Arc::clone(known),
                None => {
                    if self.0.len() >= Texts::MOST {
                        self.0.clear();
                    }
                    self.0.insert(Arc::clone(text));
                }
            }
        }
    }
}

impl Inner {
    fn translate(
        &self,
        clock: EventClock,
        event: &FlowEvent,
        path: impl Fn(u64) -> Option<String>,
    ) -> FlowRecord {
        let number = service::protocol(event.service);
        let has_ports = service::has_ports(number);
        let icmp = matches!(number, service::ICMP | service::ICMPV6);
        let [_, _, kind, code] = event.service.to_be_bytes();
        let time = clock.calendar(event.time_ns);
        let rule = self.rule(event, timestamp(time));
        let of_a_socket = event.hook == Hook::Socket as u8;
        // Refused at the system call, the socket had no address yet.
        let unbound = event.source == [0; 16];
        FlowRecord {
            time: rfc3339(time),
            from: self.names.name(event.from).into(),
            to: self.names.name(event.to).into(),
            verdict: Outcome::from_number(event.outcome).label().into(),
            reason: Reason::from_number(event.reason)
                .map_or("unknown", Reason::label)
                .into(),
            rule: rule.as_ref().map(|(label, _)| label.clone()),
            location: rule.map(|(_, location)| location),
            protocol: match Reason::from_number(event.reason).and_then(family) {
                Some(family) => family.into(),
                None => protocol(number),
            },
            source: if unbound {
                Arc::default()
            } else {
                address(event.source).into()
            },
            source_port: (has_ports && !unbound).then_some(event.source_port),
            destination: if of_a_socket {
                Arc::default()
            } else {
                address(event.destination).into()
            },
            destination_port: has_ports.then_some(event.destination_port),
            icmp_type: icmp.then_some(kind),
            icmp_code: icmp.then_some(code),
            hook: Hook::label(event.hook).into(),
            revision: event.revision,
            commit: self
                .commits
                .get(&event.revision)
                .map(|commit| commit.as_str().into()),
            cgroup: (event.cgroup != 0)
                .then(|| path(event.cgroup))
                .flatten()
                .map(Arc::from),
            cgroup_id: event.cgroup,
            peer_cgroup: (event.peer_cgroup != 0)
                .then(|| path(event.peer_cgroup))
                .flatten()
                .map(Arc::from),
            peer_cgroup_id: event.peer_cgroup,
            bytes: event.bytes,
            revoked: event.flags & EVENT_REVOKED != 0,
        }
    }

    /// Label and location of the rule that decided, if its revision is still known.
    fn rule(&self, event: &FlowEvent, time: Timestamp) -> Option<(Arc<str>, Arc<str>)> {
        if event.rule == Verdict::NO_RULE {
            return None;
        }
        let (_, tables) = self
            .revisions
            .iter()
            .find(|(revision, _)| *revision == event.revision)?;
        let rule = tables.rules.get(tables.decider(event.rule, time)?)?;
        Some((
            rule.label().to_string().into(),
            rule.location().to_string().into(),
        ))
    }

    fn log(&mut self, event: &FlowEvent, flow: &FlowRecord) {
        if Outcome::from_number(event.outcome) == Outcome::Allowed {
            return;
        }
        let cause = (event.from, event.to, event.reason, event.outcome);
        let Some(suppressed) = self.limiter.offer(cause, Instant::now()) else {
            return;
        };
        let line = flow.sentence();
        if suppressed > 0 {
            tracing::warn!("{line}; {suppressed} more suppressed");
        } else {
            tracing::warn!("{line}");
        }
    }
}

/// The word for the family of a socket that was refused.
#[must_use]
pub fn family(reason: Reason) -> Option<&'static str> {
    match reason {
        Reason::PacketSocket => Some("packet"),
        Reason::XdpSocket => Some("xdp"),
        _ => None,
    }
}

/// The word for an IP protocol, as policies write it.
fn protocol(number: u8) -> Word {
    match number {
        service::TCP => "tcp".into(),
        service::UDP => "udp".into(),
        service::SCTP => "sctp".into(),
        service::UDPLITE => "udplite".into(),
        service::ICMP => "icmp".into(),
        service::ICMPV6 => "icmpv6".into(),
        other => format!("ip/{other}").into(),
    }
}

/// An address; a v4-mapped one as IPv4.
pub fn address(bytes: segd_common::address::Address) -> String {
    let address = Ipv6Addr::from(bytes);
    address
        .to_ipv4_mapped()
        .map_or(IpAddr::V6(address), IpAddr::V4)
        .to_string()
}

#[cfg(test)]
mod tests;
