//! Flows judged: which of them a policy lacks rules for, and whether the proposal lets them pass.

use std::collections::BTreeSet;

use segd_common::{reason::Reason, service::Service};

use super::Failed;
use crate::{
    command::{
        INTERNAL, INVALID,
        policy::{replay::Judge, who::Who},
    },
    policy::{
        compile::compile,
        compiled::{CompiledTables, SegmentIndexes},
        diagnostic::{Style, render},
        diff::Side,
        model::{Policy, Source},
        port,
        resolve::resolve,
    },
};

/// One kind of flow on its way.
pub struct Flow<'r> {
    /// Who started it.
    pub from: &'r Who,
    /// Towards whom.
    pub to: &'r Who,
    /// On what.
    pub service: Service,
    /// How many.
    pub flows: u64,
    /// One of them.
    pub example: &'r str,
}

/// A policy as it would be enforced.
pub fn tables(policy: &Policy) -> Result<CompiledTables, String> {
    let mut indexes = SegmentIndexes::default();
    indexes
        .allocate(policy, &BTreeSet::new())
        .and_then(|()| compile(policy, &indexes, None))
        .map_err(|error| error.to_string())
}

/// The flows that the policy needs rules for, and those that a guardrail forbids. A cgroup that gets a segment is no
/// longer `host`: all that it was seen to do needs rules then.
pub fn needed<'f, 'r>(
    flows: &'f [Flow<'r>],
    policy: &Policy,
    tables: &CompiledTables,
) -> (Vec<&'f Flow<'r>>, Vec<String>) {
    let mut judge = Judge::of(Side { policy, tables });
    let mut guarded = Vec::new();
    let mut needed = Vec::new();
    let mut rest = Vec::new();
    for flow in flows {
        match judge.judge(flow.from, flow.to, flow.service) {
            Some((from, to, verdict)) if verdict.reason == Reason::Guardrail => {
                guarded.push(told(flow, &from, &to));
            }
            Some((.., verdict)) if verdict.allows() => rest.push(flow),
            _ => needed.push(flow),
        }
    }
    let mut unclaimed = |who: &Who| match who {
        Who::Cgroup(path) if !path.trim_matches('/').is_empty() => {
            judge.segment(who).is_some_and(|name| name == "host")
        }
        _ => false,
    };
    let mut new: BTreeSet<&Who> = BTreeSet::new();
    let mut at = 0;
    while let Some(flow) = needed.get(at) {
        at += 1;
        let (from, to) = (flow.from, flow.to);
        for who in [from, to] {
            if unclaimed(who) && new.insert(who) {
                let (touched, others): (Vec<_>, Vec<_>) = rest
                    .into_iter()
                    .partition(|flow| flow.from == who || flow.to == who);
                needed.extend(touched);
                rest = others;
            }
        }
    }
    (needed, guarded)
}

fn told(flow: &Flow<'_>, from: &str, to: &str) -> String {
    format!(
        "{from} -> {to} {}: {}, e.g. {}",
        port::display(flow.service),
        counted(flow.flows),
        flow.example
    )
}

/// Judges every flow that a rule was written for under the result. What a guardrail forbids is told; anything else that is
/// denied is our own fault.
pub fn verify(sources: &[Source], flows: &[&Flow<'_>]) -> Result<Vec<String>, Failed> {
    let fault = |message: String| {
        let help = "please report this, with the log that it was learned from";
        Failed::new(INTERNAL, &message, Some(help))
    };
    let (policy, _) = resolve(sources, false).map_err(|diagnostics| {
        fault(format!(
            "the proposal is no valid policy: {}",
            render(&diagnostics, sources, Style::Plain)
        ))
    })?;
    let tables = tables(&policy)
        .map_err(|error| Failed::new(INVALID, &format!("the proposal does not fit: {error}"), None))?;
    let mut judge = Judge::of(Side {
        policy: &policy,
        tables: &tables,
    });
    let mut guarded = Vec::new();
    for flow in flows {
        match judge.judge(flow.from, flow.to, flow.service) {
            Some((.., verdict)) if verdict.allows() => {}
            Some((from, to, verdict)) if verdict.reason == Reason::Guardrail => {
                guarded.push(told(flow, &from, &to));
            }
            Some((from, to, verdict)) => {
                return Err(fault(format!(
                    "the proposal would deny what it was learned from: {}: {}",
                    told(flow, &from, &to),
                    verdict.reason.label()
                )));
            }
            None => {
                return Err(fault(format!(
                    "the proposal does not know who this is: {}",
                    flow.example
                )));
            }
        }
    }
    Ok(guarded)
}

/// `1 flow`, `2 flows`.
pub fn counted(count: u64) -> String {
    format!("{count} {}", if count == 1 { "flow" } else { "flows" })
}
