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
        let known = peers.iter().filter_map(|peer| {
            self.numbers.get(match peer {
                Peer::Host => "host",
                Peer::World => "world",
                Peer::Segment(name) => name.as_str(),
            })
        });
        let bits = Arc::new(Bits::of(known.copied(), self.numbers.len()));
        let number = self.by_content.len();
        let end = self.by_content.entry(Arc::clone(&bits));
        let end = end.or_insert(End { number, bits }).clone();
        self.by_address.insert(Arc::as_ptr(peers), end.clone());
        end
    }

    /// How many different ends there are.
    pub fn ends(&self) -> usize {
        self.by_content.len()
    }

    /// Every peer.
    pub fn everybody(&self) -> Bits {
        Bits::of(0..self.numbers.len(), self.numbers.len())
    }
}

/// A set of numbers. One that has few of many is a list, so that a thousand ends do not take a bit for each peer.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub struct Bits {
    len: usize,
    form: Form,
}

/// INVARIANT: equal sets of one policy have the same form.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    /// Ascending.
    Few(Vec<usize>),
    /// A bit for each.
    Many(Vec<u64>),
}

impl Bits {
    /// Some of the numbers below `all`, each once.
    fn of(numbers: impl Iterator<Item = usize>, all: usize) -> Bits {
        let mut few: Vec<usize> = numbers.collect();
        let len = few.len();
        if len <= all.div_ceil(64) {
            few.sort_unstable();
            let form = Form::Few(few);
            return Bits { len, form };
        }
        let mut words = vec![0; all.div_ceil(64)];
        for number in few {
            if let Some(word) = words.get_mut(number / 64) {
                *word |= 1_u64 << (number % 64);
            }
        }
        let form = Form::Many(words);
        Bits { len, form }
    }

    /// The numbers in it, ascending.
    pub fn numbers(&self) -> impl Iterator<Item = usize> {
        let (few, words) = match &self.form {
            Form::Few(few) => (few.as_slice(), &[][..]),
            Form::Many(words) => (&[][..], words.as_slice()),
        };
        let words = (0_usize..).step_by(64).zip(words);
        let of_words = words.flat_map(|(base, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                let next = (rest != 0).then(|| base + rest.trailing_zeros() as usize);
                rest &= rest.wrapping_sub(1);
                next
            })
        });
        few.iter().copied().chain(of_words)
    }

    /// Whether a number is in it.
    pub fn has(&self, number: usize) -> bool {
        match &self.form {
            Form::Few(few) => few.binary_search(&number).is_ok(),
            Form::Many(words) => words
                .get(number / 64)
                .is_some_and(|word| word & (1 << (number % 64)) != 0),
        }
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether both have a number.
    pub fn meets(&self, other: &Bits) -> bool {
        match (&self.form, &other.form) {
            (Form::Many(a), Form::Many(b)) => a.iter().zip(b).any(|(a, b)| a & b != 0),
            _ if self.len > other.len => other.numbers().any(|number| self.has(number)),
            _ => self.numbers().any(|number| other.has(number)),
        }
    }

    /// Whether the other has all its numbers.
    pub fn within(&self, other: &Bits) -> bool {
        self.len <= other.len
            && match (&self.form, &other.form) {
                (Form::Many(a), Form::Many(b)) => a.iter().zip(b).all(|(a, b)| a & !b == 0),
                _ => self.numbers().all(|number| other.has(number)),
            }
    }
}
