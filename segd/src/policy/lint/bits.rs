//! Ends of rules as sets of numbers, so that comparing two is comparing words.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Deref,
    sync::Arc,
};

use crate::policy::model::{Peer, Policy};

/// Peers by number, so that comparing ends is comparing words.
pub struct Numbering<'p> {
    /// By name.
    pub numbers: BTreeMap<&'p str, usize>,
    /// Most rules share their sets. Never iterated over.
    by_address: BTreeMap<*const BTreeSet<Peer>, End>,
    by_content: BTreeMap<Arc<Bits>, End>,
}

/// One end of a rule. Ends with the same peers have the same number.
#[derive(Clone)]
pub struct End {
    /// As they were met.
    pub number: usize,
    bits: Arc<Bits>,
}

impl PartialEq for End {
    fn eq(&self, other: &End) -> bool {
        self.number == other.number
    }
}

impl Deref for End {
    type Target = Bits;

    fn deref(&self) -> &Bits {
        &self.bits
    }
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
            by_address: BTreeMap::new(),
            by_content: BTreeMap::new(),
        }
    }

    /// The numbers of some peers.
    pub fn end(&mut self, peers: &Arc<BTreeSet<Peer>>) -> End {
        if let Some(end) = self.by_address.get(&Arc::as_ptr(peers)) {
            return end.clone();
        }
        let bits = Arc::new(Bits::of(peers, &self.numbers));
        let number = self.by_content.len();
        let end = self.by_content.entry(Arc::clone(&bits));
        let end = end.or_insert(End { number, bits }).clone();
        self.by_address.insert(Arc::as_ptr(peers), end.clone());
        end
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
