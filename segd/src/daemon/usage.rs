//! Rule hits: read out of the kernel, totalled and dated; and what they say of each rule in force.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    time::{Duration, Instant, SystemTime},
};

use jiff::Timestamp;
use segd_common::{
    decide::decide,
    segment::NONE,
    verdict::{RuleIndex, Verdict},
    workload::Identity,
};

use super::{
    engine::{Engine, InForce},
    error::ApplyError,
};
use crate::{
    control::types::RuleRow,
    policy::model::Rule,
    telemetry::{
        clock::{self, rfc3339, timestamp},
        hits::RuleHits,
        usage::{Usage, key},
    },
};

/// How old a count may get before it is read without being asked for.
const COUNTED: Duration = Duration::from_secs(60);

/// What is known of rule hits.
#[derive(Debug, Default)]
pub struct Hits {
    pub(super) totals: RuleHits,
    usage: Usage,
    read: Option<Instant>,
}

/// Who is counted under each number: a rule, or of those that decide together the one that holds now.
fn named(policy: &InForce, now: Timestamp) -> Vec<usize> {
    let numbers = 0..policy.tables.rules.len() + policy.tables.together.len();
    numbers
        .filter_map(|number| policy.tables.decider(RuleIndex::try_from(number).ok()?, now))
        .collect()
}

impl Engine {
    /// Adds the kernel's rule hits to the totals, and dates them.
    pub(super) fn collect_hits(&mut self) -> Result<(), ApplyError> {
        let now = SystemTime::now();
        let before = self.trial.as_ref().map(|trial| &trial.before);
        let mut known = Vec::new();
        for policy in self.in_force.iter().chain(before) {
            let (slot, revision) = (policy.active.slot(), policy.active.revision());
            let hits = self.tables.hits(slot, &policy.tables)?;
            let named = named(policy, timestamp(now));
            let rules: Vec<&Rule> = (named.iter())
                .filter_map(|place| policy.policy.rules.get(*place))
                .collect();
            let labels: Vec<String> = rules.iter().map(|rule| rule.label.to_string()).collect();
            let keys = rules.iter().zip(&labels);
            let keys: Vec<String> = keys
                .map(|(rule, label)| key(label, &rule.text.to_string()))
                .collect();
            let labels = labels.iter().map(String::as_str);
            self.hits.totals.absorb(slot, revision, labels, hits.as_slice());
            self.hits
                .usage
                .absorb(slot, revision, &keys, hits.as_slice(), now);
            known.extend(keys);
        }
        self.hits.usage.keep(&known.iter().collect::<BTreeSet<_>>());
        self.hits.read = Some(Instant::now());
        Ok(())
    }

    /// Collects, unless that was done a moment ago: a hit is dated when it is seen.
    pub(super) fn date_hits(&mut self) {
        if self.hits.read.is_none_or(|read| read.elapsed() >= COUNTED)
            && let Err(error) = self.collect_hits()
        {
            tracing::warn!("reading rule hits: {}", crate::report::chain(&error));
        }
    }

    /// The rules in force, and how they are used.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub(super) fn rule_rows(&mut self) -> Result<Vec<RuleRow>, ApplyError> {
        self.collect_hits()?;
        let sessions = self.sessions_by_rule().unwrap_or_default();
        let totals: BTreeMap<String, u64> = self.hits.totals.totals().into_iter().collect();
        let Some(in_force) = &self.in_force else {
            return Ok(Vec::new());
        };
        let rows = in_force.policy.rules.iter().enumerate().map(|(index, rule)| {
            let (label, text) = (rule.label.to_string(), rule.text.to_string());
            let used = self.hits.usage.of(&key(&label, &text));
            RuleRow {
                location: rule.location.to_string(),
                text,
                hits: totals.get(&label).copied().unwrap_or(0),
                rule: label,
                watched_since: used.map(|used| rfc3339(used.since)).unwrap_or_default(),
                last_hit: used.and_then(|used| used.last).map(rfc3339),
                sessions: sessions.get(&index).copied().unwrap_or(0),
            }
        });
        Ok(rows.collect())
    }

    /// How many ends of live sessions each rule lets be: who began long ago hits no more.
    fn sessions_by_rule(&self) -> io::Result<BTreeMap<usize, u64>> {
        let mut sessions: BTreeMap<usize, u64> = BTreeMap::new();
        let Some(in_force) = &self.in_force else {
            return Ok(sessions);
        };
        let now = clock::moment().calendar;
        for living in self.cutter.living()?.unwrap_or_default() {
            let (from, to) = (living.session.from, living.session.to);
            if from == NONE || to == NONE || living.passes == 0 {
                continue;
            }
            let tables = in_force.tables.as_ref();
            let verdict = decide(tables, Identity::of(from), Identity::of(to), living.service);
            if verdict.rule != Verdict::NO_RULE
                && let Some(place) = tables.decider(verdict.rule, now)
            {
                *sessions.entry(place).or_default() += 1;
            }
        }
        Ok(sessions)
    }
}
