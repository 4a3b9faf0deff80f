//! Hash tables whose entries each stand in one of two lines, so that a look at two lines finds an entry or shows that there is
//! none. Who finds both full pushes another one to its other line.

use super::CompileError;

/// How many percent of its entries a table has in use. Entries that push each other about find a place up to some 96 percent.
const FILLED: usize = 85;
/// How many seeds are tried. One was always enough; what has no place under so many was made not to have one.
const SEEDS: u32 = 32;
/// After so many of them there is more room.
const PATIENCE: u32 = 4;
/// How many entries may be pushed from their place to find one for another.
const PUSHES: u32 = 500;
/// Of how many the lines are read together.
const AT_ONCE: usize = 32;

/// What stands in a table; the default is a free place.
pub trait Entry: Copy + Default {
    /// Whether the place is free.
    fn is_free(&self) -> bool;

    /// The two lines where it may stand.
    fn places(&self, seed: u32, lines: u32) -> [u32; 2];
}

/// A table whose lines have `N` places.
pub struct Table<E, const N: usize> {
    /// What it is hashed with.
    pub seed: u32,
    /// Its lines, at least one.
    pub lines: Vec<[E; N]>,
}

impl<E: Entry, const N: usize> Table<E, N> {
    /// Lays different entries out, the same ones always in the same way.
    ///
    /// # Errors
    ///
    /// They find no place.
    pub fn of(entries: &[E]) -> Result<Table<E, N>, CompileError> {
        let mut lines = (entries.len() * 100).div_ceil(FILLED * N).max(1);
        for seed in 0..SEEDS {
            if let Some(lines) = place_all(entries, seed, lines) {
                return Ok(Table { seed, lines });
            }
            if seed % PATIENCE == PATIENCE - 1 {
                lines += lines / 8 + 1;
            }
        }
        Err(CompileError::NoPlace {
            entries: entries.len(),
        })
    }
}

fn place_all<E: Entry, const N: usize>(entries: &[E], seed: u32, lines: usize) -> Option<Vec<[E; N]>> {
    let count = u32::try_from(lines).ok()?;
    let mut lines = vec![[E::default(); N]; lines];
    let mut turn = 0_usize;
    for entries in entries.chunks(AT_ONCE) {
        // The lines of many are waited for at once.
        let places = entries.iter().flat_map(|entry| entry.places(seed, count));
        let lines_of = |place: u32| lines.get(place as usize).and_then(|line| line.first());
        let touched = places.filter(|place| lines_of(*place).is_some_and(Entry::is_free));
        std::hint::black_box(touched.count());
        place_some(entries, (seed, count), &mut lines, &mut turn)?;
    }
    Some(lines)
}

fn place_some<E: Entry, const N: usize>(
    entries: &[E],
    (seed, count): (u32, u32),
    lines: &mut [[E; N]],
    turn: &mut usize,
) -> Option<()> {
    'entries: for entry in entries {
        let mut carried = *entry;
        for _ in 0..PUSHES {
            let places = carried.places(seed, count);
            for place in places {
                let mut room = lines.get_mut(place as usize)?.iter_mut();
                if let Some(free) = room.find(|entry| entry.is_free()) {
                    *free = carried;
                    continue 'entries;
                }
            }
            // Whom to push: not always the same one, or two would push each other for ever.
            *turn = turn.wrapping_mul(0x9e37_79b1).wrapping_add(0x7f4a_7c15);
            let place = places.get(*turn >> 20 & 1).copied()?;
            let line = lines.get_mut(place as usize)?;
            std::mem::swap(line.get_mut((*turn >> 21) % N)?, &mut carried);
        }
        return None;
    }
    Some(())
}
