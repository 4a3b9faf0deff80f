//! How long people wait for an answer about a policy: the commands as they are run, reading included.

use std::{
    fmt::Write as _,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    command::line,
    fixture::{
        daemon::{Daemon, segd},
        interrupt,
        scratch::Scratch,
    },
    lock::HostLock,
};

const NAME: &str = "segd-bench-policy";
const PIN_DIR: &str = "/sys/fs/bpf/segd-bench-policy";

/// How many segments the rules are about.
const SEGMENTS: usize = 200;

/// `cargo xtask bench policy`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// How many rules the policy has.
    #[arg(long, default_value_t = 10_000)]
    rules: usize,
    /// How many times each command is run.
    #[arg(long, default_value_t = 30)]
    times: usize,
}

/// What a run took: by the clock on the wall, and of a processor.
struct Took {
    wall: Duration,
    cpu: Duration,
}

/// Runs `cargo xtask bench policy`.
pub fn run(options: &Options, lock: &HostLock) -> Result<()> {
    let scratch = Scratch::new(NAME, lock)?;
    let old = scratch.write("old.yaml", &policy(options.rules, 1))?;
    let new = scratch.write("new.yaml", &policy(options.rules, 3))?;
    let old = old.to_str().context("the path of the policy")?;
    let new = new.to_str().context("the path of the policy")?;
    let daemon = Daemon::start(&scratch, Path::new(old), Path::new(PIN_DIR))?;
    let control = scratch.join("control.sock");
    let control = control.to_str().context("the path of the socket")?;
    let question = ["--from", "s0", "--to", "s1", "--port", "tcp/1000"];
    let explain = ["policy", "explain"].iter().chain(&question);
    let asked = |more: &[&'static str]| -> Vec<&str> { explain.clone().chain(more).copied().collect() };
    let asks_daemon = [&asked(&[]), ["--control", control].as_slice()].concat();
    let asks_file = [&asked(&[]), [old].as_slice()].concat();

    println!(
        "{} rules between {SEGMENTS} segments, {} runs each: the whole command, from its start to its end",
        options.rules, options.times
    );
    println!("                              p50        max   of a processor, p50");
    let times = options.times;
    measure("check", &["policy", "check", old], &[0], Some(200), times)?;
    // 1: they differ.
    measure("diff", &["policy", "diff", old, new], &[0, 1], Some(1000), times)?;
    measure("explain, asks the daemon", &asks_daemon, &[0], Some(20), times)?;
    // What it takes beyond `check` is the question; a file is read first.
    measure("explain, reads the file", &asks_file, &[0], None, times)?;
    drop(daemon);
    Ok(())
}

/// Runs a command again and again and prints what it took; `goal_ms` is what issue 4 asks of the median.
fn measure(what: &str, args: &[&str], codes: &[i32], goal_ms: Option<u64>, times: usize) -> Result<()> {
    let mut walls = Vec::with_capacity(times);
    let mut cpus = Vec::with_capacity(times);
    for _ in 0..times {
        interrupt::check()?;
        let took = once(args, codes)?;
        walls.push(took.wall);
        cpus.push(took.cpu);
    }
    walls.sort_unstable();
    cpus.sort_unstable();
    let [median, longest] = [walls.len() / 2, walls.len().saturating_sub(1)]
        .map(|place| walls.get(place).copied().unwrap_or_default());
    let cpu = cpus.get(cpus.len() / 2).copied().unwrap_or_default();
    let verdict = goal_ms.map_or_else(String::new, |goal| {
        let met = if median < Duration::from_millis(goal) {
            "yes"
        } else {
            "NO"
        };
        format!("   under {goal} ms: {met}")
    });
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "  {what:24} {:7.1} ms {:7.1} ms {:7.1} ms{verdict}",
        ms(median),
        ms(longest),
        ms(cpu)
    );
    Ok(())
}

fn once(args: &[&str], codes: &[i32]) -> Result<Took> {
    let mut command = segd(args);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let (start, before) = (Instant::now(), children()?);
    let status = command.status().with_context(|| line(&command))?;
    let took = Took {
        wall: start.elapsed(),
        cpu: children()?.saturating_sub(before),
    };
    if !status.code().is_some_and(|code| codes.contains(&code)) {
        bail!("`{}` ended with {status}", line(&command));
    }
    Ok(took)
}

/// The processor time of all children that have ended.
fn children() -> Result<Duration> {
    // SAFETY: all zeros is a value of this structure of numbers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live `rusage`, which the call fills in.
    if unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) } != 0 {
        return Err(std::io::Error::last_os_error()).context("getrusage");
    }
    let time = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec.cast_unsigned()) + Duration::from_micros(time.tv_usec.cast_unsigned())
    };
    Ok(time(usage.ru_utime) + time(usage.ru_stime))
}

/// A policy of one-line rules; another `step` leads them elsewhere.
fn policy(rules: usize, step: usize) -> String {
    let mut text = String::from(
        "apiVersion: segd.dev/v1\nkind: SegmentPolicy\nmetadata: {name: bench}\nspec:\n  segments:\n",
    );
    for segment in 0..SEGMENTS {
        let _ = writeln!(
            text,
            "    s{segment}: {{labels: {{tier: t{}}}, match: [{{cgroup: /{NAME}/s{segment}}}, {{cidr: 10.1.{segment}.0/24}}]}}",
            segment % 10
        );
    }
    text += "  allow:\n";
    for rule in 0..rules {
        let from = rule % SEGMENTS;
        // Never to itself, which needs no rule.
        let to = (from + 1 + rule / SEGMENTS * step % (SEGMENTS - 1)) % SEGMENTS;
        let _ = writeln!(
            text,
            "    - {{from: s{from}, to: s{to}, ports: [tcp/{}]}}",
            1000 + rule % 5000
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_rule_is_needless() {
        for step in [1, 3] {
            let text = policy(1000, step);
            assert_eq!(text.matches("from:").count(), 1000);
            for segment in 0..SEGMENTS {
                assert!(!text.contains(&format!("from: s{segment}, to: s{segment},")));
            }
        }
    }
}
