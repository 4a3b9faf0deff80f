//! Since when each rule is watched, and when it was last hit: for whoever wants to take out what nobody uses.
//!
//! A rule is known by its document, its list and its text, so one that only moved is the same one. Rules that say the same there
//! count as one; so would two of one hash be.
//!
//! INVARIANT: a rule that was hit is never said not to have been. What another daemon has counted was hit before this one
//! watched; a hit is dated when it is seen, which is after it was made.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::{Duration, SystemTime},
};

use crate::policy::model::{RuleLabel, Written};

/// A hash of what stays when a rule moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(u64);

impl Key {
    /// Of a rule.
    #[must_use]
    pub fn of(label: &RuleLabel, text: &Written) -> Key {
        let mut hasher = DefaultHasher::new();
        label.document().hash(&mut hasher);
        hasher.write_u8(label.list() as u8);
        let mut add = |word: &str| word.hash(&mut hasher);
        // What is told of a rule is all that others know it by.
        match text.is_short() {
            true => text.words().for_each(&mut add),
            false => text.to_string().split_whitespace().for_each(&mut add),
        }
        Key(hasher.finish())
    }
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
    /// Ascending, each once.
    keys: Vec<Key>,
    /// By the place of the key.
    uses: Vec<Told>,
    /// By slot, the place of the key of each rule that it holds; `FORGOTTEN`: it is not in force any more.
    places: [Vec<u32>; 2],
}

/// A [`Use`], as it is kept: in nanoseconds since 1970; 0: never.
#[derive(Clone, Copy, Debug)]
struct Told {
    since: u64,
    last: u64,
}

/// A moment as it is kept.
fn kept(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX).max(1)
}

/// A moment that was kept.
fn told(ns: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(ns)
}

/// In the place of a place.
const FORGOTTEN: u32 = u32::MAX;

impl Usage {
    /// Nobody has been watched yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Watches the rules of slots. `new`: the rules of those that hold others than before. Rules that stand in none that is `in_force` are
    /// forgotten; a slot that was left, and is not written yet, may still tell of the others.
    pub fn watch(&mut self, new: [Option<Vec<Key>>; 2], in_force: [bool; 2], now: SystemTime) {
        let key_of = |place: &u32| self.keys.get(*place as usize).copied();
        // Of each slot the keys of its rules, ascending, with the rules.
        let mut slots = [Vec::new(), Vec::new()];
        let mut counts = [0, 0];
        for (((slot, count), new), places) in slots.iter_mut().zip(&mut counts).zip(new).zip(&self.places) {
            let keyed: Vec<(Key, u32)> = match new {
                Some(keys) => {
                    *count = keys.len();
                    keys.into_iter().zip(0..).collect()
                }
                None => {
                    *count = places.len();
                    let keyed = places.iter().zip(0..);
                    keyed
                        .filter_map(|(place, rule)| Some((key_of(place)?, rule)))
                        .collect()
                }
            };
            *slot = keyed;
            slot.sort_unstable();
        }
        let held = slots.iter().zip(in_force).filter(|(_, held)| *held);
        let mut keys: Vec<Key> = held
            .flat_map(|(slot, _)| slot.iter().map(|(key, _)| *key))
            .collect();
        // Runs that are sorted already are only merged.
        keys.sort();
        keys.dedup();
        keys.shrink_to_fit();
        let new_use = Told {
            since: kept(now),
            last: 0,
        };
        let mut before = self.keys.iter().zip(&self.uses).peekable();
        let uses = keys.iter().map(|key| {
            while before.next_if(|(known, _)| *known < key).is_some() {}
            let known = before.next_if(|(known, _)| *known == key);
            known.map_or(new_use, |(_, known)| *known)
        });
        let uses = uses.collect();
        for ((slot, count), places) in slots.into_iter().zip(counts).zip(&mut self.places) {
            let mut all = vec![FORGOTTEN; count];
            let mut at = keys.iter().zip(0..).peekable();
            for (key, rule) in slot {
                while at.next_if(|(known, _)| **known < key).is_some() {}
                if let (Some((known, place)), Some(of_rule)) = (at.peek(), all.get_mut(rule as usize))
                    && **known == key
                {
                    *of_rule = *place;
                }
            }
            *places = all;
        }
        (self.keys, self.uses) = (keys, uses);
    }

    /// A slot holds nobody's rules.
    pub fn forget(&mut self, slot: u32) {
        self.places[(slot & 1) as usize] = Vec::new();
    }

    /// A rule of a slot was seen to have been hit.
    pub fn hit(&mut self, slot: u32, rule: usize, now: SystemTime) {
        let place = self.places[(slot & 1) as usize].get(rule);
        if let Some(known) = place.and_then(|place| self.uses.get_mut(*place as usize)) {
            known.last = kept(now);
        }
    }

    /// What is known of a rule.
    #[must_use]
    pub fn of(&self, key: Key) -> Option<Use> {
        let known = self.uses.get(self.keys.binary_search(&key).ok()?)?;
        Some(Use {
            since: told(known.since),
            last: (known.last != 0).then(|| told(known.last)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::model::Action;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn key(list: Action, number: u32, text: &str) -> Key {
        let label = RuleLabel::new("shop".into(), list, number);
        Key::of(&label, &Written::new(text.into(), 0, text.len()))
    }

    fn keys(rules: &[&str]) -> Option<Vec<Key>> {
        Some(rules.iter().map(|rule| key(Action::Allow, 0, rule)).collect())
    }

    fn of(usage: &Usage, rule: &str) -> Option<Use> {
        usage.of(key(Action::Allow, 0, rule))
    }

    fn used(since: u64, last: Option<u64>) -> Option<Use> {
        Some(Use {
            since: at(since),
            last: last.map(at),
        })
    }

    #[test]
    fn a_rule_that_moves_is_the_same_and_one_that_comes_back_is_new() {
        let mut usage = Usage::default();
        usage.watch([keys(&["a", "b", "c"]), None], [true, false], at(1));
        usage.hit(0, 0, at(2));
        usage.watch([None, keys(&["new", "c", "a"])], [false, true], at(3));
        assert_eq!(of(&usage, "a"), used(1, Some(2)));
        assert_eq!((of(&usage, "b"), of(&usage, "new")), (None, used(3, None)));
        // What is seen late of the slot that was left counts for who is still there.
        usage.hit(0, 1, at(4));
        usage.hit(0, 2, at(4));
        assert_eq!((of(&usage, "b"), of(&usage, "c")), (None, used(1, Some(4))));
        usage.hit(1, 2, at(5));
        assert_eq!(of(&usage, "a"), used(1, Some(5)));
        usage.forget(0);
        usage.watch([keys(&["b"]), None], [true, false], at(6));
        assert_eq!((of(&usage, "a"), of(&usage, "b")), (None, used(6, None)));
    }

    #[test]
    fn both_halves_of_a_trial_are_watched_and_what_was_given_up_is_forgotten() {
        let mut usage = Usage::default();
        usage.watch([keys(&["a", "b"]), None], [true, false], at(1));
        usage.watch([None, keys(&["b", "c", "c"])], [true, true], at(2));
        usage.hit(1, 0, at(3));
        usage.hit(0, 0, at(4));
        usage.hit(1, 2, at(5));
        assert_eq!(of(&usage, "a"), used(1, Some(4)));
        assert_eq!(of(&usage, "b"), used(1, Some(3)));
        assert_eq!(
            of(&usage, "c"),
            used(2, Some(5)),
            "rules that say the same are one"
        );
        usage.watch([None, None], [true, false], at(6));
        assert_eq!((of(&usage, "b"), of(&usage, "c")), (used(1, Some(3)), None));
    }

    #[test]
    fn the_place_in_the_list_is_not_part_of_a_rule() {
        let one = key(Action::Allow, 3, "{from: a,  to: b}");
        assert_eq!(one, key(Action::Allow, 0, "{from: a,\n to: b}"));
        assert_ne!(one, key(Action::Deny, 3, "{from: a, to: b}"));
        assert_ne!(one, key(Action::Allow, 3, "{from: a, to: bb}"));
        let long = |end: &str| key(Action::Allow, 3, &format!("{}{end}", "é ".repeat(100)));
        assert_eq!(long("a"), long("b"), "both are cut before their ends");
        assert_ne!(long(""), long("a"));
    }
}
