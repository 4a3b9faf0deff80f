//! What others ask the daemon: metrics, health, and the control socket's questions.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use segd_common::{event::FlowEvent, segment::PROBE};
use tokio::{
    net::TcpListener,
    sync::{broadcast, mpsc, oneshot},
    task::JoinHandle,
};

use super::{Event, Options, engine::Engine, health::Health, lock::Lock, report::chain};
use crate::{
    control::{
        protocol::{FlowFilter, Refusal, RefusalKind},
        server::{Handler, Server},
        types::{
            Explanation, FlowRecord, MapUse, Program, Question, Readiness, Reload, Reloaded, SegmentRow,
            Status, WorkloadRow,
        },
    },
    policy::{explain::explain, port},
    source::load,
    telemetry::{clock::rfc3339, flows::FlowLog, http, snapshot::Snapshot},
    workload::{births::Birth, cgroupfs::CgroupRoot, namespaces::NamespaceInfo},
};

/// The daemon's state, shared by its loop and its servers.
pub struct Shared {
    engine: Mutex<Engine>,
    state: Mutex<State>,
    flows: Arc<FlowLog>,
    options: Options,
    root: Arc<CgroupRoot>,
    send: mpsc::Sender<Event>,
    servers: Mutex<Option<(Server, Option<TcpListener>)>>,
    _lock: Lock,
}

#[derive(Debug)]
struct State {
    health: Health,
    started: SystemTime,
    last: Reload,
    success: u64,
    failure: u64,
    /// The last mistake that was told, so that it is told once.
    told: Option<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic is a compile error here; what a poisoned lock guards is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Takes the engine over.
    pub fn new(
        engine: Engine,
        health: Health,
        held: Lock,
        send: mpsc::Sender<Event>,
        control: Server,
        metrics: Option<TcpListener>,
    ) -> Shared {
        let now = SystemTime::now();
        Shared {
            flows: Arc::clone(&engine.flows),
            options: engine.options.clone(),
            root: Arc::clone(&engine.root),
            engine: Mutex::new(engine),
            state: Mutex::new(State {
                health,
                started: now,
                last: Reload {
                    result: "success".into(),
                    time: rfc3339(now),
                    error: None,
                },
                success: 1,
                failure: 0,
                told: None,
            }),
            send,
            servers: Mutex::new(Some((control, metrics))),
            _lock: held,
        }
    }

    /// What `run` was asked.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The cgroup root.
    pub fn cgroup_root(&self) -> Arc<CgroupRoot> {
        Arc::clone(&self.root)
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

    /// Reads the policy and puts it in force if it changed.
    pub fn reload(&self) -> Result<Reloaded, Refusal> {
        let loaded = match load(&self.options.policy, self.options.allow_empty) {
            Ok(loaded) => loaded,
            Err(error) => return Err(self.failed(error.to_string(), &error.render(super::start::style()))),
        };
        let mut engine = lock(&self.engine);
        let unchanged = engine
            .in_force
            .as_ref()
            .filter(|in_force| in_force.hash == loaded.hash);
        if let Some(in_force) = unchanged {
            let revision = in_force.active.revision();
            let mut state = lock(&self.state);
            // The mistake was taken back.
            if state.told.take().is_some() {
                tracing::info!("the policy is again what is enforced: revision {revision}");
                state.last = Reload {
                    result: "success".into(),
                    time: rfc3339(SystemTime::now()),
                    error: None,
                };
            }
            return Ok(Reloaded {
                revision,
                changed: false,
            });
        }
        match engine.apply(&loaded) {
            Ok(revision) => {
                let mut state = lock(&self.state);
                state.success += 1;
                state.told = None;
                state.last = Reload {
                    result: "success".into(),
                    time: rfc3339(SystemTime::now()),
                    error: None,
                };
                tracing::info!("enforcing revision {revision}");
                Ok(Reloaded {
                    revision,
                    changed: true,
                })
            }
            Err(error) => {
                drop(engine);
                let text = chain(&error);
                Err(self.failed(text.clone(), &format!("error: {text}\n")))
            }
        }
    }

    /// Counts and tells a policy that did not come into force; the same mistake only once.
    fn failed(&self, line: String, drawn: &str) -> Refusal {
        let mut state = lock(&self.state);
        if state.told.as_deref() != Some(drawn) {
            state.failure += 1;
            state.last = Reload {
                result: "failure".into(),
                time: rfc3339(SystemTime::now()),
                error: Some(line.clone()),
            };
            tracing::error!("the policy was not loaded, what is in force stays in force: {line}");
            eprint!("{drawn}");
            state.told = Some(drawn.to_owned());
        }
        Refusal::new(RefusalKind::Invalid, line)
    }

    /// Takes a new list of namespaces.
    pub fn set_namespaces(&self, list: Vec<NamespaceInfo>) {
        if let Err(error) = lock(&self.engine).set_namespaces(list) {
            tracing::error!("writing addresses: {}", chain(&error));
        }
    }

    /// Classifies newborn cgroups.
    pub fn classify(&self, birth: &Birth) {
        if let Err(error) = lock(&self.engine).classify(birth) {
            tracing::error!("classifying newborn cgroups: {}", chain(&error));
        }
    }

    /// Looks at the health, and ends what the log left out.
    pub fn tick(&self) {
        let health = Health::look(&lock(&self.engine));
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

/// The servers' view of the daemon.
struct Front(Arc<Shared>);

impl http::Source for Front {
    async fn snapshot(&self) -> Snapshot {
        let shared = &self.0;
        let mut engine = lock(&shared.engine);
        let counts = engine.counters.read().unwrap_or_else(|error| {
            tracing::error!("reading counters: {}", chain(&error));
            crate::datapath::counters::Counts::default()
        });
        if let Err(error) = engine.collect_hits() {
            tracing::error!("reading rule hits: {}", chain(&error));
        }
        let counters = counts
            .counters
            .into_iter()
            .filter(|(key, _)| key.from != PROBE && key.to != PROBE)
            .collect();
        let state = lock(&shared.state);
        Snapshot {
            counters,
            other: counts.other,
            names: shared.flows.names().to_vec(),
            rule_hits: engine.hits.totals(),
            revision: engine
                .in_force
                .as_ref()
                .map_or(0, |in_force| in_force.active.revision()),
            reload_success: state.success,
            reload_failure: state.failure,
            workloads: engine.workload_counts(),
            events_lost: counts.events_lost,
            maps: engine.map_uses(),
            enforcing: state.health.enforcing,
        }
    }

    async fn readiness(&self) -> Readiness {
        let revision = lock(&self.0.engine)
            .in_force
            .as_ref()
            .map_or(0, |in_force| in_force.active.revision());
        let state = lock(&self.0.state);
        Readiness {
            ready: state.health.enforcing,
            revision,
            reasons: state.health.because.clone(),
        }
    }
}

impl Handler for Front {
    async fn status(&self) -> Status {
        let shared = &self.0;
        let engine = lock(&shared.engine);
        let state = lock(&shared.state);
        let events_lost = engine.counters.read().map_or(0, |counts| counts.events_lost);
        let programs = state.health.hooks.iter().map(|hook| Program {
            hook: hook.hook.clone(),
            attached: hook.attached,
            link_id: (hook.link != 0).then_some(hook.link),
            note: (!hook.note.is_empty()).then(|| hook.note.clone()),
        });
        let maps = engine.map_uses().into_iter();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: shared.options.node_name.clone(),
            pid: std::process::id(),
            started: rfc3339(state.started),
            mode: if engine.only_audits() {
                "audit".into()
            } else {
                "enforce".into()
            },
            enforcing: state.health.enforcing,
            not_enforcing_because: (!state.health.because.is_empty())
                .then(|| state.health.because.join("; ")),
            revision: engine
                .in_force
                .as_ref()
                .map_or(0, |in_force| in_force.active.revision()),
            policy_paths: shared
                .options
                .policy
                .iter()
                .map(|path| path.display().to_string())
                .collect(),
            policy_hash: engine
                .in_force
                .as_ref()
                .map_or_else(String::new, |in_force| in_force.hash.to_string()),
            last_reload: Some(state.last.clone()),
            programs: programs.collect(),
            maps: maps
                .map(|(name, entries, capacity)| MapUse {
                    name,
                    entries,
                    capacity,
                })
                .collect(),
            workloads: engine.workload_counts().iter().map(|(_, count)| count).sum(),
            segments: engine
                .in_force
                .as_ref()
                .map_or(0, |in_force| in_force.policy.segments.len() as u64),
            events_lost,
            warnings: engine.warnings(),
        }
    }

    async fn segments(&self) -> Vec<SegmentRow> {
        lock(&self.0.engine).segment_rows()
    }

    async fn workloads(&self) -> Vec<WorkloadRow> {
        lock(&self.0.engine).workload_rows()
    }

    fn flows(
        &self,
        last: usize,
        filter: &FlowFilter,
    ) -> (Vec<Arc<FlowRecord>>, broadcast::Receiver<Arc<FlowRecord>>) {
        self.0.flows.follow(last, filter)
    }

    async fn explain(&self, question: Question) -> Result<Explanation, Refusal> {
        let engine = lock(&self.0.engine);
        let invalid = |message: String| Refusal::new(RefusalKind::Invalid, message);
        let service = port::parse_one(&question.port).map_err(|problem| invalid(problem.message))?;
        let Some(in_force) = &engine.in_force else {
            return Err(Refusal::new(RefusalKind::Internal, "no policy is in force"));
        };
        let answer = explain(
            &in_force.policy,
            &in_force.tables,
            &question.from,
            &question.to,
            service,
        )
        .map_err(|error| invalid(error.to_string()))?;
        Ok(Explanation {
            from: answer.from,
            to: answer.to,
            port: question.port,
            verdict: answer.outcome.label().into(),
            reason: answer.reason.label().into(),
            rule: answer.rule.as_ref().map(|rule| rule.label.clone()),
            location: answer.rule.as_ref().map(|rule| rule.location.to_string()),
            revision: Some(in_force.active.revision()),
        })
    }

    async fn reload(&self) -> Result<Reloaded, Refusal> {
        let (answer, answered) = oneshot::channel();
        let gone = || Refusal::new(RefusalKind::Internal, "segd is ending");
        self.0
            .send
            .send(Event::Reload(Some(answer)))
            .await
            .map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    fn stop(&self) {
        let send = self.0.send.clone();
        tokio::spawn(async move {
            // The loop may have ended already.
            let _ = send.send(Event::Stop).await;
        });
    }
}
