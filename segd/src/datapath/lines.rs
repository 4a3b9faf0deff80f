//! The lines of each slot's policy: arrays as large as their policies need, in a map of maps.
//!
//! INVARIANT: an array is made anew only for a slot that nobody reads. While it is in the map of maps the kernel keeps it, pinned or
//! not; the pin is how the next daemon opens it without being allowed to open any map by its number.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};

use segd_common::tables::Line;

use super::{
    Error,
    map::{Map, Maps},
    sys,
};

/// The pin of each slot's lines.
pub const NAMES: [&str; 2] = ["LINES_0", "LINES_1"];

/// The lines in a page, which is what the kernel gives.
const PAGE: usize = 64;
/// What is less than so many lines is not worth a smaller array.
const SMALL: usize = 16 * 1024;

/// The lines of both slots.
#[derive(Debug)]
pub struct Lines {
    outer: Map<u32, u32>,
    /// `None`: there are none, or they cannot be opened.
    slots: [Option<Slot>; 2],
}

#[derive(Debug)]
struct Slot {
    map: Map<u32, Line>,
    lines: usize,
}

impl Lines {
    /// Opens what there is.
    ///
    /// # Errors
    ///
    /// There is no map of maps. A slot's lines that are not pinned are no error: nothing can be read of them.
    pub fn open(maps: &impl Maps) -> Result<Lines, Error> {
        let outer: Map<u32, u32> = Map::open(maps, "LINES")?;
        let mut slots = [None, None];
        for ((number, slot), name) in (0..).zip(&mut slots).zip(NAMES) {
            let held = outer.read(&number)?;
            // Another one than the kernel reads is of no use.
            *slot = maps.find(name).ok().and_then(|fd| {
                let info = sys::info::map_info(fd.as_fd()).ok()?;
                (held == Some(info.id)).then_some(())?;
                let lines = info.max_entries as usize;
                Some(Slot {
                    map: Map::over(name, fd).ok()?,
                    lines,
                })
            });
        }
        Ok(Lines { outer, slots })
    }

    /// Room for some lines in a slot that nobody reads.
    ///
    /// # Errors
    ///
    /// No memory: what was there is still there.
    pub fn make_room(&mut self, slot: u32, lines: usize) -> Result<(), Error> {
        let (Some(name), Some(held)) = (
            NAMES.get(slot as usize & 1),
            self.slots.get_mut(slot as usize & 1),
        ) else {
            return Ok(());
        };
        if held
            .as_ref()
            .is_some_and(|held| lines <= held.lines && held.lines <= (4 * lines).max(SMALL))
        {
            return Ok(());
        }
        // The kernel waits a while when an array takes the place of another: not for each rule that comes.
        let room = (lines + lines / 8 + 1).next_multiple_of(PAGE);
        let failed = |error| {
            Error::system(
                format!("making room for {lines} lines of the policy's tables"),
                error,
            )
        };
        let fd = sys::create_lines(size_of::<Line>() as u32, room as u32).map_err(failed)?;
        let number = fd.as_raw_fd() as u32;
        let map = Map::over(name, fd)?;
        self.outer.write(&slot, &number, 0)?;
        *held = Some(Slot { map, lines: room });
        Ok(())
    }

    /// The array of a slot, to pin it.
    #[must_use]
    pub fn array(&self, slot: u32) -> Option<BorrowedFd<'_>> {
        Some(self.slots.get(slot as usize & 1)?.as_ref()?.map.as_fd())
    }

    /// Lends a slot's lines in place, all there are: a pointer to the first and how many. See [`Map::lend`]. `None`: they cannot be reached.
    ///
    /// # Errors
    ///
    /// They cannot be mapped.
    pub fn lend<R>(&self, slot: u32, work: impl FnOnce(*mut Line, usize) -> R) -> Result<Option<R>, Error> {
        match self.slots.get(slot as usize & 1) {
            Some(Some(held)) => held
                .map
                .lend_all(held.lines, |first| work(first, held.lines))
                .map(Some),
            _ => Ok(None),
        }
    }
}
