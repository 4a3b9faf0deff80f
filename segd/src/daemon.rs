//! `segd run`: load, attach, tag, enforce, watch, serve.
//!
//! INVARIANT: everything that can make the daemon act is an `Event`, and one loop handles them one at a time.
//! INVARIANT: whatever fails, the policy in force stays in force.

pub mod lock;
mod sequence;
mod privilege;
mod given;
mod notify;
mod error;
mod failure;
mod foreign;
mod listing;
pub mod gate;
mod engine;
mod lives;
mod noted;
mod tagging;
mod trial;
mod rollback;
mod queue;
mod newborns;
mod usage;
mod provenance;
mod reading;
mod decide;
mod users;
mod asking;
mod dry_run;
mod cover;
mod cut;
mod expiry;
mod alarm;
mod rows;
mod doubts;
mod ready;
mod start;
mod watch;
mod shared;
mod told;
mod refused;
mod serve;
pub mod probe;
mod health;
mod lsm;
mod last_good;
mod state_file;
mod handover;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use segd_common::event::FlowEvent;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
    time::MissedTickBehavior,
};

use crate::{
    command::INTERNAL,
    control::{protocol::Refusal, types::Applied},
    datapath::events::Events,
    source::git::Provenance,
    workload::namespaces::Listed,
};

pub use self::start::style;
use self::{decide::Brought, listing::Listing, reading::Wanted, shared::Shared};

/// What `segd run` was asked to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// Files and directories of the policy.
    pub policy: Vec<PathBuf>,
    /// Whose files those may be: root's, segd's own user's, `--policy-owner`'s.
    pub trust: crate::source::Trust,
    /// `--require-signature`: whose signature a policy needs.
    pub gate: Option<gate::Gate>,
    /// `--last-good`: where the last policy that was in force for good is kept, for a boot whose policy has a mistake.
    pub last_good: Option<PathBuf>,
    /// `--mode`, which overrides the policy.
    pub mode: Option<crate::policy::model::Mode>,
    /// `--allow-empty`.
    pub allow_empty: bool,
    /// `--cgroup-root`; default: the cgroup2 mount.
    pub cgroup_root: Option<PathBuf>,
    /// `--pin-dir`.
    pub pin_dir: PathBuf,
    /// `--control`.
    pub control: PathBuf,
    /// `--control-group`: a group that may talk to the control socket beside root.
    pub control_group: Option<String>,
    /// `--metrics`; `None` for `--metrics none`.
    pub metrics: Option<SocketAddr>,
    /// `--strict-sockets`: end TCP connections in the hands of another segment.
    pub strict_sockets: bool,
    /// `--protect`: guard the pins.
    pub protect: bool,
    /// `--interface`, for XDP.
    pub interfaces: Vec<String>,
    /// `--node-name`.
    pub node_name: String,
}

impl Options {
    /// Where the policy lies, its signature included.
    fn followed(&self) -> Vec<PathBuf> {
        let is_signed = self.gate.is_some();
        let beside = |path: &PathBuf| is_signed.then(|| crate::source::signature::beside(path));
        let signatures = self.policy.iter().filter_map(beside);
        self.policy.iter().cloned().chain(signatures).collect()
    }
}

/// Everything that makes the daemon act.
#[derive(Debug)]
enum Event {
    /// Something moved where the policy lies.
    PolicyMoved,
    /// Time to look at the policy again, whatever the watch saw.
    PolicyTimer,
    /// `segd` or SIGHUP asked for a reload.
    Reload(Option<reading::Asker>),
    /// Users were asked about.
    UsersSaid(asking::Said),
    /// The policy was read, and who signed it verified.
    PolicyRead(reading::Reading),
    /// A client wants to hear of every flow until now.
    CatchUp(oneshot::Sender<()>),
    /// A client decides about a policy.
    Decide(Decision, oneshot::Sender<Result<Applied, Refusal>>),
    /// git said where a revision comes from.
    GitSaid(u32, Option<Provenance>),
    /// Addresses or namespaces changed.
    NamespacesMoved,
    /// They were listed anew; `None`: they could not be.
    NamespacesListed(Option<Listed>),
    /// Cgroups were born that the kernel could not classify; whoever asks hears how long it took.
    Born(oneshot::Sender<Duration>),
    /// A window opens or shuts, a rule ends, or somebody set the clock.
    Clock,
    /// Time to look at the health and to tell what was left out of the log.
    Tick,
    /// End, and leave everything enforced.
    Stop,
}

/// What `segd apply`, `confirm` and `rollback` ask for.
#[derive(Debug)]
enum Decision {
    /// Put this policy in force.
    Apply(Brought),
    /// Keep the one on trial.
    Confirm,
    /// Put the one before back.
    Rollback,
}

/// Between two looks at the policy, the watch aside.
const POLICY_TIMER: Duration = Duration::from_secs(5);
/// Between two probes.
const TICK: Duration = Duration::from_secs(1);
/// Flow events handled in one go, so that a flood does not starve the rest.
const EVENTS_AT_ONCE: usize = 64;

/// Runs the daemon until it is told to stop.
#[must_use]
pub fn run(options: Options) -> ExitCode {
    keep_memory();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            crate::output::complain(&format!("no runtime: {error}"), None);
            return ExitCode::from(INTERNAL);
        }
    };
    let code = runtime.block_on(async {
        match start::start(options).await {
            Ok(running) => live(running).await,
            Err(failure) => failure.report(),
        }
    });
    // A program that was asked something, and hangs, keeps nobody from ending.
    runtime.shutdown_timeout(TICK);
    code
}

/// Keeps the memory of one reading of the policy for the next, instead of asking the kernel for every page again.
fn keep_memory() {
    const KEPT_BYTES: libc::c_int = 16 << 20;
    // SAFETY: no pointers.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, KEPT_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES);
    }
}

/// Returns freed memory to the system, once, after loading.
fn give_back_memory() {
    // SAFETY: no pointers; the allocator's own locks are taken.
    unsafe { libc::malloc_trim(0) };
}

/// Returns freed memory to the system, if it is more than is worth keeping for the next reading: a large policy was read.
fn give_back_much() {
    const MUCH: usize = 64 << 20;
    // SAFETY: no pointers; the allocator's own locks are taken.
    if unsafe { libc::mallinfo2() }.fordblks > MUCH {
        give_back_memory();
    }
}

/// A daemon that enforces.
struct Running {
    shared: Arc<Shared>,
    events: Events,
    queue: queue::Queue,
    send: queue::Sender,
    watch: watch::PolicyWatch,
    signals: Vec<(Signal, bool)>,
}

async fn live(mut running: Running) -> ExitCode {
    let tasks = pump(&mut running);
    let mut listing = Listing::default();
    loop {
        let shared = Arc::clone(&running.shared);
        let mut record = |event: &FlowEvent| shared.record(event);
        let event = tokio::select! {
            biased;
            event = running.queue.next() => event,
            read = running.events.read(EVENTS_AT_ONCE, &mut record) => {
                if let Err(error) = read {
                    tracing::error!("reading flow events: {error}");
                    // SLEEP: a ring that fails will fail again; enforcement does not depend on it.
                    tokio::time::sleep(TICK).await;
                }
                continue;
            }
        };
        match event {
            // Half of a policy may be a right one. Whoever writes it is waited for; the watch says when he is done.
            Event::PolicyTimer if running.watch.awaits_a_writer() => {}
            Event::PolicyMoved | Event::PolicyTimer => {
                // What is wrong is counted and told; the policy in force stays.
                shared.look_at_policy(match event {
                    Event::PolicyMoved => Wanted::by_watch(),
                    _ => Wanted::by_timer(),
                });
                if running.watch.follow(&shared.options().followed()) && !running.watch.awaits_a_writer() {
                    shared.look_at_policy(Wanted::by_watch());
                }
                shared.ask_git(matches!(event, Event::PolicyMoved));
            }
            Event::Reload(asker) => {
                shared.look_at_policy(Wanted::by(asker));
                running.watch.follow(&shared.options().followed());
                shared.ask_git(true);
            }
            Event::CatchUp(asker) => {
                running.events.catch_up(&mut record);
                // The client may have gone away.
                let _ = asker.send(());
            }
            Event::PolicyRead(reading) => shared.take_reading(reading),
            Event::UsersSaid(said) => shared.users_said(said, running.watch.awaits_a_writer()),
            Event::Decide(decision, answer) => shared.decide(decision, answer),
            Event::GitSaid(revision, said) => shared.git_said(revision, said),
            Event::NamespacesMoved => listing.begin(&shared, &running.send),
            Event::NamespacesListed(list) => {
                listing.end(list.as_ref(), &shared, &running.send);
                if let Some(list) = list {
                    shared.set_namespaces(list);
                }
            }
            Event::Born(asker) => {
                // Who asks ends with the daemon.
                let _ = asker.send(shared.classify_newborns());
            }
            Event::Clock => shared.keep_time(),
            Event::Tick => {
                shared.tick();
                shared.look_at_users();
                notify::alive();
            }
            Event::Stop => break,
        }
        // Timers and clients have their turn, however much waits.
        tokio::task::yield_now().await;
    }
    for task in tasks {
        task.abort();
    }
    tracing::info!("ending; what is enforced stays enforced (`segd unload` ends it)");
    ExitCode::SUCCESS
}

/// The signals that are answered, and whether one ends the daemon. From here on none is lost: whoever reads that segd enforces may
/// send one at once.
fn signals() -> Vec<(Signal, bool)> {
    let kinds = [
        (SignalKind::hangup(), false),
        (SignalKind::terminate(), true),
        (SignalKind::interrupt(), true),
    ];
    let answered = kinds.into_iter().filter_map(|(kind, ends)| match signal(kind) {
        Ok(signals) => Some((signals, ends)),
        Err(error) => {
            tracing::warn!("a signal cannot be handled: {error}");
            None
        }
    });
    answered.collect()
}

/// Turns signals and time into events, and serves metrics' and clients' questions.
fn pump(running: &mut Running) -> Vec<tokio::task::JoinHandle<()>> {
    let mut tasks = running.shared.serve();
    for (mut signals, ends) in std::mem::take(&mut running.signals) {
        let send = running.send.clone();
        tasks.push(tokio::spawn(async move {
            while signals.recv().await.is_some() {
                let event = if ends { Event::Stop } else { Event::Reload(None) };
                if send.send(event).await.is_err() {
                    return;
                }
            }
        }));
    }
    match alarm::Alarm::new() {
        Ok(alarm) => {
            running.shared.wake_by(alarm.clone());
            tasks.push(tokio::spawn(wait_for(alarm, running.send.clone())));
        }
        Err(error) => {
            tracing::warn!("windows open, and steps of the clock are noticed, up to a second late: {error}")
        }
    }
    tasks.push(tokio::spawn(every(TICK, running.send.clone(), || Event::Tick)));
    tasks.push(tokio::spawn(every(POLICY_TIMER, running.send.clone(), || {
        Event::PolicyTimer
    })));
    tasks
}

async fn wait_for(alarm: alarm::Alarm, send: queue::Sender) {
    loop {
        if let Err(error) = alarm.rings().await {
            tracing::warn!("waiting for the clock: {error}");
            return;
        }
        if send.send(Event::Clock).await.is_err() {
            return;
        }
    }
}

async fn every(period: Duration, send: queue::Sender, event: fn() -> Event) {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if send.send(event()).await.is_err() {
            return;
        }
    }
}
