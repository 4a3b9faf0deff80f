//! What segd costs, measured beside what people would use instead, in one run: `cargo xtask bench`.
//!
//! One binary, one report. Every comparison is between arms that ran within one round; each arm shows that it does its work
//! before and while it is measured. The method stands in docs/performance.md.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a benchmark: a broken fixture must stop it where it stands"
)]

mod statistics;
mod machine;
mod bpf;
mod assembler;
mod policy;
mod runner;
mod race;
mod stage;
mod report;
mod program;
mod early;
mod rivals;
mod sockets;
mod control;
mod baseline;

use std::{
    io,
    path::PathBuf,
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use segd_tests::Lab;

use machine::Machine;
use race::Race;
use report::{Bound, Goal, Report, Table};
use statistics::Estimate;

/// What a run was told, and what it has found so far.
#[derive(Debug)]
pub struct Run {
    /// Of every order, draw and resample.
    pub seed: u64,
    /// How long each race takes at least.
    pub seconds: u64,
    /// Fit for CI: short races, fewer of them.
    pub quick: bool,
    /// How many rules the policies have, the smallest first.
    pub sizes: Vec<usize>,
    /// The unit: one hot hash lookup.
    pub h_ns: f64,
    /// What was measured.
    pub tables: Vec<Table>,
    /// What was asked and reached.
    pub goals: Vec<Goal>,
    /// What could not be done.
    pub remarks: Vec<String>,
    /// What the kernel made of segd's programs.
    pub programs: Vec<bpf::Program>,
}

impl Run {
    /// Compares a figure with a goal.
    pub fn goal(&mut self, figure: &str, bound: Bound, reached: Option<Estimate>, note: &str) {
        self.goals.push(Goal {
            figure: figure.to_owned(),
            bound,
            reached,
            note: note.to_owned(),
            short: note.contains("instead of 1,000,000"),
        });
    }

    /// Says what went wrong with a race, if something did.
    pub fn note_race(&mut self, name: &str, race: &Race) {
        eprintln!("{name}: done");
        if let Some(failed) = &race.failed {
            self.remarks.push(format!("{name}: given up: {failed}"));
        } else if race.dropped > 0 {
            let dropped = race.dropped;
            self.remarks.push(format!(
                "{name}: {dropped} rounds do not count, the hypervisor took time from them"
            ));
        }
    }
}

const LAYERS: [&str; 5] = ["instructions", "program", "early", "sockets", "control"];

struct Options {
    quick: bool,
    keep: bool,
    seed: u64,
    seconds: u64,
    out: PathBuf,
    only: Vec<String>,
    words: String,
}

fn options() -> Options {
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
    let mut options = Options {
        quick: false,
        keep: false,
        seed: u64::from(now.subsec_nanos()),
        seconds: 0,
        out: PathBuf::from("target/bench"),
        only: Vec::new(),
        words: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
    };
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap_or_else(|| panic!("`{word}` wants a value"));
        match word.as_str() {
            "--quick" => options.quick = true,
            "--keep" => options.keep = true,
            "--seed" => options.seed = value().parse().expect("a number"),
            "--seconds" => options.seconds = value().parse().expect("a number"),
            "--out" => options.out = value().into(),
            "--only" => options.only.extend(value().split(',').map(str::to_owned)),
            other => panic!("unknown option `{other}`"),
        }
    }
    if options.seconds == 0 {
        options.seconds = if options.quick { 3 } else { 20 };
    }
    for layer in &options.only {
        assert!(
            LAYERS.contains(&layer.as_str()),
            "`--only` takes {LAYERS:?}, not `{layer}`"
        );
    }
    options
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some("runner") {
        runner::serve(&words.next().expect("a home"));
        return ExitCode::SUCCESS;
    }
    let options = options();
    let Some(lab) = Lab::open() else {
        eprintln!("error: the benchmark loads programs into the kernel: run it as root");
        return ExitCode::FAILURE;
    };
    match measure(&options, &lab) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(options: &Options, lab: &Lab) -> io::Result<ExitCode> {
    println!("seed {}", options.seed);
    let begun = date();
    let mut machine = Machine::look(lab.cgroup_root());
    let mut run = Run {
        seed: options.seed,
        seconds: options.seconds,
        quick: options.quick,
        sizes: vec![10, 1000, 100_000, control::MOST_RULES],
        h_ns: 0.0,
        tables: Vec::new(),
        goals: Vec::new(),
        remarks: Vec::new(),
        programs: Vec::new(),
    };
    let wanted = |layer: &str| options.only.is_empty() || options.only.iter().any(|only| only == layer);
    if wanted("program") {
        program::run(&mut run, lab)?;
    } else if wanted("instructions") {
        program::instructions(&mut run, lab)?;
    }
    if wanted("early") {
        early::run(&mut run, lab)?;
    }
    if wanted("sockets") {
        sockets::run(&mut run, lab)?;
    }
    if wanted("control") {
        control::run(&mut run, lab)?;
    }
    machine.load_at_end = machine::load();
    let fits = run.programs.is_empty() || baseline::compare(&mut run, &machine, options.keep)?;
    let report = Report {
        date: begun,
        seed: run.seed,
        options: options.words.clone(),
        segd: version(),
        machine,
        goals: run.goals,
        tables: run.tables,
        remarks: run.remarks,
    };
    report.write(&options.out)?;
    println!("{}", report.markdown());
    println!("written to {}", options.out.display());
    Ok(if fits {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Now, in UTC.
fn date() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string()
}

/// What the binary calls itself.
fn version() -> String {
    let output = std::process::Command::new(segd_tests::segd::binary())
        .arg("--version")
        .output();
    output.map_or_else(
        |error| error.to_string(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}
