//! What a container with rules of its own sends behind its hooks under what is not its: an address that nobody has, the first word of
//! another's connection, a socket of the host's, the rest of a packet. BYPASSES.md, section 3, class 13.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use segd_tests::{
    Lab,
    hostile::{COVERED, PORT, Scene, heard, segments_sent},
    netns::{NftTable, Sysctl, ip, v4},
    wait::{self, PATIENCE},
    wire::{self, written},
};

/// Leads the host's port 8080 on to `db`.
#[track_caller]
fn published(protocol: &str) -> (Sysctl, NftTable) {
    led_on(v4(1), protocol)
}

/// Leads an address's port 8080 on to `db`.
#[track_caller]
fn led_on(address: Ipv4Addr, protocol: &str) -> (Sysctl, NftTable) {
    led_on_to(address, protocol, (v4(11), 5432))
}

#[track_caller]
fn led_on_to(address: Ipv4Addr, protocol: &str, to: (Ipv4Addr, u16)) -> (Sysctl, NftTable) {
    let body = format!(
        "chain in {{
type nat hook prerouting priority -100;
ip daddr {address} {protocol} dport 8080 dnat ip to {}:{}
}}",
        to.0, to.1
    );
    let forward = Sysctl::set("net/ipv4/ip_forward", "1");
    (
        forward,
        NftTable::create(&format!("sgt{}", std::process::id()), &body),
    )
}

/// The session that the rules make another of.
fn asks_right(scene: &Scene) {
    scene.enemy.open_tcp((scene.right.v4, PORT)).ok();
}

fn asks_right_by_datagram(scene: &Scene, token: &str) {
    let socket = scene.enemy.open_udp((v4(10), NOBODYS.1), None).unwrap();
    scene.enemy.send_to(socket, (scene.right.v4, PORT), token).ok();
    scene.enemy.close(socket);
}

/// An address that nobody has, and the port that the enemy sends by in its name.
const NOBODYS: (Ipv4Addr, u16) = (v4(99), 4000);

/// Says one thing from [`NOBODYS`] by sockets of the enemy's own, whose hook knows who it is, and gives the address up.
#[track_caller]
fn says_once(scene: &Scene, say: impl FnOnce(&Scene)) {
    let (address, _) = NOBODYS;
    scene.near.ip(&format!("addr add {address}/32 dev lo"));
    say(scene);
    scene.near.ip(&format!("addr del {address}/32 dev lo"));
    wait::quiet(COVERED);
}

/// Makes what the enemy sends to its machine [`NOBODYS`] to port 8080 of an address that the host leads on, or has.
#[track_caller]
fn calls_itself_nobody(scene: &Scene, protocol: &str, to: Ipv4Addr) {
    scene.rewrite(&format!(
        "ip daddr {} {protocol} dport {PORT} {protocol} dport set 8080 ip saddr set {} ip daddr set {to} ether daddr set {}",
        scene.right.v4,
        NOBODYS.0,
        written(wire::mac(scene.bridge.name()))
    ));
}

/// As if the enemy's kernel had answered the host for [`NOBODYS`].
#[track_caller]
fn as_if_it_answered(scene: &Scene) {
    ip(&format!(
        "neigh replace {} lladdr {} dev {}",
        NOBODYS.0,
        written(wire::mac_in(&scene.near)),
        scene.bridge.name()
    ));
}

/// Makes what an address answers to [`NOBODYS`] its machine's answer to the enemy.
#[track_caller]
fn hears_answers_of(scene: &Scene, address: Ipv4Addr) {
    scene.receive(&format!(
        "ip saddr {address} ip daddr {} tcp sport set {PORT} ip saddr set {} ip daddr set {}",
        NOBODYS.0,
        scene.right.v4,
        v4(10)
    ));
}

/// Says something in the session that the rules make another of, by [`NOBODYS`]' port.
fn says_to_right(scene: &Scene, token: &str) {
    let own = (v4(10), NOBODYS.1);
    if let Ok(session) = scene.enemy.open_tcp_from(own, (scene.right.v4, PORT)) {
        scene.enemy.send(session, token).ok();
    }
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
    scene.stays_unheard(attempt, |scene, token| scene.server.inbox(ear).has(token));
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
    let _published = published("tcp");
    let outside = |scene: &Scene| {
        scene
            .right
            .tcp((v4(1), 8080).into(), "straight;", Duration::from_millis(500))
    };
    let sent = segments_sent(&scene.server);
    outside(&scene);
    wait::wait_until("who may reaches it by the port", PATIENCE, || {
        segments_sent(&scene.server) > sent
    });
    calls_itself_nobody(&scene, "tcp", v4(1));
    wait::quiet(wait::SILENCE);
    scene.stays_unanswered(asks_right);
}

/// Nor does an address that is not the host's and is led on all the same, as those of services are.
#[test]
fn an_address_that_nobody_has_does_not_get_in_by_an_address_that_the_host_leads_on() {
    let Some(lab) = Lab::open() else { return };
    let rules = "    - {from: rogue, to: right, ports: [tcp/5400]}\n    - {from: rogue, to: world, ports: [tcp/8080]}\n    - {from: world, to: db, ports: \
                 [tcp/5432]}\n";
    let mut scene = Scene::open(None, lab, rules);
    scene.server.listen_tcp((v4(11), 5432));
    let service = Ipv4Addr::new(192, 0, 2, 10);
    let _led = led_on(service, "tcp");
    calls_itself_nobody(&scene, "tcp", service);
    scene.stays_unanswered(asks_right);
}

/// Nor where such an address leads to a port of the host's own, which the network may ask.
#[test]
fn an_address_that_nobody_has_does_not_reach_the_host_by_an_address_that_leads_to_it() {
    let Some(lab) = Lab::open() else { return };
    let rules = "    - {from: rogue, to: right, ports: [tcp/5400]}\n    - {from: rogue, to: world, ports: [tcp/8080]}\n    - {from: [world, wrong], to: host, \
                 ports: [tcp/8081]}\n";
    let mut scene = Scene::open(None, lab, rules);
    let outside = scene.lab.cgroup("outside");
    let host = scene.lab.worker(&outside);
    let ear = host.listen_tcp((v4(1), 8081));
    let service = Ipv4Addr::new(192, 0, 2, 10);
    let _led = led_on_to(service, "tcp", (v4(1), 8081));
    let straight = scene
        .wrong
        .tcp(ear.local, "straight;", Duration::from_millis(500));
    assert_eq!(straight, "ok", "the network may ask it");
    as_if_it_answered(&scene);
    calls_itself_nobody(&scene, "tcp", service);
    hears_answers_of(&scene, service);
    scene.stays_unheard(says_to_right, |_, token| host.inbox(ear).has(token));
}

/// Nor a datagram by a port of the host's that its sender may ask the host at.
#[test]
fn an_address_that_nobody_has_gets_no_datagram_in_by_a_published_port() {
    let Some(lab) = Lab::open() else { return };
    let rules = "    - {from: rogue, to: right, ports: [udp/5400]}\n    - {from: rogue, to: host, ports: [udp/8080]}\n    - {from: world, to: db, ports: \
                 [udp/5432]}\n";
    let mut scene = Scene::open(None, lab, rules);
    let ear = scene.server.listen_udp((v4(11), 5432));
    let _published = published("udp");
    calls_itself_nobody(&scene, "udp", v4(1));
    scene.stays_unheard(asks_right_by_datagram, |scene, token| {
        scene.server.inbox(ear).has(token)
    });
}

/// Nor does it once its bearer has dialled there by it: what he dials then is another connection.
#[test]
fn an_address_that_a_container_has_dialled_by_is_the_networks_at_no_published_port() {
    let Some(lab) = Lab::open() else { return };
    let rules =
        "    - {from: rogue, to: right, ports: [tcp/5400]}\n    - {from: world, to: db, ports: [tcp/5432]}\n";
    let mut scene = Scene::open(None, lab, rules);
    scene.server.listen_tcp((v4(11), 5432));
    let _published = published("tcp");
    says_once(&scene, |scene| {
        let dialled = scene.enemy.open_tcp_from(NOBODYS, (v4(1), 8080));
        assert!(dialled.is_err(), "{}", scene.segd.log());
    });
    calls_itself_nobody(&scene, "tcp", v4(1));
    scene.stays_unanswered(|scene| {
        let own = (v4(10), NOBODYS.1);
        scene.enemy.open_tcp_from(own, (scene.right.v4, PORT)).ok();
    });
}

/// Nor at the host's own ports, which the network may ask.
#[test]
fn an_address_that_a_container_has_dialled_by_is_the_networks_at_no_port_of_the_hosts() {
    let Some(lab) = Lab::open() else { return };
    let rules = "    - {from: rogue, to: right, ports: [tcp/5400]}\n    - {from: [world, wrong], to: host, ports: [tcp/8080]}\n";
    let mut scene = Scene::open(None, lab, rules);
    let outside = scene.lab.cgroup("outside");
    let host = scene.lab.worker(&outside);
    let ear = host.listen_tcp((v4(1), 8080));
    let straight = scene
        .wrong
        .tcp(ear.local, "straight;", Duration::from_millis(500));
    assert_eq!(straight, "ok", "the network may ask it");
    says_once(&scene, |scene| {
        let dialled = scene.enemy.open_tcp_from(NOBODYS, ear.local);
        assert!(dialled.is_err(), "{}", scene.segd.log());
    });
    as_if_it_answered(&scene);
    calls_itself_nobody(&scene, "tcp", v4(1));
    hears_answers_of(&scene, v4(1));
    scene.stays_unheard(says_to_right, |_, token| host.inbox(ear).has(token));
}

/// Nor with other words than those that a datagram's own hook has seen.
#[test]
fn an_address_that_a_container_has_sent_by_gets_no_other_datagram_in_by_a_published_port() {
    let Some(lab) = Lab::open() else { return };
    let rules =
        "    - {from: rogue, to: right, ports: [udp/5400]}\n    - {from: world, to: db, ports: [udp/5432]}\n";
    let mut scene = Scene::open(None, lab, rules);
    let ear = scene.server.listen_udp((v4(11), 5432));
    let _published = published("udp");
    let say = |scene: &Scene, from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), token: &str| {
        let socket = scene.enemy.open_udp(from, None).unwrap();
        scene.enemy.send_to(socket, to, token).ok();
        scene.enemy.close(socket);
    };
    says_once(&scene, |scene| say(scene, NOBODYS, (v4(1), 8080), "its own;"));
    assert!(!scene.server.inbox(ear).has("its own;"), "{}", scene.segd.log());
    calls_itself_nobody(&scene, "udp", v4(1));
    let own = (v4(10), NOBODYS.1);
    scene.stays_unheard(
        |scene, token| say(scene, own, (scene.right.v4, PORT), token),
        |scene, token| scene.server.inbox(ear).has(token),
    );
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
    scene.stays_unanswered(asks_right);
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
    scene.strays_nowhere(|_| {
        host.open_tcp((v4(10), PORT)).ok();
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
    scene.unload();
    wait::wait_until("without segd it gets there", PATIENCE, || {
        provoke(&scene, "unloaded;");
        heard(&scene.wrong, "turned;") || heard(&scene.wrong, "unloaded;")
    });
}

/// Both headers, with any options.
const BARE: u16 = 80;

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
    scene.unload();
    wait::wait_until("without segd it is sent again and gets there", PATIENCE, || {
        heard(&scene.right, "turned;")
    });
}
