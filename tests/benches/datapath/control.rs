//! L5, the control plane: from a policy's file to the first changed verdict, from a cgroup's birth to its first packet, starts,
//! memory, compiling.

mod flood;
mod reload;

use std::{
    collections::BTreeSet,
    io,
    time::{Duration, Instant},
};

use segd::policy::{compile::compile, compiled::SegmentIndexes, model::Source, resolve::resolve};
use segd_tests::Lab;

use super::{
    Run,
    machine::clock_ns,
    policy,
    race::{self, Arm, Length},
    report::{Bound, Table},
    runner::{Runner, Work, births},
    stage::{self, Governed, Place, Way},
    statistics::{Estimate, of_one, of_percentile},
};

/// As many rules as segd takes.
pub const MOST_RULES: usize = 1_000_000;
/// Of how many rules a figure is whose goal is about [`MOST_RULES`].
pub fn of_rules(rules: usize) -> String {
    if rules == MOST_RULES {
        format!("{rules} rules")
    } else {
        format!("{rules} rules instead of 1,000,000")
    }
}

/// More than there is room for.
const REFUSED: [usize; 1] = [1_100_000];
/// How long segd waits after the last change of a file before it reads it (`daemon/watch.rs`).
const DEBOUNCE_MS: f64 = 2.0;

const WAY: Way = Way {
    beside: false,
    six: false,
};

/// Measures.
pub fn run(run: &mut Run, lab: &Lab) -> io::Result<()> {
    let sizes: &[usize] = if run.quick {
        &[10, 10_000]
    } else {
        &[10, 1000, 10_000, 100_000, MOST_RULES]
    };
    let mut reloads = Table::new(
        "reload",
        "L5: one rule changed, from the end of the write to the first changed verdict",
        format!(
            "A watcher sends a datagram every 20 µs. The {DEBOUNCE_MS} ms that segd waits for more changes are in it."
        ),
        &["p50 (ms)", "p99 (ms)"],
        1,
    );
    let mut daemon = Table::new(
        "daemon",
        "L5: the daemon",
        "Start: from the process' start to its word that it enforces, policy read, compiled and loaded. Restart: the same on what \
         a killed one left pinned; the word is looked for every 3 ms. Maps: the kernel's own account (memlock) of all pinned maps, and of \
         the one with the policy; both slots.",
        &[
            "start (ms)",
            "restart (ms)",
            "resident (MB)",
            "maps (MB)",
            "policy's map (MB)",
        ],
        2,
    );
    let mut slowest = Vec::new();
    for (rules, number) in sizes.iter().zip(60_u8..) {
        let start = Instant::now();
        let place = Place::new(lab, number, &format!("control{rules}"));
        let laid = start.elapsed();
        let mut governed = Governed::start(lab, place, *rules);
        let started = (start.elapsed() - laid).as_secs_f64() * 1e3;
        let took = reload::flips(run, &governed)?;
        let (half, most) = (
            of_percentile(&took, 50, run.seed),
            of_percentile(&took, 99, run.seed),
        );
        reloads.row(format!("segd, {rules} rules"), &[Some(half), Some(most)]);
        slowest.push((*rules, half, most));
        let resident = governed.segd.resident_kib() as f64 * 1024.0 / 1e6;
        let maps = governed.maps()?;
        let all: u64 = maps.iter().map(|(_, bytes)| bytes).sum();
        let tables = maps
            .iter()
            .filter(|(name, _)| name == "POLICY" || name.starts_with("LINES_"))
            .map(|(_, bytes)| *bytes as f64)
            .sum::<f64>();
        let restarts: Vec<f64> = (0..if run.quick { 3 } else { 7 })
            .map(|_| {
                governed.segd.kill();
                let start = Instant::now();
                governed.segd.restart();
                start.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        let restart = of_one(restarts, run.seed);
        let cells = [started, resident, all as f64 / 1e6, tables / 1e6].map(exact);
        daemon.row(
            format!("segd, {rules} rules"),
            &[cells[0], Some(restart), cells[1], cells[2], cells[3]],
        );
        if *rules == sizes[0] {
            run.goal(
                "daemon resident, few rules (MB)",
                Bound::AtMost(15.0),
                cells[1],
                "after the reloads above",
            );
        }
        if *rules == sizes[sizes.len() - 1] {
            let note = of_rules(*rules);
            run.goal(
                "daemon resident, most rules (MB)",
                Bound::AtMost(150.0),
                cells[1],
                &note,
            );
            run.goal(
                "kernel memory of the policy's map (MB)",
                Bound::AtMost(8.0),
                cells[3],
                &note,
            );
            run.goal(
                "restart adopting pinned state (ms)",
                Bound::AtMost(50.0),
                Some(restart),
                &note,
            );
            run.goal(
                "policy loaded end to end (ms)",
                Bound::AtMost(1000.0),
                cells[0],
                &format!("{note}; the start of the daemon"),
            );
        }
        eprintln!("L5 {rules} rules: done");
    }
    reload::goals(run, &slowest);
    run.tables.extend([reloads, daemon]);
    newborns(run, lab)?;
    flood::run(run, lab)?;
    compiled(run);
    refusals(run)?;
    Ok(())
}

fn exact(value: f64) -> Option<Estimate> {
    Some(Estimate {
        value,
        low: value,
        high: value,
        rounds: 1,
    })
}

/// Cgroups that are born, with segd and without: the birth, and the first allowed and the first denied datagram.
fn newborns(run: &mut Run, lab: &Lab) -> io::Result<()> {
    let none = Place::new(lab, 70, "birth-none");
    let governed = Governed::start(lab, Place::new(lab, 71, "birth"), 1000);
    let mut runners = vec![
        Runner::start(&none.home(WAY)),
        Runner::start(&governed.place.home(WAY)),
    ];
    for (runner, judged) in runners.iter_mut().zip([false, true]) {
        runner
            .prepare("birth", Work::Births(births::Spec { judged }))
            .map_err(io::Error::other)?;
    }
    let arms = [("none", 0), ("segd", 1)].map(|(name, runner)| Arm {
        name: name.to_owned(),
        runner,
        work: "birth",
    });
    let length = Length {
        time: Duration::from_secs(run.seconds),
        rounds: 100,
    };
    let race = race::run(&mut runners, &arms, stage::cpu(), length, run.seed);
    run.note_race("newborn cgroups", &race);
    let added = race.wall_difference("segd", "none", 1e-6);
    if !added.is_empty() {
        let most = of_percentile(&added, 99, run.seed);
        let note = "mkdir, and the first datagrams; each first denied one was denied";
        run.goal(
            "newborn cgroup: time added, p99 (ms)",
            Bound::AtMost(2.0),
            Some(most),
            note,
        );
    }
    // A datagram that was not judged would have ended the race.
    let unjudged = race.failed.is_none().then(|| Estimate {
        rounds: added.len(),
        ..Estimate::default()
    });
    run.goal(
        "newborn cgroups whose first denied packet passed",
        Bound::AtMost(0.0),
        unjudged,
        "a race that fails says so below",
    );
    Ok(())
}

/// From texts to a resolved policy, and from that to tables, in this process: what grows faster than the policy shows.
fn compiled(run: &mut Run) {
    let mut curve = Table::new(
        "compile",
        "L5: reading and compiling",
        "Texts to a resolved policy (YAML, names, warnings), once; a resolved policy to tables, the median; CPU time of the process. Lines: what the \
         kernel's tables take for one slot.",
        &["read (µs a rule)", "compile (µs a rule)", "lines (bytes a rule)"],
        2,
    );
    let sizes = [1000, 10_000, 100_000, MOST_RULES];
    let most = if run.quick { 10_000 } else { MOST_RULES };
    for rules in sizes.into_iter().filter(|rules| *rules <= most) {
        let policy = policy::Sized::new(rules, "/client", "/server");
        let sources: Vec<Source> = policy
            .files()
            .into_iter()
            .map(|(name, text)| Source {
                name,
                text: text.into(),
            })
            .collect();
        let cpu = || clock_ns(libc::CLOCK_PROCESS_CPUTIME_ID);
        let before = cpu();
        let (policy, _) =
            resolve(&sources, false).unwrap_or_else(|_| panic!("the benchmark's own policy is refused"));
        let read = (cpu() - before) as f64 / 1e3 / rules as f64;
        let mut indexes = SegmentIndexes::default();
        indexes.allocate(&policy, &BTreeSet::new()).expect("few segments");
        let mut lines = 0;
        let rates: Vec<f64> = (0..15)
            .map(|_| {
                let before = cpu();
                let tables = compile(&policy, &indexes, None).expect("it fits");
                let took = cpu() - before;
                assert_eq!(tables.rules.len(), rules);
                lines = tables.kernel_lines();
                rules as f64 / (took as f64 / 1e3)
            })
            .collect();
        let rate = of_one(rates, run.seed);
        curve.row(
            format!("segd, {rules} rules"),
            &[
                exact(read),
                exact(1.0 / rate.value),
                exact(lines as f64 * 64.0 / rules as f64),
            ],
        );
        if rules == MOST_RULES {
            let note = format!("{rules} rules; YAML excluded, one core");
            run.goal(
                "compile (million rules/s)",
                Bound::AtLeast(2.0),
                Some(rate),
                &note,
            );
        }
    }
    run.tables.push(curve);
}

/// What segd says of more rules than it has room for.
fn refusals(run: &mut Run) -> io::Result<()> {
    if run.quick {
        return Ok(());
    }
    for rules in REFUSED {
        let directory = tempfile::tempdir()?;
        for (name, text) in policy::Sized::new(rules, "/client", "/server").files() {
            std::fs::write(directory.path().join(name), text)?;
        }
        let output = std::process::Command::new(segd_tests::segd::binary())
            .args(["policy", "check"])
            .arg(directory.path())
            .env("NO_COLOR", "1")
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().next().unwrap_or_default();
        let word = if output.status.success() {
            "taken"
        } else {
            "refused"
        };
        run.remarks.push(format!("{rules} rules: {word}: `{said}`"));
    }
    Ok(())
}
