//! Things found by a hash of them: what is asked for every rule is asked a million times.
//!
//! Deliberately absent: a way to go through them. So no order comes out of here, whatever is hashed.

use std::{
    hash::{BuildHasher as _, Hash, RandomState},
    sync::Arc,
};

/// Numbers, each under a hash of what it stands for. Open addressing, half full at most.
#[derive(Clone, Debug, Default)]
pub struct Numbers {
    /// Half of a hash, and a number plus one; 0: nobody.
    places: Vec<(u32, u32)>,
    count: usize,
    /// Others know the hashes of no process: nobody makes up names that meet.
    hashes: RandomState,
}

impl Numbers {
    /// The number of a thing, which `is` knows; or else a new one, which it gets.
    pub fn number(&mut self, thing: &(impl Hash + ?Sized), new: u32, is: impl Fn(u32) -> bool) -> u32 {
        let hash = self.hashes.hash_one(thing);
        self.placed(hash, new, is)
    }

    /// The number of a thing that `is` knows, if it has one.
    fn find(&self, thing: &(impl Hash + ?Sized), is: impl Fn(u32) -> bool) -> Option<u32> {
        let mask = self.places.len().checked_sub(1)?;
        let short = (self.hashes.hash_one(thing) >> 32) as u32;
        let mut at = short as usize & mask;
        while let Some((known, number)) = self.places.get(at) {
            let number = number.checked_sub(1)?;
            if *known == short && is(number) {
                return Some(number);
            }
            at = (at + 1) & mask;
        }
        None
    }

    /// Where the search for a hash begins: read for many of them at once, so that memory is waited for once.
    fn touch(&self, hash: u64) -> u32 {
        let mask = self.places.len().wrapping_sub(1);
        let place = self.places.get((hash >> 32) as usize & mask);
        place.map_or(0, |(_, number)| *number)
    }

    fn placed(&mut self, hash: u64, new: u32, is: impl Fn(u32) -> bool) -> u32 {
        if (self.count + 1) * 2 > self.places.len() {
            self.grow();
        }
        let short = (hash >> 32) as u32;
        let mask = self.places.len() - 1;
        let mut at = short as usize & mask;
        while let Some((known, number)) = self.places.get_mut(at) {
            match *number {
                0 => {
                    (*known, *number) = (short, new + 1);
                    self.count += 1;
                    return new;
                }
                number if *known == short && is(number - 1) => return number - 1,
                _ => at = (at + 1) & mask,
            }
        }
        new
    }

    fn grow(&mut self) {
        let len = (self.places.len() * 2).max(64);
        let before = std::mem::replace(&mut self.places, vec![(0, 0); len]);
        for (short, number) in before.into_iter().filter(|(_, number)| *number != 0) {
            let mut at = short as usize & (len - 1);
            while self.places.get(at).is_some_and(|(_, taken)| *taken != 0) {
                at = (at + 1) & (len - 1);
            }
            if let Some(place) = self.places.get_mut(at) {
                *place = (short, number);
            }
        }
    }
}

/// Texts, each with a number: the first has 0.
#[derive(Clone, Debug, Default)]
pub struct Words {
    /// One after another.
    texts: String,
    /// Where each ends.
    ends: Vec<u32>,
    numbers: Numbers,
}

impl Words {
    /// The number of a text.
    pub fn number(&mut self, text: &str) -> u32 {
        let hash = self.numbers.hashes.hash_one(text);
        self.hashed(text, hash)
    }

    /// The numbers of texts, in their order: as [`Words::number`] of each, and faster for many.
    pub fn numbers(&mut self, texts: &[&str], numbers: &mut Vec<u32>) {
        const AT_ONCE: usize = 96;
        let mut hashes = [0; AT_ONCE];
        for texts in texts.chunks(AT_ONCE) {
            let mut touched = 0_u32;
            for (text, hash) in texts.iter().zip(&mut hashes) {
                *hash = self.numbers.hashes.hash_one(*text);
                touched = touched.wrapping_add(self.numbers.touch(*hash));
            }
            std::hint::black_box(touched);
            let hashed = texts.iter().zip(hashes);
            numbers.extend(hashed.map(|(text, hash)| self.hashed(text, hash)));
        }
    }

    /// The number of a text, if it has one.
    #[must_use]
    pub fn find(&self, text: &str) -> Option<u32> {
        self.numbers.find(text, |number| self.text(number) == text)
    }

    fn hashed(&mut self, text: &str, hash: u64) -> u32 {
        let (texts, ends) = (&self.texts, &self.ends);
        let new = ends.len() as u32;
        let number = self
            .numbers
            .placed(hash, new, |number| word(texts, ends, number) == text);
        if number == new {
            self.texts.push_str(text);
            self.ends.push(self.texts.len() as u32);
        }
        number
    }

    /// The text of a number.
    #[must_use]
    pub fn text(&self, number: u32) -> &str {
        word(&self.texts, &self.ends, number)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.ends.len()
    }
}

fn word<'t>(texts: &'t str, ends: &[u32], number: u32) -> &'t str {
    let number = number as usize;
    let start = number.checked_sub(1).and_then(|before| ends.get(before));
    let end = ends.get(number).copied().unwrap_or_default();
    texts
        .get(start.copied().unwrap_or_default() as usize..end as usize)
        .unwrap_or_default()
}

/// What stands for things that live in places of their own, by those: most rules share their ends, and comparing addresses spares
/// comparing names. Nobody chooses where the allocator puts things, so no secret is in the hash.
#[derive(Debug, Default)]
pub struct Addresses {
    /// Address and number; 0: nobody. Half full at most.
    places: Vec<(usize, u32)>,
    count: usize,
}

impl Addresses {
    /// The number of a thing. `new`: which it gets if it has none.
    pub fn number<T>(&mut self, thing: &Arc<T>, new: impl FnOnce() -> u32) -> u32 {
        let address = Arc::as_ptr(thing).addr();
        if (self.count + 1) * 2 > self.places.len() {
            self.grow();
        }
        let at = self.find(address);
        match self.places.get_mut(at) {
            Some((known, number)) if *known == address => *number,
            Some(place) => {
                let new = new();
                *place = (address, new);
                self.count += 1;
                new
            }
            None => new(),
        }
    }

    /// Where an address stands, or has room to stand.
    fn find(&self, address: usize) -> usize {
        let mask = self.places.len().wrapping_sub(1);
        let mut at = (address as u64)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(24) as usize
            & mask;
        while let Some((known, _)) = self.places.get(at) {
            if *known == 0 || *known == address {
                break;
            }
            at = (at + 1) & mask;
        }
        at
    }

    fn grow(&mut self) {
        let len = (self.places.len() * 2).max(64);
        let before = std::mem::replace(&mut self.places, vec![(0, 0); len]);
        for place in before.into_iter().filter(|(address, _)| *address != 0) {
            let at = self.find(place.0);
            if let Some(free) = self.places.get_mut(at) {
                *free = place;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_have_the_numbers_together_that_they_have_one_by_one() {
        let texts: Vec<String> = (0..3_000).map(|number| format!("w{}", number % 777)).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let (mut one_by_one, mut together) = (Words::default(), Words::default());
        let expected: Vec<u32> = texts.iter().map(|text| one_by_one.number(text)).collect();
        let mut numbers = Vec::new();
        together.numbers(&texts, &mut numbers);
        assert_eq!(numbers, expected);
        assert_eq!(together.count(), 777);
        assert_eq!((together.find("w776"), together.find("w777")), (Some(776), None));
        assert_eq!(Words::default().find(""), None);
    }

    #[test]
    fn a_thing_keeps_its_number_whoever_comes() {
        let things: Vec<Arc<u32>> = (0..1_000).map(Arc::new).collect();
        let mut addresses = Addresses::default();
        for turn in 0..2 {
            for thing in &things {
                let number = addresses.number(thing, || {
                    assert_eq!(turn, 0, "it has one");
                    **thing
                });
                assert_eq!(number, **thing);
            }
        }
    }

    #[test]
    fn a_text_has_one_number_and_its_number_is_its_own() {
        let mut words = Words::default();
        let texts: Vec<String> = (0..5_000).map(|number| format!("w{}", number / 2)).collect();
        let numbers: Vec<u32> = texts.iter().map(|text| words.number(text)).collect();
        assert_eq!(words.count(), 2_500);
        for (number, (text, place)) in numbers.iter().zip(texts.iter().zip(0..)) {
            assert_eq!((*number, words.text(*number)), (place / 2, text.as_str()));
        }
        assert_eq!(words.number(""), 2_500);
        assert_eq!(words.text(2_500), "");
    }

    #[test]
    fn things_of_one_hash_are_told_apart() {
        let mut numbers = Numbers::default();
        let things: Vec<u32> = (0..200)
            .map(|new| numbers.placed(u64::MAX, new, |_| false))
            .collect();
        assert_eq!(things, (0..200).collect::<Vec<u32>>());
        assert_eq!(numbers.placed(u64::MAX, 200, |number| number == 77), 77);
    }
}
