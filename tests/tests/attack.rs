//! Ways around the policy that were tried: borrowed source ports, forged packets, translated addresses.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use segd_tests::{
    Cgroup, Kind, Lab, Netns, Probe, Remote, Worker,
    netns::{NftTable, Sysctl, cable, v4, v6},
    wait, wire,
    worker::probe,
};

fn policy(web: &Cgroup, rogue: &Cgroup, db: &Cgroup, more: &str) -> String {
    format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: attack}}
spec:
  segments:
    web: {{match: [{{cgroup: {}}}]}}
    rogue: {{match: [{{cgroup: {}}}]}}
    db: {{match: [{{cgroup: {}}}]}}
    partner: {{match: [{{cidr: 198.51.100.0/24}}]}}
  allow:
    - {{from: [web, partner], to: db, ports: [tcp/5432, udp/5432]}}
{more}",
        web.path(),
        rogue.path(),
        db.path()
    )
}

const PUBLISHED: u16 = 15432;

/// `near`, with two workloads behind one address, and `far` with the database, whose port 5432 the host publishes.
struct Published {
    near: Netns,
    far: Netns,
    near_ip: IpAddr,
    far_ip: IpAddr,
    /// Where the host publishes it, seen from `near`.
    published: SocketAddr,
    _settings: (Sysctl, NftTable),
}

impl Published {
    #[track_caller]
    fn build(lab: &Lab, more: &str) -> Published {
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
{more}"
            ),
        );
        Published {
            near,
            far,
            near_ip,
            far_ip,
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
fn a_source_port_that_changed_hands_takes_no_right_along_to_a_published_port() {
    let Some(lab) = Lab::open() else { return };
    let place = Published::build(&lab, "");
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let client = lab.worker_in(&web, &place.near);
    let enemy = lab.worker_in(&rogue, &place.near);
    let server = lab.worker_in(&db, &place.far);
    let service = server.listen_udp((place.far_ip, 5432));
    let _segd = lab.enforce(&policy(&web, &rogue, &db, ""));
    let port = (place.near_ip, 41_000);
    let elsewhere = SocketAddr::from((Ipv4Addr::new(10, 213, 31, 1), 9));
    send_from(&enemy, port, place.published, "primed;");
    send_from(&client, port, elsewhere, "harmless;");
    send_from(&enemy, port, place.published, "stolen;");
    send_from(&client, port, place.published, "right;");
    server.wait_for_message(service, "right;");
    wait::quiet(wait::SILENCE);
    assert_eq!(server.inbox(service).messages, ["right;"]);
}

#[test]
fn a_raw_datagram_to_a_published_port_borrows_nobodys_source() {
    let Some(lab) = Lab::open() else { return };
    let place = Published::build(&lab, "");
    let other = lab.netns("other");
    let (other_ip, _) = cable(&other, 32);
    // The hostile container's own link must not be checked against the route back.
    let _loose = Sysctl::set("net/ipv4/conf/all/rp_filter", "0");
    for interface in std::fs::read_dir("/proc/sys/net/ipv4/conf").unwrap().flatten() {
        if interface.file_name().to_string_lossy().starts_with("sgt") {
            std::fs::write(interface.path().join("rp_filter"), "0").unwrap();
        }
    }
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let client = lab.worker_in(&web, &place.near);
    let enemy = lab.worker_in(&rogue, &place.near);
    let stranger = lab.worker_in(&rogue, &other);
    let server = lab.worker_in(&db, &place.far);
    let service = server.listen_udp((place.far_ip, 5432));
    let _segd = lab.enforce(&policy(&web, &rogue, &db, ""));
    let elsewhere = SocketAddr::from((Ipv4Addr::new(10, 213, 31, 1), 9));
    let live = client.open_udp((place.near_ip, 41_000), None).unwrap();
    client.send_to(live, elsewhere, "harmless;").ok();
    // From beside it, and from another namespace, on the port of a live socket; and as a machine that may.
    let forged = Probe {
        from: Some(live.local),
        ..probe(Kind::RawUdp, place.published, "beside;")
    };
    enemy.probe_all(vec![forged]);
    let target = place.published;
    let datagram = |source: IpAddr, token: &str| {
        wire::packet(
            source,
            target.ip(),
            17,
            &wire::udp(41_000, target.port(), token.as_bytes()),
        )
    };
    stranger
        .send_raw(target.ip(), &datagram(place.near_ip, "afar;"))
        .ok();
    let partner = Ipv4Addr::new(198, 51, 100, 7).into();
    stranger
        .send_raw(target.ip(), &datagram(partner, "partner;"))
        .ok();
    stranger.send_raw(target.ip(), &datagram(other_ip, "own;")).ok();
    client.send_to(live, target, "right;").unwrap();
    server.wait_for_message(service, "right;");
    wait::quiet(wait::SILENCE);
    assert_eq!(server.inbox(service).messages, ["right;"]);
}

#[test]
fn a_workload_that_was_started_again_may_use_its_raw_sockets() {
    let Some(lab) = Lab::open() else { return };
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let server = lab.worker(&db);
    let _segd = lab.enforce(&policy(&web, &rogue, &db, ""));
    let service = server.listen_udp((Ipv4Addr::LOCALHOST, 5432));
    for life in ["first;", "second;"] {
        let instance = web.child("unit");
        let client = lab.worker(&instance);
        // The kernel releases a cgroup some milliseconds after its directory is gone.
        wait::wait_until(format!("{life} may be sent"), wait::PATIENCE, || {
            client.probe(Kind::RawUdp, service.local, life).result == "ok"
        });
        server.wait_for_message(service, life);
        drop(client);
        instance.remove();
    }
}

#[test]
fn a_forged_icmp_error_does_not_disturb_an_allowed_exchange() {
    let Some(lab) = Lab::open() else { return };
    let (near, far) = (lab.netns("near"), lab.netns("far"));
    let _forward = Sysctl::set("net/ipv4/ip_forward", "1");
    cable(&near, 31);
    let (far_ip, _) = cable(&far, 33);
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let client = lab.worker(&web);
    let enemy = lab.worker_in(&rogue, &near);
    let server = lab.worker_in(&db, &far);
    let service = server.listen_udp((far_ip, 5432));
    let _segd = lab.enforce(&policy(&web, &rogue, &db, ""));
    let here = IpAddr::from(Ipv4Addr::new(10, 213, 33, 1));
    let flow = client.open_udp((here, 0), Some(service.local)).unwrap();
    client.send(flow, "one;").unwrap();
    server.wait_for_message(service, "one;");
    let inner = wire::packet(here, far_ip, 17, &wire::udp(flow.local.port(), 5432, b""));
    // Destination unreachable, port unreachable (RFC 792).
    let mut error = vec![3, 3, 0, 0, 0, 0, 0, 0];
    error.extend(inner);
    let sum = segd_tests::sys::checksum(&error);
    error[2..4].copy_from_slice(&sum.to_be_bytes());
    let gate = IpAddr::from(Ipv4Addr::new(10, 213, 31, 2));
    enemy.send_raw(here, &wire::packet(gate, here, 1, &error)).ok();
    wait::quiet(wait::SILENCE);
    assert_eq!(
        client.receive(flow, 50),
        Ok(None),
        "a forged error reached the socket"
    );
    client.send(flow, "two;").unwrap();
    server.wait_for_message(service, "two;");
}

#[test]
fn connected_datagram_peers_on_loopback_hear_each_other() {
    let Some(lab) = Lab::open() else { return };
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let (client, server) = (lab.worker(&web), lab.worker(&db));
    let _segd = lab.enforce(&policy(&web, &rogue, &db, ""));
    for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let asker = client.open_udp((ip, 0), None).unwrap();
        // The server's only socket is connected: nobody else than the asker can reach it.
        let peer = server.open_udp((ip, 5432), Some(asker.local)).unwrap();
        client.send_to(asker, peer.local, "question;").unwrap();
        assert_eq!(server.receive(peer, 2000).unwrap().as_deref(), Some("question;"));
        server.close(peer);
    }
}

#[test]
fn the_hosts_own_address_is_not_taken_from_it() {
    let Some(lab) = Lab::open() else { return };
    let place = Published::build(&lab, "");
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let host = lab.cgroup("unclaimed");
    let client = lab.worker(&host);
    let _enemy = lab.worker_in(&rogue, &place.near);
    let server = lab.worker_in(&db, &place.far);
    let service = server.listen_udp((place.far_ip, 5432));
    let more = "    - {from: host, to: db, ports: [udp/5432]}\n";
    let text = policy(&web, &rogue, &db, more)
        .replace("  allow:", "    lan: {match: [{cidr: 10.213.0.0/16}]}\n  allow:");
    let _segd = lab.enforce(&text);
    client.probe(Kind::Udp, service.local, "before;");
    server.wait_for_message(service, "before;");
    place.near.ip("addr add 10.213.33.1/32 dev lo");
    wait::quiet(TOLD);
    client.probe(Kind::Udp, service.local, "after;");
    wait::within(wait::SILENCE, || server.inbox(service).has("after;"));
    assert!(server.inbox(service).has("after;"), "the host lost its address");
}

/// How long segd may take to learn of a namespace's addresses, and more.
const TOLD: std::time::Duration = std::time::Duration::from_millis(1600);

/// What `web` gets to another machine while somebody claims that machine's address.
#[track_caller]
fn reaches_the_machine_whose_address_is_claimed(claim: impl FnOnce(&Cgroup) -> std::process::Child) {
    let Some(lab) = Lab::open() else { return };
    let bridge = lab.bridge();
    let (near, hostile) = (lab.netns("near"), lab.netns("hostile"));
    bridge.plug(&near, 10);
    bridge.plug(&hostile, 11);
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let client = lab.worker_in(&web, &near);
    let _enemy = lab.worker_in(&rogue, &hostile);
    let remote = Remote::plug(&bridge, 200);
    remote.listen(5400);
    let _segd = lab.enforce(&policy(
        &web,
        &rogue,
        &db,
        "    - {from: web, to: world, ports: [tcp/5400]}\n",
    ));
    assert_eq!(client.probe(Kind::Tcp, (v4(200), 5400), "before;").result, "ok");
    let mut child = claim(&rogue);
    wait::quiet(TOLD);
    let outcome = client.probe(Kind::Tcp, (v4(200), 5400), "after;");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(outcome.result, "ok");
    assert!(remote.inbox().has("after;"));
}

#[test]
fn an_address_in_an_unprivileged_namespace_stays_another_machines() {
    reaches_the_machine_whose_address_is_claimed(|rogue| claim_in_a_namespace_of_its_own(rogue, v4(200)));
}

/// What every process may do where unprivileged user namespaces are on.
#[track_caller]
fn claim_in_a_namespace_of_its_own(cgroup: &Cgroup, address: Ipv4Addr) -> std::process::Child {
    let script = format!(
        "echo 0 > {}/cgroup.procs && exec unshare --user --map-root-user --net sh -c \
         'ip addr add {address}/32 dev lo && exec sleep 20'",
        cgroup.directory().display(),
    );
    std::process::Command::new("sh")
        .args(["-c", &script])
        .spawn()
        .unwrap()
}

#[test]
fn an_address_in_a_namespace_of_ones_own_opens_no_way_to_its_owner() {
    let Some(lab) = Lab::open() else { return };
    let bridge = lab.bridge();
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let enemy = lab.worker(&rogue);
    let remote = Remote::plug(&bridge, 200);
    remote.listen(5400);
    let _segd = lab.enforce(&policy(&web, &rogue, &db, ""));
    assert_ne!(enemy.probe(Kind::Tcp, (v4(200), 5400), "before;").result, "ok");
    let mut accomplice = claim_in_a_namespace_of_its_own(&rogue, v4(200));
    wait::quiet(TOLD);
    enemy.probe(Kind::Tcp, (v4(200), 5400), "after;");
    enemy.probe(Kind::Udp, (v4(200), 5400), "datagram;");
    wait::quiet(wait::SILENCE);
    accomplice.kill().unwrap();
    accomplice.wait().unwrap();
    assert_eq!(remote.inbox().messages, Vec::<String>::new());
    let leaked = remote
        .frames()
        .iter()
        .filter(|frame| frame.payload == b"datagram;")
        .count();
    assert_eq!(leaked, 0, "a denied datagram left the host");
}

#[test]
fn an_allowed_connection_cannot_be_routed_by_way_of_another_machine() {
    let Some(lab) = Lab::open() else { return };
    let bridge = lab.bridge();
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let client = lab.worker(&web);
    let (partner, stranger) = (Remote::plug(&bridge, 200), Remote::plug(&bridge, 201));
    partner.listen(5400);
    let rules = "    - {from: web, to: good, ports: [tcp/5400]}\n";
    let text = policy(&web, &rogue, &db, rules).replace(
        "  allow:",
        &format!("    good: {{match: [{{cidr: {}/128}}]}}\n  allow:", v6(200)),
    );
    let _segd = lab.enforce(&text);
    let flow = client.open_tcp((v6(200), 5400)).unwrap();
    client.send(flow, "straight;").unwrap();
    wait::wait_until("the first data", wait::PATIENCE, || {
        partner.inbox().has("straight;")
    });
    client.route_via(flow, v6(201)).unwrap();
    client.send(flow, "by-way;").ok();
    wait::quiet(wait::SILENCE * 2);
    let seen = stranger
        .frames()
        .iter()
        .filter(|frame| frame.payload.windows(7).any(|part| part == b"by-way;"))
        .count();
    assert_eq!(seen, 0, "a denied machine got the data");
}

#[test]
fn a_datagram_port_published_on_loopback_serves_whom_the_policy_allows() {
    let Some(lab) = Lab::open() else { return };
    let place = Published::build(
        &lab,
        "chain in2 {
type nat hook prerouting priority -101;
ip daddr 10.213.31.1 meta l4proto {tcp, udp} th dport 15433 dnat ip to 127.0.0.1:5432
}",
    );
    for interface in std::fs::read_dir("/proc/sys/net/ipv4/conf").unwrap().flatten() {
        if interface.file_name().to_string_lossy().starts_with("sgt") {
            std::fs::write(interface.path().join("route_localnet"), "1").unwrap();
        }
    }
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let client = lab.worker_in(&web, &place.near);
    let enemy = lab.worker_in(&rogue, &place.near);
    let server = lab.worker(&db);
    let service = server.listen_udp((Ipv4Addr::LOCALHOST, 5432));
    let _segd = lab.enforce(&policy(&web, &rogue, &db, ""));
    let to = SocketAddr::new(place.published.ip(), 15433);
    enemy.probe(Kind::Udp, to, "stolen;");
    client.probe(Kind::Udp, to, "right;");
    server.wait_for_message(service, "right;");
    wait::quiet(wait::SILENCE);
    assert_eq!(server.inbox(service).messages, ["right;"]);
}

#[test]
fn a_redirected_port_serves_another_machine_by_the_port_that_listens() {
    let Some(lab) = Lab::open() else { return };
    let bridge = lab.bridge();
    let _nat = NftTable::create(
        &format!("sgt{}", std::process::id()),
        "chain in {
type nat hook prerouting priority -100;
tcp dport 15433 redirect to :5432
tcp dport 15434 redirect to :5433
}",
    );
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let server = lab.worker(&db);
    let remote = Remote::plug(&bridge, 200);
    let (open, shut) = (server.listen_tcp((v4(1), 5432)), server.listen_tcp((v4(1), 5433)));
    let text = policy(&web, &rogue, &db, "").replace("198.51.100.0/24", &format!("{}/32", v4(200)));
    let _segd = lab.enforce(&text);
    let patience = std::time::Duration::from_secs(2);
    let result = remote.tcp((v4(1), 15433).into(), "right;", patience);
    let _ = remote.tcp(
        (v4(1), 15434).into(),
        "wrong;",
        std::time::Duration::from_millis(500),
    );
    server.wait_for_message(open, "right;");
    assert_eq!(result, "ok");
    assert_eq!(server.inbox(shut).accepts, 0);
}
