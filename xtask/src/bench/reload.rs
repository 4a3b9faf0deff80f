//! How long an edit of the policy takes until the first packet is judged by it.

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    process::{Command, Stdio},
    sync::mpsc::Receiver,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::probe::now_ns;
use crate::{
    fixture::{
        cgroup::CgroupTree,
        daemon::{Daemon, free_port},
        interrupt::{self, pause, wait_for},
        process::{Place, Process, lines},
        scratch::Scratch,
    },
    lock::HostLock,
};

const NAME: &str = "segd-bench";
const PIN_DIR: &str = "/sys/fs/bpf/segd-bench";

/// What issue 2 asks of the 99th percentile.
const GOAL_MS: f64 = 50.0;
/// What issue 2 asks of the idle daemon.
const GOAL_MB: f64 = 30.0;

/// How long one reload may take before the benchmark gives up.
const RELOAD: Duration = Duration::from_secs(10);

/// How many segments the rules are about, beside those of the probe.
const SEGMENTS: usize = 50;

/// `cargo xtask bench reload`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// How many times the rule is taken out or put back.
    #[arg(long, default_value_t = 200)]
    flips: usize,
    /// How many rules the policy has.
    #[arg(long, default_value_t = 1000)]
    rules: usize,
    /// Move a finished file over the old one, as git and many editors do, instead of writing in place.
    #[arg(long)]
    rename: bool,
}

/// Runs `cargo xtask bench reload`.
pub fn run(options: &Options, lock: &HostLock) -> Result<()> {
    let scratch = Scratch::new(NAME, lock)?;
    let cgroups = CgroupTree::new(NAME)?;
    let (sender, receiver) = (cgroups.child("sender")?, cgroups.child("receiver")?);
    let port = free_port()?;
    let policies = [
        policy(options.rules, port, false),
        policy(options.rules, port, true),
    ];
    fs::create_dir(scratch.join("policy")).context("the policy's folder")?;
    let file = scratch.write("policy/bench.yaml", &policies[1])?;
    let mut daemon = Daemon::start(&scratch, &scratch.join("policy"), Path::new(PIN_DIR))?;

    let mut probe = Command::new("/proc/self/exe");
    probe
        .arg("probe")
        .args([&sender, &receiver])
        .arg(port.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut probe = Process::spawn(&mut probe, &Place::HOST)?;
    let verdicts = lines(&mut probe.child)?;
    if !next(&verdicts, &mut probe)?.1 {
        bail!("the probe is denied although the policy allows it");
    }

    let mut took_ms = Vec::with_capacity(options.flips);
    for flip in 0..options.flips {
        // Not in step with anything the daemon does by the clock.
        pause(Duration::from_millis(20 + (flip as u64 * 37) % 100))?;
        let allow = flip % 2 == 1;
        let written = write(&file, &scratch, &policies[usize::from(allow)], options.rename)?;
        let (changed, verdict) = next(&verdicts, &mut probe)?;
        if verdict != allow {
            bail!("flip {flip}: the verdict changed to the wrong one");
        }
        // A change before the end of the write would be one made on half a file.
        let Some(ns) = changed.checked_sub(written) else {
            bail!("flip {flip}: it changed before the write ended")
        };
        took_ms.push(ns as f64 / 1e6);
    }
    drop(probe);
    report(options, &mut took_ms);

    // Half a file, read while it was being written, is one; it must not happen often and changes nothing in force.
    let metrics = daemon.metrics()?;
    let failures = metrics
        .lines()
        .filter(|line| line.starts_with("segd_policy_reload_total{result=\"failure\"}"));
    failures.for_each(|line| println!("{line}"));

    pause(Duration::from_secs(2))?;
    let resident = daemon.resident_kib()? as f64 * 1024.0 / 1e6;
    let verdict = if resident < GOAL_MB { "yes" } else { "NO" };
    println!("idle daemon: {resident:.1} MB resident; under {GOAL_MB} MB: {verdict}");
    daemon.unload()
}

/// The next change of the verdict.
fn next(verdicts: &Receiver<String>, probe: &mut Process) -> Result<(u64, bool)> {
    let line = wait_for("the verdict changes", RELOAD, || {
        if let Some(status) = probe.ended()? {
            bail!("the probe ended: {status}");
        }
        interrupt::check()?;
        Ok(verdicts.try_recv().ok())
    })?;
    let (time, verdict) = line
        .split_once(' ')
        .with_context(|| format!("the probe said `{line}`"))?;
    Ok((
        time.parse().with_context(|| format!("the probe said `{line}`"))?,
        verdict == "allowed",
    ))
}

/// Writes the policy; the time at which the write was over.
fn write(file: &Path, scratch: &Scratch, text: &str, rename: bool) -> Result<u64> {
    if rename {
        let next = scratch.write("next", text)?;
        fs::rename(next, file).context("cannot move the policy")?;
    } else {
        fs::write(file, text).context("cannot write the policy")?;
    }
    now_ns()
}

fn policy(rules: usize, port: u16, allow: bool) -> String {
    let mut text = String::from(
        "apiVersion: segd.dev/v1\nkind: SegmentPolicy\nmetadata: {name: bench}\nspec:\n  segments:\n",
    );
    for name in ["sender", "receiver"] {
        let _ = writeln!(text, "    {name}: {{match: [{{cgroup: /{NAME}/{name}}}]}}");
    }
    for segment in 0..SEGMENTS {
        let _ = writeln!(
            text,
            "    s{segment}: {{match: [{{cgroup: /{NAME}/other/s{segment}}}]}}"
        );
    }
    text += "  allow:\n";
    for rule in 1..rules {
        let (from, to) = (rule % SEGMENTS, rule / SEGMENTS % SEGMENTS);
        let _ = writeln!(
            text,
            "    - {{from: s{from}, to: s{to}, ports: [tcp/{}]}}",
            1000 + rule % 5000
        );
    }
    // The probe's rule moves to a port where nobody listens rather than leave: the number of rules stays.
    let port = if allow { port } else { 9 };
    let _ = writeln!(text, "    - {{from: sender, to: receiver, ports: [udp/{port}]}}");
    text
}

fn report(options: &Options, took_ms: &mut [f64]) {
    took_ms.sort_by(f64::total_cmp);
    let how = if options.rename {
        "renamed over"
    } else {
        "written in place"
    };
    println!(
        "{} rules, {} reloads, the file {how}: end of the write to the first changed verdict",
        options.rules,
        took_ms.len()
    );
    for (name, percent) in [("min", 0), ("p50", 50), ("p90", 90), ("p99", 99), ("max", 100)] {
        println!("  {name}  {:7.2} ms", percentile(took_ms, percent));
    }
    let verdict = if percentile(took_ms, 99) < GOAL_MS {
        "yes"
    } else {
        "NO"
    };
    println!("p99 under {GOAL_MS} ms: {verdict}");
}

/// The value that `percent` of the sorted values do not exceed; 0 where there are none.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(
            [0, 50, 99, 100].map(|p| percentile(&values, p)),
            [1.0, 100.0, 198.0, 200.0]
        );
        assert_eq!(percentile(&[7.0], 99), 7.0);
        assert_eq!(percentile(&[], 99), 0.0);
    }

    #[test]
    fn the_policy_has_as_many_rules_as_asked_for() {
        for allow in [false, true] {
            assert_eq!(policy(1000, 5000, allow).matches("from:").count(), 1000);
        }
    }
}
