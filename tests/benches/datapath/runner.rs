//! One arm's process: in its own cgroups and network namespace, on the CPU that all arms share, doing a slice when told.
//!
//! INVARIANT: a slice that does not do all of its work answers with an error and never with a time.

pub mod shown;
pub mod wire;
pub mod refused;
pub mod sockets;
pub mod watch;
pub mod births;

use std::{
    collections::HashMap,
    fs,
    io::{self, BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use serde::{Deserialize, Serialize};

use super::machine::{self, clock_ns};

/// Where a runner lives.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Home {
    /// The cgroup whose sockets ask.
    pub client: PathBuf,
    /// The cgroup whose sockets answer.
    pub server: PathBuf,
    /// The network namespace of those that ask.
    pub netns: Option<PathBuf>,
    /// The network namespace of those that answer, if it is another.
    pub server_netns: Option<PathBuf>,
    /// The CPU.
    pub cpu: usize,
}

/// What can be done in slices.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Work {
    /// Shows a program packets by hand.
    Shown(shown::Spec),
    /// Sends frames from one end of the cable to the other.
    Wire(wire::Spec),
    /// Sends what is refused.
    Refused(refused::Spec),
    /// Sends by sockets.
    Sockets(sockets::Spec),
    /// Waits until a verdict changes.
    Watch(watch::Spec),
    /// Sends from cgroups that were just born.
    Births(births::Spec),
}

/// What a runner is told.
#[derive(Debug, Serialize, Deserialize)]
enum Order {
    Prepare { name: String, work: Work },
    Slice { name: String },
    Drop { name: String },
}

/// One slice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    /// Operations.
    pub operations: u64,
    /// CPU time of the whole process, in nanoseconds: what other processes do meanwhile is not in it.
    pub cpu_ns: u64,
    /// The time that passed.
    pub wall_ns: u64,
    /// When it ended, by the monotonic clock.
    pub at_ns: u64,
}

impl Slice {
    /// Measures.
    ///
    /// # Errors
    ///
    /// What the work says.
    pub fn measure(work: impl FnOnce() -> io::Result<u64>) -> io::Result<Slice> {
        let (cpu, wall) = (
            clock_ns(libc::CLOCK_PROCESS_CPUTIME_ID),
            clock_ns(libc::CLOCK_MONOTONIC),
        );
        let operations = work()?;
        let cpu_ns = clock_ns(libc::CLOCK_PROCESS_CPUTIME_ID) - cpu;
        let at_ns = clock_ns(libc::CLOCK_MONOTONIC);
        Ok(Slice {
            operations,
            cpu_ns,
            wall_ns: at_ns - wall,
            at_ns,
        })
    }

    /// CPU time of one operation.
    pub fn cpu_each(&self) -> f64 {
        self.cpu_ns as f64 / self.operations.max(1) as f64
    }

    /// Passed time of one operation.
    pub fn wall_each(&self) -> f64 {
        self.wall_ns as f64 / self.operations.max(1) as f64
    }
}

/// Something prepared that does slices.
trait Ready {
    fn slice(&mut self) -> io::Result<Slice>;
}

/// Enters a cgroup; sockets belong to the one their process was in when they were made.
fn enter(cgroup: &Path) -> io::Result<()> {
    fs::write(cgroup.join("cgroup.procs"), "0")
}

/// The runner's process: orders on stdin, one answer each on stdout.
pub fn serve(home: &str) {
    segd_tests::sys::die_with_parent();
    let home: Home = serde_json::from_str(home).expect("a home");
    machine::pin(home.cpu).expect("a CPU");
    // What a socket is made for is said by `sockets`, which enters the server's as well.
    enter(&home.client).expect("a cgroup");
    if let Some(netns) = &home.netns {
        segd_tests::sys::enter_netns(netns).expect("a network namespace");
    }
    let mut works: HashMap<String, Box<dyn Ready>> = HashMap::new();
    for line in io::stdin().lock().lines() {
        let Ok(line) = line else { return };
        let order: Order = serde_json::from_str(&line).expect("an order");
        let answer = match order {
            Order::Prepare { name, work } => prepare(&home, work).map(|ready| {
                works.insert(name, ready);
                Slice::default()
            }),
            Order::Slice { name } => works.get_mut(&name).expect("a work that was prepared").slice(),
            Order::Drop { name } => {
                works.remove(&name);
                Ok(Slice::default())
            }
        };
        let answer = answer.map_err(|error| error.to_string());
        println!("{}", serde_json::to_string(&answer).expect("an answer is JSON"));
    }
}

fn prepare(home: &Home, work: Work) -> io::Result<Box<dyn Ready>> {
    Ok(match work {
        Work::Shown(spec) => Box::new(shown::Shown::new(&spec)?),
        Work::Refused(spec) => Box::new(refused::Refused::new(home, &spec)?),
        Work::Wire(spec) => Box::new(wire::Wire::new(home, &spec)?),
        Work::Sockets(spec) => sockets::prepare(home, &spec)?,
        Work::Births(spec) => Box::new(births::Births::new(home, &spec)?),
        Work::Watch(spec) => Box::new(watch::Watch::new(home, &spec)?),
    })
}

/// A runner as whoever started it sees it.
#[derive(Debug)]
pub struct Runner {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Runner {
    /// Starts one.
    pub fn start(home: &Home) -> Runner {
        let mut child = Command::new("/proc/self/exe")
            .arg("runner")
            .arg(serde_json::to_string(home).expect("a home is JSON"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this very binary starts");
        Runner {
            orders: child.stdin.take().expect("a pipe"),
            answers: BufReader::new(child.stdout.take().expect("a pipe")),
            child,
        }
    }

    fn tell(&mut self, order: &Order) {
        let order = serde_json::to_string(order).expect("an order is JSON");
        writeln!(self.orders, "{order}").expect("the runner lives");
    }

    fn hear(&mut self) -> Result<Slice, String> {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the runner answers");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("the runner said `{line}`: {error}"))
    }

    /// Prepares a work under a name.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub fn prepare(&mut self, name: &str, work: Work) -> Result<(), String> {
        self.tell(&Order::Prepare {
            name: name.to_owned(),
            work,
        });
        self.hear().map(drop)
    }

    /// Does a slice of it.
    ///
    /// # Errors
    ///
    /// What was not done.
    pub fn slice(&mut self, name: &str) -> Result<Slice, String> {
        self.begin(name);
        self.hear()
    }

    /// Tells it to do a slice; [`Runner::finish`] waits for it.
    pub fn begin(&mut self, name: &str) {
        self.tell(&Order::Slice {
            name: name.to_owned(),
        });
    }

    /// Waits for the slice that was begun.
    ///
    /// # Errors
    ///
    /// As [`Runner::slice`].
    pub fn finish(&mut self) -> Result<Slice, String> {
        self.hear()
    }

    /// Ends a work: its sockets are closed.
    pub fn forget(&mut self, name: &str) {
        self.tell(&Order::Drop {
            name: name.to_owned(),
        });
        self.hear().expect("nothing can fail");
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
