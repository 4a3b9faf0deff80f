//! Clients that mean harm: silent, slow, endless, ten thousand. They cost nobody else anything.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, TcpStream},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::PathBuf,
    time::{Duration, Instant},
};

use segd_tests::{
    Kind, Lab, Segd, Worker, sys,
    wait::{self, PATIENCE},
    worker::{Handle, probe},
};

const NOBODY: u32 = 65534;
const GROUP: u32 = 4711;
const CROWD: usize = 10_000;
/// How long an honest client may take meanwhile.
const PATIENT: Duration = Duration::from_secs(4);

/// segd, one who may talk to a server, and one who may not.
struct Scene {
    segd: Segd,
    web: Worker,
    rogue: Worker,
    db: Worker,
    listener: Handle,
    rounds: usize,
    _cgroups: [segd_tests::Cgroup; 3],
}

impl Scene {
    fn open(lab: &Lab) -> Scene {
        let cgroups = [lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db")];
        let [web, rogue, db] = &cgroups;
        let policy = format!(
            "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: flood}}
spec:
  segments:
    web: {{match: [{{cgroup: {}}}]}}
    rogue: {{match: [{{cgroup: {}}}]}}
    db: {{match: [{{cgroup: {}}}]}}
  allow:
    - {{from: web, to: db, ports: [any]}}
",
            web.path(),
            rogue.path(),
            db.path()
        );
        let segd = lab
            .segd(&policy)
            .args(&["--control-group", &GROUP.to_string()])
            .start();
        // The group must get as far as the socket.
        fs::set_permissions(segd.directory(), fs::Permissions::from_mode(0o755)).unwrap();
        let (web, rogue, db) = (lab.worker(web), lab.worker(rogue), lab.worker(db));
        let listener = db.listen_tcp((Ipv4Addr::LOCALHOST, 0));
        sys::raise_file_limit();
        Scene {
            segd,
            web,
            rogue,
            db,
            listener,
            rounds: 0,
            _cgroups: cgroups,
        }
    }

    /// Enforcement, status, reload and metrics, as if nothing was.
    #[track_caller]
    fn all_is_well(&mut self, meanwhile: &str) {
        self.rounds += 1;
        let token = |who: &str| format!("{who}{};", self.rounds);
        let allowed = self.web.probe(Kind::Tcp, self.listener.local, &token("web"));
        assert_eq!(allowed.result, "ok", "{meanwhile}");
        let denied = self.rogue.probe(Kind::Tcp, self.listener.local, &token("rogue"));
        assert_ne!(denied.result, "ok", "{meanwhile}");
        assert!(!self.db.inbox(self.listener).has(&token("rogue")), "{meanwhile}");
        let begun = Instant::now();
        for words in [&["status"][..], &["reload"], &["workloads"]] {
            let output = self.segd.client(words);
            assert!(output.status.success(), "{meanwhile}: {words:?}: {output:?}");
        }
        assert_eq!(self.segd.metric("segd_enforcing", &[]), Some(1.0), "{meanwhile}");
        assert!(begun.elapsed() < PATIENT, "{meanwhile}: {:?}", begun.elapsed());
        let open = fs::read_dir(format!("/proc/{}/fd", self.segd.pid()))
            .unwrap()
            .count();
        assert!(open < 500, "{meanwhile}: {open} descriptors");
    }
}

/// Connects as a member of the group: the kernel remembers who a thread is when it connects.
fn connect_as(user: u32, group: u32, path: PathBuf, count: usize) -> Vec<std::io::Result<UnixStream>> {
    let connect = move || {
        // SAFETY: no pointers. By number, so that this thread alone changes; it ends with its work.
        unsafe {
            libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>());
            libc::syscall(libc::SYS_setresgid, group, group, group);
            libc::syscall(libc::SYS_setresuid, user, user, user);
        }
        (0..count).map(|_| UnixStream::connect(&path)).collect()
    };
    std::thread::spawn(connect).join().unwrap()
}

#[test]
fn who_is_neither_root_nor_of_the_group_cannot_even_connect() {
    let Some(lab) = Lab::open() else { return };
    let scene = Scene::open(&lab);
    let control = scene.segd.control().to_owned();
    for result in connect_as(NOBODY, NOBODY, control.clone(), 3) {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::PermissionDenied);
    }
    // A member of the group may ask, and change nothing.
    for (request, wanted) in [
        ("status", "\"status\""),
        ("reload", "only root may change"),
        ("stop", "only root may change"),
    ] {
        let mut client = connect_as(NOBODY, GROUP, control.clone(), 1)
            .pop()
            .unwrap()
            .unwrap();
        writeln!(client, "{{\"version\":1,\"body\":\"{request}\"}}").unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.contains(wanted), "{request}: {answer}");
    }
}

#[test]
fn ten_thousand_clients_of_the_control_socket_keep_nobody_out() {
    let Some(lab) = Lab::open() else { return };
    let mut scene = Scene::open(&lab);
    let control = scene.segd.control().to_owned();
    let before = scene.segd.resident_kib();
    for (user, group) in [(NOBODY, GROUP), (0, 0)] {
        let crowd = connect_as(user, group, control.clone(), CROWD);
        assert!(crowd.iter().all(Result::is_ok), "they all get in");
        scene.all_is_well(&format!("{CROWD} silent clients of user {user}"));
        // Half a request each, as far as they are still heard.
        for mut client in crowd.iter().filter_map(|client| client.as_ref().ok()) {
            let _ = client.write_all(b"{\"version\":1,");
        }
        scene.all_is_well("half a request each");
        drop(crowd);
        scene.all_is_well("they all left");
    }
    // One that never ends, and one that asks and does not listen.
    let mut endless = UnixStream::connect(&control).unwrap();
    let part = vec![b'x'; 1 << 20];
    let mut sent = 0;
    while sent < 4096 && endless.write_all(&part).is_ok() {
        sent += 1;
    }
    assert!(sent < 64, "{sent} MiB of one request were taken");
    for _ in 0..200 {
        let mut deaf = UnixStream::connect(&control).unwrap();
        writeln!(deaf, "{{\"version\":1,\"body\":\"workloads\"}}").unwrap();
    }
    scene.all_is_well("who asks and leaves before the answer (SIGPIPE)");
    let grown = scene.segd.resident_kib().saturating_sub(before);
    assert!(grown < 16 << 10, "segd grew by {grown} KiB");
}

#[test]
fn ten_thousand_connections_to_the_metrics_keep_nobody_out() {
    let Some(lab) = Lab::open() else { return };
    let mut scene = Scene::open(&lab);
    let address = scene.segd.metrics_address().to_owned();
    let before = scene.segd.resident_kib();
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        let mut client = TcpStream::connect(&address).expect("they all get in");
        let _ = client.write_all(b"GET /metrics HTTP/1.1\r\nX-Slow: ");
        crowd.push(client);
    }
    scene.all_is_well("a crowd of slow readers");
    for client in &mut crowd {
        let _ = client.write_all(b"x");
    }
    scene.all_is_well("another byte of each");
    drop(crowd);
    // A head that never ends.
    let mut endless = TcpStream::connect(&address).unwrap();
    let line = format!("X-Filler: {}\r\n", "x".repeat(1000));
    let mut sent = 0;
    while sent < 10_000 && endless.write_all(line.as_bytes()).is_ok() {
        sent += 1;
    }
    assert!(sent < 10_000, "{sent} KB of one head were taken");
    scene.all_is_well("an endless head");
    let grown = scene.segd.resident_kib().saturating_sub(before);
    assert!(grown < 16 << 10, "segd grew by {grown} KiB");
}

#[test]
fn a_flood_of_denied_syns_is_counted_to_the_packet_and_disturbs_no_allowed_flow() {
    const FLOOD: u64 = 100_000;
    const LABELS: [(&str, &str); 4] = [
        ("from", "rogue"),
        ("to", "db"),
        ("verdict", "denied"),
        ("reason", "no-rule"),
    ];
    let Some(lab) = Lab::open() else { return };
    let scene = Scene::open(&lab);
    let (segd, web, rogue) = (&scene.segd, &scene.web, &scene.rogue);
    let echo = scene.db.listen_tcp_echo((Ipv4Addr::LOCALHOST, 0));
    let flows: Vec<Handle> = (0..4).map(|_| web.open_tcp(echo.local).unwrap()).collect();
    let denied = || segd.metric("segd_packets_total", &LABELS).unwrap_or(0.0) as u64;
    let said = || segd.log().matches("WARN denied").count() as u64;
    let (denied_before, said_before) = (denied(), said());

    let traffic = web.traffic(&flows);
    let begun = Instant::now();
    let flood = rogue.hammer(vec![probe(Kind::RawSyn, scene.listener.local, "")], 1);
    wait::wait_until("the flood", Duration::from_secs(60), || {
        rogue.task(flood).attempts >= FLOOD
    });
    let tally = rogue.stop(flood);
    let seconds = begun.elapsed().as_secs() + 1;
    let allowed = web.stop(traffic);
    println!("{seconds} s: flood {tally:?}, meanwhile {allowed:?}");

    assert_eq!(tally.successes, 0, "{tally:?}");
    wait::wait_until("each is counted, once", PATIENCE, || {
        denied() == denied_before + tally.attempts
    });
    // Five lines of one pair at once, then one in ten seconds, and sums.
    let lines = said() - said_before;
    assert!(lines <= 5 + 2 * seconds, "{lines} lines in {seconds} s");
    assert!(allowed.failures.is_empty(), "{allowed:?}");
    assert!(allowed.least >= 10 * seconds, "{allowed:?} in {seconds} s");
    assert_eq!(scene.db.inbox(scene.listener).accepts, 0);
}
