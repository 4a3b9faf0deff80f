//! The third judge: the kernel programs, on a stage with two actors and a host around them.

use std::{
    fs,
    net::{Ipv6Addr, TcpListener, UdpSocket},
    path::PathBuf,
    sync::mpsc,
    thread,
};

use segd::{
    datapath::{
        places,
        places::Addresses,
        rehearsal::{Carrier, Heard, Rehearsal, Stage, Vantage, Way},
    },
    policy::compiled::Moment,
    telemetry::clock,
};
use segd_common::{address::NAMESPACE_SINGLE, event::Hook, reason::Reason, workload::Identity};

use super::{
    eyes::Forms,
    model::{Lives, Local, World},
    packets::Made,
};

/// A port that the sender's workload listens on, and one of the receiver's.
pub const LISTENERS: [u16; 2] = [5001, 5002];

/// How many other namespaces there are: who lives in the last one nobody has looked at yet.
pub const NEIGHBOURS: usize = 4;

/// The cookie of a namespace that does not exist.
fn cookie(number: usize) -> u64 {
    1 << 40 | number as u64
}

/// One packet for one hook.
#[derive(Clone, Debug)]
pub struct Cue {
    pub hook: Hook,
    pub packet: Made,
    pub way: Way,
}

/// A thread in a cgroup of its own, which shows packets to the hooks as its own.
struct Actor {
    cues: mpsc::SyncSender<Vec<Cue>>,
    heard: mpsc::Receiver<Vec<Heard>>,
    /// Its cgroup's id.
    cgroup: u64,
}

impl Actor {
    fn start(stage: std::sync::Arc<Stage>, directory: PathBuf, port: u16) -> Actor {
        let (cues, list) = mpsc::sync_channel::<Vec<Cue>>(1);
        let (say, heard) = mpsc::sync_channel(1);
        thread::spawn(move || {
            // SAFETY: no arguments.
            let own = unsafe { libc::gettid() };
            fs::write(directory.join("cgroup.threads"), own.to_string()).expect("a threaded cgroup");
            // Sockets of this cgroup: the hooks ask the kernel who would receive.
            let any = (Ipv6Addr::UNSPECIFIED, port);
            let _sockets = (
                UdpSocket::bind(any).expect("a port"),
                TcpListener::bind(any).expect("a port"),
            );
            for cues in list {
                let heard = cues.iter().map(|cue| {
                    let carrier = if cue.packet.v6 { Carrier::V6 } else { Carrier::V4 };
                    stage
                        .run(cue.hook, carrier, &cue.packet.bytes, cue.way)
                        .unwrap_or_else(|error| panic!("{error}: {:02x?}", cue.packet))
                });
                if say.send(heard.collect()).is_err() {
                    return;
                }
            }
        });
        let mut actor = Actor {
            cues,
            heard,
            cgroup: 0,
        };
        let mut packet = vec![0x45, 0, 0, 20, 0, 0, 0, 0, 64, 253];
        packet.resize(20, 0);
        let ask = Cue {
            hook: Hook::Egress,
            packet: Made {
                v6: false,
                bytes: packet,
            },
            way: Way::Wire,
        };
        actor.cgroup = actor.play(vec![ask])[0].told.cgroup;
        actor
    }

    fn play(&self, cues: Vec<Cue>) -> Vec<Heard> {
        self.cues.send(cues).expect("the actor lives");
        self.heard.recv().expect("the actor lives")
    }
}

/// Two actors of one load: `sender` shows packets to egress, `receiver` to ingress.
pub struct Theatre {
    rehearsal: Rehearsal,
    sender: Actor,
    receiver: Actor,
    on_host: bool,
    locals: Vec<([u8; 16], Local)>,
    /// The id of the cgroup above both actors.
    above: u64,
}

/// Who an actor is, and how the hooks come to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cast {
    /// By the entry of its cgroup.
    Tagged(Identity),
    /// By the entry of the cgroup above: its own is not there.
    Below(Identity),
    /// By an entry that another revision has left there: not at all.
    Stale(Identity),
    /// Not at all.
    Unseen,
}

impl Cast {
    /// What the entry of its own cgroup says.
    pub fn tag(self) -> Option<Identity> {
        match self {
            Cast::Tagged(identity) => Some(identity),
            Cast::Stale(_) => Some(Identity::of(segd_common::segment::NONE)),
            _ => None,
        }
    }

    /// Who that is.
    pub fn identity(self) -> Identity {
        match self {
            Cast::Tagged(identity) | Cast::Below(identity) => identity,
            Cast::Stale(_) | Cast::Unseen => Identity::of(segd_common::segment::NONE),
        }
    }
}

/// One policy's cast and neighbourhood.
#[derive(Clone, Debug)]
pub struct Scenery {
    pub sender: Cast,
    pub receiver: Cast,
    pub lives: [Lives; NEIGHBOURS - 1],
    pub here: Option<Lives>,
}

/// What the hooks said of one packet between the actors, or to one of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Said {
    pub egress: Option<Heard>,
    pub ingress: Option<Heard>,
}

/// Where a packet is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// The sender sends it.
    Leaves,
    /// It comes to the receiver, and nobody of this host has sent it.
    Arrives,
    /// The sender sends it, and if it passes it comes to the receiver.
    Between,
}

impl Theatre {
    /// Opens one, on a thread of its own.
    pub fn open(scene: &Scene, vantage: Vantage, name: &str) -> Theatre {
        let mut rehearsal = Rehearsal::open(vantage).expect("a rehearsal");
        let here = rehearsal.namespace();
        let on_host = vantage == Vantage::Host;
        let mut list: Vec<(u64, bool, Local, Vec<[u8; 16]>)> = Vec::new();
        let own = if on_host { HOSTS } else { CONTAINERS };
        list.push((here, on_host, Local::Here, own.map(bits).to_vec()));
        if !on_host {
            list.push((cookie(99), true, Local::Host, HOSTS.map(bits).to_vec()));
        }
        for (number, addresses) in NEIGHBOUR_ADDRESSES.iter().enumerate() {
            let addresses = addresses.iter().map(|text| bits(text)).collect();
            list.push((cookie(number), false, Local::Beside(number), addresses));
        }
        let mut locals: Vec<([u8; 16], Local)> = Vec::new();
        for (.., local, addresses) in &list {
            for address in addresses {
                match locals.iter_mut().find(|(known, _)| known == address) {
                    Some(known) => known.1 = Local::Twice,
                    None => locals.push((*address, *local)),
                }
            }
        }
        let tuples = list.iter().map(|(cookie, host, _, addresses)| Addresses {
            namespace: *cookie,
            is_host: *host,
            by_link: false,
            addresses,
        });
        rehearsal.places().set_addresses(tuples).expect("addresses");
        let actor =
            |role: &str, port| Actor::start(rehearsal.stage(), scene.part(&format!("{name}-{role}")), port);
        let sender = actor("sender", LISTENERS[0]);
        let receiver = actor("receiver", LISTENERS[1]);
        Theatre {
            above: std::os::unix::fs::MetadataExt::ino(&fs::metadata(&scene.directory).expect("the cgroup")),
            rehearsal,
            sender,
            receiver,
            on_host,
            locals,
        }
    }

    /// The addresses that packets are sent from here.
    pub fn own_addresses(&self) -> Vec<[u8; 16]> {
        let here = self.locals.iter().filter(|(_, local)| *local == Local::Here);
        here.map(|(address, _)| *address)
            .chain(["127.0.0.1", "127.8.8.8", "::1"].map(bits))
            .collect()
    }

    /// This host's other addresses.
    pub fn other_addresses(&self) -> Vec<[u8; 16]> {
        let others = self.locals.iter().filter(|(_, local)| *local != Local::Here);
        others.map(|(address, _)| *address).collect()
    }

    /// Puts a policy in force and everybody in place.
    pub fn set(&mut self, forms: &Forms, scenery: &Scenery) {
        let now = Moment {
            calendar: forms.time,
            boot_ns: clock::moment().boot_ns,
        };
        self.rehearsal
            .enact(&forms.tables, now)
            .expect("the policy is written");
        let slot = self.rehearsal.slot().expect("a slot");
        let here = self.rehearsal.namespace();
        let lives = |lives: &Lives| places::Lives {
            owner: lives.owner,
            flags: if lives.single { NAMESPACE_SINGLE } else { 0 },
            claimed: 0,
        };
        let places = self.rehearsal.places();
        places
            .keep_namespaces(&|cookie| cookie != here)
            .expect("namespaces");
        for (number, who) in scenery.lives.iter().enumerate() {
            places
                .set_lives(cookie(number), slot, lives(who))
                .expect("namespaces");
        }
        if let Some(who) = &scenery.here {
            places.set_lives(here, slot, lives(who)).expect("namespaces");
        }
        let mut above = None;
        for (actor, cast) in [(&self.sender, scenery.sender), (&self.receiver, scenery.receiver)] {
            match cast {
                Cast::Tagged(identity) => self.rehearsal.cast(actor.cgroup, identity),
                Cast::Stale(identity) => self.rehearsal.cast_as_of(1, actor.cgroup, identity),
                Cast::Below(_) | Cast::Unseen => self.rehearsal.dismiss(actor.cgroup),
            }
            .expect("an entry, or none");
            if let Cast::Below(identity) = cast {
                assert!(
                    above.is_none_or(|known| known == identity),
                    "two identities for one cgroup"
                );
                above = Some(identity);
            }
        }
        match above {
            Some(identity) => self.rehearsal.cast(self.above, identity).expect("an entry"),
            None => self.rehearsal.dismiss(self.above).expect("no entry"),
        }
    }

    /// The host as the hooks know it.
    pub fn world(&self, scenery: &Scenery) -> World {
        let nobody = Lives {
            owner: 0,
            single: false,
        };
        let mut lives = scenery.lives.to_vec();
        lives.push(nobody);
        World {
            on_host: self.on_host,
            locals: self.locals.clone(),
            lives,
            here: scenery.here,
            listeners: vec![
                (LISTENERS[0], scenery.sender.tag()),
                (LISTENERS[1], scenery.receiver.tag()),
            ],
        }
    }

    /// Shows packets to the hooks.
    pub fn play(&self, packets: &[(Path, Made, Way)]) -> Vec<Said> {
        let mut said = vec![Said::default(); packets.len()];
        let cue = |hook, (_, packet, way): &(Path, Made, Way)| Cue {
            hook,
            packet: packet.clone(),
            way: *way,
        };
        let show = |actor: &Actor, hook, which: Vec<usize>| -> Vec<(usize, Heard)> {
            let cues = which.iter().map(|at| cue(hook, &packets[*at])).collect();
            which.into_iter().zip(actor.play(cues)).collect()
        };
        let leaving = (0..packets.len()).filter(|at| packets[*at].0 != Path::Arrives);
        for (at, heard) in show(&self.sender, Hook::Egress, leaving.collect()) {
            said[at].egress = Some(heard);
        }
        let arriving = (0..packets.len()).filter(|at| match packets[*at].0 {
            Path::Leaves => false,
            Path::Arrives => true,
            Path::Between => said[*at]
                .egress
                .is_some_and(|heard| heard.passes && heard.told.reason != Reason::Control as u8),
        });
        for (at, heard) in show(&self.receiver, Hook::Ingress, arriving.collect()) {
            said[at].ingress = Some(heard);
        }
        said
    }
}

const HOSTS: [&str; 2] = ["172.16.5.1", "2001:db8:5::1"];
const CONTAINERS: [&str; 2] = ["172.16.5.20", "2001:db8:5::20"];
const NEIGHBOUR_ADDRESSES: [&[&str]; NEIGHBOURS] = [
    &["172.16.5.10", "2001:db8:5::10", "172.16.5.99", "2001:db8:5::99"],
    &["172.16.5.11", "2001:db8:5::11", "172.16.5.99", "2001:db8:5::99"],
    &["172.16.6.12", "2001:db8:6::12"],
    &["172.16.5.13", "2001:db8:5::13"],
];

/// The bits of an address, v4-mapped where it is IPv4.
pub fn bits(text: &str) -> [u8; 16] {
    match text.parse().expect("an address") {
        std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        std::net::IpAddr::V6(v6) => v6.octets(),
    }
}

/// The cgroups of the actors, removed with them. The process lives in the upper one meanwhile.
///
/// A rehearsal is attached to nothing, so this takes no lock of the machine: other tests may run beside it.
pub struct Scene {
    root: PathBuf,
    directory: PathBuf,
}

/// The upper cgroup of a run; its process' number stands behind it.
const PREFIX: &str = "segd-stage-";

impl Scene {
    /// Makes the upper cgroup and moves the process there, so that its threads may part; or says why it cannot.
    ///
    /// # Panics
    /// When it cannot and `SEGD_REQUIRE_KERNEL=1`.
    pub fn open() -> Option<Scene> {
        match Scene::try_open() {
            Ok(scene) => Some(scene),
            Err(why) => {
                let required = std::env::var("SEGD_REQUIRE_KERNEL").is_ok_and(|value| value == "1");
                assert!(!required, "this test must run here and cannot: {why}");
                eprintln!("SKIPPED: {why}");
                None
            }
        }
    }

    fn try_open() -> Result<Scene, String> {
        if !segd_tests::sys::is_root() {
            return Err("not root".into());
        }
        let root = segd_tests::lab::cgroup2_mount().ok_or("no cgroup2 mount")?;
        sweep(&root);
        let directory = root.join(format!("{PREFIX}{}", std::process::id()));
        let failed = |error| format!("{}: {error}", directory.display());
        fs::create_dir(&directory).map_err(failed)?;
        let scene = Scene { root, directory };
        fs::write(scene.directory.join("cgroup.procs"), "0").map_err(|error| error.to_string())?;
        Ok(scene)
    }

    fn part(&self, name: &str) -> PathBuf {
        let part = self.directory.join(name);
        fs::create_dir(&part).expect("a cgroup");
        fs::write(part.join("cgroup.type"), "threaded").expect("a threaded cgroup");
        part
    }
}

/// Removes what a run left that was killed.
fn sweep(root: &std::path::Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let dead = |pid: &str| !std::path::Path::new("/proc").join(pid).exists();
        if name.strip_prefix(PREFIX).is_some_and(dead) {
            segd_tests::cgroup::remove_tree(&entry.path());
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        fs::write(self.root.join("cgroup.procs"), "0").ok();
        let gone = || {
            segd_tests::cgroup::remove_tree(&self.directory);
            !self.directory.exists()
        };
        if !segd_tests::wait::within(std::time::Duration::from_secs(3), gone) {
            eprintln!("could not remove {}", self.directory.display());
        }
    }
}
