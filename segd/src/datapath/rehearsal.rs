//! The kernel programs rehearsed: loaded for one caller alone, given a policy and a cast, run on packets by
//! `BPF_PROG_TEST_RUN`. Nothing is attached and nothing is pinned; it ends with its owner.
//!
//! How a rehearsal differs from the stage, and no more (net/bpf/test_run.c):
//! - The packet's socket is a dummy: of no type and protocol, new in each run, so TCP is judged packet by packet, no
//!   socket asked before, and nothing is remembered from one run to the next but who sent what to this host.
//! - Its cgroup is the calling task's (seen on 6.18). [`Rehearsal::play`] says who that is, so no process has to move.
//!   A kernel that allocates the dummy without `sk_alloc` shows another; [`Rehearsal::open`] asks which it is.
//! - Its network namespace is the calling thread's: a rehearsal takes the thread into a new, empty one.

pub mod jury;

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
};

use aya::Ebpf;
use segd_common::{
    config::Active,
    event::Hook,
    told::Told,
    workload::{CgroupSlot, Identity, STATE_NONE},
};

use super::{
    Error,
    cgroups::{Cgroups, Place},
    kernel,
    load::{Chosen, load},
    map::Maps,
    places::Places,
    sys,
    tables::Tables,
};
use crate::{
    policy::compiled::{CompiledTables, Moment},
    report::chain,
    workload::selector::SelectorTables,
};

/// In which namespace the packets are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vantage {
    /// In the host's.
    Host,
    /// In one of the others, a container's.
    Container,
}

/// What the packet's carrier says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// By which device a packet goes or came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By one that leads to the network.
    Wire,
    /// By loopback.
    Loopback,
}

/// What one run of a packet hook said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// What the hook answered the kernel: whether the packet passes.
    pub passes: bool,
    /// The ruling behind the answer.
    pub told: Told,
}

/// The packet hooks of a rehearsal, for several actors: threads that were started by the one that opened it, in whatever
/// cgroups.
#[derive(Debug)]
pub struct Stage {
    egress: OwnedFd,
    ingress: OwnedFd,
    /// A device of this namespace that is not loopback; it goes with its descriptor.
    wire: sys::Tun,
}

/// A private load of the datapath.
pub struct Rehearsal {
    stage: Arc<Stage>,
    tables: Tables,
    cgroups: Cgroups,
    places: Places,
    /// The cgroup that the hooks see.
    cgroup: u64,
    /// The cookie of the namespace they see.
    namespace: u64,
}

impl Rehearsal {
    /// Loads the programs, and takes the calling thread into a network namespace of its own, for good: call it on
    /// a thread that ends with the rehearsal, and rehearse on no other.
    ///
    /// # Errors
    ///
    /// What the host lacks, or what the kernel refused.
    ///
    /// # Minimum kernel version
    ///
    /// As the datapath's own.
    pub fn open(vantage: Vantage) -> Result<Rehearsal, Error> {
        kernel::check_privilege()?;
        let outside = kernel::own_namespace()?.number();
        sys::leave_namespace().map_err(|error| Error::system("making a network namespace", error))?;
        let namespace = kernel::own_namespace()?.number();
        let wire =
            sys::Tun::create().map_err(|error| Error::system("making a device (/dev/net/tun)", error))?;
        let host = match vantage {
            Vantage::Host => namespace,
            Vantage::Container => outside,
        };
        let globals = [("HOST_NAMESPACE", host), ("SUBTREE", 0), ("REHEARSAL", 1)];
        let ebpf = load(None, &globals, Chosen::Only(&["segd_egress", "segd_ingress"]))?;
        let loaded = super::kept::taken(&ebpf)?;
        let program = |name| -> Result<OwnedFd, Error> {
            let copy = loaded.program(name)?.try_clone_to_owned();
            copy.map_err(|error| Error::system(format!("keeping the kernel program `{name}`"), error))
        };
        let stage = Stage {
            egress: program("segd_egress")?,
            ingress: program("segd_ingress")?,
            wire,
        };
        let mut rehearsal = Rehearsal {
            tables: Tables::open(&ebpf)?,
            cgroups: Cgroups::open(&ebpf)?,
            places: Places::open(&ebpf)?,
            stage: Arc::new(stage),
            cgroup: 0,
            namespace,
        };
        rehearsal.cgroup = rehearsal.ask_cgroup()?;
        Ok(rehearsal)
    }

    /// Which cgroup the hooks see in a run. The ruling of a policy that knows nobody tells.
    fn ask_cgroup(&mut self) -> Result<u64, Error> {
        let nobody = CompiledTables {
            flags: segd_common::tables::TABLES_VALID,
            ..CompiledTables::default()
        };
        self.enact(&nobody, Moment::FIRST)?;
        let mut udp = [0; 28];
        udp[0] = 0x45;
        udp[3] = 28;
        udp[9] = segd_common::service::UDP;
        Ok(self
            .stage
            .run(Hook::Egress, Carrier::V4, &udp, Way::Wire)?
            .told
            .cgroup)
    }

    /// Puts a policy in force, by the sequence that the daemon writes a revision in. Nobody has a place in it until
    /// [`Rehearsal::play`] and [`Rehearsal::cast`] say so. `now`: by which its rules end.
    ///
    /// # Errors
    ///
    /// A write that failed.
    pub fn enact(&mut self, tables: &CompiledTables, now: Moment) -> Result<Active, Error> {
        let active = self.tables.active()?;
        let (revision, slot) = (active.revision() + 1, 1 - active.slot());
        // Who is in which segment is said by hand here, not by selectors.
        let nobody = SelectorTables::compile(&CompiledTables::default(), revision, &|_| None);
        let nobody = nobody.map_err(|error| Error::Refused {
            operation: "compiling no selectors".to_owned(),
            message: chain(&error),
        })?;
        self.tables.settle()?;
        self.tables.make_room(slot, tables)?;
        self.tables.write(slot, revision, tables, &nobody, now)?;
        let next = Active::new(revision, slot);
        self.tables.flip(next)?;
        Ok(next)
    }

    /// Says who the packets' own socket is, under the revision in force.
    ///
    /// # Errors
    ///
    /// A write that failed.
    pub fn play(&self, identity: Identity) -> Result<(), Error> {
        self.cast(self.cgroup, identity)
    }

    /// Says who a cgroup is under the revision in force. The id need not belong to a cgroup that exists.
    ///
    /// # Errors
    ///
    /// A write that failed.
    pub fn cast(&self, cgroup: u64, identity: Identity) -> Result<(), Error> {
        let active = self.tables.active()?;
        self.cast_as_of(active.revision(), cgroup, identity)
    }

    /// Says who a cgroup was under some revision, in the slot in force.
    ///
    /// # Errors
    ///
    /// A write that failed.
    pub fn cast_as_of(&self, revision: u32, cgroup: u64, identity: Identity) -> Result<(), Error> {
        let active = self.tables.active()?;
        let place = Place {
            id: cgroup,
            parent: 0,
            path_len: 0,
            flags: 0,
        };
        let tag = CgroupSlot {
            identity,
            revision,
            state: STATE_NONE,
            ..CgroupSlot::default()
        };
        self.cgroups.tag(place, active.slot(), tag)
    }

    /// Forgets a cgroup.
    ///
    /// # Errors
    ///
    /// A write that failed.
    pub fn dismiss(&self, cgroup: u64) -> Result<(), Error> {
        self.cgroups.remove(cgroup)
    }

    /// Which addresses are this host's, and who lives in which namespace.
    pub fn places(&mut self) -> &mut Places {
        &mut self.places
    }

    /// The cgroup that the hooks see.
    #[must_use]
    pub fn cgroup(&self) -> u64 {
        self.cgroup
    }

    /// The cookie of the namespace that the hooks see.
    #[must_use]
    pub fn namespace(&self) -> u64 {
        self.namespace
    }

    /// The slot in force.
    ///
    /// # Errors
    ///
    /// A read that failed.
    pub fn slot(&self) -> Result<u32, Error> {
        Ok(self.tables.active()?.slot())
    }

    /// The packet hooks.
    #[must_use]
    pub fn stage(&self) -> Arc<Stage> {
        Arc::clone(&self.stage)
    }
}

impl Stage {
    /// Shows a packet hook one packet, from its IP header on.
    ///
    /// # Errors
    ///
    /// `EINVAL`: the kernel shows no packet without a whole IP header of its carrier (seen on 6.18; older ones do).
    pub fn run(&self, hook: Hook, carrier: Carrier, packet: &[u8], way: Way) -> Result<Heard, Error> {
        let program = match hook {
            Hook::Ingress => &self.ingress,
            _ => &self.egress,
        };
        let device = match way {
            Way::Wire => self.wire.index,
            Way::Loopback => 0,
        };
        let family = match carrier {
            Carrier::V4 => 0x0800,
            Carrier::V6 => 0x86dd,
        };
        let (answer, words) = sys::run_skb(program.as_fd(), family, packet, device)
            .map_err(|error| Error::system("showing a packet to a program (BPF_PROG_TEST_RUN)", error))?;
        Ok(Heard {
            passes: answer != 0,
            told: Told::unpack(words),
        })
    }
}

impl Maps for Ebpf {
    fn find(&self, name: &'static str) -> Result<OwnedFd, Error> {
        use aya::maps::Map as Loaded;
        let missing = || Error::Refused {
            operation: format!("finding the map `{name}`"),
            message: "it is not in the object".to_owned(),
        };
        let (Loaded::Array(data)
        | Loaded::ArrayOfMaps(data)
        | Loaded::HashMap(data)
        | Loaded::LruHashMap(data)
        | Loaded::PerCpuArray(data)
        | Loaded::PerCpuHashMap(data)) = self.map(name).ok_or_else(missing)?
        else {
            return Err(missing());
        };
        let copy: io::Result<_> = data.fd().as_fd().try_clone_to_owned();
        copy.map_err(|error| Error::system(format!("opening the map `{name}`"), error))
    }
}

#[cfg(test)]
mod tests {
    use segd_common::{address::MAX_NAMESPACES, reason::Reason, segment, service::UDP};

    use super::*;
    use crate::datapath::places::Lives;

    /// A UDP datagram without data between two IPv4 addresses.
    fn datagram(from: [u8; 4], to: [u8; 4], port: u16) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, UDP, 0, 0];
        packet.extend(from);
        packet.extend(to);
        packet.extend(4000_u16.to_be_bytes());
        packet.extend(port.to_be_bytes());
        packet.extend([0, 8, 0, 0]);
        packet
    }

    /// Else whoever makes enough of them would keep a policy from being replaced, and segd from starting.
    fn a_full_table_of_namespaces_is_no_failure(places: &Places) {
        let lives = |owner| Lives {
            owner,
            flags: 0,
            claimed: 0,
        };
        let fits = |cookie, owner| places.set_lives(cookie, 0, lives(owner)).unwrap();
        assert!(fits(1 << 40, 7));
        let room = (1..=u64::from(MAX_NAMESPACES))
            .take_while(|number| fits(1 << 41 | number, 7))
            .count();
        assert!(room < MAX_NAMESPACES as usize, "{room} more fitted");
        assert!(fits(1 << 40, 8), "what is there is written");
        places.keep_namespaces(&|cookie| cookie == 1 << 40).unwrap();
        assert!(fits(1 << 41 | 1, 7), "what is gone makes room");
    }

    #[test]
    fn a_rehearsal_tells_who_what_and_why() {
        if let Err(error) = kernel::check_privilege() {
            assert!(std::env::var_os("SEGD_REQUIRE_KERNEL").is_none(), "{error}");
            eprintln!("skipped: {error}");
            return;
        }
        let rehearsed = std::thread::spawn(|| {
            let rehearsal = Rehearsal::open(Vantage::Host).unwrap();
            let packet = datagram([10, 0, 0, 1], [192, 0, 2, 1], 53);
            let run = |identity: Identity, way| {
                rehearsal.play(identity).unwrap();
                rehearsal
                    .stage()
                    .run(Hook::Egress, Carrier::V4, &packet, way)
                    .unwrap()
            };
            let stranger = run(Identity::of(7), Way::Wire);
            assert!(!stranger.passes);
            assert_eq!(stranger.told.reason, Reason::NoRule as u8);
            assert_eq!(
                (stranger.told.from.segment, stranger.told.to.segment),
                (7, segment::WORLD)
            );
            let nobody = run(Identity::of(segment::NONE), Way::Wire);
            assert_eq!(nobody.told.reason, Reason::Unknown as u8);
            assert_eq!(run(Identity::of(7), Way::Loopback).told.to.segment, segment::HOST);
            assert_eq!(stranger.told.cgroup, rehearsal.cgroup());
            a_full_table_of_namespaces_is_no_failure(&rehearsal.places);
            rehearsal.cgroup()
        });
        let cgroup = rehearsed.join().unwrap();
        assert_ne!(cgroup, 0);
    }
}
