//! This host's addresses and network namespaces.

use std::collections::BTreeMap;

use aya::Pod;
use segd_common::address::{
    Address, LOCAL_BY_LINK, LOCAL_HOST, Link, Local, MAX_LOCALS, Namespace, SOURCE_OWN, Source,
};

use super::{
    Error,
    map::{Map, Maps},
};

/// The addresses of a namespace.
#[derive(Clone, Copy, Debug)]
pub struct Addresses<'a> {
    /// Its cookie.
    pub namespace: u64,
    /// It is the initial one.
    pub is_host: bool,
    /// The host reaches it by a link of its own.
    pub by_link: bool,
    /// The addresses.
    pub addresses: &'a [Address],
}

/// Who lives in a namespace under one revision.
#[derive(Clone, Copy, Debug)]
pub struct Lives {
    /// The one segment whose workloads live in it, or `HOST`, or `NONE` if nobody can tell.
    pub owner: u16,
    /// `NAMESPACE_` flags.
    pub flags: u16,
    /// The one segment that claims all its addresses, or `NONE`.
    pub claimed: u16,
}

/// What found no room in its table. Nothing is allowed because of it: an address that is not known is the network's, what no socket
/// accounts for does not come out of an unknown link, and nobody is known to own an unknown namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Addresses.
    pub addresses: usize,
    /// Links of namespaces.
    pub links: usize,
    /// Addresses that may send by links.
    pub sources: usize,
}

/// The tables of addresses and namespaces.
#[derive(Debug)]
pub struct Places {
    state: Map<u32, u64>,
    locals: Map<Address, Local>,
    namespaces: Map<u64, Namespace>,
    written: BTreeMap<Address, Local>,
    left_out: LeftOut,
    links: Map<u32, Link>,
    written_links: BTreeMap<u32, Link>,
    sources: Map<Source, u32>,
    written_sources: BTreeMap<Source, u32>,
}

/// What a table holds.
fn all<K: Pod + Ord, V: Pod + Default>(map: &Map<K, V>) -> Result<BTreeMap<K, V>, Error> {
    let mut written = BTreeMap::new();
    for key in map.keys()? {
        let value = map.read(&key)?.unwrap_or_default();
        written.insert(key, value);
    }
    Ok(written)
}

/// Removes from a table what is no longer wanted.
fn keep<K: Pod + Ord, V>(
    map: &Map<K, V>,
    written: &mut BTreeMap<K, V>,
    wanted: impl Fn(&K) -> bool,
) -> Result<(), Error> {
    let gone: Vec<K> = written.keys().filter(|key| !wanted(key)).copied().collect();
    for key in gone {
        map.remove(&key)?;
        written.remove(&key);
    }
    Ok(())
}

/// Whose each address is, and how many found no room.
fn locals<'a>(namespaces: impl IntoIterator<Item = Addresses<'a>>) -> (BTreeMap<Address, Local>, usize) {
    let mut locals: BTreeMap<Address, Local> = BTreeMap::new();
    let mut left_out = 0;
    let mut places: Vec<Addresses<'a>> = namespaces.into_iter().collect();
    places.sort_by_key(|place| !place.is_host);
    for place in places {
        let by_link = if place.by_link { LOCAL_BY_LINK } else { 0 };
        let this = Local {
            namespace: place.namespace,
            flags: if place.is_host { LOCAL_HOST } else { by_link },
            reserved: 0,
        };
        for address in place.addresses {
            if segd_common::address::is_loopback(address) {
                continue;
            }
            let full = locals.len() >= MAX_LOCALS as usize;
            match locals.get_mut(address) {
                Some(local) if local.namespace != place.namespace && local.flags & LOCAL_HOST == 0 => {
                    *local = Local {
                        flags: local.flags & this.flags & LOCAL_BY_LINK,
                        ..Local::default()
                    };
                }
                Some(_) => {}
                None if full => left_out += 1,
                None => drop(locals.insert(*address, this)),
            }
        }
    }
    (locals, left_out)
}

impl Places {
    /// Opens the tables.
    ///
    /// # Errors
    ///
    /// A map that cannot be opened.
    pub fn open(maps: &impl Maps) -> Result<Places, Error> {
        let locals: Map<Address, Local> = Map::open(maps, "LOCALS")?;
        let links: Map<u32, Link> = Map::open(maps, "LINKS")?;
        let sources: Map<Source, u32> = Map::open(maps, "SOURCES")?;
        let places = Places {
            state: Map::open(maps, "PLACES")?,
            namespaces: Map::open(maps, "NAMESPACES")?,
            written: all(&locals)?,
            locals,
            left_out: LeftOut::default(),
            written_links: all(&links)?,
            links,
            written_sources: all(&sources)?,
            sources,
        };
        // Whoever wrote before may not have come to say so.
        places.changed()?;
        Ok(places)
    }

    /// Tells the kernel programs, after each change, that what they remember of places may not be so any more.
    fn changed(&self) -> Result<(), Error> {
        let state = self.state.read(&0)?.unwrap_or_default();
        self.state.write(&0, &state.wrapping_add(1), 0).map(drop)
    }

    /// Makes the address table say exactly this, the host's addresses first. What does not fit is left out.
    /// An address that several namespaces have belongs to none of them, except for the host's own, which nobody
    /// takes from it. If all of them hang on the host by links, it still comes by no other way.
    ///
    /// # Errors
    ///
    /// A write that failed; the next call repeats it.
    pub fn set_addresses<'a>(
        &mut self,
        namespaces: impl IntoIterator<Item = Addresses<'a>>,
    ) -> Result<(), Error> {
        let (wanted, left_out) = locals(namespaces);
        self.left_out.addresses = left_out;
        if self.written == wanted {
            return Ok(());
        }
        let put = self.put_addresses(&wanted);
        self.changed().and(put)
    }

    fn put_addresses(&mut self, wanted: &BTreeMap<Address, Local>) -> Result<(), Error> {
        // What is gone makes room for what is new.
        keep(&self.locals, &mut self.written, |address| {
            wanted.contains_key(address)
        })?;
        for (address, local) in wanted {
            if self.written.get(address) != Some(local) {
                self.locals.write(address, local, 0)?;
                self.written.insert(*address, *local);
            }
        }
        Ok(())
    }

    /// Says which links lead to which namespaces, and by which sources frames may come out of them. Others stay until
    /// [`Places::keep_links`].
    ///
    /// # Errors
    ///
    /// A write that failed; the next call repeats it.
    pub fn set_links(
        &mut self,
        links: &BTreeMap<u32, Link>,
        sources: &BTreeMap<Source, u32>,
    ) -> Result<(), Error> {
        // Sources go first: a link that is known asks for them. Without room for them nothing gets out by it.
        self.left_out.sources = 0;
        // What a namespace sends by its own name goes before what it sends for those behind it.
        let (own, behind): (Vec<_>, Vec<_>) = sources.iter().partition(|(_, kind)| **kind == SOURCE_OWN);
        for (source, kind) in own.into_iter().chain(behind) {
            if self.written_sources.get(source) == Some(kind) {
                continue;
            }
            if self.sources.write_if_room(source, kind)? {
                self.written_sources.insert(*source, *kind);
            } else {
                self.left_out.sources += 1;
            }
        }
        self.left_out.links = 0;
        for (device, link) in links {
            if self.written_links.get(device) == Some(link) {
                continue;
            }
            if self.links.write_if_room(device, link)? {
                self.written_links.insert(*device, *link);
            } else {
                self.left_out.links += 1;
            }
        }
        Ok(())
    }

    /// Forgets other links and sources, once no program hangs on those links any more: what comes out of a link that it does not
    /// know it takes for a stranger's. `false`: there is room now for what did not fit.
    ///
    /// # Errors
    ///
    /// A removal that failed; the next call repeats it.
    pub fn keep_links(
        &mut self,
        links: &BTreeMap<u32, Link>,
        sources: &BTreeMap<Source, u32>,
    ) -> Result<bool, Error> {
        let before = self.written_links.len() + self.written_sources.len();
        keep(&self.links, &mut self.written_links, |device| {
            links.contains_key(device)
        })?;
        keep(&self.sources, &mut self.written_sources, |source| {
            sources.contains_key(source)
        })?;
        let gone = before > self.written_links.len() + self.written_sources.len();
        Ok(!gone || (self.left_out.links == 0 && self.left_out.sources == 0))
    }

    /// What did not fit.
    #[must_use]
    pub fn left_out(&self) -> LeftOut {
        self.left_out
    }

    /// How many addresses are known.
    #[must_use]
    pub fn addresses(&self) -> usize {
        self.written.len()
    }

    /// Says who lives in a namespace under the revision of a slot. `false`: the table is full, and nobody is known to.
    ///
    /// # Errors
    ///
    /// A read or a write that failed.
    pub fn set_lives(&self, cookie: u64, slot: u32, lives: Lives) -> Result<bool, Error> {
        let known = self.namespaces.read(&cookie)?;
        let mut entry = known.unwrap_or_default();
        let slot = slot as usize & 1;
        for (to, value) in [
            (&mut entry.owner, lives.owner),
            (&mut entry.flags, lives.flags),
            (&mut entry.claimed, lives.claimed),
        ] {
            if let Some(to) = to.get_mut(slot) {
                *to = value;
            }
        }
        if known == Some(entry) {
            return Ok(true);
        }
        let written = self.namespaces.write_if_room(&cookie, &entry)?;
        if written {
            self.changed()?;
        }
        Ok(written)
    }

    /// What is said of namespaces.
    ///
    /// # Errors
    ///
    /// A read that failed.
    pub fn lives(&self) -> Result<BTreeMap<u64, Namespace>, Error> {
        all(&self.namespaces)
    }

    /// Forgets namespaces that are gone.
    pub fn keep_namespaces(&self, living: &dyn Fn(u64) -> bool) -> Result<(), Error> {
        for cookie in self.namespaces.keys()? {
            if !living(cookie) {
                self.namespaces.remove(&cookie)?;
                self.changed()?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use segd_common::address::mapped;

    use super::*;

    const SHARED: Address = mapped([192, 0, 2, 1]);

    fn place(namespace: u64, by_link: bool) -> Addresses<'static> {
        Addresses {
            namespace,
            is_host: namespace == 1,
            by_link,
            addresses: &[SHARED],
        }
    }

    fn told(places: &[Addresses<'static>]) -> (u64, u32) {
        let (locals, _) = locals(places.iter().copied());
        (locals[&SHARED].namespace, locals[&SHARED].flags)
    }

    #[test]
    fn who_claims_an_address_too_takes_it_from_its_owner_and_nothing_else() {
        assert_eq!(told(&[place(5, true)]), (5, LOCAL_BY_LINK));
        assert_eq!(told(&[place(5, true), place(6, true)]), (0, LOCAL_BY_LINK));
        assert_eq!(
            told(&[place(5, true), place(6, true), place(7, true)]),
            (0, LOCAL_BY_LINK)
        );
        for order in [[5, 6, 7], [7, 6, 5], [6, 7, 5]] {
            let places = order.map(|number| place(number, number != 6));
            assert_eq!(told(&places), (0, 0), "one of them comes by some other way");
        }
        assert_eq!(told(&[place(5, true), place(1, false)]), (1, LOCAL_HOST));
    }
}
