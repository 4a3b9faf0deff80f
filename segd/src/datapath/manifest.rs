//! What a set of pinned maps says of itself, in a form that no version of segd changes.
//!
//! The manifest is pinned when everything else of its set is: a set without one is half made. It names every map by
//! its id, so that a foreign map under one of our names shows, and tells where in a cgroup's entry its segment
//! stands, so that a build with other layouts can read that much.
//!
//! INVARIANT: what format 1 says where is so for ever, and so are the first word of `ACTIVE`, the 64 bytes of a name in
//! `NAMES`, the numbers of the built-in segments, and the bits of `Identity::flags`.

use std::{
    mem::offset_of,
    os::fd::{AsFd as _, OwnedFd},
};

use segd_common::{
    ABI_VERSION,
    workload::{CGROUP_UNTRUSTED, CgroupEntry, CgroupSlot, Identity},
};

use super::{Error, map::Map, object::PINNED, pins::Pins, sys};

/// The name of its pin.
pub const NAME: &str = "MANIFEST";
const MAGIC: u64 = u64::from_le_bytes(*b"segd-set");
const FORMAT: u32 = 1;
/// Room for more maps than there will be.
const ENTRIES: u32 = 128;

/// Element 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
struct Head {
    magic: u64,
    format: u32,
    abi: u32,
    maps: u32,
    reserved: u32,
    cgroups: CgroupsLayout,
    spare: [u32; 6],
}

/// The elements after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
struct Entry {
    name: [u8; 32],
    id: u32,
    key_size: u32,
    value_size: u32,
    spare: [u32; 5],
}

/// Where things stand in a value of `CGROUPS`, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CgroupsLayout {
    /// The first slot.
    pub slots: u16,
    /// From one slot to the next.
    pub stride: u16,
    /// In a slot: the segment, a `u16`.
    pub segment: u16,
    /// In a slot: the identity's flags, a `u16`.
    pub flags: u16,
    /// The parent's id, a `u64`.
    pub parent: u16,
    /// The entry's flags, a `u16`.
    pub entry_flags: u16,
    /// The bit in them that says `CGROUP_UNTRUSTED`.
    pub untrusted: u16,
    /// Explicit padding, zero.
    pub reserved: u16,
}

const _: () = assert!(size_of::<Head>() == 64 && size_of::<Entry>() == 64);

// SAFETY: `repr(C)`, integers only, no padding (asserted above).
unsafe impl aya::Pod for Head {}
// SAFETY: as above.
unsafe impl aya::Pod for Entry {}

/// This build's.
const CGROUPS: CgroupsLayout = CgroupsLayout {
    slots: offset_of!(CgroupEntry, slots) as u16,
    stride: size_of::<CgroupSlot>() as u16,
    segment: (offset_of!(CgroupSlot, identity) + offset_of!(Identity, segment)) as u16,
    flags: (offset_of!(CgroupSlot, identity) + offset_of!(Identity, flags)) as u16,
    parent: offset_of!(CgroupEntry, parent) as u16,
    entry_flags: offset_of!(CgroupEntry, flags) as u16,
    untrusted: CGROUP_UNTRUSTED,
    reserved: 0,
};

/// Whether a set is there at all.
pub fn exists(pins: &Pins) -> bool {
    pins.maps.join(NAME).exists()
}

/// Describes a set that has just been made, and pins the description.
///
/// # Errors
///
/// A map that is not pinned, or the kernel refuses.
pub fn write(pins: &Pins) -> Result<(), Error> {
    let failed = |error| Error::system("describing the pinned maps", error);
    let manifest = sys::create_array(size_of::<Entry>() as u32, ENTRIES).map_err(failed)?;
    let elements: Map<u32, Entry> = Map::over(NAME, manifest.try_clone().map_err(failed)?)?;
    for (number, name) in (1..).zip(PINNED) {
        elements.write(&number, &describe(pins, name)?, 0)?;
    }
    let head = Head {
        magic: MAGIC,
        format: FORMAT,
        abi: ABI_VERSION,
        maps: PINNED.len() as u32,
        cgroups: CGROUPS,
        ..Head::default()
    };
    let first: Map<u32, Head> = Map::over(NAME, manifest.try_clone().map_err(failed)?)?;
    first.write(&0, &head, 0)?;
    sys::pin(manifest.as_fd(), &pins.maps.join(NAME)).map_err(failed)
}

/// A map as it is pinned now.
fn describe(pins: &Pins, name: &str) -> Result<Entry, Error> {
    let pin = pins.maps.join(name);
    let info = sys::open_pin(&pin)
        .and_then(|map| sys::info::map_info(map.as_fd()))
        .map_err(|error| Error::system(format!("opening the pinned map `{}`", pin.display()), error))?;
    let mut entry = Entry {
        id: info.id,
        key_size: info.key_size,
        value_size: info.value_size,
        ..Entry::default()
    };
    for (to, from) in entry.name.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    Ok(entry)
}

/// Whether a set is whole and of this build's layouts.
///
/// # Errors
///
/// What is wrong with it, for a person.
pub fn check(pins: &Pins) -> Result<(), String> {
    let told = |error: Error| crate::report::chain(&error);
    let head = head(pins).ok_or("it has no manifest, or none that can be read")?;
    if head.abi != ABI_VERSION || head.maps as usize != PINNED.len() || head.cgroups != CGROUPS {
        return Err("its manifest speaks of other layouts".to_owned());
    }
    let elements: Map<u32, Entry> = Map::open(pins, NAME).map_err(told)?;
    for (number, name) in (1..).zip(PINNED) {
        let wanted = elements.read(&number).map_err(told)?.unwrap_or_default();
        let found = describe(pins, name).map_err(told)?;
        if found != wanted {
            return Err(format!("what is pinned as `{name}` is another map"));
        }
    }
    Ok(())
}

/// Where another set keeps its cgroups' segments; `None` if it does not say.
pub fn cgroups(pins: &Pins) -> Option<CgroupsLayout> {
    head(pins).map(|head| head.cgroups)
}

/// A map of a set, by its pin or, where that is gone or another map's, by its id, as long as a program uses it. `None`:
/// neither; asking by id needs CAP_SYS_ADMIN.
pub fn find(pins: &Pins, name: &str) -> Option<OwnedFd> {
    let elements: Map<u32, Entry> = Map::open(pins, NAME).ok()?;
    let mut entries = (1..=head(pins)?.maps).filter_map(|number| elements.read(&number).ok()?);
    let entry = entries.find(|entry| {
        let known = entry.name.iter().take_while(|byte| **byte != 0);
        known.eq(name.as_bytes())
    })?;
    let is_it = |map: &OwnedFd| sys::info::map_info(map.as_fd()).is_ok_and(|info| info.id == entry.id);
    let pinned = sys::open_pin(&pins.maps.join(name)).ok().filter(is_it);
    pinned.or_else(|| sys::info::map_by_id(entry.id).ok())
}

fn head(pins: &Pins) -> Option<Head> {
    let first: Map<u32, Head> = Map::open(pins, NAME).ok()?;
    let head = first.read(&0).ok()??;
    (head.magic == MAGIC && head.format == FORMAT).then_some(head)
}
