//! What a container's own rules translate for its own sake works: its resolver on another port, a sidecar's redirect, a container in the
//! container.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use segd_tests::{Cgroup, Lab, Netns, Remote, Worker, netns::v4, wait, worker::Handle};

/// How long segd may take to cover a new link.
const COVERED: Duration = Duration::from_secs(1);

fn policy(web: &Cgroup, rule: &str) -> String {
    format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: redirected}}
spec:
  segments:
    web: {{match: [{{cgroup: {}}}]}}
    client: {{match: [{{cidr: {}/32}}]}}
  allow:
    - {rule}
",
        web.path(),
        v4(50)
    )
}

fn nat(netns: &Netns, chain: &str, rules: &str) {
    let text =
        format!("table ip own {{ chain {chain} {{ type nat hook {chain} priority -100;\n{rules}\n}}\n}}\n");
    netns.run(&["nft", "-f", "-"], &text);
}

/// How Docker answers for 127.0.0.11: a process of the host in the container's namespace, on another port.
#[test]
fn a_resolver_on_a_translated_loopback_port_answers() {
    let Some(lab) = Lab::open() else { return };
    let bridge = lab.bridge();
    let near = lab.netns("near");
    bridge.plug(&near, 10);
    let (web, outside) = (lab.cgroup("web"), lab.cgroup("outside"));
    let (client, resolver) = (lab.worker_in(&web, &near), lab.worker_in(&outside, &near));
    let at = Ipv4Addr::new(127, 0, 0, 11);
    let (asked, behind) = (SocketAddr::from((at, 53)), SocketAddr::from((at, 34567)));
    resolver.listen_udp_echo(behind);
    resolver.listen_tcp_echo(behind);
    nat(
        &near,
        "output",
        "ip daddr 127.0.0.11 udp dport 53 dnat to 127.0.0.11:34567
ip daddr 127.0.0.11 tcp dport 53 dnat to 127.0.0.11:34567",
    );
    assert_eq!(unanswered(&client, asked, "before"), [""; 0], "without segd");
    let segd = lab.enforce(&policy(
        &web,
        "{from: web, to: host, ports: [udp/53, tcp/53, udp/34567, tcp/34567]}",
    ));
    wait::quiet(COVERED);
    assert_eq!(unanswered(&client, behind, "direct"), [""; 0], "{}", segd.log());
    assert_eq!(
        unanswered(&client, asked, "translated"),
        [""; 0],
        "{}",
        segd.log()
    );
}

/// How a worker asked and got no answer from there.
fn unanswered(client: &Worker, to: SocketAddr, token: &str) -> Vec<&'static str> {
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let answered = |way: &str, socket: Option<_>, to: Option<SocketAddr>| {
        let question = format!("{token} {way};");
        let Some(socket) = socket else { return false };
        let sent = match to {
            Some(to) => client.send_to(socket, to, &question),
            None => client.send(socket, &question),
        };
        let got = client.receive(socket, 1000);
        client.close(socket);
        sent.is_ok() && got == Ok(Some(question))
    };
    let ways = [
        ("connected", client.open_udp(any, Some(to)).ok(), None),
        ("unconnected", client.open_udp(any, None).ok(), Some(to)),
        ("tcp", client.open_tcp(to).ok(), None),
    ];
    ways.into_iter()
        .filter(|&(way, socket, to)| !answered(way, socket, to))
        .map(|(way, ..)| way)
        .collect()
}

/// Whether a machine's question to a port of the container is heard, and its answer gets back.
#[track_caller]
fn serves(remote: &Remote, server: &Worker, ear: Handle, port: u16, token: &str) {
    let to = SocketAddr::from((v4(10), port));
    let outcome = remote.tcp(to, token, Duration::from_secs(3));
    let heard = wait::within(wait::SILENCE, || server.inbox(ear).has(token));
    let answered = wait::within(Duration::from_secs(1), || {
        let frames = remote.frames();
        frames
            .iter()
            .any(|frame| frame.source == IpAddr::from(v4(10)) && frame.payload == token.as_bytes())
    });
    assert_eq!(
        (outcome, heard, answered),
        ("ok", true, true),
        "port {port}: what the client saw, heard, answered"
    );
}

/// How sidecars take what is meant for another port.
#[test]
fn a_port_that_a_container_redirects_to_its_sidecar_serves_other_machines() {
    let Some(lab) = Lab::open() else { return };
    let bridge = lab.bridge();
    let near = lab.netns("near");
    bridge.plug(&near, 10);
    let remote = Remote::plug(&bridge, 50);
    let web = lab.cgroup("web");
    let server = lab.worker_in(&web, &near);
    let ear = server.listen_tcp_echo((Ipv4Addr::UNSPECIFIED, 15006));
    nat(&near, "prerouting", "tcp dport 8080 redirect to :15006");
    serves(&remote, &server, ear, 8080, "before;");
    let _segd = lab.enforce(&policy(&web, "{from: client, to: web, ports: [tcp/15006]}"));
    wait::quiet(COVERED);
    serves(&remote, &server, ear, 15006, "direct;");
    serves(&remote, &server, ear, 8080, "redirected;");
}

/// A container in the container, whose port the outer one publishes.
#[test]
fn a_port_that_a_container_publishes_for_one_inside_it_serves_other_machines() {
    let Some(lab) = Lab::open() else { return };
    let bridge = lab.bridge();
    let (near, inner) = (lab.netns("near"), lab.netns("inner"));
    bridge.plug(&near, 10);
    near.ip(&format!(
        "link add inside type veth peer name eth0 netns {}",
        inner.name()
    ));
    near.ip("addr add 10.99.0.1/24 dev inside");
    near.ip("link set inside up");
    near.sysctl("net/ipv4/ip_forward", "1");
    inner.ip("addr add 10.99.0.2/24 dev eth0");
    inner.ip("link set eth0 up");
    inner.ip("route add default via 10.99.0.1");
    let remote = Remote::plug(&bridge, 50);
    let web = lab.cgroup("web");
    let below = web.child("inner");
    let (outer, server) = (lab.worker_in(&web, &near), lab.worker_in(&below, &inner));
    let (beside, ear) = (
        outer.listen_tcp_echo((v4(10), 80)),
        server.listen_tcp_echo((Ipv4Addr::new(10, 99, 0, 2), 80)),
    );
    nat(
        &near,
        "prerouting",
        "iifname eth0 tcp dport 8080 dnat to 10.99.0.2:80",
    );
    serves(&remote, &server, ear, 8080, "before;");
    let _segd = lab.enforce(&policy(
        &web,
        "{from: client, to: web, ports: [tcp/80, tcp/8080]}",
    ));
    wait::quiet(COVERED);
    serves(&remote, &outer, beside, 80, "direct;");
    serves(&remote, &server, ear, 8080, "published;");
}
