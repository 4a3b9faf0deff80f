//! A map with typed keys and values, large values included.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    marker::PhantomData,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
};

use aya::Pod;

use super::{
    Error,
    sys::{self, ElementCommand, element},
};

/// `BPF_NOEXIST`.
pub const NEW: u64 = 1;
/// `BPF_EXIST`.
pub const EXISTING: u64 = 2;
/// How many elements are read or written in one system call, if no bucket has more.
const AT_ONCE: usize = 4096;

/// Where maps are found by name: below a pin directory, or in an object that was loaded and not pinned.
pub trait Maps {
    /// A descriptor of its own for a map.
    ///
    /// # Errors
    ///
    /// There is no such map, or it cannot be opened.
    fn find(&self, name: &'static str) -> Result<OwnedFd, Error>;
}

/// Entries that a map should have, found by the bytes of their keys.
#[derive(Debug)]
pub struct Entries<K, V>(BTreeMap<Vec<u8>, (K, V)>);

impl<K: Pod, V> FromIterator<(K, V)> for Entries<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Entries<K, V> {
        let entries = entries.into_iter();
        Entries(
            entries
                .map(|(key, value)| (bytes_of(&key).to_vec(), (key, value)))
                .collect(),
        )
    }
}

fn bytes_of<T: Pod>(value: &T) -> &[u8] {
    // SAFETY: a live value; `Pod` has no padding.
    unsafe { std::slice::from_raw_parts((&raw const *value).cast(), size_of::<T>()) }
}

/// A map of the datapath.
#[derive(Debug)]
pub struct Map<K, V> {
    name: &'static str,
    fd: OwnedFd,
    types: PhantomData<fn(K) -> V>,
}

impl<K: Pod, V> Map<K, V> {
    /// Opens a map by its name.
    pub fn open(maps: &impl Maps, name: &'static str) -> Result<Map<K, V>, Error> {
        Map::over(name, maps.find(name)?)
    }

    /// Takes a map over, if its keys and values have the sizes of the types: another one is never misread.
    pub fn over(name: &'static str, fd: OwnedFd) -> Result<Map<K, V>, Error> {
        let info = sys::info::map_info(fd.as_fd())
            .map_err(|error| Error::system(format!("looking at the map `{name}`"), error))?;
        if (info.key_size as usize, info.value_size as usize) != (size_of::<K>(), size_of::<V>()) {
            return Err(Error::Refused {
                operation: format!("opening the map `{name}`"),
                message: format!(
                    "its keys and values have {} and {} bytes, and should have {} and {}",
                    info.key_size,
                    info.value_size,
                    size_of::<K>(),
                    size_of::<V>()
                ),
            });
        }
        Ok(Map {
            name,
            fd,
            types: PhantomData,
        })
    }

    /// Its descriptor, for whoever holds it from now on.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    fn failed(&self, operation: &str, error: io::Error) -> Error {
        Error::system(format!("{operation} the map `{}`", self.name), error)
    }

    /// Writes a value in place of what is there. `false`: `flags` forbade it.
    pub fn write(&self, key: &K, value: &V, flags: u64) -> Result<bool, Error> {
        let key = (&raw const *key).cast();
        let value = (&raw const *value).cast::<u8>().cast_mut();
        // SAFETY: key and value have the map's sizes by construction; the command only reads them.
        match unsafe { element(ElementCommand::Update, self.fd.as_fd(), key, value, flags) } {
            Ok(written) => Ok(written),
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            Err(error) => Err(self.failed("writing to", error)),
        }
    }

    /// Writes a value in place of what is there. `false`: the map is full.
    pub fn write_if_room(&self, key: &K, value: &V) -> Result<bool, Error> {
        match self.write(key, value, 0) {
            Err(Error::System { source, .. }) if source.raw_os_error() == Some(libc::E2BIG) => Ok(false),
            written => written,
        }
    }

    /// Removes a key, if it is there.
    pub fn remove(&self, key: &K) -> Result<(), Error> {
        let key = (&raw const *key).cast();
        // SAFETY: the key has the map's size; there is no value.
        unsafe {
            element(
                ElementCommand::Delete,
                self.fd.as_fd(),
                key,
                std::ptr::null_mut(),
                0,
            )
        }
        .map(drop)
        .map_err(|error| self.failed("removing from", error))
    }

    /// Every key, as far as a table that others write can be walked.
    pub fn keys(&self) -> Result<Vec<K>, Error> {
        let mut keys: Vec<K> = Vec::new();
        loop {
            let last = keys
                .last()
                .map_or(std::ptr::null(), |key: &K| (&raw const *key).cast());
            let mut next = std::mem::MaybeUninit::<K>::uninit();
            // SAFETY: the last key, or none, has the map's size; the next is written on success.
            let found = unsafe {
                element(
                    ElementCommand::NextKey,
                    self.fd.as_fd(),
                    last,
                    next.as_mut_ptr().cast(),
                    0,
                )
            };
            match found {
                // SAFETY: written by the kernel; any bytes are a valid `Pod`.
                Ok(true) => keys.push(unsafe { next.assume_init() }),
                Ok(false) => return Ok(keys),
                Err(error) => return Err(self.failed("walking", error)),
            }
        }
    }
}

impl<K: Pod, V: Pod> Map<K, V> {
    /// Reads a value.
    pub fn read(&self, key: &K) -> Result<Option<V>, Error> {
        let key = (&raw const *key).cast();
        let mut value = std::mem::MaybeUninit::<V>::uninit();
        // SAFETY: key and value have the map's sizes; the value is written on success.
        let found = unsafe {
            element(
                ElementCommand::Lookup,
                self.fd.as_fd(),
                key,
                value.as_mut_ptr().cast(),
                0,
            )
        }
        .map_err(|error| self.failed("reading", error))?;
        // SAFETY: written by the kernel; any bytes are a valid `Pod`.
        Ok(found.then(|| unsafe { value.assume_init() }))
    }

    /// Makes those of the entries that are `ours` just what is wanted: what is there already is not written again. How many
    /// were written, and how many removed.
    pub fn bring_to(
        &self,
        wanted: &Entries<K, V>,
        ours: &dyn Fn(&K) -> bool,
    ) -> Result<(usize, usize), Error> {
        let mut removed = 0;
        let mut same = BTreeSet::new();
        for (key, found) in self.entries()?.iter().filter(|(key, _)| ours(key)) {
            match wanted.0.get(bytes_of(key)) {
                Some((_, value)) if bytes_of(value) == bytes_of(found) => {
                    same.insert(bytes_of(key).to_vec());
                }
                Some(_) => {}
                None => {
                    // First, to make room for what is new.
                    self.remove(key)?;
                    removed += 1;
                }
            }
        }
        let differ = wanted.0.iter().filter(|(bytes, _)| !same.contains(*bytes));
        let differ: Vec<(K, V)> = differ.map(|(_, (key, value))| (*key, *value)).collect();
        self.write_all(&differ)?;
        Ok((differ.len(), removed))
    }

    /// All elements of a hash map that nobody else writes meanwhile.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn entries(&self) -> Result<Vec<(K, V)>, Error> {
        let mut entries = Vec::new();
        let (mut room, mut cursor) = (AT_ONCE, None);
        let (mut keys, mut values): (Vec<K>, Vec<V>) = (Vec::new(), Vec::new());
        loop {
            keys.reserve(room);
            values.reserve(room);
            let mut count = room as u32;
            let into = (keys.as_mut_ptr().cast(), values.as_mut_ptr().cast());
            // SAFETY: both have room for so many; keys and values have the map's sizes.
            let more = match unsafe { sys::batch::lookup(self.fd.as_fd(), &mut cursor, into, &mut count) } {
                Ok(more) => more,
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                    room *= 2;
                    continue;
                }
                Err(error) => return Err(self.failed("reading", error)),
            };
            // SAFETY: written by the kernel, which tells how many; any bytes are a valid `Pod`.
            unsafe {
                keys.set_len(count as usize);
                values.set_len(count as usize);
            }
            entries.extend(keys.drain(..).zip(values.drain(..)));
            if !more {
                return Ok(entries);
            }
        }
    }

    /// Writes elements of a hash map in place of what is there.
    ///
    /// # Errors
    ///
    /// One that cannot be written: those before it are.
    pub fn write_all(&self, entries: &[(K, V)]) -> Result<(), Error> {
        for some in entries.chunks(AT_ONCE) {
            let (keys, values): (Vec<K>, Vec<V>) = some.iter().copied().unzip();
            let from = (keys.as_ptr().cast(), values.as_ptr().cast());
            // SAFETY: there are so many of both, of the map's sizes.
            if unsafe { sys::batch::update(self.fd.as_fd(), from, some.len() as u32) }.is_err() {
                // The kernel may have been short of memory for so many at once; what it is, is told by the one that fails.
                for (key, value) in some {
                    self.write(key, value, 0)?;
                }
            }
        }
        Ok(())
    }

    /// Reads a per-CPU value, one of each possible CPU.
    pub fn read_per_cpu(&self, key: &K, cpus: usize) -> Result<Vec<V>, Error> {
        const { assert!(size_of::<V>().is_multiple_of(8)) }
        let key = (&raw const *key).cast();
        let mut values: Vec<V> = Vec::with_capacity(cpus);
        // SAFETY: the kernel writes one value of eight-byte-rounded size for each possible CPU.
        let found = unsafe {
            element(
                ElementCommand::Lookup,
                self.fd.as_fd(),
                key,
                values.as_mut_ptr().cast(),
                0,
            )
        }
        .map_err(|error| self.failed("reading", error))?;
        if found {
            // SAFETY: written by the kernel.
            unsafe { values.set_len(cpus) };
        }
        Ok(values)
    }
}

impl<V> Map<u32, V> {
    /// Lends an element of a two-slot `BPF_F_MMAPABLE` array, in place. Mapped only as long as it is lent, so that
    /// tables do not count as the daemon's memory.
    ///
    /// The kernel programs may read or change the element meanwhile, if its slot is in force: the pointer is for
    /// volatile access then.
    pub fn lend<R>(&self, slot: u32, work: impl FnOnce(*mut V) -> R) -> Result<R, Error> {
        const SLOTS: usize = 2;
        let offset = Self::STRIDE * (slot as usize % SLOTS);
        self.lend_all(SLOTS, |first| {
            // SAFETY: inside the mapping; page-aligned base, stride of eight.
            work(unsafe { first.cast::<u8>().add(offset).cast::<V>() })
        })
    }

    // The kernel rounds an element's size up so (kernel/bpf/arraymap.c).
    const STRIDE: usize = size_of::<V>().next_multiple_of(8);

    /// Lends all elements of a `BPF_F_MMAPABLE` array that has so many, as [`Map::lend`] does one.
    pub fn lend_all<R>(&self, elements: usize, work: impl FnOnce(*mut V) -> R) -> Result<R, Error> {
        let len = Self::STRIDE * elements;
        // SAFETY: a new mapping of the map's own pages; the result is checked.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                self.fd.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(self.failed("mapping", io::Error::last_os_error()));
        }
        // The mapping lives until the work is done.
        let result = work(base.cast::<V>());
        // SAFETY: mapped above, and nothing refers to it any more.
        unsafe { libc::munmap(base, len) };
        Ok(result)
    }
}

impl<K, V> AsFd for Map<K, V> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_written() {
        if super::super::kernel::check_privilege().is_err() {
            assert!(std::env::var_os("SEGD_REQUIRE_KERNEL").is_none(), "not root");
            eprintln!("skipped: not root");
            return;
        }
        let map: Map<u32, u64> = Map::over("TEST", sys::create_hash(4, 8, 64).unwrap()).unwrap();
        let even = |key: &u32| key.is_multiple_of(2);
        let bring = |entries: &[(u32, u64)]| map.bring_to(&entries.iter().copied().collect(), &even).unwrap();
        map.write(&7, &70, 0).unwrap();
        assert_eq!(bring(&[(2, 20), (4, 40), (6, 60)]), (3, 0));
        assert_eq!(bring(&[(2, 20), (4, 40), (6, 60)]), (0, 0), "it was all there");
        assert_eq!(bring(&[(2, 20), (4, 41), (8, 80)]), (2, 1));
        let mut keys = map.keys().unwrap();
        keys.sort_unstable();
        assert_eq!(keys, [2, 4, 7, 8], "what is not ours stays");
        assert_eq!(
            (map.read(&4).unwrap(), map.read(&7).unwrap()),
            (Some(41), Some(70))
        );
        assert_eq!(bring(&[]), (0, 3));
    }

    #[test]
    fn many_are_written_and_read_in_pieces() {
        if super::super::kernel::check_privilege().is_err() {
            assert!(std::env::var_os("SEGD_REQUIRE_KERNEL").is_none(), "not root");
            eprintln!("skipped: not root");
            return;
        }
        let most = 3 * AT_ONCE as u32;
        let map: Map<u32, u64> = Map::over("TEST", sys::create_hash(4, 8, most).unwrap()).unwrap();
        assert!(map.entries().unwrap().is_empty());
        let entries = |count: u32| {
            (0..count)
                .map(|key| (key, u64::from(key) * 7))
                .collect::<Vec<_>>()
        };
        for count in [1, AT_ONCE as u32, AT_ONCE as u32 + 1, most] {
            map.write_all(&entries(count)).unwrap();
            let mut held = map.entries().unwrap();
            held.sort_unstable();
            assert!(held == entries(count), "{count}");
        }
        map.write_all(&entries(most + 1)).unwrap_err();
        let mut held = map.entries().unwrap();
        held.sort_unstable();
        assert!(held == entries(most), "what there is room for stays");
    }
}
