//! What the kernel says in a container by sockets of its own, which no process has: an answer to an echo, which the container's rules
//! turn into a datagram or a connection of their choice. BYPASSES.md, section 3, classes 10 and 13.
//!
//! Each way is shown to lead there as long as segd does not run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use segd_tests::{
    Bridge, Cgroup, Craft, Lab, Netns, Remote, Segd, Worker,
    netns::{Sysctl, ip, v4},
    wait::{self, PATIENCE},
    wire,
    worker::Handle,
};

const PORT: u16 = 5400;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SYN: u8 = 0x02;
const PSH_ACK: u8 = 0x18;
/// How long segd may take to cover a new link.
const COVERED: Duration = Duration::from_secs(1);

/// `rogue` in a namespace whose rules it may write, and whom it may not speak to: a machine, the host, a container. `right` may ask
/// it for echoes.
struct Container {
    enemy: Worker,
    near: Netns,
    right: Remote,
    wrong: Remote,
    server: Worker,
    /// The host's service, and the container's.
    ears: [(Worker, Handle); 2],
    cgroups: [Cgroup; 3],
    _far: Netns,
    _bridge: Bridge,
    lab: Lab,
}

/// Where the container's rules turn an answer.
#[derive(Clone, Copy, Debug)]
enum Turn {
    /// Before the hook of the kernel's socket.
    AtOutput,
    /// Behind it, on the link: until there it is an answer to `right`.
    AtLink,
}

impl Container {
    fn open() -> Option<Container> {
        let lab = Lab::open()?;
        let bridge = lab.bridge();
        let (near, far) = (lab.netns("near"), lab.netns("far"));
        bridge.plug(&near, 10);
        bridge.plug(&far, 11);
        let (right, wrong) = (Remote::plug(&bridge, 50), Remote::plug(&bridge, 51));
        let [rogue, db, outside] = ["rogue", "db", "outside"].map(|name| lab.cgroup(name));
        let enemy = lab.worker_in(&rogue, &near);
        let ears = [(lab.worker(&outside), v4(1)), (lab.worker_in(&db, &far), v4(11))];
        let ears = ears.map(|(worker, at)| {
            let ear = worker.listen_udp((at, PORT));
            (worker, ear)
        });
        Some(Container {
            enemy,
            near,
            right,
            wrong,
            server: lab.worker(&db),
            ears,
            cgroups: [rogue, db, outside],
            _far: far,
            _bridge: bridge,
            lab,
        })
    }

    fn enforce(&self) -> Segd {
        let [rogue, db, _] = &self.cgroups;
        let segd = self.lab.enforce(&format!(
            "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: voice}}
spec:
  segments:
    rogue: {{match: [{{cgroup: {}}}]}}
    db: {{match: [{{cgroup: {}}}]}}
    right: {{match: [{{cidr: {}/32}}]}}
    partner: {{match: [{{cidr: 198.51.100.0/24}}]}}
  allow:
    - {{from: right, to: rogue, ports: [icmp/echo-request]}}
    - {{from: rogue, to: right, ports: [udp/{PORT}]}}
    - {{from: [host, partner], to: db, ports: [udp/{PORT}]}}
",
            rogue.path(),
            db.path(),
            v4(50)
        ));
        wait::quiet(COVERED);
        segd
    }

    /// Makes the kernel answer an echo request of the container's own, and the container's rules do `rule` to the answer. `data`: what
    /// comes back.
    fn answer(&self, turn: Turn, rule: &str, data: &[u8]) {
        let turned = format!("icmp type echo-reply {rule}");
        let at_output = |what: &str| {
            format!(
                "table ip voice {{ chain away {{ type route hook output priority 0;
{what}
}}
}}
"
            )
        };
        let text = match turn {
            Turn::AtOutput => at_output(&turned),
            Turn::AtLink => format!(
                "{}table netdev voice {{ chain away {{ type filter hook egress device \"eth0\" priority 0;
{turned} ether daddr set ff:ff:ff:ff:ff:ff
}}
}}
",
                at_output(&format!("icmp type echo-reply ip daddr set {}", self.right.v4))
            ),
        };
        self.near.run(&["nft", "-f", "-"], &text);
        // An echo request has the form of an error.
        let own = IpAddr::from(v4(10));
        let (protocol, request) = wire::error(own, own, (8, 0), data);
        let asked = self.enemy.craft(Craft::raw(own, i32::from(protocol), &request));
        assert_eq!(asked, Ok(()), "it may speak to itself");
        self.near.run(&["nft", "flush", "ruleset"], "");
    }

    /// Makes the kernel send this upper layer from the container to another address.
    fn say(&self, turn: Turn, protocol: u8, to: Ipv4Addr, upper: &[u8]) {
        let (head, data) = upper.split_at(8);
        let head: String = head.iter().map(|byte| format!("{byte:02x}")).collect();
        let rule = format!("@th,0,64 set 0x{head} ip protocol set {protocol} ip daddr set {to}");
        self.answer(turn, &rule, data);
    }

    /// How many packets like this reached the machine that may not be spoken to.
    fn strayed(&self, protocol: u8, port: u16, token: &str) -> usize {
        let frames = self.wrong.frames();
        let ours = frames.iter().filter(|frame| {
            let text = String::from_utf8_lossy(&frame.payload);
            let from = IpAddr::from(v4(10));
            (frame.protocol, frame.port, frame.source) == (protocol, port, from) && text.contains(token)
        });
        ours.count()
    }

    /// Whether what `rogue` may say is heard.
    fn speaks(&self) {
        wait::wait_until("what it may say is heard", PATIENCE, || {
            self.enemy.craft(Craft::udp((self.right.v4, PORT), "may;")).ok();
            let frames = self.right.frames();
            frames.iter().any(|frame| frame.payload == b"may;")
        });
    }
}

fn from() -> SocketAddr {
    (v4(10), 7000).into()
}

fn datagram(to: SocketAddr, token: &str) -> Vec<u8> {
    wire::udp_between(from(), to, token.as_bytes())
}

fn segment(to: SocketAddr, flags: u8, token: &str) -> Vec<u8> {
    let mut upper = wire::segment(from(), to, flags);
    upper.extend(token.as_bytes());
    wire::sum(from().ip(), to.ip(), TCP, &mut upper, 16);
    upper
}

fn denied(segd: &Segd) -> u64 {
    segd.denied().values().sum()
}

/// Each of these arrives without segd, and none with it: a name, how it is sent, whether one that bears a token has arrived.
type Way<'a> = (
    &'static str,
    Box<dyn Fn(&str) + 'a>,
    Box<dyn Fn(&str) -> bool + 'a>,
);

#[track_caller]
fn lead_nowhere(scene: &Container, ways: &[Way<'_>]) {
    for (name, send, arrived) in ways {
        wait::wait_until(format!("{name}: it arrives without segd"), PATIENCE, || {
            send("before;");
            wait::within(Duration::from_millis(50), || arrived("before;"))
        });
    }
    let segd = scene.enforce();
    scene.speaks();
    let mut wrong = Vec::new();
    for (name, send, arrived) in ways {
        let before = denied(&segd);
        send("after;");
        if wait::within(wait::SILENCE, || arrived("after;")) {
            wrong.push(format!("{name} ARRIVED"));
        } else if denied(&segd) == before {
            wrong.push(format!("{name} was not counted"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    scene.speaks();
}

/// To the machine: a datagram, the beginning of a connection, the middle of one.
fn to_the_machine(scene: &Container, turn: Turn) -> Vec<Way<'_>> {
    let to = SocketAddr::from((scene.wrong.v4, PORT));
    let machine = scene.wrong.v4;
    vec![
        (
            "a datagram to a machine",
            Box::new(move |token| scene.say(turn, UDP, machine, &datagram(to, token))),
            Box::new(|token| scene.strayed(UDP, PORT, token) > 0),
        ),
        (
            "a SYN to a machine",
            Box::new(move |token| scene.say(turn, TCP, machine, &segment(to, SYN, token))),
            Box::new(|token| scene.strayed(TCP, PORT, token) > 0),
        ),
        (
            "data to a machine",
            Box::new(move |token| {
                scene.say(
                    turn,
                    TCP,
                    machine,
                    &segment(to, PSH_ACK, &format!("data-{token}")),
                )
            }),
            Box::new(|token| scene.strayed(TCP, PORT, &format!("data-{token}")) > 0),
        ),
    ]
}

/// Class 13. Before the hook of the kernel's own socket: to a machine, to a service of the host, to another segment's container.
#[test]
fn what_the_kernel_answers_in_a_container_is_not_the_hosts_voice() {
    let Some(scene) = Container::open() else { return };
    let mut ways = to_the_machine(&scene, Turn::AtOutput);
    for (name, (worker, ear)) in [
        "a datagram to the host",
        "a datagram to another segment's container",
    ]
    .into_iter()
    .zip(&scene.ears)
    {
        let to = ear.local;
        let IpAddr::V4(at) = to.ip() else { panic!("IPv4") };
        ways.push((
            name,
            Box::new({
                let scene = &scene;
                move |token| scene.say(Turn::AtOutput, UDP, at, &datagram(to, token))
            }),
            Box::new(move |token| worker.inbox(*ear).has(token)),
        ));
    }
    lead_nowhere(&scene, &ways);
}

/// Class 13. Behind that hook: what left it is an answer to who may ask.
#[test]
fn what_the_kernel_answers_in_a_container_is_turned_to_nobody_on_its_link() {
    let Some(scene) = Container::open() else { return };
    lead_nowhere(&scene, &to_the_machine(&scene, Turn::AtLink));
}

/// Class 13. The same, turned into a request, which carries whatever it likes.
#[test]
fn an_answer_that_is_turned_into_a_request_on_its_link_reaches_nobody() {
    let Some(scene) = Container::open() else { return };
    let rule = format!("icmp type set echo-request ip daddr set {}", scene.wrong.v4);
    let ways: [Way<'_>; 1] = [(
        "an echo request to a machine",
        Box::new(|token| scene.answer(Turn::AtLink, &rule, token.as_bytes())),
        Box::new(|token| scene.strayed(1, 8, token) > 0),
    )];
    lead_nowhere(&scene, &ways);
}

/// Class 10. Into the host's tunnel, out of which it comes as another machine's.
#[test]
fn what_the_kernel_answers_in_a_container_does_not_get_into_the_hosts_tunnel() {
    let Some(scene) = Container::open() else { return };
    let (inner, partner) = (Ipv4Addr::new(10, 215, 0, 1), Ipv4Addr::new(198, 51, 100, 7));
    let device = format!("sgt{}w", std::process::id() % 100_000);
    ip(&format!(
        "link add {device} type vxlan id 77 local {} remote {} dstport 4789",
        v4(1),
        scene.right.v4
    ));
    ip(&format!("addr add {inner}/24 dev {device}"));
    ip(&format!("link set {device} up"));
    // As the routes of an overlay: the partner is behind the tunnel.
    ip(&format!("route add {partner}/32 dev {device}"));
    let _loose = Sysctl::set("net/ipv4/conf/all/rp_filter", "0");
    let ear = scene.server.listen_udp((inner, PORT));
    let to = SocketAddr::from((v4(1), 4789));
    let ways: [Way<'_>; 1] = [(
        "a datagram into the host's tunnel",
        Box::new(|token| {
            let payload = wire::vxlan(77, (partner, 40_000).into(), (inner, PORT).into(), token);
            scene.say(
                Turn::AtOutput,
                UDP,
                v4(1),
                &wire::udp_between(from(), to, &payload),
            );
        }),
        Box::new(|token| scene.server.inbox(ear).has(token)),
    )];
    lead_nowhere(&scene, &ways);
}
