//! What a policy would end, if it were put in force now.
//!
//! INVARIANT: writes nothing, to the kernel or anywhere. Everybody is who tagging would make him, and is judged by the
//! decision over tables compiled as `segd apply` would compile them.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use segd_common::{
    address::{Address, is_loopback},
    decide::{decide, outcome},
    flow::DIRECTION_PASSIVE,
    segment::{FIRST_SEGMENT, HOST, NONE, SegmentIndex},
    service::Service,
    session,
    verdict::{Outcome, Verdict},
    workload::Identity,
};

use super::{
    cut::{Ends, ends},
    decide::refused,
    engine::Engine,
    error::ApplyError,
    noted::Names,
    shared::{DECIDE, Shared, conflict, lock},
    users::names_of,
};
use crate::{
    control::{
        dry_run::{DryRun, Ending},
        protocol::{FlowFilter, Refusal, RefusalKind},
        types::{Candidate, FlowRecord, Text},
    },
    policy::{
        compile::compile,
        compiled::CompiledTables,
        model::{Mode, Source},
        port, prefixes,
    },
    source::{Loaded, Sources, resolve_read},
    telemetry::{
        clock::{self, rfc3339},
        flows,
    },
    workload::{
        selector::SelectorTables,
        users::{Answers, PATIENCE},
    },
};

/// How far back the flow log is asked for what lives without a session, or where sessions are not listed.
const RECENT: Duration = Duration::from_secs(60);

impl Shared {
    /// Says what a policy that a client sent would end.
    pub async fn dry_run(&self, candidate: Candidate) -> Result<DryRun, Refusal> {
        let texts = candidate.texts.into_iter();
        let sources = Sources::of(texts.map(Source::from).collect());
        let loaded = resolve_read(sources, candidate.allow_empty)
            .and_then(Loaded::tested)
            .map_err(|error| Refusal::new(RefusalKind::Invalid, error.to_string()))?;
        let (names, asker) = (names_of(&loaded.policy), lock(&self.engine).users.asker());
        let asked = tokio::task::spawn_blocking(move || asker.ask(&names, PATIENCE)).await;
        let answers = asked.map_err(|error| Refusal::new(RefusalKind::Internal, error.to_string()))?;
        self.foretell(loaded, &answers)
    }

    fn foretell(&self, loaded: Loaded, answers: &Answers) -> Result<DryRun, Refusal> {
        let engine = self.engine();
        let Some(in_force) = &engine.in_force else {
            return Err(Refusal::new(RefusalKind::Internal, "no policy is in force"));
        };
        let revision = in_force.active.revision();
        if engine.trial.is_some() {
            return Err(conflict(format!("revision {revision} is on trial")).help(DECIDE));
        }
        let (_, now) = engine.text_of(in_force.active.slot()).ok_or_else(|| {
            let message = "the text of the policy in force is not known";
            Refusal::new(RefusalKind::Internal, message).help("`segd reload` brings it back")
        })?;
        // Rules that open nothing now are not asked.
        let judge = Judge::of(&engine, &loaded.at(clock::moment().calendar), answers)
            .map_err(|error| refused(&error))?;
        let mut answer = DryRun {
            revision,
            mode: engine.options.mode.map(|mode| match mode {
                Mode::Audit => "audit".into(),
                Mode::Enforce => "enforce".into(),
            }),
            texts: (now.sources.into_iter())
                .map(|Source { name, text }| Text {
                    name,
                    text: text.to_string(),
                })
                .collect(),
            flow_seconds: RECENT.as_secs(),
            ..DryRun::default()
        };
        let living = engine
            .cutter
            .living()
            .map_err(|error| Refusal::new(RefusalKind::Internal, format!("listing sessions: {error}")))?;
        let mut listed = BTreeMap::new();
        if let Some(living) = &living {
            listed = judge.sessions(living);
            answer.sessions = Some(listed.values().flatten().count() as u64);
            answer.unclear = listed.values().filter(|judged| judged.is_none()).count() as u64;
        }
        let since = rfc3339(SystemTime::now() - RECENT);
        let (recorded, _) = self.flows.follow(flows::KEPT, &FlowFilter::default());
        for flow in recorded
            .iter()
            .filter(|flow| flow.verdict != "denied" && flow.time >= since)
        {
            if ends_of(flow).is_some_and(|ends| listed.contains_key(&ends)) {
                continue;
            }
            if let Some(judged) = judge.flow(flow) {
                answer.flows += 1;
                answer.flows_denied.extend(judged);
            }
        }
        answer.cut = listed.into_values().flatten().flatten().collect();
        answer.cut.sort();
        answer.flows_denied.sort();
        Ok(answer)
    }
}

/// A candidate as it would be enforced.
struct Judge<'e> {
    engine: &'e Engine,
    tables: CompiledTables,
    cgroups: BTreeMap<u64, Identity>,
    /// Of what living workloads bear.
    names: Names<'e>,
}

/// What is asked about: both ends, and what stands for them in words.
struct Asked {
    from: Identity,
    to: Identity,
    service: Service,
    told: Ending,
}

impl<'e> Judge<'e> {
    fn of(engine: &'e Engine, loaded: &Loaded, answers: &Answers) -> Result<Judge<'e>, ApplyError> {
        let keep = engine.borne(engine.tables.active()?)?;
        let mut indexes = engine.indexes.clone();
        indexes.allocate(&loaded.policy, &keep)?;
        let tables = compile(&loaded.policy, &indexes, engine.options.mode)?;
        let uid = |name: &str| (answers.get(name).copied()).unwrap_or_else(|| engine.users.number(name));
        let selectors = SelectorTables::compile(&tables, 1, &uid)?;
        let cgroups = engine.foresee(&tables, &selectors)?;
        Ok(Judge {
            engine,
            tables,
            cgroups,
            names: engine.names(),
        })
    }

    /// Each session once, whichever ends were seen of it: `None` if no end is certain, else whether it would be cut.
    fn sessions(&self, living: &[session::Living]) -> BTreeMap<Ends, Option<Option<Ending>>> {
        let mut listed: BTreeMap<Ends, Option<Option<Ending>>> = BTreeMap::new();
        for end in living {
            let judged = self.session(end);
            let known = listed.entry(ends(&end.session)).or_default();
            if known.is_none() {
                *known = judged;
            }
        }
        listed
    }

    fn session(&self, living: &session::Living) -> Option<Option<Ending>> {
        let session = &living.session;
        if session.from == NONE || session.to == NONE {
            return None;
        }
        // In the host's namespace nobody is claimed by his address.
        let own = *self.cgroups.get(&living.own_cgroup)?;
        let peer = match living.peer_cgroup {
            0 => Identity::of(self.tables.claimed_by(&session.peer)),
            id => self.claimed(*self.cgroups.get(&id)?, &session.peer),
        };
        let path = |id| self.engine.path_of(id);
        let (own_path, peer_path) = (path(living.own_cgroup), path(living.peer_cgroup));
        let own = (own, session.own, session.own_port, own_path);
        let peer = (peer, session.peer, session.peer_port, peer_path);
        let (from, to) = if living.direction == DIRECTION_PASSIVE {
            (peer, own)
        } else {
            (own, peer)
        };
        if living.passes == 0 {
            return Some(None);
        }
        Some(self.ask(Asked {
            from: from.0,
            to: to.0,
            service: living.service,
            told: Ending {
                from: self.name_of(session.from),
                to: self.name_of(session.to),
                port: port::display(living.service),
                source: flows::address(from.1),
                source_port: Some(from.2),
                destination: flows::address(to.1),
                destination_port: Some(to.2),
                source_cgroup: from.3,
                destination_cgroup: to.3,
                ..Ending::default()
            },
        }))
    }

    /// Whether a recorded flow would be denied; `None` if it is not known who that was.
    fn flow(&self, flow: &FlowRecord) -> Option<Option<Ending>> {
        let own = (flow.cgroup_id, flow.cgroup.clone());
        let peer = (flow.peer_cgroup_id, flow.peer_cgroup.clone());
        let (from, to) = if flow.hook == "ingress" {
            (peer, own)
        } else {
            (own, peer)
        };
        let side = |id: u64, name: &str, address: &str| {
            let address = address.parse::<IpAddr>().ok().map(prefixes::bits);
            match (id, address) {
                (0, _) if name == "host" => Some(Identity::of(HOST)),
                (0, Some(address)) => Some(Identity::of(self.tables.claimed_by(&address))),
                (0, None) => None,
                (id, Some(address)) if name != "host" => {
                    Some(self.claimed(*self.cgroups.get(&id)?, &address))
                }
                (id, _) => self.cgroups.get(&id).copied(),
            }
        };
        let service = port::parse_one(&flow.service()).ok()?;
        Some(self.ask(Asked {
            from: side(from.0, &flow.from, &flow.source)?,
            to: side(to.0, &flow.to, &flow.destination)?,
            service,
            told: Ending {
                from: flow.from.to_string(),
                to: flow.to.to_string(),
                port: flow.service(),
                source: flow.source.to_string(),
                source_port: flow.source_port,
                destination: flow.destination.to_string(),
                destination_port: flow.destination_port,
                source_cgroup: from.1.as_deref().map(String::from),
                destination_cgroup: to.1.as_deref().map(String::from),
                ..Ending::default()
            },
        }))
    }

    /// Why it would be denied, if it would.
    fn ask(&self, asked: Asked) -> Option<Ending> {
        let verdict = decide(&self.tables, asked.from, asked.to, asked.service);
        if outcome(&self.tables, verdict, asked.from, asked.to) != Outcome::Denied {
            return None;
        }
        let rule = (verdict.rule != Verdict::NO_RULE).then_some(verdict.rule as usize);
        let rule = rule.and_then(|index| self.tables.rules.get(index));
        Some(Ending {
            reason: verdict.reason.label().into(),
            rule: rule.map(|rule| rule.label().to_string()),
            location: rule.map(|rule| rule.location().to_string()),
            ..asked.told
        })
    }

    /// Who is unclaimed outside of the host's namespace is claimed by a segment that claims his address.
    fn claimed(&self, identity: Identity, address: &Address) -> Identity {
        let mut namespaces = self.engine.namespaces.iter();
        if identity != Identity::of(HOST)
            || is_loopback(address)
            || namespaces.any(|info| info.is_host && info.addresses.contains(address))
        {
            return identity;
        }
        match self.tables.claimed_by(address) {
            claimed if claimed >= FIRST_SEGMENT => Identity::of(claimed),
            _ => identity,
        }
    }

    fn name_of(&self, index: SegmentIndex) -> String {
        let in_force = self.engine.in_force.as_ref();
        let names = in_force.map(|in_force| &in_force.tables.names);
        let name = names.and_then(|names| names.get(usize::from(index))).cloned();
        // One that left the policy and whose workloads live.
        name.filter(|name| !name.is_empty())
            .unwrap_or_else(|| self.names.get(index).unwrap_or_default().to_owned())
    }
}

/// The ends of a recorded flow, as those of a session are told.
fn ends_of(flow: &FlowRecord) -> Option<Ends> {
    if flow.protocol != "tcp" {
        return None;
    }
    let bits = |address: &str| address.parse::<IpAddr>().ok().map(prefixes::bits);
    let mut ends = [
        (bits(&flow.source)?, flow.source_port?),
        (bits(&flow.destination)?, flow.destination_port?),
    ];
    ends.sort_unstable();
    Some(ends)
}
