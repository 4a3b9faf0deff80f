//! `segd unload`: detaches and removes everything, with the daemon running or dead.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use super::{CANNOT, ClientArgs, YES};
use crate::{
    cli,
    control::{
        client::{Client, ClientError},
        protocol::{Refusal, RefusalKind, Request, Response},
    },
    output,
};

/// How long the daemon may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Flags of `segd unload`.
#[derive(Debug, clap::Args)]
pub struct UnloadArgs {
    /// Where programs, links and maps are pinned
    #[arg(long, env = "SEGD_PIN_DIR", default_value = cli::PIN_DIR, value_name = "DIR")]
    pin_dir: PathBuf,
    #[command(flatten)]
    client: ClientArgs,
}

impl UnloadArgs {
    /// Runs it.
    #[must_use]
    pub fn run(self) -> ExitCode {
        // The rescue must work whatever the daemon does: one that cannot be stopped is said, and no obstacle.
        let mut another = None;
        let stopped = match stop(&self.client.control, &self.pin_dir) {
            Ok(Asked::Stopped(pid)) => Ok(Some(pid)),
            // Not at that socket: but one that lives would put everything back.
            Ok(Asked::Nobody) => end(&self.pin_dir),
            Ok(Asked::Another(line)) => {
                another = Some(line);
                end(&self.pin_dir)
            }
            Err(error) => match end(&self.pin_dir) {
                Ok(None) => Err(error),
                ended => ended,
            },
        };
        let mut ended = false;
        let mut code = match stopped {
            Ok(Some(pid)) => {
                ended = true;
                let _ = output::stdout(&format!("stopped segd, pid {pid}\n"));
                YES
            }
            Ok(None) => YES,
            Err(error) => {
                let help = "a daemon that still runs may load its programs again; stop it and repeat";
                output::complain(&format!("segd could not be stopped: {error}"), Some(help));
                CANNOT
            }
        };
        match crate::datapath::unload(&self.pin_dir) {
            Ok(report) => {
                let mut text = String::new();
                for what in &report.removed {
                    text.push_str(&format!("removed {}\n", output::clean(what)));
                }
                if report.removed.is_empty() {
                    text.push_str(&format!("nothing to unload in {}\n", self.pin_dir.display()));
                }
                if report.left > 0 {
                    text.push_str(&format!(
                        "{} stays: {} entries in it are not segd's\n",
                        self.pin_dir.display(),
                        report.left
                    ));
                }
                let _ = output::stdout(&text);
                // Whoever unloads means the one that enforces; what was done to another is not it.
                if let Some(line) = another.filter(|_| report.removed.is_empty() && !ended) {
                    output::complain(&line, Some("--pin-dir names what to unload"));
                    code = CANNOT;
                }
                ExitCode::from(code)
            }
            Err(error) => output::fail(CANNOT, &format!("{error:#}"), None),
        }
    }
}

/// What came of asking at the control socket.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// Nobody answers there.
    Nobody,
    /// A daemon of another pin directory does, in a line. It was let be.
    Another(String),
    /// The daemon has ended.
    Stopped(u32),
}

/// Asks the daemon to end, if the pin directory is its own, and waits for it.
fn stop(control: &Path, pin_dir: &Path) -> Result<Asked, ClientError> {
    let mut client = match Client::ask(control, &Request::Status) {
        Ok(client) => client,
        Err(ClientError::NotRunning { .. }) => return Ok(Asked::Nobody),
        Err(error) => return Err(error),
    };
    let status = match client.answer()? {
        Response::Status(status) => status,
        _ => return Err(client.surprise()),
    };
    if !is_of(status.pid, Path::new(&status.pin_dir), pin_dir) {
        return Ok(Asked::Another(format!(
            "segd, pid {}, goes on enforcing: its pin directory is {}",
            status.pid,
            if status.pin_dir.is_empty() {
                "another one"
            } else {
                &status.pin_dir
            }
        )));
    }
    let mut client = match Client::ask(control, &Request::Stop) {
        Ok(client) => client,
        Err(ClientError::NotRunning { .. }) => return Ok(Asked::Nobody),
        Err(error) => return Err(error),
    };
    let pid = match client.answer()? {
        Response::Stopping(stopping) => stopping.pid,
        _ => return Err(client.surprise()),
    };
    let birth = birth(pid);
    let deadline = Instant::now() + STOP_LIMIT;
    let closed = client.wait_for_the_end(STOP_LIMIT);
    // The connection closes a moment before the process has let go of its programs and maps.
    let ended = gone(pid, birth, deadline);
    if closed && ended {
        return Ok(Asked::Stopped(pid));
    }
    Err(lasting(pid))
}

/// Whether a daemon is that of a pin directory. `its`: what it says itself; empty before it said so.
fn is_of(pid: u32, its: &Path, pin_dir: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    match its.as_os_str().is_empty() {
        false => real(its) == real(pin_dir),
        true => crate::daemon::lock::holder(pin_dir) == Some(pid),
    }
}

/// Ends the daemon that holds the pin directory, whatever its control socket is and whether it listens or not. `None` if
/// there is none.
fn end(pin_dir: &Path) -> Result<Option<u32>, ClientError> {
    let Some(pid) = crate::daemon::lock::holder(pin_dir) else {
        return Ok(None);
    };
    let birth = birth(pid);
    // SAFETY: no pointers; the process holds the lock, so it is a daemon of this pin directory.
    unsafe { libc::kill(pid as libc::pid_t, libc::SIGTERM) };
    if gone(pid, birth, Instant::now() + STOP_LIMIT) {
        return Ok(Some(pid));
    }
    // One that hangs would guard its pins (`--protect`) for as long as it does.
    // SAFETY: as above; it still holds the lock.
    unsafe { libc::kill(pid as libc::pid_t, libc::SIGKILL) };
    if gone(pid, birth, Instant::now() + STOP_LIMIT) {
        Ok(Some(pid))
    } else {
        Err(lasting(pid))
    }
}

/// Waits until a process born then is no more.
fn gone(pid: u32, birth: Option<u64>, deadline: Instant) -> bool {
    while birth.is_some() && self::birth(pid) == birth {
        if Instant::now() >= deadline {
            return false;
        }
        // SLEEP: nothing tells of the end of another's process.
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

fn lasting(pid: u32) -> ClientError {
    let message = format!("pid {pid} did not end within {} s", STOP_LIMIT.as_secs());
    ClientError::Refused(Refusal::new(RefusalKind::Busy, message))
}

/// When a process started, in the kernel's ticks: tells it from a later one with the same id. A zombie whose last thread is gone has
/// let go of everything and counts as ended.
fn birth(pid: u32) -> Option<u64> {
    // From the third field on, proc(5): the state; the 20th is how many threads there are, the 22nd the start.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let (state, threads, start) = (fields.first()?, fields.get(17)?, fields.get(19)?);
    if matches!(*state, "Z" | "X") && threads.parse::<u32>().ok()? <= 1 {
        return None;
    }
    start.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{protocol::Envelope, types::Status};

    #[test]
    fn knows_when_a_process_was_born_and_that_it_ended() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .expect("sleep starts");
        let born = birth(child.id());
        assert!(born.is_some_and(|ticks| ticks > 0), "{born:?}");
        assert_eq!(birth(child.id()), born);
        child.kill().expect("it can be ended");
        child.wait().expect("it ends");
        assert_eq!(birth(child.id()), None);
    }

    #[test]
    fn finds_no_daemon_where_no_socket_is() {
        let directory = tempfile::tempdir().expect("a directory");
        let control = directory.path().join("control.sock");
        assert!(matches!(stop(&control, directory.path()), Ok(Asked::Nobody)));
    }

    #[test]
    fn a_daemon_of_another_directory_is_let_be() {
        use std::{
            io::{BufRead as _, BufReader, Write as _},
            os::unix::net::UnixListener,
        };
        let directory = tempfile::tempdir().expect("a directory");
        let control = directory.path().join("control.sock");
        let listener = UnixListener::bind(&control).expect("a socket");
        let status = Status {
            pid: 4711,
            pin_dir: "/sys/fs/bpf/segd-of-another".into(),
            ..Status::default()
        };
        let answer = Envelope::new(Response::Status(Box::new(status)));
        let answer = serde_json::to_string(&answer).expect("an answer");
        let daemon = std::thread::spawn(move || {
            let mut asked = Vec::new();
            // Whatever comes behind the question would be the order to end.
            let (stream, _) = listener.accept().expect("a client");
            let mut reader = BufReader::new(stream);
            let mut line = String::new();
            reader.read_line(&mut line).expect("a question");
            asked.push(line);
            writeln!(reader.get_mut(), "{answer}").expect("an answer");
            listener.set_nonblocking(true).expect("a socket");
            (asked, listener)
        });
        let said = stop(&control, Path::new("/sys/fs/bpf/segd-t-unload")).expect("an answer");
        let line = "segd, pid 4711, goes on enforcing: its pin directory is /sys/fs/bpf/segd-of-another";
        assert_eq!(said, Asked::Another(line.into()));
        let (asked, listener) = daemon.join().expect("it ends");
        assert!(
            asked.first().is_some_and(|line| line.contains("status")),
            "{asked:?}"
        );
        assert!(listener.accept().is_err(), "nothing else was asked");
    }

    #[test]
    fn a_daemon_that_does_not_say_which_directory_is_its_own_is_known_by_the_lock() {
        let directory = tempfile::tempdir().expect("a directory");
        let beside = directory
            .path()
            .join("..")
            .join(directory.path().file_name().expect("a name"));
        assert!(is_of(1, &beside, directory.path()), "two ways to say the same");
        assert!(!is_of(1, Path::new(""), directory.path()), "nobody holds it");
        assert!(!is_of(1, Path::new("/elsewhere"), directory.path()));
    }
}
