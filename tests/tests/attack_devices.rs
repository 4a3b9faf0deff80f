//! Devices come, change their names and go elsewhere; tunnels carry packets in packets; a container takes more addresses
//! than anybody needs. BYPASSES.md F11, B19, and section 3, classes 10 and 28.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    io::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::{Command, Stdio},
    time::Duration,
};

use segd_tests::{
    Cgroup, Craft, Kind, Lab, Netns, Remote, Segd, Worker, foreign,
    netns::{self, Sysctl, cable, ip},
    wait::{self, PATIENCE},
    wire,
    worker::Handle,
};

const OPEN: u16 = 5432;
const SHUT: u16 = 9000;
/// How long segd may take to cover what is new.
const COVERED: Duration = Duration::from_secs(1);

fn policy(web: &Cgroup, rogue: &Cgroup, db: &Cgroup, rules: &str) -> String {
    format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: devices}}
spec:
  segments:
    web: {{match: [{{cgroup: {}}}]}}
    rogue: {{match: [{{cgroup: {}}}]}}
    db: {{match: [{{cgroup: {}}}]}}
    partner: {{match: [{{cidr: 198.51.100.0/24}}]}}
  allow:
    - {{from: [web, partner], to: db, ports: [udp/{OPEN}, tcp/{OPEN}]}}
{rules}",
        web.path(),
        rogue.path(),
        db.path()
    )
}

/// A NIC of the host with the network at its far end, and `db` on the host.
struct Nic {
    name: String,
    network: Netns,
    server: Worker,
    ear: Handle,
    segd: Segd,
    _cgroups: [Cgroup; 3],
    lab: Lab,
}

impl Nic {
    fn open() -> Option<Nic> {
        let lab = Lab::open()?;
        let network = lab.netns("network");
        cable(&network, 38);
        let name = format!("sgt{}c38", std::process::id() % 100_000);
        let cgroups = ["web", "rogue", "db"].map(|name| lab.cgroup(name));
        let [web, rogue, db] = &cgroups;
        let server = lab.worker(db);
        // Whatever address its NIC has.
        let ear = server.listen_udp((Ipv4Addr::UNSPECIFIED, OPEN));
        let segd = lab
            .segd(&policy(web, rogue, db, ""))
            .args(&["--interface", &name])
            .start();
        Some(Nic {
            name,
            network,
            server,
            ear,
            segd,
            _cgroups: cgroups,
            lab,
        })
    }

    /// Puts a packet on the wire that only XDP refuses: nobody's address, and cut off behind its header.
    fn provoke(&self) {
        let packet = wire::packet(
            Ipv4Addr::new(192, 0, 2, 9).into(),
            Ipv4Addr::new(10, 213, 38, 1).into(),
            17,
            &[0, 1, 0],
        );
        let frame = wire::frame([0xff; 6], &packet);
        wire::inject(&self.network, &[frame]);
    }

    fn dropped(&self) -> u64 {
        self.segd.denied().get("truncated").copied().unwrap_or(0)
    }

    /// Whether XDP looks at what comes in by the wire.
    fn is_covered(&self) -> bool {
        let before = self.dropped();
        self.provoke();
        wait::within(Duration::from_millis(60), || self.dropped() > before)
    }

    fn is_green(&self) -> bool {
        self.segd.json(&["status"])["enforcing"] == true
    }
}

/// F11: a NIC that changes its name is watched on; segd says that it does not know the name any more.
#[test]
fn a_nic_that_is_renamed_is_watched_on_and_the_missing_name_is_an_alarm() {
    let Some(nic) = Nic::open() else { return };
    assert!(nic.is_covered() && nic.is_green());
    let other = format!("sgt{}x38", std::process::id() % 100_000);
    let rename = |from: &str, to: &str| {
        ip(&format!("link set {from} down"));
        ip(&format!("link set {from} name {to}"));
        ip(&format!("link set {to} up"));
    };
    rename(&nic.name, &other);
    wait::wait_until("an alarm", Duration::from_secs(5), || !nic.is_green());
    let because = nic.segd.json(&["status"])["not_enforcing_because"].to_string();
    assert!(because.contains(&nic.name), "it names the interface: {because}");
    assert!(nic.is_covered(), "the program stays where it is");
    rename(&other, &nic.name);
    wait::wait_until("all is well again", Duration::from_secs(5), || nic.is_green());
    assert!(nic.is_covered());
}

/// F11: what is gone to another namespace is gone; what comes in its place is covered within a second.
#[test]
fn a_nic_that_moves_away_is_an_alarm_and_another_of_its_name_is_covered_in_a_second() {
    let Some(nic) = Nic::open() else { return };
    let elsewhere = nic.lab.netns("elsewhere");
    ip(&format!("link set {} netns {}", nic.name, elsewhere.name()));
    wait::wait_until("an alarm", Duration::from_secs(5), || !nic.is_green());
    nic.network.ip("link del eth0");
    ip(&format!(
        "link add {} type veth peer name eth0 netns {}",
        nic.name,
        nic.network.name()
    ));
    ip(&format!("addr add 10.213.38.1/24 dev {}", nic.name));
    ip(&format!("link set {} up", nic.name));
    nic.network.ip("link set eth0 up");
    wait::wait_until("the new one is covered", COVERED * 2, || nic.is_covered());
    wait::wait_until("all is well again", Duration::from_secs(5), || nic.is_green());
    assert!(!nic.server.inbox(nic.ear).has("never;"));
}

/// F11: a link that comes up while segd runs, and one that is made anew with the same name.
#[test]
fn a_workloads_new_link_is_covered_in_a_second_and_so_is_the_next_of_its_name() {
    let Some(lab) = Lab::open() else { return };
    let [web, rogue, db] = ["web", "rogue", "db"].map(|name| lab.cgroup(name));
    let server = lab.worker(&db);
    let ear = server.listen_udp((Ipv4Addr::UNSPECIFIED, OPEN));
    let segd = lab.enforce(&policy(&web, &rogue, &db, ""));
    let near = lab.netns("near");
    for _ in 0..3 {
        cable(&near, 39);
        let port = format!("sgt{}c39", std::process::id() % 100_000);
        let enemy = lab.worker_in(&rogue, &near);
        wait::quiet(COVERED);
        let from: SocketAddr = (Ipv4Addr::new(198, 51, 100, 7), 40_000).into();
        let to: SocketAddr = (Ipv4Addr::new(10, 213, 39, 1), OPEN).into();
        let packet = wire::packet(from.ip(), to.ip(), 17, &wire::udp_between(from, to, b"frame;"));
        segd.denies(1, &["unjudged"], || {
            enemy
                .send_frame("eth0", &wire::frame(wire::mac(&port), &packet), false)
                .ok();
        });
        drop(enemy);
        ip(&format!("link del {port}"));
    }
    assert!(!server.inbox(ear).has("frame;"));
}

/// B19. WireGuard, GRE and IPIP devices were not to be had; VXLAN stands for them.
struct Tunnel {
    web: Worker,
    rogue: Worker,
    far: Worker,
    stranger: Worker,
    home: Worker,
    /// `db` behind the tunnel, and on the host at its other end.
    ears: [Handle; 3],
    segd: Segd,
    _netns: Netns,
    _cgroups: [Cgroup; 4],
    _loose: Sysctl,
    _lab: Lab,
}

const INNER_HOST: Ipv4Addr = Ipv4Addr::new(10, 214, 0, 1);
const INNER_FAR: Ipv4Addr = Ipv4Addr::new(10, 214, 0, 2);
const OUTER_HOST: Ipv4Addr = Ipv4Addr::new(10, 213, 40, 1);
const OUTER_FAR: Ipv4Addr = Ipv4Addr::new(10, 213, 40, 2);
const VXLAN: u16 = 4789;
const NUMBER: u8 = 77;

impl Tunnel {
    fn open() -> Option<Tunnel> {
        let lab = Lab::open()?;
        let netns = lab.netns("far");
        cable(&netns, 40);
        let device = format!("sgt{}v", std::process::id() % 100_000);
        ip(&format!(
            "link add {device} type vxlan id {NUMBER} local {OUTER_HOST} remote {OUTER_FAR} dstport {VXLAN}"
        ));
        netns.ip(&format!(
            "link add tunnel type vxlan id {NUMBER} local {OUTER_FAR} remote {OUTER_HOST} dstport {VXLAN}"
        ));
        ip(&format!("addr add {INNER_HOST}/24 dev {device}"));
        ip(&format!("link set {device} up"));
        netns.ip(&format!("addr add {INNER_FAR}/24 dev tunnel"));
        netns.ip("link set tunnel up");
        let loose = Sysctl::set("net/ipv4/conf/all/rp_filter", "0");
        let cgroups = ["web", "rogue", "db", "nobody"].map(|name| lab.cgroup(name));
        let [web, rogue, db, nobody] = &cgroups;
        // What the host's routes lead into a tunnel is the network, to its sender; the receiver knows who it is. And the far
        // end's packets come out of a container: its tunnel needs leave to leave.
        let rules = format!(
            "    - {{from: web, to: behind, ports: [udp/{OPEN}]}}
    - {{from: db, to: host, ports: [udp/{VXLAN}]}}
"
        );
        let text = policy(web, rogue, db, &rules).replace(
            "  allow:\n",
            &format!("    behind: {{match: [{{cidr: {INNER_FAR}/32}}]}}\n  allow:\n"),
        );
        let segd = lab.enforce(&text);
        let (far, home) = (lab.worker_in(db, &netns), lab.worker(db));
        let ears = [
            far.listen_udp((INNER_FAR, OPEN)),
            far.listen_udp((INNER_FAR, SHUT)),
            home.listen_udp((INNER_HOST, OPEN)),
        ];
        wait::quiet(COVERED);
        Some(Tunnel {
            web: lab.worker(web),
            rogue: lab.worker(rogue),
            stranger: lab.worker_in(nobody, &netns),
            far,
            home,
            ears,
            segd,
            _netns: netns,
            _cgroups: cgroups,
            _loose: loose,
            _lab: lab,
        })
    }

    fn count(&self, token: &str) -> usize {
        let [open, shut, here] = self.ears;
        self.far.inbox(open).count(token)
            + self.far.inbox(shut).count(token)
            + self.home.inbox(here).count(token)
    }
}

#[test]
fn a_tunnel_carries_what_its_sender_may_send_and_nobody_gets_in_by_it() {
    let Some(tunnel) = Tunnel::open() else { return };
    // Inside, who sends is known as outside.
    wait::wait_until("the allowed one arrives", PATIENCE, || {
        tunnel.web.probe(Kind::Udp, (INNER_FAR, OPEN), "web;");
        tunnel.count("web;") > 0
    });
    for (worker, port) in [(&tunnel.rogue, OPEN), (&tunnel.rogue, SHUT), (&tunnel.web, SHUT)] {
        for kind in [Kind::Udp, Kind::UdpConnected, Kind::RawUdp, Kind::Tcp] {
            tunnel.segd.denies(1, &["no-rule"], || {
                worker.probe(kind, (INNER_FAR, port), "inside;");
            });
        }
    }
    // Whoever makes the outer packet by hand must have leave to send that.
    let inner = wire::vxlan(
        NUMBER,
        (INNER_HOST, 40_000).into(),
        (INNER_FAR, OPEN).into(),
        "by-hand;",
    );
    for worker in [&tunnel.rogue, &tunnel.web] {
        let outer = wire::udp_between((OUTER_HOST, VXLAN).into(), (OUTER_FAR, VXLAN).into(), &inner);
        for craft in [
            Craft::raw(OUTER_FAR, 17, &outer),
            Craft::raw(OUTER_FAR, 17, &outer).connected(),
        ] {
            tunnel.segd.denies(1, &["no-rule"], || {
                worker.craft(craft).ok();
            });
        }
    }
    assert_eq!(tunnel.count("inside;") + tunnel.count("by-hand;"), 0);
    // The far end says that it is the host, or the host's loopback, by way of its tunnel, which it may use.
    for (number, source) in [INNER_HOST, OUTER_HOST].into_iter().enumerate() {
        let inner = wire::vxlan(
            NUMBER,
            (source, 40_000).into(),
            (INNER_HOST, OPEN).into(),
            "host;",
        );
        let outer = wire::udp_between((OUTER_FAR, 40_000).into(), (OUTER_HOST, VXLAN).into(), &inner);
        tunnel.segd.denies(1, &["spoofed"], || {
            let sent = tunnel.far.craft(Craft::raw(OUTER_HOST, 17, &outer));
            sent.unwrap_or_else(|error| panic!("{number}: {error:?}"));
        });
    }
    assert_eq!(tunnel.count("host;"), 0);
    drop(tunnel.stranger);
}

/// Class 10: what a tunnel wraps around an allowed packet bears that packet's socket, and is judged all the same.
#[test]
fn what_a_containers_tunnel_sends_to_another_machine_is_judged_as_the_container() {
    let Some(lab) = Lab::open() else { return };
    let bridge = lab.bridge();
    let near = lab.netns("near");
    bridge.plug(&near, 10);
    let remote = Remote::plug(&bridge, 50);
    remote.listen(OPEN);
    let [web, rogue, db] = ["web", "rogue", "db"].map(|name| lab.cgroup(name));
    near.ip(&format!(
        "link add tunnel type vxlan id {NUMBER} local {} remote {} dstport {OPEN}",
        netns::v4(10),
        remote.v4
    ));
    near.ip(&format!("addr add {INNER_HOST}/24 dev tunnel"));
    near.ip("link set tunnel up");
    near.ip(&format!(
        "neigh add {INNER_FAR} lladdr 02:00:00:00:00:02 dev tunnel"
    ));
    let enemy = lab.worker_in(&rogue, &near);
    let inside = "    - {from: rogue, to: world, ports: [tcp/80, udp/80]}\n";
    let segd = lab.enforce(&policy(&web, &rogue, &db, inside));
    wait::quiet(COVERED);
    let wrapped = || {
        let frames = remote.frames();
        frames
            .iter()
            .filter(|frame| frame.protocol == 17 && frame.port == OPEN)
            .count()
    };
    // The kernel's own, before anything was enforced.
    let before = wrapped();
    for kind in [Kind::Udp, Kind::UdpConnected, Kind::Tcp] {
        enemy.probe(kind, (INNER_FAR, 80), "inside;");
    }
    wait::wait_until("each is denied", PATIENCE, || {
        segd.denied().get("no-rule").is_some_and(|count| *count >= 3)
    });
    assert_eq!(wrapped(), before, "the tunnel's packets left");
    // With leave for the outer packet, too, it does reach the machine: nothing but the policy was in its way.
    let outside = inside.replace("udp/80", &format!("udp/80, udp/{OPEN}"));
    segd.set_policy(&policy(&web, &rogue, &db, &outside));
    wait::wait_until("the tunnel's packets arrive", PATIENCE, || {
        enemy.probe(Kind::Udp, (INNER_FAR, 80), "inside;");
        wrapped() > before
    });
}

/// Class 28: addresses without end move nobody else's.
#[test]
fn a_container_that_takes_thousands_of_addresses_is_told_of_and_takes_nothing_else() {
    let Some(lab) = Lab::open() else { return };
    let [web, rogue, db] = ["web", "rogue", "db"].map(|name| lab.cgroup(name));
    let (near, far) = (lab.netns("near"), lab.netns("far"));
    cable(&near, 41);
    cable(&far, 42);
    let (client, enemy) = (lab.worker(&web), lab.worker_in(&rogue, &near));
    let server = lab.worker_in(&db, &far);
    let segd = lab.enforce(&policy(&web, &rogue, &db, ""));
    let memory = segd.resident_kib();
    let mut batch = Command::new("ip")
        .args(["-n", near.name(), "-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let lines: String = (0x100..0x100 + 4000)
        .map(|number| format!("addr add fd13:213:29::{number:x}/64 dev eth0 nodad\n"))
        .collect();
    batch.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    assert!(batch.wait().unwrap().success());
    wait::wait_until("status tells of it", PATIENCE, || {
        segd.json(&["status"])["warnings"]
            .to_string()
            .contains("too many addresses")
    });
    // What others get meanwhile is known all the same.
    far.ip("addr add fd13:213:2a::99/64 dev eth0 nodad");
    let at: IpAddr = "fd13:213:2a::99".parse().unwrap();
    let (open, shut) = (server.listen_udp((at, OPEN)), server.listen_udp((at, SHUT)));
    wait::wait_until("the other container's new address is known", PATIENCE, || {
        client.probe(Kind::Udp, open.local, "web;");
        server.inbox(open).has("web;")
    });
    for last in ["2", "100", "8ff", "109f"] {
        for to in [open.local, shut.local] {
            let from: IpAddr = format!("fd13:213:29::{last}").parse().unwrap();
            enemy.craft(Craft::udp(to, "leak;").bind((from, 0))).ok();
        }
    }
    wait::quiet(wait::SILENCE);
    assert!(!server.inbox(open).has("leak;") && !server.inbox(shut).has("leak;"));
    let grown = segd.resident_kib().saturating_sub(memory);
    assert!(grown < 32 << 10, "{grown} KiB for 4000 addresses");
    let known = segd
        .metric("segd_map_entries", &[("map", "locals")])
        .unwrap_or(0.0);
    assert!(known < 2500.0, "{known} addresses are kept");
}

/// Class 28: where no address and no source of a link fits any more, what is new gets no right, and status says so.
#[test]
fn with_the_tables_of_addresses_and_links_full_nothing_becomes_allowed() {
    for table in ["LOCALS", "SOURCES", "LINKS"] {
        let Some(lab) = Lab::open() else { return };
        let _loose = Sysctl::set("net/ipv4/conf/all/rp_filter", "0");
        let [web, rogue, db, nobody] = ["web", "rogue", "db", "nobody"].map(|name| lab.cgroup(name));
        let far = lab.netns("far");
        let (far4, _) = cable(&far, 43);
        let server = lab.worker_in(&db, &far);
        let (open, shut) = (server.listen_udp((far4, OPEN)), server.listen_udp((far4, SHUT)));
        let (client, enemy) = (lab.worker(&web), lab.worker(&rogue));
        let segd = lab.enforce(&policy(&web, &rogue, &db, ""));
        let pins = std::fs::read_dir(segd.pin_dir()).unwrap().flatten();
        let map = pins
            .map(|entry| entry.path().join(table))
            .find(|path| path.exists())
            .expect("the map is pinned");
        assert!(foreign::fill(&map).unwrap() > 1000, "{table} took more");
        let late = lab.netns("late");
        cable(&late, 44);
        let newcomer = lab.worker_in(&rogue, &late);
        let friend = lab.worker_in(&web, &late);
        let later = lab.netns("later");
        cable(&later, 45);
        let stranger = lab.worker_in(&nobody, &later);
        let home = lab.worker(&db);
        let door = home.listen_udp((Ipv4Addr::UNSPECIFIED, OPEN));
        wait::wait_until(format!("status tells that {table} is full"), PATIENCE, || {
            let warnings = segd.json(&["status"])["warnings"].to_string();
            warnings.contains("could be written") || warnings.contains("did not fit")
        });
        wait::quiet(COVERED);
        for worker in [&enemy, &newcomer] {
            for to in [open.local, shut.local] {
                for kind in [Kind::Udp, Kind::RawUdp] {
                    worker.probe(kind, to, "leak;");
                }
            }
        }
        friend.probe(Kind::Udp, shut.local, "leak;");
        // By a packet socket, and in the name of who may: a partner.
        for (worker, number) in [(&newcomer, 44), (&stranger, 45)] {
            let from: SocketAddr = (Ipv4Addr::new(198, 51, 100, 7), 40_000).into();
            let to: SocketAddr = (Ipv4Addr::new(10, 213, number, 1), OPEN).into();
            let packet = wire::packet(from.ip(), to.ip(), 17, &wire::udp_between(from, to, b"leak;"));
            let port = format!("sgt{}c{number}", std::process::id() % 100_000);
            worker
                .send_frame("eth0", &wire::frame(wire::mac(&port), &packet), false)
                .ok();
        }
        client.probe(Kind::Udp, open.local, "old;");
        server.wait_for_message(open, "old;");
        wait::quiet(wait::SILENCE);
        for ear in [open, shut] {
            assert!(
                !server.inbox(ear).has("leak;"),
                "{table}: {} was reached",
                ear.local
            );
        }
        assert!(!home.inbox(door).has("leak;"), "{table}: the host was reached");
    }
}
