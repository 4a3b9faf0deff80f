//! The table of prefixes: its tree of lengths, the marks that lead a search to longer ones, and its lines.

use std::collections::BTreeMap;

use segd_common::{
    address::{Address, halves, of_halves},
    prefixes::{
        LINE_ENTRIES, Length, Lengths, MAX_LENGTHS, MAX_LOOKS, Prefixes, entry, is_of_v4, masked, places, put,
    },
    segment::{self, SegmentIndex},
    tables::Line,
};

use super::{
    CompileError,
    cuckoo::{Entry, Table},
};
use crate::policy::compiled::CompiledTables;

/// Puts the table of the policy's prefixes behind the lines that there are.
///
/// # Errors
///
/// There is no place for some.
pub fn lay_out(tables: &mut CompiledTables) -> Result<(), CompileError> {
    tables.lengths = tree(&tables.prefixes);
    let entries = entries(&tables.prefixes, &tables.lengths);
    if entries.is_empty() {
        return Ok(());
    }
    let table: Table<Held, LINE_ENTRIES> = Table::of(&entries)?;
    tables.prefix_table = Prefixes {
        seed: table.seed,
        first: tables.lines.len() as u32,
        buckets: table.lines.len() as u32,
    };
    let lines = table.lines.iter().map(|held| {
        let mut line = Line::default();
        for (number, held) in held.iter().enumerate().filter(|(_, held)| !held.is_free()) {
            put(&mut line, number, &held.address, entry(held.bits, held.owner));
        }
        line
    });
    tables.lines.make_whole().extend(lines);
    Ok(())
}

/// A prefix or a mark; bits that are more than an address has: a free place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    address: Address,
    bits: u8,
    owner: SegmentIndex,
}

const FREE: u8 = u8::MAX;

impl Default for Held {
    fn default() -> Held {
        Held {
            address: [0; 16],
            bits: FREE,
            owner: segment::NONE,
        }
    }
}

impl Held {
    /// What an address's first bits are.
    fn of(address: &Address, bits: u8, owner: SegmentIndex) -> Held {
        let (high, low) = halves(address);
        let (high, low) = masked(high, low, bits);
        Held {
            address: of_halves(high, low),
            bits,
            owner,
        }
    }
}

impl Entry for Held {
    fn is_free(&self) -> bool {
        self.bits == FREE
    }

    fn places(&self, seed: u32, lines: u32) -> [u32; 2] {
        let (high, low) = halves(&self.address);
        let table = Prefixes {
            seed,
            first: 0,
            buckets: lines,
        };
        places(high, low, self.bits, &table)
    }
}

/// A prefix as the compiled policy has it.
type Prefix = (Address, u32, SegmentIndex);

fn bits_of(prefix: &Prefix) -> u8 {
    // At most 128.
    prefix.1 as u8
}

/// The lengths that prefixes have, in the order in which a search looks at them.
fn tree(prefixes: &[Prefix]) -> Lengths {
    let mut used = [BTreeMap::new(), BTreeMap::new()];
    for prefix in prefixes {
        let [four, six] = &mut used;
        let used = match is_of_v4(&prefix.0, prefix.1) {
            true => four,
            false => six,
        };
        *used.entry(bits_of(prefix)).or_insert(0_usize) += 1;
    }
    let mut lengths = Lengths::default();
    let mut next = 1;
    for (used, family) in used.iter().zip(0..) {
        let used: Vec<(u8, usize)> = used.iter().map(|(bits, count)| (*bits, *count)).collect();
        // One look more than there must be: then what most prefixes have may come first.
        let looks = (usize::BITS - used.len().leading_zeros() + 1).min(MAX_LOOKS);
        let first = subtree(&used, looks, &mut lengths.all, &mut next);
        if let Some(to) = lengths.first.get_mut::<usize>(family) {
            *to = first;
        }
    }
    lengths
}

/// Numbers a tree of some lengths, sorted, in which no search takes more looks than given. The number of its root; 0: no length.
fn subtree(used: &[(u8, usize)], looks: u32, all: &mut [Length; MAX_LENGTHS], next: &mut u8) -> u8 {
    let below = (1_usize << looks.saturating_sub(1)) - 1;
    let may = |place: &usize| *place <= below && used.len() - place - 1 <= below;
    // Of those with as many prefixes, the longest: who finds one there is done.
    let root = (0..used.len())
        .filter(may)
        .max_by_key(|place| used.get(*place).map(|(_, count)| *count));
    let Some((root, (shorter, longer))) = root.and_then(|root| Some((root, used.split_at_checked(root)?)))
    else {
        return 0;
    };
    let number = *next;
    *next = next.saturating_add(1);
    let length = Length {
        bits: used.get(root).map_or(0, |(bits, _)| *bits),
        shorter: subtree(shorter, looks - 1, all, next),
        longer: subtree(longer.get(1..).unwrap_or_default(), looks - 1, all, next),
        reserved: 0,
    };
    if let Some(place) = all.get_mut(usize::from(number)) {
        *place = length;
    }
    number
}

/// The prefixes, sorted as they are, and the marks that lead to them, each once.
fn entries(prefixes: &[Prefix], lengths: &Lengths) -> Vec<Held> {
    let mut entries: Vec<Held> = Vec::with_capacity(prefixes.len());
    // The last mark of each length: who shares one stands beside each other.
    let mut marks = [Held::default(); MAX_LENGTHS];
    // Those that contain each other, the shortest first.
    let mut around: Vec<Held> = Vec::new();
    for prefix in prefixes {
        let (address, bits) = (&prefix.0, bits_of(prefix));
        let held = Held::of(address, bits, prefix.2);
        around.retain(|outer| outer.bits < bits && Held::of(address, outer.bits, outer.owner) == *outer);
        entries.push(held);
        let mut number = lengths.first[usize::from(!is_of_v4(address, prefix.1))];
        while let Some(length) = lengths.all.get(usize::from(number)).filter(|_| number != 0) {
            if length.bits == bits {
                break;
            } else if length.bits > bits {
                number = length.shorter;
                continue;
            }
            let last = marks.get_mut(usize::from(number));
            number = length.longer;
            let known = around.iter().rev().find(|outer| outer.bits <= length.bits);
            // Where a prefix is, no mark has to be.
            if known.is_none_or(|outer| outer.bits != length.bits) {
                let owner = known.map_or(segment::WORLD, |outer| outer.owner);
                let mark = Held::of(address, length.bits, owner);
                if let Some(last) = last.filter(|last| **last != mark) {
                    *last = mark;
                    entries.push(mark);
                }
            }
        }
        around.push(held);
    }
    entries
}

#[cfg(test)]
mod tests;
