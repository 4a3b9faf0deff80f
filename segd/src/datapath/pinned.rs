//! The pinned maps, held open: a pin that somebody took away is made again.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
};

use super::{Error, links::Repair, manifest, object::PINNED, pins::Pins, sys};

/// Every map that outlives the daemon, and the manifest.
#[derive(Debug)]
pub struct PinnedMaps {
    pins: Pins,
    maps: Vec<Pinned>,
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
        let mut maps = Vec::new();
        for &name in PINNED.iter().chain([&manifest::NAME]) {
            let pin = pins.maps.join(name);
            let failed = |error| Error::system(format!("opening the pinned map `{}`", pin.display()), error);
            let map = sys::open_pin(&pin).map_err(failed)?;
            let id = sys::info::map_info(map.as_fd()).map_err(failed)?.id;
            maps.push(Pinned { name, pin, map, id });
        }
        Ok(PinnedMaps {
            pins: pins.clone(),
            maps,
        })
    }

    /// The maps whose pins are gone, a sentence each: they would end with the programs, and the next daemon would
    /// not find them.
    #[must_use]
    pub fn lost(&self) -> Vec<String> {
        self.maps
            .iter()
            .filter_map(|pinned| pinned.lost().map(|why| format!("map {}: {why}", pinned.name)))
            .collect()
    }

    /// Pins again what lost its pin. What cannot be is told by [`PinnedMaps::lost`].
    pub fn repair(&self) -> Vec<Repair> {
        let mut repairs = Vec::new();
        for pinned in &self.maps {
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

impl Pinned {
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
