//! Since when each rule is watched, and when it was last hit: for whoever wants to take out what nobody uses.
//!
//! A rule is known by its document, its list and its text, so one that only moved is the same one. Rules that say the same there
//! count as one.
//!
//! INVARIANT: a rule that was hit is never said not to have been. What another daemon has counted was hit before this one
//! watched; a hit is dated when it is seen, which is after it was made.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::SystemTime,
};

/// What stays when a rule moves: `shop/allow {from: …}`.
#[must_use]
pub fn key(label: &str, text: &str) -> String {
    let list = label.split_once('[').map_or(label, |(list, _)| list);
    format!("{list} {text}")
}

/// What is known of a rule's use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// When it was first seen in force.
    pub since: SystemTime,
    /// When it was last seen to have been hit since then.
    pub last: Option<SystemTime>,
}

/// The use of the rules in force.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    rules: BTreeMap<String, Use>,
    /// By slot: its revision, and what was read of it.
    slots: [(u32, Vec<u64>); 2],
}

impl Usage {
    /// Takes a slot's counts by rule index into account.
    pub fn absorb(&mut self, slot: u32, revision: u32, keys: &[String], hits: &[u64], now: SystemTime) {
        // What was counted before the first look of all is not dated.
        let first = self.rules.is_empty();
        let seen = &mut self.slots[(slot & 1) as usize];
        if seen.0 != revision {
            *seen = (revision, Vec::new());
        }
        for (index, key) in keys.iter().enumerate() {
            let count = hits.get(index).copied().unwrap_or(0);
            let known = self.rules.entry(key.clone()).or_insert(Use {
                since: now,
                last: None,
            });
            if !first && count != seen.1.get(index).copied().unwrap_or(0) {
                known.last = Some(now);
            }
        }
        seen.1 = hits.to_vec();
    }

    /// Forgets the rules that are not in force any more.
    pub fn keep(&mut self, keys: &BTreeSet<&String>) {
        self.rules.retain(|key, _| keys.contains(key));
    }

    /// What is known of a rule.
    #[must_use]
    pub fn of(&self, key: &str) -> Option<Use> {
        self.rules.get(key).copied()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn keys(rules: &[&str]) -> Vec<String> {
        rules.iter().map(|rule| (*rule).to_owned()).collect()
    }

    #[test]
    fn dates_a_hit_when_it_is_seen_and_not_what_was_counted_before_the_first_look() {
        let mut usage = Usage::default();
        let rules = keys(&["a", "b"]);
        usage.absorb(0, 7, &rules, &[100, 0], at(10));
        assert_eq!(
            usage.of("a"),
            Some(Use {
                since: at(10),
                last: None
            })
        );
        usage.absorb(0, 7, &rules, &[100, 3], at(20));
        usage.absorb(0, 7, &rules, &[100, 3], at(30));
        assert_eq!(usage.of("a").and_then(|a| a.last), None);
        assert_eq!(usage.of("b").and_then(|b| b.last), Some(at(20)));
    }

    #[test]
    fn a_rule_that_moves_is_the_same_and_one_that_comes_back_is_new() {
        let mut usage = Usage::default();
        usage.absorb(0, 1, &keys(&["a", "b"]), &[0, 0], at(1));
        usage.absorb(0, 1, &keys(&["a", "b"]), &[5, 0], at(2));
        let moved = keys(&["new", "a"]);
        usage.absorb(1, 2, &moved, &[0, 0], at(3));
        usage.keep(&moved.iter().collect());
        assert_eq!(
            usage.of("a"),
            Some(Use {
                since: at(1),
                last: Some(at(2))
            })
        );
        assert_eq!(
            (usage.of("b"), usage.of("new").map(|new| new.since)),
            (None, Some(at(3)))
        );
        usage.absorb(0, 3, &keys(&["b"]), &[2], at(4));
        assert_eq!(
            usage.of("b"),
            Some(Use {
                since: at(4),
                last: Some(at(4))
            }),
            "a slot that this daemon wrote was empty before"
        );
    }

    #[test]
    fn the_place_in_the_list_is_not_part_of_a_rule() {
        assert_eq!(
            key("shop/allow[3]", "{from: a}"),
            key("shop/allow[0]", "{from: a}")
        );
        assert_ne!(
            key("shop/allow[3]", "{from: a}"),
            key("shop/deny[3]", "{from: a}")
        );
    }
}
