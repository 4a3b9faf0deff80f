//! This host's addresses and network namespaces.

use std::collections::BTreeMap;

use segd_common::address::{Address, LOCAL_HOST, Local, Namespace};

use super::{
    Error,
    map::{Map, Maps},
};

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

/// The tables of addresses and namespaces.
#[derive(Debug)]
pub struct Places {
    locals: Map<Address, Local>,
    namespaces: Map<u64, Namespace>,
    written: BTreeMap<Address, Local>,
}

impl Places {
    /// Opens the tables.
    ///
    /// # Errors
    ///
    /// A map that cannot be opened.
    pub fn open(maps: &impl Maps) -> Result<Places, Error> {
        let locals: Map<Address, Local> = Map::open(maps, "LOCALS")?;
        let mut written = BTreeMap::new();
        for address in locals.keys()? {
            written.insert(address, locals.read(&address)?.unwrap_or_default());
        }
        Ok(Places {
            locals,
            namespaces: Map::open(maps, "NAMESPACES")?,
            written,
        })
    }

    /// Makes the address table say exactly this: `(cookie, is the initial namespace, addresses)` each.
    /// An address that several namespaces have belongs to none of them, except for the host's own, which nobody
    /// takes from it.
    ///
    /// # Errors
    ///
    /// A write that failed; the next call repeats it.
    pub fn set_addresses<'a>(
        &mut self,
        namespaces: impl IntoIterator<Item = (u64, bool, &'a [Address])>,
    ) -> Result<(), Error> {
        let mut wanted: BTreeMap<Address, Local> = BTreeMap::new();
        for (cookie, is_host, addresses) in namespaces {
            let this = Local {
                namespace: cookie,
                flags: if is_host { LOCAL_HOST } else { 0 },
                reserved: 0,
            };
            for address in addresses {
                if segd_common::address::is_loopback(address) {
                    continue;
                }
                wanted
                    .entry(*address)
                    .and_modify(|local| {
                        if is_host {
                            *local = this;
                        } else if local.namespace != cookie && local.flags & LOCAL_HOST == 0 {
                            *local = Local::default();
                        }
                    })
                    .or_insert(this);
            }
        }
        for (address, local) in &wanted {
            if self.written.get(address) != Some(local) {
                self.locals.write(address, local, 0)?;
                self.written.insert(*address, *local);
            }
        }
        let gone: Vec<Address> = self
            .written
            .keys()
            .filter(|address| !wanted.contains_key(*address))
            .copied()
            .collect();
        for address in gone {
            self.locals.remove(&address)?;
            self.written.remove(&address);
        }
        Ok(())
    }

    /// How many addresses are known.
    #[must_use]
    pub fn addresses(&self) -> usize {
        self.written.len()
    }

    /// Says who lives in a namespace under the revision of a slot.
    pub fn set_lives(&self, cookie: u64, slot: u32, lives: Lives) -> Result<(), Error> {
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
        if known != Some(entry) {
            self.namespaces.write(&cookie, &entry, 0)?;
        }
        Ok(())
    }

    /// Forgets namespaces that are gone.
    pub fn keep_namespaces(&self, living: &dyn Fn(u64) -> bool) -> Result<(), Error> {
        for cookie in self.namespaces.keys()? {
            if !living(cookie) {
                self.namespaces.remove(&cookie)?;
            }
        }
        Ok(())
    }
}
