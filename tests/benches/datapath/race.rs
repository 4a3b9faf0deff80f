//! Arms that take turns: in each round every arm does one slice, in random order. What is compared was measured within
//! one round.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{
    machine::stolen,
    runner::{Runner, Slice},
    statistics::{Dice, Estimate, median, of_medians, of_one},
};

/// A round in which the hypervisor took more than this many ticks (1/100 s) from the CPU does not count. Chosen before any
/// figure was seen; a round takes some hundredths of a second.
pub const STOLEN_TICKS: u64 = 0;

/// One arm.
#[derive(Debug)]
pub struct Arm<'a> {
    /// Its name.
    pub name: String,
    /// Its process: an index into the runners of the race.
    pub runner: usize,
    /// What it does there.
    pub work: &'a str,
}

/// What was measured.
#[derive(Clone, Debug, Default)]
pub struct Race {
    /// CPU time of one operation, by arm, one value for each round.
    cpu: BTreeMap<String, Vec<f64>>,
    wall: BTreeMap<String, Vec<f64>>,
    seed: u64,
    /// Rounds that do not count.
    pub dropped: usize,
    /// Why it was given up, if it was.
    pub failed: Option<String>,
}

/// For how long.
#[derive(Clone, Copy, Debug)]
pub struct Length {
    /// The time.
    pub time: Duration,
    /// But at least this many rounds.
    pub rounds: usize,
}

/// Lets the arms take turns.
pub fn run(runners: &mut [Runner], arms: &[Arm<'_>], cpu: usize, length: Length, seed: u64) -> Race {
    let mut race = Race {
        seed,
        ..Race::default()
    };
    let mut dice = Dice::new(seed);
    let mut order: Vec<usize> = (0..arms.len()).collect();
    // The first round warms up and does not count.
    let (start, mut round) = (Instant::now(), 0);
    while round <= length.rounds || start.elapsed() < length.time {
        dice.shuffle(&mut order);
        let before = stolen(cpu);
        let mut slices = vec![Slice::default(); arms.len()];
        for arm in &order {
            let Arm { name, runner, work } = &arms[*arm];
            match runners[*runner].slice(work) {
                Ok(slice) => slices[*arm] = slice,
                Err(error) => {
                    race.failed = Some(format!("arm `{name}`: {error}"));
                    return race;
                }
            }
        }
        round += 1;
        if stolen(cpu) - before > STOLEN_TICKS {
            race.dropped += 1;
        } else if round > 1 {
            for (arm, slice) in arms.iter().zip(&slices) {
                race.cpu
                    .entry(arm.name.clone())
                    .or_default()
                    .push(slice.cpu_each());
                race.wall
                    .entry(arm.name.clone())
                    .or_default()
                    .push(slice.wall_each());
            }
        }
        // A machine that is always stolen from gives no figure, and says so.
        if round > 20 && race.dropped * 10 > round * 9 && start.elapsed() > length.time {
            race.failed = Some("the hypervisor took time from nearly every round".to_owned());
            return race;
        }
    }
    race
}

impl Race {
    fn list(&self, arm: &str) -> &[f64] {
        self.cpu.get(arm).map_or(&[], Vec::as_slice)
    }

    /// Whether an arm ran.
    pub fn has(&self, arm: &str) -> bool {
        self.failed.is_none() && self.cpu.contains_key(arm)
    }

    fn pairs(&self, arm: &str, base: &str, of: impl Fn(f64, f64) -> f64) -> Vec<f64> {
        let pairs = self.list(arm).iter().zip(self.list(base));
        pairs.map(|(arm, base)| of(*arm, *base)).collect()
    }

    /// CPU time of one operation.
    pub fn time(&self, arm: &str) -> Estimate {
        of_one(self.list(arm).to_vec(), self.seed)
    }

    /// The median of the ratios to another arm of the same round.
    pub fn ratio(&self, arm: &str, base: &str) -> Estimate {
        of_one(self.pairs(arm, base, |arm, base| arm / base), self.seed)
    }

    /// How much the arm gets done in the time of the other: the median of the ratios the other way round.
    pub fn inverse_ratio(&self, arm: &str, base: &str) -> Estimate {
        of_one(self.pairs(arm, base, |arm, base| base / arm), self.seed)
    }

    /// The same by the time that passed.
    pub fn wall_ratio(&self, arm: &str, base: &str) -> f64 {
        let (Some(arm), Some(base)) = (self.wall.get(arm), self.wall.get(base)) else {
            return f64::NAN;
        };
        median(
            &mut arm
                .iter()
                .zip(base)
                .map(|(arm, base)| arm / base)
                .collect::<Vec<_>>(),
        )
    }

    /// The differences to another arm by the time that passed, one for each round, of which `share` is told.
    pub fn wall_difference(&self, arm: &str, base: &str, share: f64) -> Vec<f64> {
        let (Some(arm), Some(base)) = (self.wall.get(arm), self.wall.get(base)) else {
            return Vec::new();
        };
        arm.iter()
            .zip(base)
            .map(|(arm, base)| (arm - base) * share)
            .collect()
    }

    /// The median of the differences to another arm of the same round, of which `share` is told.
    pub fn over(&self, arm: &str, base: &str, share: f64) -> Estimate {
        of_one(self.pairs(arm, base, |arm, base| (arm - base) * share), self.seed)
    }

    /// One difference in units of another: `(arm - base) / (unit - unit_base)`.
    pub fn in_units(&self, (arm, base): (&str, &str), (unit, unit_base): (&str, &str)) -> Estimate {
        let lists = [
            self.pairs(arm, base, |arm, base| arm - base),
            self.pairs(unit, unit_base, |unit, base| unit - base),
        ];
        of_medians(&lists, self.seed, |medians| medians[0] / medians[1])
    }
}
