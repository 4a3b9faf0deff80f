//! Ends of rules as sets of numbers, so that comparing two is comparing words.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::policy::model::{Peer, Policy};

/// Peers by number, so that comparing ends is comparing words.
pub struct Numbering<'p> {
    /// By name.
    pub numbers: BTreeMap<&'p str, usize>,
    /// Most rules share their sets. Never iterated over.
    known: BTreeMap<*const BTreeSet<Peer>, Arc<Bits>>,
}

impl<'p> Numbering<'p> {
    /// Numbers every peer of a policy.
    pub fn new(policy: &'p Policy) -> Numbering<'p> {
        let names = ["host", "world"]
            .into_iter()
            .chain(policy.segments.keys().map(String::as_str));
        let numbers = names.enumerate().map(|(number, name)| (name, number)).collect();
        Numbering {
            numbers,
            known: BTreeMap::new(),
        }
    }

    /// The numbers of some peers.
    pub fn set(&mut self, peers: &Arc<BTreeSet<Peer>>) -> Arc<Bits> {
        let numbers = &self.numbers;
        let bits = self
            .known
            .entry(Arc::as_ptr(peers))
            .or_insert_with(|| Arc::new(Bits::of(peers, numbers)));
        Arc::clone(bits)
    }

    /// Every peer.
    pub fn everybody(&self) -> Bits {
        let mut all = self.nobody();
        (0..self.numbers.len()).for_each(|number| all.put(number));
        all
    }

    /// No peer.
    pub fn nobody(&self) -> Bits {
        Bits(vec![0; self.numbers.len().div_ceil(64)])
    }
}

/// A set of numbers.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub struct Bits(Vec<u64>);

impl Bits {
    fn of(peers: &BTreeSet<Peer>, numbers: &BTreeMap<&str, usize>) -> Bits {
        let mut bits = Bits(vec![0; numbers.len().div_ceil(64)]);
        for peer in peers {
            let name = match peer {
                Peer::Host => "host",
                Peer::World => "world",
                Peer::Segment(name) => name,
            };
            if let Some(number) = numbers.get(name) {
                bits.put(*number);
            }
        }
        bits
    }

    fn put(&mut self, number: usize) {
        if let Some(word) = self.0.get_mut(number / 64) {
            *word |= 1 << (number % 64);
        }
    }

    /// The numbers in it, ascending.
    pub fn numbers(&self) -> impl Iterator<Item = usize> {
        let words = (0_usize..).step_by(64).zip(&self.0);
        words.flat_map(|(base, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                let next = (rest != 0).then(|| base + rest.trailing_zeros() as usize);
                rest &= rest.wrapping_sub(1);
                next
            })
        })
    }

    /// Takes the other's numbers in.
    pub fn add(&mut self, other: &Bits) {
        for (word, other) in self.0.iter_mut().zip(&other.0) {
            *word |= other;
        }
    }

    /// Whether a number is in it.
    pub fn has(&self, number: usize) -> bool {
        self.0
            .get(number / 64)
            .is_some_and(|word| word & (1 << (number % 64)) != 0)
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// Whether both have a number.
    pub fn meets(&self, other: &Bits) -> bool {
        self.0.iter().zip(&other.0).any(|(a, b)| a & b != 0)
    }

    /// Whether the other has all its numbers.
    pub fn within(&self, other: &Bits) -> bool {
        self.0.iter().zip(&other.0).all(|(a, b)| a & !b == 0)
    }
}
