//! The judges that need no kernel: the author of the policy, segd's oracle, and the tables the kernel would read.

use std::collections::BTreeSet;

use jiff::Timestamp;
use segd::policy::{
    compile::compile,
    compiled::{CompiledTables, SegmentIndexes},
    diagnostic::{Style, render},
    model::{Mode, Peer, Policy, Source},
    oracle,
    resolve::resolve,
};
use segd_common::{
    decide,
    packet::{self, PACKET_FRAGMENT, Packet},
    reason::Reason,
    segment,
    verdict::Verdict,
    workload::{AMBIGUOUS, Identity, ORPHANED, PENDING},
};

use super::{
    model::{Eyes, Judged},
    packets::Made,
    parse::{self, View},
    spec::Spec,
};

/// A policy in all of its forms.
pub struct Forms {
    pub policy: Policy,
    pub tables: CompiledTables,
    /// What of it holds at the time, compiled: what the tables in memory say.
    now: CompiledTables,
    /// When it is asked.
    pub time: Timestamp,
    /// `--mode`.
    pub mode: Option<Mode>,
}

impl Forms {
    /// Reads and compiles a text.
    #[track_caller]
    pub fn of(text: &str, mode: Option<Mode>, time: Timestamp) -> Forms {
        let sources = [Source {
            name: "policy.yaml".to_owned(),
            text: text.into(),
        }];
        let (policy, _) = resolve(&sources, false)
            .unwrap_or_else(|errors| panic!("{}\n{text}", render(&errors, &sources, Style::Plain)));
        let mut indexes = SegmentIndexes::default();
        indexes.allocate(&policy, &BTreeSet::new()).expect("few segments");
        let compiled = |policy: &Policy| compile(policy, &indexes, mode).expect("a small policy");
        Forms {
            tables: compiled(&policy),
            now: compiled(&policy.at(time)),
            policy,
            time,
            mode,
        }
    }

    /// The rule that a judge named by its number in the tables.
    pub fn rule(&self, number: u32) -> Option<usize> {
        (number != Verdict::NO_RULE).then(|| self.tables.decider(number, self.time).expect("a rule's number"))
    }

    /// The name of a side; empty for one that the policy does not know.
    fn name(&self, segment: u16) -> &str {
        self.tables
            .names
            .get(usize::from(segment))
            .map_or("", String::as_str)
    }

    /// The index of a peer by name.
    #[track_caller]
    pub fn index(&self, name: &str) -> u16 {
        self.tables
            .index(name)
            .unwrap_or_else(|| panic!("no segment `{name}`"))
    }
}

/// What decides before any policy: docs/reasons.md.
fn reserved(from: Identity, to: Identity) -> Option<&'static str> {
    let either = |what: &dyn Fn(Identity) -> bool| what(from) || what(to);
    if either(&|side| side.segment == segment::PROBE) {
        Some("probe")
    } else if either(&|side| side.segment == segment::NONE) {
        Some("unknown")
    } else if either(&|side| side.flags & ORPHANED != 0) {
        Some("orphaned")
    } else if either(&|side| side.flags & AMBIGUOUS != 0) {
        Some("ambiguous")
    } else if either(&|side| side.flags & PENDING != 0) {
        Some("pending")
    } else {
        None
    }
}

fn outcome(reason: &str, audits: bool) -> &'static str {
    match reason {
        "rule" | "intra" | "host-default" | "reply" | "control" => "allowed",
        "no-rule" | "guardrail" | "unknown" | "pending" | "ambiguous" | "orphaned" if audits => "audited",
        _ => "denied",
    }
}

/// The author.
pub struct Author<'a> {
    pub spec: &'a Spec,
    pub forms: &'a Forms,
}

impl Author<'_> {
    fn audits(&self, from: Identity, to: Identity) -> bool {
        self.spec
            .audits(self.forms.name(from.segment), self.forms.name(to.segment))
    }
}

impl Eyes for Author<'_> {
    fn read(&self, packet: &Made) -> Result<View, &'static str> {
        parse::parse(&packet.bytes, packet.v6)
    }

    fn owner(&self, address: &[u8; 16]) -> u16 {
        self.forms.index(self.spec.owner(u128::from_be_bytes(*address)))
    }

    fn judge(&self, from: Identity, to: Identity, service: u32) -> Judged {
        let (a, b) = (self.forms.name(from.segment), self.forms.name(to.segment));
        let (reason, rule) = match reserved(from, to) {
            Some(reason) => (reason, None),
            None if a.is_empty() || b.is_empty() => ("no-rule", None),
            None => self.spec.judge(a, b, service),
        };
        Judged {
            reason,
            rule,
            outcome: outcome(reason, self.audits(from, to)),
        }
    }

    fn unruled(&self, from: Identity, to: Identity) -> Judged {
        let reason = reserved(from, to).unwrap_or("no-rule");
        Judged {
            reason,
            rule: None,
            outcome: outcome(reason, self.audits(from, to)),
        }
    }
}

/// segd's oracle, with the slow reader of packets.
pub struct Oracle<'a>(pub &'a Forms);

impl Oracle<'_> {
    fn peer(&self, identity: Identity) -> Option<Peer> {
        match self.0.name(identity.segment) {
            "" | "_probe" => None,
            "host" => Some(Peer::Host),
            "world" => Some(Peer::World),
            name => Some(Peer::Segment(name.to_owned())),
        }
    }

    fn audits(&self, from: Identity, to: Identity) -> bool {
        match self.0.mode {
            Some(mode) => mode == Mode::Audit,
            None => {
                let peer = |side| self.peer(side).unwrap_or(Peer::World);
                oracle::audits(&self.0.policy, &peer(from), &peer(to))
            }
        }
    }
}

impl Eyes for Oracle<'_> {
    fn read(&self, packet: &Made) -> Result<View, &'static str> {
        parse::parse(&packet.bytes, packet.v6)
    }

    fn owner(&self, address: &[u8; 16]) -> u16 {
        let address = std::net::Ipv6Addr::from(*address);
        let address = address
            .to_ipv4_mapped()
            .map_or(std::net::IpAddr::V6(address), std::net::IpAddr::V4);
        match oracle::owners(&self.0.policy, address).as_slice() {
            [] => segment::WORLD,
            [owner] => self.0.index(owner),
            several => panic!("{address} belongs to {several:?}"),
        }
    }

    fn judge(&self, from: Identity, to: Identity, service: u32) -> Judged {
        let (reason, rule) = match (reserved(from, to), self.peer(from), self.peer(to)) {
            (Some(reason), ..) => (reason, None),
            (None, Some(a), Some(b)) => {
                let (reason, rule) = oracle::judge_at(&self.0.policy, self.0.time, &a, &b, service);
                (reason.label(), rule)
            }
            _ => ("no-rule", None),
        };
        Judged {
            reason,
            rule,
            outcome: outcome(reason, self.audits(from, to)),
        }
    }

    fn unruled(&self, from: Identity, to: Identity) -> Judged {
        let reason = reserved(from, to).unwrap_or("no-rule");
        Judged {
            reason,
            rule: None,
            outcome: outcome(reason, self.audits(from, to)),
        }
    }
}

/// The code and the tables that the kernel runs on, in memory.
pub struct InMemory<'a>(pub &'a Forms);

impl Eyes for InMemory<'_> {
    fn read(&self, packet: &Made) -> Result<View, &'static str> {
        let mut found = Packet::default();
        match packet::walk(&packet.bytes.as_slice(), packet.v6, &mut found) {
            Err(reason) => Err(reason.label()),
            Ok(()) if found.flags & PACKET_FRAGMENT != 0 => Err(Reason::Fragment.label()),
            Ok(()) => Ok(View {
                source: found.source,
                destination: found.destination,
                protocol: found.protocol,
                service: found.service,
                kind: found.kind,
                tcp_flags: found.tcp_flags,
                // An echo's identifier stands there too.
                source_port: if segd_common::service::has_ports(found.protocol) {
                    found.source_port
                } else {
                    0
                },
                destination_port: if segd_common::service::has_ports(found.protocol) {
                    found.destination_port
                } else {
                    0
                },
                hop_limit: found.hop_limit,
            }),
        }
    }

    fn owner(&self, address: &[u8; 16]) -> u16 {
        self.0.now.claimed_by(address)
    }

    fn judge(&self, from: Identity, to: Identity, service: u32) -> Judged {
        let verdict = decide::decide(&self.0.now, from, to, service);
        let outcome = decide::outcome(&self.0.now, verdict, from, to);
        Judged {
            reason: verdict.reason.label(),
            outcome: outcome.label(),
            rule: (verdict.rule != Verdict::NO_RULE).then(|| {
                let decider = self.0.now.decider(verdict.rule, self.0.time);
                decider.expect("a rule's number")
            }),
        }
    }

    fn unruled(&self, from: Identity, to: Identity) -> Judged {
        self.judge(from, to, segd_common::service::NONE)
    }
}
