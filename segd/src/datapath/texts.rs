//! What a slot was made from, kept beside it: the next daemon finds out what is enforced from the kernel alone.
//!
//! A text lies in an array of its own, pinned under a name of its slot. It goes with the other pins.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{Error, map::Map, pins::Pins, sys};

/// The bytes of one element.
const CHUNK: usize = 32 * 1024;

type Chunk = [u8; CHUNK];

fn pin(pins: &Pins, slot: u32) -> PathBuf {
    pins.maps.join(format!("TEXT_{}", slot & 1))
}

fn failed(operation: &str, path: &Path, error: io::Error) -> Error {
    Error::system(format!("{operation} `{}`", path.display()), error)
}

/// Keeps a slot's text in place of what was kept there, all of it or nothing.
///
/// # Errors
///
/// No memory, or the pin could not be made.
pub fn keep(pins: &Pins, slot: u32, text: &[u8]) -> Result<(), Error> {
    let path = pin(pins, slot);
    // The length goes first; zeroes fill up the end.
    let mut bytes = (text.len() as u64).to_ne_bytes().to_vec();
    bytes.extend_from_slice(text);
    let chunks = bytes.len().div_ceil(CHUNK) as u32;
    let fd =
        sys::create_array(CHUNK as u32, chunks).map_err(|error| failed("making room for", &path, error))?;
    let map: Map<u32, Chunk> = Map::over("TEXT", fd)?;
    let mut room: Box<Chunk> = Box::new([0; CHUNK]);
    for (index, chunk) in bytes.chunks(CHUNK).enumerate() {
        room.fill(0);
        for (to, from) in room.iter_mut().zip(chunk) {
            *to = *from;
        }
        map.write(&(index as u32), &room, 0)?;
    }
    let mut beside = path.clone().into_os_string();
    beside.push("_new");
    let beside = PathBuf::from(beside);
    let _ = fs::remove_file(&beside);
    sys::pin(map.as_fd(), &beside).map_err(|error| failed("pinning", &beside, error))?;
    fs::rename(&beside, &path).map_err(|error| failed("pinning", &path, error))
}

/// A slot's text, if one is kept.
///
/// # Errors
///
/// It cannot be read.
pub fn kept(pins: &Pins, slot: u32) -> Result<Option<Vec<u8>>, Error> {
    let path = pin(pins, slot);
    let fd = match sys::open_pin(&path) {
        Ok(fd) => fd,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("opening", &path, error)),
    };
    let map: Map<u32, Chunk> = Map::over("TEXT", fd)?;
    let mut bytes = Vec::new();
    let mut len = size_of::<u64>();
    let mut index = 0;
    while bytes.len() < len {
        let Some(chunk) = map.read(&index)? else {
            return Ok(None);
        };
        bytes.extend_from_slice(&chunk);
        if index == 0 {
            let Some(first) = chunk.first_chunk() else {
                return Ok(None);
            };
            len += usize::try_from(u64::from_ne_bytes(*first)).unwrap_or(usize::MAX - len);
        }
        index += 1;
    }
    bytes.truncate(len);
    Ok(Some(bytes.split_off(size_of::<u64>())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_back_whole() {
        let pins = Pins::new(&PathBuf::from(format!(
            "/sys/fs/bpf/segd-unit-text-{}",
            std::process::id()
        )));
        if let Err(error) = crate::datapath::kernel::check_privilege().and_then(|()| pins.create()) {
            assert!(std::env::var_os("SEGD_REQUIRE_KERNEL").is_none(), "{error}");
            eprintln!("skipped: {error}");
            return;
        }
        let nothing = kept(&pins, 0);
        let mut read = Vec::new();
        for len in [0, 1, CHUNK - 8, CHUNK - 7, 3 * CHUNK] {
            let text: Vec<u8> = (0..len).map(|at| at as u8 | 1).collect();
            let kept = keep(&pins, 0, &text).and_then(|()| kept(&pins, 0));
            read.push((kept, text));
        }
        let other = kept(&pins, 1);
        crate::datapath::unload(&pins.root).unwrap();
        assert_eq!(nothing.unwrap(), None);
        assert_eq!(other.unwrap(), None);
        for (kept, text) in read {
            assert!(kept.unwrap() == Some(text.clone()), "{} bytes", text.len());
        }
    }
}
