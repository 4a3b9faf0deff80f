//! Taking over from maps of other layouts what nobody else knows: which cgroup was in which segment, the removed ones
//! whose sockets live included. Without it an orphan would become `host`.

use std::os::fd::{AsFd as _, OwnedFd};

use segd_common::{
    config::{Active, Trial},
    workload::{CGROUP_UNTRUSTED, CgroupEntry, CgroupSlot, Identity, STATE_NONE},
};

use super::{
    Error,
    manifest::{self, CgroupsLayout},
    map::{Map, NEW},
    pins::Pins,
    sys::{self, ElementCommand, element},
    texts,
};

/// The size of a name in `NAMES`.
const NAME_BYTES: usize = 64;

/// Writes what another set says of cgroups into a set that is not in force yet, under the revision and in the slot that
/// the other has in force. Its policy is not taken over: that slot's tables stay empty, and nothing judges by them.
///
/// How many cgroups; `None` if the other set does not say where it keeps them.
///
/// # Errors
///
/// A map that cannot be read or written.
pub fn carry(from: &Pins, to: &Pins) -> Result<Option<usize>, Error> {
    let layout = manifest::cgroups(from);
    let (Some(layout), Some(active), Some(cgroups)) =
        (layout, Raw::find(from, "ACTIVE")?, Raw::find(from, "CGROUPS")?)
    else {
        return Ok(None);
    };
    let word = active.read(&0_u32.to_ne_bytes())?.and_then(|value| at(&value, 0));
    let mut active = Active {
        word: word.map_or(0, u64::from_ne_bytes),
    };
    if active.is_on_trial() {
        // Another layout cannot go on with it, so this ends it, by the policy before.
        let trial = Raw::find(from, "TRIAL")?;
        let before = trial
            .map(|trial| trial.read(&0_u32.to_ne_bytes()))
            .transpose()?
            .flatten();
        let before = before.and_then(|value| at(&value, std::mem::offset_of!(Trial, before)));
        active.word = before.map_or(0, u64::from_ne_bytes);
    }
    if active.revision() == 0 {
        return Ok(Some(0));
    }
    carry_names(from, to)?;
    let entries: Map<u64, CgroupEntry> = Map::open(to, "CGROUPS")?;
    let mut count = 0;
    for key in cgroups.keys()? {
        let (Some(value), Some(id)) = (cgroups.read(&key)?, at(&key, 0)) else {
            continue;
        };
        if let Some(entry) = translate(&value, layout, active) {
            entries.write(&u64::from_ne_bytes(id), &entry, NEW)?;
            count += 1;
        }
    }
    let flipped: Map<u32, Active> = Map::open(to, "ACTIVE")?;
    flipped.write(&0, &active, 0)?;
    Ok(Some(count))
}

/// What another set's slot was made from, if it keeps texts as this build does.
#[must_use]
pub fn text_of(from: &Pins, slot: u32) -> Option<Vec<u8>> {
    let pin = from.maps.join(texts::NAMES.get(slot as usize)?);
    texts::read(&sys::open_pin(&pin).ok()?).ok()?
}

fn carry_names(from: &Pins, to: &Pins) -> Result<(), Error> {
    // Without names, what is carried is in segments that no policy claims: denied.
    let Some(names) = Raw::find(from, "NAMES")? else {
        return Ok(());
    };
    let here: Map<u32, [u8; NAME_BYTES]> = Map::open(to, "NAMES")?;
    for index in names.keys()? {
        let name = names.read(&index)?.and_then(|value| at::<NAME_BYTES>(&value, 0));
        if let (Some(index), Some(name)) = (at(&index, 0), name.filter(|name| *name != [0; NAME_BYTES])) {
            here.write(&u32::from_ne_bytes(index), &name, 0)?;
        }
    }
    Ok(())
}

/// An entry of this build's from another's.
fn translate(value: &[u8], layout: CgroupsLayout, active: Active) -> Option<CgroupEntry> {
    let word = |offset: usize| at(value, offset).map(u16::from_ne_bytes);
    let slot = usize::from(layout.slots) + usize::from(layout.stride) * active.slot() as usize;
    let entry_flags = word(layout.entry_flags.into())?;
    let mut entry = CgroupEntry {
        parent: at(value, layout.parent.into()).map(u64::from_ne_bytes)?,
        flags: if entry_flags & layout.untrusted != 0 {
            CGROUP_UNTRUSTED
        } else {
            0
        },
        ..CgroupEntry::default()
    };
    *entry.slots.get_mut(active.slot() as usize)? = CgroupSlot {
        identity: Identity {
            segment: word(slot + usize::from(layout.segment))?,
            flags: word(slot + usize::from(layout.flags))?,
        },
        revision: active.revision(),
        state: STATE_NONE,
        ..CgroupSlot::default()
    };
    Some(entry)
}

/// The bytes at an offset.
fn at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.get(..N)?.try_into().ok()
}

/// A map whose keys and values have the sizes that the kernel says.
struct Raw {
    name: &'static str,
    fd: OwnedFd,
    key: usize,
    value: usize,
}

impl Raw {
    fn find(pins: &Pins, name: &'static str) -> Result<Option<Raw>, Error> {
        let failed = |error| Error::system(format!("looking at the map `{name}` of another layout"), error);
        let Some(fd) = manifest::find(pins, name) else {
            return Ok(None);
        };
        let info = sys::info::map_info(fd.as_fd()).map_err(failed)?;
        Ok(Some(Raw {
            name,
            fd,
            key: info.key_size as usize,
            value: info.value_size as usize,
        }))
    }

    fn run(&self, command: ElementCommand, key: Option<&[u8]>, out: usize) -> Result<Option<Vec<u8>>, Error> {
        let mut result = vec![0_u8; out];
        let key = key.filter(|key| key.len() == self.key);
        let key = key.map_or(std::ptr::null(), <[u8]>::as_ptr);
        // SAFETY: the key has the map's size or is none; the result has room for what the command writes.
        let found =
            unsafe { element(command, self.fd.as_fd(), key, result.as_mut_ptr(), 0) }.map_err(|error| {
                Error::system(
                    format!("reading the map `{}` of another layout", self.name),
                    error,
                )
            })?;
        Ok(found.then_some(result))
    }

    fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        if key.len() != self.key {
            return Ok(None);
        }
        self.run(ElementCommand::Lookup, Some(key), self.value)
    }

    fn keys(&self) -> Result<Vec<Vec<u8>>, Error> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        while let Some(next) = self.run(ElementCommand::NextKey, keys.last().map(Vec::as_slice), self.key)? {
            keys.push(next);
        }
        Ok(keys)
    }
}

#[cfg(test)]
mod tests {
    use segd_common::workload::ORPHANED;

    use super::*;

    #[test]
    fn reads_the_slot_in_force_of_a_layout_it_does_not_know() {
        let layout = CgroupsLayout {
            slots: 16,
            stride: 24,
            segment: 4,
            flags: 8,
            parent: 8,
            entry_flags: 70,
            untrusted: 0x80,
            reserved: 0,
        };
        let mut value = vec![0xff_u8; 80];
        value[8..16].copy_from_slice(&77_u64.to_ne_bytes());
        value[16 + 24 + 4..][..2].copy_from_slice(&9_u16.to_ne_bytes());
        value[16 + 24 + 8..][..2].copy_from_slice(&ORPHANED.to_ne_bytes());
        value[70..72].copy_from_slice(&0x80_u16.to_ne_bytes());
        let entry = translate(&value, layout, Active::new(5, 1)).expect("it is long enough");
        assert_eq!((entry.parent, entry.flags), (77, CGROUP_UNTRUSTED));
        let slot = entry.slots[1];
        assert_eq!(
            (slot.identity.segment, slot.identity.flags, slot.revision),
            (9, ORPHANED, 5)
        );
        assert_eq!(entry.slots[0], CgroupSlot::default());
        assert!(
            translate(&value[..60], layout, Active::new(5, 1)).is_none(),
            "cut short"
        );
    }
}
