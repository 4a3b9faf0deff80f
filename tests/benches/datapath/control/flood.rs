//! What a flood of denied packets costs the daemon, and whether every one of them is counted.

use std::{fs, io, time::Instant};

use segd_tests::Lab;

use crate::{
    Run,
    policy::SHUT,
    report::{Bound, Table},
    runner::{Runner, Work, refused},
    stage::{Governed, Place, Way},
    statistics::{Estimate, of_one},
};

const WAY: Way = Way {
    beside: false,
    six: false,
};

/// How many datagrams one slice has.
const DATAGRAMS: u64 = 200_000;

/// CPU time of all threads of a process, in nanoseconds (`/proc/PID/task/TID/schedstat`).
fn cpu_ns(pid: u32) -> io::Result<u64> {
    let mut all = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        let first = text
            .split_whitespace()
            .next()
            .and_then(|word| word.parse::<u64>().ok());
        all += first.ok_or_else(|| io::Error::other("no time in schedstat"))?;
    }
    Ok(all)
}

/// Floods.
pub(super) fn run(run: &mut Run, lab: &Lab) -> io::Result<()> {
    let governed = Governed::start(lab, Place::new(lab, 75, "flood"), 1000);
    let pid = governed.segd.pid();
    let mut runner = Runner::start(&governed.place.home(WAY));
    let to = (governed.place.server(WAY), SHUT).into();
    let spec = refused::Spec {
        to,
        datagrams: DATAGRAMS,
    };
    runner
        .prepare("flood", Work::Refused(spec))
        .map_err(io::Error::other)?;
    let denied = || {
        let labels = [("verdict", "denied"), ("from", "client"), ("to", "server")];
        governed.segd.metric("segd_packets_total", &labels).unwrap_or(0.0) as u64
    };
    let (before, mut sent) = (denied(), 0);
    let (mut shares, mut rates) = (Vec::new(), Vec::new());
    let start = Instant::now();
    while start.elapsed().as_secs() < run.seconds {
        let (cpu, began) = (cpu_ns(pid)?, Instant::now());
        let slice = runner.slice("flood").map_err(io::Error::other)?;
        let took = began.elapsed().as_nanos() as f64;
        sent += slice.operations;
        let rate = slice.operations as f64 / took * 1e3;
        rates.push(rate);
        // In percent of a core, as if a million came in each second.
        shares.push((cpu_ns(pid)? - cpu) as f64 / took * 100.0 / rate);
    }
    let counted = denied() - before;
    let log = governed.segd.log().lines().count();
    let share = of_one(shares, run.seed);
    let note = format!("{sent} sent by one thread; the daemon said {log} lines since its start");
    run.goal(
        "denied packets that no counter has",
        Bound::AtMost(0.0),
        Some(Estimate {
            value: sent.abs_diff(counted) as f64,
            low: sent.abs_diff(counted) as f64,
            high: sent.abs_diff(counted) as f64,
            rounds: 1,
        }),
        &note,
    );
    run.goal(
        "daemon under a flood of denied packets (% of a core, for each million a second)",
        Bound::AtMost(5.0),
        Some(share),
        &note,
    );
    let mut table = Table::new(
        "flood",
        "L5: a flood of denied datagrams",
        "One thread asks as fast as it can and is refused each time.",
        &["daemon, % of a core at 1 M/s", "million/s"],
        0,
    );
    table.row("segd", &[Some(share), Some(of_one(rates, run.seed))]);
    run.tables.push(table);
    eprintln!("L5 flood: done");
    Ok(())
}
