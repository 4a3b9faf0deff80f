//! A long list in pieces: policies that differ in one file share the pieces of all others.
//!
//! INVARIANT: where pieces begin and end changes nothing of what a list is equal to, or printed as.

use std::{fmt, iter::Flatten, sync::Arc, vec};

/// A list, in pieces that may be shared.
#[derive(Clone)]
pub struct Pieces<T> {
    /// Each with the place of its first item; none is empty.
    pieces: Vec<(usize, Arc<Vec<T>>)>,
    len: usize,
}

impl<T> Pieces<T> {
    /// Adds a piece at the end.
    pub fn add(&mut self, piece: Arc<Vec<T>>) {
        if !piece.is_empty() {
            let first = self.len;
            self.len += piece.len();
            self.pieces.push((first, piece));
        }
    }

    /// Adds an item at the end.
    pub fn push(&mut self, item: T) {
        self.len += 1;
        if let Some((_, last)) = self.pieces.last_mut()
            && let Some(last) = Arc::get_mut(last)
        {
            return last.push(item);
        }
        self.pieces.push((self.len - 1, Arc::new(vec![item])));
    }

    /// The pieces, each with the place of its first item.
    pub fn pieces(&self) -> impl Iterator<Item = (usize, &Arc<Vec<T>>)> {
        self.pieces.iter().map(|(first, piece)| (*first, piece))
    }

    /// How many items there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The item at a place.
    #[must_use]
    pub fn get(&self, at: usize) -> Option<&T> {
        let piece = self.pieces.partition_point(|(first, _)| *first <= at);
        let (first, piece) = self.pieces.get(piece.checked_sub(1)?)?;
        piece.get(at - first)
    }

    /// The first item.
    #[must_use]
    pub fn first(&self) -> Option<&T> {
        self.get(0)
    }

    /// All items in their order.
    #[must_use]
    pub fn iter(&self) -> Iter<'_, T> {
        let pieces: Vec<&[T]> = self.pieces.iter().map(|(_, piece)| piece.as_slice()).collect();
        Iter {
            items: pieces.into_iter().flatten(),
            left: self.len,
        }
    }
}

impl<T: Clone> Pieces<T> {
    /// All items, to be changed: pieces that others hold too are copied.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        let pieces = self.pieces.iter_mut();
        pieces.flat_map(|(_, piece)| Arc::make_mut(piece))
    }

    /// Changes items that `are` to be changed; pieces without one stay shared.
    pub fn change(&mut self, are: impl Fn(&T) -> bool, change: impl Fn(&mut T)) {
        for (_, piece) in &mut self.pieces {
            if piece.iter().any(&are) {
                let items = Arc::make_mut(piece).iter_mut();
                items.filter(|item| are(item)).for_each(&change);
            }
        }
    }
}

/// Items of [`Pieces`].
#[derive(Clone, Debug)]
pub struct Iter<'p, T> {
    items: Flatten<vec::IntoIter<&'p [T]>>,
    left: usize,
}

impl<'p, T> Iterator for Iter<'p, T> {
    type Item = &'p T;

    fn next(&mut self) -> Option<&'p T> {
        let next = self.items.next()?;
        self.left -= 1;
        Some(next)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }

    fn fold<B, F: FnMut(B, &'p T) -> B>(self, init: B, f: F) -> B {
        self.items.fold(init, f)
    }
}

impl<T> ExactSizeIterator for Iter<'_, T> {}

impl<'p, T> IntoIterator for &'p Pieces<T> {
    type Item = &'p T;
    type IntoIter = Iter<'p, T>;

    fn into_iter(self) -> Iter<'p, T> {
        self.iter()
    }
}

impl<T> From<Vec<T>> for Pieces<T> {
    fn from(items: Vec<T>) -> Pieces<T> {
        let mut pieces = Pieces::default();
        pieces.add(Arc::new(items));
        pieces
    }
}

impl<T> FromIterator<T> for Pieces<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Pieces<T> {
        Pieces::from(items.into_iter().collect::<Vec<T>>())
    }
}

impl<T> Default for Pieces<T> {
    fn default() -> Pieces<T> {
        Pieces {
            pieces: Vec::new(),
            len: 0,
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Pieces<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

impl<T: PartialEq> PartialEq for Pieces<T> {
    fn eq(&self, other: &Pieces<T>) -> bool {
        self.len == other.len && self.iter().eq(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_one_list() {
        let mut pieces: Pieces<u32> = Pieces::default();
        let shared = Arc::new(vec![0, 1, 2]);
        pieces.add(Arc::clone(&shared));
        pieces.add(Arc::new(Vec::new()));
        pieces.push(3);
        pieces.push(4);
        pieces.add(Arc::new(vec![5, 6]));
        let whole: Pieces<u32> = (0..7).collect();
        assert_eq!(pieces, whole);
        assert_eq!(format!("{pieces:?}"), format!("{whole:?}"));
        assert_eq!(
            (pieces.len(), pieces.iter().len(), pieces.pieces().count()),
            (7, 7, 3)
        );
        for at in 0..7 {
            assert_eq!(pieces.get(at), Some(&(at as u32)));
        }
        assert_eq!((pieces.get(7), Pieces::<u32>::default().first()), (None, None));
        pieces.change(|item| *item > 4, |item| *item += 10);
        assert_eq!(
            pieces.iter().copied().collect::<Vec<_>>(),
            [0, 1, 2, 3, 4, 15, 16]
        );
        let is_first = |(_, piece)| Arc::ptr_eq(piece, &shared);
        assert!(
            pieces.pieces().next().is_some_and(is_first),
            "nothing in it changed"
        );
        pieces.iter_mut().for_each(|item| *item = 0);
        assert_eq!((shared.len(), pieces.iter().max()), (3, Some(&0)));
    }
}
