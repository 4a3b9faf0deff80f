//! Network namespaces that have a name, and that the workloads have left that set them up.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::time::Duration;

use segd_tests::{
    Bridge, Cgroup, Lab, Netns, Remote, Worker, netns::v4, segd::write_atomically, wait, worker::Handle,
};

/// How long segd may take to see who is where.
const SEEN: Duration = Duration::from_secs(2);
/// How long an answer may take that comes: its sender may have to be asked for, and asked for again.
const ANSWER: Duration = Duration::from_millis(1500);

fn policy(rogue: &Cgroup, web: &Cgroup, more: &str) -> String {
    format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: left}}
spec:
  segments:
    rogue: {{match: [{{cgroup: {}}}]}}
    web: {{match: [{{cgroup: {}}}]}}
    partner: {{match: [{{cidr: {}/32}}]}}
  allow:
    - {{from: rogue, to: partner, ports: [udp/5400]}}
{more}",
        rogue.path(),
        web.path(),
        v4(50)
    )
}

/// `near` on a bridge with two other machines. What leaves it for the first one its rules turn to the second.
struct Place {
    near: Netns,
    away: Netns,
    partner: Remote,
    other: Remote,
    rogue: Cgroup,
    web: Cgroup,
    _bridge: Bridge,
}

impl Place {
    fn build(lab: &Lab) -> Place {
        let bridge = lab.bridge();
        let (near, away) = (lab.netns("near"), lab.netns("away"));
        bridge.plug(&near, 10);
        Place {
            near,
            away,
            partner: Remote::plug(&bridge, 50),
            other: Remote::plug(&bridge, 51),
            rogue: lab.cgroup("rogue"),
            web: lab.cgroup("web"),
            _bridge: bridge,
        }
    }

    fn turn(&self) {
        let (from, to) = (v4(50), v4(51));
        let rules = format!(
            "table netdev turn {{ chain away {{ type filter hook egress device \"eth0\" priority 0;
ip daddr {from} udp dport 5400 ip daddr set {to} ether daddr set ff:ff:ff:ff:ff:ff
}}
}}
"
        );
        self.near.run(&["nft", "-f", "-"], &rules);
    }

    /// One of `rogue` in another namespace, with a socket that was made in `near`, where none of `rogue` is any more.
    fn leave(&self, lab: &Lab) -> (Worker, Handle) {
        let (leaver, enemy) = (
            lab.worker_in(&self.rogue, &self.near),
            lab.worker_in(&self.rogue, &self.away),
        );
        wait::quiet(SEEN);
        let socket = leaver.open_udp((v4(10), 0), None).unwrap();
        let socket = enemy.take_over(&leaver, socket, false);
        drop(leaver);
        self.turn();
        wait::quiet(SEEN);
        (enemy, socket)
    }

    /// Sends by the socket; whether it came to one of the two.
    fn gets_out(&self, enemy: &Worker, socket: Handle, token: &str) -> bool {
        enemy.send_to(socket, (v4(50), 5400), token).ok();
        wait::quiet(wait::SILENCE);
        let heard = |remote: &Remote| {
            let mut frames = remote.frames().into_iter();
            frames.any(|frame| frame.payload == token.as_bytes())
        };
        heard(&self.other) || heard(&self.partner)
    }
}

/// Class 13. Whoever leaves a namespace that has a name leaves his sockets and his rules there.
#[test]
fn a_namespace_that_its_workloads_left_is_still_theirs() {
    let Some(lab) = Lab::open() else { return };
    let place = Place::build(&lab);
    let mut segd = lab.enforce(&policy(&place.rogue, &place.web, ""));
    let (enemy, socket) = place.leave(&lab);
    assert!(!place.gets_out(&enemy, socket, "turned;"), "{}", segd.log());
    // Whoever is not claimed, an administrator that looks around, does not make it his.
    let cgroup = lab.cgroup("guest");
    let guest = lab.worker_in(&cgroup, &place.near);
    wait::quiet(SEEN);
    assert!(!place.gets_out(&enemy, socket, "beside;"), "{}", segd.log());
    segd.kill();
    segd.restart();
    assert!(!place.gets_out(&enemy, socket, "again;"), "{}", segd.log());
    drop(guest);
    wait::quiet(SEEN);
    assert!(!place.gets_out(&enemy, socket, "later;"), "{}", segd.log());
    // Under a policy that knows nobody by that name any more, nor claims him.
    let mut without = policy(&place.rogue, &place.web, "").replace("rogue", "others");
    without = without.replace(
        &format!("cgroup: {}", place.rogue.path()),
        "cgroup: /nobody.slice",
    );
    segd.reload(|directory| write_atomically(&directory.join("policy.yaml"), &without));
    assert!(!place.gets_out(&enemy, socket, "renamed;"), "{}", segd.log());
}

/// Who is there now counts first, and no former one makes it nobody's for ever.
#[test]
fn a_namespace_that_is_given_to_others_is_theirs() {
    let Some(lab) = Lab::open() else { return };
    let place = Place::build(&lab);
    let allow = "    - {from: partner, to: web, ports: [icmp/echo-request]}\n";
    let segd = lab.enforce(&policy(&place.rogue, &place.web, allow));
    let _left = place.leave(&lab);
    let is_answered = || {
        wait::quiet(SEEN);
        place.partner.ping(v4(10).into(), ANSWER)
    };
    assert!(!is_answered(), "it is the rogue's still: {}", segd.log());
    let web = lab.worker_in(&place.web, &place.near);
    assert!(is_answered(), "it is web's: {}", segd.log());
    drop(web);
    assert!(is_answered(), "it stays web's: {}", segd.log());
    let rogue = lab.worker_in(&place.rogue, &place.near);
    assert!(!is_answered(), "it is the rogue's again: {}", segd.log());
    drop(rogue);
    assert!(!is_answered(), "it stays the rogue's: {}", segd.log());
}

/// A cgroup that is removed takes no namespace along.
#[test]
fn a_namespace_stays_the_segments_of_a_workload_that_ended() {
    let Some(lab) = Lab::open() else { return };
    let place = Place::build(&lab);
    let allow = "    - {from: partner, to: web, ports: [icmp/echo-request]}\n";
    let segd = lab.enforce(&policy(&place.rogue, &place.web, allow));
    let passing = |of: &Cgroup| {
        let child = of.child("passing");
        let worker = lab.worker_in(&child, &place.near);
        wait::quiet(SEEN);
        drop(worker);
        child.remove();
        wait::quiet(SEEN);
        place.partner.ping(v4(10).into(), ANSWER)
    };
    assert!(!passing(&place.rogue), "{}", segd.log());
    assert!(passing(&place.web), "{}", segd.log());
}

/// A policy of these segments, and of what it gives up.
fn of(segments: &[(&str, &Cgroup)], release: &str) -> String {
    let segments = segments.iter();
    let segments =
        segments.map(|(name, cgroup)| format!("    {name}: {{match: [{{cgroup: {}}}]}}\n", cgroup.path()));
    format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: left}}
spec:
  segments:
    nobody: {{match: [{{cgroup: /nobody.slice}}]}}
{}  release: [{release}]
",
        segments.collect::<String>()
    )
}

/// Whether the kernel answers that is in `near`: as the host's it may, as a segment's it may not.
fn is_the_hosts(place: &Place) -> bool {
    wait::quiet(SEEN);
    place.other.ping(v4(10).into(), ANSWER)
}

/// Nobody is denied for ever whom the policy gives up by name, though he was an orphan first.
#[test]
fn a_namespace_whose_segment_is_given_up_is_nobodys() {
    let Some(lab) = Lab::open() else { return };
    let place = Place::build(&lab);
    let (web, rogue) = (("web", &place.web), ("rogue", &place.rogue));
    let mut segd = lab.enforce(&of(&[web, rogue], ""));
    assert!(is_the_hosts(&place), "{}", segd.log());
    let living = lab.worker_in(&place.web, &place.near);
    assert!(!is_the_hosts(&place), "{}", segd.log());
    segd.set_policy(&of(&[rogue], ""));
    assert!(!is_the_hosts(&place), "an orphan's: {}", segd.log());
    segd.set_policy(&of(&[rogue], "web"));
    assert!(is_the_hosts(&place), "web is given up: {}", segd.log());
    drop(living);
    // Whoever has left before, and a daemon that does not know him.
    let visit = lab.worker_in(&place.rogue, &place.near);
    wait::quiet(SEEN);
    drop(visit);
    assert!(!is_the_hosts(&place), "it is the rogue's still: {}", segd.log());
    segd.set_policy(&of(&[], ""));
    segd.kill();
    segd.restart();
    assert!(!is_the_hosts(&place), "{}", segd.log());
    segd.set_policy(&of(&[], "rogue"));
    assert!(is_the_hosts(&place), "the rogue is given up: {}", segd.log());
}

/// Who looks in where processes of the host live, an administrator in a container that nobody claims, leaves nothing there. Where nobody was
/// before him, or nobody stayed, it is his.
#[test]
fn who_visits_the_hosts_processes_leaves_nothing_of_his() {
    let Some(lab) = Lab::open() else { return };
    let place = Place::build(&lab);
    let segd = lab.enforce(&of(&[("web", &place.web)], ""));
    let left = || segd.json(&["status"])["left_namespaces"].as_u64();
    let visit = || {
        let visitor = lab.worker_in(&place.web, &place.near);
        assert!(!is_the_hosts(&place), "web is there: {}", segd.log());
        drop(visitor);
    };
    let cgroup = lab.cgroup("guest");
    let guest = lab.worker_in(&cgroup, &place.near);
    assert!(is_the_hosts(&place), "{}", segd.log());
    visit();
    assert!(is_the_hosts(&place), "the guest was there before: {}", segd.log());
    assert_eq!(left(), Some(0));
    drop(guest);
    wait::quiet(SEEN);
    visit();
    assert!(!is_the_hosts(&place), "nobody else was: {}", segd.log());
    assert_eq!(left(), Some(1));
}
