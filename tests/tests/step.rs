//! A reload that is killed, or refused a system call, at any step leaves exactly the old policy or exactly the new one.
//!
//! strace kills the daemon at its n-th system call after the policy was changed, or makes that call fail. A few n by
//! chance, with the seed printed; `SEGD_EVERY_STEP=1` takes every n until the reload is complete.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    io::{BufRead, BufReader},
    net::Ipv4Addr,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use segd_tests::{
    Cgroup, Kind, Lab, Segd, Worker,
    chance::Chance,
    segd::write_atomically,
    sys,
    wait::{self, PATIENCE},
    worker::Handle,
};

/// `web` and `rogue` and the member that changes sides; every rule and the member's segment differ between the two policies.
struct Scene {
    clients: [Worker; 3],
    _server: Worker,
    ports: [Handle; 2],
    // Dropped last: when nobody is in them.
    cgroups: [Cgroup; 4],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Old,
    New,
}

impl Side {
    fn other(self) -> Side {
        if self == Side::Old { Side::New } else { Side::Old }
    }
}

impl Scene {
    fn new(lab: &Lab) -> Scene {
        let cgroups = ["web", "rogue", "mover", "db"].map(|name| lab.cgroup(name));
        let [web, rogue, mover, db] = &cgroups;
        let clients = [web, rogue, mover].map(|cgroup| lab.worker(cgroup));
        let server = lab.worker(db);
        let ports = [(); 2].map(|()| server.listen_tcp((Ipv4Addr::LOCALHOST, 0)));
        Scene {
            cgroups,
            clients,
            _server: server,
            ports,
        }
    }

    /// Under `Old`, `web` reaches the first port and `rogue` the second, and the mover is of `web`; under `New` it
    /// is the other way round in every respect.
    fn policy(&self, side: Side) -> String {
        let [web, rogue, mover, db] = self.cgroups.each_ref().map(Cgroup::path);
        let [mut first, mut second] = self.ports.map(|port| port.local.port());
        let (mut of_web, mut of_rogue) = (format!(", {{cgroup: {mover}}}"), String::new());
        if side == Side::New {
            (first, second) = (second, first);
            (of_web, of_rogue) = (of_rogue, of_web);
        }
        format!(
            "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: step}}
spec:
  segments:
    web: {{match: [{{cgroup: {web}}}{of_web}]}}
    rogue: {{match: [{{cgroup: {rogue}}}{of_rogue}]}}
    db: {{match: [{{cgroup: {db}}}]}}
  allow:
    - {{from: web, to: db, ports: [tcp/{first}]}}
    - {{from: rogue, to: db, ports: [tcp/{second}]}}
"
        )
    }

    fn write(&self, segd: &Segd, side: Side) {
        write_atomically(&segd.policy_path().join("policy.yaml"), &self.policy(side));
    }

    /// Which policy real traffic meets; a panic if it is neither.
    #[track_caller]
    fn side(&self, story: &str) -> Side {
        let mut seen = Vec::new();
        for client in &self.clients {
            for port in self.ports {
                seen.push(client.probe(Kind::Tcp, port.local, "step;").result == "ok");
            }
        }
        // web, rogue, mover; the first port and the second of each. The mover is with web under the old policy and with
        // rogue under the new one, whose port is the same then.
        match seen[..] {
            [true, false, false, true, true, false] => Side::Old,
            [false, true, true, false, true, false] => Side::New,
            _ => panic!("{story}: neither the old policy nor the new one: {seen:?}"),
        }
    }
}

/// strace on a process, injecting.
struct Tracer(Child);

impl Tracer {
    /// Attaches and waits until it has.
    #[track_caller]
    fn attach(pid: u32, inject: &str) -> Tracer {
        let set = inject.split(':').next().unwrap();
        let mut child = Command::new("strace")
            .args([
                "-f",
                "-qq",
                "-e",
                &format!("trace={set}"),
                "-e",
                &format!("inject={inject}"),
            ])
            .args(["-o", "/dev/null", "-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace is installed");
        let stderr = child.stderr.take().unwrap();
        // -qq keeps it from telling that it attached; the kernel tells who traces. A daemon that made the call in question as
        // soon as it was traced is dead already.
        wait::wait_until(format!("strace is attached to {pid}"), PATIENCE, || {
            std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| {
                let traced = format!("TracerPid:\t{}", child.id());
                status
                    .lines()
                    .any(|line| line == traced || line.starts_with("State:\tZ"))
            })
        });
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                eprintln!("strace: {line}");
            }
        });
        Tracer(child)
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // It lets go of the daemon when asked; of one that was killed it sometimes waits to hear for ever.
        sys::kill(self.0.id(), libc::SIGTERM);
        if !wait::within(Duration::from_secs(1), || {
            self.0.try_wait().is_ok_and(|end| end.is_some())
        }) {
            self.0.kill().ok();
        }
        self.0.wait().ok();
    }
}

fn every_step() -> bool {
    std::env::var("SEGD_EVERY_STEP").is_ok_and(|value| value == "1")
}

/// What became of a reload.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Killed,
    Complete,
}

/// Changes the policy under a tracer: whether the daemon died before the reload was complete.
#[track_caller]
fn reload_under(scene: &Scene, segd: &Segd, to: Side, inject: &str) -> End {
    let before = segd.revision();
    let pid = segd.pid();
    let _tracer = Tracer::attach(pid, inject);
    scene.write(segd, to);
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if !alive(pid) {
            return End::Killed;
        }
        if segd.logged_revision().is_some_and(|revision| revision > before) {
            return if alive(pid) { End::Complete } else { End::Killed };
        }
        wait::quiet(Duration::from_millis(2));
    }
    panic!(
        "{inject}: the reload neither ended nor was killed; segd said:\n{}",
        segd.log()
    );
}

fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    !state.is_empty() && !state.starts_with(['Z', 'X'])
}

/// Kills at one step, looks, restarts, looks; the policy in force afterwards.
#[track_caller]
fn killed_at(scene: &Scene, segd: &mut Segd, now: Side, set: &str, step: u64) -> End {
    let story = format!("killed at call {step} of {set}");
    let end = reload_under(
        scene,
        segd,
        now.other(),
        &format!("{set}:signal=KILL:when={step}"),
    );
    let met = scene.side(&story);
    if end == End::Killed {
        segd.kill();
        println!("{story}: {met:?} while going from {now:?}");
        segd.restart();
    }
    assert_eq!(scene.side(&format!("{story}, after a restart")), now.other());
    end
}

#[test]
fn a_reload_killed_at_any_bpf_call_leaves_the_old_policy_or_the_new_and_a_restart_comes_to_the_new() {
    killed_at_steps("bpf");
}

#[test]
fn a_reload_killed_at_any_other_system_call_leaves_the_old_policy_or_the_new_and_a_restart_comes_to_the_new()
{
    killed_at_steps("!bpf");
}

#[track_caller]
fn killed_at_steps(set: &str) {
    let Some(lab) = Lab::open() else { return };
    let scene = Scene::new(&lab);
    let mut now = Side::Old;
    let mut segd = lab.segd(&scene.policy(now)).limit(3600).start();
    let mut chance = Chance::new("steps");
    let (mut step, mut tried) = (1, 0);
    loop {
        let end = killed_at(&scene, &mut segd, now, set, step);
        now = now.other();
        tried += 1;
        if end == End::Complete || (tried == 4 && !every_step()) {
            break;
        }
        // Four by chance: a reload of the test's policy makes some hundred of either kind.
        step += if every_step() { 1 } else { 1 + chance.below(50) };
    }
    println!("{set}: {tried} reloads, the last at call {step}");
    assert!(tried > 1, "no reload was ever killed");
}

#[test]
fn a_reload_that_is_refused_a_bpf_call_leaves_the_old_policy_or_the_new_and_comes_to_the_new() {
    let Some(lab) = Lab::open() else { return };
    let scene = Scene::new(&lab);
    let mut now = Side::Old;
    let segd = lab.segd(&scene.policy(now)).limit(3600).start();
    let mut chance = Chance::new("refusals");
    for error in ["ENOSPC", "EPERM", "ENOMEM"] {
        let mut step = 1;
        let mut tried = 0;
        loop {
            let story = format!("call {step} of bpf refused with {error}");
            let before = segd.revision();
            {
                let _tracer = Tracer::attach(segd.pid(), &format!("bpf:error={error}:when={step}"));
                scene.write(&segd, now.other());
                wait::wait_until(
                    format!("{story}: the reload ends; segd said:\n{}", segd.log()),
                    PATIENCE,
                    || {
                        segd.revision() > before
                            || segd
                                .client(&["status", "-o", "json"])
                                .stdout
                                .windows(9)
                                .any(|at| at == b"\"failure\"")
                    },
                );
            }
            let met = scene.side(&story);
            println!("{story}: {met:?} while going from {now:?}");
            // Asked again, it comes to the new one.
            sys::kill(segd.pid(), libc::SIGHUP);
            wait::wait_until(format!("{story}: the new policy is in force"), PATIENCE, || {
                segd.revision() > before
            });
            now = now.other();
            assert_eq!(scene.side(&format!("{story}, asked again")), now);
            tried += 1;
            // Past the last call of a reload, and of the looks at the health around it.
            if step > 300 || (tried == 3 && !every_step()) {
                break;
            }
            step += if every_step() { 1 } else { 1 + chance.below(60) };
        }
    }
    wait::wait_until("it enforces, and says so", PATIENCE, || {
        segd.metric("segd_enforcing", &[]) == Some(1.0)
    });
}

#[test]
fn a_daemon_killed_at_any_moment_of_a_reload_leaves_the_old_policy_or_the_new() {
    let Some(lab) = Lab::open() else { return };
    let scene = Scene::new(&lab);
    let mut now = Side::Old;
    let mut segd = lab.segd(&scene.policy(now)).limit(3600).start();
    // The tables are written through a mapping of theirs, which no system call shows.
    let mut chance = Chance::new("moments");
    for round in 0..if every_step() { 200 } else { 6 } {
        scene.write(&segd, now.other());
        let micros = chance.below(30_000);
        wait::quiet(Duration::from_micros(micros));
        segd.kill();
        let story = format!("round {round}, killed after {micros} µs");
        scene.side(&story);
        segd.restart();
        now = now.other();
        assert_eq!(scene.side(&format!("{story}, after a restart")), now);
    }
}
