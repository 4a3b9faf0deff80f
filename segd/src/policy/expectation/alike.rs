//! The first wrong answer of a test, without asking what was asked before in other words.
//!
//! What is decided between two follows from a row and a column of the tables, from a few flags, and from whether both are
//! one segment. Of questions that differ in none of these only the first is asked: `any` to `any` is as many questions as
//! the rules tell apart, and not as many as there are segments, squared.
//!
//! INVARIANT: the answer is the one that `each_answer` would be stopped at, for every test.
//! INVARIANT: nothing is done that is not counted as a step: whoever wrote the policy does not say how long it takes.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::Arc,
};

use segd_common::{
    segment::{FIRST_SEGMENT, SEGMENT_COLUMN, SEGMENT_INTRA, SEGMENT_ROW, SEGMENT_VALID, SegmentIndex},
    tables::Tables as _,
};

use super::{Answer, Party, answers, is_expected, parties_by};
use crate::policy::{
    compiled::CompiledTables,
    model::{Parties, Peer, TestCase},
};

/// Ends with fewer names are looked up for each test again.
const KEPT_FROM: usize = 16;

/// It would take more steps than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

/// Puts tests to tables, as many steps as it may take.
#[derive(Debug)]
pub struct Asker<'t> {
    tables: &'t CompiledTables,
    indexes: BTreeMap<&'t str, SegmentIndex>,
    /// Ends of many names, by where the model has them once.
    kept: BTreeMap<(*const BTreeSet<Peer>, End), Rc<Side>>,
    left: u64,
}

/// Which end of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    From,
    To,
}

/// What decides about somebody at one end, whoever is at the other, unless it is the same segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    /// Row or column.
    number: u16,
    flags: u32,
    built_in: Option<SegmentIndex>,
}

/// Somebody's place among the parties of an end.
type Place = usize;

/// One end of a test.
#[derive(Debug)]
struct Side {
    parties: Vec<Party>,
    /// Of each kind the first, and the first who is in another segment than that one.
    kinds: BTreeMap<Kind, (Place, Option<Place>)>,
    /// The first of each segment, and its kind.
    segments: BTreeMap<SegmentIndex, (Place, Kind)>,
}

impl<'t> Asker<'t> {
    /// `steps`: how many all tests together may take.
    #[must_use]
    pub fn new(tables: &'t CompiledTables, steps: u64) -> Asker<'t> {
        Asker {
            tables,
            indexes: tables.indexes(),
            kept: BTreeMap::new(),
            left: steps,
        }
    }

    /// What is told of the first answer that is not the expected one; `None`: the test passes.
    ///
    /// # Errors
    ///
    /// No steps are left.
    pub fn first_wrong<T>(
        &mut self,
        test: &'t TestCase,
        tell: impl FnOnce(&Answer<'_>) -> T,
    ) -> Result<Option<T>, TooMany> {
        let (froms, tos) = (self.side(&test.from, End::From)?, self.side(&test.to, End::To)?);
        let mut tell = Some(tell);
        let mut told = None;
        for (from, asks) in self.questions(&froms, &tos)? {
            let mut towards = asks.these;
            if asks.each {
                self.take(tos.kinds.len())?;
                towards.extend(froms.towards_each(from, &tos));
            }
            for to in towards {
                let (Some(from), Some(to)) = (froms.parties.get(from), tos.parties.get(to)) else {
                    continue;
                };
                let looked = answers(self.tables, (from, to), test, &mut |answer| {
                    if is_expected(test, answer) {
                        return true;
                    }
                    told = tell.take().map(|tell| tell(answer));
                    false
                });
                self.take(looked)?;
                if told.is_some() {
                    return Ok(told);
                }
            }
        }
        Ok(None)
    }

    /// Who asks, in their order, and whom.
    fn questions(&mut self, froms: &Side, tos: &Side) -> Result<BTreeMap<Place, Asks>, TooMany> {
        let (few, many) = match froms.segments.len() < tos.segments.len() {
            true => (froms, tos),
            false => (tos, froms),
        };
        self.take(few.segments.len() + froms.kinds.len())?;
        // Who asks for himself, once for each two kinds: the first one does.
        let mut alike: BTreeMap<(Kind, Kind), (Place, Place)> = BTreeMap::new();
        for segment in few
            .segments
            .keys()
            .filter(|segment| many.segments.contains_key(segment))
        {
            if let (Some((from, one)), Some((to, other))) =
                (froms.segments.get(segment), tos.segments.get(segment))
            {
                let first = alike.entry((*one, *other)).or_insert((*from, *to));
                *first = (*first).min((*from, *to));
            }
        }
        let mut asking: BTreeMap<Place, Asks> = BTreeMap::new();
        for (first, other) in froms.kinds.values() {
            asking.entry(*first).or_default().each = true;
            // A kind of which only the first himself is: it is asked for by the other one.
            let himself = froms
                .segment(*first)
                .and_then(|segment| tos.segments.get(&segment));
            let himself = himself.and_then(|(_, kind)| tos.kinds.get(kind));
            if let (Some(other), Some((to, None))) = (other, himself) {
                asking.entry(*other).or_default().these.insert(*to);
            }
        }
        for (from, to) in alike.into_values() {
            asking.entry(from).or_default().these.insert(to);
        }
        Ok(asking)
    }

    /// One end of a test, looked up.
    fn side(&mut self, ends: &'t Parties, end: End) -> Result<Rc<Side>, TooMany> {
        let keep = ends.addresses.is_empty() && ends.peers.len() >= KEPT_FROM;
        let key = (Arc::as_ptr(&ends.peers), end);
        if let Some(side) = self.kept.get(&key).filter(|_| keep) {
            return Ok(Rc::clone(side));
        }
        self.take(ends.peers.len() + ends.addresses.len())?;
        let index = |name: &str| self.indexes.get(name).copied();
        let side = Rc::new(Side::of(self.tables, parties_by(self.tables, ends, &index), end));
        if keep {
            self.kept.insert(key, Rc::clone(&side));
        }
        Ok(side)
    }

    fn take(&mut self, steps: usize) -> Result<(), TooMany> {
        let steps = u64::try_from(steps).unwrap_or(u64::MAX);
        self.left = self.left.checked_sub(steps).ok_or(TooMany)?;
        Ok(())
    }
}

/// Whom somebody asks for.
#[derive(Debug, Default)]
struct Asks {
    /// Of each kind the first other one.
    each: bool,
    these: BTreeSet<Place>,
}

impl Side {
    fn of(tables: &CompiledTables, parties: Vec<Party>, end: End) -> Side {
        let mut kinds: BTreeMap<Kind, (Place, Option<Place>)> = BTreeMap::new();
        let mut segments = BTreeMap::new();
        for (place, party) in parties.iter().enumerate() {
            let kind = Kind::of(tables, party.segment, end);
            segments.entry(party.segment).or_insert((place, kind));
            let (first, other) = kinds.entry(kind).or_insert((place, None));
            let is_another = |first: &Party| first.segment != party.segment;
            if other.is_none() && parties.get(*first).is_some_and(is_another) {
                *other = Some(place);
            }
        }
        Side {
            parties,
            kinds,
            segments,
        }
    }

    fn segment(&self, place: Place) -> Option<SegmentIndex> {
        self.parties.get(place).map(|party| party.segment)
    }

    /// The first of each kind of the other end that is in another segment than somebody of this one.
    fn towards_each(&self, from: Place, tos: &Side) -> impl Iterator<Item = Place> {
        let own = self.segment(from);
        tos.kinds
            .values()
            .filter_map(move |(first, other)| match tos.segment(*first) == own {
                true => *other,
                false => Some(*first),
            })
    }
}

impl Kind {
    fn of(tables: &CompiledTables, index: SegmentIndex, end: End) -> Kind {
        let segment = tables.segment(index);
        let (number, flags) = match end {
            End::From => (segment.row, SEGMENT_VALID | SEGMENT_ROW | SEGMENT_INTRA),
            End::To => (segment.column, SEGMENT_VALID | SEGMENT_COLUMN),
        };
        Kind {
            number,
            flags: segment.flags & flags,
            built_in: (index < FIRST_SEGMENT).then_some(index),
        }
    }
}
