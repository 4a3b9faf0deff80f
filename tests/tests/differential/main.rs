//! Differential proof: random policies × random packets, and four judges that must agree: the policy's author, segd's
//! oracle, the compiled tables in memory, and the kernel programs themselves.
//!
//! `cargo xtask differential --for 1h` runs it longer. `SEGD_SEED` repeats a run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

mod dice;
mod calendar;
mod spec;
mod packets;
mod forms;
mod parse;
mod model;
mod eyes;
mod stage;
mod round;
mod shrink;
mod cases;

use std::{
    collections::BTreeSet,
    fs,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant, SystemTime},
};

use segd::datapath::rehearsal::Vantage;
use segd_common::reason::Reason;

use dice::Dice;
use round::{Round, Tally};
use stage::{Scene, Theatre};

/// Packets shown under one policy.
const PER_ROUND: usize = 500;
/// Packets shown in a run that has no time given.
const CASES: u64 = 1_000_000;

/// Reasons that no packet of a rehearsal can meet: its socket is new in each run, never asked before, and not raw; a
/// policy is in force; addresses are of the family of their packet, and no hook here is a NIC's, a link's or a security module's.
const OUT_OF_REACH: [Reason; 10] = [
    Reason::Reply,
    Reason::NoPolicy,
    Reason::NoState,
    Reason::MappedAddress,
    Reason::OrphanFragment,
    Reason::OverlappingFragment,
    Reason::Framing,
    Reason::Unjudged,
    Reason::PacketSocket,
    Reason::XdpSocket,
];

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// `SEGD_SEED`, or the time.
fn seed() -> u64 {
    number("SEGD_SEED").unwrap_or_else(|| {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .expect("a clock");
        now.as_nanos() as u64
    })
}

#[test]
fn a_million_random_packets_are_judged_alike_by_author_oracle_tables_and_kernel() {
    let Some(scene) = Scene::open() else { return };
    let seed = seed();
    let until = number("SEGD_SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    println!("seed {seed}: SEGD_SEED={seed} repeats this run");
    let start = Instant::now();
    let (shown, broken) = (AtomicU64::new(0), AtomicBool::new(false));
    let lane = |number: u64, vantage: Vantage, name: &str| -> (Tally, Option<String>) {
        let mut theatre = Theatre::open(&scene, vantage, name);
        let mut tally = Tally::default();
        let mut turn = 0;
        loop {
            let enough = match until {
                Some(until) => Instant::now() >= until,
                None => shown.load(Ordering::Relaxed) >= CASES,
            };
            if enough || broken.load(Ordering::Relaxed) {
                return (tally, None);
            }
            let mut dice = Dice::new(seed ^ (turn << 1 | number).wrapping_mul(0xd134_2543_de82_ef95));
            let round = Round::random(&mut dice, vantage == Vantage::Host);
            let forms = round.forms();
            theatre.set(&forms, &round.scenery);
            let packets = round::packets(&mut dice, &theatre, round.scenery.sender, PER_ROUND);
            if let Some(found) = round::compare(&theatre, &round, &forms, &packets, &mut tally) {
                broken.store(true, Ordering::Relaxed);
                let packet = &packets[found.at];
                let (round, story) = shrink::shrink(&mut theatre, round, packet, found.story);
                let kept = keep(&theatre, &round, packet, seed);
                return (
                    tally,
                    Some(format!("{vantage:?}, turn {turn}, kept in {kept}\n{story}")),
                );
            }
            shown.fetch_add(PER_ROUND as u64, Ordering::Relaxed);
            turn += 1;
        }
    };
    let (host, container) = thread::scope(|scope| {
        let host = scope.spawn(|| lane(0, Vantage::Host, "host"));
        let container = scope.spawn(|| lane(1, Vantage::Container, "container"));
        (host.join().expect("a lane"), container.join().expect("a lane"))
    });
    let mut tally = host.0;
    tally.add(&container.0);
    println!("{} cases in {:?}", tally.cases, start.elapsed());
    for reason in Reason::ALL {
        println!("{:>10}  {}", tally.of(*reason), reason.label());
    }
    println!(
        "{:>10}  by a rule that ends, {} of them by several together",
        tally.ending, tally.together
    );
    let stories: Vec<String> = [host.1, container.1].into_iter().flatten().collect();
    assert!(
        stories.is_empty(),
        "the judges do not agree (seed {seed}):\n{}",
        stories.join("\n")
    );
    // Few policies have rules that end together, and many packets of one are decided by them: the number varies tenfold.
    assert!(
        tally.cases < CASES || (tally.ending > 1000 && tally.together > 0),
        "ends decided too little"
    );
    // A run that was cut short has not had the time to meet the rare ones.
    for reason in Reason::ALL.iter().filter(|_| tally.cases >= CASES) {
        let reachable = !OUT_OF_REACH.contains(reason);
        assert_eq!(
            tally.of(*reason) > 0,
            reachable,
            "`{}` was met {} times",
            reason.label(),
            tally.of(*reason)
        );
    }
}

/// Writes a disagreement down, to be replayed for ever once somebody has told its story.
fn keep(theatre: &Theatre, round: &Round, packet: &round::Shown, seed: u64) -> String {
    let forms = round.forms();
    let author = eyes::Author {
        spec: &round.spec,
        forms: &forms,
    };
    let world = theatre.world(&round.scenery);
    let ruling = shrink::last(round::expected(&author, &world, &round.scenery, packet));
    let story = format!("seed {seed} found that the judges do not agree here; say what was wrong");
    let text = cases::written(&story, round, world.on_host, packet, &ruling);
    let path = format!("{}/corpus/found-{seed}.yaml", env!("CARGO_MANIFEST_DIR"));
    fs::write(&path, &text).unwrap_or_else(|error| panic!("{path}: {error}\n{text}"));
    format!("{path}:\n{text}")
}

/// Plays every case of a folder; returns the reasons they showed.
#[track_caller]
fn play(scene: &Scene, folder: &str) -> (usize, BTreeSet<&'static str>) {
    let cases = cases::read(folder);
    let mut wrong = Vec::new();
    let mut reasons = BTreeSet::new();
    for vantage in [Vantage::Host, Vantage::Container] {
        let here: Vec<_> = cases
            .iter()
            .filter(|(_, case)| case.vantage() == vantage)
            .collect();
        if here.is_empty() {
            continue;
        }
        let played = thread::scope(|scope| {
            let lane = scope.spawn(|| {
                let mut theatre = Theatre::open(scene, vantage, &format!("{vantage:?}"));
                let all = here.iter().map(|(name, case)| case.play(name, &mut theatre));
                all.collect::<Vec<_>>()
            });
            lane.join().expect("a lane")
        });
        for (lines, shown) in played {
            wrong.extend(lines);
            reasons.extend(shown);
        }
    }
    assert!(wrong.is_empty(), "{folder}:\n{}", wrong.join("\n"));
    (cases.len(), reasons)
}

#[test]
fn every_case_is_judged_as_it_says_by_oracle_tables_and_kernel() {
    let Some(scene) = Scene::open() else { return };
    let (count, reasons) = play(&scene, "cases");
    assert!(count >= 25, "{count} cases");
    for reason in Reason::ALL.iter().filter(|reason| !OUT_OF_REACH.contains(reason)) {
        assert!(
            reasons.contains(reason.label()),
            "no case shows `{}`",
            reason.label()
        );
    }
}

#[test]
fn what_random_rounds_once_found_is_judged_right() {
    let Some(scene) = Scene::open() else { return };
    let (count, _) = play(&scene, "corpus");
    assert!(count > 0, "the corpus is gone");
}

#[test]
fn every_case_says_what_it_teaches() {
    for folder in ["cases", "corpus"] {
        for (name, case) in cases::read(folder) {
            assert!(case.description.len() > 20, "{folder}/{name}");
            assert!(
                !case.description.contains("say what was wrong"),
                "{folder}/{name} has no story yet"
            );
            assert!(!case.packets.is_empty(), "{folder}/{name} shows no packet");
        }
    }
}
