//! Other people's programs on the same hooks: a denial stays a denial, or segd says who is in its way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{net::Ipv4Addr, path::Path};

use segd_tests::{
    Cgroup, Kind, Lab, Segd, Worker,
    bpf::Objects,
    foreign::{At, Attached, EXCLUSIVE, MULTI, OVERRIDE, PREORDER, Program},
    segd::Builder,
    wait,
    worker::Handle,
};

fn policy(web: &str, rogue: &str, db: &str) -> String {
    format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: chain}}
spec:
  segments:
    web: {{match: [{{cgroup: {web}}}]}}
    rogue: {{match: [{{cgroup: {rogue}}}]}}
    db: {{match: [{{cgroup: {db}}}]}}
  allow:
    - {{from: web, to: db, ports: [any]}}
"
    )
}

const HOOKS: [(At, &str); 3] = [
    (At::Egress, "passes_egress"),
    (At::Ingress, "passes_ingress"),
    (At::Connect4, "clears_retval"),
];

#[test]
fn a_program_that_stands_alone_at_the_root_is_named_and_nothing_is_attached() {
    let Some(lab) = Lab::open() else { return };
    for (flags, how) in [(EXCLUSIVE, "exclusively"), (OVERRIDE, "with override")] {
        for (at, name) in HOOKS {
            let program = Program::passing(at, name);
            let _attached = program.attach(lab.cgroup_root(), flags).unwrap();
            let before = Objects::now();
            let (status, said) = Builder::new(&policy("/x", "/y", "/z")).start_failing();
            assert_eq!(status.code(), Some(3), "{how}: {said}");
            let clear = said
                .lines()
                .any(|line| line.contains("error") && line.contains(name));
            assert!(clear, "{how}: `{name}` is named in one line: {said}");
            let made = Objects::now().since(&before);
            assert_eq!(made.count("link"), 0, "{how}: left behind: {made:?}");
        }
    }
}

/// `web` may reach `db`, `rogue` may not.
struct Scene {
    friend: Worker,
    attacker: Worker,
    server: Worker,
    tcp: Handle,
    udp: Handle,
    cgroups: [Cgroup; 3],
}

impl Scene {
    fn new(lab: &Lab) -> Scene {
        let cgroups = [lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db")];
        let [friend, attacker, server] = cgroups.each_ref().map(|cgroup| lab.worker(cgroup));
        let tcp = server.listen_tcp((Ipv4Addr::LOCALHOST, 0));
        let udp = server.listen_udp((Ipv4Addr::LOCALHOST, 0));
        Scene {
            friend,
            attacker,
            server,
            tcp,
            udp,
            cgroups,
        }
    }

    fn enforce(&self, lab: &Lab) -> Segd {
        let [web, rogue, db] = self.cgroups.each_ref().map(Cgroup::path);
        lab.enforce(&policy(&web, &rogue, &db))
    }

    /// The attacker's and the server's cgroups.
    fn children(&self) -> [&Path; 2] {
        [self.cgroups[1].directory(), self.cgroups[2].directory()]
    }

    /// The denied stays denied and the allowed allowed, as the receiver sees it.
    #[track_caller]
    fn holds(&self, segd: &Segd, story: &str) {
        let before = self.server.inbox(self.tcp).accepts;
        for kind in [Kind::Tcp, Kind::Udp, Kind::UdpConnected, Kind::RawUdp] {
            let to = if kind == Kind::Tcp { self.tcp } else { self.udp };
            self.attacker.probe(kind, to.local, "leak;");
        }
        assert_eq!(
            self.friend.probe(Kind::Tcp, self.tcp.local, "friend;").result,
            "ok",
            "{story}"
        );
        wait::quiet(wait::SILENCE);
        assert_eq!(self.server.inbox(self.tcp).accepts, before + 1, "{story}");
        assert_eq!(self.server.inbox(self.udp).bytes, 0, "{story}");
        assert_eq!(segd.metric("segd_enforcing", &[]), Some(1.0), "{story}");
    }
}

/// Attaches a passing program of every kind; `None` if this kernel does not know the flag.
fn attach<'a>(programs: &'a [Program], places: &[&Path], flags: u32) -> Option<Vec<Attached<'a>>> {
    let mut attached = Vec::new();
    for (program, place) in places
        .iter()
        .flat_map(|place| programs.iter().map(move |program| (program, place)))
    {
        match program.attach(place, flags) {
            Ok(done) => attached.push(done),
            Err(error) if flags & PREORDER != 0 && error.raw_os_error() == Some(libc::EINVAL) => {
                eprintln!("this kernel has no BPF_F_PREORDER: nothing of it to hold against");
                return None;
            }
            Err(error) => panic!("attaching beside segd with flags {flags}: {error}"),
        }
    }
    Some(attached)
}

#[test]
fn programs_of_others_that_come_later_overturn_nothing() {
    let Some(lab) = Lab::open() else { return };
    let scene = Scene::new(&lab);
    let programs = HOOKS.map(|(at, name)| Program::passing(at, name));
    let segd = scene.enforce(&lab);
    for flags in [MULTI, OVERRIDE, EXCLUSIVE, MULTI | PREORDER] {
        if let Some(_attached) = attach(&programs, &scene.children(), flags) {
            scene.holds(&segd, &format!("in children, flags {flags}"));
        }
    }
    for flags in [MULTI, MULTI | PREORDER] {
        if let Some(_attached) = attach(&programs, &[lab.cgroup_root()], flags) {
            scene.holds(&segd, &format!("at the root, flags {flags}"));
        }
    }
}

#[test]
fn programs_of_others_that_were_there_first_overturn_nothing() {
    let Some(lab) = Lab::open() else { return };
    let scene = Scene::new(&lab);
    let programs = HOOKS.map(|(at, name)| Program::passing(at, name));
    {
        let _attached = attach(&programs, &scene.children(), EXCLUSIVE);
        let segd = scene.enforce(&lab);
        scene.holds(&segd, "alone in children");
    }
    let _attached = attach(&programs, &[lab.cgroup_root()], MULTI);
    let segd = scene.enforce(&lab);
    scene.holds(&segd, "beside, at the root");
}
