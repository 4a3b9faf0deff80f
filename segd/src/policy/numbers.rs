//! Things found by a hash of them: what is asked for every rule is asked a million times.
//!
//! Deliberately absent: a way to go through them. So no order comes out of here, whatever is hashed.

use std::hash::{BuildHasher as _, Hash, RandomState};

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
        let (texts, ends) = (&self.texts, &self.ends);
        let new = ends.len() as u32;
        let number = self
            .numbers
            .number(text, new, |number| word(texts, ends, number) == text);
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

#[cfg(test)]
mod tests {
    use super::*;

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
