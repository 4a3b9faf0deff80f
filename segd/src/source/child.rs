//! Programs that segd asks something: `git`, `ssh-keygen`.
//!
//! INVARIANT: none of them keeps segd waiting for longer than it is given, and none has more privileges than reading takes.

use std::{
    io::{self, Read, Write as _},
    os::{
        fd::{AsRawFd as _, OwnedFd, RawFd},
        unix::process::CommandExt as _,
    },
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    time::{Duration, Instant},
};

/// What stays to a program, by the kernel's numbers: who may read what root reads still does (CAP_DAC_OVERRIDE,
/// CAP_DAC_READ_SEARCH). The daemon has neither.
const KEPT: u32 = 1 << 1 | 1 << 2;

/// What a program answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

/// Runs a program with something to read, and files that it inherits under their numbers. At most `most` bytes of its
/// answer are read; after `limit` it and what it started are killed.
pub(super) fn ask(
    command: &mut Command,
    input: Vec<u8>,
    lent: &[&OwnedFd],
    most: u64,
    limit: Duration,
) -> Result<Answer, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let deadline = Instant::now() + limit;
    let numbers: Vec<RawFd> = lent.iter().map(|fd| fd.as_raw_fd()).collect();
    // SAFETY: between fork and exec only system calls are made, on memory that was there before.
    unsafe { command.pre_exec(move || confine(&numbers)) };
    let mut child = command
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot run `{name}`: {error}"))?;
    let stdin = child.stdin.take();
    // All ends at once: a program prints before it has read all. A thread ends with the program.
    std::thread::spawn(move || {
        if let Some(mut stdin) = stdin {
            let _ = stdin.write_all(&input);
        }
    });
    let stdout = collect(child.stdout.take(), most);
    let stderr = collect(child.stderr.take(), 64 << 10);
    let read = |pipe: &mpsc::Receiver<io::Result<Vec<u8>>>| {
        let left = deadline.saturating_duration_since(Instant::now());
        match pipe.recv_timeout(left) {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(error)) => Err(format!("cannot read from `{name}`: {error}")),
            Err(RecvTimeoutError::Timeout) => Err(format!("`{name}` did not answer in time")),
            Err(RecvTimeoutError::Disconnected) => Err(format!("cannot read from `{name}`")),
        }
    };
    let answer = read(&stdout).and_then(|out| Ok((out, read(&stderr)?)));
    // Who has closed both has nothing more to do; who has not is over time, or says more than is read.
    let status = finish(&mut child, if answer.is_ok() { deadline } else { Instant::now() });
    let (stdout, stderr) = answer?;
    Ok(Answer {
        status: status.map_err(|error| format!("waiting for `{name}`: {error}"))?,
        stdout,
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    })
}

fn collect<R: Read + Send + 'static>(pipe: Option<R>, most: u64) -> mpsc::Receiver<io::Result<Vec<u8>>> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = pipe.map_or(Ok(0), |pipe| pipe.take(most).read_to_end(&mut bytes));
        // Nobody waits for what comes too late.
        let _ = send.send(read.map(|_| bytes));
    });
    receive
}

/// Waits for the end of a program, and makes it.
fn finish(child: &mut Child, deadline: Instant) -> io::Result<ExitStatus> {
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        // SLEEP: it has closed its ends and is about to exit; there is nothing to wait on but its exit.
        std::thread::sleep(Duration::from_millis(1));
    }
    if let Ok(group) = i32::try_from(child.id()) {
        // SAFETY: no pointers. The group is the child's own, and the child is not waited for yet: its number is no other's.
        unsafe { libc::kill(-group, libc::SIGKILL) };
    }
    child.wait()
}

/// In the child, before the program: no new privileges, none of the daemon's, and the files that are lent to it.
fn confine(lent: &[RawFd]) -> io::Result<()> {
    // SAFETY: no pointers.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // `capget(2)` and `capset(2)`, version 3: header, and effective, permitted and inheritable in two words each.
    let mut header = [0x2008_0522_u32, 0];
    let mut sets = [0_u32; 6];
    // SAFETY: a live header and as many words as the version has.
    unsafe {
        if libc::syscall(libc::SYS_capget, header.as_mut_ptr(), sets.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let kept = sets[1] & KEPT;
        sets = [kept, kept, 0, 0, 0, 0];
        if libc::syscall(libc::SYS_capset, header.as_mut_ptr(), sets.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    for fd in lent {
        // SAFETY: no pointers; the descriptor is open in the parent, and so here.
        if unsafe { libc::fcntl(*fd, libc::F_SETFD, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn run(script: &str, limit_ms: u64) -> Result<Answer, String> {
        let limit = Duration::from_millis(limit_ms);
        ask(&mut shell(script), b"question".to_vec(), &[], 1 << 20, limit)
    }

    #[test]
    fn answers_with_what_the_program_says() {
        let answer = run("cat; echo trouble >&2; exit 3", 10_000).unwrap();
        assert_eq!(answer.stdout, b"question");
        assert_eq!(
            (answer.stderr.as_str(), answer.status.code()),
            ("trouble\n", Some(3))
        );
    }

    #[test]
    fn a_program_that_hangs_is_ended_with_what_it_started() {
        let began = Instant::now();
        for script in ["sleep 300", "sleep 300 & wait", "exec >&- 2>&-; sleep 300"] {
            let failed = run(script, 300);
            let ended = failed.map_or(true, |answer| !answer.status.success());
            assert!(ended, "{script}");
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    }

    #[test]
    fn a_program_has_no_privilege_but_to_read() {
        let answer = run("cat /proc/self/status", 10_000).unwrap();
        let status = String::from_utf8(answer.stdout).unwrap();
        let line = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            u64::from_str_radix(line.trim_start_matches(':').trim(), 16).unwrap()
        };
        for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
            assert_eq!(line(set) & !u64::from(KEPT), 0, "{set}: {status}");
        }
        assert_eq!(line("NoNewPrivs"), 1);
    }
}
