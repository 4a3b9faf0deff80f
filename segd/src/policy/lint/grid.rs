//! Rules of one kind by their two ends, so that those which lie around or across another one are found without asking all.

use std::ops::Range;

use super::{Bits, End, Ends, Looked};
use crate::policy::{model::Action, port::Interval};

/// An interval of a rule, and the rule.
pub type Stretch = (Interval, u32);

/// The rules. Those with the same two ends are a bundle.
pub struct Grid<'l> {
    from: Side<'l>,
    to: Side<'l>,
    /// The ends of each bundle, sorted.
    bundles: Vec<(u32, u32)>,
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
    /// The rules of a kind, of all that there are.
    pub fn new(rules: &'l [Looked<'_>], action: Action, ends: &'l Ends) -> Grid<'l> {
        let of_kind = || {
            (0..)
                .zip(rules)
                .filter(|(_, looked)| looked.rule.action == action)
        };
        // Where the intervals from each end begin: sorted by that, those of one are few.
        let mut starts = vec![0; ends.len() + 1];
        for (_, looked) in of_kind() {
            if let Some(count) = starts.get_mut(looked.from.number + 1) {
                *count += looked.rule.services.len();
            }
        }
        let mut total = 0;
        for start in &mut starts {
            total += *start;
            *start = total;
        }
        let mut cells: Vec<(u32, Stretch)> = vec![(0, ((0, 0), 0)); total];
        let mut free = starts.clone();
        for (number, looked) in of_kind() {
            let Some(free) = free.get_mut(looked.from.number) else {
                continue;
            };
            for interval in looked.rule.services.iter() {
                if let Some(cell) = cells.get_mut(*free) {
                    *cell = (looked.to.number as u32, (*interval, number));
                }
                *free += 1;
            }
        }
        let (mut bundles, mut begins, mut rows) = (Vec::new(), Vec::new(), vec![0]);
        let mut farthest = Vec::with_capacity(total);
        for (from, row) in starts.iter().zip(starts.iter().skip(1)).enumerate() {
            let (start, end) = (*row.0, *row.1);
            let row = cells.get_mut(start..end).unwrap_or_default();
            row.sort_unstable();
            let mut reach: Option<(usize, u32)> = None;
            let mut last = None;
            for (place, (to, ((_, high), _))) in (start..).zip(row.iter()) {
                if last != Some(*to) {
                    last = Some(*to);
                    bundles.push((from as u32, *to));
                    begins.push(place);
                    reach = None;
                }
                let best = reach.filter(|(_, far)| far >= high).unwrap_or((place, *high));
                reach = Some(best);
                farthest.push(best.0);
            }
            rows.push(bundles.len());
        }
        begins.push(total);
        let stands = |side: usize| {
            let mut stands = vec![false; ends.len()];
            for (_, looked) in of_kind() {
                let end = [looked.from, looked.to].get(side).map_or(0, |end| end.number);
                if let Some(stands) = stands.get_mut(end) {
                    *stands = true;
                }
            }
            stands
        };
        Grid {
            from: Side::new(ends, &stands(0)),
            to: Side::new(ends, &stands(1)),
            rows,
            bundles,
            begins,
            stretches: cells.into_iter().map(|(_, stretch)| stretch).collect(),
            farthest,
        }
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.bundles.is_empty()
    }

    /// Of every end of any rule, the ends here that have all of its peers.
    pub fn around(&self, ends: &Ends) -> Related {
        self.related(ends, Side::around)
    }

    /// Of every end of any rule, the ends here that have one of its peers.
    pub fn across(&self, ends: &Ends) -> Related {
        self.related(ends, Side::across)
    }

    fn related(&self, ends: &Ends, find: fn(&Side<'l>, &Bits) -> Vec<usize>) -> Related {
        let mut related = Related {
            from: vec![Vec::new(); ends.len()],
            to: vec![Vec::new(); ends.len()],
        };
        if self.is_empty() {
            return related;
        }
        for (end, [from, to]) in ends.all().zip(&ends.stands) {
            if let Some(found) = related.from.get_mut(end.number).filter(|_| *from) {
                *found = find(&self.from, &end);
            }
            if let Some(found) = related.to.get_mut(end.number).filter(|_| *to) {
                *found = find(&self.to, &end);
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
                    .filter(|(_, (_, to))| tos.binary_search(&(*to as usize)).is_ok());
                inside.find_map(|(place, _)| visit(place))
            } else {
                let place = |to: &usize| row.binary_search_by_key(&(*to as u32), |(_, to)| *to).ok();
                tos.iter().filter_map(place).find_map(|at| visit(start + at))
            };
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// Whether a rule of this grid is the only one that lies around it, by its ends.
    pub fn is_alone(&self, around: &Related, looked: &Looked<'_>) -> bool {
        let (from, to) = (looked.from.number, looked.to.number);
        let only = |ends: Option<&Vec<usize>>, end: usize| ends.is_some_and(|ends| *ends == [end]);
        if !only(around.from.get(from), from) || !only(around.to.get(to), to) {
            return false;
        }
        let own = || {
            let (start, end) = (*self.rows.get(from)?, *self.rows.get(from + 1)?);
            let row = self.bundles.get(start..end)?;
            let place = row.binary_search_by_key(&(to as u32), |(_, to)| *to).ok()?;
            self.bundle(start + place)
        };
        own().is_some_and(|own| own.stretches.len() == looked.rule.services.len())
    }

    fn bundle(&self, place: usize) -> Option<Bundle<'_>> {
        let (from, to) = *self.bundles.get(place)?;
        let stretches: Range<usize> = *self.begins.get(place)?..*self.begins.get(place + 1)?;
        Some(Bundle {
            from: from as usize,
            to: to as usize,
            begin: stretches.start,
            stretches: self.stretches.get(stretches.clone())?,
            farthest: self.farthest.get(stretches)?,
        })
    }
}

impl<'l> Side<'l> {
    fn new(ends: &'l Ends, stands: &[bool]) -> Side<'l> {
        let held = |(end, stands): (End<'l>, &bool)| stands.then(|| end.bits());
        let mut side = Side {
            ends: ends.all().zip(stands).map(held).collect(),
            by_peer: vec![Vec::new(); ends.peers],
        };
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
        let best = best
            .filter(|((_, end), _)| *end >= high)
            .map(|(_, rule)| rule as usize);
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
            .map(|(_, rule)| *rule as usize)
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
