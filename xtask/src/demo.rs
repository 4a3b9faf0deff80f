//! `cargo xtask demo`: segd's main job on real programs, line by line: what was tried, what the policy says, what
//! happened. Exit code 0 only if they agree everywhere.

mod attempt;
mod service;
mod session;
mod stage;

use std::{
    fs,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use attempt::{Attempt, Seen};
use session::{Download, RedisSession};
use stage::Stage;

use crate::{
    fixture::{
        daemon::{Daemon, answer, segd},
        interrupt::{self, wait_for},
        scratch::Scratch,
    },
    lock::HostLock,
    setup, workspace,
};

const POLICY: &str = include_str!("demo/policy.yaml");
const PIN_DIR: &str = "/sys/fs/bpf/segd-demo";

/// The line of the policy that the demo takes away.
const REVOKED: &str = "{from: web, to: db, ports: [tcp/6379]}";

/// How long a reload may take at most; the benchmark measures how long it does take.
const RELOAD: Duration = Duration::from_secs(10);

/// Metrics worth a look at the end.
const METRICS: [&str; 6] = [
    "segd_enforcing",
    "segd_policy_revision",
    "segd_policy_reload_total",
    "segd_sessions_revoked_total",
    "segd_workloads",
    "segd_packets_total",
];

/// `cargo xtask demo`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Stop after the round without segd.
    #[arg(long, hide = true)]
    without_segd: bool,
}

/// What did not agree.
#[derive(Default)]
struct Tally {
    agreed: u32,
    disagreed: Vec<String>,
}

/// Runs `cargo xtask demo`.
pub fn run(options: &Options) -> Result<ExitCode> {
    if !workspace::is_root() {
        bail!(
            "the demo makes cgroups and network namespaces and loads programs into the kernel: run it as root"
        );
    }
    setup::ensure(setup::Scope::Demo)?;
    if !options.without_segd {
        workspace::build_segd()?;
    }
    let lock = HostLock::take()?;
    interrupt::watch();
    let tally = play(options, &lock)?;
    println!(
        "\n{} of {} agreed",
        tally.agreed,
        tally.agreed as usize + tally.disagreed.len()
    );
    for disagreed in &tally.disagreed {
        println!("DISAGREED: {disagreed}");
    }
    Ok(if tally.disagreed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn play(options: &Options, lock: &HostLock) -> Result<Tally> {
    let mut tally = Tally::default();
    let scratch = Scratch::new("segd-demo", lock)?;
    heading("the stage: nginx and redis-server, one cgroup each");
    let stage = Stage::new(&scratch)?;
    print!("{}", indent(&stage.describe()));
    let attempts = Attempt::all(&stage);

    heading("without segd: everything gets through");
    everything_passes(&attempts, &stage, &mut tally)?;
    if options.without_segd {
        sessions_without_segd(&stage)?;
        return Ok(tally);
    }

    heading("segd enforces");
    let policy_dir = scratch.join("policy");
    fs::create_dir(&policy_dir).with_context(|| format!("cannot create {}", policy_dir.display()))?;
    let text = POLICY.replace("@API@", &stage.api_port.to_string());
    let policy = scratch.write("policy/demo.yaml", &text)?;
    for line in text.lines() {
        println!("   | {line}");
    }
    let mut daemon = Daemon::start(&scratch, &policy_dir, Path::new(PIN_DIR))?;
    println!("   enforcing revision {}", daemon.revision()?);

    heading("what each one tries, what the policy says, what happens");
    for attempt in &attempts {
        interrupt::check()?;
        let expected = Expected::ask(&policy_dir, attempt.from, attempt.to, &attempt.port)?;
        let seen = attempt.run(&stage)?;
        tally.add(attempt, &expected, &seen);
    }

    heading("one rule is taken out of the file while sessions are open");
    revoke(&stage, &daemon, &policy, &mut tally)?;

    heading("what segd tells about it");
    for question in [&["status"][..], &["workloads"]] {
        println!("   $ segd {}", question.join(" "));
        println!("{}", indent(&daemon.ask(question)?));
    }
    println!("   $ curl http://{}/metrics", daemon.metrics_address());
    println!("{}", indent(&selected(&daemon.metrics()?)));

    heading("segd unload: everything gets through again");
    daemon.unload()?;
    everything_passes(&attempts, &stage, &mut tally)?;
    Ok(tally)
}

/// What the policy says about a pair and a port.
struct Expected {
    allowed: bool,
    /// For people: the verdict, its reason, the rule's place.
    text: String,
}

impl Expected {
    fn ask(policy: &Path, from: &str, to: &str, port: &str) -> Result<Expected> {
        let mut explain = segd(&["policy", "explain"]);
        explain
            .arg(policy)
            .args(["--from", from, "--to", to, "--port", port, "-o", "json"]);
        let (allowed, answer) = answer(&mut explain)?;
        let answer: serde_json::Value = serde_json::from_str(&answer).context("segd's explanation")?;
        let field = |name: &str| answer[name].as_str().unwrap_or_default();
        let file = |location: &str| location.rsplit('/').next().unwrap_or_default().to_owned();
        let place = [field("rule"), &file(field("location"))].join(" ");
        let text = format!("{}: {} {place}", field("verdict"), field("reason"));
        Ok(Expected {
            allowed,
            text: text.trim().to_owned(),
        })
    }
}

impl Tally {
    fn add(&mut self, attempt: &Attempt, expected: &Expected, seen: &Seen) {
        let happened = match seen.arrived {
            Some(true) if !seen.answered => format!("{}, but it ARRIVED", seen.text),
            Some(false) if seen.answered => format!("{}, but nothing arrived", seen.text),
            Some(false) => format!("{}, nothing arrived", seen.text),
            _ => seen.text.clone(),
        };
        let agree = seen.answered == expected.allowed && seen.arrived.is_none_or(|it| it == expected.allowed);
        let who = format!("{} -> {} {}", attempt.from, attempt.to, attempt.port);
        let note = if attempt.note.is_empty() {
            String::new()
        } else {
            format!("   ({})", attempt.note)
        };
        println!("   tried     {who}: {}{note}", attempt.shown());
        println!("   policy    {}", expected.text);
        println!("   happened  {happened}");
        self.settle(
            agree,
            &format!(
                "{who}: {}: policy {}, happened {happened}",
                attempt.shown(),
                expected.text
            ),
        );
    }

    fn settle(&mut self, agree: bool, what: &str) {
        if agree {
            self.agreed += 1;
            println!("   agree\n");
        } else {
            self.disagreed.push(what.to_owned());
            println!("   DISAGREE\n");
        }
    }
}

/// Nothing can be said about what is denied unless it works when it is not.
fn everything_passes(attempts: &[Attempt], stage: &Stage, tally: &mut Tally) -> Result<()> {
    let start = Instant::now();
    let before = tally.disagreed.len();
    for attempt in attempts {
        interrupt::check()?;
        let seen = attempt.run(stage)?;
        if seen.answered && seen.arrived != Some(false) {
            tally.agreed += 1;
        } else {
            let what = format!(
                "without segd: {} -> {}: {}: {}",
                attempt.from,
                attempt.to,
                attempt.shown(),
                seen.text
            );
            tally.disagreed.push(what);
        }
    }
    let failed = tally.disagreed.len() - before;
    let passed = attempts.len() - failed;
    println!(
        "   {passed} of {} attempts answered, in {} ms",
        attempts.len(),
        start.elapsed().as_millis()
    );
    if failed > 0 {
        bail!(
            "the stage itself does not work:\n{}",
            tally.disagreed[before..].join("\n")
        );
    }
    Ok(())
}

fn revoke(stage: &Stage, daemon: &Daemon, policy: &Path, tally: &mut Tally) -> Result<()> {
    let mut session = RedisSession::open(&stage.places.web)?;
    for words in ["set cart 3-apples", "get cart"] {
        let answer = session
            .say(words)?
            .context("redis does not answer before the change")?;
        println!("   web's redis-cli, still connected: {words}: {answer}");
    }
    let mut download = Download::start(&stage.places.shopper)?;
    println!("   shopper's curl is in the middle of a download from web\n");

    let revision = daemon.revision()?;
    let text = fs::read_to_string(policy).with_context(|| format!("cannot read {}", policy.display()))?;
    let kept: Vec<&str> = text.lines().filter(|line| !line.contains(REVOKED)).collect();
    fs::write(policy, kept.join("\n") + "\n")
        .with_context(|| format!("cannot write {}", policy.display()))?;
    println!("   - - {REVOKED}");
    let start = Instant::now();
    let new = wait_for("the new policy is in force", RELOAD, || {
        let now = daemon.revision()?;
        Ok((now != revision).then_some(now))
    })?;
    println!(
        "   enforcing revision {new} (seen in the metrics after {} ms)\n",
        start.elapsed().as_millis()
    );
    download.must_be_running()?;

    let expected = Expected::ask(policy, "web", "db", "tcp/6379")?;
    let calls = stage.service("db")?.calls("get")?;
    let answer = session.say("get cart")?;
    let arrived = stage.service("db")?.calls("get")? > calls;
    let cut = !arrived && !answer.as_deref().is_some_and(|answer| answer.contains("apples"));
    println!("   tried     web's redis-cli, on the connection that was allowed when it began: get cart");
    println!("   policy    {}", expected.text);
    let said = answer.map_or_else(|| String::from("no answer"), |answer| format!("`{answer}`"));
    let happened = format!(
        "{said}, {}",
        if arrived {
            "it ARRIVED"
        } else {
            "redis never saw the command"
        }
    );
    println!("   happened  {happened}");
    tally.settle(
        cut && !expected.allowed,
        &format!("the session that lost its right: {happened}"),
    );

    let expected = Expected::ask(policy, "shopper", "web", "tcp/80")?;
    let whole = download.finish()?;
    println!("   tried     shopper's download, which kept its right");
    println!("   policy    {}", expected.text);
    let happened = if whole { "every byte came" } else { "it was BROKEN" };
    println!("   happened  {happened}");
    tally.settle(
        whole && expected.allowed,
        &format!("the session that kept its right: {happened}"),
    );
    Ok(())
}

/// The sessions, to see that they work where nobody cuts them.
fn sessions_without_segd(stage: &Stage) -> Result<()> {
    let mut session = RedisSession::open(&stage.places.web)?;
    let mut download = Download::start(&stage.places.shopper)?;
    println!(
        "   {:?} {:?}",
        session.say("set cart 3-apples")?,
        session.say("get cart")?
    );
    download.must_be_running()?;
    println!(
        "   {} calls, whole download: {}",
        stage.service("db")?.calls("get")?,
        download.finish()?
    );
    Ok(())
}

fn selected(metrics: &str) -> String {
    let wanted = |line: &&str| METRICS.iter().any(|name| line.starts_with(name)) && !line.ends_with(" 0");
    metrics.lines().filter(wanted).collect::<Vec<_>>().join("\n")
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("   {line}\n")).collect()
}

fn heading(text: &str) {
    println!("\n== {text}");
}
