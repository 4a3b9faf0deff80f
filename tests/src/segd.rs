//! segd under test: started on a policy text, waited for, killed, restarted, unloaded.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    lab::{BPFFS, PIN_PREFIX},
    spare::{self, Lent},
    wait::{self, PATIENCE},
    worker,
};

/// How long a daemon under test may take until the watchdog ends it.
const WATCHDOG: Duration = Duration::from_secs(240);

static INSTANCES: AtomicU32 = AtomicU32::new(0);

/// The binary under test: `SEGD_BIN`, else the younger of target/{release,debug}/segd.
///
/// # Panics
/// When there is none.
#[track_caller]
#[must_use]
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("SEGD_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("the test's own path");
    let target = test.ancestors().nth(3).expect("target/<profile>/deps/<test>");
    ["release", "debug"]
        .iter()
        .map(|profile| target.join(profile).join("segd"))
        .filter_map(|path| Some((fs::metadata(&path).ok()?.modified().ok()?, path)))
        .max()
        .expect("segd is built, or SEGD_BIN names it")
        .1
}

/// The same segd with other layouts of its maps: `SEGD_OTHER_LAYOUT`, else target/debug/segd-other-layout.
///
/// # Panics
/// When there is none.
#[track_caller]
#[must_use]
pub fn other_layout() -> PathBuf {
    let path = std::env::var_os("SEGD_OTHER_LAYOUT").map_or_else(
        || {
            let test = std::env::current_exe().expect("the test's own path");
            let target = test.ancestors().nth(3).expect("target/<profile>/deps/<test>");
            target.join("debug/segd-other-layout")
        },
        PathBuf::from,
    );
    assert!(
        path.exists(),
        "{} is not built: cargo build --package segd-other-layout",
        path.display()
    );
    path
}

/// How segd will be started.
#[derive(Debug)]
pub struct Builder {
    files: Vec<(String, String)>,
    policy: Option<PathBuf>,
    arguments: Vec<String>,
    binary: PathBuf,
    pin_dir: Option<PathBuf>,
    metrics: Option<String>,
    around: Vec<String>,
    limit_s: u64,
}

/// A running (or killed) segd with its own pins, sockets and policy directory.
#[derive(Debug)]
pub struct Segd {
    child: Option<Child>,
    directory: TempDir,
    policy: PathBuf,
    arguments: Vec<String>,
    binary: PathBuf,
    pin_dir: PathBuf,
    control: PathBuf,
    metrics: String,
    around: Vec<String>,
    stderr: Arc<Mutex<Vec<String>>>,
    watchdog: Child,
    /// Programs and maps that the next test may have.
    spare: Option<Lent>,
}

impl Builder {
    /// On a policy of one file.
    #[must_use]
    pub fn new(policy: &str) -> Builder {
        Builder {
            files: vec![("policy.yaml".into(), policy.into())],
            policy: None,
            arguments: Vec::new(),
            binary: binary(),
            pin_dir: None,
            metrics: None,
            around: Vec::new(),
            limit_s: wait::patient(WATCHDOG).as_secs(),
        }
    }

    /// How long it may take until the watchdog ends it, in seconds; 240 unless told.
    #[must_use]
    pub fn limit(mut self, seconds: u64) -> Builder {
        self.limit_s = wait::patient(Duration::from_secs(seconds)).as_secs();
        self
    }

    /// Starts it from a shell in a mount namespace of its own, after `script`: a host that lacks something.
    #[must_use]
    pub fn after(mut self, script: &str) -> Builder {
        let script = format!("set -e; {script}; exec \"$@\"");
        self.around = ["unshare", "--mount", "sh", "-c", &script, "sh"]
            .map(str::to_owned)
            .to_vec();
        self
    }

    /// One more file of the policy directory.
    #[must_use]
    pub fn file(mut self, name: &str, text: &str) -> Builder {
        self.files.push((name.into(), text.into()));
        self
    }

    /// On a policy that lies elsewhere.
    #[must_use]
    pub fn policy_path(mut self, path: impl Into<PathBuf>) -> Builder {
        self.policy = Some(path.into());
        self
    }

    /// More arguments for `segd run`.
    #[must_use]
    pub fn args(mut self, arguments: &[&str]) -> Builder {
        self.arguments
            .extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// Another pin directory.
    #[must_use]
    pub fn pin_dir(mut self, path: impl Into<PathBuf>) -> Builder {
        self.pin_dir = Some(path.into());
        self
    }

    /// Another metrics address.
    #[must_use]
    pub fn metrics(mut self, address: &str) -> Builder {
        self.metrics = Some(address.into());
        self
    }

    /// Another binary.
    #[must_use]
    pub fn binary(mut self, path: impl Into<PathBuf>) -> Builder {
        self.binary = path.into();
        self
    }

    fn prepare(self) -> Segd {
        let directory = tempfile::Builder::new()
            .prefix("segd-t-")
            .tempdir()
            .expect("a temporary directory");
        let policies = directory.path().join("policy");
        fs::create_dir(&policies).expect("a directory");
        for (name, text) in &self.files {
            write_atomically(&policies.join(name), text);
        }
        let number = INSTANCES.fetch_add(1, Ordering::Relaxed);
        let pin_dir = self
            .pin_dir
            .unwrap_or_else(|| Path::new(BPFFS).join(format!("{PIN_PREFIX}{}-{number}", std::process::id())));
        let watchdog = Command::new(worker::binary())
            .args(["watchdog", "--limit-s", &self.limit_s.to_string(), "--pin-dir"])
            .arg(&pin_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("the watchdog starts");
        Segd {
            child: None,
            policy: self.policy.unwrap_or(policies),
            control: directory.path().join("control.sock"),
            metrics: self.metrics.unwrap_or_else(free_address),
            directory,
            arguments: self.arguments,
            binary: self.binary,
            pin_dir,
            around: self.around,
            stderr: Arc::default(),
            watchdog,
            spare: None,
        }
    }

    /// Starts it and waits until it enforces.
    #[track_caller]
    #[must_use]
    pub fn start(self) -> Segd {
        let mut segd = self.prepare();
        // Before 5.13 the programs of the guard are used up by the first daemon.
        if !segd.arguments.iter().any(|argument| argument == "--protect") {
            segd.spare = spare::lend(&segd.pin_dir);
        }
        segd.launch();
        segd.wait_enforcing();
        if segd.arguments.is_empty() {
            segd.spare = segd.spare.take().or_else(|| spare::keep(&segd.pin_dir));
        }
        segd
    }

    /// Starts what must not start: waits for its end, returns status and everything it said on stderr.
    #[track_caller]
    pub fn start_failing(self) -> (ExitStatus, String) {
        let mut segd = self.prepare();
        segd.launch();
        let status = segd.wait_exit(PATIENCE);
        (status, segd.log())
    }

    /// Starts it without waiting.
    #[track_caller]
    #[must_use]
    pub fn launch(self) -> Segd {
        let mut segd = self.prepare();
        segd.launch();
        segd
    }
}

/// A local address nobody listens on.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("a bound socket").to_string()
}

/// Writes beside and renames over, as editors and deployments do.
///
/// # Panics
/// When the disk refuses.
pub fn write_atomically(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, text).expect("the policy can be written");
    fs::rename(&beside, path).expect("the policy can be renamed");
}

impl Segd {
    fn launch(&mut self) {
        self.launch_with(&self.binary.clone(), &[]);
    }

    fn launch_with(&mut self, binary: &Path, extra: &[&str]) {
        assert!(self.child.is_none(), "segd runs already");
        let mut words = self
            .around
            .iter()
            .map(Into::into)
            .chain([binary.as_os_str().to_owned()]);
        let mut command = Command::new(words.next().expect("a program"));
        let mut child = command
            .args(words)
            .arg("run")
            .arg("--policy")
            .arg(&self.policy)
            .arg("--pin-dir")
            .arg(&self.pin_dir)
            .arg("--control")
            .arg(&self.control)
            .args(["--metrics", &self.metrics])
            .args(&self.arguments)
            .args(extra)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("segd starts");
        self.stderr.lock().expect("no poison").clear();
        let (lines, pipe) = (self.stderr.clone(), child.stderr.take().expect("a pipe"));
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                lines.lock().expect("no poison").push(line);
            }
        });
        self.tell_watchdog(&format!("pid {}", child.id()));
        self.child = Some(child);
    }

    fn tell_watchdog(&mut self, line: &str) {
        if let Some(pipe) = self.watchdog.stdin.as_mut() {
            writeln!(pipe, "{line}").ok();
        }
    }

    /// Waits for the line `enforcing revision N`; returns N.
    #[track_caller]
    pub fn wait_enforcing(&mut self) -> u64 {
        let start = Instant::now();
        loop {
            if let Some(revision) = self.logged_revision() {
                return revision;
            }
            let ended = self
                .child
                .as_mut()
                .and_then(|child| child.try_wait().ok().flatten());
            if ended.is_some() || start.elapsed() > wait::patient(PATIENCE) {
                panic!("segd does not enforce ({ended:?}); it said:\n{}", self.log());
            }
            wait::within(Duration::from_millis(3), || false);
        }
    }

    /// The revision that it last said to enforce.
    #[must_use]
    pub fn logged_revision(&self) -> Option<u64> {
        self.stderr
            .lock()
            .expect("no poison")
            .iter()
            .rev()
            .find_map(|line| {
                let rest = line.split_once("enforcing revision ")?.1;
                rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
            })
    }

    /// What it has said on stderr since it was last started.
    #[must_use]
    pub fn log(&self) -> String {
        self.stderr.lock().expect("no poison").join("\n")
    }

    /// The process id.
    ///
    /// # Panics
    /// When it does not run.
    #[track_caller]
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("segd runs").id()
    }

    /// Kills it as `kill -9` does.
    #[track_caller]
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("segd runs");
        child.kill().expect("it can be killed");
        child.wait().expect("it can be waited for");
    }

    /// Ends it as service managers do; the status it ended with.
    #[track_caller]
    pub fn terminate(&mut self) -> ExitStatus {
        crate::sys::kill(self.pid(), libc::SIGTERM);
        self.wait_exit(PATIENCE)
    }

    #[track_caller]
    fn wait_exit(&mut self, deadline: Duration) -> ExitStatus {
        let mut child = self.child.take().expect("segd runs");
        let (start, deadline) = (Instant::now(), wait::patient(deadline));
        loop {
            if let Some(status) = child.try_wait().expect("it can be waited for") {
                // The reader thread may still be on the last line.
                wait::within(Duration::from_millis(50), || false);
                return status;
            }
            if start.elapsed() > deadline {
                child.kill().ok();
                child.wait().ok();
                panic!("segd did not end within {deadline:?}; it said:\n{}", self.log());
            }
            wait::within(Duration::from_millis(3), || false);
        }
    }

    /// Starts it again on the same pins and policy.
    #[track_caller]
    pub fn restart(&mut self) {
        self.launch();
        self.wait_enforcing();
    }

    /// Starts again what must not start: its status and what it said.
    #[track_caller]
    pub fn restart_failing(&mut self) -> (ExitStatus, String) {
        self.launch();
        let status = self.wait_exit(PATIENCE);
        (status, self.log())
    }

    /// Starts another build of it without waiting.
    #[track_caller]
    pub fn launch_as(&mut self, binary: &Path) {
        self.launch_with(binary, &[]);
    }

    /// Starts another build of it, or the same with other flags.
    #[track_caller]
    pub fn restart_as(&mut self, binary: &Path, extra: &[&str]) {
        self.launch_with(binary, extra);
        self.wait_enforcing();
    }

    /// The policy's path as given to segd.
    #[must_use]
    pub fn policy_path(&self) -> &Path {
        &self.policy
    }

    /// The directory that lives as long as the guard.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where its pins are.
    #[must_use]
    pub fn pin_dir(&self) -> &Path {
        &self.pin_dir
    }

    /// Its control socket.
    #[must_use]
    pub fn control(&self) -> &Path {
        &self.control
    }

    /// Its metrics address.
    #[must_use]
    pub fn metrics_address(&self) -> &str {
        &self.metrics
    }

    /// Does `change` and waits until a new revision is in force.
    #[track_caller]
    pub fn reload(&self, change: impl FnOnce(&Path)) {
        let before = self.revision();
        change(&self.policy);
        wait::wait_until(
            format!("a revision after {before}; segd said:\n{}", self.log()),
            PATIENCE,
            || self.revision() > before,
        );
    }

    /// Replaces the policy file and waits until that is in force.
    #[track_caller]
    pub fn set_policy(&self, text: &str) {
        self.reload(|directory| write_atomically(&directory.join("policy.yaml"), text));
    }

    /// The revision in force, by the metrics.
    #[track_caller]
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.metric("segd_policy_revision", &[])
            .expect("segd_policy_revision is exported") as u64
    }

    /// The text of the metrics page.
    ///
    /// # Panics
    /// When it is not served.
    #[track_caller]
    #[must_use]
    pub fn scrape(&self) -> String {
        let mut stream = std::net::TcpStream::connect(&self.metrics).unwrap_or_else(|error| {
            panic!("metrics at {}: {error}; segd said:\n{}", self.metrics, self.log())
        });
        stream
            .set_read_timeout(Some(wait::patient(PATIENCE)))
            .expect("a socket option");
        write!(
            stream,
            "GET /metrics HTTP/1.1\r\nHost: segd\r\nConnection: close\r\n\r\n"
        )
        .expect("a request");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer");
        let answer = String::from_utf8(answer).expect("metrics are text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
        assert!(head.starts_with("HTTP/1.1 200"), "metrics: {head}");
        if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
            return unchunk(body);
        }
        body.to_owned()
    }

    /// The sum of all series of `name` whose labels contain `labels`; `None` if there is none.
    #[track_caller]
    #[must_use]
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut sum = None;
        for line in self.scrape().lines() {
            let Some(rest) = line.strip_prefix(name) else {
                continue;
            };
            let (series, value) = match rest.as_bytes().first() {
                Some(b'{') => rest[1..].rsplit_once("} ").expect("a sample"),
                Some(b' ') => ("", &rest[1..]),
                _ => continue,
            };
            if labels
                .iter()
                .all(|(label, text)| series.contains(&format!("{label}=\"{text}\"")))
            {
                *sum.get_or_insert(0.0) += value.trim().parse::<f64>().expect("a number");
            }
        }
        sum
    }

    /// How many packets were counted with a verdict from one segment to another.
    #[track_caller]
    #[must_use]
    pub fn counted(&self, verdict: &str, from: &str, to: &str) -> u64 {
        let labels = [("verdict", verdict), ("from", from), ("to", to)];
        self.metric("segd_packets_total", &labels).unwrap_or_default() as u64
    }

    /// How many packets were denied, by reason; segd's own probe aside.
    #[track_caller]
    #[must_use]
    pub fn denied(&self) -> std::collections::BTreeMap<String, u64> {
        let mut denied = std::collections::BTreeMap::new();
        for line in self.scrape().lines() {
            let Some((series, value)) = line
                .strip_prefix("segd_packets_total{")
                .and_then(|rest| rest.rsplit_once("} "))
            else {
                continue;
            };
            let reason = series
                .split_once("reason=\"")
                .and_then(|(_, rest)| rest.split_once('"'));
            let Some((reason, _)) = reason else { continue };
            if series.contains("verdict=\"denied\"") && reason != "probe" {
                *denied.entry(reason.to_owned()).or_default() +=
                    value.trim().parse::<f64>().expect("a number") as u64;
            }
        }
        denied
    }

    /// Does `attempt` and waits until exactly `count` more packets than before are denied, all for one of `reasons`.
    ///
    /// # Panics
    /// When it is another number, or one is denied for another reason.
    #[track_caller]
    pub fn denies(&self, count: u64, reasons: &[&str], attempt: impl FnOnce()) {
        let before = self.denied();
        attempt();
        let more = || -> std::collections::BTreeMap<String, u64> {
            let now = self.denied().into_iter();
            now.map(|(reason, count)| (reason.clone(), count - before.get(&reason).copied().unwrap_or(0)))
                .filter(|(_, count)| *count > 0)
                .collect()
        };
        wait::within(Duration::from_millis(1500), || {
            more().values().sum::<u64>() >= count
        });
        wait::quiet(Duration::from_millis(30));
        let more = more();
        let named = more.keys().all(|reason| reasons.contains(&reason.as_str()));
        assert!(
            more.values().sum::<u64>() == count && named,
            "{count} denied for {reasons:?} expected, got {more:?}"
        );
    }

    /// Runs a client command against this daemon.
    ///
    /// # Panics
    /// When it cannot be run.
    #[track_caller]
    pub fn client(&self, words: &[&str]) -> Output {
        Command::new(&self.binary)
            .args(words)
            .arg("--control")
            .arg(&self.control)
            .env("NO_COLOR", "1")
            .output()
            .expect("segd runs")
    }

    /// The JSON a client command answers.
    ///
    /// # Panics
    /// When it fails or does not answer JSON.
    #[track_caller]
    #[must_use]
    pub fn json(&self, words: &[&str]) -> serde_json::Value {
        let mut all = words.to_vec();
        all.extend(["-o", "json"]);
        let output = self.client(&all);
        let text = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&text).unwrap_or_else(|error| {
            panic!(
                "segd {words:?} -o json: {error}; {}: {text}{}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            )
        })
    }

    /// Whether `segd policy explain` says that `from` may reach `to` on `port` under the policy's text.
    #[track_caller]
    #[must_use]
    pub fn explains_allowed(&self, from: &str, to: &str, port: &str) -> bool {
        explain(&self.binary, &self.policy, from, to, port)
    }

    fn unload_command(&self) -> Command {
        let mut unload = Command::new(&self.binary);
        unload
            .arg("unload")
            .arg("--pin-dir")
            .arg(&self.pin_dir)
            .arg("--control")
            .arg(&self.control);
        unload
    }

    /// `segd unload`, whether the daemon runs or not.
    #[track_caller]
    pub fn unload(&mut self) -> Output {
        self.unload_command().output().expect("segd runs")
    }

    /// Resident memory of the daemon in KiB.
    ///
    /// # Panics
    /// When it does not run.
    #[track_caller]
    #[must_use]
    pub fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("segd runs");
        status
            .lines()
            .find_map(|line| {
                line.strip_prefix("VmRSS:")?
                    .trim()
                    .strip_suffix(" kB")?
                    .trim()
                    .parse()
                    .ok()
            })
            .expect("VmRSS")
    }
}

/// `segd policy explain`: the exit code is the answer.
///
/// # Panics
/// When it neither allows nor denies.
#[track_caller]
#[must_use]
pub fn explain(binary: &Path, policy: &Path, from: &str, to: &str, port: &str) -> bool {
    let output = Command::new(binary)
        .args(["policy", "explain"])
        .arg(policy)
        .args(["--from", from, "--to", to, "--port", port])
        .output()
        .expect("segd runs");
    match output.status.code() {
        Some(0) => true,
        Some(1) => false,
        other => panic!(
            "explain {from} {to} {port}: exit {other:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        ),
    }
}

fn unchunk(body: &str) -> String {
    let (mut rest, mut text) = (body, String::new());
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).expect("a chunk's size");
        if size == 0 {
            break;
        }
        text.push_str(&after[..size]);
        rest = after[size..].trim_start_matches("\r\n");
    }
    text
}

impl Drop for Segd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- segd said:\n{}\n---", self.log());
        }
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
        if self.pin_dir.starts_with(BPFFS) && self.pin_dir.exists() {
            let mut unload = self.unload_command();
            unload.stdout(Stdio::null()).stderr(Stdio::null()).status().ok();
            fs::remove_dir_all(&self.pin_dir).ok();
        }
        self.tell_watchdog("done");
        drop(self.watchdog.stdin.take());
        self.watchdog.wait().ok();
    }
}
