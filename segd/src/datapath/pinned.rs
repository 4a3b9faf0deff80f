//! The pinned maps, held open: a pin that somebody took away is made again.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::PathBuf,
};

use super::{Error, lines, links::Repair, manifest, object::PINNED, pins::Pins, sys, texts};

/// Every map that outlives the daemon, the manifest, and the lines and the text of each slot's policy.
#[derive(Debug)]
pub struct PinnedMaps {
    pins: Pins,
    maps: Vec<Pinned>,
    /// `None`: there are none of the slot.
    lines: [Option<Pinned>; 2],
    /// `None`: nothing was kept of what is in the slot.
    texts: [Option<Pinned>; 2],
    /// Where what this daemon kept lies in them.
    layouts: [Option<texts::Layout>; 2],
}

#[derive(Debug)]
struct Pinned {
    name: &'static str,
    pin: PathBuf,
    map: OwnedFd,
    id: u32,
}

impl PinnedMaps {
    /// Holds what is pinned now.
    ///
    /// # Errors
    ///
    /// A pin that cannot be opened, or is no map's.
    pub fn open(pins: &Pins) -> Result<PinnedMaps, Error> {
        let open = |name| {
            let pin = pins.maps.join(name);
            let map = sys::open_pin(&pin).and_then(|map| Pinned::hold(name, pin.clone(), map));
            (pin, map)
        };
        let failed =
            |pin: PathBuf, error| Error::system(format!("opening the pinned map `{}`", pin.display()), error);
        let mut maps = Vec::new();
        for &name in PINNED.iter().chain([&manifest::NAME]) {
            let (pin, map) = open(name);
            maps.push(map.map_err(|error| failed(pin, error))?);
        }
        let by_slot = |names: [&'static str; 2]| {
            names.map(|name| match open(name) {
                (_, Ok(map)) => Some(map),
                (_, Err(error)) if error.kind() == io::ErrorKind::NotFound => None,
                // Nothing is judged by what lies there instead: the next policy replaces it.
                (pin, Err(error)) => {
                    tracing::warn!("{}", crate::report::chain(&failed(pin, error)));
                    None
                }
            })
        };
        let (lines, texts) = (by_slot(lines::NAMES), by_slot(texts::NAMES));
        Ok(PinnedMaps {
            pins: pins.clone(),
            maps,
            lines,
            texts,
            layouts: [None, None],
        })
    }

    /// Keeps a slot's text in place of what was kept there, all of it or nothing. What of it was there is not written again.
    ///
    /// # Errors
    ///
    /// No memory, or the pin could not be made.
    pub fn keep_text(&mut self, slot: u32, text: &texts::Parts<'_>) -> Result<(), Error> {
        let at = slot as usize & 1;
        let (Some(kept), Some(layout)) = (self.texts.get_mut(at), self.layouts.get_mut(at)) else {
            return Ok(());
        };
        // Of a write that fails nothing is known.
        if let (Some(kept), Some(known)) = (&kept, layout.take()) {
            *layout = texts::write_again(&kept.map, known, text)?;
        }
        if layout.is_none() {
            let (map, new) = texts::write(text)?;
            keep(&self.pins, texts::NAMES, slot, Some(kept), map)?;
            *layout = Some(new);
        }
        Ok(())
    }

    /// Keeps a slot's lines in place of those that were kept there, if they are others.
    ///
    /// # Errors
    ///
    /// The pin could not be made.
    pub fn keep_lines(&mut self, slot: u32, array: BorrowedFd<'_>) -> Result<(), Error> {
        let failed = |error| Error::system("holding the lines of the policy's tables", error);
        let id = sys::info::map_info(array).map_err(failed)?.id;
        match self.lines.get_mut(slot as usize & 1) {
            Some(Some(kept)) if kept.id == id => Ok(()),
            kept => keep(
                &self.pins,
                lines::NAMES,
                slot,
                kept,
                array.try_clone_to_owned().map_err(failed)?,
            ),
        }
    }

    /// A slot's text, if one is kept, whatever became of its pin.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn text(&self, slot: u32) -> Result<Option<Vec<u8>>, Error> {
        match self.texts.get(slot as usize & 1) {
            Some(Some(kept)) => texts::read(&kept.map),
            _ => Ok(None),
        }
    }

    fn all(&self) -> impl Iterator<Item = &Pinned> {
        self.maps
            .iter()
            .chain(self.lines.iter().chain(&self.texts).flatten())
    }

    /// The ids of all of them.
    pub(super) fn ids(&self) -> impl Iterator<Item = u32> {
        self.all().map(|pinned| pinned.id)
    }

    /// The maps whose pins are gone, a sentence each: they would end with the programs, and the next daemon would
    /// not find them.
    #[must_use]
    pub fn lost(&self) -> Vec<String> {
        self.all()
            .filter_map(|pinned| pinned.lost().map(|why| format!("map {}: {why}", pinned.name)))
            .collect()
    }

    /// Pins again what lost its pin. What cannot be is told by [`PinnedMaps::lost`].
    pub fn repair(&self) -> Vec<Repair> {
        let mut repairs = Vec::new();
        for pinned in self.all() {
            let Some(why) = pinned.lost() else { continue };
            let pin = || -> Result<(), Error> {
                self.pins.create()?;
                sys::pin_over(pinned.map.as_fd(), &pinned.pin)
                    .map_err(|error| Error::system(format!("pinning the map `{}`", pinned.name), error))
            };
            match pin() {
                Ok(()) => repairs.push(Repair {
                    lost: "map-unpinned",
                    what: format!("map {}: {why}; pinned again", pinned.name),
                }),
                Err(error) => tracing::debug!("{}", crate::report::chain(&error)),
            }
        }
        repairs
    }
}

/// Pins a map by a slot's name, in place of what has it.
fn keep(
    pins: &Pins,
    names: [&'static str; 2],
    slot: u32,
    kept: Option<&mut Option<Pinned>>,
    map: OwnedFd,
) -> Result<(), Error> {
    let (Some(name), Some(kept)) = (names.get(slot as usize & 1), kept) else {
        return Ok(());
    };
    let pin = pins.maps.join(name);
    let failed = |error| Error::system(format!("pinning `{}`", pin.display()), error);
    sys::pin_over(map.as_fd(), &pin).map_err(failed)?;
    *kept = Some(Pinned::hold(name, pin.clone(), map).map_err(failed)?);
    Ok(())
}

impl Pinned {
    fn hold(name: &'static str, pin: PathBuf, map: OwnedFd) -> io::Result<Pinned> {
        let id = sys::info::map_info(map.as_fd())?.id;
        Ok(Pinned { name, pin, map, id })
    }

    fn lost(&self) -> Option<String> {
        let found = sys::open_pin(&self.pin).and_then(|pin| sys::info::map_info(pin.as_fd()));
        match found {
            Ok(info) if info.id == self.id => None,
            Ok(_) => Some("another map is pinned in its place".to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some("its pin is gone".to_owned()),
            Err(error) => Some(format!("its pin does not answer: {error}")),
        }
    }
}
