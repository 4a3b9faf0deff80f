//! What one packet of an established connection costs: too little to be seen in one run of a program, so the same program
//! hangs on the hook many times.

use std::{io, os::fd::OwnedFd, time::Duration};

use segd_tests::Lab;

use super::spec;
use crate::{
    Run, bpf,
    bpf::{HOOKS, Hook},
    control::of_rules,
    race::{self, Arm, Length},
    report::{Bound, Table},
    rivals,
    runner::{Runner, Work, sockets::Kind},
    stage::{self, Governed, Place, Way},
};

/// How often a program hangs on a hook.
const TIMES: usize = 32;

/// What one packet of an established connection costs: the same program 32 times on the hook.
pub(super) fn established(run: &mut Run, lab: &Lab, governed: Vec<Governed>) -> io::Result<()> {
    let way = Way {
        beside: false,
        six: false,
    };
    let place = |number, name: &str| Place::new(lab, number, name);
    let mut stands = vec![
        ("empty", place(50, "empty32")),
        ("empty again", place(51, "again32")),
        ("one hash lookup (H)", place(52, "hash32")),
        ("two tries (systemd's shape)", place(53, "tries32")),
    ];
    let attached = [
        rivals::empty(&stands[0].1, TIMES)?,
        rivals::empty(&stands[1].1, TIMES)?,
        rivals::hash(&stands[2].1, TIMES)?,
        rivals::systemd(&stands[3].1, TIMES)?,
    ];
    let mut names: Vec<String> = stands.iter().map(|(name, _)| (*name).to_owned()).collect();
    let mut places: Vec<Place> = stands.drain(..).map(|(_, place)| place).collect();
    let mut counted: Vec<Option<u32>> = attached.iter().map(|attached| attached.program).collect();
    let mut keep: Vec<OwnedFd> = Vec::new();
    let mut daemons = Vec::new();
    for governed in governed {
        for hook in HOOKS {
            let program = bpf::program_by_id(governed.program(hook)?)?;
            // It hangs there once already.
            keep.extend(rivals::copies(&governed.place, &program, TIMES - 1, &[hook])?);
        }
        counted.push(Some(governed.program(Hook::Egress)?));
        names.push(format!("segd, {} rules", governed.policy.rules()));
        let Governed { place, segd, policy } = governed;
        places.push(place);
        daemons.push((segd, policy));
    }
    let mut runners: Vec<Runner> = places
        .iter()
        .map(|place| Runner::start(&place.home(way)))
        .collect();
    let kind = Kind::RequestResponse;
    for (runner, place) in runners.iter_mut().zip(&places) {
        let work = Work::Sockets(spec(place, way, kind, 100));
        runner.prepare("work", work).map_err(io::Error::other)?;
    }
    let runs = runs_each(&mut runners, &counted)?;
    let arms: Vec<Arm<'_>> = names
        .iter()
        .enumerate()
        .map(|(runner, name)| Arm {
            name: name.clone(),
            runner,
            work: "work",
        })
        .collect();
    let length = Length {
        time: Duration::from_secs(run.seconds),
        rounds: 30,
    };
    let race = race::run(&mut runners, &arms, stage::cpu(), length, run.seed);
    run.note_race("established packet", &race);

    let hooks = runs[0];
    let note = format!(
        "TCP request-response over loopback with each program {TIMES} times on both hooks: {hooks:.1} runs for each request and \
         its answer, egress and ingress alike; what is told is for one run. Segments: those of a connection whose verdict lies on its socket."
    );
    let mut table = Table::new(
        "established",
        "Established packet",
        note,
        &["ns over empty", "in H"],
        1,
    );
    let unit = ("one hash lookup (H)", "empty");
    for name in &names {
        let over = race.over(name, "empty", 1.0 / hooks);
        table.row(name, &[Some(over), Some(race.in_units((name, "empty"), unit))]);
    }
    run.tables.push(table);
    if let (Some(most), true) = (names.last(), race.has("empty")) {
        let least = &names[4];
        let figure = race.in_units((most, "empty"), unit);
        run.goal(
            "established packet over an empty program, in H",
            Bound::AtMost(0.4),
            Some(figure),
            &format!("{most}; mean of both hooks"),
        );
        let growth = race.in_units((most, "empty"), (least, "empty"));
        run.goal(
            "established packet, most rules ÷ 10 rules",
            Bound::AtMost(1.05),
            Some(growth),
            &format!("segd, {}", of_rules(run.sizes[run.sizes.len() - 1])),
        );
    }
    Ok(())
}

/// How often the arms' programs run for one operation, by the kernel's count. Every arm must have run all its copies.
fn runs_each(runners: &mut [Runner], programs: &[Option<u32>]) -> io::Result<Vec<f64>> {
    let _counting = bpf::count_runs()?;
    let mut all = Vec::new();
    for (runner, program) in runners.iter_mut().zip(programs) {
        let Some(id) = program else { continue };
        let program = bpf::program_by_id(*id)?;
        let before = bpf::program(&program)?.runs;
        let slice = runner.slice("work").map_err(io::Error::other)?;
        let runs = (bpf::program(&program)?.runs - before) as f64 / slice.operations as f64;
        // Egress or ingress alone, of the client's or the server's packet, is the least.
        if runs < TIMES as f64 {
            return Err(io::Error::other(format!(
                "program {id} ran {runs} times for an operation"
            )));
        }
        all.push(runs);
    }
    Ok(all)
}
