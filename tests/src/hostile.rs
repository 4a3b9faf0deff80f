//! A container whose root is the enemy: what its sockets send is rewritten by rules of its own, behind their hooks.

use std::{
    cell::RefCell,
    fmt::Write as _,
    fs::File,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use crate::{
    Bridge, Cgroup, Lab, Netns, Remote, Segd, Worker,
    netns::{Sysctl, ip, v4},
    sys,
    wait::{self, PATIENCE},
    wire,
};

/// The port of the machines, TCP and UDP.
pub const PORT: u16 = 5400;
/// How long segd may take to cover a new link, and to believe a new address or forget one.
pub const COVERED: Duration = Duration::from_secs(2);

/// `rogue` in a namespace whose rules it may write, a machine that it may ask and one that it may not, and `db` in a container of its
/// own.
pub struct Scene {
    /// A worker of `rogue`, in `near`.
    pub enemy: Worker,
    /// Number 10 of the bridge.
    pub near: Netns,
    /// A worker of `db`, in `beside`.
    pub server: Worker,
    /// Number 11 of the bridge.
    pub beside: Netns,
    /// Number 50 of the bridge, segment `right`.
    pub right: Remote,
    /// Number 51 of the bridge, segment `wrong`.
    pub wrong: Remote,
    /// What is attacked.
    pub segd: Segd,
    /// What all hang on.
    pub bridge: Bridge,
    _cgroups: [Cgroup; 2],
    /// For more of them. Dropped last.
    pub lab: Lab,
}

impl Scene {
    /// `rules`: who may do what. `client` is whoever is given its cgroup.
    ///
    /// # Panics
    /// When it cannot be set up.
    #[track_caller]
    #[must_use]
    pub fn open(client: Option<&Cgroup>, lab: Lab, rules: &str) -> Scene {
        Scene::open_with(&[], client, lab, rules)
    }

    /// The same, with arguments of segd's.
    ///
    /// # Panics
    /// When it cannot be set up.
    #[track_caller]
    #[must_use]
    pub fn open_with(arguments: &[&str], client: Option<&Cgroup>, lab: Lab, rules: &str) -> Scene {
        let bridge = lab.bridge();
        let (near, beside) = (lab.netns("near"), lab.netns("beside"));
        bridge.plug(&near, 10);
        bridge.plug(&beside, 11);
        let (right, wrong) = (Remote::plug(&bridge, 50), Remote::plug(&bridge, 51));
        for machine in [&right, &wrong] {
            machine.listen(PORT);
        }
        let (rogue, db) = (lab.cgroup("rogue"), lab.cgroup("db"));
        let enemy = lab.worker_in(&rogue, &near);
        let server = lab.worker_in(&db, &beside);
        let mut segments = format!(
            "    rogue: {{match: [{{cgroup: {}}}]}}\n    db: {{match: [{{cgroup: {}}}]}}\n",
            rogue.path(),
            db.path()
        );
        if let Some(client) = client {
            let _ = writeln!(segments, "    client: {{match: [{{cgroup: {}}}]}}", client.path());
        }
        let policy = format!(
            "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: hostile}}
spec:
  segments:
{segments}    right: {{match: [{{cidr: {}/32}}]}}
    wrong: {{match: [{{cidr: {}/32}}]}}
  allow:
{rules}",
            v4(50),
            v4(51)
        );
        let segd = lab.segd(&policy).args(arguments).start();
        wait::quiet(COVERED);
        Scene {
            enemy,
            near,
            server,
            beside,
            right,
            wrong,
            segd,
            bridge,
            _cgroups: [rogue, db],
            lab,
        }
    }

    /// Rewrites what leaves `near`.
    #[track_caller]
    pub fn rewrite(&self, rules: &str) {
        self.rules("egress", "eth0", rules);
    }

    /// Rewrites what comes in to `near`.
    #[track_caller]
    pub fn receive(&self, rules: &str) {
        self.receive_by("eth0", rules);
    }

    /// Rewrites what comes in to `near` by a device.
    #[track_caller]
    pub fn receive_by(&self, device: &str, rules: &str) {
        self.rules("ingress", device, rules);
    }

    #[track_caller]
    fn rules(&self, way: &str, device: &str, rules: &str) {
        let text = format!(
            "table netdev {way} {{
chain turned {{ type filter hook {way} device \"{device}\" priority 0;
{rules}
}}
}}
"
        );
        self.near.run(&["nft", "-f", "-"], &text);
    }

    /// How many packets were denied.
    #[track_caller]
    #[must_use]
    pub fn denied(&self) -> u64 {
        self.segd.denied().values().sum()
    }

    /// Removes segd: what fails without it is no proof of anything.
    ///
    /// # Panics
    /// When it does not go.
    #[track_caller]
    pub fn unload(&mut self) {
        let output = self.segd.unload();
        assert!(output.status.success(), "{output:?}");
    }

    /// What the enemy begins, rewritten, has the server answer nobody; without segd it would.
    ///
    /// # Panics
    /// When it does, or would not.
    #[track_caller]
    pub fn stays_unanswered(&mut self, begin: impl Fn(&Scene)) {
        let (sent, denied) = (segments_sent(&self.server), self.denied());
        begin(self);
        wait::within(Duration::from_secs(1), || self.denied() > denied);
        wait::quiet(wait::SILENCE);
        assert_eq!(segments_sent(&self.server), sent, "the server has answered");
        assert!(self.denied() > denied, "{}", self.segd.log());
        self.unload();
        begin(self);
        wait::wait_until("without segd it is answered", PATIENCE, || {
            segments_sent(&self.server) > sent
        });
    }

    /// What the enemy does, named by a token, is not heard; without segd it is.
    ///
    /// # Panics
    /// When it is, or would not be.
    #[track_caller]
    pub fn stays_unheard(&mut self, attempt: impl Fn(&Scene, &str), heard: impl Fn(&Scene, &str) -> bool) {
        let denied = self.denied();
        attempt(self, "turned;;");
        wait::within(Duration::from_secs(1), || self.denied() > denied);
        wait::quiet(wait::SILENCE);
        assert!(!heard(self, "turned;;"), "it is heard: {}", self.segd.log());
        assert!(self.denied() > denied, "nobody denied it: {}", self.segd.log());
        self.unload();
        wait::wait_until("without segd it gets there", PATIENCE, || {
            attempt(self, "unloaded");
            heard(self, "unloaded")
        });
    }

    /// How many TCP frames of `near`'s address reached the machine that it may not ask.
    #[must_use]
    pub fn strayed(&self) -> usize {
        let from = IpAddr::from(v4(10));
        let frames = self.wrong.frames();
        frames
            .iter()
            .filter(|frame| frame.protocol == 6 && frame.source == from)
            .count()
    }

    /// Nothing that the enemy does strays; without segd it would.
    ///
    /// # Panics
    /// When it does, or would not.
    #[track_caller]
    pub fn strays_nowhere(&mut self, attempt: impl Fn(&Scene)) {
        let before = self.strayed();
        attempt(self);
        wait::quiet(wait::SILENCE);
        assert_eq!(self.strayed(), before, "{}", self.segd.log());
        self.unload();
        attempt(self);
        wait::wait_until("without segd it gets there", PATIENCE, || self.strayed() > before);
    }
}

/// A machine of the network, behind a device of the host that is no port of a bridge.
pub struct Beyond {
    device: File,
    packets: RefCell<Vec<Vec<u8>>>,
    /// The device.
    pub interface: String,
    /// The machine's address. The host leads it there.
    pub v4: Ipv4Addr,
    _forward: Sysctl,
}

impl Beyond {
    /// Plugs it in.
    ///
    /// # Panics
    /// When there is no `/dev/net/tun`.
    #[track_caller]
    #[must_use]
    pub fn plug() -> Beyond {
        let interface = format!("sgt{}w", std::process::id() % 100_000);
        let device =
            sys::open_tun(&interface, libc::IFF_TAP).unwrap_or_else(|error| panic!("{interface}: {error}"));
        let v4 = Ipv4Addr::new(10, 213, 44, 2);
        ip(&format!("addr add 10.213.44.1/24 dev {interface}"));
        ip(&format!("link set {interface} up"));
        ip(&format!(
            "neigh add {v4} lladdr 02:5e:9d:00:01:02 dev {interface}"
        ));
        Beyond {
            device,
            packets: RefCell::default(),
            interface,
            v4,
            _forward: Sysctl::set("net/ipv4/ip_forward", "1"),
        }
    }

    /// Whether an IP packet like this has reached it.
    pub fn has(&self, like: impl Fn(&[u8]) -> bool) -> bool {
        let mut packets = self.packets.borrow_mut();
        let mut buffer = [0; 4096];
        while let Ok(length) = (&self.device).read(&mut buffer) {
            packets.extend(buffer[..length].get(14..).map(<[u8]>::to_vec));
        }
        packets.iter().any(|packet| like(packet))
    }

    /// Sends an IP packet.
    ///
    /// # Panics
    /// When the device does not take it.
    #[track_caller]
    pub fn send(&self, packet: &[u8]) {
        let frame = wire::frame(wire::mac(&self.interface), packet);
        (&self.device).write_all(&frame).expect("a TAP takes frames");
    }
}

/// How many segments the kernel of a worker's namespace has sent.
///
/// # Panics
/// When it does not tell.
#[track_caller]
#[must_use]
pub fn segments_sent(by: &Worker) -> u64 {
    let text = by.read_file("/proc/thread-self/net/snmp");
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp: "));
    let (names, numbers) = (lines.next().expect("names"), lines.next().expect("numbers"));
    let at = names
        .split(' ')
        .position(|name| name == "OutSegs")
        .expect("OutSegs");
    numbers
        .split(' ')
        .nth(at)
        .expect("a number")
        .parse()
        .expect("a number")
}

/// Whether something like this has reached a machine, in any frame.
#[must_use]
pub fn heard(machine: &Remote, token: &str) -> bool {
    let frames = machine.frames();
    frames
        .iter()
        .any(|frame| String::from_utf8_lossy(&frame.payload).contains(token))
}
