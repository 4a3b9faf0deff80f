//! BPF programs as a security module: attached where the kernel asks them, and plainly told where it does not. Nothing
//! of the enforcement depends on them.

use super::engine::Engine;
use crate::{
    datapath::{
        Datapath,
        guard::{self, Guard},
        links::SOCKETS,
    },
    doctor::lsm::{NAME, unasked},
    report::chain,
};

impl Engine {
    /// Refuses workloads the sockets that pass no other hook. Returns why it cannot.
    pub(super) fn attach_modules(&mut self) -> Option<String> {
        let of_the_doctor = |line: &String| line.starts_with(&format!("{NAME}: "));
        let found = match self.links.attach_if(SOCKETS, guard::is_asked) {
            // It is asked: the doctor may not have been able to tell.
            Ok(true) => {
                self.degraded.retain(|line| !of_the_doctor(line));
                None
            }
            Ok(false) => Some("the kernel does not ask such programs".to_owned()),
            Err(error) => Some(chain(&error)),
        };
        if let Some(found) = &found
            && !self.degraded.iter().any(of_the_doctor)
        {
            self.degrade(unasked(found.as_str()).line());
        }
        found
    }

    /// Begins to guard what is pinned if that was asked for. `lacks`: why such programs do not run.
    pub(super) fn arm(&mut self, datapath: &Datapath, lacks: Option<String>) {
        if !self.options.protect {
            return;
        }
        let armed = match lacks {
            Some(found) => Err(found),
            None => Guard::new(datapath)
                .and_then(|mut guard| {
                    guard.arm(&self.links, &self.maps, &self.options.pin_dir)?;
                    Ok(guard)
                })
                .map_err(|error| chain(&error)),
        };
        match armed {
            Ok(guard) => self.guard = Some(guard),
            Err(why) => self.degrade(format!(
                "protect: {why}: segd's pins are not guarded; what is taken away is put back within a second"
            )),
        }
    }

    fn degrade(&mut self, line: String) {
        tracing::warn!("degraded: {line}");
        self.degraded.push(line);
    }
}
