//! The process that watches a verdict: a sender and a receiver in two segments, one datagram after another.
//!
//! A socket belongs to the cgroup its process was in when it was made, so one process can hold both ends; a datagram
//! over loopback is delivered before `sendto` returns, so each one has its verdict at once, without waiting.

use std::{
    fs,
    io::{ErrorKind, Write as _},
    net::{Ipv4Addr, UdpSocket},
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

/// How often the verdict is looked at; the scheduler adds some 50 µs.
const INTERVAL: Duration = Duration::from_micros(20);

/// `cargo xtask probe`, which the benchmark starts.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The folder of the sender's cgroup.
    sender: PathBuf,
    /// The folder of the receiver's cgroup.
    receiver: PathBuf,
    /// The receiver's UDP port on 127.0.0.1.
    port: u16,
}

/// Prints a line each time the verdict changes: the monotonic clock in nanoseconds, and `allowed` or `denied`.
pub fn run(options: &Options) -> Result<ExitCode> {
    enter(&options.receiver)?;
    let receiver =
        UdpSocket::bind((Ipv4Addr::LOCALHOST, options.port)).context("cannot bind the receiver")?;
    receiver.set_nonblocking(true).context("the receiver")?;
    enter(&options.sender)?;
    let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot bind the sender")?;

    let mut last = None;
    for number in 0_u64.. {
        let verdict = allowed(&sender, &receiver, options.port, number)?;
        if last != Some(verdict) {
            last = Some(verdict);
            let mut out = std::io::stdout().lock();
            writeln!(
                out,
                "{} {}",
                now_ns()?,
                if verdict { "allowed" } else { "denied" }
            )
            .context("stdout")?;
            out.flush().context("stdout")?;
        }
        thread::sleep(INTERVAL);
    }
    Ok(ExitCode::SUCCESS)
}

fn allowed(sender: &UdpSocket, receiver: &UdpSocket, port: u16, number: u64) -> Result<bool> {
    match sender.send_to(&number.to_ne_bytes(), (Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(false),
        Err(error) => return Err(error).context("cannot send"),
    }
    let mut datagram = [0; 8];
    loop {
        match receiver.recv(&mut datagram) {
            Ok(8) if datagram == number.to_ne_bytes() => return Ok(true),
            Ok(length) => bail!("a datagram of {length} bytes that is not the last one sent"),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("cannot receive"),
        }
    }
}

fn enter(cgroup: &Path) -> Result<()> {
    // "0" is the process that writes.
    fs::write(cgroup.join("cgroup.procs"), "0").with_context(|| format!("cannot enter {}", cgroup.display()))
}

/// The monotonic clock, which is the same for every process.
pub fn now_ns() -> Result<u64> {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a live `timespec`, which the call fills in.
    if unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) } != 0 {
        return Err(std::io::Error::last_os_error()).context("clock_gettime");
    }
    Ok(now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned())
}
