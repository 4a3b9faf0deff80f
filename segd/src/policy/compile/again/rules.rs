//! Which rules of a policy are others than those of the policy before.

use std::sync::Arc;

use segd_common::{tables::CELL_LIST, verdict::RuleIndex};

use crate::policy::model::{Pieces, Rule};

/// What became of the rules.
#[derive(Debug, Default)]
pub struct Rules {
    /// Those of before that are not there now, or say something else.
    pub gone: Vec<usize>,
    /// Those that were not there before, or said something else.
    pub come: Vec<usize>,
    /// Which of the others have another number.
    pub moved: Moved,
    /// Every rule has the ends of the one that had its number.
    pub same_ends: bool,
}

/// Rules whose number is another than before.
#[derive(Clone, Debug, Default)]
pub struct Moved(
    /// From which number on rules moved, ascending, and how far.
    Vec<(RuleIndex, RuleIndex)>,
);

/// Of the field of a cell, the number of the rule.
const NUMBER: RuleIndex = CELL_LIST - 1;

impl Moved {
    /// Whether none has.
    pub const fn nothing(&self) -> bool {
        self.0.is_empty()
    }

    /// What names a rule, with the number it has now.
    pub fn of(&self, rule: RuleIndex) -> RuleIndex {
        let number = rule & NUMBER;
        let steps = self.0.partition_point(|(from, _)| *from <= number);
        match steps.checked_sub(1).and_then(|last| self.0.get(last)) {
            Some((_, by)) => rule & !NUMBER | (number.wrapping_add(*by) & NUMBER),
            None => rule,
        }
    }

    /// Rules from one on have another place.
    fn from(&mut self, old: usize, new: usize) -> Option<()> {
        let from = RuleIndex::try_from(old).ok()?;
        let by = RuleIndex::try_from(new).ok()?.wrapping_sub(from);
        let last = self.0.last().map_or(0, |(_, by)| *by);
        if by != last {
            self.0.push((from, by));
        }
        Some(())
    }
}

impl Rules {
    /// Compares the rules: those of each file by themselves, and of each document's list if it has the same lists. `None`: so many
    /// differ, or files with rules came or went, that there is nothing to be gained from the others.
    pub fn compare(old: &Pieces<Rule>, new: &Pieces<Rule>) -> Option<Rules> {
        const FEW: usize = 64;
        let most = FEW + old.len() / 16;
        if old.pieces().count() != new.pieces().count() {
            return None;
        }
        let mut same = Same::of(new.len());
        let mut rules = Rules {
            same_ends: true,
            ..Rules::default()
        };
        for ((old_at, old), (new_at, new)) in old.pieces().zip(new.pieces()) {
            if Arc::ptr_eq(old, new) {
                rules.moved.from(old_at, new_at)?;
            } else {
                rules.compare_piece(&mut same, (old_at, old), (new_at, new), most)?;
            }
        }
        Some(rules)
    }

    fn compare_piece(
        &mut self,
        same: &mut Same,
        (mut old_at, old): (usize, &[Rule]),
        (mut new_at, new): (usize, &[Rule]),
        most: usize,
    ) -> Option<()> {
        let of_list = Rule::is_of_list_of;
        if old.chunk_by(of_list).count() != new.chunk_by(of_list).count() {
            return self.compare_list(same, (old_at, old), (new_at, new), most);
        }
        for (old, new) in old.chunk_by(of_list).zip(new.chunk_by(of_list)) {
            self.compare_list(same, (old_at, old), (new_at, new), most)?;
            (old_at, new_at) = (old_at + old.len(), new_at + new.len());
        }
        Some(())
    }

    /// Compares lists that begin with some numbers.
    fn compare_list(
        &mut self,
        same: &mut Same,
        (old_at, old): (usize, &[Rule]),
        (new_at, new): (usize, &[Rule]),
        most: usize,
    ) -> Option<()> {
        let pairs = || old.iter().zip(new);
        let before = pairs().take_while(|(old, new)| same.means(old, new)).count();
        let shorter = old.len().min(new.len());
        let ends = old.iter().rev().zip(new.iter().rev()).take(shorter - before);
        let behind = ends.take_while(|(old, new)| same.means(old, new)).count();
        let (old_end, new_end) = (old.len() - behind, new.len() - behind);
        self.moved.from(old_at, new_at)?;
        if old_end == new_end {
            let between = pairs().enumerate().skip(before).take(old_end - before);
            for (number, (old, new)) in between {
                let ends = same.ends(old, new);
                if ends && same.says(old, new) {
                    continue;
                }
                self.same_ends &= ends;
                self.gone.push(old_at + number);
                self.come.push(new_at + number);
                if self.gone.len() > most {
                    return None;
                }
            }
        } else {
            self.same_ends = false;
            self.gone.extend(old_at + before..old_at + old_end);
            self.come.extend(new_at + before..new_at + new_end);
            if self.gone.len() + self.come.len() > most {
                return None;
            }
            self.moved.from(old_at + old_end, new_at + new_end)?;
        }
        Some(())
    }
}

/// Compares what rules share by address first, and remembers what it has compared: most rules have their ends in common with many.
/// Both policies live longer than this, so no address comes to stand for something else.
struct Same {
    /// By a part of the second address; none before the first is compared.
    known: Vec<Known>,
    /// How many there are to be.
    size: usize,
}

/// Two addresses that were compared.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    old: usize,
    new: usize,
    same: bool,
}

/// How many are remembered at most.
const KNOWN: usize = 1 << 17;

impl Same {
    /// For so many rules.
    fn of(rules: usize) -> Same {
        Same {
            known: Vec::new(),
            size: rules.clamp(64, KNOWN).next_power_of_two(),
        }
    }

    /// Whether both let the same pass between the same, at the same times.
    fn means(&mut self, old: &Rule, new: &Rule) -> bool {
        self.says(old, new) && self.ends(old, new)
    }

    /// Whether both say the same of their ends.
    fn says(&self, old: &Rule, new: &Rule) -> bool {
        old.action == new.action
            && (Arc::ptr_eq(&old.term, &new.term) || old.term == new.term)
            && (Arc::ptr_eq(&old.services, &new.services) || old.services == new.services)
    }

    fn ends(&mut self, old: &Rule, new: &Rule) -> bool {
        self.content(&old.from, &new.from) && self.content(&old.to, &new.to)
    }

    fn content<T: PartialEq + ?Sized>(&mut self, old: &Arc<T>, new: &Arc<T>) -> bool {
        let addresses = (Arc::as_ptr(old).addr(), Arc::as_ptr(new).addr());
        if addresses.0 == addresses.1 {
            return true;
        }
        self.known.resize(self.size, Known::default());
        let place = (addresses.1 >> 4) & (self.size - 1);
        let Some(known) = self.known.get_mut(place) else {
            return old == new;
        };
        if (known.old, known.new) != addresses {
            *known = Known {
                old: addresses.0,
                new: addresses.1,
                same: old == new,
            };
        }
        known.same
    }
}
