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
    netns::{Sysctl, ip, v4, v6},
    wait::{self, PATIENCE},
    wire,
};

const PORT: u16 = 5400;
const OWN_PORT: u16 = 7000;
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
    /// Of the host, and of the container.
    services: [Worker; 2],
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
        let services = [lab.worker(&outside), lab.worker_in(&db, &far)];
        Some(Container {
            enemy,
            near,
            right,
            wrong,
            server: lab.worker(&db),
            services,
            cgroups: [rogue, db, outside],
            _far: far,
            _bridge: bridge,
            lab,
        })
    }

    /// `more`: rules beside its own.
    fn enforce(&self, more: &str) -> Segd {
        let [rogue, db, _] = &self.cgroups;
        let segd = self.lab.enforce(&format!(
            "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: voice}}
spec:
  segments:
    rogue: {{match: [{{cgroup: {}}}]}}
    db: {{match: [{{cgroup: {}}}]}}
    right: {{match: [{{cidr: {}/32}}, {{cidr: {}/128}}]}}
    wrong: {{match: [{{cidr: {}/32}}, {{cidr: {}/128}}]}}
    partner: {{match: [{{cidr: 198.51.100.0/24}}]}}
  allow:
    - {{from: right, to: rogue, ports: [icmp/echo-request, icmpv6/echo-request]}}
    - {{from: rogue, to: right, ports: [udp/{PORT}]}}
    - {{from: [host, partner], to: db, ports: [udp/{PORT}]}}
{more}",
            rogue.path(),
            db.path(),
            v4(50),
            v6(50),
            v4(51),
            v6(51)
        ));
        wait::quiet(COVERED);
        segd
    }

    /// Makes the kernel answer an echo request of the container's own, of the family of `like`, and the container's rules do `rule` to the
    /// answer. `data`: what comes back.
    fn answer(&self, turn: Turn, like: IpAddr, rule: &str, data: &[u8]) {
        let (header, icmp, request) = if like.is_ipv4() {
            ("ip", "icmp", 8)
        } else {
            ("ip6", "icmpv6", 128)
        };
        let turned = format!("{icmp} type echo-reply {rule}");
        let at_output = |what: &str| {
            format!(
                "table {header} voice {{ chain away {{ type route hook output priority 0;
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
                at_output(&format!(
                    "{icmp} type echo-reply {header} daddr set {}",
                    self.right.address(like)
                ))
            ),
        };
        self.near.run(&["nft", "-f", "-"], &text);
        let own = number(like, 10);
        // An echo request has the form of an error.
        let (protocol, request) = wire::error(own, own, (request, 0), data);
        let asked = self.enemy.craft(Craft::raw(own, i32::from(protocol), &request));
        assert_eq!(asked, Ok(()), "it may speak to itself");
        self.near.run(&["nft", "flush", "ruleset"], "");
    }

    /// Makes the kernel send this upper layer from the container to another address.
    fn say(&self, turn: Turn, protocol: u8, to: IpAddr, upper: &[u8]) {
        let (head, data) = upper.split_at(8);
        let head: String = head.iter().map(|byte| format!("{byte:02x}")).collect();
        let header = if to.is_ipv4() {
            format!("ip daddr set {to} ip protocol set {protocol}")
        } else {
            format!("ip6 daddr set {to} ip6 nexthdr set {protocol}")
        };
        // The address first: with it, the rules mend the checksum of what is still an echo.
        self.answer(turn, to, &format!("{header} @th,0,64 set 0x{head}"), data);
    }

    /// Whether a packet like this reached the machine that may not be spoken to.
    fn strayed(&self, from: IpAddr, protocol: u8, port: u16, token: &str) -> bool {
        let frames = self.wrong.frames();
        frames.iter().any(|frame| {
            let text = String::from_utf8_lossy(&frame.payload);
            (frame.source, frame.protocol, frame.port) == (from, protocol, port) && text.contains(token)
        })
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

/// The address of this number, of the family of `like`.
fn number(like: IpAddr, host: u8) -> IpAddr {
    if like.is_ipv4() {
        v4(host).into()
    } else {
        v6(host).into()
    }
}

fn from(to: SocketAddr) -> SocketAddr {
    (number(to.ip(), 10), OWN_PORT).into()
}

fn datagram(to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    wire::udp_between(from(to), to, payload)
}

/// From a DHCP client's port to a server's.
fn of_dhcp(machine: IpAddr, payload: &[u8]) -> Vec<u8> {
    let (client, server) = dhcp(machine);
    let from = (number(machine, 10), client).into();
    wire::udp_between(from, (machine, server).into(), payload)
}

fn dhcp(like: IpAddr) -> (u16, u16) {
    if like.is_ipv4() { (68, 67) } else { (546, 547) }
}

fn segment(to: SocketAddr, flags: u8, token: &str) -> Vec<u8> {
    let from = from(to);
    let mut upper = wire::segment(from, to, flags);
    upper.extend(token.as_bytes());
    wire::sum(from.ip(), to.ip(), TCP, &mut upper, 16);
    upper
}

fn denied(segd: &Segd) -> u64 {
    segd.denied().values().sum()
}

/// Each of these arrives without segd, and none with it: a name, how it is sent, whether one that bears a token has arrived.
type Way<'a> = (String, Box<dyn Fn(&str) + 'a>, Box<dyn Fn(&str) -> bool + 'a>);

#[track_caller]
fn lead_nowhere(scene: &Container, ways: &[Way<'_>]) {
    lead_nowhere_by(scene, "", ways);
}

#[track_caller]
fn lead_nowhere_by(scene: &Container, more: &str, ways: &[Way<'_>]) {
    for (name, send, arrived) in ways {
        wait::wait_until(format!("{name}: it arrives without segd"), PATIENCE, || {
            send("before;");
            wait::within(Duration::from_millis(50), || arrived("before;"))
        });
    }
    let segd = scene.enforce(more);
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

/// The container's address, of both families.
fn families() -> [IpAddr; 2] {
    [v4(10).into(), v6(10).into()]
}

/// To the machine: a datagram, the beginning of a connection, the middle of one.
fn to_the_machine(scene: &Container, turn: Turn, own: IpAddr) -> [Way<'_>; 3] {
    let machine = scene.wrong.address(own);
    let to = SocketAddr::from((machine, PORT));
    [
        ("a datagram", UDP, None),
        ("a SYN", TCP, Some(SYN)),
        ("data", TCP, Some(PSH_ACK)),
    ]
    .map(|(name, protocol, flags)| -> Way<'_> {
        let marked = move |token: &str| format!("{name} {token}");
        (
            format!("{name} from {own} to a machine"),
            Box::new(move |token| {
                let token = marked(token);
                let upper = flags.map_or_else(
                    || datagram(to, token.as_bytes()),
                    |flags| segment(to, flags, &token),
                );
                scene.say(turn, protocol, machine, &upper);
            }),
            Box::new(move |token| scene.strayed(own, protocol, PORT, &marked(token))),
        )
    })
}

/// To the machine, behind the hook: an echo request.
fn request_to_the_machine(scene: &Container, own: IpAddr) -> Way<'_> {
    let machine = scene.wrong.address(own);
    let (rule, protocol, request) = if own.is_ipv4() {
        (format!("icmp type set echo-request ip daddr set {machine}"), 1, 8)
    } else {
        (
            format!("icmpv6 type set echo-request ip6 daddr set {machine}"),
            58,
            128,
        )
    };
    (
        format!("an echo request from {own} to a machine"),
        Box::new(move |token| scene.answer(Turn::AtLink, own, &rule, token.as_bytes())),
        Box::new(move |token| scene.strayed(own, protocol, request, token)),
    )
}

/// Class 13. Before the hook of the kernel's own socket: to a machine, to a service of the host, to another segment's container.
#[test]
fn what_the_kernel_answers_in_a_container_is_not_the_hosts_voice() {
    let Some(scene) = Container::open() else { return };
    let mut ways = Vec::new();
    for own in families() {
        ways.extend(to_the_machine(&scene, Turn::AtOutput, own));
        for (worker, host) in scene.services.iter().zip([1, 11]) {
            let at = number(own, host);
            let ear = worker.listen_udp((at, PORT));
            let scene = &scene;
            ways.push((
                format!("a datagram from {own} to {at}"),
                Box::new(move |token| {
                    scene.say(Turn::AtOutput, UDP, at, &datagram(ear.local, token.as_bytes()));
                }),
                Box::new(move |token| worker.inbox(ear).has(token)),
            ));
        }
    }
    lead_nowhere(&scene, &ways);
}

/// Class 13. Behind that hook: what left it is an answer to who may ask.
#[test]
fn what_the_kernel_answers_in_a_container_is_turned_to_nobody_on_its_link() {
    let Some(scene) = Container::open() else { return };
    let ways = families().map(|own| to_the_machine(&scene, Turn::AtLink, own));
    lead_nowhere(&scene, ways.as_flattened());
}

/// Class 13. As the one that a rule lets answer, which begins all the same.
#[test]
fn what_begins_is_not_the_answer_to_who_may_ask() {
    let Some(scene) = Container::open() else { return };
    let mut ways = Vec::new();
    for own in families() {
        for turn in [Turn::AtOutput, Turn::AtLink] {
            let [datagram, syn, _] = to_the_machine(&scene, turn, own);
            ways.extend([datagram, syn]);
        }
        ways.push(request_to_the_machine(&scene, own));
    }
    let more = format!(
        "    - {{from: wrong, to: rogue, ports: [udp/{OWN_PORT}, tcp/{OWN_PORT}, icmp/echo-request, icmpv6/echo-request]}}\n"
    );
    lead_nowhere_by(&scene, &more, &ways);
}

/// Class 13. On the ports of DHCP, whose client on the host needs no rule.
#[test]
fn what_the_kernel_answers_in_a_container_is_no_dhcp_client() {
    let Some(scene) = Container::open() else { return };
    let scene = &scene;
    let ways = families().map(|own| -> Way<'_> {
        let machine = scene.wrong.address(own);
        (
            format!("a datagram on DHCP's ports from {own}"),
            Box::new(move |token| {
                scene.say(Turn::AtOutput, UDP, machine, &of_dhcp(machine, token.as_bytes()));
            }),
            Box::new(move |token| scene.strayed(own, UDP, dhcp(own).1, token)),
        )
    });
    lead_nowhere(scene, &ways);
}

/// Class 13. The same, turned into a request, which carries whatever it likes.
#[test]
fn an_answer_that_is_turned_into_a_request_on_its_link_reaches_nobody() {
    let Some(scene) = Container::open() else { return };
    let scene = &scene;
    let ways = families().map(|own| request_to_the_machine(scene, own));
    lead_nowhere(scene, &ways);
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
        "a datagram into the host's tunnel".into(),
        Box::new(|token| {
            let payload = wire::vxlan(77, (partner, 40_000).into(), (inner, PORT).into(), token);
            scene.say(Turn::AtOutput, UDP, to.ip(), &datagram(to, &payload));
        }),
        Box::new(|token| scene.server.inbox(ear).has(token)),
    )];
    lead_nowhere(&scene, &ways);
}
