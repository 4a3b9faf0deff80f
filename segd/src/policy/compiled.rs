//! The compiled policy: exactly what the kernel reads, and what a person needs to understand it.

mod lines;
mod moment;
mod told;

use std::{collections::BTreeMap, sync::Arc};

use segd_common::{
    address::Address,
    decide::is_of_the_host,
    prefixes::{self, Length, Lengths, Prefixes},
    segment::{self, SegmentIndex},
    service::{self, Service},
    tables::{
        CELL_LIST, Cell, LINE_WORDS, Line, PolicyTables, PortRange, RULE_HOST, RULE_INTRA, RULE_UNTIL,
        Segment, Shape, TABLES_HOST_OPEN, Tables, between, lines_of_list,
    },
    verdict::RuleIndex,
};

use jiff::Timestamp;

pub use lines::SharedLines;
pub use moment::Moment;
use moment::OVER;
pub use told::ToldRules;

use super::{
    model::{Location, SelectorKind},
    term::{State, together},
};

/// Which segment has which dense index on this host. Indexes are never reused while a workload may bear them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentIndexes {
    /// By name, the built-in ones excluded.
    pub by_name: Arc<BTreeMap<String, SegmentIndex>>,
    /// The one whose turn it is; `None`: that after the highest.
    pub next: Option<SegmentIndex>,
}

/// One revision of the policy, ready to be written. The revision number itself is given at the write.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CompiledTables {
    /// `TABLES_` flags.
    pub flags: u32,
    /// Segments by index; as long as the highest index in use.
    pub segments: Vec<Segment>,
    /// What the table is hashed with.
    pub seed: u32,
    /// How many lines the table has; lists are in those behind it.
    pub buckets: u32,
    /// The table, the lists behind it, and the table of prefixes behind those.
    pub lines: SharedLines,
    /// The lengths that prefixes have.
    pub lengths: Lengths,
    /// Where the table of prefixes is.
    pub prefix_table: Prefixes,
    /// What holds where no cell is.
    pub any: Cell,
    /// How many cells there are.
    pub cells: usize,
    /// How many ranges all lists have.
    pub ranges: usize,
    /// Rules by [`segd_common::verdict::RuleIndex`].
    pub rules: ToldRules,
    /// How many rules there are up to the last that does not hold for good.
    pub ending: usize,
    /// Rules that decide together, sorted: each set has a number after those of `rules`, in this order.
    pub together: Vec<Vec<RuleIndex>>,
    /// Segment names by index, the built-in ones included; empty where the index is unused.
    pub names: Arc<Vec<String>>,
    /// Address prefixes: address, prefix length (0..=128, IPv4 as v4-mapped), segment. Sorted, unique.
    /// An excepted prefix stands here with the segment that claims it otherwise, or `WORLD`.
    pub prefixes: Arc<Vec<(Address, u32, SegmentIndex)>>,
    /// Selectors of workloads by number from 1 (number - 1 is the index here).
    pub selectors: Arc<Vec<SelectorInfo>>,
    /// Segments whose orphans are given up (`spec.release`).
    pub release: Vec<String>,
}

/// A workload selector, for people and for the classifier.
#[derive(Clone, Debug, PartialEq)]
pub struct SelectorInfo {
    /// The segment it puts a workload into.
    pub segment: SegmentIndex,
    /// What it matches. Never `Cidr`.
    pub kind: SelectorKind,
    /// Where it stands.
    pub location: Location,
}

impl CompiledTables {
    /// The index of a segment or built-in peer by name.
    #[must_use]
    pub fn index(&self, name: &str) -> Option<SegmentIndex> {
        match name {
            "host" => Some(segment::HOST),
            "world" => Some(segment::WORLD),
            "" => None,
            _ => self
                .names
                .iter()
                .position(|known| known == name)
                .and_then(|index| index.try_into().ok()),
        }
    }

    /// What [`CompiledTables::index`] says of every name, for those who ask for many.
    #[must_use]
    pub fn indexes(&self) -> BTreeMap<&str, SegmentIndex> {
        let named = (0..=SegmentIndex::MAX)
            .zip(self.names.iter())
            .filter(|(_, name)| !name.is_empty());
        named.map(|(index, name)| (name.as_str(), index)).collect()
    }
}

impl CompiledTables {
    /// The segment that claims an address on the network, or `WORLD`.
    #[must_use]
    pub fn claimed_by(&self, address: &Address) -> SegmentIndex {
        prefixes::owner(self, address)
    }

    /// When each rule ends, as the kernel programs read it: on their clock, 0 = never; of one in windows, the end of the one
    /// that is open now.
    pub fn ends(&self, now: Moment) -> impl Iterator<Item = u64> {
        let end = move |state: State| match state {
            State::Open(Some(end)) => now.boot_ns_of(end),
            State::Open(None) => u64::MAX,
            State::Shut(_) => OVER,
        };
        let rules = self.rules.iter().map(move |rule| match rule.term.is_lasting() {
            true => 0,
            false => end(rule.term.at(now.calendar)),
        });
        let sets = self
            .together
            .iter()
            .map(move |set| end(self.state_of(set, now.calendar)));
        rules.chain(sets)
    }

    /// What rules that decide together are at a time.
    fn state_of(&self, set: &[RuleIndex], time: Timestamp) -> State {
        let rules = set.iter().filter_map(|number| self.rules.get(*number as usize));
        together(rules.map(|rule| &*rule.term), time)
    }

    /// The next moment after a time at which [`CompiledTables::ends`] has to be asked again.
    #[must_use]
    pub fn change_after(&self, time: Timestamp) -> Option<Timestamp> {
        let rules = self.rules.iter().take(self.ending);
        let rules = rules.filter(|rule| !rule.term.is_lasting());
        rules.filter_map(|rule| rule.term.at(time).change()).min()
    }

    /// The place of the rule that a verdict names: of those that decide together, the one that held at that time.
    #[must_use]
    pub fn decider(&self, number: RuleIndex, time: Timestamp) -> Option<usize> {
        let number = number as usize;
        let Some(set) = number.checked_sub(self.rules.len()) else {
            return Some(number);
        };
        let mut last: Option<(Timestamp, usize)> = None;
        let set = self.together.get(set)?;
        for place in set.iter().map(|place| *place as usize) {
            if let State::Open(end) = self.rules.get(place)?.term.at(time) {
                let end = end.unwrap_or(Timestamp::MAX);
                if last.is_none_or(|(latest, _)| latest < end) {
                    last = Some((end, place));
                }
            }
        }
        // The clock may have been put right since.
        last.map(|(_, place)| place)
            .or(set.first().map(|place| *place as usize))
    }

    /// The table's cells, with row and column; number 0 stands for every other.
    pub fn cells(&self) -> impl Iterator<Item = (u16, u16, Cell)> {
        let table = self.lines.iter().take(self.buckets as usize);
        let used = table.flat_map(|line| &line.cells).filter(|cell| cell.key != 0);
        used.chain([&self.any])
            .map(|cell| ((cell.key >> 16) as u16, cell.key as u16, *cell))
    }

    /// What holds between two segments by rules; the default: nothing.
    #[must_use]
    pub fn cell(&self, from: SegmentIndex, to: SegmentIndex) -> Cell {
        between(self, self.segment(from), self.segment(to))
            .copied()
            .unwrap_or_default()
    }

    /// The ranges of a cell, sorted and disjoint.
    pub fn ranges(&self, cell: Cell) -> impl Iterator<Item = PortRange> {
        let lines = match cell.rule & CELL_LIST {
            0 => 0..0,
            _ => cell.low..cell.low + lines_of_list(cell.high),
        };
        let held = lines.filter_map(|line| self.line(line));
        let held = held.flat_map(|line| line.cells).filter_map(Cell::range);
        let mut listed: Vec<PortRange> = held.collect();
        listed.sort_unstable();
        cell.range().into_iter().chain(listed)
    }

    /// What holds between two segments but for what their cell says: `intra`, and what is not enforced of `host`.
    #[must_use]
    pub fn base(&self, from: SegmentIndex, to: SegmentIndex) -> Base {
        if self.flags & TABLES_HOST_OPEN != 0 && is_of_the_host(from, to) {
            Base::Host
        } else if from == to && self.segment(from).flags & segment::SEGMENT_INTRA != 0 {
            Base::Intra
        } else {
            Base::Nothing
        }
    }

    /// What holds between two segments, as it is decided: sorted and disjoint.
    #[must_use]
    pub fn holds(&self, cell: Cell, base: Base) -> Vec<PortRange> {
        match base {
            Base::Nothing => self.ranges(cell).collect(),
            Base::Host => vec![PortRange {
                low: 0,
                high: service::MAX,
                rule: RULE_HOST,
            }],
            Base::Intra => {
                let intra = |low, high| PortRange {
                    low,
                    high,
                    rule: RULE_INTRA,
                };
                let (mut held, mut next): (Vec<PortRange>, Service) = (Vec::new(), 0);
                // Rules that end by themselves decide nothing here.
                for range in self.ranges(cell).filter(|range| range.rule & RULE_UNTIL == 0) {
                    if next < range.low {
                        held.push(intra(next, range.low - 1));
                    }
                    next = range.high + 1;
                    held.push(range);
                }
                if next <= service::MAX {
                    held.push(intra(next, service::MAX));
                }
                held
            }
        }
    }

    /// Where the kernel's lines are what: behind those of the table and its lists stand hits, then ends.
    #[must_use]
    pub fn kernel_shape(&self) -> Shape {
        let rules = self.rules.len() + self.together.len();
        let ending = match self.together.is_empty() {
            true => self.ending,
            false => rules,
        };
        let hits = self.lines.len() as u32;
        Shape {
            hits,
            ends: hits + lines_of(rules),
            rules: rules as u32,
            ending: ending as u32,
            ..self.shape()
        }
    }

    /// How many lines the kernel needs.
    #[must_use]
    pub fn kernel_lines(&self) -> usize {
        let shape = self.kernel_shape();
        (shape.ends + lines_of(shape.ending as usize)) as usize
    }

    /// Writes the kernel's layout. Whatever stood there is gone. `lines`: at least [`CompiledTables::kernel_lines`].
    pub fn fill(&self, revision: u32, now: Moment, out: &mut PolicyTables, lines: &mut [Line]) {
        let shape = self.kernel_shape();
        out.revision = revision;
        out.flags = self.flags;
        out.shape = shape;
        out.any = self.any;
        out.lengths = self.lengths;
        copy(&mut out.segments, &self.segments);
        self.lines.write(lines);
        let mut ends = self.ends(now);
        for cell in lines
            .iter_mut()
            .skip(shape.ends as usize)
            .flat_map(|line| &mut line.cells)
        {
            (cell.key, cell.rule) = halves(ends.next().unwrap_or_default());
            (cell.low, cell.high) = halves(ends.next().unwrap_or_default());
        }
    }
}

/// How many lines some numbers take.
fn lines_of(numbers: usize) -> u32 {
    numbers.div_ceil(LINE_WORDS as usize) as u32
}

/// A number as it lies in two fields of half its size.
fn halves(number: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = number.to_ne_bytes();
    (u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h]))
}

/// Room for one revision but for its lines: half a MiB that is no policy.
#[must_use]
pub fn zeroed_tables() -> Box<PolicyTables> {
    let mut room = Box::<PolicyTables>::new_uninit();
    // SAFETY: the pointer is valid for one value, and every field is an integer, for which zero is a value.
    unsafe {
        room.as_mut_ptr().write_bytes(0, 1);
        room.assume_init()
    }
}

/// Copies what is there and clears the rest. The compiler has refused what does not fit.
fn copy<T: Copy + Default>(out: &mut [T], from: &[T]) {
    for (index, slot) in out.iter_mut().enumerate() {
        *slot = from.get(index).copied().unwrap_or_default();
    }
}

/// What holds between two segments without any rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Base {
    /// Nothing is allowed.
    Nothing,
    /// Both sides are in one segment whose `intra` is `allow`; guardrails and rules that last beat it.
    Intra,
    /// `host` and `world`, not enforced; nothing beats it.
    Host,
}

impl Tables for CompiledTables {
    fn flags(&self) -> u32 {
        self.flags
    }

    fn segment(&self, index: u16) -> Segment {
        self.segments.get(usize::from(index)).copied().unwrap_or_default()
    }

    fn shape(&self) -> Shape {
        Shape {
            seed: self.seed,
            buckets: self.buckets,
            prefixes: self.prefix_table,
            ..Shape::default()
        }
    }

    fn any(&self) -> &Cell {
        &self.any
    }

    fn line(&self, index: u32) -> Option<&Line> {
        self.lines.get(index)
    }

    fn prefixes(&self) -> Prefixes {
        self.prefix_table
    }

    fn first_length(&self, six: usize) -> u8 {
        self.lengths.first.get(six).copied().unwrap_or_default()
    }

    fn length(&self, number: u8) -> Length {
        self.lengths
            .all
            .get(usize::from(number))
            .copied()
            .unwrap_or_default()
    }

    // What is over at the time that is asked about was not compiled: `Policy::at`.
    fn is_over(&self, _: RuleIndex) -> bool {
        false
    }
}
