//! The policy in force follows its files, keeps its ground when they are wrong, and takes back what it gave.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    fs,
    io::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::{fd::AsRawFd as _, unix::fs::symlink},
    path::Path,
    time::{Duration, Instant},
};

use segd_tests::{
    Cgroup, Kind, Lab, Segd, Worker,
    netns::{v4, v6},
    segd::write_atomically,
    wait::{self, PATIENCE},
    worker::Handle,
};

/// `web` and `db` are cgroups, the rules are the test's.
fn policy(web: &Cgroup, db: &Cgroup, rules: &str) -> String {
    format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: reload}}
spec:
  segments:
    web: {{match: [{{cgroup: {}}}]}}
    db: {{match: [{{cgroup: {}}}]}}
{rules}",
        web.path(),
        db.path()
    )
}

const ALLOW: &str = "  allow:\n    - {from: web, to: db, ports: [any]}\n";
const NOTHING: &str = "  allow: []\n";

fn rules_only(rules: &str) -> String {
    format!("apiVersion: segd.dev/v1\nkind: SegmentPolicy\nmetadata: {{name: more}}\nspec:\n{rules}")
}

/// Two workers over loopback, a listener of each kind.
struct Pair {
    client: Worker,
    server: Worker,
    tcp: Handle,
    udp: Handle,
}

impl Pair {
    fn new(lab: &Lab, web: &Cgroup, db: &Cgroup) -> Pair {
        let (client, server) = (lab.worker(web), lab.worker(db));
        let tcp = server.listen_tcp_echo((Ipv4Addr::LOCALHOST, 0));
        let udp = server.listen_udp_echo((Ipv4Addr::LOCALHOST, 0));
        Pair {
            client,
            server,
            tcp,
            udp,
        }
    }

    /// New connections pass, or do not: as the receiver sees it.
    #[track_caller]
    fn expect(&self, allowed: bool, token: &str) {
        let before = (
            self.server.inbox(self.tcp).accepts,
            self.server.inbox(self.udp).messages.len(),
        );
        let tcp = self.client.probe(Kind::Tcp, self.tcp.local, token);
        let udp = self.client.probe(Kind::Udp, self.udp.local, token);
        if allowed {
            assert_eq!(
                (tcp.result.as_str(), udp.result.as_str()),
                ("ok", "ok"),
                "{token}"
            );
            self.server.wait_for_message(self.tcp, token);
            self.server.wait_for_message(self.udp, token);
        } else {
            wait::quiet(wait::SILENCE);
            let after = (
                self.server.inbox(self.tcp).accepts,
                self.server.inbox(self.udp).messages.len(),
            );
            assert_eq!(
                before, after,
                "{token}: it arrived; the client saw {tcp:?}, {udp:?}"
            );
        }
    }
}

#[test]
fn editing_adding_renaming_and_removing_a_file_reloads() {
    let Some(lab) = Lab::open() else { return };
    let (web, db) = (lab.cgroup("web"), lab.cgroup("db"));
    let pair = Pair::new(&lab, &web, &db);
    let segd = lab.enforce(&policy(&web, &db, NOTHING));
    pair.expect(false, "start;");
    segd.set_policy(&policy(&web, &db, ALLOW));
    pair.expect(true, "edited;");
    segd.set_policy(&policy(&web, &db, NOTHING));
    pair.expect(false, "edited-back;");

    segd.reload(|directory| write_atomically(&directory.join("more.yml"), &rules_only(ALLOW)));
    pair.expect(true, "added;");
    segd.reload(|directory| fs::rename(directory.join("more.yml"), directory.join("more.txt")).unwrap());
    pair.expect(false, "renamed-away;");
    segd.reload(|directory| fs::rename(directory.join("more.txt"), directory.join("again.yaml")).unwrap());
    pair.expect(true, "renamed-back;");
    segd.reload(|directory| fs::remove_file(directory.join("again.yaml")).unwrap());
    pair.expect(false, "removed;");

    // In place, as `echo >>` and some editors write; and in a directory made just now.
    segd.reload(|directory| fs::write(directory.join("policy.yaml"), policy(&web, &db, ALLOW)).unwrap());
    pair.expect(true, "in-place;");
    segd.set_policy(&policy(&web, &db, NOTHING));
    segd.reload(|directory| {
        fs::create_dir(directory.join("team")).unwrap();
        write_atomically(&directory.join("team/rules.yaml"), &rules_only(ALLOW));
    });
    pair.expect(true, "sub-directory;");
    segd.reload(|directory| fs::remove_dir_all(directory.join("team")).unwrap());
    pair.expect(false, "sub-directory-gone;");
    assert_eq!(
        segd.metric("segd_policy_reload_total", &[("result", "failure")])
            .unwrap_or(0.0),
        0.0
    );
}

/// A file that is emptied, cut or being written makes a policy that is right, and lacks what stood there.
#[test]
fn a_guardrail_that_is_written_in_place_holds_all_the_time() {
    const EVERYTHING: Duration = Duration::from_secs(5);
    let Some(lab) = Lab::open() else { return };
    let (web, db) = (lab.cgroup("web"), lab.cgroup("db"));
    let pair = Pair::new(&lab, &web, &db);
    let segd = lab
        .segd(&policy(&web, &db, ALLOW))
        .file("guardrails.yaml", &guardrail())
        .start();
    let guardrails = segd.policy_path().join("guardrails.yaml");
    let revision = segd.revision();
    pair.expect(false, "start;");

    // Written in place by somebody who takes longer than all looks, and whose half is a policy of its own.
    let text = guardrail();
    let (half, rest) = text.split_at(text.find("  deny:").unwrap());
    let mut file = fs::File::create(&guardrails).unwrap();
    file.write_all(half.as_bytes()).unwrap();
    let began = Instant::now();
    while began.elapsed() < EVERYTHING + Duration::from_secs(1) {
        pair.expect(false, &format!("half, after {:?};", began.elapsed()));
        file.write_all(b"# more\n").unwrap();
    }
    assert_eq!(segd.revision(), revision, "nobody took half of it");
    file.write_all(rest.as_bytes()).unwrap();
    drop(file);
    wait::wait_until("what was written is in force", PATIENCE, || {
        segd.revision() > revision
    });
    pair.expect(false, "whole;");

    // Emptied and closed: by a disk that was full, a transfer that broke.
    let revision = segd.revision();
    fs::write(&guardrails, "").unwrap();
    wait::wait_until("it is refused", PATIENCE, || failures(&segd) == 1.0);
    assert!(
        segd.log().contains("guardrails.yaml:1:1: the file is empty"),
        "{}",
        segd.log()
    );
    pair.expect(false, "empty;");
    assert_eq!(segd.revision(), revision);
    segd.reload(|_| fs::remove_file(&guardrails).unwrap());
    pair.expect(true, "given up by name;");
}

fn guardrail() -> String {
    let document =
        "apiVersion: segd.dev/v1\nkind: SegmentPolicy\nmetadata: {name: guardrails}\nspec:\n  allow: []\n";
    format!("{document}  deny:\n    - {{from: web, to: db}}\n")
}

#[test]
fn a_single_file_that_is_replaced_reloads() {
    let Some(lab) = Lab::open() else { return };
    let (web, db) = (lab.cgroup("web"), lab.cgroup("db"));
    let pair = Pair::new(&lab, &web, &db);
    let directory = tempfile::Builder::new().prefix("segd-t-").tempdir().unwrap();
    let file = directory.path().join("one.yaml");
    write_atomically(&file, &policy(&web, &db, NOTHING));
    let segd = lab.segd("").policy_path(&file).start();
    pair.expect(false, "start;");
    for round in 0..3 {
        segd.reload(|file| write_atomically(file, &policy(&web, &db, ALLOW)));
        pair.expect(true, &format!("replaced-{round};"));
        segd.reload(|file| write_atomically(file, &policy(&web, &db, NOTHING)));
        pair.expect(false, &format!("taken-back-{round};"));
    }
}

/// Nothing dates it and no event tells of it: the look at everything finds it, though the file was read before, and is taken for what
/// it was by a look at what changed.
#[test]
fn what_is_written_through_a_mapping_comes_into_force() {
    const EVERYTHING: Duration = Duration::from_secs(5);
    let Some(lab) = Lab::open() else { return };
    let (web, db) = (lab.cgroup("web"), lab.cgroup("db"));
    let pair = Pair::new(&lab, &web, &db);
    // In memory a file's times say nothing of what is written through a mapping. A kernel under test has all its files there.
    let memory = Path::new("/dev/shm");
    let place = match memory.is_dir() {
        true => memory.to_owned(),
        false => std::env::temp_dir(),
    };
    let directory = tempfile::Builder::new()
        .prefix("segd-t-")
        .tempdir_in(place)
        .unwrap();
    let file = directory.path().join("one.yaml");
    let text = policy(&web, &db, ALLOW);
    write_atomically(&file, &text);
    let segd = lab.segd("").policy_path(&file).start();
    pair.expect(true, "start;");
    // So long that the file is read when its times are sure to say whether it changed.
    let began = Instant::now();
    wait::wait_until("two looks at everything".to_owned(), PATIENCE, || {
        began.elapsed() > 2 * EVERYTHING
    });
    segd.reload(|file| {
        let at = text.find("from: web").unwrap();
        let held = fs::File::options().read(true).write(true).open(file).unwrap();
        // SAFETY: a mapping of its own, of a file that has so many bytes.
        unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let page = libc::mmap(
                std::ptr::null_mut(),
                text.len(),
                access,
                libc::MAP_SHARED,
                held.as_raw_fd(),
                0,
            );
            assert_ne!(page, libc::MAP_FAILED);
            page.cast::<u8>()
                .add(at)
                .cast::<[u8; 9]>()
                .write_unaligned(*b"from: db ");
            libc::munmap(page, text.len());
        }
        // What closes the file tells of it: it must not be taken for what it was for good.
        drop(held);
    });
    pair.expect(false, "mapped;");
}

fn swap_link(link: &Path, target: &str) {
    let beside = link.with_file_name("..tmp");
    fs::remove_file(&beside).ok();
    symlink(target, &beside).unwrap();
    fs::rename(&beside, link).unwrap();
}

#[test]
fn a_configmap_mount_reloads_when_its_data_link_is_swapped() {
    let Some(lab) = Lab::open() else { return };
    let (web, db) = (lab.cgroup("web"), lab.cgroup("db"));
    let pair = Pair::new(&lab, &web, &db);
    let mount = tempfile::Builder::new().prefix("segd-t-").tempdir().unwrap();
    let version = |name: &str, rules: &str| {
        fs::create_dir(mount.path().join(name)).unwrap();
        fs::write(
            mount.path().join(name).join("policy.yaml"),
            policy(&web, &db, rules),
        )
        .unwrap();
    };
    version("..2026_11_22_09_00", NOTHING);
    swap_link(&mount.path().join("..data"), "..2026_11_22_09_00");
    symlink("..data/policy.yaml", mount.path().join("policy.yaml")).unwrap();

    let segd = lab.segd("").policy_path(mount.path()).start();
    pair.expect(false, "start;");
    segd.reload(|mount| {
        version("..2026_11_22_09_05", ALLOW);
        swap_link(&mount.join("..data"), "..2026_11_22_09_05");
        fs::remove_dir_all(mount.join("..2026_11_22_09_00")).unwrap();
    });
    pair.expect(true, "swapped;");
    segd.reload(|mount| {
        version("..2026_11_22_09_10", NOTHING);
        swap_link(&mount.join("..data"), "..2026_11_22_09_10");
        fs::remove_dir_all(mount.join("..2026_11_22_09_05")).unwrap();
    });
    pair.expect(false, "swapped-again;");
}

#[test]
fn what_a_policy_probably_does_not_mean_is_told_once_it_is_in_force() {
    let Some(lab) = Lab::open() else { return };
    let (web, db) = (lab.cgroup("web"), lab.cgroup("db"));
    let rules = "  allow:\n    - {from: web, to: db, ports: [tcp/1]}\n    - {from: {l: nobody}, to: db, ports: [tcp/1]}\n";
    let mut segd = lab.segd(&policy(&web, &db, rules)).start();
    for turn in ["start", "restart"] {
        let told = wait::wait_for(format!("a warning ({turn})"), PATIENCE, || {
            segd.log().find("warning[matches-nothing]")
        });
        let enforced = segd.log().find("enforcing revision").expect("it enforces");
        assert!(enforced < told, "{turn}:\n{}", segd.log());
        segd.kill();
        segd.restart();
    }
}

#[test]
fn a_git_sync_checkout_reloads_when_its_link_is_swapped() {
    let Some(lab) = Lab::open() else { return };
    let (web, db) = (lab.cgroup("web"), lab.cgroup("db"));
    let pair = Pair::new(&lab, &web, &db);
    let root = tempfile::Builder::new().prefix("segd-t-").tempdir().unwrap();
    let checkout = |hash: &str, rules: &str| {
        let tree = root.path().join(".worktrees").join(hash).join("policy");
        fs::create_dir_all(&tree).unwrap();
        fs::write(tree.join("policy.yaml"), policy(&web, &db, rules)).unwrap();
        swap_link(&root.path().join("current"), &format!(".worktrees/{hash}"));
    };
    checkout("aaaa", NOTHING);
    // The path given to segd runs through the link.
    let segd = lab
        .segd("")
        .policy_path(root.path().join("current/policy"))
        .start();
    pair.expect(false, "start;");
    segd.reload(|_| {
        checkout("bbbb", ALLOW);
        fs::remove_dir_all(root.path().join(".worktrees/aaaa")).unwrap();
    });
    pair.expect(true, "swapped;");
    segd.reload(|_| checkout("cccc", NOTHING));
    pair.expect(false, "swapped-again;");
}

#[track_caller]
fn failures(segd: &Segd) -> f64 {
    segd.metric("segd_policy_reload_total", &[("result", "failure")])
        .unwrap_or(0.0)
}

#[test]
fn an_invalid_edit_keeps_the_policy_in_force_is_logged_and_counted() {
    let Some(lab) = Lab::open() else { return };
    let (web, db) = (lab.cgroup("web"), lab.cgroup("db"));
    let pair = Pair::new(&lab, &web, &db);
    let segd = lab.enforce(&policy(&web, &db, ALLOW));
    let revision = segd.revision();
    pair.expect(true, "start;");
    let bad = [
        policy(&web, &db, "  allow:\n    - {from: wbe, to: db, ports: [any]}\n"),
        "apiVersion: segd.dev/v1\nkind: [".to_owned(),
        policy(
            &web,
            &db,
            &format!("{NOTHING}  tests:\n    - {{from: web, to: db, port: tcp/80, expect: allow}}\n"),
        ),
        String::new(),
    ];
    for (number, text) in bad.iter().enumerate() {
        let before = failures(&segd);
        write_atomically(&segd.policy_path().join("policy.yaml"), text);
        wait::wait_until(
            format!("failure of bad text {number} is counted"),
            PATIENCE,
            || failures(&segd) > before,
        );
        assert!(
            segd.log().contains("policy.yaml") || text.is_empty(),
            "it is logged:\n{}",
            segd.log()
        );
        assert_eq!(segd.revision(), revision, "the revision stays");
        assert_eq!(segd.metric("segd_policy_files_refused", &[]), Some(1.0));
        pair.expect(true, &format!("bad-{number};"));
    }
    assert!(
        segd.log().contains("wbe"),
        "the log names the mistake:\n{}",
        segd.log()
    );
    assert!(
        segd.log().contains("the policy fails its own test"),
        "the log names the test:\n{}",
        segd.log()
    );
    segd.set_policy(&policy(&web, &db, NOTHING));
    pair.expect(false, "repaired;");
    assert_eq!(segd.metric("segd_policy_files_refused", &[]), Some(0.0));
}

#[test]
fn a_policy_path_that_vanishes_keeps_the_policy_in_force() {
    let Some(lab) = Lab::open() else { return };
    let (web, db) = (lab.cgroup("web"), lab.cgroup("db"));
    let pair = Pair::new(&lab, &web, &db);
    let mut segd = lab.enforce(&policy(&web, &db, ALLOW));
    let revision = segd.revision();
    let away = segd.directory().join("away");
    fs::rename(segd.policy_path(), &away).unwrap();
    wait::stays("the old policy holds", Duration::from_millis(700), || {
        segd.revision() == revision
    });
    pair.expect(true, "vanished;");
    // It comes back, changed.
    write_atomically(&away.join("policy.yaml"), &policy(&web, &db, NOTHING));
    segd.reload(|path| fs::rename(&away, path).unwrap());
    pair.expect(false, "back;");
    assert!(segd.terminate().success());
}

/// A flow that was allowed is cut at its next packet, in both directions.
#[track_caller]
fn revoked(client: &Worker, server: &Worker, ip: IpAddr, revoke: impl FnOnce()) {
    let (tcp, udp) = (server.listen_tcp((ip, 0)), server.listen_udp((ip, 0)));
    let any: SocketAddr = if ip.is_ipv4() {
        ([0; 4], 0).into()
    } else {
        ([0u16; 8], 0).into()
    };
    let flow = client.open_tcp(tcp.local).expect("it is allowed now");
    let quiet_flow = client.open_tcp(tcp.local).expect("it is allowed now");
    let connected = client.open_udp(any, Some(udp.local)).expect("it is allowed now");
    let loose = client.open_udp(any, None).expect("a socket");
    client.send(flow, "tcp-before;").unwrap();
    client.send(quiet_flow, "quiet-before;").unwrap();
    client.send(connected, "connected-before;").unwrap();
    client.send_to(loose, udp.local, "loose-before;").unwrap();
    server.wait_for_message(tcp, "tcp-before;");
    server.wait_for_message(tcp, "quiet-before;");
    server.wait_for_message(udp, "connected-before;");
    server.wait_for_message(udp, "loose-before;");
    // The answers reach the sockets that asked.
    let sources = server.inbox(udp).sources;
    for (source, socket) in sources.iter().zip([connected, loose]) {
        server
            .send_to(udp, *source, "answer-before;")
            .expect("a reply passes");
        assert_eq!(
            client.receive(socket, 2000).unwrap().as_deref(),
            Some("answer-before;"),
            "{source}"
        );
    }

    revoke();
    // From now on nothing arrives, whoever speaks first.
    server.send_accepted(tcp, "pushed-after;").ok();
    for source in &sources {
        server.send_to(udp, *source, "answer-after;").ok();
    }
    client.send(flow, "tcp-after;").ok();
    client.send(connected, "connected-after;").ok();
    client.send_to(loose, udp.local, "loose-after;").ok();
    wait::quiet(Duration::from_millis(600));
    for (what, listener) in [("tcp", tcp), ("udp", udp)] {
        let inbox = server.inbox(listener);
        assert!(
            !inbox.has("after;"),
            "{what} over {ip} after the right was revoked: {:?}",
            inbox.messages
        );
    }
    for (what, socket) in [
        ("tcp", flow),
        ("silent tcp", quiet_flow),
        ("connected udp", connected),
        ("loose udp", loose),
    ] {
        let got = client.receive(socket, 50);
        let data = got.as_ref().ok().and_then(Clone::clone).unwrap_or_default();
        assert!(
            data.is_empty(),
            "{what} over {ip}: the client got `{data}` after the right was revoked"
        );
    }
}

#[test]
fn a_revoked_right_ends_established_flows_at_their_next_packet_over_loopback() {
    let Some(lab) = Lab::open() else { return };
    let (web, db) = (lab.cgroup("web"), lab.cgroup("db"));
    let (client, server) = (lab.worker(&web), lab.worker(&db));
    for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let segd = lab.enforce(&policy(&web, &db, ALLOW));
        // On trial: else the daemon, which ends what is idle, would be faster than the packets that are looked at here.
        let tried = segd.directory().join("tried.yaml");
        write_atomically(&tried, &policy(&web, &db, NOTHING));
        revoked(&client, &server, ip, || {
            let output = segd.client(&["apply", tried.to_str().unwrap(), "--confirm", "60s"]);
            assert!(output.status.success(), "{output:?}");
        });
        let cut = segd.metric("segd_sessions_revoked_total", &[("from", "web"), ("to", "db")]);
        assert!(
            cut.unwrap_or(0.0) >= 1.0,
            "segd_sessions_revoked_total counts it: {cut:?}"
        );
    }
}

#[test]
fn a_revoked_right_ends_established_flows_at_their_next_packet_between_namespaces() {
    let Some(lab) = Lab::open() else { return };
    let bridge = lab.bridge();
    let (near, far) = (lab.netns("near"), lab.netns("far"));
    bridge.plug(&near, 10);
    bridge.plug(&far, 11);
    let (web, db) = (lab.cgroup("web"), lab.cgroup("db"));
    let (client, server) = (lab.worker_in(&web, &near), lab.worker_in(&db, &far));
    for ip in [IpAddr::from(v4(11)), v6(11).into()] {
        let segd = lab.enforce(&policy(&web, &db, ALLOW));
        // A guardrail cuts as well as a rule that is gone.
        let guardrail = format!("{ALLOW}  deny:\n    - {{from: web, to: db}}\n");
        revoked(&client, &server, ip, || {
            segd.set_policy(&policy(&web, &db, &guardrail));
        });
    }
}

#[test]
fn a_right_that_stays_keeps_its_flows_through_a_reload() {
    let Some(lab) = Lab::open() else { return };
    let (web, db) = (lab.cgroup("web"), lab.cgroup("db"));
    let (client, server) = (lab.worker(&web), lab.worker(&db));
    let listener = server.listen_tcp_echo((Ipv4Addr::LOCALHOST, 0));
    let segd = lab.enforce(&policy(&web, &db, ALLOW));
    let flows: Vec<_> = (0..20)
        .map(|_| client.open_tcp(listener.local).unwrap())
        .collect();
    let task = client.traffic(&flows);
    for round in 0..10 {
        let extra = format!(
            "{ALLOW}    - {{from: db, to: web, ports: [tcp/{}]}}\n",
            1000 + round
        );
        segd.set_policy(&policy(&web, &db, &extra));
        let goal = client.task(task).least + 3;
        wait::wait_until("every flow goes on", PATIENCE, || client.task(task).least >= goal);
    }
    let tally = client.stop(task);
    assert!(tally.failures.is_empty(), "{tally:?}");
}

#[test]
fn a_removed_segment_is_orphaned_and_denied_until_it_is_released() {
    let Some(lab) = Lab::open() else { return };
    let (web, db) = (lab.cgroup("web"), lab.cgroup("db"));
    let pair = Pair::new(&lab, &web, &db);
    let rules = "  allow:\n    - {from: [web, host], to: db, ports: [any]}\n";
    let segd = lab.enforce(&policy(&web, &db, rules));
    pair.expect(true, "member;");
    let without = |more: &str| {
        format!(
            "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: reload}}
spec:
{more}  segments:
    db: {{match: [{{cgroup: {}}}]}}
  allow:
    - {{from: host, to: db, ports: [any]}}
",
            db.path()
        )
    };
    segd.set_policy(&without(""));
    // Were it host now, the removal would have left it its right.
    pair.expect(false, "orphaned;");
    let newborn = web.child("newborn");
    let late = lab.worker(&newborn);
    assert_ne!(
        late.probe(Kind::Tcp, pair.tcp.local, "newborn;").result,
        "ok",
        "a newborn below an orphan"
    );
    let orphaned = segd.metric(
        "segd_packets_total",
        &[("reason", "orphaned"), ("verdict", "denied")],
    );
    assert!(
        orphaned.unwrap_or(0.0) >= 1.0,
        "the reason is `orphaned`: {orphaned:?}"
    );
    segd.set_policy(&without("  release: [web]\n"));
    pair.expect(true, "released;");
}

#[test]
fn an_orphan_stays_denied_across_a_restart() {
    let Some(lab) = Lab::open() else { return };
    let (web, db) = (lab.cgroup("web"), lab.cgroup("db"));
    let pair = Pair::new(&lab, &web, &db);
    let rules = "  allow:\n    - {from: [web, host], to: db, ports: [any]}\n";
    let mut segd = lab.enforce(&policy(&web, &db, rules));
    pair.expect(true, "member;");
    segd.kill();
    let without = policy(&web, &db, "  allow:\n    - {from: host, to: db, ports: [any]}\n")
        .lines()
        .filter(|line| !line.trim_start().starts_with("web:"))
        .collect::<Vec<_>>()
        .join("\n");
    write_atomically(&segd.policy_path().join("policy.yaml"), &without);
    segd.restart();
    pair.expect(false, "orphaned;");
}

#[test]
fn audit_mode_lets_pass_and_counts_what_enforce_would_have_dropped() {
    let Some(lab) = Lab::open() else { return };
    let (web, db) = (lab.cgroup("web"), lab.cgroup("db"));
    let pair = Pair::new(&lab, &web, &db);
    let segd = lab.enforce(&policy(&web, &db, "  mode: audit\n  allow: []\n"));
    pair.expect(true, "audited;");
    let labels = [
        ("from", "web"),
        ("to", "db"),
        ("verdict", "audited"),
        ("reason", "no-rule"),
    ];
    assert!(
        segd.metric("segd_packets_total", &labels).unwrap_or(0.0) >= 2.0,
        "{}",
        segd.scrape()
    );
    assert_eq!(
        segd.metric("segd_packets_total", &[("verdict", "denied"), ("from", "web")])
            .unwrap_or(0.0),
        0.0
    );
    segd.set_policy(&policy(&web, &db, NOTHING));
    pair.expect(false, "enforced;");
    // One segment's audit is enough for its pairs.
    segd.set_policy(&policy(&web, &db, NOTHING).replace("web: {", "web: {mode: audit, "));
    pair.expect(true, "one-side;");
}

#[test]
fn the_mode_flag_overrides_the_policy() {
    let Some(lab) = Lab::open() else { return };
    let (web, db) = (lab.cgroup("web"), lab.cgroup("db"));
    let pair = Pair::new(&lab, &web, &db);
    {
        let _segd = lab
            .segd(&policy(&web, &db, NOTHING))
            .args(&["--mode", "audit"])
            .start();
        pair.expect(true, "flag-audit;");
    }
    let _segd = lab
        .segd(&policy(&web, &db, "  mode: audit\n  allow: []\n"))
        .args(&["--mode", "enforce"])
        .start();
    pair.expect(false, "flag-enforce;");
}
