//! What the races of programs say: tables, goals, instruction counts.

use std::io;

use super::H;
use crate::{
    Run,
    control::of_rules,
    race::{Arm, Race},
    report::{Bound, Table},
    stage::Governed,
    statistics::Estimate,
};

/// A pattern's table.
pub(super) fn tell(run: &mut Run, pattern: &str, arms: &[Arm<'_>], race: &Race) {
    let note = match pattern {
        "hot" => {
            "A datagram of an exchange that its socket knows, 100,000 times in one call: caches and branch predictor are perfect."
        }
        "first" => {
            "The first datagram of a new socket, always the same one, one call each: making the socket's memory is in it. \
             What a call costs is in `empty`."
        }
        "zipf" => {
            "The first datagram of a new socket, one of 4096 different ones, about up to as many pairs, drawn by Zipf's law."
        }
        _ => "The same, each pair as often as any other.",
    };
    let mut table = Table::new(
        &format!("program-{pattern}"),
        format!("L1: program cost, {pattern}"),
        note,
        &["ns over empty", "ns", "in H"],
        0,
    );
    if race.has(H) {
        run.h_ns = race.over(H, "empty", 1.0).value;
    }
    for arm in arms {
        let over = race.over(&arm.name, "empty", 1.0);
        let in_h = (run.h_ns > 0.0).then(|| race.over(&arm.name, "empty", 1.0 / run.h_ns));
        table.row(&arm.name, &[Some(over), Some(race.time(&arm.name)), in_h]);
    }
    run.tables.push(table);
}

/// Compares with the goals.
pub(super) fn goals(run: &mut Run, races: &[Race], sizes: &[usize]) {
    let (few, many) = (sizes[0], sizes[sizes.len() - 1]);
    let largest = of_rules(many);
    let name = |hook: &str, rules: usize| format!("segd {hook}, {rules} rules");
    for hook in ["egress", "ingress"] {
        let (least, most) = (name(hook, few), name(hook, many));
        let growth = |race: &Race| race.in_units((&most, "empty"), (&least, "empty"));
        run.goal(
            &format!("known exchange (UDP), {hook}: most rules ÷ 10 rules"),
            Bound::AtMost(1.05),
            Some(growth(&races[0])),
            &largest,
        );
        run.goal(
            &format!("new flow, Zipf, {hook}: most rules ÷ 10 rules"),
            Bound::AtMost(1.3),
            Some(growth(&races[2])),
            &largest,
        );
        let uniform = races[3].over(&most, "empty", 1.0 / run.h_ns);
        run.goal(
            &format!("new flow, uniform, {hook}, in H"),
            Bound::AtMost(3.0),
            Some(uniform),
            &format!("H = {:.1} ns; {largest}", run.h_ns),
        );
    }
}

/// What the verifier and the JIT made of the programs.
pub(super) fn instructions(run: &mut Run, governed: &[Governed]) -> io::Result<()> {
    let programs = governed[governed.len() - 1].programs()?;
    let mut table = Table::new(
        "instructions",
        "Instructions",
        "After the verifier's rewriting; bytes of machine code; how many the verifier looked at.",
        &["instructions", "machine code (bytes)", "verified"],
        0,
    );
    let exact = |value: u32| {
        let value = f64::from(value);
        Some(Estimate {
            value,
            low: value,
            high: value,
            rounds: 1,
        })
    };
    for program in &programs {
        let cells = [
            exact(program.translated),
            exact(program.machine_code),
            exact(program.verified),
        ];
        table.row(&program.name, &cells);
    }
    run.tables.push(table);
    run.programs = programs;
    Ok(())
}
