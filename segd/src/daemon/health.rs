//! Whether segd enforces: every link on its hook, and a probe refused.

use crate::{
    daemon::probe::Probed,
    datapath::links::{self, Attached},
};

use super::engine::Engine;

/// The last look.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// Everything holds.
    pub enforcing: bool,
    /// What does not.
    pub because: Vec<String>,
    /// The hooks.
    pub hooks: Vec<Attached>,
}

impl Health {
    /// Nothing was looked at yet.
    pub fn new() -> Health {
        Health::default()
    }

    /// Looks.
    pub fn look(engine: &Engine) -> Health {
        let hooks = links::status(&engine.pins.links, &engine.options.interfaces);
        let mut because: Vec<String> = hooks
            .iter()
            .filter(|hook| !hook.attached)
            .map(|hook| format!("{} is not attached: {}", hook.hook, hook.note))
            .collect();
        match engine.probe.as_ref().map(super::probe::Probe::send) {
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
            Err(error) => because.push(crate::report::chain(&error)),
        }
        Health {
            enforcing: because.is_empty(),
            because,
            hooks,
        }
    }
}
