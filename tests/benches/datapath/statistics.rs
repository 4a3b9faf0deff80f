//! From rounds to figures: medians of what was paired within a round, and how far they may be off (bootstrap, 95 %).

use serde::Serialize;

/// How many times the rounds are drawn again.
const RESAMPLES: usize = 1000;

/// A figure with its 95 % interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Estimate {
    /// The figure.
    pub value: f64,
    /// The interval's lower bound.
    pub low: f64,
    /// The interval's upper bound.
    pub high: f64,
    /// How many rounds it stands on.
    pub rounds: usize,
}

impl std::fmt::Display for Estimate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = match self.value.abs() {
            value if value < 10.0 => 3,
            value if value < 1000.0 => 1,
            _ => 0,
        };
        if self.low.is_nan() || (self.low == self.high && self.low == self.value) {
            return write!(f, "{:.digits$}", self.value);
        }
        write!(
            f,
            "{:.digits$} [{:.digits$}, {:.digits$}]",
            self.value, self.low, self.high
        )
    }
}

/// Numbers drawn one after the other from a seed (xorshift64, Marsaglia 2003).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// From a seed.
    pub fn new(seed: u64) -> Dice {
        // Neighbouring seeds must not begin alike; 0 would stay 0.
        Dice(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }

    /// Puts a list into a random order (Fisher-Yates).
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            list.swap(last, self.below(last + 1));
        }
    }

    /// Draws `count` places of a list of `length`, the first ones most often (Zipf with exponent 1).
    pub fn zipf(&mut self, length: usize, count: usize) -> Vec<usize> {
        let mut sums = Vec::with_capacity(length);
        let mut sum = 0.0;
        for rank in 1..=length {
            sum += 1.0 / rank as f64;
            sums.push(sum);
        }
        let draw = |dice: &mut Dice| {
            let at = dice.below(1 << 30) as f64 / f64::from(1 << 30) * sum;
            sums.partition_point(|bound| *bound < at).min(length - 1)
        };
        (0..count).map(|_| draw(self)).collect()
    }
}

/// The median; of an even number the upper one of the middle.
pub fn median(values: &mut [f64]) -> f64 {
    if values.is_empty() {
        return f64::NAN;
    }
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}

/// The value that `percent` of the values do not exceed.
pub fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}

/// A figure made of several medians, each over the same rounds: `of` gets one median per list.
pub fn of_medians(lists: &[Vec<f64>], seed: u64, of: impl Fn(&[f64]) -> f64) -> Estimate {
    let rounds = lists.iter().map(Vec::len).min().unwrap_or(0);
    if rounds == 0 {
        return Estimate {
            value: f64::NAN,
            low: f64::NAN,
            high: f64::NAN,
            rounds,
        };
    }
    let mut medians: Vec<f64> = lists
        .iter()
        .map(|list| median(&mut list[..rounds].to_vec()))
        .collect();
    let value = of(&medians);
    let mut dice = Dice::new(seed);
    let mut drawn = vec![0; rounds];
    let mut scratch = vec![0.0; rounds];
    let mut values: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            drawn.fill_with(|| dice.below(rounds));
            for (list, median_of) in lists.iter().zip(&mut medians) {
                for (to, from) in scratch.iter_mut().zip(&drawn) {
                    *to = list[*from];
                }
                *median_of = median(&mut scratch);
            }
            of(&medians)
        })
        .collect();
    values.sort_by(f64::total_cmp);
    Estimate {
        value,
        low: values[RESAMPLES * 25 / 1000],
        high: values[RESAMPLES * 975 / 1000],
        rounds,
    }
}

/// The median of one list.
pub fn of_one(list: Vec<f64>, seed: u64) -> Estimate {
    of_medians(&[list], seed, |medians| medians[0])
}

/// A percentile with its interval: the rounds are drawn again as for a median.
pub fn of_percentile(list: &[f64], percent: usize, seed: u64) -> Estimate {
    if list.is_empty() {
        return of_one(Vec::new(), seed);
    }
    let mut dice = Dice::new(seed);
    let mut values: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let drawn: Vec<f64> = list.iter().map(|_| list[dice.below(list.len())]).collect();
            percentile(&drawn, percent)
        })
        .collect();
    values.sort_by(f64::total_cmp);
    Estimate {
        value: percentile(list, percent),
        low: values[RESAMPLES * 25 / 1000],
        high: values[RESAMPLES * 975 / 1000],
        rounds: list.len(),
    }
}
