//! Random faults under traffic, for as long as is asked: the truth table holds after each, and nothing grows.
//!
//! `cargo xtask soak --for 30m` runs it long; CI for seconds. The seed is printed; `SEGD_SEED` repeats a run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use segd_tests::{
    Cgroup, Kind, Lab, Segd, Worker,
    bpf::Objects,
    chance::Chance,
    foreign,
    netns::v4,
    segd::write_atomically,
    wait::{self, PATIENCE},
    worker::{Handle, probe},
};

/// `SEGD_SECONDS`.
fn duration() -> Duration {
    let seconds = std::env::var("SEGD_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(15))
}

/// What must not grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Size {
    programs: usize,
    maps: usize,
    links: usize,
    descriptors: usize,
    resident_kib: u64,
    cgroups: u64,
}

struct Soak {
    segd: Segd,
    friend: Worker,
    attacker: Worker,
    server: Worker,
    remote: Worker,
    _store: Worker,
    ports: [Handle; 2],
    flapping: String,
    swapped: bool,
    /// Whether somebody took the senders' hook away for a moment: then what is denied is denied at the receiver.
    sender_unhooked: bool,
    web: Cgroup,
    rogue: Cgroup,
    db: Cgroup,
    counts: BTreeMap<&'static str, u64>,
}

fn policy(
    web: &Cgroup,
    rogue: &Cgroup,
    db: &Cgroup,
    ports: [Handle; 2],
    echo: &[u16],
    swapped: bool,
) -> String {
    let [mut first, mut second] = ports.map(|port| port.local.port());
    if swapped {
        (first, second) = (second, first);
    }
    let echo: Vec<String> = echo.iter().map(|port| format!("tcp/{port}")).collect();
    format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: soak}}
spec:
  segments:
    web: {{match: [{{cgroup: {}}}]}}
    rogue: {{match: [{{cgroup: {}}}]}}
    db: {{match: [{{cgroup: {}}}]}}
  allow:
    - {{from: web, to: db, ports: [tcp/{first}, {}]}}
    - {{from: rogue, to: db, ports: [tcp/{second}]}}
",
        web.path(),
        rogue.path(),
        db.path(),
        echo.join(", ")
    )
}

impl Soak {
    /// Each may reach the port that is its own now, and not the other's.
    #[track_caller]
    fn truth(&self, story: &str) {
        for (client, own) in [(&self.friend, self.swapped), (&self.attacker, !self.swapped)] {
            for (number, port) in self.ports.iter().enumerate() {
                let passed = client.probe(Kind::Tcp, port.local, "truth;").result == "ok";
                assert_eq!(
                    passed,
                    number == usize::from(own),
                    "{story}: port {number}, swapped: {}",
                    self.swapped
                );
            }
        }
    }

    fn pins(&self, folder: &str) -> Vec<PathBuf> {
        let sets = fs::read_dir(self.segd.pin_dir()).into_iter().flatten().flatten();
        let sets = sets.filter(|set| set.file_name().to_string_lossy().starts_with(folder));
        sets.flat_map(|set| fs::read_dir(set.path()).into_iter().flatten().flatten())
            .map(|pin| pin.path())
            .collect()
    }

    fn children(&self) -> [PathBuf; 2] {
        [&self.web, &self.rogue].map(|cgroup| cgroup.directory().to_owned())
    }

    /// One fault or change, and its name; `number` is one of `0..9`.
    fn act(&mut self, number: u64, chance: &mut Chance, echo: &[u16]) -> &'static str {
        let text = |soak: &Soak| policy(&soak.web, &soak.rogue, &soak.db, soak.ports, echo, soak.swapped);
        let file = self.segd.policy_path().join("policy.yaml");
        match number {
            0 | 1 => {
                self.swapped = !self.swapped;
                let before = self.segd.revision();
                write_atomically(&file, &text(self));
                wait::wait_until("the flip", PATIENCE, || self.segd.revision() > before);
                "flip"
            }
            2 => {
                self.segd.kill();
                self.truth("while the daemon is dead");
                self.segd.restart();
                "kill -9"
            }
            3 => {
                self.swapped = !self.swapped;
                write_atomically(&file, &text(self));
                wait::quiet(Duration::from_micros(chance.below(20_000)));
                self.segd.kill();
                self.segd.restart();
                "kill -9 in a flip"
            }
            4 => {
                for parent in self.children() {
                    let born: Vec<PathBuf> = (0..100)
                        .map(|number| parent.join(format!("born-{number}")))
                        .collect();
                    born.iter().for_each(|cgroup| fs::create_dir(cgroup).unwrap());
                    born.iter().for_each(|cgroup| fs::remove_dir(cgroup).unwrap());
                }
                "200 cgroups"
            }
            5 => {
                let links = self.pins("links_");
                let link = &links[chance.below(links.len() as u64) as usize];
                let before = self.segd.metric("segd_repairs_total", &[]).unwrap_or(0.0);
                if chance.below(2) == 0 || foreign::detach(link).is_err() {
                    fs::remove_file(link).unwrap();
                } else if link.ends_with("egress") {
                    self.sender_unhooked = true;
                }
                wait::wait_until(format!("{} is put back", link.display()), PATIENCE, || {
                    self.segd.metric("segd_repairs_total", &[]).unwrap_or(0.0) > before
                });
                "link taken"
            }
            6 => {
                let maps = self.pins("maps_");
                fs::remove_file(&maps[chance.below(maps.len() as u64) as usize]).unwrap();
                wait::wait_until("it is put back", PATIENCE, || {
                    self.pins("maps_").len() == maps.len()
                });
                "map pin taken"
            }
            7 => {
                for state in ["down", "up"] {
                    Command::new("ip")
                        .args(["link", "set", &self.flapping, state])
                        .status()
                        .unwrap();
                }
                "NIC flap"
            }
            _ => {
                let before = self
                    .segd
                    .metric("segd_policy_reload_total", &[("result", "failure")]);
                write_atomically(&file, "apiVersion: [");
                wait::wait_until("it is refused", PATIENCE, || {
                    self.segd
                        .metric("segd_policy_reload_total", &[("result", "failure")])
                        > before
                });
                self.truth("a corrupt policy on disk");
                write_atomically(&file, &text(self));
                // One mistake is counted once, until the daemon has seen it taken back.
                wait::wait_until("it is taken back", PATIENCE, || {
                    self.segd.json(&["status"])["last_reload"]["error"].is_null()
                });
                "corrupt policy"
            }
        }
    }

    fn size(&self) -> Size {
        let objects = Objects::now();
        Size {
            programs: objects.count("prog"),
            maps: objects.count("map"),
            links: objects.count("link"),
            descriptors: fs::read_dir(format!("/proc/{}/fd", self.segd.pid()))
                .unwrap()
                .count(),
            resident_kib: self.segd.resident_kib(),
            cgroups: self
                .segd
                .metric("segd_map_entries", &[("map", "cgroups")])
                .unwrap_or(0.0) as u64,
        }
    }

    /// Nothing is more than it was, as soon as the kernel has freed what is no longer used.
    #[track_caller]
    fn has_not_grown(&self, first: Size) -> Size {
        let grown = |now: Size| {
            now.programs > first.programs
                || now.maps > first.maps
                || now.links > first.links
                || now.descriptors > first.descriptors + 4
                || now.resident_kib > first.resident_kib + 12 * 1024
                || now.cgroups > first.cgroups + 20
        };
        let mut now = self.size();
        let settled = wait::within(Duration::from_secs(20), || {
            now = self.size();
            !grown(now)
        });
        assert!(
            settled,
            "it grew: {first:?}, now {now:?}, after {:?}",
            self.counts
        );
        now
    }
}

#[test]
fn random_faults_under_traffic_break_nothing_and_nothing_grows() {
    let Some(lab) = Lab::open() else { return };
    let mut chance = Chance::new("soak");
    let bridge = lab.bridge();
    let (near, far) = (lab.netns("near"), lab.netns("far"));
    bridge.plug(&near, 10);
    bridge.plug(&far, 11);
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let (friend, attacker, server) = (lab.worker(&web), lab.worker(&rogue), lab.worker(&db));
    let (remote, store) = (lab.worker_in(&web, &near), lab.worker_in(&db, &far));
    let ports = [(); 2].map(|()| server.listen_tcp((Ipv4Addr::LOCALHOST, 0)));
    let secret = server.listen_udp((Ipv4Addr::LOCALHOST, 0));
    let echo = server.listen_tcp_echo((Ipv4Addr::LOCALHOST, 0));
    let across = store.listen_tcp_echo((v4(11), 5400));
    let echo_ports = [echo.local.port(), 5400];
    // What flaps is a leg of the bridge that carries nobody's traffic.
    let spare = lab.netns("spare");
    let flapping = bridge.plug(&spare, 12);
    let segd = lab
        .segd(&policy(&web, &rogue, &db, ports, &echo_ports, false))
        .limit(duration().as_secs() + 600)
        .start();
    let open =
        |client: &Worker, to| -> Vec<Handle> { (0..20).map(|_| client.open_tcp(to).unwrap()).collect() };
    let flows = [
        friend.traffic_every(&open(&friend, echo.local), 50),
        remote.traffic_every(&open(&remote, across.local), 50),
    ];
    let mut attempts = [Kind::Udp, Kind::RawUdp].map(|kind| probe(kind, secret.local, "leak;"));
    attempts.iter_mut().for_each(|probe| probe.timeout_ms = 20);
    let hammer = attacker.hammer(attempts.into(), 1);

    let mut soak = Soak {
        segd,
        friend,
        attacker,
        server,
        remote,
        _store: store,
        ports,
        flapping,
        swapped: false,
        sender_unhooked: false,
        web,
        rogue,
        db,
        counts: BTreeMap::new(),
    };
    // The first sizes are those after a restart, with everything in use once.
    soak.segd.kill();
    soak.segd.restart();
    soak.truth("at the beginning");
    let first = soak.size();
    let began = Instant::now();
    let mut checked = Instant::now();
    while began.elapsed() < duration() {
        let number = chance.below(9);
        let what = soak.act(number, &mut chance, &echo_ports);
        *soak.counts.entry(what).or_default() += 1;
        soak.truth(what);
        if checked.elapsed() > Duration::from_secs(20) {
            soak.has_not_grown(first);
            checked = Instant::now();
        }
    }
    let last = soak.has_not_grown(first);
    // A daemon that is killed now and then hides what it loses: one lives through everything but that.
    let lived = soak.size();
    for round in 0..40 {
        for number in [0, 4, 5, 6, 7, 8]
            .into_iter()
            .take(if round % 8 == 0 { 6 } else { 1 })
        {
            let what = soak.act(number, &mut chance, &echo_ports);
            *soak.counts.entry(what).or_default() += 1;
        }
    }
    soak.has_not_grown(lived);
    wait::wait_until("it enforces, and says so", PATIENCE, || {
        soak.segd.metric("segd_enforcing", &[]) == Some(1.0)
    });
    let tallies = [soak.friend.stop(flows[0]), soak.remote.stop(flows[1])];
    let tally = soak.attacker.stop(hammer);
    println!(
        "{:.0} s: {:?}\nfirst {first:?}\nlast  {last:?}\ndenied {tally:?}\nflows {tallies:?}",
        began.elapsed().as_secs_f64(),
        soak.counts
    );
    for tally in &tallies {
        assert!(
            tally.failures.is_empty(),
            "flows that every policy allows broke: {tally:?}"
        );
    }
    assert_eq!(soak.server.inbox(secret).bytes, 0, "leaked");
    // A call that succeeds sends nothing that arrives; it may only do so while the senders' own hook was away.
    assert!(tally.successes == 0 || soak.sender_unhooked, "{tally:?}");
}
