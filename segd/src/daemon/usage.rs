//! Rule hits: read out of the kernel, totalled and dated; and what they say of each rule in force.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Weak},
    time::{Duration, Instant, SystemTime},
};

use jiff::Timestamp;
use segd_common::{
    decide::decide,
    segment::NONE,
    verdict::{RuleIndex, Verdict},
    workload::Identity,
};

use super::{engine::Engine, error::ApplyError};
use crate::{
    control::types::RuleRow,
    policy::{
        compiled::CompiledTables,
        model::{Pieces, Rule},
    },
    telemetry::{
        clock::{self, rfc3339, timestamp},
        hits::{Counts, RuleHits},
        usage::{Key, Part, Usage},
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
    slots: [Option<Followed>; 2],
    /// The revisions that were in force at the last look.
    in_force: Vec<u32>,
}

/// A slot whose counts are read: its policy is in force, or was until it was left.
#[derive(Debug)]
struct Followed {
    revision: u32,
    tables: Arc<CompiledTables>,
    counts: Counts,
    /// The pieces of its rules, as long as they are somebody's, and the place of the first rule of each.
    pieces: Vec<(usize, Weak<Vec<Rule>>)>,
}

/// By its address, where a piece of rules stands that is watched: the slot and the place of its first rule.
type Watched = BTreeMap<usize, (usize, usize)>;

impl Hits {
    /// What was in force at the last look. Nothing else comes to have such an address as long as it is followed.
    fn watched(&self) -> Watched {
        let slots = self.slots.iter().enumerate();
        let slots = slots.filter_map(|(slot, followed)| Some((slot, followed.as_ref()?)));
        let in_force = slots.filter(|(_, followed)| self.in_force.contains(&followed.revision));
        in_force
            .flat_map(|(slot, followed)| {
                let pieces = followed.pieces.iter();
                pieces.map(move |(first, piece)| (piece.as_ptr().addr(), (slot, *first)))
            })
            .collect()
    }
}

/// The rules of a policy, those apart that are watched already.
fn parts(rules: &Pieces<Rule>, known: &Watched) -> Vec<Part> {
    let pieces = rules
        .pieces()
        .map(|(_, piece)| match known.get(&Arc::as_ptr(piece).addr()) {
            Some((slot, first)) => Part::Same {
                slot: *slot,
                rules: *first..first + piece.len(),
            },
            None => Part::New(
                piece
                    .iter()
                    .map(|rule| Key::of(&rule.label(), &rule.text()))
                    .collect(),
            ),
        });
    pieces.collect()
}

impl Engine {
    /// Adds the kernel's rule hits to the totals, and dates them.
    pub(super) fn collect_hits(&mut self) -> Result<(), ApplyError> {
        let now = SystemTime::now();
        // Whose turn it was until now: the next one's may have come a moment ago, and nobody has looked yet.
        let time = self.expiry.not_due_at(timestamp(now));
        self.follow_rules(now)?;
        for slot in [0, 1] {
            self.count(slot, time, Some(now))?;
        }
        self.hits.read = Some(Instant::now());
        Ok(())
    }

    /// Before a policy is left whose rules take turns: whose its hits are is not known later.
    pub(super) fn collect_hits_of_turns(&mut self) {
        let turns = |policy: &super::engine::InForce| !policy.tables.together.is_empty();
        if self.in_force.as_ref().is_some_and(turns) {
            self.collect_hits_or_warn();
        }
    }

    /// Collects; what cannot be read keeps nothing else from being done.
    pub(super) fn collect_hits_or_warn(&mut self) {
        if let Err(error) = self.collect_hits() {
            tracing::warn!("reading rule hits: {}", crate::report::chain(&error));
        }
    }

    /// Knows whose the counts of each slot are: from then on, none of them is lost.
    pub(super) fn follow_rules(&mut self, now: SystemTime) -> Result<(), ApplyError> {
        let first = self.hits.usage.is_empty();
        let mut in_force = [false; 2];
        let mut new = [None, None];
        let mut revisions = Vec::new();
        let before = self.trial.as_ref().map(|trial| &trial.before);
        let known = self.hits.watched();
        for policy in self.in_force.iter().chain(before) {
            let (slot, revision) = ((policy.active.slot() & 1) as usize, policy.active.revision());
            revisions.push(revision);
            in_force[slot] = true;
            let followed = &mut self.hits.slots[slot];
            if followed
                .as_ref()
                .is_some_and(|followed| followed.revision == revision)
            {
                continue;
            }
            new[slot] = Some(parts(&policy.policy.rules, &known));
            self.hits.totals.know(policy.tables.rules.iter().map(Rule::label));
            *followed = Some(Followed {
                revision,
                tables: Arc::clone(&policy.tables),
                counts: Counts::default(),
                pieces: (policy.policy.rules.pieces())
                    .map(|(first, piece)| (first, Arc::downgrade(piece)))
                    .collect(),
            });
        }
        if self.hits.in_force != revisions {
            self.hits.usage.watch(new, in_force, now);
            self.hits.in_force = revisions;
        }
        if first {
            // What was counted before the first look of all is not dated.
            self.count(0, timestamp(now), None)?;
            self.count(1, timestamp(now), None)?;
        }
        Ok(())
    }

    /// Reads a slot out. `time`: at which the rules were open whose hits these are.
    fn count(&mut self, slot: u32, time: Timestamp, dated: Option<SystemTime>) -> Result<(), ApplyError> {
        let Some(followed) = &mut self.hits.slots[(slot & 1) as usize] else {
            return Ok(());
        };
        let read = self.tables.hits(slot, &followed.tables)?;
        for (number, hits) in followed.counts.since(read) {
            // A rule, or of those that decide together the one that held then.
            let place = RuleIndex::try_from(number)
                .ok()
                .and_then(|number| followed.tables.decider(number, time));
            let Some((place, rule)) = place.and_then(|at| Some((at, followed.tables.rules.get(at)?))) else {
                continue;
            };
            self.hits.totals.add(&rule.label(), hits);
            if let Some(now) = dated {
                self.hits.usage.hit(slot, place, now);
            }
        }
        Ok(())
    }

    /// Reads a slot out for the last time: nobody counts there any more, and it is about to be written.
    pub(super) fn leave_slot(&mut self, slot: u32) -> Result<(), ApplyError> {
        let now = SystemTime::now();
        self.count(slot, timestamp(now), Some(now))?;
        self.hits.slots[(slot & 1) as usize] = None;
        self.hits.usage.forget(slot);
        Ok(())
    }

    /// Collects, unless that was done a moment ago: a hit is dated when it is seen. Of a policy that is new it is found out whose
    /// hits are whose, so that the next one need not wait for it.
    pub(super) fn date_hits(&mut self) {
        let done = match self.hits.read.is_none_or(|read| read.elapsed() >= COUNTED) {
            true => self.collect_hits(),
            false => self.follow_rules(SystemTime::now()),
        };
        if let Err(error) = done {
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
        let Some(in_force) = &self.in_force else {
            return Ok(Vec::new());
        };
        let rows = in_force.policy.rules.iter().enumerate().map(|(index, rule)| {
            let used = self.hits.usage.of(Key::of(&rule.label(), &rule.text()));
            RuleRow {
                location: rule.location().to_string(),
                text: rule.text().to_string(),
                hits: self.hits.totals.total(&rule.label()),
                rule: rule.label().to_string(),
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
