//! segd's unit under a real systemd: started, reloaded, killed, stopped; its units, users and sockets as identities.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::net::{Ipv4Addr, SocketAddr};

use segd_tests::{
    Kind, Lab, Machine, Worker,
    machine::Unit,
    wait::{self, PATIENCE},
    worker::Handle,
};

const POLICY: &str = "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {name: machine}
spec:
  segments:
    web: {match: [{systemd: web.service}]}
    rogue: {match: [{systemd: rogue.service}]}
    db: {match: [{systemd: db.service}]}
    alice: {match: [{user: alice}]}
  allow:
    - {from: web, to: db, ports: [tcp/5432]}
    - {from: alice, to: db, ports: [tcp/5433]}
";

/// A listener that hears, and who may talk to it.
fn arrives(from: &Worker, at: &Worker, listener: Handle, token: &str) -> bool {
    let result = from.probe(Kind::Tcp, listener.local, token).result;
    let arrived = at.inbox(listener).has(token);
    assert_eq!(result == "ok", arrived, "{token}: the client says {result}");
    arrived
}

/// What `web` says arrives at `db`, and what `rogue` says does not.
#[track_caller]
fn is_enforced(machine: &Machine, [web, rogue, db]: [&Worker; 3], listener: Handle, token: &str) {
    assert!(
        arrives(web, db, listener, &format!("web {token};")),
        "{token}: {}",
        machine.journal()
    );
    assert!(
        !arrives(rogue, db, listener, &format!("rogue {token};")),
        "{token}"
    );
}

fn at(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// A capability set in `/proc/<pid>/status`.
fn set(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    u64::from_str_radix(line.unwrap().trim_start_matches(':').trim(), 16).unwrap()
}

#[test]
fn systemd_starts_reloads_kills_and_stops_it_and_it_enforces_all_the_time() {
    let Some(lab) = Lab::open() else { return };
    let machine = Machine::boot(&lab, POLICY);
    machine.must(&["ip", "link", "set", "lo", "up"]);
    let db = machine.worker(&["--unit=db.service"]);
    let web = machine.worker(&["--unit=web.service"]);
    let rogue = machine.worker(&["--unit=rogue.service"]);
    let listener = db.listen_tcp(at(5432));
    assert!(arrives(&rogue, &db, listener, "before;"), "nobody enforces yet");

    machine.must(&["systemctl", "start", "segd.service"]);
    assert_eq!(
        machine.segd("StatusText"),
        "enforcing revision 1",
        "{}",
        machine.journal()
    );
    let both = |token: &str| is_enforced(&machine, [&web, &rogue, &db], listener, token);
    both("started");
    let status = machine.must(&["segd", "status", "-o", "json"]);
    assert!(status.contains("\"enforcing\": true"), "{status}");

    // What the unit gives and what the daemon keeps.
    let pid = machine.segd("MainPID");
    let process = machine.must(&["cat", &format!("/proc/{pid}/status")]);
    // CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF; without CAP_SETPCAP the bounding set stays the unit's, with NET_BROADCAST.
    let kept = 1 << 12 | 1 << 38 | 1 << 39;
    assert_eq!(
        (set(&process, "CapEff"), set(&process, "CapPrm")),
        (kept, kept),
        "{process}"
    );
    assert_eq!(set(&process, "CapBnd"), kept | 1 << 11, "{process}");
    assert_eq!((set(&process, "CapAmb"), set(&process, "CapInh")), (0, 0));
    assert!(
        process.contains("NoNewPrivs:\t1") && process.contains("Seccomp:\t2"),
        "{process}"
    );

    // Reloading waits until it is done.
    machine.set_policy(&POLICY.replace("from: web, to: db", "from: rogue, to: db"));
    machine.must(&["systemctl", "reload", "segd.service"]);
    assert!(arrives(&rogue, &db, listener, "rogue may now;"));
    assert!(!arrives(&web, &db, listener, "web may not now;"));
    machine.set_policy("nonsense");
    assert!(
        !machine
            .run(&["systemctl", "reload", "segd.service"])
            .status
            .success(),
        "a reload that failed says so"
    );
    assert_eq!(machine.segd("ActiveState"), "active");
    machine.set_policy(POLICY);
    machine.must(&["systemctl", "reload", "segd.service"]);
    both("reloaded");

    machine.must(&[
        "systemctl",
        "kill",
        "--kill-who=main",
        "--signal=KILL",
        "segd.service",
    ]);
    assert!(!arrives(&rogue, &db, listener, "rogue while it is dead;"));
    wait::wait_until("systemd restarts it", PATIENCE, || {
        machine.segd("NRestarts") == "1" && machine.segd("ActiveState") == "active"
    });
    assert_ne!(machine.segd("MainPID"), pid);
    both("restarted");

    machine.must(&["systemctl", "stop", "segd.service"]);
    both("stopped");
    machine.must(&["systemctl", "start", "segd.service"]);
    both("started again");
    machine.must(&["systemctl", "stop", "segd.service"]);
    machine.must(&["segd", "unload"]);
    assert!(
        arrives(&rogue, &db, listener, "rogue after unload;"),
        "that was segd"
    );
}

#[test]
fn the_rescue_lasts_until_somebody_starts_it_again() {
    let Some(lab) = Lab::open() else { return };
    let machine = Machine::boot(&lab, POLICY);
    machine.must(&["ip", "link", "set", "lo", "up"]);
    let db = machine.worker(&["--unit=db.service"]);
    let web = machine.worker(&["--unit=web.service"]);
    let rogue = machine.worker(&["--unit=rogue.service"]);
    let listener = db.listen_tcp(at(5432));
    let enforces = |token: &str| {
        machine.must(&["systemctl", "start", "segd.service"]);
        is_enforced(&machine, [&web, &rogue, &db], listener, token);
    };
    enforces("started");
    // With the daemon running, and with it stopped before.
    for stops in [false, true] {
        if stops {
            machine.must(&["systemctl", "stop", "segd.service"]);
        }
        machine.must(&["segd", "unload"]);
        assert!(
            arrives(&rogue, &db, listener, &format!("unloaded, {stops};")),
            "it was segd"
        );
        wait::stays(
            "systemd leaves it alone",
            std::time::Duration::from_secs(3),
            || machine.segd("ActiveState") == "inactive" && machine.segd("NRestarts") == "0",
        );
        assert!(arrives(
            &rogue,
            &db,
            listener,
            &format!("still unloaded, {stops};")
        ));
        enforces(&format!("again, {stops}"));
    }
}

#[test]
fn a_hung_daemon_is_ended_by_the_watchdog_and_comes_back() {
    let Some(lab) = Lab::open() else { return };
    let machine = Machine::boot(&lab, POLICY);
    machine.must(&["mkdir", "-p", "/run/systemd/system/segd.service.d"]);
    machine.unit("segd.service.d/soon.conf", "[Service]\nWatchdogSec=2s\n");
    machine.must(&["systemctl", "start", "segd.service"]);
    let pid = machine.segd("MainPID");
    wait::stays(
        "it keeps the watchdog content",
        std::time::Duration::from_secs(4),
        || machine.segd("MainPID") == pid,
    );
    machine.must(&["kill", "-STOP", &pid]);
    wait::wait_until("another daemon", PATIENCE, || {
        machine.segd("MainPID") != pid && machine.segd("SubState") == "running"
    });
    assert!(machine.journal().contains("Watchdog timeout") || machine.segd("NRestarts") == "1");
}

#[test]
fn units_users_and_slices_of_systemd_are_who_they_are_and_names_below_a_delegated_unit_are_not() {
    let Some(lab) = Lab::open() else { return };
    let machine = Machine::boot(&lab, POLICY);
    machine.must(&["ip", "link", "set", "lo", "up"]);
    machine.must(&["useradd", "--uid=1001", "alice"]);
    machine.must(&["useradd", "--uid=1002", "bob"]);
    machine.must(&["systemctl", "start", "segd.service"]);
    let db = machine.worker(&["--unit=db.service", "--slice=data.slice"]);
    let alice = machine.worker(&["--unit=job.service", "--slice=user-1001.slice", "--uid=alice"]);
    let bob = machine.worker(&["--unit=job2.service", "--slice=user-1002.slice", "--uid=bob"]);
    // Its slice says who it is, not its user.
    let pretender = machine.worker(&["--unit=other.service", "--uid=alice"]);
    let (service, desk) = (db.listen_tcp(at(5432)), db.listen_tcp(at(5433)));
    assert!(arrives(&alice, &db, desk, "alice;"), "{}", machine.journal());
    assert!(!arrives(&alice, &db, service, "alice elsewhere;"));
    assert!(!arrives(&bob, &db, desk, "bob;"));
    assert!(!arrives(&pretender, &db, desk, "pretender;"));

    // Who was given a subtree may name cgroups in it as he likes.
    let liar = machine.worker(&["--unit=liar.service", "--uid=bob", "-pDelegate=yes"]);
    let own = "/sys/fs/cgroup/system.slice/liar.service/web.service";
    machine.must(&["runuser", "-u", "bob", "--", "mkdir", own]);
    liar.write_file(&format!("{own}/cgroup.procs"), "0");
    assert!(
        liar.read_file("/proc/self/cgroup")
            .contains("liar.service/web.service")
    );
    assert!(!arrives(&liar, &db, service, "liar;"));
    let web = machine.worker(&["--unit=web.service", "--slice=web.slice"]);
    assert!(arrives(&web, &db, service, "web;"), "{}", machine.journal());

    let rows = machine.must(&["segd", "workloads"]);
    for line in ["/data.slice/db.service", "/user.slice/user-1001.slice"] {
        assert!(rows.contains(line), "{line} in\n{rows}");
    }
}

#[test]
fn a_listener_that_systemd_opens_is_its_service_s() {
    let Some(lab) = Lab::open() else { return };
    let machine = Machine::boot(&lab, POLICY);
    machine.must(&["ip", "link", "set", "lo", "up"]);
    machine.unit("db.socket", "[Socket]\nListenStream=127.0.0.1:5432\nAccept=no\n");
    // Writes down what arrives, of one connection after the other.
    let accept =
        "open L, \"+<&=3\"; $| = 1; while (accept C, L) { while (sysread C, $b, 99) { print $b } close C }";
    machine.unit(
        "db.service",
        &format!("[Service]\nExecStart=/usr/bin/perl -e '{accept}'\nStandardOutput=append:/run/arrived\n"),
    );
    machine.must(&["systemctl", "start", "segd.service"]);
    machine.must(&["systemctl", "start", "db.socket"]);
    let web = machine.worker(&["--unit=web.service"]);
    let rogue = machine.worker(&["--unit=rogue.service"]);
    let said = rogue.probe(Kind::Tcp, at(5432), "rogue;").result;
    assert_ne!(said, "ok", "{}", machine.journal());
    assert_eq!(
        machine.must(&["systemctl", "show", "db.service", "--value", "-pSubState"]),
        "dead"
    );
    assert_eq!(
        web.probe(Kind::Tcp, at(5432), "web;").result,
        "ok",
        "{}",
        machine.journal()
    );
    wait::wait_until("the service writes down what web said", PATIENCE, || {
        machine.file("/run/arrived").contains("web;")
    });
    assert!(!machine.file("/run/arrived").contains("rogue"));
    let explained = machine.must(&[
        "segd",
        "policy",
        "explain",
        "--from=web",
        "--to=db",
        "--port=tcp/5432",
    ]);
    assert!(explained.contains("machine/allow[0]"), "{explained}");
    let rows = machine.must(&["segd", "workloads", "-o", "json"]);
    assert!(
        rows.contains("db.socket"),
        "the unit's socket is listed as what it is:\n{rows}"
    );
}

/// Accepts, and writes down what arrives, of one connection after the other.
const BOOT_DB: Unit<'_> = Unit {
    name: "db.service",
    wanted_by: "multi-user.target",
    text: "[Service]\nType=exec\nExecStartPre=ip link set lo up\nExecStart=/usr/bin/perl -MIO::Socket::INET -e '\
           my $l = IO::Socket::INET->new(Listen => 9, LocalAddr => \"127.0.0.1:5432\", ReuseAddr => 1) or die; \
           $| = 1; while ($c = $l->accept) { print while <$c> }'\nStandardOutput=append:/run/arrived\n",
};

/// Knocks from the first moment on, as often as it can, and says when it has got through or given up.
macro_rules! knocker {
    ($name:literal) => {
        Unit {
            name: concat!($name, ".service"),
            wanted_by: "multi-user.target",
            text: concat!(
                "[Service]\nExecStartPre=ip link set lo up\nExecStart=/usr/bin/perl -MIO::Socket::INET -e '\
                 for (1..1500) { $c = IO::Socket::INET->new(PeerAddr => \"127.0.0.1:5432\", Timeout => 1); \
                 if ($c) { print $c \"",
                $name,
                ";\\n\"; last } select(undef, undef, undef, 0.002) } print \"done\\n\"'\n\
                 StandardOutput=append:/run/",
                $name,
                "\n"
            ),
        }
    };
}

#[test]
fn at_a_boot_the_first_packet_of_a_unit_is_judged_unless_the_kernels_command_line_says_off() {
    let Some(lab) = Lab::open() else { return };
    let units = [BOOT_DB, knocker!("web"), knocker!("rogue")];
    for (words, enforces) in [(&[][..], true), (&["segd=off"][..], false)] {
        let machine = Machine::boot_enabled(&lab, POLICY, &units, words);
        for name in ["web", "rogue"] {
            wait::wait_until(name, PATIENCE, || {
                machine.file(&format!("/run/{name}")).contains("done")
            });
        }
        wait::wait_until("what web says arrives", PATIENCE, || {
            machine.file("/run/arrived").contains("web;")
        });
        let arrived = machine.file("/run/arrived");
        assert_eq!(
            arrived.contains("rogue;"),
            !enforces,
            "{words:?}\n{}",
            machine.journal()
        );
        let state = machine.segd("ActiveState");
        assert_eq!(
            state,
            if enforces { "active" } else { "inactive" },
            "{}",
            machine.journal()
        );
    }
}
