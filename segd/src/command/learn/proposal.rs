//! From what was seen to what is printed: classified, learned, and judged again under the proposal itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
};

use segd_common::workload::CGROUP_UNTRUSTED;

use super::{
    Failed,
    judge::{Flow, counted, needed, tables, verify},
    recorded::Recording,
};
use crate::{
    command::{
        INVALID, NO,
        policy::who::{Who, on_this_host},
    },
    output::learn::Learned,
    policy::{
        compiled::CompiledTables,
        diagnostic::Style,
        learn::{Ground, Party, Proposal, Seen, learn, patch, patch::Patch},
        model::{Action, Policy, Source},
        resolve::resolve,
    },
    source::{Loaded, Trust, load},
};

/// The name of the document that is proposed.
const NAME: &str = "learned";

/// The policy that is added to, if there is one.
pub struct Base {
    paths: Vec<PathBuf>,
    compiled: Option<(Loaded, CompiledTables)>,
}

impl Base {
    /// Reads it.
    pub fn load(paths: &[PathBuf]) -> Result<Base, Failed> {
        let mut base = Base {
            paths: paths.to_vec(),
            compiled: None,
        };
        if !paths.is_empty() {
            let loaded = load(paths, false, &Trust::Everybody).map_err(|error| Failed {
                code: INVALID,
                complaint: error.render(Style::Plain),
            })?;
            let tables = tables(&loaded.policy).map_err(|error| Failed::new(INVALID, &error, None))?;
            base.compiled = Some((loaded, tables));
        }
        Ok(base)
    }
}

/// Proposes; the proposal has been checked, and lets pass what it says it does.
pub fn propose(recording: &Recording, base: Base) -> Result<Learned, Failed> {
    let mut left_out: BTreeMap<String, u64> = BTreeMap::new();
    for (why, count) in &recording.left_out {
        *left_out.entry((*why).to_owned()).or_default() += count;
    }
    let flows: Vec<Flow<'_>> = recording
        .seen
        .iter()
        .map(|((from, to, service), alike)| Flow {
            from,
            to,
            service: *service,
            flows: alike.flows,
            example: &alike.example,
        })
        .collect();
    let (needed, mut guarded) = match &base.compiled {
        None => (flows.iter().collect(), Vec::new()),
        Some((loaded, tables)) => needed(&flows, &loaded.policy, tables),
    };
    let mut ground = Ground {
        world_only: base.compiled.is_some(),
        ..Ground::default()
    };
    if let Some((loaded, _)) = &base.compiled {
        ground.taken = loaded.policy.segments.keys().cloned().collect();
        ground.enforce_host = loaded.policy.enforce_host;
    }
    let mut seen = Vec::new();
    let mut learned = Vec::new();
    for flow in needed {
        let sides = party(flow.from, &base).and_then(|from| Ok((from, party(flow.to, &base)?)));
        match sides {
            Ok((from, to)) => {
                for party in [&from, &to] {
                    if let Party::Cgroup(path) = party
                        && let Some(depth) = made_by_root(path)
                    {
                        ground.made_by_root.insert(path.clone(), depth);
                    }
                }
                seen.push(Seen {
                    from,
                    to,
                    service: flow.service,
                    flows: flow.flows,
                    example: flow.example.to_owned(),
                });
                learned.push(flow);
            }
            Err(why) => *left_out.entry(why.to_owned()).or_default() += flow.flows,
        }
    }
    let proposal = learn(&seen, &ground);
    for (why, count) in &proposal.left_out {
        *left_out.entry((*why).to_owned()).or_default() += count;
    }
    let covered: Vec<&Flow<'_>> = learned
        .iter()
        .zip(&proposal.covered)
        .filter_map(|(flow, covered)| covered.then_some(*flow))
        .collect();
    let total = flows.iter().map(|flow| flow.flows).sum();
    let mut answer = Learned {
        flows: total,
        segments: proposal.segments.iter().map(Into::into).collect(),
        rules: proposal.rules.iter().map(Into::into).collect(),
        left_out,
        ..Learned::default()
    };
    for missing in &recording.missing {
        answer.warnings.push(format!("incomplete: {missing}"));
    }
    for (why, count) in &answer.left_out {
        answer
            .warnings
            .push(format!("left out: {}: {why}", counted(*count)));
    }
    if proposal.is_empty() && base.compiled.is_none() {
        let told = answer.warnings.join("; ");
        let help = (!told.is_empty()).then_some(told.as_str());
        return Err(Failed::new(NO, "nothing was seen that needs a rule", help));
    }
    let (patch, document) = write(&proposal, recording, &answer, &base);
    let sources = match &patch {
        Some(patch) => with(&base, patch),
        None => vec![Source {
            name: format!("{NAME}.yaml"),
            text: document.into(),
        }],
    };
    guarded.extend(verify(&sources, &covered)?);
    guarded.sort();
    guarded.dedup();
    answer.guarded = guarded;
    answer.text = match patch {
        Some(patch) => {
            let heading = heading(recording, &answer);
            let mut text: String = heading.iter().map(|line| comment(line)).collect();
            if proposal.is_empty() {
                text.push_str("# nothing to add: the policy allows the rest of what was seen\n");
            } else {
                text.push_str(&patch.unified());
            }
            text
        }
        None => sources
            .into_iter()
            .map(|source| source.text.to_string())
            .collect(),
    };
    answer.patch = base.compiled.is_some();
    Ok(answer)
}

fn comment(line: &str) -> String {
    format!("# {}\n", crate::output::clean(line))
}

/// What stands above a proposal.
fn heading(recording: &Recording, answer: &Learned) -> Vec<String> {
    let mut lines = vec![format!(
        "Proposed by `segd learn` from {}.",
        counted(answer.flows)
    )];
    if let Some((first, last)) = &recording.span {
        lines.push(format!("Seen from {first} to {last}."));
    }
    lines.push(
        "It allows what was seen and nothing else: read it, name what should have a name, then try it with"
            .to_owned(),
    );
    lines.push("`segd apply FILE --confirm 120s`. What did not happen meanwhile (a backup, a failover) is not in it.".to_owned());
    lines.extend(answer.warnings.iter().cloned());
    lines.extend(
        answer
            .guarded
            .iter()
            .map(|line| format!("forbidden by a guardrail, not proposed: {line}")),
    );
    lines
}

/// Who that is for the proposal.
fn party(who: &Who, base: &Base) -> Result<Party, &'static str> {
    let known = match &base.compiled {
        Some((_, tables)) => {
            let found = who
                .clone()
                .identify(tables)
                .map_err(|_| "of somebody who is ambiguous in the policy")?;
            (tables.index(&found.segment).is_some() && !matches!(found.segment.as_str(), "host" | "world"))
                .then_some(found.segment)
        }
        None => None,
    };
    if let Some(segment) = known {
        return Ok(Party::Segment(segment));
    }
    match who {
        Who::Cgroup(path) => Ok(Party::Cgroup(path.clone())),
        Who::Named(name) => match (name.as_str(), name.parse::<IpAddr>()) {
            ("host", _) => Ok(Party::Host),
            ("world", _) => Ok(Party::World),
            (_, Ok(address)) => Ok(Party::Address(address)),
            _ => Err("of a segment whose cgroup was not recorded"),
        },
        Who::Process(_) => Err("not understood"),
    }
}

/// How many components of a cgroup's path root made, as far as this host has them.
fn made_by_root(path: &str) -> Option<usize> {
    on_this_host(path)
        .iter()
        .position(|flags| flags & CGROUP_UNTRUSTED != 0)
}

/// The proposal as a patch, or as a document.
fn write(
    proposal: &Proposal,
    recording: &Recording,
    answer: &Learned,
    base: &Base,
) -> (Option<Patch>, String) {
    let Some((loaded, _)) = &base.compiled else {
        return (None, proposal.document(NAME, &heading(recording, answer)));
    };
    let fits = |patch: &Patch| {
        let Ok((policy, _)) = resolve(&with(base, patch), false) else {
            return false;
        };
        let allows = |policy: &Policy| {
            policy
                .rules
                .iter()
                .filter(|rule| rule.action == Action::Allow)
                .count()
        };
        policy.segments.len() == loaded.policy.segments.len() + proposal.segments.len()
            && allows(&policy) == allows(&loaded.policy) + proposal.rules.len()
            && policy.rules.len() == loaded.policy.rules.len() + proposal.rules.len()
    };
    let inside = loaded
        .sources
        .iter()
        .filter_map(|source| patch::into_lists(source, proposal))
        .find(|patch| fits(patch));
    let names: BTreeSet<&str> = loaded.policy.names.iter().map(String::as_str).collect();
    let numbered = |number: usize| match number {
        1 => NAME.to_owned(),
        _ => format!("{NAME}-{number}"),
    };
    let name = (1..)
        .map(numbered)
        .find(|name| !names.contains(name.as_str()))
        .unwrap_or_default();
    let document = proposal.document(&name, &[]);
    let patch = inside.unwrap_or_else(|| match (base.paths.first(), loaded.sources.first()) {
        (Some(path), _) if path.is_dir() => {
            let file = path.join(format!("{name}.yaml"));
            patch::beside(&file.display().to_string(), &document)
        }
        (_, Some(source)) => patch::behind(source, &document),
        (_, None) => patch::beside(&format!("{name}.yaml"), &document),
    });
    (Some(patch), document)
}

/// The texts of the policy with what is added.
fn with(base: &Base, patch: &Patch) -> Vec<Source> {
    let mut sources = base
        .compiled
        .as_ref()
        .map(|(loaded, _)| loaded.sources.clone())
        .unwrap_or_default();
    match sources.iter_mut().find(|source| source.name == patch.file) {
        Some(source) => source.text = patch.result().into(),
        None => sources.push(Source {
            name: patch.file.clone(),
            text: patch.result().into(),
        }),
    }
    sources
}
