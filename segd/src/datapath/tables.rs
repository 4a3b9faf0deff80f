//! Writing a revision: everything of it into the slot that is not in force, then one word.
//!
//! INVARIANT: nothing of the slot in force is touched but when its rules end, which follows the calendar; and the other slot is written only after every program run
//! that might still read it has ended.

use std::{os::fd::BorrowedFd, sync::Arc, thread::JoinHandle};

use segd_common::{
    config::{Active, Trial},
    tables::{Line, PolicyTables, Shape},
    workload::{Edge, EdgeKey, MAX_UNIT_PATTERNS, NAME_LEN, UnitPattern, UnitPatterns},
};

use super::{
    Error,
    lines::Lines,
    map::{Map, Maps},
    sys,
};
use crate::{
    policy::compiled::{CompiledTables, Moment, zeroed_tables},
    workload::selector::{SelectorEdges, SelectorTables},
};

/// The name of a segment index, zero-padded.
type NameBytes = [u8; 64];

/// The tables of both slots.
pub struct Tables {
    active: Map<u32, Active>,
    trial: Map<u32, Trial>,
    policy: Map<u32, PolicyTables>,
    lines: Lines,
    edges: Map<EdgeKey, Edge>,
    /// By slot, the edges that this daemon wrote there last, if it did: what is there already need not be read to be known.
    written_edges: [Option<Arc<SelectorEdges>>; 2],
    patterns: Map<u32, UnitPatterns>,
    names: Map<u32, NameBytes>,
    settling: Option<JoinHandle<std::io::Result<()>>>,
}

impl Tables {
    /// Opens the tables.
    ///
    /// # Errors
    ///
    /// A map that cannot be opened.
    pub fn open(maps: &impl Maps) -> Result<Tables, Error> {
        Ok(Tables {
            active: Map::open(maps, "ACTIVE")?,
            trial: Map::open(maps, "TRIAL")?,
            policy: Map::open(maps, "POLICY")?,
            lines: Lines::open(maps)?,
            edges: Map::open(maps, "EDGES")?,
            written_edges: [None, None],
            patterns: Map::open(maps, "UNIT_PATTERNS")?,
            names: Map::open(maps, "NAMES")?,
            settling: None,
        })
    }

    /// Begins to wait until nobody reads what was in force before the last flip, which was another daemon's: there is none any more.
    /// A word on trial may still become another by itself, and is waited for when that is known.
    pub fn begin_to_settle(&mut self) -> Result<(), Error> {
        if !self.active()?.is_on_trial() {
            self.settling = Some(std::thread::spawn(sys::wait_for_programs));
        }
        Ok(())
    }

    /// The word that packets read first: what is in force, or on trial; revision 0 if nothing is.
    pub fn active(&self) -> Result<Active, Error> {
        Ok(self.active.read(&0)?.unwrap_or_default())
    }

    /// The revision whose tables were written to a slot last, whether they came into force or not.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn written(&self, slot: u32) -> Result<u32, Error> {
        // SAFETY: a field of the element; volatile, because the map is shared memory.
        self.policy.lend(slot, |tables| unsafe {
            (&raw const (*tables).revision).read_volatile()
        })
    }

    /// The trial that [`Tables::active`] is about, or the last there was.
    pub fn trial(&self) -> Result<Trial, Error> {
        Ok(self.trial.read(&0)?.unwrap_or_default())
    }

    /// Makes room for the tables of a revision in a slot that is not in force.
    ///
    /// # Errors
    ///
    /// No memory. The slot is as it was.
    pub fn make_room(&mut self, slot: u32, tables: &CompiledTables) -> Result<(), Error> {
        self.lines.make_room(slot, tables.kernel_lines())
    }

    /// Writes everything of a revision but the workloads into a slot that is not in force. `now`: by which its rules end.
    ///
    /// # Errors
    ///
    /// A write that failed. The policy in force is untouched; the slot may hold anything.
    pub fn write(
        &mut self,
        slot: u32,
        revision: u32,
        tables: &CompiledTables,
        selectors: &SelectorTables,
        now: Moment,
    ) -> Result<(), Error> {
        let lines = self.lines.lend(slot, |lines, len| {
            // SAFETY: there are so many; plain integers, and nobody reads this slot: it is not in force, and `settle` was waited for.
            let lines = unsafe { std::slice::from_raw_parts_mut(lines, len) };
            if len < tables.kernel_lines() {
                return Ok(false);
            }
            self.policy.lend(slot, |room| {
                // SAFETY: as above.
                tables.fill(revision, now, unsafe { &mut *room }, lines);
            })?;
            Ok(true)
        })?;
        if !lines.transpose()?.unwrap_or_default() {
            return Err(Error::Refused {
                operation: "writing the policy's tables".to_owned(),
                message: "no room was made for them".to_owned(),
            });
        }
        self.write_selectors(slot, selectors)
    }

    /// Says again when the rules of a slot end, in force or not: the calendar was put right.
    ///
    /// # Errors
    ///
    /// The tables cannot be reached.
    pub fn write_ends(&self, slot: u32, tables: &CompiledTables, now: Moment) -> Result<(), Error> {
        let shape = tables.kernel_shape();
        let written = self.words(slot, shape.ends, shape.ending, |first, count| {
            for (rule, end) in tables.ends(now).take(count).enumerate() {
                // SAFETY: there are so many; volatile, because the kernel programs read them meanwhile.
                unsafe { first.add(rule).write_volatile(end) };
            }
        })?;
        written.ok_or_else(|| Error::Refused {
            operation: "writing when rules end".to_owned(),
            message: "the pin of the tables' lines is gone".to_owned(),
        })
    }

    /// Lends numbers of a slot that begin with a line: a pointer to the first and how many there are. `None`: they cannot be reached.
    fn words<R>(
        &self,
        slot: u32,
        line: u32,
        count: u32,
        work: impl FnOnce(*mut u64, usize) -> R,
    ) -> Result<Option<R>, Error> {
        self.lines.lend(slot, |lines, len| {
            let words = len.saturating_sub(line as usize) * (size_of::<Line>() / size_of::<u64>());
            let first = lines.wrapping_add(line as usize).cast::<u64>();
            work(first, words.min(count as usize))
        })
    }

    /// The array with a slot's lines, to pin it.
    #[must_use]
    pub fn array(&self, slot: u32) -> Option<BorrowedFd<'_>> {
        self.lines.array(slot)
    }

    fn write_selectors(&mut self, slot: u32, selectors: &SelectorTables) -> Result<(), Error> {
        self.write_edges(slot, &selectors.edges)?;
        let mut patterns = UnitPatterns {
            len: 0,
            patterns: [UnitPattern::NONE; MAX_UNIT_PATTERNS],
        };
        for (to, from) in patterns.patterns.iter_mut().zip(&selectors.patterns) {
            *to = *from;
            patterns.len += 1;
        }
        self.patterns.write(&slot, &patterns, 0).map(drop)
    }

    /// Writes the edges that differ from those that were written last. Another daemon's are looked at one by one.
    fn write_edges(&mut self, slot: u32, edges: &Arc<SelectorEdges>) -> Result<(), Error> {
        let Some(written) = self.written_edges.get_mut(slot as usize & 1) else {
            return Ok(());
        };
        let entry = |(state, name): (u32, [u8; NAME_LEN])| EdgeKey { slot, state, name };
        // What is there is not known any more, if a write fails.
        match written.take() {
            Some(before) if Arc::ptr_eq(&before, edges) => {}
            Some(before) => {
                // First, to make room for what is new.
                for key in before.keys().filter(|key| !edges.contains_key(*key)) {
                    self.edges.remove(&entry(*key))?;
                }
                let differ = edges.iter().filter(|(key, edge)| before.get(*key) != Some(*edge));
                let differ: Vec<(EdgeKey, Edge)> = differ.map(|(key, edge)| (entry(*key), *edge)).collect();
                self.edges.write_all(&differ)?;
            }
            None => {
                let wanted = edges.iter().map(|(key, edge)| (entry(*key), *edge)).collect();
                self.edges.bring_to(&wanted, &|key: &EdgeKey| key.slot == slot)?;
            }
        }
        *written = Some(Arc::clone(edges));
        Ok(())
    }

    /// Puts a complete slot in force until a trial is over: then the kernel itself puts back what was before.
    /// [`Tables::settle`] was waited for, so nobody reads the record of a trial before this one.
    ///
    /// # Errors
    ///
    /// A write failed: the old policy stays.
    pub fn try_out(&mut self, active: Active, trial: &Trial) -> Result<(), Error> {
        self.trial.write(&0, trial, 0)?;
        self.flip(active.on_trial())
    }

    /// Whether a slot holds just what a revision is made of, the workloads and the ends of its rules aside.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn holds(
        &self,
        slot: u32,
        revision: u32,
        tables: &CompiledTables,
        selectors: &SelectorTables,
    ) -> Result<bool, Error> {
        let mut wanted = zeroed_tables();
        // When a rule ends is known to the nanosecond to whoever wrote it, and written again by whoever adopts it.
        tables.fill(revision, Moment::FIRST, &mut wanted, &mut []);
        let same = self.policy.lend(slot, |held| {
            // SAFETY: both are whole values of the type, which has no padding, and nobody writes a slot in use.
            unsafe { are_same(held, &raw const *wanted, size_of::<PolicyTables>()) }
        })?;
        let lines = self.lines.lend(slot, |lines, len| {
            // SAFETY: there are so many, and nobody writes those of a slot in use; of what the kernel counts behind them, nothing is looked at.
            len >= tables.kernel_lines()
                && tables
                    .lines
                    .iter()
                    .eq(unsafe { std::slice::from_raw_parts(lines, tables.lines.len()) })
        })?;
        if !same || lines != Some(true) {
            return Ok(false);
        }
        let held = self.edges.entries()?;
        let held: Vec<&(EdgeKey, Edge)> = held.iter().filter(|(key, _)| key.slot == slot).collect();
        let wanted = |key: &EdgeKey| selectors.edges.get(&(key.state, key.name));
        let same = held.iter().all(|(key, edge)| wanted(key) == Some(edge));
        Ok(same && held.len() == selectors.edges.len())
    }

    /// Puts a complete slot in force, and begins to wait until nobody reads the other.
    ///
    /// # Errors
    ///
    /// The write failed: the old policy stays.
    pub fn flip(&mut self, active: Active) -> Result<(), Error> {
        // What was written in place is visible before the word that names it.
        std::sync::atomic::fence(std::sync::atomic::Ordering::Release);
        self.active.write(&0, &active, 0)?;
        // Off the thread that handles events: a grace period takes milliseconds.
        self.settling = Some(std::thread::spawn(sys::wait_for_programs));
        Ok(())
    }

    /// Waits until no program run reads what was in force before the last flip.
    ///
    /// # Errors
    ///
    /// The kernel cannot wait (`nohz_full`): then a slot that may still be read must not be written.
    pub fn settle(&mut self) -> Result<(), Error> {
        let waited = match self.settling.take() {
            Some(waiting) => waiting.join().unwrap_or_else(|_| sys::wait_for_programs()),
            // The daemon before this one flipped last, perhaps a moment ago.
            None => sys::wait_for_programs(),
        };
        waited.map_err(|error| Error::system("waiting for an RCU grace period (membarrier)", error))
    }

    /// How often each rule decided, by its number in the slot that holds these tables; none if that cannot be told.
    pub fn hits(&self, slot: u32, tables: &CompiledTables) -> Result<Vec<u64>, Error> {
        let Shape { hits, rules, .. } = tables.kernel_shape();
        let read = self.words(slot, hits, rules, |first, count| {
            // SAFETY: there are so many; volatile, because the kernel counts meanwhile.
            (0..count)
                .map(|number| unsafe { first.add(number).read_volatile() })
                .collect()
        })?;
        Ok(read.unwrap_or_default())
    }

    /// The names of indexes that an earlier daemon gave out.
    pub fn names(&self) -> Result<Vec<(u16, String)>, Error> {
        let mut names = Vec::new();
        for (index, bytes) in self.names.entries()? {
            let name: Vec<u8> = bytes.into_iter().take_while(|byte| *byte != 0).collect();
            if !name.is_empty() {
                names.push((index as u16, String::from_utf8_lossy(&name).into_owned()));
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Notes the name of an index, or that it is free.
    pub fn note_name(&self, index: u16, name: &str) -> Result<(), Error> {
        if name.is_empty() {
            return self.names.remove(&u32::from(index));
        }
        let mut bytes = [0; 64];
        for (to, from) in bytes.iter_mut().zip(name.bytes()) {
            *to = from;
        }
        self.names.write(&u32::from(index), &bytes, 0).map(drop)
    }
}

/// Whether two objects have the same bytes.
///
/// # Safety
///
/// Both are live, have so many bytes and no padding, and nobody writes to them.
unsafe fn are_same<T>(one: *const T, other: *const T, len: usize) -> bool {
    // SAFETY: the caller's.
    unsafe { libc::memcmp(one.cast(), other.cast(), len) == 0 }
}
