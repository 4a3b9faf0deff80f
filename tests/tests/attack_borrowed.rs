//! What a container with rules of its own sends behind its hooks under what is not its: an address that nobody has, the first word of
//! another's connection, a socket of the host's, the rest of a packet. BYPASSES.md, section 3, class 13.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{fmt::Write as _, net::IpAddr, time::Duration};

use segd_tests::{
    Bridge, Cgroup, Lab, Netns, Remote, Segd, Worker,
    netns::{NftTable, Sysctl, v4},
    wait::{self, PATIENCE},
    wire,
};

const PORT: u16 = 5400;
/// How long segd may take to cover a new link, and to believe a new address.
const COVERED: Duration = Duration::from_secs(2);

/// `rogue` in a namespace whose rules it may write, a machine that it may ask and one that it may not, and `db` in a container of its
/// own.
struct Scene {
    enemy: Worker,
    near: Netns,
    server: Worker,
    beside: Netns,
    right: Remote,
    wrong: Remote,
    segd: Segd,
    bridge: Bridge,
    _cgroups: [Cgroup; 2],
    lab: Lab,
}

impl Scene {
    /// `rules`: who may do what. `client` is whoever is given its cgroup.
    fn open(client: Option<&Cgroup>, lab: Lab, rules: &str) -> Scene {
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
        let segd = lab.enforce(&format!(
            "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: borrowed}}
spec:
  segments:
{segments}    right: {{match: [{{cidr: {}/32}}]}}
    wrong: {{match: [{{cidr: {}/32}}]}}
  allow:
{rules}",
            v4(50),
            v4(51)
        ));
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
    fn rewrite(&self, rules: &str) {
        self.rules("egress", rules);
    }

    /// Rewrites what comes in to `near`.
    fn receive(&self, rules: &str) {
        self.rules("ingress", rules);
    }

    fn rules(&self, way: &str, rules: &str) {
        let text = format!(
            "table netdev {way} {{
chain turned {{ type filter hook {way} device \"eth0\" priority 0;
{rules}
}}
}}
"
        );
        self.near.run(&["nft", "-f", "-"], &text);
    }

    fn denied(&self) -> u64 {
        self.segd.denied().values().sum()
    }

    /// How many segments a namespace's kernel has sent.
    fn segments_sent(&self, by: &Worker) -> u64 {
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

    /// What the enemy begins, rewritten, has the server answer nobody; without segd it would.
    #[track_caller]
    fn stays_unanswered(&mut self) {
        let (sent, denied) = (self.segments_sent(&self.server), self.denied());
        self.enemy.open_tcp((self.right.v4, PORT)).ok();
        wait::within(Duration::from_secs(1), || self.denied() > denied);
        wait::quiet(wait::SILENCE);
        assert_eq!(self.segments_sent(&self.server), sent, "the server has answered");
        assert!(self.denied() > denied, "{}", self.segd.log());
        // It is no fault of the way.
        assert!(self.segd.unload().status.success());
        self.enemy.open_tcp((self.right.v4, PORT)).ok();
        wait::wait_until("without segd it is answered", PATIENCE, || {
            self.segments_sent(&self.server) > sent
        });
    }

    /// How many TCP frames of `near`'s address reached the machine that it may not ask.
    fn strayed(&self) -> usize {
        let from = IpAddr::from(v4(10));
        let frames = self.wrong.frames();
        frames
            .iter()
            .filter(|frame| frame.protocol == 6 && frame.source == from)
            .count()
    }
}

fn written(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Whoever is not a process of this host is `world` to a receiver here: no container is.
#[test]
fn an_address_that_nobody_has_makes_no_container_a_machine_of_the_network() {
    let Some(lab) = Lab::open() else { return };
    let rules =
        "    - {from: rogue, to: right, ports: [tcp/5400]}\n    - {from: world, to: db, ports: [tcp/5432]}\n";
    let mut scene = Scene::open(None, lab, rules);
    let ear = scene.server.listen_tcp((v4(11), 5432));
    let nobodys = v4(99);
    scene.beside.ip(&format!(
        "neigh add {nobodys} lladdr {} dev eth0",
        written(wire::mac_in(&scene.near))
    ));
    scene.rewrite(&format!(
        "ip daddr {} tcp dport {PORT} tcp dport set 5432 ip saddr set {nobodys} ip daddr set {} ether daddr set {}",
        scene.right.v4,
        v4(11),
        written(wire::mac_in(&scene.beside))
    ));
    scene.receive(&format!(
        "ip saddr {} ip daddr {nobodys} tcp sport set {PORT} ip saddr set {} ip daddr set {}",
        v4(11),
        scene.right.v4,
        v4(10)
    ));
    let attempt = |scene: &Scene, token: &str| {
        if let Ok(session) = scene.enemy.open_tcp((scene.right.v4, PORT)) {
            scene.enemy.send(session, token).ok();
        }
    };
    let before = scene.denied();
    attempt(&scene, "turned;");
    wait::quiet(wait::SILENCE);
    assert!(!scene.server.inbox(ear).has("turned;"), "{}", scene.segd.log());
    assert!(scene.denied() > before, "{}", scene.segd.log());
    // It is no fault of the way.
    assert!(scene.segd.unload().status.success());
    wait::wait_until("without segd it gets there", PATIENCE, || {
        attempt(&scene, "unloaded;");
        scene.server.inbox(ear).has("unloaded;")
    });
}

/// Nor does a port that the host leads on to another container: at the link it is the host's.
#[test]
fn an_address_that_nobody_has_does_not_get_in_by_a_published_port() {
    let Some(lab) = Lab::open() else { return };
    let rules = "    - {from: rogue, to: right, ports: [tcp/5400]}\n    - {from: rogue, to: host, ports: [tcp/8080]}\n    - {from: [world, right], to: db, \
                 ports: [tcp/5432]}\n";
    let mut scene = Scene::open(None, lab, rules);
    scene.server.listen_tcp((v4(11), 5432));
    let _forward = Sysctl::set("net/ipv4/ip_forward", "1");
    let _published = NftTable::create(
        &format!("sgt{}", std::process::id()),
        &format!(
            "chain in {{
type nat hook prerouting priority -100;
ip daddr {} tcp dport 8080 dnat ip to {}:5432
}}",
            v4(1),
            v4(11)
        ),
    );
    let outside = |scene: &Scene| {
        scene
            .right
            .tcp((v4(1), 8080).into(), "straight;", Duration::from_millis(500))
    };
    let sent = scene.segments_sent(&scene.server);
    outside(&scene);
    wait::wait_until("who may reaches it by the port", PATIENCE, || {
        scene.segments_sent(&scene.server) > sent
    });
    scene.rewrite(&format!(
        "ip daddr {} tcp dport {PORT} tcp dport set 8080 ip saddr set {} ip daddr set {} ether daddr set {}",
        scene.right.v4,
        v4(99),
        v4(1),
        written(wire::mac(scene.bridge.name()))
    ));
    wait::quiet(wait::SILENCE);
    scene.stays_unanswered();
}

/// Whom a client has dialled knows how its connection began: that makes nobody the client.
#[test]
fn the_first_word_of_anothers_connection_gives_nobody_its_right() {
    let Some(lab) = Lab::open() else { return };
    let client = lab.cgroup("client");
    let rules = "    - {from: [rogue, client], to: right, ports: [tcp/5400]}\n    - {from: client, to: db, ports: [tcp/5432]}\n";
    let mut scene = Scene::open(Some(&client), lab, rules);
    let there = scene.lab.netns("there");
    scene.bridge.plug(&there, 12);
    let victim = scene.lab.worker_in(&client, &there);
    scene.server.listen_tcp((v4(11), 5432));
    wait::quiet(COVERED);
    let straight = victim.open_tcp((v4(11), 5432));
    assert!(straight.is_ok(), "{straight:?}");
    // The machine is the enemy's accomplice.
    let session = victim.open_tcp((scene.right.v4, PORT)).unwrap();
    let from = IpAddr::from(v4(12));
    let began = |frame: &&segd_tests::remote::Frame| frame.source == from && frame.flags == 2;
    let first = scene.right.frames().iter().find(began).expect("its SYN").sequence;
    // Its address is the enemy's, too.
    scene.near.ip("link set lo up");
    scene.near.ip(&format!("addr add {}/32 dev lo", v4(12)));
    wait::quiet(COVERED);
    scene.rewrite(&format!(
        "ip daddr {} tcp flags syn tcp sport set {} tcp dport set 5432 tcp sequence set {first} ip saddr set {} ip daddr set {} ether \
         daddr set {}",
        scene.right.v4,
        session.local.port(),
        v4(12),
        v4(11),
        written(wire::mac_in(&scene.beside))
    ));
    scene.stays_unanswered();
}

/// What the host sends into a container bears the host's socket still where the container's rules send it out again.
#[test]
fn a_segment_of_the_hosts_that_a_container_sends_back_is_not_the_hosts() {
    let Some(lab) = Lab::open() else { return };
    let rules = "    - {from: host, to: [rogue, wrong], ports: [tcp/5400]}\n";
    let mut scene = Scene::open(None, lab, rules);
    let outside = scene.lab.cgroup("outside");
    let host = scene.lab.worker(&outside);
    scene.enemy.listen_tcp_echo((v4(10), PORT));
    assert!(host.open_tcp((v4(10), PORT)).is_ok(), "{}", scene.segd.log());
    assert!(
        host.open_tcp((scene.wrong.v4, PORT)).is_ok(),
        "{}",
        scene.segd.log()
    );
    scene.receive(&format!(
        "ip saddr {} tcp dport {PORT} ip saddr set {} ip daddr set {} ether daddr set ff:ff:ff:ff:ff:ff fwd to \"eth0\"",
        v4(1),
        v4(10),
        scene.wrong.v4
    ));
    let before = scene.strayed();
    host.open_tcp((v4(10), PORT)).ok();
    wait::quiet(wait::SILENCE);
    assert_eq!(scene.strayed(), before, "{}", scene.segd.log());
    assert!(scene.segd.unload().status.success());
    host.open_tcp((v4(10), PORT)).ok();
    wait::wait_until("without segd it gets there", PATIENCE, || {
        scene.strayed() > before
    });
}

/// A segment without data is its kernel's word, unless more of it is to come.
#[test]
fn data_does_not_follow_a_segment_without_any() {
    let Some(lab) = Lab::open() else { return };
    let rules = "    - {from: rogue, to: right, ports: [tcp/5400]}\n";
    let mut scene = Scene::open(None, lab, rules);
    scene.near.sysctl("net/ipv4/tcp_invalid_ratelimit", "0");
    let session = scene.enemy.open_tcp((scene.right.v4, PORT)).unwrap();
    scene.enemy.send(session, "straight;").unwrap();
    wait::wait_until("it is heard", PATIENCE, || scene.right.inbox().has("straight;"));
    // Nobody puts the pieces together there: that one with data arrives is enough.
    let turn = format!(
        "ip id set 7 ip daddr set {} ether daddr set ff:ff:ff:ff:ff:ff",
        scene.wrong.v4
    );
    let ours = format!("ip daddr {} tcp sport {}", scene.right.v4, session.local.port());
    scene.rewrite(&format!(
        "{ours} ip length <= {BARE} ip frag-off set 0x2000 {turn}
{ours} ip length > {BARE} ip frag-off set 3 {turn}"
    ));
    // Whatever is not its turn is answered by a segment without data.
    let stray = wire::segment((scene.right.v4, PORT).into(), session.local, 0x10);
    let stray = wire::packet(scene.right.v4.into(), session.local.ip(), 6, &stray);
    let stray = wire::frame(wire::mac_in(&scene.near), &stray);
    let provoke = |scene: &Scene, token: &str| {
        for _ in 0..5 {
            scene.right.inject(&stray);
            scene.enemy.send(session, &token.repeat(20)).ok();
            wait::quiet(wait::SILENCE);
        }
    };
    let denied = scene.denied();
    provoke(&scene, "turned;");
    assert!(!heard(&scene.wrong, "turned;"), "{}", scene.segd.log());
    assert!(scene.denied() > denied, "{}", scene.segd.log());
    assert!(scene.segd.unload().status.success());
    wait::wait_until("without segd it gets there", PATIENCE, || {
        provoke(&scene, "unloaded;");
        heard(&scene.wrong, "turned;") || heard(&scene.wrong, "unloaded;")
    });
}

/// Both headers, with any options.
const BARE: u16 = 80;

/// Whether something like this has reached a machine, in any frame.
fn heard(machine: &Remote, token: &str) -> bool {
    let frames = machine.frames();
    frames
        .iter()
        .any(|frame| String::from_utf8_lossy(&frame.payload).contains(token))
}

/// A source route that is written into a stream's options behind its hook leads it nowhere.
#[test]
fn a_stream_with_options_is_read_at_the_link() {
    let Some(lab) = Lab::open() else { return };
    let rules = "    - {from: rogue, to: right, ports: [tcp/5400]}\n";
    let mut scene = Scene::open(None, lab, rules);
    let session = scene.enemy.open_tcp((scene.right.v4, PORT)).unwrap();
    // RFC 791: eleven times "no operation", and the end.
    let nothing = [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0];
    scene
        .enemy
        .set_option(session, libc::IPPROTO_IP, libc::IP_OPTIONS, &nothing);
    scene.enemy.send(session, "straight;").unwrap();
    wait::wait_until("options that mean nothing pass", PATIENCE, || {
        heard(&scene.right, "straight;")
    });
    // Loose source route by one machine, behind a "no operation"; the end, and what leaves the header's checksum as it is.
    let by = scene.wrong.v4.octets();
    let mut route = [1, 131, 7, 4, by[0], by[1], by[2], by[3], 0, 0, 0, 0];
    let words = |bytes: [u8; 12]| -> [u16; 6] {
        std::array::from_fn(|at| u16::from_be_bytes([bytes[2 * at], bytes[2 * at + 1]]))
    };
    let sum = |bytes| {
        words(bytes)
            .iter()
            .fold(0_u32, |sum, word| (sum + u32::from(*word)) % 0xffff)
    };
    let rest = (sum(nothing) + 0xffff - sum(route)) % 0xffff;
    route[10..].copy_from_slice(&(rest as u16).to_be_bytes());
    scene.rewrite(&format!(
        "ip daddr {} tcp sport {} @nh,160,96 set 0x{}",
        scene.right.v4,
        session.local.port(),
        route.map(|byte| format!("{byte:02x}")).concat()
    ));
    let denied = scene.denied();
    scene.enemy.send(session, "turned;").ok();
    wait::within(Duration::from_secs(1), || scene.denied() > denied);
    assert!(!heard(&scene.right, "turned;"), "{}", scene.segd.log());
    assert!(scene.denied() > denied, "{}", scene.segd.log());
    assert!(scene.segd.unload().status.success());
    wait::wait_until("without segd it is sent again and gets there", PATIENCE, || {
        heard(&scene.right, "turned;")
    });
}
