//! A process that no cgroup matcher claims, in a namespace whose address a `cidr` claims, is in that segment: here as on
//! another machine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use segd_tests::{
    Craft, Kind, Lab, Remote,
    netns::{v4, v6},
    wait, wire,
};

#[test]
fn an_unclaimed_process_elsewhere_is_claimed_by_its_address_and_one_of_the_host_is_not() {
    let Some(lab) = Lab::open() else { return };
    let bridge = lab.bridge();
    let (far, near) = (lab.netns("far"), lab.netns("near"));
    bridge.plug(&far, 30);
    bridge.plug(&near, 31);
    let (nobody, db) = (lab.cgroup("nobody"), lab.cgroup("db"));
    let claimed = lab.worker_in(&nobody, &far);
    let server = lab.worker_in(&db, &near);
    let host = lab.worker(&nobody);
    let policy = format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: claimed}}
spec:
  segments:
    db: {{match: [{{cgroup: {}}}]}}
    lab: {{match: [{{cidr: {}/32}}, {{cidr: {}/128}}]}}
    all: {{match: [{{cidr: {}/32}}]}}
  allow:
    - {{from: lab, to: db, ports: [tcp/5600, udp/5600]}}
    - {{from: all, to: db, ports: [tcp/5600, udp/5600]}}
    - {{from: db, to: lab, ports: [tcp/5601]}}
",
        db.path(),
        v4(30),
        v6(30),
        // The host's own address: its processes are not claimed by it.
        v4(1),
    );
    let _segd = lab.enforce(&policy);
    for (there, here) in [
        (IpAddr::from(v4(31)), IpAddr::from(v4(30))),
        (v6(31).into(), v6(30).into()),
    ] {
        let stream = server.listen_tcp((there, 5600));
        let datagram = server.listen_udp((there, 5600));
        assert_eq!(
            claimed.probe(Kind::Tcp, stream.local, "tcp;").result,
            "ok",
            "{here} to db"
        );
        let asker = claimed.open_udp((here, 0), None).unwrap();
        claimed.send_to(asker, datagram.local, "question;").unwrap();
        server.wait_for_message(datagram, "question;");
        server.send_to(datagram, asker.local, "answer;").unwrap();
        assert_eq!(
            claimed.receive(asker, 2000).unwrap().as_deref(),
            Some("answer;"),
            "the answer to {here}"
        );
        let closed = server.listen_tcp((there, 5602));
        assert_eq!(
            claimed.probe(Kind::Tcp, closed.local, "other;").result,
            "EPERM",
            "no rule for this port"
        );
        let back = claimed.listen_tcp((here, 5601));
        assert_eq!(
            server.probe(Kind::Tcp, back.local, "back;").result,
            "ok",
            "db to {here}"
        );
        // `host`, although `all` has the host's address.
        assert_ne!(
            host.probe(Kind::Tcp, stream.local, "host;").result,
            "ok",
            "a process of the host"
        );
        wait::quiet(wait::SILENCE);
        assert!(
            !server.inbox(stream).has("host;"),
            "a process of the host was taken for its address"
        );
        assert_eq!(server.inbox(closed).accepts, 0);
        for handle in [stream, datagram, closed] {
            server.close(handle);
        }
        claimed.close(back);
        claimed.close(asker);
    }
}

/// What the host's kernel and its DHCP client may, a process that a segment claims by its address may not.
#[test]
fn who_is_claimed_by_his_address_is_not_taken_for_the_hosts_kernel() {
    let Some(lab) = Lab::open() else { return };
    let bridge = lab.bridge();
    let far = lab.netns("far");
    bridge.plug(&far, 30);
    let remote = Remote::plug(&bridge, 50);
    let nobody = lab.cgroup("nobody");
    let claimed = lab.worker_in(&nobody, &far);
    let segd = lab.enforce(&format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: claimed}}
spec:
  segments:
    lab: {{match: [{{cidr: {}/32}}]}}
  allow:
    - {{from: lab, to: world, ports: [udp/5600]}}
",
        v4(30)
    ));
    wait::quiet(Duration::from_secs(1));
    let reached = |protocol: u8, port: u16| {
        let frames = remote.frames();
        frames.iter().any(|frame| {
            frame.protocol == protocol && frame.port == port && frame.source == IpAddr::from(v4(30))
        })
    };
    wait::wait_until("what it may arrives", wait::PATIENCE, || {
        claimed.probe(Kind::Udp, (remote.v4, 5600), "may;");
        reached(17, 5600)
    });
    segd.denies(1, &["no-rule"], || {
        claimed
            .craft(
                Craft::udp((remote.v4, 67), "dhcp;")
                    .bind((v4(30), 68))
                    .connected(),
            )
            .ok();
    });
    // Time exceeded, about nothing, with whatever it wants to tell.
    let error = [&[11, 0, 0xf4, 0xff, 0, 0, 0, 0][..], &[0; 28]].concat();
    segd.denies(1, &["no-rule"], || {
        claimed.craft(Craft::raw(remote.v4, 1, &error)).ok();
    });
    wait::quiet(wait::SILENCE);
    assert!(!reached(17, 67) && !reached(1, 11));
}

/// What a container writes on its link past the hooks of its sockets passes no more if its segment claims it by its address than if it
/// claims it by its cgroup.
#[test]
fn who_is_claimed_by_his_address_writes_no_frames_past_his_sockets() {
    let Some(lab) = Lab::open() else { return };
    let bridge = lab.bridge();
    let (far, near) = (lab.netns("far"), lab.netns("near"));
    bridge.plug(&far, 30);
    bridge.plug(&near, 31);
    let remote = Remote::plug(&bridge, 50);
    remote.listen(5600);
    let (nobody, db) = (lab.cgroup("nobody"), lab.cgroup("db"));
    let claimed = lab.worker_in(&nobody, &far);
    let server = lab.worker_in(&db, &near);
    let ear = server.listen_udp((v4(31), 5601));
    let frame = |token: &str, bypass: bool| {
        let from: SocketAddr = (v4(30), 5600).into();
        for to in [SocketAddr::from((remote.v4, 5601)), ear.local] {
            let upper = wire::udp_between(from, to, token.as_bytes());
            let packet = wire::packet(from.ip(), to.ip(), 17, &upper);
            claimed
                .send_frame("eth0", &wire::frame([0xff; 6], &packet), bypass)
                .ok();
        }
    };
    let reached = |token: &str| {
        let frames = remote.frames();
        frames.iter().any(|frame| frame.payload == token.as_bytes())
    };
    let both = |token: &str| reached(token) && server.inbox(ear).has(token);
    wait::wait_until("the frames arrive without segd", wait::PATIENCE, || {
        frame("before;", false);
        wait::within(wait::SILENCE, || both("before;"))
    });
    let segd = lab.enforce(&format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: claimed}}
spec:
  segments:
    lab: {{match: [{{cidr: {}/32}}]}}
    db: {{match: [{{cgroup: {}}}]}}
  allow:
    - {{from: lab, to: world, ports: [udp/5600]}}
",
        v4(30),
        db.path()
    ));
    wait::quiet(Duration::from_secs(1));
    wait::wait_until("what it may arrives", wait::PATIENCE, || {
        claimed.probe(Kind::Udp, (remote.v4, 5600), "may;");
        reached("may;")
    });
    assert_eq!(
        claimed.probe(Kind::Udp, (remote.v4, 5601), "socket;").result,
        "EPERM",
        "no rule for this port"
    );
    for bypass in [false, true] {
        let before: u64 = segd.denied().values().sum();
        frame("after;", bypass);
        wait::quiet(wait::SILENCE);
        assert!(!reached("after;"), "a machine was reached, bypass {bypass}");
        assert!(
            !server.inbox(ear).has("after;"),
            "a container was reached, bypass {bypass}"
        );
        let after: u64 = segd.denied().values().sum();
        assert_eq!(after - before, 2, "each is counted once, bypass {bypass}");
    }
}
