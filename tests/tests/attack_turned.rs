//! What a container's own rules turn elsewhere behind the hooks of its sockets: datagrams, echoes, fragments, ports of DHCP. And what
//! its neighbours put into the host's tunnels. BYPASSES.md, section 3, classes 10 and 13.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use segd_tests::{
    Bridge, Cgroup, Craft, Kind, Lab, Netns, Remote, Segd, Worker,
    netns::{Sysctl, cable, ip, v4},
    remote::Frame,
    wait::{self, PATIENCE},
    wire,
};

const PORT: u16 = 5400;
/// How long segd may take to cover a new link.
const COVERED: Duration = Duration::from_secs(1);
/// How long a tuple speaks for its sender without being used (`CONTESTED_NS`), and more.
const SILENT: Duration = Duration::from_millis(1500);

/// `rogue` in a namespace whose rules it may write, a machine that it may ask and one that it may not.
struct Container {
    enemy: Worker,
    near: Netns,
    right: Remote,
    wrong: Remote,
    rogue: Cgroup,
    segd: Segd,
    _bridge: Bridge,
    _lab: Lab,
}

impl Container {
    /// `rules`: what it may do at first.
    fn open(rules: &str) -> Option<Container> {
        let lab = Lab::open()?;
        let bridge = lab.bridge();
        let near = lab.netns("near");
        bridge.plug(&near, 10);
        let (right, wrong) = (Remote::plug(&bridge, 50), Remote::plug(&bridge, 51));
        for machine in [&right, &wrong] {
            machine.listen(PORT);
        }
        let rogue = lab.cgroup("rogue");
        let enemy = lab.worker_in(&rogue, &near);
        let segd = lab.enforce(&policy(&rogue, rules));
        wait::quiet(COVERED);
        Some(Container {
            enemy,
            near,
            right,
            wrong,
            rogue,
            segd,
            _bridge: bridge,
            _lab: lab,
        })
    }

    /// Turns what matches, and goes to the one, to the other.
    fn divert(&self, matching: &str, also: &str) {
        self.divert_to(self.wrong.v4, matching, also);
    }

    fn divert_to(&self, to: Ipv4Addr, matching: &str, also: &str) {
        let text = format!(
            "table netdev divert {{
chain away {{ type filter hook egress device \"eth0\" priority 0;
ip daddr {} {matching} {also} ip daddr set {to} ether daddr set ff:ff:ff:ff:ff:ff
}}
}}
",
            self.right.v4
        );
        self.near.run(&["nft", "-f", "-"], &text);
    }

    fn straight(&self) {
        self.near.run(&["nft", "-f", "-"], "delete table netdev divert\n");
    }

    /// How many packets of a protocol reached the machine that may not be asked.
    fn strayed(&self, protocol: u8) -> usize {
        let frames = self.wrong.frames();
        let from = IpAddr::from(v4(10));
        let ours = frames
            .iter()
            .filter(|frame| frame.protocol == protocol && frame.source == from);
        ours.count()
    }

    fn denied(&self) -> u64 {
        self.segd.denied().values().sum()
    }

    /// What the kernel is made to say opens no connection to the machine that may not be asked; without segd it would.
    #[track_caller]
    fn opens_nothing(&mut self, provoke: impl Fn(&Container)) {
        let (before, denied) = (self.strayed(6), self.denied());
        provoke(self);
        self.stays(6, before);
        assert!(self.denied() > denied, "{}", self.segd.log());
        assert!(self.segd.unload().status.success());
        provoke(self);
        wait::wait_until("without segd it gets there", PATIENCE, || {
            self.strayed(6) > before
        });
    }

    /// Nothing has strayed since.
    #[track_caller]
    fn stays(&self, protocol: u8, before: usize) {
        wait::quiet(wait::SILENCE);
        assert_eq!(self.strayed(protocol), before, "{}", self.segd.log());
    }
}

fn policy(rogue: &Cgroup, rules: &str) -> String {
    format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: turned}}
spec:
  segments:
    rogue: {{match: [{{cgroup: {}}}]}}
    right: {{match: [{{cidr: {}/32}}]}}
    wrong: {{match: [{{cidr: {}/32}}]}}
  allow:
{rules}",
        rogue.path(),
        v4(50),
        v4(51)
    )
}

const BOTH: &str = "    - {from: rogue, to: [right, wrong], ports: [udp/5400]}\n";
const RIGHT: &str = "    - {from: rogue, to: right, ports: [udp/5400, icmp/echo-request]}\n";

/// Class 13. That a container has sent to a machine once is no right to send to it now.
#[test]
fn what_was_sent_once_opens_no_way_when_its_right_has_ended() {
    let Some(scene) = Container::open(BOTH) else {
        return;
    };
    let socket = scene.enemy.open_udp((v4(10), 0), None).unwrap();
    let (right, wrong) = ((scene.right.v4, PORT), (scene.wrong.v4, PORT));
    for (machine, to) in [(&scene.right, right), (&scene.wrong, wrong)] {
        wait::wait_until("both may be asked", PATIENCE, || {
            scene.enemy.send_to(socket, to, "before;").unwrap();
            machine.inbox().has("before;")
        });
    }
    scene.segd.set_policy(&policy(&scene.rogue, RIGHT));
    wait::quiet(SILENT);
    let before = scene.strayed(17);
    scene.divert("udp dport 5400", "");
    scene.segd.denies(1, &["no-rule"], || {
        scene.enemy.send_to(socket, right, "diverted;").ok();
    });
    scene.stays(17, before);
    assert!(!scene.wrong.inbox().has("diverted;"));
}

/// Class 13. Echo requests, and ports of DHCP, which nobody but the kernel and the host's client need not account for.
#[test]
fn echoes_and_ports_of_dhcp_are_no_way_to_another_machine() {
    let Some(scene) = Container::open(RIGHT) else {
        return;
    };
    let right = IpAddr::from(scene.right.v4);
    scene.near.sysctl("net/ipv4/ping_group_range", "0 0");
    assert_eq!(
        scene.enemy.probe(Kind::Echo, (right, 0), "straight;").result,
        "ok"
    );
    assert_eq!(
        scene
            .enemy
            .probe(Kind::PingSocket, (right, 0), "straight;")
            .result,
        "ok"
    );
    wait::wait_until("the echoes arrive", PATIENCE, || {
        scene.right.echo_requests_received().0 >= 2
    });
    scene.divert("icmp type echo-request", "");
    for kind in [Kind::Echo, Kind::PingSocket] {
        scene.segd.denies(1, &["no-rule"], || {
            scene.enemy.probe(kind, (right, 0), "diverted;");
        });
    }
    scene.stays(1, 0);
    scene.straight();
    // To the host, which no socket's hook would judge for.
    scene.divert_to(v4(1), "icmp type echo-request", "");
    scene.segd.denies(1, &["no-rule"], || {
        scene.enemy.probe(Kind::Echo, (right, 0), "diverted;");
    });
    scene.straight();
    scene.divert("udp dport 5400", "udp sport set 68 udp dport set 67");
    let socket = scene.enemy.open_udp((v4(10), 0), None).unwrap();
    scene.segd.denies(1, &["no-rule"], || {
        scene.enemy.send_to(socket, (right, PORT), "diverted;").ok();
    });
    scene.stays(17, 0);
}

/// Class 13. Who leads another machine's address to himself speaks with himself there, and with nobody else once it leads elsewhere.
#[test]
fn what_a_container_says_to_itself_by_anothers_address_opens_no_way_there() {
    let Some(scene) = Container::open(RIGHT) else {
        return;
    };
    let wrong = scene.wrong.v4;
    let lead = format!("local {wrong}/32 dev lo src {}", v4(10));
    scene.near.ip("link set lo up");
    scene.near.ip(&format!("route add {lead}"));
    // From the other's address, as it is this namespace's now, to its own: what the listener answers goes there.
    let ear = scene.enemy.listen_tcp((v4(10), 7000));
    let session = scene.enemy.open_tcp_from((wrong, 7001), (v4(10), 7000)).unwrap();
    scene.enemy.send(session, "inside;").unwrap();
    scene.enemy.wait_for_message(ear, "inside;");
    scene.enemy.send_accepted(ear, "inside;").unwrap();
    assert_eq!(
        scene.enemy.receive(session, 2000).unwrap().as_deref(),
        Some("inside;")
    );
    // Datagrams: what went round by loopback a moment ago accounts for nothing at the link.
    let datagram = |to: Ipv4Addr, token: &str| {
        let craft = Craft::udp((to, PORT), token).bind((v4(10), 7002));
        scene.enemy.craft(craft.connected()).ok();
    };
    scene.divert("udp dport 5400", "");
    datagram(wrong, "inside;");
    scene
        .segd
        .denies(1, &["no-rule"], || datagram(scene.right.v4, "outside;"));
    scene.stays(17, 0);
    scene.straight();
    // And a connection's next segment is judged by where it goes.
    scene.near.ip(&format!("route del {lead}"));
    let before = scene.segd.denied().get("no-rule").copied().unwrap_or(0);
    scene.enemy.send_accepted(ear, "outside;").ok();
    wait::wait_until("it is denied", PATIENCE, || {
        scene.segd.denied().get("no-rule").copied().unwrap_or(0) > before
    });
    scene.stays(6, 0);
    // Led back, it goes on.
    scene.near.ip(&format!("route add {lead}"));
    wait::wait_until("it is heard", PATIENCE, || {
        scene
            .enemy
            .receive(session, 500)
            .unwrap()
            .is_some_and(|text| text.contains("outside;"))
    });
}

/// Class 13. A session that its namespace's rules call an allowed one before its hook, and by its own name again behind it, has no right
/// of that one's.
#[test]
fn a_session_that_is_called_another_at_its_hook_does_not_outlive_its_right() {
    let both = "    - {from: rogue, to: [right, wrong], ports: [tcp/5400]}\n";
    let Some(scene) = Container::open(both) else {
        return;
    };
    let (right, wrong) = (scene.right.v4, scene.wrong.v4);
    let session = scene.enemy.open_tcp((wrong, PORT)).unwrap();
    let IpAddr::V4(own) = session.local.ip() else {
        panic!("IPv4")
    };
    let heard = |token: &str| {
        let frames = scene.wrong.frames();
        frames
            .iter()
            .any(|frame| String::from_utf8_lossy(&frame.payload).contains(token))
    };
    scene.enemy.send(session, "before;").unwrap();
    wait::wait_until("it is heard", PATIENCE, || heard("before;"));
    let text = format!(
        "table ip other {{
chain away {{ type filter hook output priority 0;
ip saddr {own} ip daddr {wrong} tcp sport {port} ip daddr set {right}
}}
}}
table netdev itself {{
chain away {{ type filter hook egress device \"eth0\" priority 0;
ip daddr {right} tcp sport {port} ip daddr set {wrong} ether daddr set ff:ff:ff:ff:ff:ff
}}
}}
",
        port = session.local.port()
    );
    scene.near.run(&["nft", "-f", "-"], &text);
    scene.enemy.send(session, "turned;").unwrap();
    wait::wait_until("under another name it is heard", PATIENCE, || heard("turned;"));
    scene.segd.set_policy(&policy(
        &scene.rogue,
        "    - {from: rogue, to: right, ports: [tcp/5400]}\n",
    ));
    let before = scene.denied();
    scene.enemy.send(session, "after;").ok();
    wait::within(Duration::from_secs(1), || {
        scene.denied() > before || heard("after;")
    });
    wait::quiet(wait::SILENCE);
    assert!(
        !heard("after;"),
        "it outlived its right: {:?}",
        scene.wrong.inbox()
    );
    assert!(scene.denied() > before, "{}", scene.segd.log());
}

/// Class 13. What the kernel says for a connection that is closed carries nothing and opens nothing, whatever its namespace's rules make
/// of it.
#[test]
fn the_last_word_of_a_closed_connection_opens_no_other() {
    let rules = "    - {from: rogue, to: right, ports: [tcp/5400]}\n";
    let Some(mut scene) = Container::open(rules) else {
        return;
    };
    // So that each stray segment is answered, and a reset by the machine, which has forgotten the connection, does not end it.
    scene.near.sysctl("net/ipv4/tcp_invalid_ratelimit", "0");
    scene.near.sysctl("net/ipv4/tcp_rfc1337", "1");
    let session = scene.enemy.open_tcp((scene.right.v4, PORT)).unwrap();
    scene.enemy.send(session, "before;").unwrap();
    wait::wait_until("it is heard", PATIENCE, || scene.right.inbox().has("before;"));
    let no_linger = [0; 8];
    scene
        .enemy
        .set_option(session, libc::SOL_SOCKET, libc::SO_LINGER, &no_linger);
    scene.enemy.close(session);
    let waits = format!(
        ":{:04X} {:08X}:{PORT:04X} 06 ",
        session.local.port(),
        u32::from_ne_bytes(scene.right.v4.octets())
    );
    wait::wait_until("it waits for what is late", PATIENCE, || {
        scene
            .enemy
            .read_file("/proc/thread-self/net/tcp")
            .contains(&waits)
    });
    let stray = wire::segment((scene.right.v4, PORT).into(), session.local, 0x10);
    let stray = wire::packet(scene.right.v4.into(), session.local.ip(), 6, &stray);
    let stray = wire::frame(wire::mac_in(&scene.near), &stray);
    let answers = |scene: &Container| {
        let frames = scene.right.frames();
        let to_stray =
            |frame: &&Frame| frame.protocol == 6 && frame.flags == 0x10 && frame.payload.is_empty();
        frames.iter().filter(to_stray).count()
    };
    let before = answers(&scene);
    scene.right.inject(&stray);
    wait::wait_until("the kernel answers for it", PATIENCE, || answers(&scene) > before);
    let port = session.local.port();
    scene.divert(&format!("tcp sport {port} tcp flags ack"), "tcp flags set syn");
    scene.opens_nothing(|scene| scene.right.inject(&stray));
}

/// Class 13. Nor does its first word.
#[test]
fn the_answer_that_accepts_a_connection_opens_no_other() {
    let rules = "    - {from: right, to: rogue, ports: [tcp/5401]}\n";
    let Some(mut scene) = Container::open(rules) else {
        return;
    };
    let ear = scene.enemy.listen_tcp((v4(10), 5401));
    let asks = |scene: &Container, token: &str| scene.right.tcp(ear.local, token, Duration::from_millis(500));
    assert_eq!(asks(&scene, "straight;"), "ok");
    scene.enemy.wait_for_message(ear, "straight;");
    scene.divert(
        "tcp sport 5401 tcp flags & (syn | ack) == (syn | ack)",
        "tcp flags set syn",
    );
    scene.opens_nothing(|scene| assert_ne!(asks(scene, "diverted;"), "ok"));
}

/// Class 10. A tunnel's packets that are too long are cut behind all hooks: no piece leaves, and what is allowed leaves in pieces.
#[test]
fn pieces_of_a_tunnels_packet_do_not_leave_and_those_of_an_allowed_datagram_do() {
    let inside = Ipv4Addr::new(10, 214, 0, 2);
    let rules = "    - {from: rogue, to: right, ports: [udp/5400]}\n    - {from: rogue, to: world, ports: [udp/80]}\n";
    let Some(scene) = Container::open(rules) else {
        return;
    };
    let socket = scene.enemy.open_udp((v4(10), 0), None).unwrap();
    let long = "long;".repeat(700);
    wait::wait_until("it arrives in pieces", PATIENCE, || {
        scene
            .enemy
            .send_to(socket, (scene.right.v4, PORT), &long)
            .unwrap();
        wait::quiet(wait::SILENCE);
        let frames = scene.right.frames();
        let pieces: Vec<_> = frames.iter().filter(|frame| frame.protocol == 17).collect();
        pieces.len() >= 3 && pieces.iter().map(|piece| piece.payload.len()).sum::<usize>() >= 3400
    });
    scene.near.ip(&format!(
        "link add tunnel type vxlan id 77 local {} remote {} dstport 4789",
        v4(10),
        scene.wrong.v4
    ));
    scene.near.sysctl("net/ipv6/conf/tunnel/disable_ipv6", "1");
    scene.near.ip("addr add 10.214.0.1/24 dev tunnel");
    scene.near.ip("link set tunnel up mtu 6000");
    scene
        .near
        .ip(&format!("neigh add {inside} lladdr 02:00:00:00:00:02 dev tunnel"));
    let through = scene
        .enemy
        .open_udp((Ipv4Addr::new(10, 214, 0, 1), 0), None)
        .unwrap();
    let before = scene.strayed(17);
    scene.segd.denies(3, &["fragment", "orphan-fragment"], || {
        scene.enemy.send_to(through, (inside, 80), &long).ok();
    });
    scene.stays(17, before);
}

/// Class 10. The kernel takes a tunnel's packet before any hook of the tunnel's socket: who may not send to the tunnel does not get in by
/// it, whoever the packet inside says it is from.
#[test]
fn a_container_that_may_not_send_to_the_hosts_tunnel_gets_nothing_in_by_it() {
    let Some(lab) = Lab::open() else { return };
    let [rogue, db, trusted] = ["rogue", "db", "trusted"].map(|name| lab.cgroup(name));
    let (inner, partner) = (Ipv4Addr::new(10, 215, 0, 1), Ipv4Addr::new(198, 51, 100, 7));
    let (side, far) = (lab.netns("side"), lab.netns("far"));
    cable(&side, 41);
    let (peer, _) = cable(&far, 42);
    let (host, outer) = (Ipv4Addr::new(10, 213, 41, 1), Ipv4Addr::new(10, 213, 42, 1));
    let device = format!("sgt{}w", std::process::id() % 100_000);
    ip(&format!(
        "link add {device} type vxlan id 77 local {outer} remote {peer} dstport 4789"
    ));
    ip(&format!("addr add {inner}/24 dev {device}"));
    ip(&format!("link set {device} up"));
    // As the routes of an overlay: the partner is behind the tunnel.
    ip(&format!("route add {partner}/32 dev {device}"));
    let _loose = Sysctl::set("net/ipv4/conf/all/rp_filter", "0");
    let text = format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: tunnels}}
spec:
  segments:
    rogue: {{match: [{{cgroup: {}}}]}}
    db: {{match: [{{cgroup: {}}}]}}
    trusted: {{match: [{{cgroup: {}}}]}}
    partner: {{match: [{{cidr: 198.51.100.0/24}}]}}
  allow:
    - {{from: partner, to: db, ports: [udp/5432]}}
    - {{from: trusted, to: host, ports: [udp/4789]}}
    - {{from: rogue, to: world, ports: [udp/4789]}}
",
        rogue.path(),
        db.path(),
        trusted.path()
    );
    let segd = lab.enforce(&text);
    let server = lab.worker(&db);
    let ear = server.listen_udp((inner, 5432));
    let (enemy, friend) = (lab.worker_in(&rogue, &side), lab.worker_in(&trusted, &far));
    wait::quiet(COVERED);
    let payload = |token: &str| wire::vxlan(77, (partner, 40_000).into(), (inner, 5432).into(), token);
    let sends = |worker: &Worker, to: Ipv4Addr, token: &str| {
        let text = payload(token);
        worker.craft(Craft::datagram((to, 4789), &text)).ok();
        worker.craft(Craft::datagram((to, 4789), &text).connected()).ok();
    };
    wait::wait_until("who may use the tunnel gets in by it", PATIENCE, || {
        sends(&friend, outer, "right;");
        server.inbox(ear).has("right;")
    });
    for _ in 0..3 {
        segd.denies(2, &["no-rule"], || sends(&enemy, host, "wrong;"));
    }
    // To all on its link, which the policy lets it, and the host's tunnel is among them.
    side.ip("route add 224.0.0.0/4 dev eth0");
    for all in [Ipv4Addr::new(224, 0, 0, 1), Ipv4Addr::BROADCAST] {
        let craft = Craft::datagram((all, 4789), &payload("wrong;"))
            .flag(libc::SOL_SOCKET, libc::SO_BROADCAST, 1)
            .bind((Ipv4Addr::new(10, 213, 41, 2), 0));
        segd.denies(1, &["no-rule"], || {
            enemy.craft(craft).ok();
        });
    }
    wait::quiet(wait::SILENCE);
    assert!(!server.inbox(ear).has("wrong;"), "{}", segd.log());
}
