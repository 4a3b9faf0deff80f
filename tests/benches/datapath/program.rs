//! L1, the programs alone: packets shown by hand (`BPF_PROG_TEST_RUN`) to the very programs of running daemons, beside
//! programs that do one thing each.
//!
//! What this layer cannot show: the packet's socket is a dummy of no protocol, so the verdict that is kept on a TCP socket is
//! never found here. That packet is measured by `sockets`.

mod told;

use std::{io, time::Duration};

use segd_tests::Lab;

use super::{
    Run,
    assembler::{self, Compared},
    bpf::{self, CGROUP_SKB, HOOKS, Hook},
    policy::{Pair, SHUT, datagram},
    race::{self, Arm, Length},
    runner::{Runner, Work, shown},
    stage::{self, DEVICE, Governed, Place, Way},
    statistics::Dice,
};

/// How often one packet is shown in one call.
const REPEAT: u32 = 100_000;
/// How many calls of one packet each a slice has.
const CALLS: usize = 1000;
/// How many different packets an arm has, if not one.
const FRAMES: usize = 4096;

/// The arm that is the unit.
const H: &str = "one hash lookup (H)";

const LOOPBACK: Way = Way {
    beside: false,
    six: false,
};

/// How the packets of an arm follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pattern {
    Hot,
    First,
    Zipf,
    Uniform,
}

const PATTERNS: [(Pattern, &str); 4] = [
    (Pattern::Hot, "hot"),
    (Pattern::First, "first"),
    (Pattern::Zipf, "zipf"),
    (Pattern::Uniform, "uniform"),
];

/// Packets of pairs that the policy lets pass.
fn work(
    program: u32,
    pattern: Pattern,
    hook: Hook,
    pairs: &[Pair],
    own: std::net::Ipv4Addr,
    seed: u64,
) -> Work {
    let mut dice = Dice::new(seed);
    let mut chosen: Vec<usize> = (0..pairs.len()).collect();
    dice.shuffle(&mut chosen);
    let different = if matches!(pattern, Pattern::Hot | Pattern::First) {
        1
    } else {
        FRAMES
    };
    // A policy of few pairs has as many flows as one of many: what is compared are policies, and not how much their packets
    // leave in caches.
    let chosen = chosen.iter().cycle().take(different);
    let frame = |(number, chosen): (usize, &usize)| {
        let (Pair { peer, port }, source_port) = (pairs[*chosen], 20_000 + number as u16);
        match hook {
            Hook::Egress => datagram(own, peer, source_port, port),
            Hook::Ingress => datagram(peer, own, source_port, port),
        }
    };
    let frames: Vec<Vec<u8>> = chosen.enumerate().map(frame).collect();
    let order = match pattern {
        Pattern::Zipf => dice.zipf(frames.len(), 1 << 16),
        _ => (0..1 << 16).map(|_| dice.below(frames.len())).collect(),
    };
    let hot = pattern == Pattern::Hot;
    Work::Shown(shown::Spec {
        program,
        frames,
        order,
        repeat: if hot { REPEAT } else { 1 },
        calls: if hot { 1 } else { CALLS },
        device: Some(DEVICE.to_owned()),
        expect: 1,
    })
}

/// Asserts that a program refuses what its policy does not allow.
fn refuses(runner: &mut Runner, program: u32, hook: Hook, own: std::net::Ipv4Addr) -> Result<(), String> {
    let peer = std::net::Ipv4Addr::new(10, 64, 0, 1);
    let frame = match hook {
        Hook::Egress => datagram(own, peer, 20_000, SHUT),
        Hook::Ingress => datagram(peer, own, 20_000, SHUT),
    };
    let spec = shown::Spec {
        program,
        frames: vec![frame],
        order: vec![0],
        repeat: 1,
        calls: 1,
        device: Some(DEVICE.to_owned()),
        expect: 0,
    };
    runner.prepare("refused", Work::Shown(spec))
}

/// The programs to compare with.
struct Others {
    empty: std::os::fd::OwnedFd,
    hash: Compared,
    tries: Compared,
}

impl Others {
    fn load(own: std::net::Ipv4Addr, pairs: &[Pair]) -> io::Result<Others> {
        let mut entries = vec![(std::net::Ipv4Addr::LOCALHOST, std::net::Ipv4Addr::LOCALHOST, 6)];
        entries.extend(pairs.iter().take(900).map(|pair| (own, pair.peer, 17)));
        Ok(Others {
            empty: assembler::empty(CGROUP_SKB)?,
            hash: assembler::one_hash(&entries)?,
            tries: assembler::two_tries(Hook::Egress, &tries())?,
        })
    }
}

/// What the systemd-shaped filter allows: ten prefixes.
pub fn tries() -> Vec<(std::net::Ipv4Addr, u8)> {
    let mut prefixes: Vec<_> = (1..=8)
        .map(|net| (std::net::Ipv4Addr::new(172, 16 + net, 0, 0), 16))
        .collect();
    prefixes.extend([
        (std::net::Ipv4Addr::new(127, 0, 0, 0), 8),
        (std::net::Ipv4Addr::new(10, 0, 0, 0), 8),
    ]);
    prefixes
}

/// Counts the programs' instructions, and measures nothing.
pub fn instructions(run: &mut Run, lab: &Lab) -> io::Result<()> {
    let governed = Governed::start(lab, Place::new(lab, 1, "instructions"), 10);
    told::instructions(run, &[governed])
}

/// Measures.
pub fn run(run: &mut Run, lab: &Lab) -> io::Result<()> {
    let sizes = run.sizes.clone();
    let plain = Place::new(lab, 1, "plain");
    let again = Place::new(lab, 2, "again");
    let governed: Vec<Governed> = sizes
        .iter()
        .zip(3_u8..)
        .map(|(rules, number)| {
            let place = Place::new(lab, number, &format!("rules{rules}"));
            Governed::start(lab, place, *rules)
        })
        .collect();
    let mut runners = vec![
        Runner::start(&plain.home(LOOPBACK)),
        Runner::start(&again.home(LOOPBACK)),
    ];
    runners.extend(
        governed
            .iter()
            .map(|governed| Runner::start(&governed.place.home(LOOPBACK))),
    );

    let pairs = governed[0].policy.pairs();
    let others = Others::load(plain.own(), &pairs)?;
    let seed = run.seed;
    let id = |program: &std::os::fd::OwnedFd| bpf::program(program).map(|program| program.id);
    for (pattern, name) in PATTERNS {
        let mut prepare = |runner: usize, what: &str, program: u32, hook, pairs: &[Pair], own| {
            let work = work(program, pattern, hook, pairs, own, seed);
            runners[runner]
                .prepare(&format!("{what} {name}"), work)
                .map_err(io::Error::other)
        };
        // The programs to compare with see as many different packets as the largest policy has pairs.
        let most = governed
            .last()
            .map(|governed| governed.policy.pairs())
            .unwrap_or_default();
        prepare(0, "empty", id(&others.empty)?, Hook::Egress, &most, plain.own())?;
        prepare(1, "empty", id(&others.empty)?, Hook::Egress, &most, again.own())?;
        if pattern == Pattern::Hot {
            prepare(
                0,
                "hash",
                id(&others.hash.program)?,
                Hook::Egress,
                &pairs,
                plain.own(),
            )?;
            prepare(
                0,
                "tries",
                id(&others.tries.program)?,
                Hook::Egress,
                &pairs,
                plain.own(),
            )?;
        }
        for (number, governed) in governed.iter().enumerate() {
            for hook in HOOKS {
                let program = governed.program(hook)?;
                let pairs = governed.policy.pairs();
                prepare(
                    2 + number,
                    &format!("{hook:?}"),
                    program,
                    hook,
                    &pairs,
                    governed.place.own(),
                )?;
            }
        }
    }
    for (number, governed) in governed.iter().enumerate() {
        for hook in HOOKS {
            let program = governed.program(hook)?;
            refuses(&mut runners[2 + number], program, hook, governed.place.own())
                .map_err(io::Error::other)?;
        }
    }

    let mut races = Vec::new();
    for (_, pattern) in PATTERNS {
        let names: Vec<String> = ["empty", "hash", "tries", "Egress", "Ingress"]
            .iter()
            .map(|what| format!("{what} {pattern}"))
            .collect();
        let arm = |name: &str, runner: usize, work: usize| Arm {
            name: name.to_owned(),
            runner,
            work: &names[work],
        };
        let mut arms = vec![arm("empty", 0, 0), arm("empty again", 1, 0)];
        if pattern == "hot" {
            arms.extend([arm(H, 0, 1), arm("two tries (systemd's shape)", 0, 2)]);
        }
        for (number, rules) in sizes.iter().enumerate() {
            arms.push(arm(&format!("segd egress, {rules} rules"), 2 + number, 3));
            arms.push(arm(&format!("segd ingress, {rules} rules"), 2 + number, 4));
        }
        let length = Length {
            time: Duration::from_secs(run.seconds),
            rounds: 15,
        };
        let race = race::run(&mut runners, &arms, stage::cpu(), length, seed);
        run.note_race(&format!("L1 {pattern}"), &race);
        told::tell(run, pattern, &arms, &race);
        races.push(race);
    }
    governed
        .iter()
        .try_for_each(|governed| governed.has_judged(u64::from(REPEAT)))?;
    told::goals(run, &races, &sizes);
    told::instructions(run, &governed)
}
