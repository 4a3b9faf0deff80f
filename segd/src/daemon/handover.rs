//! Coming into force where programs of other layouts enforce already: another version of segd, or this one whose pinned
//! maps somebody broke.
//!
//! Maps of other layouts are never adopted. This build loads its own beside them, takes over which cgroup was in which
//! segment, attaches its programs beside the others, and lets them learn: they judge and remember, and let everything
//! pass, while the others go on enforcing. Then they enforce too, are pinned, and the others are detached. It is the
//! same in both directions, so an older version takes over from a newer one in the same way.
//!
//! INVARIANT: nothing of this build is pinned on a hook before it enforces: whenever the daemon dies, what enforced before
//! it goes on, and the next start begins anew.

use std::{collections::BTreeMap, time::Duration};

use segd_common::config::Active;

use super::trial;
use crate::{
    datapath::{
        Datapath, Error,
        carry::{carry, text_of},
        links::Links,
        manifest,
        pins::Pins,
    },
    report::chain,
    source::Loaded,
};

/// What is told of a policy that a client brought, and that ends although nobody took it back.
pub(super) fn not_gone_on_with(revision: u32, why: &str) -> String {
    format!(
        "revision {revision}, which was applied or rolled back to, is not gone on with: the policy files are enforced in its place: {why}"
    )
}

/// For how long the new programs only learn: an exchange without a connection is known once either side asked.
const LEARNING: Duration = Duration::from_secs(2);

/// How this daemon comes into force.
#[derive(Debug)]
pub struct Handover {
    pins: Pins,
    /// Sets of maps and links that are not this build's.
    others: Vec<Pins>,
    /// The set among them that enforces, if this build's does not.
    from: Option<Pins>,
}

impl Handover {
    /// Looks at what is pinned, and puts aside what cannot be used.
    ///
    /// # Errors
    ///
    /// Pins that cannot be moved or removed.
    pub fn prepare(pins: &Pins) -> Result<Handover, Error> {
        pins.finish_setting_aside()?;
        let living = pins.is_living();
        if let Err(why) = manifest::check(pins)
            && !pins.is_empty()
        {
            let maps = pins.maps.display();
            if living {
                tracing::error!("the maps pinned in `{maps}` cannot be used: {why}; taking over from them");
                pins.set_aside()?;
            } else {
                tracing::warn!("the maps pinned in `{maps}` cannot be used: {why}; making them anew");
                pins.clear()?;
            }
        }
        let others = pins.others();
        let from = others.iter().find(|other| other.is_living()).cloned();
        let from = from.filter(|_| !pins.is_living());
        if from.is_some() {
            // What an earlier attempt left, or an earlier time of this build's.
            pins.clear()?;
        }
        pins.create()?;
        Ok(Handover {
            pins: pins.clone(),
            others,
            from,
        })
    }

    /// Whether the programs only learn at first.
    #[must_use]
    pub fn learns(&self) -> bool {
        self.from.is_some()
    }

    /// Takes over who was in which segment.
    ///
    /// # Errors
    ///
    /// A map that cannot be read or written.
    pub fn carry(&self) -> Result<(), Error> {
        let Some(from) = &self.from else {
            return Ok(());
        };
        let place = from.links.display();
        match carry(from, &self.pins)? {
            Some(count) => tracing::info!("taking over from `{place}`: {count} cgroups"),
            None => tracing::warn!(
                "taking over from `{place}`, which does not say who was in which segment: what this policy does not claim is unclaimed"
            ),
        }
        Ok(())
    }

    /// Why the policy that was carried over as being in force is not gone on with, if a client had brought it: this build
    /// understands who was in which segment, and not another's tables.
    #[must_use]
    pub fn gives_up(&self, active: Active, files: &Loaded) -> Option<String> {
        let (kept, _) = trial::kept(&text_of(self.from.as_ref()?, active.slot())?)?;
        // Over files that changed since it ends anyway.
        let stays =
            kept.applied && kept.revision == active.revision() && kept.files == files.hash().to_string();
        stays.then(|| not_gone_on_with(active.revision(), "its text is not taken over with its workloads"))
    }

    /// The numbers that users had under the policy that is taken over.
    #[must_use]
    pub fn numbers(&self, active: Active) -> BTreeMap<String, u32> {
        let text = self.from.as_ref().and_then(|from| text_of(from, active.slot()));
        let kept = text.and_then(|text| trial::kept(&text));
        kept.map(|(kept, _)| kept.users).unwrap_or_default()
    }

    /// Lets the programs learn, puts those that enforce in their place, and ends what enforced before.
    ///
    /// # Errors
    ///
    /// What enforced before goes on then.
    pub async fn finish(&self, links: &mut Links, subtree: bool) -> Result<(), Error> {
        if self.learns() {
            // SLEEP: learning is about time.
            tokio::time::sleep(LEARNING).await;
            let enforcing = Datapath::load(&self.pins.root, subtree, false)?;
            super::start::log_from_kernel(&enforcing);
            links.take_over(&enforcing)?;
        }
        // An interface takes no second program: the others' links are updated where this build looks for them.
        for other in &self.others {
            other.move_links(&self.pins, "xdp_");
        }
        Ok(())
    }

    /// Ends what is not this build's.
    pub fn retire(&self) {
        for other in &self.others {
            if let Err(error) = other.clear() {
                tracing::warn!("removing the pins of another layout: {}", chain(&error));
            }
        }
    }
}
