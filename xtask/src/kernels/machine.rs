//! One kernel in QEMU, from its first instruction until it powers off, falls silent, or says that it is broken.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    archive::{self, Package},
    transcript::{Run, Transcript},
};
use crate::{
    built::Test,
    command::command,
    fixture::process::{Place, Process, lines},
};

/// How much of a processor a machine may take without a word of the tests or of the kernel: the slowest test, twice. It takes what
/// others leave, for minutes nothing: the clock on the wall tells a silent machine from a starved one only when it is far too late.
const SILENCE: Duration = Duration::from_secs(600);
/// How long it may be without a word by that clock.
const STARVED: Duration = Duration::from_secs(1800);
/// How much of one it may take to power off once everything has been said.
const POWER_OFF: Duration = Duration::from_secs(30);
/// How often a boot that never came to its first line is tried again: emulation fails there now and then.
const BOOTS: u32 = 3;

/// What a kernel prints about itself when it is broken.
const SPLATS: &[&str] = &[
    "------------[ cut here ]------------",
    "Kernel panic",
    "BUG: ",
    "Oops: ",
];

/// Warnings that are known, and why they are no fault of segd's.
const KNOWN: &[(&str, &str)] = &[(
    "trace type BPF program uses run-time allocation",
    "5.10 says so once of every such program; `cgroup_mkdir` runs where memory may be allocated",
)];

/// Boots a kernel and lets it run the tests.
pub fn run(package: &Package, image: &Path, tests: &[Test]) -> Result<Run> {
    for boot in 1.. {
        let mut machine = Machine::boot(package, image)?;
        let run = machine.watch(package.kernel.name, tests)?;
        if run.booted || boot == BOOTS {
            return Ok(run);
        }
        eprintln!("{}: it did not boot; once more", package.release);
    }
    unreachable!("the loop returns")
}

struct Machine {
    qemu: Process,
    /// What the tests say.
    lines: Receiver<String>,
    /// What the kernel says.
    console: PathBuf,
}

impl Machine {
    fn boot(package: &Package, image: &Path) -> Result<Machine> {
        let console = archive::home().join(format!("console-{}.log", package.kernel.name));
        fs::write(&console, "").with_context(|| format!("cannot write {}", console.display()))?;
        // With instructions for a clock, time in the machine does not pass faster than its processor works, whatever
        // else this host does; and waiting costs nothing.
        let clock = "shift=0,align=off,sleep=off";
        // So it takes nothing from the tests that CI runs beside it, some of which are timed, and loses nothing by waiting.
        let mut qemu = command("chrt", &["--idle", "0", "qemu-system-x86_64"]);
        qemu.args(["-accel", "tcg", "-icount", clock]);
        qemu.args(["-smp", "1", "-M", "pc", "-cpu", PROCESSOR, "-m", "1536"]);
        qemu.args([
            "-nodefaults",
            "-no-reboot",
            "-display",
            "none",
            "-serial",
            "stdio",
        ]);
        qemu.arg("-serial").arg(format!("file:{}", console.display()));
        qemu.arg("-kernel").arg(&package.image).arg("-initrd").arg(image);
        qemu.args(["-append", COMMAND_LINE]);
        qemu.stdin(std::process::Stdio::null());
        qemu.stdout(std::process::Stdio::piped());
        let mut qemu = Process::spawn(&mut qemu, &Place::HOST)?;
        let lines = lines(&mut qemu.child)?;
        Ok(Machine { qemu, lines, console })
    }

    fn watch(&mut self, kernel: &'static str, tests: &[Test]) -> Result<Run> {
        let mut transcript = Transcript::new(kernel, tests);
        let mut console = Console::default();
        let mut heard = self.now()?;
        loop {
            match self.lines.recv_timeout(Duration::from_millis(500)) {
                Ok(line) => {
                    heard = self.now()?;
                    transcript.hear(line.trim_end());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if console.read(&self.console)? {
                heard = self.now()?;
            }
            if let Some(splat) = &console.splat {
                transcript.broken(format!("the kernel said: {splat}"));
            }
            let patience = if transcript.done() { POWER_OFF } else { SILENCE };
            if heard.is_longer_ago_than(patience, &self.now()?) || transcript.is_broken() {
                break;
            }
        }
        if !transcript.done() {
            let ended = self.qemu.ended()?;
            let why = match ended {
                Some(status) => format!("the machine ended ({status}) before it had run every test"),
                None => {
                    let now = self.now()?;
                    let [wall, ran] =
                        [now.wall - heard.wall, now.ran.saturating_sub(heard.ran)].map(|time| time.as_secs());
                    format!("the machine said nothing for {wall} s, of which it ran {ran} s")
                }
            };
            transcript.broken(why);
        }
        self.qemu.stop()?;
        let tail = console.tail();
        Ok(transcript.finish(&tail))
    }

    fn now(&self) -> Result<Moment> {
        Ok(Moment {
            wall: Instant::now(),
            ran: self.qemu.ran()?,
        })
    }
}

/// By the clock on the wall, and by how much of a processor the machine has taken.
#[derive(Clone, Copy)]
struct Moment {
    wall: Instant,
    ran: Duration,
}

impl Moment {
    fn is_longer_ago_than(&self, patience: Duration, now: &Moment) -> bool {
        now.ran.saturating_sub(self.ran) > patience || now.wall - self.wall > STARVED
    }
}

/// All that emulation has, but a kernel told that `rep movsb` is fast copies and clears memory with it, which emulation does a byte
/// at a time: 5.10's verifier took 110 s for what takes it 69 s now.
const PROCESSOR: &str = "max,-erms,-fsrm";

/// A program that hangs on a security hook is asked where the list ends in `bpf`; older lists name what a kernel lacks
/// without harm.
const COMMAND_LINE: &str =
    "console=ttyS1 loglevel=5 panic=-1 noapic lsm=lockdown,capability,yama,apparmor,bpf";

/// What the kernel has said so far.
#[derive(Default)]
struct Console {
    text: String,
    splat: Option<String>,
}

impl Console {
    /// Looks whether it said more.
    fn read(&mut self, file: &Path) -> Result<bool> {
        let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if text.len() == self.text.len() {
            return Ok(false);
        }
        self.text = text;
        self.splat = splat(&self.text);
        Ok(true)
    }

    /// Its last words.
    fn tail(&self) -> String {
        let lines: Vec<&str> = self.text.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }
}

/// The first line that says that the kernel is broken, with the line after it. A splat whose second line has not come yet
/// waits for it.
fn splat(console: &str) -> Option<String> {
    let lines: Vec<&str> = console.lines().collect();
    lines.windows(2).find_map(|pair| {
        let [first, second] = pair else { return None };
        let known = KNOWN.iter().any(|(known, _)| second.contains(known));
        let is_splat = !known && SPLATS.iter().any(|splat| first.contains(splat));
        is_splat.then(|| format!("{} {}", first.trim(), second.trim()))
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Moment, STARVED, splat};

    #[test]
    fn a_machine_that_others_starve_is_not_silent() {
        let start = Moment {
            wall: Instant::now(),
            ran: Duration::from_secs(7),
        };
        let after = |wall, ran| Moment {
            wall: start.wall + wall,
            ran: start.ran + ran,
        };
        let [short, patience, long] = [1, 600, 601].map(Duration::from_secs);
        assert!(!start.is_longer_ago_than(patience, &after(long, short)));
        assert!(start.is_longer_ago_than(patience, &after(long, long)));
        assert!(start.is_longer_ago_than(patience, &after(STARVED + short, short)));
    }

    #[test]
    fn a_warning_breaks_a_machine_unless_it_is_known() {
        let warning =
            |what: &str| format!("[ 1.0] fine\n[ 2.0] ------------[ cut here ]------------\n[ 2.1] {what}\n");
        assert_eq!(splat("[ 1.0] fine\n[ 1.1] also\n"), None);
        assert_eq!(
            splat(&warning("trace type BPF program uses run-time allocation")),
            None
        );
        let text = splat(&warning("WARNING: CPU: 0 at net/core/dev.c")).unwrap();
        assert!(text.contains("net/core/dev.c"), "{text}");
        assert!(splat("[ 3.0] Kernel panic - not syncing\n[ 3.1] more\n").is_some());
    }
}
