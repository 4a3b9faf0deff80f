//! The network namespaces of the host: their addresses, and which workloads live in them.
//!
//! INVARIANT: an address is told of a namespace only if the host's routes do not lead it elsewhere, nor to the host (`belief`).
//! INVARIANT: nothing of segd ever enters another namespace, and nothing looks into other processes through `/proc`:
//! that would take CAP_SYS_ADMIN and CAP_SYS_PTRACE. The kernel programs of `datapath::census` say who is where, and
//! routing netlink which addresses that is.
//!
//! Deliberately absent: namespaces that nothing but an open descriptor or a bind mount outside `/run/netns` and
//! `/run/docker/netns` keeps alive.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
};

use segd_common::{
    address::{Address, mapped},
    census::{Namespace, Task},
};

use self::{
    belief::{Told, believed},
    look::Look,
    netlink::{By, Dump, Leads, Netlink},
};
use super::error::WorkloadError;
use crate::datapath::census::Census;

mod belief;
mod listed;
mod look;
mod netlink;
mod owner;
mod watch;

pub use listed::Listed;
pub use netlink::{Device, Held, Listener};
pub use owner::{Past, Whose, owner};
pub use watch::watch;

/// How often a namespace is asked whose task leaves meanwhile, or that changes.
const ATTEMPTS: usize = 3;

/// A network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceInfo {
    /// Its number: its cookie, as `bpf_get_netns_cookie` tells it, or its inode number where no cookie is told.
    pub cookie: u64,
    /// The inode number of its file.
    pub inode: u64,
    /// It is segd's own, which is the initial one unless segd was put into another.
    pub is_host: bool,
    /// The host's number for it, where it is known.
    pub number: Option<i32>,
    /// Its addresses that are believed, tentative ones included, sorted.
    pub addresses: Vec<Address>,
    /// How many it says to have that the host's routes lead elsewhere, or to the host.
    pub elsewhere: usize,
    /// It was never asked: what addresses it has is not known.
    pub is_unheard: bool,
    /// It has more addresses than are known of one namespace.
    pub more_addresses: bool,
    /// The host's numbers for the namespaces that its devices lead to. Not told for the host's.
    pub ends: BTreeSet<i32>,
    /// The host's devices; none of others.
    pub devices: Vec<Device>,
    /// The host's addresses, with where it has them; none of others.
    pub held: Vec<Held>,
    /// The cgroups that have tasks in it. Not told for the host's.
    pub cgroups: BTreeSet<u64>,
}

/// Lists the network namespaces. Blocks: not for an async thread.
///
/// A namespace that ends meanwhile is left out.
///
/// # Errors
///
/// What the kernel does not tell.
pub fn namespaces(census: &Census) -> Result<Listed, WorkloadError> {
    let asking = |source| WorkloadError::io("ask for", "the addresses of network namespaces", source);
    let netlink = Netlink::open().map_err(asking)?;
    let look = Look::take(census)?;
    let host = host()?;
    let told = again(|| netlink.devices(None)).map_err(asking)?;
    let (mut devices, mut is_complete) = (told.all, told.is_whole);
    for leads in WORLD.map(|address| netlink.route(&address)) {
        for device in devices
            .iter_mut()
            .filter(|device| leads == Leads::By(device.index))
        {
            device.is_way_out = true;
        }
    }
    let told = again(|| netlink.addresses(None)).map_err(asking)?;
    let held = told.all;
    is_complete &= told.is_whole;
    // Devices of others may lead to the host, too.
    let number = fs::File::open(OWN).and_then(|file| netlink.number(By::File(file.as_fd())));
    let mut own = info(
        host,
        number.ok(),
        held.iter().map(|held| held.address).collect(),
        &look,
    );
    own.is_host = true;
    let mut told: Vec<(Namespace, Told)> = Vec::new();
    let mut unheard = BTreeSet::new();
    let mut by_task = BTreeMap::new();
    for namespace in look.namespaces() {
        // Anybody may make a user namespace and give its network any address, the host's or another machine's: what
        // it says of itself moves nobody else's traffic.
        if namespace.delegated != 0 {
            let number = look.by(&namespace).map(|by| netlink.number(by));
            if !matches!(number, Some(Ok(_))) {
                unheard.insert(namespace);
            }
            told.push((
                namespace,
                Told {
                    number: number.and_then(Result::ok),
                    ..Told::default()
                },
            ));
        } else if let Some(file) = look.files.get(&namespace) {
            match tell(&netlink, By::File(file.as_fd())) {
                Ok(of_it) => told.push((namespace, of_it)),
                Err(error) => {
                    tracing::debug!("asking a network namespace that has a name: {error}");
                    unheard.insert(namespace);
                }
            }
        } else if let Some(task) = look.tasks.get(&namespace) {
            by_task.insert(namespace, *task);
        }
    }
    for _ in 0..ATTEMPTS {
        let mut heard: BTreeMap<Namespace, (Task, Told)> = BTreeMap::new();
        for (namespace, task) in &by_task {
            match tell(&netlink, By::Task(task.number)) {
                Ok(told) => drop(heard.insert(*namespace, (*task, told))),
                Err(error) => tracing::debug!("asking the network namespace of a task: {error}"),
            }
        }
        if by_task.is_empty() {
            break;
        }
        // A number may have been given to another task, and that of a namespace to another namespace: only what was
        // told by way of a task that is still there is about its namespace.
        let after = Look::at_tasks(census)?;
        by_task.retain(|namespace, task| match heard.remove(namespace) {
            Some((by, of_it)) if after.is_there(&by) => {
                told.push((*namespace, of_it));
                false
            }
            _ => after.tasks.get(namespace).is_some_and(|other| {
                *task = *other;
                true
            }),
        });
    }
    unheard.extend(by_task.into_keys());
    let others: Vec<&Told> = told.iter().map(|(_, told)| told).collect();
    let rest = told.iter().map(|(namespace, told)| {
        let addresses = believed(told, &others, &devices, |address| netlink.route(address));
        let held: BTreeSet<Address> = told.held.iter().map(|held| held.address).collect();
        let elsewhere = held.len() - addresses.len();
        let info = info(*namespace, told.number, addresses, &look);
        let ends = told.devices.iter().filter_map(|device| device.other_end);
        NamespaceInfo {
            elsewhere,
            ends: ends.collect(),
            ..info
        }
    });
    let mut infos: Vec<NamespaceInfo> = rest.collect();
    own.devices = devices;
    own.held = held;
    infos.insert(0, own);
    let unheard = unheard
        .iter()
        .map(|namespace| (namespace.cookie, look.cgroups(namespace)));
    Ok(Listed {
        heard: infos,
        unheard: unheard.collect(),
        is_complete,
        is_whole: look.is_whole,
    })
}

/// What another namespace says of itself.
fn tell(netlink: &Netlink, by: By<'_>) -> io::Result<Told> {
    let ask = |netlink: &Netlink| {
        let number = Some(netlink.number(by)?);
        Ok(Told {
            number,
            held: again(|| netlink.addresses(number))?.whole()?,
            devices: again(|| netlink.devices(number))?.whole()?,
        })
    };
    // A socket on which an answer was given up may be busy with it yet.
    ask(netlink).or_else(|_: io::Error| ask(&Netlink::open()?))
}

/// Asks until nothing changes meanwhile, or often enough.
fn again<T>(ask: impl Fn() -> io::Result<Dump<T>>) -> io::Result<Dump<T>> {
    let mut told = ask()?;
    for _ in 1..ATTEMPTS {
        if told.is_whole {
            break;
        }
        told = ask()?;
    }
    Ok(told)
}

/// Two addresses of the network at large, one of each family, for which nobody has a route of its own (RFC 7526, RFC 3849). Nothing is
/// sent there.
const WORLD: [Address; 2] = [
    mapped([192, 88, 99, 1]),
    [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
];

/// How many addresses of one namespace are known, the host's aside: whoever may configure it must not fill the table.
const MAX_OF_ONE: usize = 1024;

fn info(
    namespace: Namespace,
    number: Option<i32>,
    mut addresses: Vec<Address>,
    look: &Look,
) -> NamespaceInfo {
    let more_addresses = addresses.len() > MAX_OF_ONE;
    addresses.truncate(MAX_OF_ONE);
    NamespaceInfo {
        cookie: namespace.cookie,
        inode: u64::from(namespace.inode),
        number,
        addresses,
        more_addresses,
        cgroups: look.cgroups(&namespace),
        ..NamespaceInfo::default()
    }
}

const OWN: &str = "/proc/self/ns/net";

/// The namespace that segd is in.
fn host() -> Result<Namespace, WorkloadError> {
    let failed = |source| WorkloadError::io("look at", OWN, source);
    let metadata = fs::metadata(OWN).map_err(failed)?;
    let number = crate::datapath::kernel::own_namespace();
    Ok(Namespace {
        cookie: number
            .map_err(|error| failed(std::io::Error::other(error)))?
            .number(),
        inode: metadata.ino() as u32,
        delegated: 0,
    })
}

#[cfg(test)]
mod tests;
