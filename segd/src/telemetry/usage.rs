//! Since when each rule is watched, and when it was last hit: for whoever wants to take out what nobody uses.
//!
//! A rule is known by its document, its list and its text, so one that only moved is the same one. Rules that say the same there
//! count as one; so would two of one hash be.
//!
//! INVARIANT: a rule that was hit is never said not to have been. What another daemon has counted was hit before this one
//! watched; a hit is dated when it is seen, which is after it was made.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    ops::Range,
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

/// Rules of a slot that are watched from now on.
#[derive(Clone, Debug)]
pub enum Part {
    /// They stood in a slot that was in force when rules were watched last.
    Same {
        /// The slot.
        slot: usize,
        /// Their places there.
        rules: Range<usize>,
    },
    /// Others.
    New(Vec<Key>),
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
    pub fn watch(&mut self, new: [Option<Vec<Part>>; 2], in_force: [bool; 2], now: SystemTime) {
        let mut slots = [Vec::new(), Vec::new()];
        let mut keyed: Vec<(Key, usize, usize)> = Vec::new();
        for ((slot, places), new) in slots.iter_mut().enumerate().zip(&new) {
            let Some(parts) = new else {
                places.clone_from(&self.places[slot]);
                continue;
            };
            for part in parts {
                match part {
                    Part::Same { slot, rules } => {
                        let same = self.places[slot & 1].get(rules.clone());
                        places.extend_from_slice(same.unwrap_or_default());
                    }
                    Part::New(keys) => {
                        keyed.extend((places.len()..).zip(keys).map(|(rule, key)| (*key, slot, rule)));
                        places.resize(places.len() + keys.len(), FORGOTTEN);
                    }
                }
            }
        }
        // Keys that are not known yet get places behind the others, for now.
        keyed.sort_unstable();
        let mut fresh: Vec<Key> = Vec::new();
        let mut known = (0_u32..).zip(&self.keys).peekable();
        for (key, slot, rule) in keyed {
            while known.next_if(|(_, known)| **known < key).is_some() {}
            let place = match known.peek() {
                Some((place, known)) if **known == key => *place,
                _ => {
                    if fresh.last() != Some(&key) {
                        fresh.push(key);
                    }
                    (self.keys.len() + fresh.len() - 1) as u32
                }
            };
            if let Some(of_rule) = slots[slot].get_mut(rule) {
                *of_rule = place;
            }
        }
        let mut held = vec![false; self.keys.len() + fresh.len()];
        for (places, _) in slots.iter().zip(in_force).filter(|(_, in_force)| *in_force) {
            for place in places {
                if let Some(held) = held.get_mut(*place as usize) {
                    *held = true;
                }
            }
        }
        let moved = self.merge(&fresh, &held, now);
        for places in &mut slots {
            for place in places {
                *place = moved.get(*place as usize).copied().unwrap_or(FORGOTTEN);
            }
        }
        self.places = slots;
    }

    /// Takes keys in that are new, and leaves out what nobody holds. Where each of both went.
    fn merge(&mut self, fresh: &[Key], held: &[bool], now: SystemTime) -> Vec<u32> {
        let new = Told {
            since: kept(now),
            last: 0,
        };
        let mut moved = vec![FORGOTTEN; held.len()];
        let (mut keys, mut uses) = (Vec::with_capacity(held.len()), Vec::with_capacity(held.len()));
        let mut known = self.keys.iter().zip(&self.uses).enumerate().peekable();
        let mut fresh = (self.keys.len()..).zip(fresh).peekable();
        loop {
            let first = match (known.peek(), fresh.peek()) {
                (Some((_, (one, _))), Some((_, other))) => one < other,
                (one, None) => one.is_some(),
                (None, Some(_)) => false,
            };
            let next = match first {
                true => known.next().map(|(place, (key, used))| (place, *key, *used)),
                false => fresh.next().map(|(place, key)| (place, *key, new)),
            };
            let Some((place, key, used)) = next else { break };
            if held.get(place) == Some(&true) {
                if let Some(moved) = moved.get_mut(place) {
                    *moved = keys.len() as u32;
                }
                keys.push(key);
                uses.push(used);
            }
        }
        (self.keys, self.uses) = (keys, uses);
        moved
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

    fn keys(rules: &[&str]) -> Option<Vec<Part>> {
        let keys = rules.iter().map(|rule| key(Action::Allow, 0, rule));
        Some(vec![Part::New(keys.collect())])
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

    proptest::proptest! {
        /// What is known of rules that stay is what would be known if all were told again.
        #[test]
        fn rules_that_stood_there_need_not_be_told_again(
            policies in proptest::collection::vec(
                (proptest::collection::vec((0..3_u8, 0..12_u32, 0..4_usize), 0..5), 0..2_usize, 0..9_usize, 0..3_u8), 1..12),
        ) {
            let key = |number: u32| key(Action::Allow, 0, &number.to_string());
            let (mut short, mut whole) = (Usage::default(), Usage::default());
            // By slot, the numbers of its rules; and which was in force at the last look.
            let mut rules: [Vec<u32>; 2] = [Vec::new(), Vec::new()];
            let mut in_force = [false; 2];
            for (time, (parts, slot, hit, both)) in (1..).zip(policies) {
                let (mut now, mut told) = (Vec::new(), Vec::new());
                for (from, number, len) in parts {
                    let from = usize::from(from);
                    let of = rules.get(from).filter(|_| in_force[from & 1]);
                    match of.and_then(|of| Some((number as usize % 4, of.get(number as usize % 4..)?))) {
                        Some((start, of)) => {
                            let of = &of[..len.min(of.len())];
                            now.extend(of);
                            told.push(Part::Same { slot: from, rules: start..start + of.len() });
                        }
                        None => {
                            let new = (number..).take(len);
                            now.extend(new.clone());
                            told.push(Part::New(new.map(key).collect()));
                        }
                    }
                }
                let all = vec![Part::New(now.iter().map(|number| key(*number)).collect())];
                in_force = [slot == 0 || both == 0 && in_force[0], slot == 1 || both == 0 && in_force[1]];
                let of_slot = |parts| match slot { 0 => [Some(parts), None], _ => [None, Some(parts)] };
                short.watch(of_slot(told), in_force, at(time));
                whole.watch(of_slot(all), in_force, at(time));
                rules[slot] = now;
                for usage in [&mut short, &mut whole] {
                    usage.hit(slot as u32, hit, at(time));
                    usage.hit(1 - slot as u32, hit, at(time));
                    if both == 2 {
                        usage.forget(1 - slot as u32);
                    }
                }
                if both == 2 {
                    in_force[1 - slot] = false;
                }
                proptest::prop_assert_eq!(format!("{short:?}"), format!("{whole:?}"));
                proptest::prop_assert!(short.keys.is_sorted());
                // Who is in force is known.
                for (slot, rules) in rules.iter().enumerate().filter(|(slot, _)| in_force[*slot]) {
                    proptest::prop_assert!(rules.iter().all(|number| short.of(key(*number)).is_some()), "{}", slot);
                }
            }
        }
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
