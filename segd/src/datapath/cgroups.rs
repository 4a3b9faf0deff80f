//! The tags of cgroups.

use segd_common::workload::{CgroupEntry, CgroupSlot};

use super::{
    Error,
    map::{EXISTING, Map, Maps, NEW},
};

/// In place of what the kernel programs write when a newborn did not fit; not 0 either, so what is unknown stays denied.
const AWAITED: u64 = 2;

/// What a cgroup is beside its slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its id.
    pub id: u64,
    /// Its parent's.
    pub parent: u64,
    /// The length of its path.
    pub path_len: u16,
    /// `CGROUP_` flags.
    pub flags: u16,
}

/// All tagged cgroups.
#[derive(Debug)]
pub struct Cgroups {
    map: Map<u64, CgroupEntry>,
    full: Map<u32, u64>,
}

impl Cgroups {
    /// Opens the table.
    ///
    /// # Errors
    ///
    /// A map that cannot be opened.
    pub fn open(maps: &impl Maps) -> Result<Cgroups, Error> {
        Ok(Cgroups {
            map: Map::open(maps, "CGROUPS")?,
            full: Map::open(maps, "CGROUPS_FULL")?,
        })
    }

    /// A cgroup's entry.
    pub fn read(&self, id: u64) -> Result<Option<CgroupEntry>, Error> {
        self.map.read(&id)
    }

    /// The ids of all cgroups, dying ones included.
    pub fn ids(&self) -> Result<Vec<u64>, Error> {
        self.map.keys()
    }

    /// Tags a cgroup in one slot. One that was released meanwhile stays gone.
    ///
    /// # Errors
    ///
    /// The table is full, or the write failed.
    pub fn tag(&self, place: Place, slot: u32, tag: CgroupSlot) -> Result<(), Error> {
        loop {
            let known = self.map.read(&place.id)?;
            let mut entry = known.unwrap_or_default();
            if let Some(to) = entry.slots.get_mut(slot as usize & 1) {
                *to = tag;
            }
            entry.parent = place.parent;
            entry.path_len = place.path_len;
            entry.flags = place.flags;
            let (flags, was_known) = if known.is_some() {
                (EXISTING, true)
            } else {
                (NEW, false)
            };
            if self.map.write(&place.id, &entry, flags)? || was_known {
                return Ok(());
            }
            // Born between the look and the write: look again.
        }
    }

    /// Changes a cgroup's slots in place, if it is still there.
    pub fn change(&self, id: u64, change: impl FnOnce(&mut CgroupEntry)) -> Result<(), Error> {
        let Some(mut entry) = self.map.read(&id)? else {
            return Ok(());
        };
        change(&mut entry);
        self.map.write(&id, &entry, EXISTING).map(drop)
    }

    /// Removes a cgroup.
    pub fn remove(&self, id: u64) -> Result<(), Error> {
        self.map.remove(&id)
    }

    /// Whether a newborn did not fit.
    pub fn overflowed(&self) -> Result<bool, Error> {
        Ok(self.full.read(&0)?.unwrap_or(0) != 0)
    }

    /// Before every cgroup is put into the table: from here on it would show if one did not fit again.
    pub fn await_overflow(&self) -> Result<(), Error> {
        self.full.write(&0, &AWAITED, 0).map(drop)
    }

    /// Says that every cgroup is in the table again, if none was lost since [`Cgroups::await_overflow`].
    pub fn clear_overflow(&self) -> Result<(), Error> {
        if self.full.read(&0)? == Some(AWAITED) {
            self.full.write(&0, &0, 0)?;
        }
        Ok(())
    }
}
