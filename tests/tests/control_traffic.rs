//! Deny everything and the network still works: what the kernel itself says passes, for allowed flows only.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::Command,
    time::Duration,
};

use segd_tests::{
    Bridge, Cgroup, Kind, Lab, Netns, Worker,
    netns::{ip, v4, v6},
    wait::{self, PATIENCE},
};

/// Everything is denied, `host` is enforced like any other; only this machine's own life goes on, by name.
fn policy(web: &Cgroup, db: &Cgroup, rules: &str) -> String {
    format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: control}}
spec:
  defaults: {{host: enforce}}
  segments:
    web: {{match: [{{cgroup: {}}}]}}
    db: {{match: [{{cgroup: {}}}]}}
  allow:
    - {{from: host, to: [host, world], ports: [any]}}
    - {{from: world, to: host, ports: [any]}}
{rules}",
        web.path(),
        db.path()
    )
}

struct Net {
    near: Netns,
    far: Netns,
    client: Worker,
    server: Worker,
    // Last: the namespaces hang on it.
    _bridge: Bridge,
}

impl Net {
    /// `born_inside`: the namespaces are made by a process of the segment itself, so their kernel sockets are its.
    fn new(lab: &Lab, web: &Cgroup, db: &Cgroup, born_inside: bool) -> Net {
        let bridge = lab.bridge();
        let make = |name: &str, cgroup: &Cgroup| {
            if born_inside {
                Netns::create_in(&lab.unique(name), cgroup)
            } else {
                lab.netns(name)
            }
        };
        let (near, far) = (make("near", web), make("far", db));
        bridge.plug(&near, 10);
        bridge.plug(&far, 11);
        let (client, server) = (lab.worker_in(web, &near), lab.worker_in(db, &far));
        Net {
            near,
            far,
            client,
            server,
            _bridge: bridge,
        }
    }

    fn forget_neighbours(&self) {
        for netns in [&self.near, &self.far] {
            netns.ip("neigh flush all");
            netns.ip("-6 neigh flush all");
        }
    }
}

#[test]
fn neighbour_discovery_works_under_deny_all() {
    for born_inside in [false, true] {
        let Some(lab) = Lab::open() else { return };
        let (web, db) = (lab.cgroup("web"), lab.cgroup("db"));
        let net = Net::new(&lab, &web, &db, born_inside);
        let segd = lab.enforce(&policy(&web, &db, ""));
        // A denied datagram by raw socket makes the kernel look for its neighbour or not; the neighbour entry
        // itself is asked for by `ip`, which is host's process in the segment's namespace.
        net.forget_neighbours();
        segd.set_policy(&policy(
            &web,
            &db,
            "    - {from: web, to: db, ports: [tcp/5400]}\n",
        ));
        for address in [IpAddr::from(v4(11)), v6(11).into()] {
            let listener = net.server.listen_tcp((address, 5400));
            for round in 0..3 {
                net.forget_neighbours();
                let token = format!("{address}-{round};");
                let outcome = net.client.probe(Kind::Tcp, listener.local, &token);
                assert_eq!(
                    outcome.result, "ok",
                    "born inside: {born_inside}; fresh neighbours, {token}"
                );
                net.server.wait_for_message(listener, &token);
            }
            net.server.close(listener);
        }
        // A new address is tested for duplicates and becomes usable.
        net.near.sysctl("net/ipv6/conf/eth0/accept_dad", "1");
        net.near.ip("addr add fd13:213:7::77/64 dev eth0");
        wait::wait_until("duplicate address detection ends well", PATIENCE, || {
            let output = Command::new("ip")
                .args([
                    "-n",
                    net.near.name(),
                    "-6",
                    "addr",
                    "show",
                    "dev",
                    "eth0",
                    "to",
                    "fd13:213:7::77",
                ])
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.contains("fd13:213:7::77") && !text.contains("tentative") && !text.contains("dadfailed")
        });
    }
}

#[test]
fn an_allowed_client_is_told_that_a_port_is_closed() {
    let Some(lab) = Lab::open() else { return };
    let (web, db) = (lab.cgroup("web"), lab.cgroup("db"));
    let net = Net::new(&lab, &web, &db, false);
    let (client, server) = (lab.worker(&web), lab.worker(&db));
    let _segd = lab.enforce(&policy(
        &web,
        &db,
        "    - {from: web, to: [db, host], ports: [tcp/5400-5499, udp/5400-5499]}\n",
    ));
    for address in [IpAddr::from(v4(11)), v6(11).into()] {
        let outcome = net.client.probe(Kind::Tcp, (address, 5401), "closed;");
        assert_eq!(outcome.result, "ECONNREFUSED", "{address}: the RST arrives");
    }
    // Over loopback a closed port has no owner but the host itself.
    for address in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let outcome = client.probe(Kind::Tcp, (address, 5487), "closed;");
        assert_eq!(outcome.result, "ECONNREFUSED", "{address}: the RST arrives");
    }
    // And a closed UDP port: the error belongs to a live allowed flow.
    for address in [IpAddr::from(v4(11)), v6(11).into()] {
        let any = if address.is_ipv4() {
            ([0; 4], 0).into()
        } else {
            ([0u16; 8], 0).into()
        };
        let _: std::net::SocketAddr = any;
        let socket = net.client.open_udp(any, Some((address, 5402).into())).unwrap();
        wait::wait_until(format!("port unreachable from {address}"), PATIENCE, || {
            net.client
                .send(socket, "closed;")
                .is_err_and(|refusal| refusal.errno == "ECONNREFUSED")
        });
    }
    drop(server);
}

#[test]
fn allowed_pings_are_answered_and_others_are_not() {
    let Some(lab) = Lab::open() else { return };
    let (web, db) = (lab.cgroup("web"), lab.cgroup("db"));
    let net = Net::new(&lab, &web, &db, false);
    let _segd = lab.enforce(&policy(
        &web,
        &db,
        "    - {from: web, to: db, ports: [icmp/echo-request, icmpv6/echo-request]}\n",
    ));
    for (number, address) in [IpAddr::from(v4(11)), v6(11).into()].into_iter().enumerate() {
        let pick = |(four, six): (u64, u64)| if number == 0 { four } else { six };
        for (kind, group) in [(Kind::Echo, None), (Kind::PingSocket, Some("0 2147483647"))] {
            if let Some(group) = group {
                net.near.sysctl("net/ipv4/ping_group_range", group);
            }
            let before = pick(net.server.echo_requests_received());
            let outcome = net.client.probe(kind, (address, 0), &format!("{kind:?}"));
            assert_eq!(outcome.result, "ok", "{kind:?} to {address}");
            assert_eq!(
                pick(net.server.echo_requests_received()),
                before + 1,
                "{kind:?} to {address}"
            );
        }
    }
    // The other direction has no rule.
    for address in [IpAddr::from(v4(10)), v6(10).into()] {
        let before = net.client.echo_requests_received();
        let outcome = net.server.probe(Kind::Echo, (address, 0), "back");
        assert_ne!(outcome.result, "ok", "db may not ping web");
        wait::quiet(wait::SILENCE);
        assert_eq!(
            net.client.echo_requests_received(),
            before,
            "no request reached {address}"
        );
    }
}

#[test]
fn a_path_with_a_smaller_mtu_is_learned_by_an_allowed_flow() {
    let Some(lab) = Lab::open() else { return };
    let (web, db) = (lab.cgroup("web"), lab.cgroup("db"));
    let (near, router, far) = (lab.netns("near"), lab.netns("router"), lab.netns("far"));
    for (left, port, number) in [(&near, "left", 21), (&far, "right", 22)] {
        ip(&format!(
            "link add eth0 netns {} type veth peer name {port} netns {}",
            left.name(),
            router.name()
        ));
        for (netns, device) in [(left, "eth0"), (&router, port)] {
            netns.sysctl(&format!("net/ipv6/conf/{device}/accept_dad"), "0");
        }
        for (netns, device, last) in [(left, "eth0", 2), (&router, port, 1)] {
            netns.ip(&format!("addr add 10.213.{number}.{last}/24 dev {device}"));
            netns.ip(&format!(
                "addr add fd13:213:{number}::{last}/64 dev {device} nodad"
            ));
            netns.ip(&format!("link set dev {device} up"));
        }
        left.ip(&format!("route add default via 10.213.{number}.1"));
        left.ip(&format!("route add default via fd13:213:{number}::1"));
    }
    router.sysctl("net/ipv4/ip_forward", "1");
    router.sysctl("net/ipv6/conf/all/forwarding", "1");
    // Narrow towards the server, which does not know: only the router can say so.
    router.ip("link set dev right mtu 1300");
    let (client, server) = (lab.worker_in(&web, &near), lab.worker_in(&db, &far));
    let _segd = lab.enforce(&policy(
        &web,
        &db,
        "    - {from: web, to: db, ports: [tcp/5400]}\n",
    ));
    for address in ["10.213.22.2", "fd13:213:22::2"] {
        let address: IpAddr = address.parse().unwrap();
        let listener = server.listen_tcp((address, 5400));
        let flow = client.open_tcp(listener.local).expect("it is allowed");
        let load = "x".repeat(50_000);
        for _ in 0..4 {
            client.send(flow, &load).unwrap();
        }
        wait::wait_until(
            format!("200 kB over the narrow path to {address}"),
            Duration::from_secs(10),
            || server.inbox(listener).bytes == 200_000,
        );
        server.close(listener);
    }
}
