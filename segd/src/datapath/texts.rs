//! What a slot was made from, kept beside it: the next daemon finds out what is enforced from the kernel alone.
//!
//! A text lies in an array of its own. Where it is pinned, and that it stays pinned, is [`super::pinned`]'s. It consists of parts that
//! have room to grow, filled up with spaces, so that a change is written where it is and nowhere else.
//!
//! INVARIANT: while a text is changed in its place it has no length, and nothing can be read of it, unless a single write changes it. Of
//! a slot in force no more than the head is written again, in one: whoever dies meanwhile leaves the text of what is in force.

use std::os::fd::OwnedFd;

use super::{Error, map::Map, sys};
use crate::policy::model::Source;

/// The pin of each slot's text.
pub const NAMES: [&str; 2] = ["TEXT_0", "TEXT_1"];

/// The bytes of one element.
const CHUNK: usize = 32 * 1024;

type Chunk = [u8; CHUNK];

/// A text begins with its length.
const LEN: usize = size_of::<u64>();
/// What fills up room that no part takes: no matter between the parts of a text.
const FILL: u8 = b' ';

/// A text in parts.
pub struct Parts<'p> {
    /// What is another each time.
    pub head: &'p [u8],
    /// Of what there is a part each.
    pub sources: &'p [Source],
    /// The part of one, by its place.
    pub part: &'p dyn Fn(usize, &Source) -> Vec<u8>,
    /// The same each time.
    pub tail: &'static [u8],
}

/// Where the parts of a text lie that was written.
#[derive(Debug)]
pub struct Layout {
    head: Room,
    parts: Vec<(Room, Source)>,
    /// All of it, without its length.
    len: usize,
}

/// A part's room, counted from the beginning of the map.
#[derive(Clone, Copy, Debug)]
struct Room {
    at: usize,
    room: usize,
    /// What of it is taken.
    taken: usize,
}

impl Room {
    fn new(at: usize, taken: usize, spare: usize) -> Room {
        let room = (taken + spare).next_multiple_of(64);
        Room { at, room, taken }
    }

    const fn end(&self) -> usize {
        self.at + self.room
    }
}

/// Puts a text into a map of its own.
///
/// # Errors
///
/// No memory.
pub fn write(parts: &Parts<'_>) -> Result<(OwnedFd, Layout), Error> {
    let head = Room::new(LEN, parts.head.len(), 1024);
    let mut end = head.end();
    let mut rooms = Vec::with_capacity(parts.sources.len());
    let mut texts = Vec::with_capacity(parts.sources.len());
    for (place, source) in parts.sources.iter().enumerate() {
        let text = (parts.part)(place, source);
        let room = Room::new(end, text.len(), text.len() / 16);
        end = room.end();
        rooms.push((room, source.clone()));
        texts.push(text);
    }
    let len = end - LEN + parts.tail.len();
    let chunks = (LEN + len).div_ceil(CHUNK) as u32;
    let fd = sys::create_array(CHUNK as u32, chunks)
        .map_err(|error| Error::system("making room for the policy's text", error))?;
    let map: Map<u32, Chunk> = Map::over("TEXT", fd)?;
    let mut out = Chunks {
        map: &map,
        chunk: Box::new([FILL; CHUNK]),
        at: 0,
    };
    out.add(&(len as u64).to_ne_bytes(), LEN)?;
    out.add(parts.head, head.room)?;
    for ((room, _), text) in rooms.iter().zip(texts) {
        out.add(&text, room.room)?;
    }
    out.add(parts.tail, parts.tail.len())?;
    out.finish()?;
    let layout = Layout {
        head,
        parts: rooms,
        len,
    };
    Ok((map.into_fd(), layout))
}

/// Writes what differs into a map that holds a text. `None`: it does not fit in there, and nothing was written.
///
/// # Errors
///
/// A write that failed: nothing can be read there any more.
pub fn write_again(map: &OwnedFd, mut layout: Layout, parts: &Parts<'_>) -> Result<Option<Layout>, Error> {
    if layout.parts.len() != parts.sources.len() || parts.head.len() > layout.head.room {
        return Ok(None);
    }
    let mut changes = Vec::new();
    for (place, ((room, kept), source)) in layout.parts.iter_mut().zip(parts.sources).enumerate() {
        if kept == source {
            continue;
        }
        let mut part = (parts.part)(place, source);
        let taken = part.len();
        if taken > room.room {
            return Ok(None);
        }
        part.resize(taken.max(room.taken), FILL);
        changes.push((room.at, part));
        room.taken = taken;
        kept.clone_from(source);
    }
    let map: Map<u32, Chunk> = Map::over("TEXT", clone(map)?)?;
    let mut head = parts.head.to_vec();
    head.resize(layout.head.room, FILL);
    layout.head.taken = parts.head.len();
    if changes.is_empty() && layout.head.end() <= CHUNK {
        // One element: the text is what it was, or what it is to be. Its length stays.
        patch(&map, layout.head.at, &head)?;
        return Ok(Some(layout));
    }
    patch(&map, 0, &[0; LEN])?;
    for (at, part) in &changes {
        patch(&map, *at, part)?;
    }
    patch(&map, layout.head.at, &head)?;
    patch(&map, 0, &(layout.len as u64).to_ne_bytes())?;
    Ok(Some(layout))
}

/// Writes bytes over what a map holds from a place on.
fn patch(map: &Map<u32, Chunk>, mut at: usize, mut bytes: &[u8]) -> Result<(), Error> {
    let mut room: Box<Chunk> = Box::new([0; CHUNK]);
    while !bytes.is_empty() {
        let (index, from) = ((at / CHUNK) as u32, at % CHUNK);
        let (now, rest) = bytes.split_at(bytes.len().min(CHUNK - from));
        if now.len() < CHUNK {
            *room = map.read(&index)?.unwrap_or([0; CHUNK]);
        }
        if let Some(room) = room.get_mut(from..from + now.len()) {
            room.copy_from_slice(now);
        }
        map.write(&index, &room, 0)?;
        (at, bytes) = (at + now.len(), rest);
    }
    Ok(())
}

/// Chunks that are filled one after another.
struct Chunks<'m> {
    map: &'m Map<u32, Chunk>,
    chunk: Box<Chunk>,
    at: usize,
}

impl Chunks<'_> {
    /// Adds what takes so much room, or less.
    fn add(&mut self, mut bytes: &[u8], room: usize) -> Result<(), Error> {
        let end = self.at + room;
        while self.at < end {
            let from = self.at % CHUNK;
            let step = (CHUNK - from).min(end - self.at);
            let (now, rest) = bytes.split_at(bytes.len().min(step));
            if let Some(to) = self.chunk.get_mut(from..from + now.len()) {
                to.copy_from_slice(now);
            }
            self.at += step;
            bytes = rest;
            if self.at.is_multiple_of(CHUNK) {
                self.next()?;
            }
        }
        Ok(())
    }

    /// Writes the chunk that was filled last.
    fn next(&mut self) -> Result<(), Error> {
        let index = self.at.div_ceil(CHUNK) - 1;
        self.map.write(&(index as u32), &self.chunk, 0)?;
        self.chunk.fill(FILL);
        Ok(())
    }

    /// Writes the last one.
    fn finish(mut self) -> Result<(), Error> {
        match self.at.is_multiple_of(CHUNK) {
            true => Ok(()),
            false => self.next(),
        }
    }
}

fn clone(map: &OwnedFd) -> Result<OwnedFd, Error> {
    map.try_clone()
        .map_err(|error| Error::system("opening the policy's text", error))
}

/// The text in a map, if all of it is there.
///
/// # Errors
///
/// It cannot be read.
pub fn read(map: &OwnedFd) -> Result<Option<Vec<u8>>, Error> {
    let map: Map<u32, Chunk> = Map::over("TEXT", clone(map)?)?;
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

    fn part(place: usize, source: &Source) -> Vec<u8> {
        format!("<{place}{}>", source.text).into_bytes()
    }

    fn parts<'p>(head: &'p str, sources: &'p [Source]) -> Parts<'p> {
        Parts {
            head: head.as_bytes(),
            sources,
            part: &part,
            tail: b"]",
        }
    }

    #[test]
    fn what_is_kept_is_read_back_whole() {
        if let Err(error) = crate::datapath::kernel::check_privilege() {
            assert!(std::env::var_os("SEGD_REQUIRE_KERNEL").is_none(), "{error}");
            eprintln!("skipped: {error}");
            return;
        }
        let text = |lens: &[usize], byte: u8| -> Vec<Source> {
            let named = lens.iter().enumerate().map(|(place, len)| Source {
                name: place.to_string(),
                text: String::from_utf8(vec![byte; *len]).unwrap().into(),
            });
            named.collect()
        };
        let said = |head: &str, sources: &[Source]| {
            let parts = sources.iter().enumerate();
            let parts = parts.map(|(place, source)| String::from_utf8(part(place, source)).unwrap());
            format!("{head}{}]", parts.collect::<String>())
        };
        let read = |map: &OwnedFd| {
            let text = String::from_utf8(read(map).unwrap().unwrap()).unwrap();
            text.replace(' ', "")
        };
        let first: [&[usize]; 7] = [
            &[],
            &[0],
            &[CHUNK - 8],
            &[CHUNK, CHUNK - 7],
            &[3 * CHUNK, 5, 5, CHUNK],
            &[40; 4000],
            &[CHUNK - 8 - 1088 - 3],
        ];
        for lens in first {
            let sources = text(lens, b'a');
            let (map, mut layout) = write(&parts("one", &sources)).unwrap();
            assert_eq!(read(&map), said("one", &sources), "{lens:?}");
            // Shorter, longer as far as there is room, and the same.
            for (head, change) in [("two", -1_isize), ("", 1), ("four", 2), ("five", 0), ("six", -5)] {
                let changed = |len: &usize| match len {
                    0..64 => *len,
                    _ => len.saturating_add_signed(change * (*len as isize / 64)),
                };
                let mut now = text(&lens.iter().map(changed).collect::<Vec<_>>(), b'b');
                // One of them is as it was.
                if let (Some(last), Some(before)) = (now.last_mut(), layout.parts.last()) {
                    *last = before.1.clone();
                }
                layout = write_again(&map, layout, &parts(head, &now))
                    .unwrap()
                    .expect("it fits");
                assert_eq!(read(&map), said(head, &now), "{lens:?} {change}");
                let places = layout.parts.iter().map(|(room, _)| room.taken);
                let taken = now
                    .iter()
                    .enumerate()
                    .map(|(place, source)| part(place, source).len());
                assert!(places.eq(taken), "{lens:?}");
            }
            let now = text(&lens.iter().map(|len| 2 * len + 128).collect::<Vec<_>>(), b'c');
            let held = read(&map);
            if !lens.is_empty() {
                assert!(write_again(&map, layout, &parts("more", &now)).unwrap().is_none());
                assert_eq!(read(&map), held, "what does not fit leaves what there was");
            }
        }
    }

    #[test]
    fn nothing_is_read_of_a_text_that_is_being_changed() {
        if crate::datapath::kernel::check_privilege().is_err() {
            return;
        }
        let sources = [Source {
            name: "a".to_owned(),
            text: "text".into(),
        }];
        let parts = parts("{", &sources);
        let (map, layout) = write(&parts).unwrap();
        let last = super::read(&map).unwrap().unwrap();
        let over: Map<u32, Chunk> = Map::over("TEXT", clone(&map).unwrap()).unwrap();
        patch(&over, 0, &[0; LEN]).unwrap();
        patch(&over, layout.parts[0].0.at, b"half").unwrap();
        assert_eq!(super::read(&map).unwrap(), Some(Vec::new()));
        // A write that comes later makes it whole again.
        let layout = Layout {
            parts: vec![(
                layout.parts[0].0,
                Source {
                    name: "a".to_owned(),
                    text: "half".into(),
                },
            )],
            ..layout
        };
        write_again(&map, layout, &parts).unwrap().unwrap();
        assert_eq!(super::read(&map).unwrap(), Some(last));
    }
}
