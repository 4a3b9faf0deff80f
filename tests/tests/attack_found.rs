//! Whom a frame's receiver takes its sender for, and whom its answer reaches, where root in a container sees to it that it is another:
//! a socket that another sent in, an address of the network, a neighbour's. BYPASSES.md, section 3, class 13.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    cell::Cell,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::Command,
    time::Duration,
};

use segd_tests::{
    Craft, Kind, Lab, Netns,
    hostile::{Beyond, COVERED, PORT, Scene, heard},
    netns::{Sysctl, ip, v4, v6},
    wait::{self, PATIENCE},
    wire::{self, written},
    worker::Handle,
};

const TCP: u8 = 6;
const SYN_ACK: u8 = 0x12;
/// What the enemy writes over eight bytes of another's.
const TOKEN: &str = "turned;;";
/// Longer than both headers of a segment without data.
const BARE: u16 = 80;

/// Leads what a namespace sends to a machine into the enemy's, as if the enemy's kernel had answered for it.
#[track_caller]
fn lead_astray(scene: &Scene, netns: &Netns, to: Ipv4Addr) {
    netns.ip(&format!(
        "neigh replace {to} lladdr {} dev eth0 nud permanent",
        written(wire::mac_in(&scene.near))
    ));
}

/// Frames keep their sockets on their way over a bridge, unless the host's firewall looks at them there.
#[track_caller]
fn past_the_firewall() -> Option<Sysctl> {
    Sysctl::set_if_any("net/bridge/bridge-nf-call-iptables", "0")
}

const TO_ALL: &str = "ether daddr set ff:ff:ff:ff:ff:ff fwd to \"eth0\"";

/// Whose segments a container gets to see, and sends on with words of its own, bear that one's socket still, and its tuple.
#[test]
fn words_that_a_container_writes_into_anothers_session_do_not_leave_it() {
    let Some(lab) = Lab::open() else { return };
    let _bridged = past_the_firewall();
    let client = lab.cgroup("client");
    let rules = "    - {from: client, to: right, ports: [tcp/5400]}\n";
    let mut scene = Scene::open(Some(&client), lab, rules);
    let there = scene.lab.netns("there");
    scene.bridge.plug(&there, 12);
    let victim = scene.lab.worker_in(&client, &there);
    wait::quiet(COVERED);
    let session = victim.open_tcp((scene.right.v4, PORT)).unwrap();
    for token in ["one;", "two;", "three;"] {
        victim.send(session, token).unwrap();
        wait::wait_until("it is heard", PATIENCE, || scene.right.inbox().has(token));
    }
    lead_astray(&scene, &there, scene.right.v4);
    // Behind the header and the time stamps.
    let words = TOKEN
        .bytes()
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>();
    scene.receive(&format!(
        "ip saddr {} ip daddr {} tcp dport {PORT} ip length > {BARE} @th,256,64 set 0x{words} {TO_ALL}",
        v4(12),
        scene.right.v4
    ));
    scene.stays_unheard(
        |_, _| {
            victim.send(session, &"its own;".repeat(8)).ok();
        },
        |scene, _| heard(&scene.right, TOKEN),
    );
}

/// What a container's own rules make of a segment that another container sent in is not that one's word.
#[test]
fn a_segment_of_anothers_that_a_container_sends_back_is_not_that_ones() {
    let Some(lab) = Lab::open() else { return };
    let _bridged = past_the_firewall();
    let client = lab.cgroup("client");
    let rules = "    - {from: client, to: [rogue, wrong], ports: [tcp/5400]}\n";
    let mut scene = Scene::open(Some(&client), lab, rules);
    let there = scene.lab.netns("there");
    scene.bridge.plug(&there, 12);
    let victim = scene.lab.worker_in(&client, &there);
    scene.enemy.listen_tcp_echo((v4(10), PORT));
    wait::quiet(COVERED);
    for to in [v4(10), scene.wrong.v4] {
        assert!(victim.open_tcp((to, PORT)).is_ok(), "{}", scene.segd.log());
    }
    scene.receive(&format!(
        "ip saddr {} tcp dport {PORT} ip saddr set {} ip daddr set {} {TO_ALL}",
        v4(12),
        v4(10),
        scene.wrong.v4
    ));
    scene.strays_nowhere(|_| {
        victim.open_tcp((v4(10), PORT)).ok();
    });
}

/// Nor does what accepts a connection of another's leave by an address that both have.
#[test]
fn the_answer_that_accepts_anothers_connection_leaves_by_no_other_container() {
    let Some(lab) = Lab::open() else { return };
    let _bridged = past_the_firewall();
    let rules = "    - {from: right, to: db, ports: [tcp/5432]}\n";
    let mut scene = Scene::open(None, lab, rules);
    scene.server.listen_tcp((v4(11), 5432));
    let asks = |scene: &Scene| {
        scene
            .right
            .tcp((v4(11), 5432).into(), "asks;", Duration::from_millis(500))
    };
    assert_eq!(asks(&scene), "ok", "{}", scene.segd.log());
    scene.near.sysctl("net/ipv4/conf/all/arp_ignore", "1");
    scene.near.ip(&format!("addr add {}/32 dev lo", v4(11)));
    wait::quiet(COVERED);
    assert_eq!(asks(&scene), "ok", "{}", scene.segd.log());
    lead_astray(&scene, &scene.beside, scene.right.v4);
    scene.receive(&format!(
        "ip saddr {} ip daddr {} tcp flags & (syn | ack) == (syn | ack) tcp sequence set 7777 {TO_ALL}",
        v4(11),
        scene.right.v4
    ));
    let from = IpAddr::from(v4(11));
    scene.stays_unheard(
        |scene, _| {
            let _ = asks(scene);
        },
        |scene, _| {
            let frames = scene.right.frames();
            frames
                .iter()
                .any(|frame| (frame.source, frame.flags, frame.sequence) == (from, SYN_ACK, 7777))
        },
    );
}

/// The port that the enemy sends by in a machine's name.
const BY: u16 = 4000;
/// From the container to the server, by either protocol; the network asks something else.
const TO_DB: &str = "    - {from: rogue, to: [db, right], ports: [tcp/5432, udp/5432, udp/5400]}\n    - {from: world, to: db, ports: [tcp/9]}\n";

/// Lets the enemy send in a machine's name.
#[track_caller]
fn borrow(scene: &Scene, machine: &Beyond) {
    scene.near.ip(&format!("addr add {}/32 dev lo", machine.v4));
    wait::quiet(COVERED);
}

/// A datagram of the enemy's in a machine's name.
#[track_caller]
fn say(scene: &Scene, machine: &Beyond, token: &str) {
    let socket = scene.enemy.open_udp((machine.v4, BY), None).unwrap();
    scene.enemy.send_to(socket, (v4(11), 5432), token).ok();
    scene.enemy.close(socket);
}

fn bears(packet: &[u8], token: &str) -> bool {
    String::from_utf8_lossy(packet).contains(token)
}

/// What a server accepts from a container that calls itself a machine is the container's: the machine hears nothing of it.
#[test]
fn nothing_that_accepts_a_container_by_a_machines_address_reaches_that_machine() {
    let Some(lab) = Lab::open() else { return };
    let machine = Beyond::plug();
    let mut scene = Scene::open(None, lab, TO_DB);
    scene.server.listen_tcp((v4(11), 5432));
    assert!(
        scene.enemy.open_tcp((v4(11), 5432)).is_ok(),
        "{}",
        scene.segd.log()
    );
    borrow(&scene, &machine);
    scene.stays_unheard(
        |scene, _| {
            scene.enemy.open_tcp_from((machine.v4, BY), (v4(11), 5432)).ok();
        },
        |_, _| machine.has(|packet| packet.get(9) == Some(&TCP) && packet.get(33) == Some(&SYN_ACK)),
    );
}

/// Nor of what it accepts with data before the handshake has ended.
#[test]
fn nothing_that_accepts_a_containers_first_data_by_a_machines_address_reaches_that_machine() {
    let Some(lab) = Lab::open() else { return };
    let machine = Beyond::plug();
    let mut scene = Scene::open(None, lab, TO_DB);
    for netns in [&scene.near, &scene.beside] {
        // Both ends, and no cookie is asked for.
        netns.sysctl("net/ipv4/tcp_fastopen", "1543");
    }
    let ear = scene.server.listen_tcp((v4(11), 5432));
    assert_eq!(
        scene.enemy.probe(Kind::FastOpen, ear.local, "its own;").result,
        "ok"
    );
    borrow(&scene, &machine);
    let by = format!("route replace {}/32 dev eth0 src {}", v4(11), machine.v4);
    scene.near.ip(&by);
    scene.stays_unheard(
        |scene, token| {
            scene.enemy.probe(Kind::FastOpen, ear.local, token);
        },
        |_, _| machine.has(|packet| packet.get(9) == Some(&TCP) && packet.get(33) == Some(&SYN_ACK)),
    );
}

/// Nor what answers it.
#[test]
fn no_answer_to_a_container_by_a_machines_address_reaches_that_machine() {
    let Some(lab) = Lab::open() else { return };
    let machine = Beyond::plug();
    let mut scene = Scene::open(None, lab, TO_DB);
    let ear = scene.server.listen_udp_echo((v4(11), 5432));
    borrow(&scene, &machine);
    scene.stays_unheard(
        |scene, token| {
            say(scene, &machine, token);
            scene.server.wait_for_message(ear, token);
        },
        |_, token| machine.has(|packet| bears(packet, token)),
    );
}

/// Nor does the rest of an answer that is cut in pieces.
#[test]
fn no_piece_of_an_answer_to_a_container_by_a_machines_address_reaches_that_machine() {
    let Some(lab) = Lab::open() else { return };
    let machine = Beyond::plug();
    let mut scene = Scene::open(None, lab, TO_DB);
    let ear = scene.server.listen_udp_echo((v4(11), 5432));
    borrow(&scene, &machine);
    scene.stays_unheard(
        |scene, token| {
            say(scene, &machine, &token.repeat(500));
            scene.server.wait_for_message(ear, token);
        },
        |_, token| machine.has(|packet| bears(packet, token)),
    );
}

/// A datagram of the machine's own is not the container's that has borrowed its address.
#[track_caller]
fn does_not_enter(arguments: impl Fn(&Beyond) -> Vec<String>) {
    does_not_enter_after(arguments, |scene, machine, ear| {
        say(scene, machine, "its own;");
        scene.server.wait_for_message(ear, "its own;");
    });
}

/// Longer than what a datagram is known by where it is translated.
const ALIKE: &str = "what both of them begin with, to the letter: ";

/// The same, once the container has sent something to another.
#[track_caller]
fn does_not_enter_alike(arguments: impl Fn(&Beyond) -> Vec<String>) {
    does_not_enter_after(arguments, |scene, machine, _| {
        let socket = scene.enemy.open_udp((machine.v4, BY), None).unwrap();
        let own = format!("{ALIKE}its own;");
        scene.enemy.send_to(socket, (scene.right.v4, PORT), &own).ok();
        scene.enemy.close(socket);
    });
}

/// After what takes its time, and is done under the policy alone.
#[track_caller]
fn does_not_enter_once(before: impl Fn(&Scene, &Beyond, Handle)) {
    let done = Cell::new(false);
    does_not_enter_after(
        |_| Vec::new(),
        |scene, machine, ear| {
            if !done.replace(true) {
                before(scene, machine, ear);
            }
        },
    );
}

#[track_caller]
fn does_not_enter_after(
    arguments: impl Fn(&Beyond) -> Vec<String>,
    before: impl Fn(&Scene, &Beyond, Handle),
) {
    let Some(lab) = Lab::open() else { return };
    let machine = Beyond::plug();
    let arguments = arguments(&machine);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut scene = Scene::open_with(&arguments, None, lab, TO_DB);
    let ear = scene.server.listen_udp((v4(11), 5432));
    borrow(&scene, &machine);
    let (from, to) = (SocketAddr::from((machine.v4, BY)), ear.local);
    scene.stays_unheard(
        |scene, token| {
            before(scene, &machine, ear);
            let upper = wire::udp_between(from, to, format!("{ALIKE}{token}").as_bytes());
            machine.send(&wire::packet(from.ip(), to.ip(), 17, &upper));
        },
        |scene, token| scene.server.inbox(ear).has(token),
    );
}

#[test]
fn a_machines_datagram_is_not_the_containers_that_has_borrowed_its_address() {
    does_not_enter(|_| Vec::new());
}

/// Where the NIC is one that segd watches, it gets no further.
#[test]
fn a_machines_datagram_on_a_borrowed_tuple_ends_at_the_nic() {
    does_not_enter(|machine| vec!["--interface".to_owned(), machine.interface.clone()]);
}

/// Nor for the moment that lies between who sent from there last, anywhere, and who sent there.
#[test]
fn a_machines_datagram_is_not_the_containers_that_borrowed_its_address_long_ago() {
    does_not_enter_once(|scene, machine, ear| {
        let socket = scene.enemy.open_udp((machine.v4, BY), None).unwrap();
        scene.enemy.send_to(socket, (scene.right.v4, PORT), "first;").ok();
        wait::quiet(Duration::from_millis(450));
        scene.enemy.send_to(socket, ear.local, "its own;").unwrap();
        scene.server.wait_for_message(ear, "its own;");
        wait::quiet(Duration::from_millis(9700));
    });
}

/// Nor if somebody whom no segment claims sends from there as well.
#[test]
fn a_machines_datagram_is_not_the_containers_although_another_container_has_sent_by_its_address() {
    does_not_enter_once(|scene, machine, ear| {
        say(scene, machine, "its own;");
        scene.server.wait_for_message(ear, "its own;");
        let there = scene.lab.netns("there");
        scene.bridge.plug(&there, 12);
        there.ip(&format!("addr add {}/32 dev lo", machine.v4));
        let outside = scene.lab.cgroup("outside");
        let other = scene.lab.worker_in(&outside, &there);
        wait::quiet(COVERED);
        let socket = other.open_udp((machine.v4, BY), None).unwrap();
        other.send_to(socket, (scene.right.v4, PORT), "another's;").ok();
    });
}

/// Wherever the container has sent by it.
#[test]
fn a_machines_datagram_is_not_the_containers_that_began_one_alike_to_another() {
    does_not_enter_alike(|_| Vec::new());
}

#[test]
fn a_machines_datagram_that_begins_as_a_containers_ends_at_the_nic() {
    does_not_enter_alike(|machine| vec!["--interface".to_owned(), machine.interface.clone()]);
}

/// Nor is a container the network to all of a network by an address that nobody has.
#[test]
fn an_address_that_nobody_has_is_no_machine_of_the_network_to_a_broadcast() {
    let Some(lab) = Lab::open() else { return };
    let rules = "    - {from: rogue, to: right, ports: [udp/5400]}\n    - {from: rogue, to: world, ports: [udp/5432]}\n    - {from: world, to: db, ports: \
                 [udp/5432]}\n";
    let mut scene = Scene::open(None, lab, rules);
    let ear = scene.server.listen_udp((Ipv4Addr::UNSPECIFIED, 5432));
    scene.rewrite(&format!(
        "ip daddr {} udp dport {PORT} udp dport set 5432 ip saddr set {} ip daddr set {} ether daddr set ff:ff:ff:ff:ff:ff",
        scene.right.v4,
        v4(99),
        v4(255)
    ));
    scene.stays_unheard(
        |scene, token| {
            let socket = scene.enemy.open_udp((v4(10), BY), None).unwrap();
            scene.enemy.send_to(socket, (scene.right.v4, PORT), token).ok();
            scene.enemy.close(socket);
        },
        |scene, token| scene.server.inbox(ear).has(token),
    );
}

/// Who says by whom a neighbour is reached says so of himself, however many headers he puts before it.
#[test]
fn a_neighbours_address_is_not_given_away_behind_another_header() {
    let Some(lab) = Lab::open() else { return };
    let rules = "    - {from: rogue, to: host, ports: [icmpv6/136]}\n";
    let mut scene = Scene::open(None, lab, rules);
    let bridge = scene.bridge.name().to_owned();
    ip(&format!(
        "-6 neigh replace {} lladdr {} dev {bridge} nud stale",
        v6(11),
        written(wire::mac_in(&scene.beside))
    ));
    let mac = wire::mac_in(&scene.near);
    // RFC 4861 4.4: solicited, instead of what was known; 4.6.1: by this address.
    let mut advertises = vec![136, 0, 0, 0, 0x60, 0, 0, 0];
    advertises.extend(v6(11).octets());
    advertises.extend([2, 1]);
    advertises.extend(mac);
    const IPV6_DSTOPTS: i32 = 59;
    // RFC 8200 4.2: four bytes of padding.
    let padding = [0, 0, 1, 4, 0, 0, 0, 0];
    let craft = Craft::raw(v6(1), libc::IPPROTO_ICMPV6, &advertises)
        .flag(libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, 255)
        .option(libc::IPPROTO_IPV6, IPV6_DSTOPTS, &padding);
    scene.stays_unheard(
        |scene, _| assert_eq!(scene.enemy.craft(craft.clone()), Ok(())),
        |_, _| {
            let words = ["-6", "neigh", "show", &v6(11).to_string(), "dev", &bridge];
            let known = Command::new("ip").args(words).output().unwrap();
            String::from_utf8_lossy(&known.stdout).contains(&written(mac))
        },
    );
}

/// A DHCP server is a stranger: no workload answers the host's client without a rule. `client`: where that listens.
#[track_caller]
fn answers_no_client(client: impl Into<SocketAddr>, server: impl Into<SocketAddr>) {
    let Some(lab) = Lab::open() else { return };
    let (client, server) = (client.into(), server.into());
    let rules = "    - {from: rogue, to: right, ports: [udp/5400]}\n";
    let mut scene = Scene::open(None, lab, rules);
    let outside = scene.lab.cgroup("outside");
    let host = scene.lab.worker(&outside);
    let ear = host.listen_udp(client);
    scene.stays_unheard(
        |scene, token| {
            scene.enemy.craft(Craft::udp(client, token).bind(server)).ok();
        },
        |_, token| host.inbox(ear).has(token),
    );
}

#[test]
fn a_workload_gets_nothing_in_by_the_ports_of_dhcp() {
    answers_no_client((v4(1), 68), (v4(10), 67));
}

/// RFC 8415.
#[test]
fn a_workload_gets_nothing_in_by_the_ports_of_dhcp_for_ipv6() {
    answers_no_client((v6(1), 546), (v6(10), 547));
}
