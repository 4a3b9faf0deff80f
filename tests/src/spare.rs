//! Programs and maps that tests have one after another, where asking the verifier again takes a minute: in an emulated machine.
//!
//! `SEGD_SPARE` names a directory in bpffs. The first segd of all leaves what it has loaded there; each later one finds it in its
//! pin directory, as after a kill of the daemon before it, with every map empty. Without the variable, each segd loads.
//!
//! INVARIANT: two segd at once never have the same maps: the second one loads.
//! Deliberately absent: links, but those of LSM programs, which old kernels attach only once. Each segd attaches the rest by itself, and
//! what it attached goes with it.

use std::{
    ffi::{CString, OsStr},
    fs, io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::DirBuilderExt},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

static LENT: AtomicBool = AtomicBool::new(false);

/// What was lent to one segd; the next may have it when this is dropped.
#[derive(Debug)]
pub struct Lent(());

impl Drop for Lent {
    fn drop(&mut self) {
        LENT.store(false, Ordering::Release);
    }
}

fn spare() -> Option<PathBuf> {
    std::env::var_os("SEGD_SPARE").map(PathBuf::from)
}

/// Puts the spare programs and maps into a pin directory that is not there yet, if there are any and nobody has them.
///
/// # Panics
/// When they cannot be emptied, or pinned there.
#[track_caller]
pub fn lend(pin_dir: &Path) -> Option<Lent> {
    let spare = spare().filter(|spare| spare.exists())?;
    if pin_dir.exists() || LENT.swap(true, Ordering::AcqRel) {
        return None;
    }
    let lent = Lent(());
    // The manifest tells how the maps are laid out, not what is in them.
    for pin in pins(&spare).iter().filter(|pin| !pin.ends_with("MANIFEST")) {
        empty(pin).unwrap_or_else(|error| panic!("emptying {}: {error}", pin.display()));
    }
    link(&spare, pin_dir);
    Some(lent)
}

/// Keeps what a segd has loaded as the spare, unless there is one.
///
/// # Panics
/// When it cannot be pinned there.
#[track_caller]
pub fn keep(pin_dir: &Path) -> Option<Lent> {
    let spare = spare().filter(|spare| !spare.exists())?;
    link(pin_dir, &spare);
    LENT.store(true, Ordering::Release);
    Some(Lent(()))
}

/// The names in a directory.
fn names(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// The pins in the sets of a pin directory that are lent.
fn pins(directory: &Path) -> Vec<PathBuf> {
    let begins = |path: &Path, with: &str| {
        let name = path.file_name().map(OsStr::as_bytes).unwrap_or_default();
        name.starts_with(with.as_bytes())
    };
    let wanted = |set: &Path, pin: &Path| {
        if begins(set, "links_") {
            begins(pin, "lsm_")
        } else {
            !begins(pin, "TEXT_")
        }
    };
    let mut pins = Vec::new();
    for set in names(directory) {
        pins.extend(names(&set).into_iter().filter(|pin| wanted(&set, pin)));
    }
    pins
}

#[track_caller]
fn link(from: &Path, to: &Path) {
    for pin in pins(from) {
        let place = to.join(pin.strip_prefix(from).expect("it is below"));
        let set = place.parent().expect("it is in a set");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(set)
            .expect("a directory in bpffs");
        fs::hard_link(&pin, &place).unwrap_or_else(|error| panic!("pinning {}: {error}", place.display()));
    }
}

/// A map, by what bpf(2) wants to know of it.
struct Map {
    fd: OwnedFd,
    kind: u32,
    value_size: usize,
    max_entries: u32,
    key_size: usize,
}

const BPF_MAP_UPDATE_ELEM: u32 = 2;
const BPF_MAP_DELETE_ELEM: u32 = 3;
const BPF_MAP_GET_NEXT_KEY: u32 = 4;
const BPF_OBJ_GET: u32 = 7;

const ARRAY: u32 = 2;
const PERCPU_ARRAY: u32 = 6;
const ARRAY_OF_MAPS: u32 = 12;
const SK_STORAGE: u32 = 24;
const RINGBUF: u32 = 27;

/// `union bpf_attr` of the commands on elements.
#[repr(C)]
struct Element {
    map: u32,
    zero: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `union bpf_attr` of `BPF_OBJ_GET`.
#[repr(C)]
#[derive(Default)]
struct Pinned {
    path: u64,
    fd: u32,
    flags: u32,
}

fn bpf<T>(command: u32, attributes: &T) -> io::Result<libc::c_long> {
    let attributes: *const T = attributes;
    // SAFETY: what the attributes point to lives in the callers, and is as long as the map says.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Makes a map what it was when it was made. A program, a link, and a map that nobody can write any more are left alone.
fn empty(pin: &Path) -> io::Result<()> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let pinned = Pinned {
        path: path.as_ptr() as u64,
        ..Pinned::default()
    };
    let fd = bpf(BPF_OBJ_GET, &pinned)?;
    // SAFETY: the kernel has just made it, for us alone.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let Some(map) = Map::over(fd)? else { return Ok(()) };
    match map.kind {
        // What is kept on sockets went with them.
        SK_STORAGE => Ok(()),
        RINGBUF => map.skip_records(),
        ARRAY | PERCPU_ARRAY => map.clear_elements(),
        // It has every key at any time.
        ARRAY_OF_MAPS => map.delete_each(),
        _ => map.delete_elements(),
    }
}

impl Map {
    /// What a descriptor is of; `None`: no map, or one that is frozen.
    fn over(fd: OwnedFd) -> io::Result<Option<Map>> {
        let told = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
        let number = |name: &str| {
            let line = told.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().parse::<u32>().ok()
        };
        let Some(kind) = number("map_type:") else {
            return Ok(None);
        };
        if number("frozen:") == Some(1) {
            return Ok(None);
        }
        let missing = || io::Error::other("the kernel does not tell what map it is");
        let value_size = number("value_size:").ok_or_else(missing)? as usize;
        Ok(Some(Map {
            fd,
            kind,
            value_size,
            max_entries: number("max_entries:").ok_or_else(missing)?,
            key_size: number("key_size:").ok_or_else(missing)? as usize,
        }))
    }

    fn element(&self, key: *const u8, value: *const u8) -> Element {
        Element {
            map: self.fd.as_raw_fd() as u32,
            zero: 0,
            key: key as u64,
            value: value as u64,
            flags: 0,
        }
    }

    fn clear_elements(&self) -> io::Result<()> {
        let copies = if self.kind == PERCPU_ARRAY {
            processors()?
        } else {
            1
        };
        let zero = vec![0_u8; self.value_size.next_multiple_of(8) * copies];
        for index in 0..self.max_entries {
            let key: *const u32 = &raw const index;
            bpf(BPF_MAP_UPDATE_ELEM, &self.element(key.cast(), zero.as_ptr()))?;
        }
        Ok(())
    }

    fn delete_each(&self) -> io::Result<()> {
        for key in 0..self.max_entries {
            let key = key.to_ne_bytes();
            match bpf(BPF_MAP_DELETE_ELEM, &self.element(key.as_ptr(), std::ptr::null())) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn delete_elements(&self) -> io::Result<()> {
        let mut key = vec![0_u8; self.key_size];
        let first = self.element(std::ptr::null(), key.as_mut_ptr());
        let delete = self.element(key.as_ptr(), std::ptr::null());
        let gone = |error: &io::Error| error.raw_os_error() == Some(libc::ENOENT);
        loop {
            match bpf(BPF_MAP_GET_NEXT_KEY, &first) {
                Err(error) if gone(&error) => return Ok(()),
                other => other?,
            };
            match bpf(BPF_MAP_DELETE_ELEM, &delete) {
                Err(error) if gone(&error) => continue,
                other => other?,
            };
        }
    }

    /// Tells a ring that its reader has seen everything.
    fn skip_records(&self) -> io::Result<()> {
        // SAFETY: no arguments that could be wrong.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let len = page as usize;
        let at = |offset: libc::off_t, protection: i32| -> io::Result<*mut u64> {
            // SAFETY: a new mapping of one page of the ring.
            let found = unsafe {
                libc::mmap(
                    std::ptr::null_mut(),
                    len,
                    protection,
                    libc::MAP_SHARED,
                    self.fd.as_raw_fd(),
                    offset,
                )
            };
            if found == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            Ok(found.cast())
        };
        let consumer = at(0, libc::PROT_READ | libc::PROT_WRITE)?;
        let producer = at(page, libc::PROT_READ)?;
        // SAFETY: both pages begin with their position, and are unmapped once each.
        unsafe {
            consumer.write_volatile(producer.read_volatile());
            libc::munmap(consumer.cast(), len);
            libc::munmap(producer.cast(), len);
        }
        Ok(())
    }
}

/// How many copies a per-CPU map has of each element.
fn processors() -> io::Result<usize> {
    let possible = fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = possible.trim().rsplit(['-', ',']).next().unwrap_or_default();
    let last: usize = last
        .parse()
        .map_err(|_| io::Error::other(format!("processors `{possible}`")))?;
    Ok(last + 1)
}
