//! Chance with a seed that is printed, so that a run can be repeated.

use std::time::{SystemTime, UNIX_EPOCH};

/// A generator of small numbers.
#[derive(Debug)]
pub struct Chance(u64);

impl Chance {
    /// Seeded by `SEGD_SEED`, else by the clock; says which.
    ///
    /// # Panics
    /// When the clock is before 1970.
    #[must_use]
    pub fn new(what: &str) -> Chance {
        let given = std::env::var("SEGD_SEED").ok().and_then(|seed| seed.parse().ok());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
        let seed = given.unwrap_or(u64::from(now.subsec_nanos()));
        println!("{what}: SEGD_SEED={seed}");
        Chance(seed | 1)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        // xorshift64 (Marsaglia, 2003).
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}
