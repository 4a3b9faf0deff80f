//! Rules of one kind by their two ends, so that those which lie around or across another one are found without asking all.

use std::ops::Range;

use super::{Bits, End, Looked};
use crate::policy::{model::Action, port::Interval};

/// An interval of a rule, and the rule.
pub type Stretch = (Interval, usize);

/// The rules. Those with the same two ends are a bundle.
pub struct Grid<'l> {
    from: Side<'l>,
    to: Side<'l>,
    /// The ends of each bundle, sorted.
    bundles: Vec<(usize, usize)>,
    /// Where the bundles of each `from` begin, and where the last ends.
    rows: Vec<usize>,
    /// Where the stretches of each bundle begin, and where the last ends.
    begins: Vec<usize>,
    /// The intervals of each bundle, sorted.
    stretches: Vec<Stretch>,
    /// Up to here in its bundle, the place of the interval that reaches farthest.
    farthest: Vec<usize>,
}

/// One of the two ends.
struct Side<'l> {
    /// By number; `None` where no rule has it.
    ends: Vec<Option<&'l Bits>>,
    /// The ends that a peer is in, ascending.
    by_peer: Vec<Vec<usize>>,
}

/// By the number of an end, ends of the rules of a grid that stand in some relation to it, ascending.
pub struct Related {
    from: Vec<Vec<usize>>,
    to: Vec<Vec<usize>>,
}

impl<'l> Grid<'l> {
    /// The rules of a kind, of all that there are between so many ends and peers.
    pub fn new(rules: &'l [Looked<'_>], action: Action, ends: usize, peers: usize) -> Grid<'l> {
        let of_kind = || rules.iter().filter(|looked| looked.rule.action == action);
        let mut cells: Vec<(usize, usize, Stretch)> = Vec::new();
        for (number, looked) in rules.iter().enumerate() {
            if looked.rule.action == action {
                let services = looked.rule.services.iter();
                let stretches = services.map(|interval| (*interval, number));
                cells.extend(stretches.map(|stretch| (looked.from.number, looked.to.number, stretch)));
            }
        }
        cells.sort_unstable();
        let (mut bundles, mut begins, mut farthest) =
            (Vec::new(), Vec::new(), Vec::with_capacity(cells.len()));
        let mut reach: Option<(usize, u32)> = None;
        for (place, (from, to, ((_, high), _))) in cells.iter().enumerate() {
            if bundles.last() != Some(&(*from, *to)) {
                bundles.push((*from, *to));
                begins.push(place);
                reach = None;
            }
            let best = reach.filter(|(_, far)| far >= high).unwrap_or((place, *high));
            reach = Some(best);
            farthest.push(best.0);
        }
        begins.push(cells.len());
        let mut row = 0;
        let rows = (0..=ends).map(|from| {
            row += bundles
                .iter()
                .skip(row)
                .take_while(|(known, _)| *known < from)
                .count();
            row
        });
        Grid {
            from: Side::new(of_kind().map(|looked| &looked.from), ends, peers),
            to: Side::new(of_kind().map(|looked| &looked.to), ends, peers),
            rows: rows.collect(),
            bundles,
            begins,
            stretches: cells.into_iter().map(|(.., stretch)| stretch).collect(),
            farthest,
        }
    }

    /// Of every end of any rule, the ends here that have all of its peers.
    pub fn around(&self, rules: &[Looked<'_>]) -> Related {
        self.related(rules, Side::around)
    }

    /// Of every end of any rule, the ends here that have one of its peers.
    pub fn across(&self, rules: &[Looked<'_>]) -> Related {
        self.related(rules, Side::across)
    }

    fn related(&self, rules: &[Looked<'_>], find: fn(&Side<'l>, &Bits) -> Vec<usize>) -> Related {
        let count = self.from.ends.len();
        let mut related = Related {
            from: vec![Vec::new(); count],
            to: vec![Vec::new(); count],
        };
        let mut done = vec![(false, false); count];
        for looked in rules {
            let (from, to) = (&looked.from, &looked.to);
            if let (Some((done, _)), Some(found)) =
                (done.get_mut(from.number), related.from.get_mut(from.number))
                && !std::mem::replace(done, true)
            {
                *found = find(&self.from, from);
            }
            if let (Some((_, done)), Some(found)) = (done.get_mut(to.number), related.to.get_mut(to.number))
                && !std::mem::replace(done, true)
            {
                *found = find(&self.to, to);
            }
        }
        related
    }

    /// The first bundle between ends that are related to those of a rule of which something can be said.
    pub fn find<T>(
        &self,
        related: &Related,
        looked: &Looked<'_>,
        mut say: impl FnMut(Bundle<'_>) -> Option<T>,
    ) -> Option<T> {
        let froms = related.from.get(looked.from.number)?;
        let tos = related.to.get(looked.to.number)?;
        let mut visit = |place: usize| say(self.bundle(place)?);
        for from in froms {
            let (start, end) = (*self.rows.get(*from)?, *self.rows.get(from + 1)?);
            let row = self.bundles.get(start..end)?;
            let found = if row.len() <= tos.len() {
                let mut inside = (start..)
                    .zip(row)
                    .filter(|(_, (_, to))| tos.binary_search(to).is_ok());
                inside.find_map(|(place, _)| visit(place))
            } else {
                let place = |to: &usize| row.binary_search_by_key(to, |(_, to)| *to).ok();
                tos.iter().filter_map(place).find_map(|at| visit(start + at))
            };
            if found.is_some() {
                return found;
            }
        }
        None
    }

    fn bundle(&self, place: usize) -> Option<Bundle<'_>> {
        let (from, to) = *self.bundles.get(place)?;
        let stretches: Range<usize> = *self.begins.get(place)?..*self.begins.get(place + 1)?;
        Some(Bundle {
            from,
            to,
            begin: stretches.start,
            stretches: self.stretches.get(stretches.clone())?,
            farthest: self.farthest.get(stretches)?,
        })
    }
}

impl<'l> Side<'l> {
    fn new(of_rules: impl Iterator<Item = &'l End>, ends: usize, peers: usize) -> Side<'l> {
        let mut side = Side {
            ends: vec![None; ends],
            by_peer: vec![Vec::new(); peers],
        };
        for end in of_rules {
            if let Some(known) = side.ends.get_mut(end.number) {
                *known = Some(&**end);
            }
        }
        for (number, end) in side.ends.iter().enumerate() {
            for peer in end.iter().flat_map(|end| end.numbers()) {
                if let Some(known) = side.by_peer.get_mut(peer) {
                    known.push(number);
                }
            }
        }
        side
    }

    fn of_peer(&self, peer: usize) -> &[usize] {
        self.by_peer.get(peer).map_or(&[], Vec::as_slice)
    }

    fn around(&self, inner: &Bits) -> Vec<usize> {
        // Whatever has all of the peers has the one that stands in the fewest.
        let lists = inner.numbers().map(|peer| self.of_peer(peer));
        let fewest = lists.min_by_key(|list| list.len()).unwrap_or_default();
        let has_all = |number: &&usize| {
            let outer = self.ends.get(**number).copied().flatten();
            outer.is_some_and(|outer| inner.within(outer))
        };
        fewest.iter().filter(has_all).copied().collect()
    }

    fn across(&self, other: &Bits) -> Vec<usize> {
        let mut found: Vec<usize> = Vec::new();
        for peer in other.numbers() {
            found.extend(self.of_peer(peer));
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// Rules with the same two ends, by their intervals.
pub struct Bundle<'g> {
    /// The number of an end.
    pub from: usize,
    /// The number of the other end.
    pub to: usize,
    begin: usize,
    stretches: &'g [Stretch],
    farthest: &'g [usize],
}

impl Bundle<'_> {
    /// The intervals that begin at `low` at the latest and reach `high`, the one that reaches farthest of all first.
    pub fn around(&self, (low, high): Interval) -> impl Iterator<Item = usize> {
        let starts = self.stretches.partition_point(|((start, _), _)| *start <= low);
        let best = starts.checked_sub(1).and_then(|last| self.best(last));
        let best = best.filter(|((_, end), _)| *end >= high).map(|(_, rule)| rule);
        best.into_iter().chain(self.reaching(high, starts))
    }

    /// The rules that have something of an interval.
    pub fn across(&self, (low, high): Interval) -> impl Iterator<Item = usize> {
        let starts = self.stretches.partition_point(|((start, _), _)| *start <= high);
        self.reaching(low, starts)
    }

    /// Of the first `starts` intervals those that reach so far.
    fn reaching(&self, far: u32, starts: usize) -> impl Iterator<Item = usize> {
        // Before the first place up to which one reaches so far, none does.
        let short = |place: &usize| self.stretch(*place).is_some_and(|((_, end), _)| end < far);
        let first = self.farthest.partition_point(short);
        let some = self.stretches.get(first..starts).unwrap_or_default();
        some.iter()
            .filter(move |((_, end), _)| *end >= far)
            .map(|(_, rule)| *rule)
    }

    /// Of the intervals up to a place the one that reaches farthest.
    fn best(&self, place: usize) -> Option<Stretch> {
        self.stretch(*self.farthest.get(place)?)
    }

    fn stretch(&self, place: usize) -> Option<Stretch> {
        self.stretches.get(place - self.begin).copied()
    }
}

#[cfg(test)]
mod tests;
