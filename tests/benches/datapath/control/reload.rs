//! One rule of a policy changed in its file, again and again: how long until the first packet is judged by it.

use std::{
    io,
    time::{Duration, Instant},
};

use segd_tests::segd::write_atomically;

use super::{DEBOUNCE_MS, WAY, of_rules};
use crate::{
    Run,
    machine::clock_ns,
    policy::{FIRST, WATCHED},
    report::Bound,
    runner::{Runner, Work, watch},
    stage::Governed,
    statistics::{Dice, Estimate},
};

/// Moves the watched rule away and back; how long each took, in milliseconds.
pub(super) fn flips(run: &Run, governed: &Governed) -> io::Result<Vec<f64>> {
    let mut runner = Runner::start(&governed.place.home(WAY));
    let spec = watch::Spec {
        port: WATCHED,
        patience_s: 30,
    };
    runner
        .prepare("watch", Work::Watch(spec))
        .map_err(io::Error::other)?;
    let passes = runner.slice("watch").map_err(io::Error::other)?.operations == 1;
    if !passes {
        return Err(io::Error::other(
            "the watched datagram is denied although the policy allows it",
        ));
    }
    let file = governed.segd.policy_path().join(FIRST);
    let texts = [governed.policy.first(false), governed.policy.first(true)];
    let (mut took, mut dice) = (Vec::new(), Dice::new(run.seed));
    let (start, time) = (Instant::now(), Duration::from_secs(run.seconds));
    while took.len() < 20 || (start.elapsed() < time && took.len() < 400) {
        let allow = took.len() % 2 == 1;
        // SLEEP: not in step with anything that the daemon does by the clock.
        std::thread::sleep(Duration::from_millis(20 + dice.below(40) as u64));
        runner.begin("watch");
        write_atomically(&file, &texts[usize::from(allow)]);
        let written = clock_ns(libc::CLOCK_MONOTONIC);
        let changed = runner.finish().map_err(io::Error::other)?;
        if (changed.operations == 1) != allow {
            return Err(io::Error::other("the verdict changed to the wrong one"));
        }
        took.push(changed.at_ns.saturating_sub(written) as f64 / 1e6);
    }
    Ok(took)
}

/// Compares with the goals; for each size the rules, p50 and p99.
pub(super) fn goals(run: &mut Run, sizes: &[(usize, Estimate, Estimate)]) {
    let after = |of: Estimate| Estimate {
        value: of.value - DEBOUNCE_MS,
        low: of.low - DEBOUNCE_MS,
        high: of.high - DEBOUNCE_MS,
        ..of
    };
    let at = sizes.iter().find(|(rules, ..)| *rules == 10_000);
    if let Some((_, half, most)) = at {
        let note = "after the debounce";
        run.goal(
            "file written → enforced, 10,000 rules, p50 (ms)",
            Bound::AtMost(9.0),
            Some(after(*half)),
            note,
        );
        run.goal(
            "file written → enforced, 10,000 rules, p99 (ms)",
            Bound::AtMost(30.0),
            Some(after(*most)),
            note,
        );
    }
    if let (Some((_, ten_thousand, _)), Some((rules, half, most))) = (at, sizes.last()) {
        let note = of_rules(*rules);
        run.goal(
            "one rule changed, most rules, p99 (ms)",
            Bound::AtMost(10.0),
            Some(*most),
            &note,
        );
        // Two independent runs: the interval is the widest that both allow.
        let growth = Estimate {
            value: half.value / ten_thousand.value,
            low: half.low / ten_thousand.high,
            high: half.high / ten_thousand.low,
            rounds: half.rounds,
        };
        run.goal(
            "one rule changed, most rules ÷ 10,000 rules, p50",
            Bound::AtMost(1.2),
            Some(growth),
            &note,
        );
    }
}
