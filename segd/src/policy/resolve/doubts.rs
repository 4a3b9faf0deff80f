//! What it takes to say what a policy probably does not mean, after it was resolved: nobody who enforces it waits for that.

use std::sync::Arc;

use super::{defined::Defined, plain::places_of_rules, read::Kept, sort};
use crate::policy::{
    diagnostic::{Diagnostic, Span},
    document::allowance::{self, Allowance},
    lint::{self, Standing},
    model::{Policy, Source},
};

/// What is known beside a policy that is right.
#[derive(Clone, Debug, Default)]
pub struct Doubts {
    files: Vec<Kept>,
    defined: Arc<Defined>,
    allowances: Vec<Allowance>,
    /// What was met on the way.
    out: Vec<Diagnostic>,
}

impl Doubts {
    pub(super) const fn new(
        files: Vec<Kept>,
        defined: Arc<Defined>,
        allowances: Vec<Allowance>,
        out: Vec<Diagnostic>,
    ) -> Doubts {
        Doubts {
            files,
            defined,
            allowances,
            out,
        }
    }

    /// Where rules stand, by their index; and all warnings about the policy that was resolved of these sources.
    #[must_use]
    pub fn warnings(self, policy: &Policy, sources: &[Source]) -> (Vec<Span>, Vec<Diagnostic>) {
        let rules = places_of_rules(&self.files);
        let mut out = self.out;
        let standing = Standing {
            segments: &self.defined.spans,
            rules: &rules,
        };
        lint::lint(policy, &standing, &mut out);
        out.extend(self.defined.warnings().iter().cloned());
        allowance::apply(&self.allowances, false, &mut out);
        sort(sources, &mut out);
        (rules, out)
    }
}
