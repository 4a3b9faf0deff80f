//! Rules that take turns: where several that end allow the same, and not all of them only end, a range is decided by all of
//! them together, under a number of its own.

use std::{cmp::Reverse, collections::BTreeMap};

use jiff::Timestamp;
use segd_common::{tables::PortRange, verdict::RuleIndex};

use super::{
    CompileError, fits,
    ranges::{self, layer_of},
};
use crate::policy::{
    model::{Pieces, Rule},
    term::Term,
};

/// How many rules with different windows may meet on one port.
const MOST: usize = 64;

/// In which order rules that end are asked. Of those that only end, the last to do so speaks for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// At a moment.
    Once(Reverse<Timestamp>),
    /// In windows: the number of its term.
    Weekly(usize),
}

/// The rules of a policy, and those that take turns.
#[derive(Debug)]
pub struct Turns<'p> {
    /// The rules.
    pub rules: &'p Pieces<Rule>,
    /// By rule; the same number for the same term. Nobody stands here if every rule holds for good.
    terms: Vec<Option<Ending>>,
    /// By rule, its range, if it has one; low is above high: it has not. Nobody stands here if few are asked for.
    single: Vec<PortRange>,
    /// Sets of rules, sorted, with their numbers.
    sets: BTreeMap<Vec<RuleIndex>, RuleIndex>,
}

impl<'p> Turns<'p> {
    /// Those of a policy all of whose rules hold for good.
    pub const fn lasting(rules: &'p Pieces<Rule>) -> Turns<'p> {
        Turns {
            rules,
            terms: Vec::new(),
            single: Vec::new(),
            sets: BTreeMap::new(),
        }
    }

    /// Those of a policy.
    pub fn of(rules: &'p Pieces<Rule>) -> Turns<'p> {
        if rules.iter().all(|rule| rule.term.is_lasting()) {
            return Turns::lasting(rules);
        }
        let mut known: BTreeMap<&Term, usize> = BTreeMap::new();
        let terms = rules.iter().map(|rule| match (&rule.term.when, rule.term.until) {
            (None, until) => until.map(|end| Ending::Once(Reverse(end))),
            (Some(_), _) => {
                let next = known.len();
                Some(Ending::Weekly(*known.entry(&*rule.term).or_insert(next)))
            }
        });
        Turns {
            rules,
            terms: terms.collect(),
            single: Vec::new(),
            sets: BTreeMap::new(),
        }
    }

    /// As [`Turns::of`], for whoever asks for every rule: their ranges are looked up in the order of the rules, not in that of
    /// cells, where each would be waited for.
    pub fn of_all(rules: &'p Pieces<Rule>) -> Turns<'p> {
        let mut turns = Turns::of(rules);
        let single = (0..).zip(rules).map(|(number, rule)| match *rule.services {
            [(low, high)] => PortRange {
                low,
                high,
                rule: number | layer_of(rule, turns.ending(number as usize)).flag(),
            },
            _ => PortRange {
                low: 1,
                high: 0,
                rule: number,
            },
        });
        turns.single = single.collect();
        turns
    }

    /// The range of a rule that has one.
    pub fn single(&self, rule: usize) -> Option<PortRange> {
        match self.single.get(rule) {
            Some(range) => (range.low <= range.high).then_some(*range),
            None => ranges::single(self, rule),
        }
    }

    /// How a rule ends, if it does.
    pub fn ending(&self, rule: usize) -> Option<Ending> {
        self.terms.get(rule).copied().flatten()
    }

    /// The number that stands for rules of different terms.
    pub fn number(&mut self, rules: &[RuleIndex]) -> Result<RuleIndex, CompileError> {
        fits(
            "rules with windows of their own for one port of a pair",
            rules.len(),
            MOST,
        )?;
        if let [only] = rules {
            return Ok(*only);
        }
        let mut sorted = rules.to_vec();
        sorted.sort_unstable();
        let next = RuleIndex::try_from(self.rules.len() + self.sets.len()).unwrap_or(RuleIndex::MAX);
        Ok(*self.sets.entry(sorted).or_insert(next))
    }

    /// The sets, the first number first.
    pub fn finish(self) -> Vec<Vec<RuleIndex>> {
        let mut sets: Vec<(RuleIndex, Vec<RuleIndex>)> =
            self.sets.into_iter().map(|(set, number)| (number, set)).collect();
        sets.sort_unstable();
        sets.into_iter().map(|(_, set)| set).collect()
    }
}
