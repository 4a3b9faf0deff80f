//! What others ask the daemon: metrics, health, and the control socket's questions.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use segd_common::{counter::Counter, segment::PROBE};
use tokio::{
    sync::{broadcast, oneshot},
    time::timeout,
};

use super::{
    Decision, Event,
    engine::{Engine, Origin},
    shared::{Shared, lock},
};
use crate::{
    control::{
        dry_run::DryRun,
        protocol::{FlowFilter, Refusal, RefusalKind},
        server::Handler,
        types::{
            Applied, Candidate, Explanation, FlowRecord, ForeignRow, MapUse, Program, Question, Readiness,
            Reloaded, RuleRow, SegmentRow, Status, WorkloadRow,
        },
    },
    policy::{explain::explain, port},
    report::chain,
    telemetry::{
        clock::{self, rfc3339},
        http,
        snapshot::Snapshot,
    },
};

/// How long a question waits for the newest flows.
const CATCH_UP: Duration = Duration::from_millis(500);

/// The servers' view of the daemon.
pub(super) struct Front(pub(super) Arc<Shared>);

impl http::Source for Front {
    async fn snapshot(&self) -> Snapshot {
        let shared = &self.0;
        let mut engine = shared.engine();
        let counts = engine.counters.read().unwrap_or_else(|error| {
            tracing::error!("reading counters: {}", chain(&error));
            crate::datapath::counters::Counts::default()
        });
        if let Err(error) = engine.collect_hits() {
            tracing::error!("reading rule hits: {}", chain(&error));
        }
        let cut = engine.cutter.tally();
        let counters = counts
            .counters
            .into_iter()
            .chain(cut.revoked.iter().map(|(key, revoked)| {
                let counter = Counter {
                    revoked: *revoked,
                    ..Counter::default()
                };
                (*key, counter)
            }))
            .filter(|(key, _)| key.from != PROBE && key.to != PROBE)
            .collect();
        let state = lock(&shared.state);
        Snapshot {
            counters,
            other: counts.other,
            names: shared.flows.names().to_vec(),
            rule_hits: engine.hits.totals.series(),
            rule_ends: engine.rule_ends(clock::moment()),
            revision: engine
                .in_force
                .as_ref()
                .map_or(0, |in_force| in_force.active.revision()),
            commit: engine.in_force.as_ref().and_then(|in_force| {
                let known = state.provenances.of(in_force.active.revision())?;
                Some((known.commit.clone(), known.dirty))
            }),
            policy_source: source(&engine),
            reload_success: state.success,
            reload_failure: state.failure,
            files_refused: state.told.is_some(),
            workloads: engine.workload_counts(),
            events_lost: counts.events_lost,
            maps: engine.map_uses(),
            repairs: (engine.repairs.counts.iter().map(|(lost, count)| (*lost, *count))).collect(),
            sessions_cut: cut.sessions,
            enforcing: state.health.enforcing,
        }
    }

    async fn readiness(&self) -> Readiness {
        let revision = self
            .0
            .engine()
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

/// Where the policy in force came from, in a word.
fn source(engine: &Engine) -> &'static str {
    match engine.in_force.as_ref().map(|in_force| in_force.origin) {
        Some(Origin::Applied { .. }) => "applied",
        _ => "files",
    }
}

impl Front {
    /// Lets the loop decide: it does one thing at a time.
    async fn decide(&self, decision: Decision) -> Result<Applied, Refusal> {
        let (answer, answered) = oneshot::channel();
        let gone = || Refusal::new(RefusalKind::Internal, "segd is ending");
        let event = Event::Decide(decision, answer);
        self.0.send.send(event).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

impl Handler for Front {
    async fn status(&self) -> Status {
        let shared = &self.0;
        let engine = shared.engine();
        let trial = shared.trial_now(&engine);
        let state = lock(&shared.state);
        let events_lost = engine.counters.read().map_or(0, |counts| counts.events_lost);
        let programs = state.health.hooks.iter().map(|hook| Program {
            hook: hook.hook.clone(),
            attached: hook.attached,
            link_id: (hook.link != 0).then_some(hook.link),
            note: (!hook.note.is_empty()).then(|| hook.note.clone()),
        });
        let maps = engine.map_uses().into_iter();
        let in_force = engine.in_force.as_ref();
        let known = in_force.and_then(|in_force| state.provenances.of(in_force.active.revision()));
        let signed = in_force.and_then(|in_force| in_force.signed.as_ref());
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: shared.options.node_name.clone(),
            pid: std::process::id(),
            pin_dir: shared.options.pin_dir.display().to_string(),
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
                .map_or_else(String::new, |in_force| in_force.texts.hash().to_string()),
            policy_source: source(&engine).into(),
            policy_commit: known.map(|known| known.commit.clone()),
            policy_dirty: known.map(|known| known.dirty),
            policy_commit_by: known.map(|_| match source(&engine) {
                "files" => "git".into(),
                _ => "client".into(),
            }),
            policy_serial: signed.map(|signed| signed.serial),
            policy_signer: signed.map(|signed| signed.signer.clone()),
            trial,
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
            left_namespaces: engine.left_namespaces(),
            events_lost,
            expiries: engine.expiries(clock::moment()),
            warnings: engine.warnings(),
        }
    }

    async fn segments(&self) -> Vec<SegmentRow> {
        self.0.engine().segment_rows()
    }

    async fn workloads(&self) -> Vec<WorkloadRow> {
        self.0.engine().workload_rows()
    }

    async fn rules(&self) -> Result<Vec<RuleRow>, Refusal> {
        let rows = self.0.engine().rule_rows();
        rows.map_err(|error| Refusal::new(RefusalKind::Internal, chain(&error)))
    }

    async fn catch_up(&self) {
        let (asker, answered) = oneshot::channel();
        let asked = async {
            if self.0.send.send(Event::CatchUp(asker)).await.is_ok() {
                let _ = answered.await;
            }
        };
        // A daemon that is busy with a policy answers with what it has.
        let _ = timeout(CATCH_UP, asked).await;
    }

    async fn foreign(&self) -> Result<Vec<ForeignRow>, Refusal> {
        match self.0.engine().foreign_rows() {
            Ok(Some(rows)) => Ok(rows),
            Ok(None) => {
                let message = "this kernel does not tell of sockets in other hands";
                Err(Refusal::new(RefusalKind::Internal, message).help("it needs Linux 5.11"))
            }
            Err(error) => {
                let message = format!("walking open files: {error}");
                Err(Refusal::new(RefusalKind::Internal, message))
            }
        }
    }

    fn flows(
        &self,
        last: usize,
        filter: &FlowFilter,
    ) -> (Vec<Arc<FlowRecord>>, broadcast::Receiver<Arc<FlowRecord>>) {
        self.0.flows.follow(last, filter)
    }

    async fn explain(&self, question: Question) -> Result<Explanation, Refusal> {
        let engine = self.0.engine();
        let invalid = |message: String| Refusal::new(RefusalKind::Invalid, message);
        let service = port::parse_one(&question.port).map_err(|problem| invalid(problem.message))?;
        let Some(in_force) = &engine.in_force else {
            return Err(Refusal::new(RefusalKind::Internal, "no policy is in force"));
        };
        // Rules that are over by now stand in the tables in force, and open nothing.
        let policy = in_force.policy.at(Timestamp::now());
        let (indexes, mode) = (&engine.indexes, self.0.options.mode);
        let answer = explain(&policy, indexes, mode, &question.from, &question.to, service)
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

    async fn apply(&self, candidate: Candidate) -> Result<Applied, Refusal> {
        let brought = self.0.examine(candidate).await?;
        self.decide(Decision::Apply(brought)).await
    }

    async fn dry_run(&self, candidate: Candidate) -> Result<DryRun, Refusal> {
        self.catch_up().await;
        self.0.dry_run(candidate).await
    }

    async fn confirm(&self) -> Result<Applied, Refusal> {
        self.decide(Decision::Confirm).await
    }

    async fn rollback(&self) -> Result<Applied, Refusal> {
        self.decide(Decision::Rollback).await
    }

    fn stop(&self) {
        let send = self.0.send.clone();
        tokio::spawn(async move {
            // The loop may have ended already.
            let _ = send.send(Event::Stop).await;
        });
    }
}
