//! Reading the kernel's counts, summed over CPUs.

use std::collections::BTreeMap;

use segd_common::counter::{Counter, CounterKey, Tally, stat};

use super::{
    Error, kernel,
    map::{Map, Maps},
};

/// The counters.
#[derive(Debug)]
pub struct Counters {
    cpus: usize,
    counters: Map<CounterKey, Counter>,
    tally_keys: Map<u32, CounterKey>,
    tallies: Map<u32, Tally>,
    other: Map<u32, Counter>,
    stats: Map<u32, u64>,
}

/// All counts at one moment.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// By segment pair, outcome and reason.
    pub counters: Vec<(CounterKey, Counter)>,
    /// What did not fit.
    pub other: Counter,
    /// Events that the ring had no room for, or that the kernel's limiter held back.
    pub events_lost: u64,
    /// Newborn cgroups that did not fit.
    pub cgroups_lost: u64,
}

impl Counters {
    /// Opens the counters.
    ///
    /// # Errors
    ///
    /// A map that cannot be opened.
    pub fn open(maps: &impl Maps) -> Result<Counters, Error> {
        Ok(Counters {
            cpus: kernel::possible_cpus()?,
            counters: Map::open(maps, "COUNTERS")?,
            tally_keys: Map::open(maps, "TALLY_KEYS")?,
            tallies: Map::open(maps, "TALLIES")?,
            other: Map::open(maps, "COUNTERS_OTHER")?,
            stats: Map::open(maps, "STATS")?,
        })
    }

    /// How many different counters there are.
    pub fn used(&self) -> Result<usize, Error> {
        Ok(self.counters.keys()?.len())
    }

    /// Reads everything.
    pub fn read(&self) -> Result<Counts, Error> {
        let mut counts = Counts::default();
        let mut counters = BTreeMap::new();
        for key in self.counters.keys()? {
            counters.insert(key, sum(&self.counters.read_per_cpu(&key, self.cpus)?));
        }
        for number in self.tally_keys.keys()? {
            let Some(key) = self.tally_keys.read(&number)? else {
                continue;
            };
            // A counter that did not fit may have a tally all the same.
            let counter: &mut Counter = counters.entry(key).or_default();
            for tally in self.tallies.read_per_cpu(&number, self.cpus)? {
                counter.packets += tally.packets;
                counter.bytes += tally.bytes;
            }
        }
        counts.counters.extend(counters);
        for outcome in 0..3 {
            let more = sum(&self.other.read_per_cpu(&outcome, self.cpus)?);
            counts.other = sum(&[counts.other, more]);
        }
        let stat =
            |index| -> Result<u64, Error> { Ok(self.stats.read_per_cpu(&index, self.cpus)?.iter().sum()) };
        counts.events_lost = stat(stat::EVENTS_LOST)? + stat(stat::EVENTS_SUPPRESSED)?;
        counts.cgroups_lost = stat(stat::CGROUPS_LOST)?;
        Ok(counts)
    }
}

fn sum(values: &[Counter]) -> Counter {
    values.iter().fold(Counter::default(), |sum, value| Counter {
        packets: sum.packets + value.packets,
        bytes: sum.bytes + value.bytes,
        flows: sum.flows + value.flows,
        revoked: sum.revoked + value.revoked,
    })
}
