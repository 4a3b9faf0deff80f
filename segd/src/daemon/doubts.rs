//! What the policy of a start probably does not mean: told beside, once it is in force.

use std::{sync::Arc, thread};

use super::start::style;
use crate::policy::{
    diagnostic::render,
    model::{Policy, Source},
    resolve::Doubts,
};

/// Says on stderr what the policy that came into force probably does not mean. Of a large one that takes longer than to compile it: nobody
/// is left without enforcement for that, nor waits for it.
pub(super) fn tell(doubts: Doubts, (policy, sources): (Arc<Policy>, Vec<Source>)) {
    let tell = move || {
        let (_, warnings) = doubts.warnings(&policy, &sources);
        crate::output::draw(&render(&warnings, &sources, style()));
        drop((warnings, policy, sources));
        super::give_back_memory();
    };
    if let Err(error) = thread::Builder::new().name("doubts".to_owned()).spawn(tell) {
        tracing::warn!("nothing is said of what the policy probably does not mean: {error}");
    }
}
