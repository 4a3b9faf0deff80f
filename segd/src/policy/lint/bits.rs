//! Ends of rules as sets of numbers, so that comparing two is comparing words.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Deref,
    sync::Arc,
};

use crate::policy::{
    model::{Peer, Policy},
    numbers::Addresses,
};

/// The numbers of the peers that are built in; segments have those behind, in the order of their names.
pub const HOST: usize = 0;
pub const WORLD: usize = 1;
pub const FIRST: usize = 2;

/// The ends of a policy's rules.
pub struct Ends {
    /// How many peers there are.
    pub peers: usize,
    /// The different ones, as they were met.
    bits: Vec<Arc<Bits>>,
    /// In which of the two they stand: `from`, `to`.
    pub stands: Vec<[bool; 2]>,
    /// Those of each rule.
    of_rules: Vec<[u32; 2]>,
}

/// One end of a rule. Ends with the same peers have the same number.
#[derive(Clone, Copy)]
pub struct End<'e> {
    /// As they were met.
    pub number: usize,
    bits: &'e Bits,
}

impl PartialEq for End<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Deref for End<'_> {
    type Target = Bits;

    fn deref(&self) -> &Bits {
        self.bits
    }
}

impl<'e> End<'e> {
    /// Its peers.
    pub const fn bits(self) -> &'e Bits {
        self.bits
    }
}

impl Ends {
    /// Those of a policy.
    pub fn of(policy: &Policy) -> Ends {
        let names = policy.segments.keys().map(String::as_str);
        let peers: BTreeMap<&str, usize> = names.zip(FIRST..).collect();
        let mut ends = Ends {
            peers: FIRST + peers.len(),
            bits: Vec::new(),
            stands: Vec::new(),
            of_rules: Vec::with_capacity(policy.rules.len()),
        };
        let mut by_content: BTreeMap<Arc<Bits>, u32> = BTreeMap::new();
        // Most rules share their sets.
        let mut by_address = Addresses::default();
        let mut number = |set: &Arc<BTreeSet<Peer>>, ends: &mut Ends| {
            by_address.number(set, || {
                let known = set.iter().filter_map(|peer| match peer {
                    Peer::Host => Some(HOST),
                    Peer::World => Some(WORLD),
                    Peer::Segment(name) => peers.get(name.as_str()).copied(),
                });
                let bits = Arc::new(Bits::of(known, ends.peers));
                let new = ends.bits.len() as u32;
                let number = *by_content.entry(Arc::clone(&bits)).or_insert(new);
                if number == new {
                    ends.bits.push(bits);
                    ends.stands.push([false; 2]);
                }
                number
            })
        };
        for rule in &policy.rules {
            let both = [number(&rule.from, &mut ends), number(&rule.to, &mut ends)];
            for (side, end) in both.iter().enumerate() {
                if let Some(stands) = ends
                    .stands
                    .get_mut(*end as usize)
                    .and_then(|both| both.get_mut(side))
                {
                    *stands = true;
                }
            }
            ends.of_rules.push(both);
        }
        ends
    }

    /// How many different ends there are.
    pub fn len(&self) -> usize {
        self.bits.len()
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = End<'_>> {
        let numbered = self.bits.iter().enumerate();
        numbered.map(|(number, bits)| End { number, bits })
    }

    /// The two ends of each rule.
    pub fn of_rules(&self) -> impl Iterator<Item = [End<'_>; 2]> {
        let end = |number: u32| {
            let number = number as usize;
            let bits: &Bits = self.bits.get(number)?;
            Some(End { number, bits })
        };
        let both = move |[from, to]: &[u32; 2]| Some([end(*from)?, end(*to)?]);
        self.of_rules.iter().filter_map(both)
    }

    /// Every peer.
    pub fn everybody(&self) -> Bits {
        Bits::of(0..self.peers, self.peers)
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

    /// How many are in it.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
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
