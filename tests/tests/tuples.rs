//! One address and port, two senders: an entry speaks for the packets it was written for, not for their tuple.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::Command,
    time::Duration,
};

use segd_tests::{
    Cgroup, Kind, Lab, Netns, Probe, Segd, Worker,
    netns::{NftTable, Sysctl, cable},
    wait, wire,
    worker::{Handle, probe},
};

fn policy(web: &Cgroup, rogue: &Cgroup, db: &Cgroup) -> String {
    format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: tuples}}
spec:
  segments:
    web: {{match: [{{cgroup: {}}}]}}
    rogue: {{match: [{{cgroup: {}}}]}}
    db: {{match: [{{cgroup: {}}}]}}
  allow:
    - {{from: web, to: db, ports: [tcp/5432, udp/5432, tcp/5433, udp/5433]}}
",
        web.path(),
        rogue.path(),
        db.path()
    )
}

const PUBLISHED: u16 = 15432;
/// More than is looked at of how a datagram begins.
const ALIKE: &str = "what both of them begin with, to the letter: ";

/// `near` with an enemy, `far` with the database whose port 5432 the host publishes and masquerades.
struct Masqueraded {
    near: Netns,
    near_ip: IpAddr,
    far: Netns,
    far_ip: IpAddr,
    /// The host's address on the database's link: what everybody's source becomes.
    here: IpAddr,
    published: SocketAddr,
    _settings: (Sysctl, NftTable),
}

impl Masqueraded {
    #[track_caller]
    fn build(lab: &Lab) -> Masqueraded {
        let forward = Sysctl::set("net/ipv4/ip_forward", "1");
        let (near, far) = (lab.netns("near"), lab.netns("far"));
        let (near_ip, _) = cable(&near, 31);
        let (far_ip, _) = cable(&far, 33);
        let nat = NftTable::create(
            &format!("sgt{}", std::process::id()),
            &format!(
                "chain in {{
type nat hook prerouting priority -100;
ip daddr 10.213.31.1 meta l4proto {{tcp, udp}} th dport {PUBLISHED} dnat ip to {far_ip}:5432
}}
chain out {{
type nat hook postrouting priority 100;
ip daddr 10.213.33.0/24 ip saddr 10.213.31.0/24 masquerade
}}"
            ),
        );
        Masqueraded {
            near,
            near_ip,
            far,
            far_ip,
            here: Ipv4Addr::new(10, 213, 33, 1).into(),
            published: (Ipv4Addr::new(10, 213, 31, 1), PUBLISHED).into(),
            _settings: (forward, nat),
        }
    }
}

/// One datagram from this very port, whoever had it before.
#[track_caller]
fn send_from(worker: &Worker, from: (IpAddr, u16), to: SocketAddr, token: &str) {
    let socket = worker.open_udp(from, None).unwrap();
    worker.send_to(socket, to, token).ok();
    worker.close(socket);
}

#[test]
fn a_translated_source_is_nobody_even_on_the_port_of_another() {
    let Some(lab) = Lab::open() else { return };
    let place = Masqueraded::build(&lab);
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let client = lab.worker(&web);
    let enemy = lab.worker_in(&rogue, &place.near);
    let server = lab.worker_in(&db, &place.far);
    let service = server.listen_udp((place.far_ip, 5432));
    let other = server.listen_udp((place.far_ip, 5433));
    let _segd = lab.enforce(&policy(&web, &rogue, &db));
    // The host's address on the database's link, and a port: a live socket's, then one that is closed.
    let live = client.open_udp((place.here, 41_000), None).unwrap();
    client.send_to(live, other.local, "harmless;").unwrap();
    let gone = client.open_udp((place.here, 41_001), None).unwrap();
    client.send_to(gone, other.local, "harmless;").unwrap();
    client.close(gone);
    // Sent to the published port, which the host translates at both ends.
    send_from(&enemy, (place.near_ip, 41_000), place.published, "live;");
    send_from(&enemy, (place.near_ip, 41_001), place.published, "gone;");
    client.send_to(live, service.local, "right;").unwrap();
    server.wait_for_message(service, "right;");
    wait::quiet(wait::SILENCE);
    assert_eq!(server.inbox(service).messages, ["right;"]);
    let sources = server.inbox(other).sources;
    assert!(
        sources.iter().all(|source| source.ip() == place.here),
        "the addresses are what the test is about: {sources:?}"
    );
}

#[test]
fn a_translated_connection_is_nobodys_even_on_the_port_of_another() {
    let Some(lab) = Lab::open() else { return };
    let place = Masqueraded::build(&lab);
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let client = lab.worker(&web);
    let enemy = lab.worker_in(&rogue, &place.near);
    let server = lab.worker_in(&db, &place.far);
    let service = server.listen_tcp((place.far_ip, 5432));
    let other = server.listen_tcp((place.far_ip, 5433));
    let _segd = lab.enforce(&policy(&web, &rogue, &db));
    let from = |address: IpAddr, port: u16, to: SocketAddr, token: &str| Probe {
        from: Some((address, port).into()),
        timeout_ms: 700,
        ..probe(Kind::Tcp, to, token)
    };
    let outcomes = client.probe_all(vec![from(place.here, 41_000, other.local, "harmless;")]);
    assert_eq!(outcomes[0].result, "ok");
    let stolen = enemy.probe_all(vec![from(place.near_ip, 41_000, place.published, "stolen;")]);
    assert_ne!(stolen[0].result, "ok");
    assert_eq!(
        client.probe(Kind::Tcp, service.local, "right;").result,
        "ok",
        "whom the policy allows gets through"
    );
    wait::quiet(wait::SILENCE);
    assert_eq!(server.inbox(service).messages, ["right;"]);
    assert_eq!(server.inbox(service).accepts, 1, "nobody else was accepted");
}

/// The address and port on the database's link that [`Shared`]'s clients share.
const SHARED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 213, 33, 1)), 41_000);

/// Who may ask the database and who may not, in the host's namespace. Two segments live behind the database's address: only the
/// receiver can judge.
struct Shared {
    _segd: Segd,
    client: Worker,
    enemy: Worker,
    server: Worker,
    _neighbour: Worker,
    /// On a port that the policy opens.
    service: Handle,
    /// On another, open as well.
    other: Handle,
    _cgroups: [Cgroup; 3],
    _far: Netns,
}

impl Shared {
    #[track_caller]
    fn build(lab: &Lab) -> Shared {
        let far = lab.netns("far");
        let (far_ip, _) = cable(&far, 33);
        let cgroups = ["web", "rogue", "db"].map(|name| lab.cgroup(name));
        let [web, rogue, db] = &cgroups;
        let (client, enemy) = (lab.worker(web), lab.worker(rogue));
        let server = lab.worker_in(db, &far);
        let neighbour = lab.worker_in(web, &far);
        let [service, other] = [5432, 5433].map(|port| server.listen_udp((far_ip, port)));
        Shared {
            _segd: lab.enforce(&policy(web, rogue, db)),
            client,
            enemy,
            server,
            _neighbour: neighbour,
            service,
            other,
            _cgroups: cgroups,
            _far: far,
        }
    }
}

/// Lets a few hundred bytes a second leave by the database's link, so that datagrams wait on their way.
#[track_caller]
fn slow_down() {
    let device = format!("sgt{}c33", std::process::id() % 100_000);
    let words = format!("qdisc add dev {device} root tbf rate 4kbit burst 200 latency 8s");
    let status = Command::new("tc").args(words.split(' ')).status().expect("tc");
    assert!(status.success(), "tc {words}");
}

#[test]
fn two_segments_on_one_shared_port_keep_their_own_names() {
    let Some(lab) = Lab::open() else { return };
    let place = Shared::build(&lab);
    let (client, enemy, server) = (&place.client, &place.enemy, &place.server);
    let (service, other) = (place.service, place.other);
    let [ours, theirs] = [client, enemy].map(|worker| worker.share_udp(SHARED));
    client.send_to(ours, service.local, "first;").unwrap();
    server.wait_for_message(service, "first;");
    // Both are on their way at once, and the last to send was one that may.
    slow_down();
    for _ in 0..10 {
        client.send_to(ours, other.local, "queue;").unwrap();
    }
    enemy.send_to(theirs, service.local, "stolen;").unwrap();
    client.send_to(ours, service.local, "right;").unwrap();
    assert!(!server.inbox(service).has("right;"), "it waits in the queue");
    wait::within(Duration::from_secs(8), || server.inbox(service).has("right;"));
    wait::quiet(wait::SILENCE);
    assert_eq!(server.inbox(service).messages, ["first;", "right;"]);
}

/// As above, when those who may not send have had the port alone for so long that what they send is not looked at any more.
#[test]
fn a_datagram_that_loses_its_tuple_on_the_way_is_not_anothers_that_began_alike() {
    let Some(lab) = Lab::open() else { return };
    let nobody = lab.cgroup("nobody");
    let third = lab.worker(&nobody);
    let place = Shared::build(&lab);
    let (client, enemy, server) = (&place.client, &place.enemy, &place.server);
    let (service, other) = (place.service, place.other);
    let [ours, theirs, thirds] = [client, enemy, &third].map(|worker| worker.share_udp(SHARED));
    for round in 0..5 {
        let right = format!("{ALIKE}right-{round};");
        client.send_to(ours, service.local, &right).unwrap();
        server.wait_for_message(service, &right);
    }
    // Long enough to have the tuple undisputed, and short enough that what was sent before is remembered.
    for _ in 0..26 {
        enemy.send_to(theirs, service.local, "of its own;").unwrap();
        wait::quiet(Duration::from_millis(50));
    }
    slow_down();
    for _ in 0..4 {
        enemy.send_to(theirs, other.local, "queue;").unwrap();
    }
    enemy
        .send_to(theirs, service.local, &format!("{ALIKE}stolen;"))
        .unwrap();
    third.send_to(thirds, service.local, "whoever;").unwrap();
    wait::quiet(Duration::from_secs(3));
    let messages = server.inbox(service).messages;
    assert!(
        messages.len() == 5 && messages.iter().all(|message| message.contains("right-")),
        "{messages:?}"
    );
}

/// The same, where the one who may send is who takes the tuple, and begins alike.
#[test]
fn a_datagram_on_its_way_is_not_its_tuples_next_owners_that_begins_alike() {
    let Some(lab) = Lab::open() else { return };
    let place = Shared::build(&lab);
    let (client, enemy, server) = (&place.client, &place.enemy, &place.server);
    let (service, other) = (place.service, place.other);
    let [ours, theirs] = [client, enemy].map(|worker| worker.share_udp(SHARED));
    slow_down();
    for _ in 0..4 {
        enemy.send_to(theirs, other.local, "queue;").unwrap();
    }
    enemy
        .send_to(theirs, service.local, &format!("{ALIKE}stolen;"))
        .unwrap();
    client
        .send_to(ours, service.local, &format!("{ALIKE}right;"))
        .unwrap();
    wait::quiet(Duration::from_secs(3));
    let stolen = format!("{ALIKE}stolen;");
    assert!(!server.inbox(service).has(&stolen));
    // What begins alike is nobody's for as long as it may be on its way; all else is its sender's again in a second.
    client.send_to(ours, service.local, "unlike;").unwrap();
    server.wait_for_message(service, "unlike;");
}

#[test]
fn the_pieces_of_a_train_are_not_anothers_that_began_alike() {
    const UDP: i32 = 17;
    const UDP_SEGMENT: i32 = 103;
    let Some(lab) = Lab::open() else { return };
    let place = Shared::build(&lab);
    let (client, enemy, server) = (&place.client, &place.enemy, &place.server);
    let service = place.service;
    let [ours, theirs] = [client, enemy].map(|worker| worker.share_udp(SHARED));
    let right = format!("{ALIKE}right;");
    client.send_to(ours, service.local, &right).unwrap();
    server.wait_for_message(service, &right);
    let piece = format!("{ALIKE}stolen;");
    let length = i32::try_from(piece.len()).unwrap();
    enemy.set_option(theirs, UDP, UDP_SEGMENT, &length.to_ne_bytes());
    let head = "-".repeat(piece.len());
    for _ in 0..3 {
        enemy
            .send_to(theirs, service.local, &format!("{head}{piece}{piece}"))
            .unwrap();
    }
    wait::quiet(wait::SILENCE);
    assert_eq!(server.inbox(service).messages, [right]);
}

#[test]
fn an_echo_reply_made_by_hand_answers_nobodys_question() {
    let Some(lab) = Lab::open() else { return };
    let far = lab.netns("far");
    let (far_ip, _) = cable(&far, 33);
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let client = lab.worker(&web);
    // Two segments behind one address: who answers there cannot be told.
    let (_server, enemy) = (lab.worker_in(&db, &far), lab.worker_in(&rogue, &far));
    let text = policy(&web, &rogue, &db) + "    - {from: web, to: host, ports: [icmp/echo-request]}\n";
    let _segd = lab.enforce(&text);
    let ask = Probe {
        timeout_ms: 300,
        ..probe(Kind::Echo, (far_ip, 0), "token;")
    };
    assert_eq!(client.probe_all(vec![ask.clone()])[0].result, "ok");
    // The kernel there falls silent; whoever answers now is not it.
    far.sysctl("net/ipv4/icmp_echo_ignore_all", "1");
    let mut reply = vec![0, 0, 0, 0];
    reply.extend(segd_tests::sys::checksum(b"token;").to_be_bytes());
    reply.extend(1_u16.to_be_bytes());
    reply.extend(b"token;");
    let sum = segd_tests::sys::checksum(&reply);
    reply[2..4].copy_from_slice(&sum.to_be_bytes());
    let here = IpAddr::from(Ipv4Addr::new(10, 213, 33, 1));
    let forged = segd_tests::wire::packet(far_ip, here, 1, &reply);
    let asking = client.hammer(vec![ask], 1);
    for _ in 0..20 {
        enemy.send_raw(here, &forged).ok();
        wait::quiet(Duration::from_millis(50));
    }
    let tally = client.stop(asking);
    assert!(tally.attempts > 0);
    assert_eq!(tally.successes, 0, "a workload answered for the kernel");
}

/// Makes the host forward whatever source comes in by a test's cables.
#[track_caller]
fn forward_any_source() -> Vec<Sysctl> {
    let mut settings = vec![
        Sysctl::set("net/ipv4/ip_forward", "1"),
        Sysctl::set("net/ipv6/conf/all/forwarding", "1"),
        Sysctl::set("net/ipv4/conf/all/rp_filter", "0"),
    ];
    for interface in std::fs::read_dir("/proc/sys/net/ipv4/conf").unwrap().flatten() {
        let name = interface.file_name().to_string_lossy().into_owned();
        if name.starts_with("sgt") {
            settings.push(Sysctl::set(&format!("net/ipv4/conf/{name}/rp_filter"), "0"));
        }
    }
    settings
}

#[test]
fn a_container_is_not_who_it_says_it_is_by_an_address_it_does_not_have() {
    let Some(lab) = Lab::open() else { return };
    let (near, far, other) = (lab.netns("near"), lab.netns("far"), lab.netns("other"));
    let near_ip = cable(&near, 31);
    let (far_v4, far_v6) = cable(&far, 33);
    cable(&other, 32);
    let _settings = forward_any_source();
    let (nobody, rogue, db) = (lab.cgroup("nobody"), lab.cgroup("rogue"), lab.cgroup("db"));
    let server = lab.worker_in(&db, &far);
    let (honest, enemy) = (lab.worker_in(&nobody, &near), lab.worker_in(&nobody, &other));
    let text = policy(&nobody, &rogue, &db).replace(
        &format!("{{cgroup: {}}}", nobody.path()),
        "{cidr: 10.213.31.0/24}, {cidr: 'fd13:213:1f::/64'}",
    );
    let _segd = lab.enforce(&text);
    let foreign: [(IpAddr, IpAddr, IpAddr); 2] = [
        (far_v4, near_ip.0, Ipv4Addr::new(10, 213, 31, 77).into()),
        (far_v6, near_ip.1, "fd13:213:1f::77".parse().unwrap()),
    ];
    for (far_ip, near_ip, absent) in foreign {
        let service = server.listen_udp((far_ip, 5432));
        for stolen in [near_ip, absent] {
            let socket = enemy.share_udp((stolen, 41_000));
            enemy.send_to(socket, service.local, "stolen;").ok();
        }
        if far_ip.is_ipv4() {
            let datagram = segd_tests::wire::udp(41_001, 5432, b"by hand;");
            let forged = segd_tests::wire::packet(absent, far_ip, 17, &datagram);
            enemy.send_raw(far_ip, &forged).ok();
        }
        let own = honest.open_udp((near_ip, 0), None).unwrap();
        honest.send_to(own, service.local, "right;").unwrap();
        server.wait_for_message(service, "right;");
        wait::quiet(wait::SILENCE);
        assert_eq!(server.inbox(service).messages, ["right;"], "over {far_ip}");
    }
}

#[test]
fn a_raw_socket_cannot_speak_on_a_live_tuple_of_another_even_where_both_may_send() {
    let Some(lab) = Lab::open() else { return };
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let (client, enemy, server) = (lab.worker(&web), lab.worker(&rogue), lab.worker(&db));
    let both = policy(&web, &rogue, &db).replace("from: web", "from: [web, rogue]");
    let _segd = lab.enforce(&both);
    let here = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let (service, stream) = (server.listen_udp(here(5432)), server.listen_tcp(here(5433)));
    let socket = client.open_udp(here(41_010), Some(service.local)).unwrap();
    let connection = client.open_tcp(stream.local).unwrap();
    client.send(connection, "first;").unwrap();
    server.wait_for_message(stream, "first;");
    let local = service.local.ip();
    let whole = |protocol, upper: Vec<u8>| wire::packet(local, local, protocol, &upper);
    let datagram = whole(17, wire::udp_between(here(41_010), service.local, b"forged;"));
    let segment = whole(6, wire::segment(connection.local, stream.local, 0x18));
    // Its own tuple is open to it: what is refused below is refused for the tuple alone.
    let own = whole(17, wire::udp_between(here(41_011), service.local, b"own;"));
    enemy.send_raw(local, &own).unwrap();
    server.wait_for_message(service, "own;");
    for round in 0..10 {
        client.send(socket, &format!("datagram-{round};")).unwrap();
        for packet in [&datagram, &segment] {
            let refused = enemy.send_raw(local, packet).unwrap_err();
            assert_eq!(refused.errno, "EPERM", "round {round}");
        }
        client.send(connection, &format!("stream-{round};")).unwrap();
        server.wait_for_message(service, &format!("datagram-{round};"));
        server.wait_for_message(stream, &format!("stream-{round};"));
    }
    wait::quiet(wait::SILENCE);
    let messages = server.inbox(service).messages;
    assert!(
        !messages.iter().any(|message| message.contains("forged;")),
        "{messages:?}"
    );
}
