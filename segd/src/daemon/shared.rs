//! The daemon's state, shared by its loop and its servers, and what the loop does to it.
//!
//! INVARIANT: a policy that is wrong changes nothing but the counters and the log.

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::{Instant, SystemTime},
};

use segd_common::event::FlowEvent;
use tokio::{net::TcpListener, task::JoinHandle};

use super::{
    Event, Options,
    alarm::Alarm,
    asking::NotYet,
    engine::{Engine, Origin},
    health::Health,
    lock::Lock,
    notify,
    provenance::Provenances,
    queue,
    reading::Readings,
    refused::RefusedFiles,
    serve::Front,
    told::reload_of,
};
use crate::{
    cli::log::ALWAYS,
    control::{
        protocol::{Refusal, RefusalKind},
        server::Server,
        types::{Reload, Reloaded},
    },
    datapath::census::Census,
    policy::resolve::ReadFiles,
    report::chain,
    source::{Known, LoadError, Looked, Sources, Texts, resolve_read_doubting},
    telemetry::{clock, flows::FlowLog, http},
    workload::namespaces::Listed,
};

/// The daemon's state, shared by its loop and its servers.
pub struct Shared {
    pub(super) engine: Mutex<Engine>,
    pub(super) state: Mutex<State>,
    /// The followed files as they were last looked at.
    pub(super) looked: Mutex<Looked>,
    /// What stood in them when they were last read.
    read_files: Mutex<ReadFiles>,
    pub(super) flows: Arc<FlowLog>,
    pub(super) options: Options,
    census: Arc<Census>,
    pub(super) send: queue::Sender,
    servers: Mutex<Option<(Server, Option<TcpListener>)>>,
    lock: Mutex<Lock>,
    /// What wakes the loop when rules change by themselves.
    alarm: OnceLock<Alarm>,
}

/// The followed files as a start found them.
#[derive(Debug)]
pub struct Followed {
    /// Their texts.
    pub files: Known,
    /// What stands in them.
    pub read: ReadFiles,
}

/// What the loop knows of itself.
#[derive(Debug)]
pub(super) struct State {
    pub(super) health: Health,
    pub(super) started: SystemTime,
    pub(super) last: Reload,
    pub(super) success: u64,
    pub(super) failure: u64,
    /// The last mistake that was told, so that it is told once.
    pub(super) told: Option<String>,
    /// It was that the files could not be read.
    pub(super) unread: bool,
    /// The followed files as they were last looked at.
    pub(super) files: Known,
    /// They changed during a trial.
    pub(super) files_wait: bool,
    /// They were to come into force since, and did not.
    pub(super) files_failed: bool,
    /// They were, for what stands in them.
    pub(super) refused: Option<RefusedFiles>,
    /// The last revision whose trial ended without a word.
    pub(super) overdue: u32,
    /// Where revisions come from.
    pub(super) provenances: Provenances,
    pub(super) readings: Readings,
}

/// What to do while something is on trial.
pub(super) const DECIDE: &str = "`segd confirm` keeps it, `segd rollback` puts the policy before back";

pub(super) fn conflict(message: impl Into<String>) -> Refusal {
    Refusal::new(RefusalKind::Conflict, message)
}

/// Gives back what was in force, beside everything else: of a large policy that takes a while.
fn put_away(gone: impl Send + 'static) {
    let thread = thread::Builder::new().name("segd-away".to_owned());
    // Where there is no thread it is dropped here.
    drop(thread.spawn(move || {
        drop(gone);
        super::give_back_much();
    }));
}

/// Takes a lock.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic is a compile error here; what a poisoned lock guards is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Takes the engine over.
    pub fn new(
        engine: Engine,
        followed: Followed,
        health: Health,
        held: Lock,
        send: queue::Sender,
        control: Server,
        metrics: Option<TcpListener>,
    ) -> Shared {
        let now = SystemTime::now();
        let looked = match &followed.files {
            Known::Texts(texts) => Looked::knowing(texts.sources()),
            Known::Hash(_) => Looked::default(),
        };
        Shared {
            flows: Arc::clone(&engine.flows),
            options: engine.options.clone(),
            census: Arc::clone(&engine.census),
            engine: Mutex::new(engine),
            state: Mutex::new(State {
                health,
                started: now,
                last: reload_of(now, None),
                success: 1,
                failure: 0,
                told: None,
                unread: false,
                files: followed.files,
                files_wait: false,
                files_failed: false,
                refused: None,
                overdue: 0,
                provenances: Provenances::default(),
                readings: Readings::default(),
            }),
            looked: Mutex::new(looked),
            read_files: Mutex::new(followed.read),
            send,
            servers: Mutex::new(Some((control, metrics))),
            lock: Mutex::new(held),
            alarm: OnceLock::new(),
        }
    }

    /// What `run` was asked.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Who is in which network namespace.
    pub fn census(&self) -> Arc<Census> {
        Arc::clone(&self.census)
    }

    /// Starts the servers. Only the first call has any.
    pub fn serve(self: &Arc<Self>) -> Vec<JoinHandle<()>> {
        let mut tasks = Vec::new();
        if let Some((control, metrics)) = lock(&self.servers).take() {
            let front = Arc::new(Front(Arc::clone(self)));
            tasks.push(tokio::spawn(control.run(Arc::clone(&front))));
            if let Some(listener) = metrics {
                tasks.push(tokio::spawn(http::serve(listener, front)));
            }
        }
        tasks
    }

    /// Keeps a flow event.
    pub fn record(&self, event: &FlowEvent) {
        let engine = lock(&self.engine);
        self.flows.record(event, |id| engine.path_of(id));
    }

    /// The engine, after a trial that is over has been ended.
    pub(super) fn engine(&self) -> MutexGuard<'_, Engine> {
        let mut engine = lock(&self.engine);
        if let Some(tried) = engine.end_overdue_trial() {
            lock(&self.state).overdue = tried;
            self.trial_is_over(&engine);
        }
        engine
    }

    /// What waited for the end of a trial is looked at.
    pub(super) fn files_may_go_on(&self) {
        if std::mem::take(&mut lock(&self.state).files_wait) {
            // As the timer: whoever is writing them meanwhile is waited for. A full queue is no loss: the timer looks too.
            self.send.offer(Event::PolicyTimer);
        }
    }

    /// Puts what was read of the policy's files in force if it is new.
    pub(super) fn take(&self, texts: Sources, asked: bool) -> Result<Reloaded, NotYet> {
        let answer = self.put_in_force(texts, asked);
        match &answer {
            // Now, or the next policy would wait for it.
            Ok(reloaded) if reloaded.changed => lock(&self.engine).date_hits(),
            _ => super::give_back_much(),
        }
        answer
    }

    fn put_in_force(&self, texts: Sources, asked: bool) -> Result<Reloaded, NotYet> {
        let began = Instant::now();
        if let Some(answer) = self.unchanged(&texts, asked) {
            return if asked {
                self.reload_users(answer?)
            } else {
                Ok(answer?)
            };
        }
        let files = Texts::of(&texts.sources);
        if !asked && let Some(refusal) = self.refused(&files) {
            return Err(refusal.into());
        }
        let refused = |error: LoadError| {
            let refusal = self.failed(error.to_string(), &error.render(super::start::style()));
            self.refuse(&files, began, refusal)
        };
        let (loaded, _) = resolve_read_doubting(texts, self.options.allow_empty, &mut lock(&self.read_files))
            .map_err(refused)?;
        if let Err(names) = lock(&self.engine).users.ask_first(&loaded.policy) {
            // It is to come into force, and has not. Its tests may take a while: they are for when it goes on.
            lock(&self.state).files_failed = true;
            return Err(NotYet::Ask(names));
        }
        let loaded = loaded.tested().map_err(refused)?;
        tracing::debug!("the policy was read in {:?}", began.elapsed());
        let mut engine = self.engine();
        if let Some(revision) = engine.take_names(&loaded) {
            return Ok(self.caught_up(revision));
        }
        let before = engine
            .in_force
            .as_ref()
            .map(|before| (Arc::clone(&before.policy), Arc::clone(&before.tables)));
        match engine.admit(&loaded, Origin::Files, None) {
            Ok(revision) => {
                let mut state = lock(&self.state);
                state.success += 1;
                (state.told, state.refused) = (None, None);
                state.last = reload_of(SystemTime::now(), None);
                tracing::info!(target: ALWAYS, "enforcing revision {revision}");
                notify::changed(revision);
                put_away((before, loaded));
                Ok(Reloaded {
                    revision,
                    changed: true,
                })
            }
            Err(error) => {
                drop(engine);
                Err(self.not_in_force(&error, &files, began).into())
            }
        }
    }

    /// Looks at the texts alone: whether they are those in force, or have to wait, or are not wanted.
    fn unchanged(&self, texts: &Sources, asked: bool) -> Option<Result<Reloaded, Refusal>> {
        let now = Texts::of(&texts.sources);
        let mut engine = self.engine();
        let on_trial = engine.trial.is_some();
        let in_force = engine.in_force.as_mut()?;
        let revision = in_force.active.revision();
        let unchanged = Reloaded {
            revision,
            changed: false,
        };
        let mut state = lock(&self.state);
        let moved = !state.files.are(&now);
        // One that was signed anew has another serial: it is another policy, and what is older than it is older.
        if in_force.texts.are(&texts.sources) && in_force.signed == texts.signed {
            let caught_up = in_force.origin != Origin::Files;
            in_force.origin = Origin::Files;
            state.files = Known::Texts(in_force.texts.clone());
            // While it is on trial nothing but workloads is written.
            if caught_up && !on_trial {
                engine.files_caught_up(texts);
            }
        } else if on_trial {
            if moved && !state.files_wait {
                tracing::warn!("the policy files changed: they wait, revision {revision} is on trial");
            }
            state.files_wait = moved;
            return Some(if asked {
                Err(conflict(format!("revision {revision} is on trial")).help(DECIDE))
            } else {
                Ok(unchanged)
            });
        } else if !moved && !state.files_failed && !asked && in_force.origin != Origin::Files {
            // A hash would be made at each look.
            state.files = Known::Texts(now);
            state.readable_again();
            return Some(Ok(unchanged));
        } else {
            state.files = Known::Texts(now);
            state.files_failed = false;
            return None;
        }
        state.files_wait = false;
        state.files_failed = false;
        state.refused = None;
        // A mistake was taken back.
        if state.told.take().is_some() {
            tracing::info!("the policy is again what is enforced: revision {revision}");
            state.last = reload_of(SystemTime::now(), None);
        }
        Some(Ok(unchanged))
    }

    /// Takes a new list of namespaces.
    pub fn set_namespaces(&self, list: Listed) {
        let mut engine = lock(&self.engine);
        let written = engine.set_namespaces(list);
        engine.unwritten = written.err().map(|error| chain(&error));
        if let Some(error) = &engine.unwritten {
            tracing::error!("writing addresses: {error}");
        }
    }

    /// Has the loop be woken by it. Only the first call counts.
    pub(super) fn wake_by(&self, alarm: Alarm) {
        let _ = self.alarm.set(alarm);
    }

    /// Looks at the clock: whether rules open or shut.
    pub(super) fn keep_time(&self) {
        let mut engine = self.engine();
        self.keep_time_of(&mut engine);
    }

    fn keep_time_of(&self, engine: &mut Engine) {
        engine.keep_time(clock::moment());
        if let Some(alarm) = self.alarm.get() {
            if let Err(error) = alarm.set(engine.expiry.due()) {
                tracing::warn!("setting the alarm: {error}");
            }
            // A step of the clock before it was set wakes nobody.
            engine.keep_time(clock::moment());
        }
    }

    /// Looks at the health, and ends what the log left out.
    pub fn tick(&self) {
        self.look(Engine::date_hits);
    }

    /// The first look of all. Whose hits are whose is found out a second later, of a large policy in a third of one: nothing is said to
    /// have been watched before that.
    pub fn first_look(&self) {
        self.look(|_| {});
    }

    fn look(&self, date_hits: impl FnOnce(&mut Engine)) {
        let mut health = {
            let mut engine = self.engine();
            self.keep_time_of(&mut engine);
            date_hits(&mut engine);
            engine.keep_last_good();
            Health::look(&mut engine)
        };
        if let Err(error) = lock(&self.lock).follow() {
            health.enforcing = false;
            health.because.push(format!("the pin directory: {error}"));
        }
        let mut state = lock(&self.state);
        if state.health.because != health.because {
            if health.enforcing {
                tracing::info!("everything is enforced again");
            } else {
                tracing::error!("not enforcing: {}", health.because.join("; "));
            }
        }
        state.health = health;
        drop(state);
        self.flows.tick();
    }
}
