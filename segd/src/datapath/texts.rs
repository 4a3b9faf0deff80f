//! What a slot was made from, kept beside it: the next daemon finds out what is enforced from the kernel alone.
//!
//! A text lies in an array of its own. Where it is pinned, and that it stays pinned, is [`super::pinned`]'s.

use std::os::fd::OwnedFd;

use super::{Error, map::Map, sys};

/// The pin of each slot's text.
pub const NAMES: [&str; 2] = ["TEXT_0", "TEXT_1"];

/// The bytes of one element.
const CHUNK: usize = 32 * 1024;

type Chunk = [u8; CHUNK];

/// Puts a text into a map of its own.
///
/// # Errors
///
/// No memory.
pub fn write(text: &[u8]) -> Result<OwnedFd, Error> {
    // The length goes first; zeroes fill up the end.
    let len = (text.len() as u64).to_ne_bytes();
    let (first, rest) = text.split_at(text.len().min(CHUNK - len.len()));
    let chunks = 1 + rest.len().div_ceil(CHUNK) as u32;
    let fd = sys::create_array(CHUNK as u32, chunks)
        .map_err(|error| Error::system("making room for the policy's text", error))?;
    let map: Map<u32, Chunk> = Map::over("TEXT", fd)?;
    let mut room: Box<Chunk> = Box::new([0; CHUNK]);
    let first = len.iter().chain(first);
    room.iter_mut().zip(first).for_each(|(to, from)| *to = *from);
    map.write(&0, &room, 0)?;
    for (index, chunk) in (1..).zip(rest.chunks(CHUNK)) {
        let (filled, empty) = room.split_at_mut(chunk.len());
        filled.copy_from_slice(chunk);
        empty.fill(0);
        map.write(&index, &room, 0)?;
    }
    Ok(map.into_fd())
}

/// The text in a map, if all of it is there.
///
/// # Errors
///
/// It cannot be read.
pub fn read(map: &OwnedFd) -> Result<Option<Vec<u8>>, Error> {
    let fd = map
        .try_clone()
        .map_err(|error| Error::system("opening the policy's text", error))?;
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
        if let Err(error) = crate::datapath::kernel::check_privilege() {
            assert!(std::env::var_os("SEGD_REQUIRE_KERNEL").is_none(), "{error}");
            eprintln!("skipped: {error}");
            return;
        }
        for len in [0, 1, CHUNK - 8, CHUNK - 7, 3 * CHUNK] {
            let text: Vec<u8> = (0..len).map(|at| at as u8 | 1).collect();
            let map = write(&text).unwrap();
            assert!(read(&map).unwrap() == Some(text), "{len} bytes");
        }
    }
}
