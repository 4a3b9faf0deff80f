//! Programs that a restarted daemon keeps: pinned beside their maps, so that what the verifier has seen is not loaded again.
//!
//! A record says by two digests what was wanted (the object, its read-only settings, what the kernel takes, which boot of
//! which kernel) and what came of it (each program's number, tag and maps, as the kernel tells them). Programs are kept if the
//! first is what this daemon wants, and the second what the kernel says of the pinned programs now.
//!
//! INVARIANT: the record is pinned last and cannot be written to any more. Whatever is missing, or another, or cannot be looked
//! at: the programs are loaded anew.
//! Deliberately absent: trust in more than the pin directory, which is segd's own user's alone (`custody`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::PathBuf,
};

use segd_common::ABI_VERSION;
use sha2::{Digest as _, Sha256};

use super::{
    Error, feature,
    links::{Hook, SOCKETS},
    load::LSM,
    map::Map,
    object::{OBJECT, PINNED},
    pins::{Pins, entries},
    sys,
};

/// The record's pin.
const RECORD: &str = "RECORD";
/// What the pins' names begin with: of a program, and of a map that is not one of [`PINNED`].
const PROGRAM: &str = "program_";
const PRIVATE: &str = "private_";

const MAGIC: u64 = u64::from_le_bytes(*b"segd-prg");
const FORMAT: u64 = 1;

type Hash = [u8; 32];

/// What one load made: the programs, and the maps that belong to them alone.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub programs: BTreeMap<String, OwnedFd>,
    pub private: BTreeMap<String, OwnedFd>,
}

/// What is to be loaded, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted(Hash);

/// The record's one element.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
struct Record {
    magic: u64,
    format: u64,
    wanted: Hash,
    made: Hash,
}

const _: () = assert!(size_of::<Record>() == 80);

// SAFETY: `repr(C)`, integers only, no padding (asserted above).
unsafe impl aya::Pod for Record {}

impl Loaded {
    /// A program.
    pub fn program(&self, name: &str) -> Result<BorrowedFd<'_>, Error> {
        let missing = || Error::Refused {
            operation: format!("finding the kernel program `{name}`"),
            message: "it is not loaded".to_owned(),
        };
        self.programs.get(name).map(OwnedFd::as_fd).ok_or_else(missing)
    }
}

/// What the kernel took of an object, without the loader, which needs more memory than all the rest.
pub(super) fn taken(ebpf: &aya::Ebpf) -> Result<Loaded, Error> {
    let mut loaded = Loaded::default();
    for (name, program) in ebpf.programs() {
        // What this kernel has no hook for was not loaded.
        let Ok(program) = program.fd() else {
            continue;
        };
        let program = program.as_fd().try_clone_to_owned();
        let program =
            program.map_err(|error| Error::system(format!("holding the kernel program `{name}`"), error))?;
        loaded.programs.insert(name.to_owned(), program);
    }
    for (name, map) in ebpf.maps().filter(|(name, _)| !PINNED.contains(name)) {
        let (aya::maps::Map::Array(data)
        | aya::maps::Map::HashMap(data)
        | aya::maps::Map::LruHashMap(data)
        | aya::maps::Map::PerCpuArray(data)
        | aya::maps::Map::PerCpuHashMap(data)
        | aya::maps::Map::RingBuf(data)
        | aya::maps::Map::SkStorage(data)) = map
        else {
            return Err(Error::Refused {
                operation: format!("holding the map `{name}`"),
                message: "it is of a type that segd does not know".to_owned(),
            });
        };
        let map = data.fd().as_fd().try_clone_to_owned();
        let map = map.map_err(|error| Error::system(format!("holding the map `{name}`"), error))?;
        loaded.private.insert(name.to_owned(), map);
    }
    Ok(loaded)
}

impl Wanted {
    /// `settings`: what is overridden in the object beside what the running kernel alone decides. `features`: what of the object is
    /// loaded at all.
    ///
    /// What the kernel alone decides (offsets in its memory, what its helpers may) is the same until the next boot.
    pub fn of(settings: &[(&'static str, u64)], features: &[(&'static str, bool)]) -> Wanted {
        let mut hash = Sha256::new();
        let mut add = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        add(OBJECT);
        add(&ABI_VERSION.to_le_bytes());
        add(env!("CARGO_PKG_VERSION").as_bytes());
        for (name, value) in settings {
            add(name.as_bytes());
            add(&value.to_le_bytes());
        }
        for (name, has) in features {
            add(name.as_bytes());
            add(&[u8::from(*has)]);
        }
        for file in [
            "/proc/version",
            "/proc/sys/kernel/random/boot_id",
            "/proc/sys/net/core/bpf_jit_enable",
            "/proc/sys/net/core/bpf_jit_harden",
        ] {
            add(&fs::read(file).unwrap_or_default());
        }
        Wanted(hash.finalize().into())
    }
}

/// The pinned programs, if they are just what is wanted.
///
/// # Errors
///
/// Why they are not, for a person.
pub(super) fn adopt(pins: &Pins, wanted: &Wanted) -> Result<Loaded, String> {
    let told = |error: Error| crate::report::chain(&error);
    let unread = |error| format!("its record cannot be read: {error}");
    let record = sys::open_pin(&pins.programs.join(RECORD)).map_err(unread)?;
    if !sys::is_frozen(record.as_fd()).map_err(unread)? {
        return Err("its record could have been written to".to_owned());
    }
    let record: Map<u32, Record> = Map::over(RECORD, record).map_err(told)?;
    let record = record.read(&0).map_err(told)?.unwrap_or_default();
    if (record.magic, record.format) != (MAGIC, FORMAT) || record.wanted != wanted.0 {
        return Err("it was loaded from something else, or for something else".to_owned());
    }
    let mut loaded = Loaded::default();
    for (name, pin) in named(pins, PROGRAM) {
        let program = sys::open_pin(&pin).map_err(|error| format!("{}: {error}", pin.display()))?;
        loaded.programs.insert(name, program);
    }
    for (name, pin) in named(pins, PRIVATE) {
        let map = sys::open_pin(&pin).map_err(|error| format!("{}: {error}", pin.display()))?;
        loaded.private.insert(name, map);
    }
    if made(pins, &loaded)? != record.made {
        return Err("what is pinned is not what was loaded".to_owned());
    }
    let lsm = loaded.programs.keys().any(|name| name.starts_with(LSM));
    if lsm && !feature::attaches_lsm_again().map_err(told)? {
        for hook in SOCKETS {
            still_hangs(pins, hook, &loaded).map_err(|error| {
                format!(
                    "`{}` cannot be attached again before Linux 5.13: {error}",
                    hook.program
                )
            })?;
        }
    }
    Ok(loaded)
}

/// Whether a program hangs on its hook by the link that is pinned there.
fn still_hangs(pins: &Pins, hook: &Hook, loaded: &Loaded) -> io::Result<()> {
    let program = loaded.programs.get(hook.program);
    let program = program.ok_or_else(|| io::Error::other("it is not loaded"))?;
    let link = sys::link_info(sys::open_pin(&pins.links.join(hook.name))?.as_fd())?;
    if link.program == sys::info::program_id(program.as_fd())? {
        Ok(())
    } else {
        Err(io::Error::other("another program is behind its link"))
    }
}

/// Pins what was loaded, so that the next daemon can keep it.
///
/// # Errors
///
/// A pin that could not be made: the next daemon loads anew.
pub(super) fn keep(pins: &Pins, wanted: &Wanted, loaded: &Loaded) -> Result<(), String> {
    forget(pins);
    let pinned = |pin: PathBuf, object: &OwnedFd| {
        sys::pin(object.as_fd(), &pin).map_err(|error| format!("pinning `{}`: {error}", pin.display()))
    };
    for (name, program) in &loaded.programs {
        pinned(pin(pins, PROGRAM, name), program)?;
    }
    for (name, map) in &loaded.private {
        pinned(pin(pins, PRIVATE, name), map)?;
    }
    let record = Record {
        magic: MAGIC,
        format: FORMAT,
        wanted: wanted.0,
        made: made(pins, loaded)?,
    };
    let failed = |error| format!("making the record: {error}");
    let map = sys::create_array(size_of::<Record>() as u32, 1).map_err(failed)?;
    let elements: Map<u32, Record> = Map::over(RECORD, map).map_err(|error| crate::report::chain(&error))?;
    elements
        .write(&0, &record, 0)
        .map_err(|error| crate::report::chain(&error))?;
    let map = elements.into_fd();
    sys::freeze(map.as_fd()).map_err(failed)?;
    pinned(pins.programs.join(RECORD), &map)
}

/// Takes the pins away, the record first.
pub(super) fn forget(pins: &Pins) {
    let _ = fs::remove_file(pins.programs.join(RECORD));
    for prefix in [PROGRAM, PRIVATE] {
        for (_, pin) in named(pins, prefix) {
            let _ = fs::remove_file(pin);
        }
    }
}

/// bpffs refuses names with a dot; a section's has one (`.rodata`).
fn pin(pins: &Pins, prefix: &str, name: &str) -> PathBuf {
    pins.programs.join(format!("{prefix}{}", name.replace('.', ":")))
}

fn named(pins: &Pins, prefix: &str) -> Vec<(String, PathBuf)> {
    let name = |path: PathBuf| {
        let name = path
            .file_name()?
            .to_str()?
            .strip_prefix(prefix)?
            .replace(':', ".");
        Some((name, path))
    };
    entries(&pins.programs).into_iter().filter_map(name).collect()
}

/// What was loaded, by what the kernel says of it now.
fn made(pins: &Pins, loaded: &Loaded) -> Result<Hash, String> {
    let mut hash = Sha256::new();
    let mut known = BTreeSet::new();
    for name in PINNED {
        let map = sys::open_pin(&pins.maps.join(name)).and_then(|map| sys::info::map_info(map.as_fd()));
        let map = map.map_err(|error| format!("the map `{name}`: {error}"))?;
        known.insert(map.id);
        hash.update(map.id.to_le_bytes());
    }
    for (name, map) in &loaded.private {
        let failed = |error| format!("the map `{name}`: {error}");
        let info = sys::info::map_info(map.as_fd()).map_err(failed)?;
        known.insert(info.id);
        hash.update(name.as_bytes());
        for word in [info.kind, info.id, info.key_size, info.value_size] {
            hash.update(word.to_le_bytes());
        }
        hash.update([u8::from(sys::is_frozen(map.as_fd()).map_err(failed)?)]);
    }
    for (name, program) in &loaded.programs {
        let program = sys::loaded_program(program.as_fd())
            .map_err(|error| format!("the kernel program `{name}`: {error}"))?;
        if let Some(foreign) = program.maps.iter().find(|map| !known.contains(map)) {
            return Err(format!(
                "the kernel program `{name}` uses the map {foreign}, which is not segd's"
            ));
        }
        hash.update(name.as_bytes());
        hash.update(program.kind.to_le_bytes());
        hash.update(program.id.to_le_bytes());
        hash.update(program.tag);
        hash.update((program.maps.len() as u64).to_le_bytes());
        for map in program.maps {
            hash.update(map.to_le_bytes());
        }
    }
    Ok(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::datapath::{Datapath, kernel, unload};

    fn ids(datapath: &Datapath) -> Vec<u32> {
        let (mut programs, _) = datapath.programs().unwrap().ids().unwrap();
        programs.sort_unstable();
        programs
    }

    #[track_caller]
    fn anew(dir: &Path, subtree: bool, why: &str) -> Vec<u32> {
        let loaded = Datapath::load(dir, subtree, false).unwrap();
        assert!(!loaded.kept, "kept, although {why}");
        ids(&loaded)
    }

    #[track_caller]
    fn kept(dir: &Path, subtree: bool) -> Vec<u32> {
        let loaded = Datapath::load(dir, subtree, false).unwrap();
        assert!(loaded.kept, "loaded again");
        ids(&loaded)
    }

    fn trivial(pin: &Path) {
        const CGROUP_SKB: u32 = 8;
        let foreign = sys::load_trivial(CGROUP_SKB).unwrap();
        sys::pin_over(foreign.as_fd(), pin).unwrap();
    }

    #[test]
    fn only_what_would_be_loaded_is_kept() {
        let dir = PathBuf::from(format!("/sys/fs/bpf/segd-kept-{}", std::process::id()));
        if let Err(error) = kernel::check_privilege().and_then(|()| kernel::check_bpffs(&dir)) {
            assert!(std::env::var_os("SEGD_REQUIRE_KERNEL").is_none(), "{error}");
            eprintln!("skipped: {error}");
            return;
        }
        let pins = Pins::new(&dir);
        let first = anew(&dir, false, "there was nothing");
        assert_eq!(kept(&dir, false), first);
        let second = anew(&dir, true, "it is for another setting");
        assert!(second.iter().all(|id| !first.contains(id)), "{second:?}");
        assert_eq!(kept(&dir, true), second);

        let learning = Datapath::load(&dir, true, true).unwrap();
        assert!(!learning.kept, "what enforces was taken for what learns");
        drop(learning);
        anew(&dir, true, "those before only learned");

        let egress = pin(&pins, PROGRAM, "segd_egress");
        trivial(&egress);
        anew(&dir, true, "another program lies in its place");
        kept(&dir, true);
        fs::remove_file(&egress).unwrap();
        anew(&dir, true, "a program is gone");
        trivial(&pin(&pins, PROGRAM, "segd_more"));
        anew(&dir, true, "there is one more");
        // The same programs, but one by the name of another.
        let ingress = pin(&pins, PROGRAM, "segd_ingress");
        let beside = pins.programs.join("beside");
        for (from, to) in [(&egress, &beside), (&ingress, &egress), (&beside, &ingress)] {
            fs::rename(from, to).unwrap();
        }
        anew(&dir, true, "two were exchanged");

        let guard = pin(&pins, PRIVATE, "GUARD");
        let foreign = sys::create_array(16, 1).unwrap();
        sys::pin_over(foreign.as_fd(), &guard).unwrap();
        anew(&dir, true, "a map is another");

        // A record that says the right thing, and that somebody could have written.
        let record = pins.programs.join(RECORD);
        let held: Map<u32, Record> = Map::over(RECORD, sys::open_pin(&record).unwrap()).unwrap();
        let said = held.read(&0).unwrap().unwrap();
        assert!(held.write(&0, &said, 0).is_err(), "the record can be written to");
        let copy: Map<u32, Record> =
            Map::over(RECORD, sys::create_array(size_of::<Record>() as u32, 1).unwrap()).unwrap();
        copy.write(&0, &said, 0).unwrap();
        sys::pin_over(copy.into_fd().as_fd(), &record).unwrap();
        anew(&dir, true, "its record was open");
        kept(&dir, true);
        unload(&dir).unwrap();
        assert!(!dir.exists());
    }
}
