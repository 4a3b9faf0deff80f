//! Whether segd enforces: every link on its hook with its own program, every pin in place, and a probe refused. What was
//! taken away is put back.

use std::{collections::BTreeMap, time::SystemTime};

use crate::{
    daemon::probe::{Probe, Probed},
    datapath::{
        kernel,
        links::{Attached, LOST, Repair},
    },
    report::chain,
    telemetry::clock::rfc3339,
};

use super::engine::Engine;

/// The last look.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// Everything holds, and would go on holding without the daemon.
    pub enforcing: bool,
    /// What does not.
    pub because: Vec<String>,
    /// The hooks.
    pub hooks: Vec<Attached>,
}

/// What was lost and put back since the daemon started.
#[derive(Clone, Debug)]
pub struct Repairs {
    /// How often, by [`Repair::lost`].
    pub counts: BTreeMap<&'static str, u64>,
    /// The last one, with its time.
    last: Option<(SystemTime, String)>,
}

impl Default for Repairs {
    /// Each is counted from the start: what appears in the metrics with its first count has not increased for whoever watches it.
    fn default() -> Repairs {
        Repairs {
            counts: LOST.map(|lost| (lost, 0)).into(),
            last: None,
        }
    }
}

impl Repairs {
    /// Logs and counts repairs.
    pub fn note(&mut self, repairs: Vec<Repair>) {
        for repair in repairs {
            // An error although it was put right: somebody interfered with the enforcement.
            tracing::error!("lost and restored: {}", repair.what);
            *self.counts.entry(repair.lost).or_default() += 1;
            self.last = Some((SystemTime::now(), repair.what));
        }
    }

    /// One line for whoever asks how things stand; `None` if nothing was ever lost.
    #[must_use]
    pub fn line(&self) -> Option<String> {
        let (time, what) = self.last.as_ref()?;
        let count: u64 = self.counts.values().sum();
        let time = rfc3339(*time);
        Some(format!("{count} lost and restored, the last at {time}: {what}"))
    }
}

impl Health {
    /// Nothing was looked at yet.
    pub fn new() -> Health {
        Health::default()
    }

    /// Puts back what was taken away, then looks.
    pub fn look(engine: &mut Engine) -> Health {
        let mut because = Vec::new();
        let mut repairs = engine.links.repair();
        let mut hooks = engine.links.status();
        if let Some(cover) = &mut engine.cover {
            repairs.extend(cover.repair(&engine.namespaces));
            hooks.push(cover.status());
        }
        if let Some(guard) = &mut engine.guard {
            // Without a pin directory there is nothing to guard, which is told below.
            let _ = guard.follow(&engine.maps, &engine.options.pin_dir);
            hooks.push(guard.status());
        }
        let lost = hooks.iter().filter(|hook| !hook.attached);
        match kernel::check_bpffs(&engine.options.pin_dir) {
            Ok(()) => {
                repairs.extend(engine.maps.repair());
                because.extend(lost.map(|hook| format!("{}: {}", hook.hook, hook.note)));
                because.extend(engine.maps.lost());
            }
            // One cause for all of them, and one line.
            Err(error) => {
                let hooks: Vec<&str> = lost.map(|hook| hook.hook.as_str()).collect();
                because.push(format!(
                    "without a pin, enforcement ends with the daemon: {}: {}",
                    hooks.join(", "),
                    chain(&error).replace('\n', "; ")
                ));
            }
        }
        engine.repairs.note(repairs);
        match engine.probe.as_ref().map(Probe::send) {
            Some(Probed::Passed) => because.push("a probe that must be refused got out".to_owned()),
            Some(Probed::Unclear) => because.push("the probe failed for a reason of its own".to_owned()),
            Some(Probed::Refused) => {}
            None => {
                because.push("there is no live probe: the cgroup file system may not be written".to_owned())
            }
        }
        match engine.tables.active() {
            Ok(active) if active.revision() == 0 => because.push("no policy is in force".to_owned()),
            Ok(_) => {}
            Err(error) => because.push(chain(&error)),
        }
        Health {
            enforcing: because.is_empty(),
            because,
            hooks,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_may_be_lost_is_counted_from_the_start() {
        let mut repairs = Repairs::default();
        assert!(LOST.iter().all(|lost| repairs.counts.get(lost) == Some(&0)));
        assert_eq!(repairs.line(), None);
        repairs.note(vec![Repair {
            lost: "detached",
            what: "egress: nobody was there".into(),
        }]);
        assert_eq!(repairs.counts.get("detached"), Some(&1));
        assert_eq!(repairs.counts.len(), LOST.len());
    }
}
