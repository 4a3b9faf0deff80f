//! The rules of compiled tables, for people.

use std::{fmt, ops::Deref};

use crate::policy::model::{Pieces, Rule};

/// The policy's own rules, which tables share. Of each one is told what it is called, where it stands and when it holds: tables with
/// the same of all are the same.
#[derive(Clone, Default)]
pub struct ToldRules(pub Pieces<Rule>);

impl Deref for ToldRules {
    type Target = Pieces<Rule>;

    fn deref(&self) -> &Pieces<Rule> {
        &self.0
    }
}

impl PartialEq for ToldRules {
    fn eq(&self, other: &ToldRules) -> bool {
        let told = |rule: &Rule| (rule.label(), rule.location(), rule.term.clone());
        self.len() == other.len() && self.iter().map(told).eq(other.iter().map(told))
    }
}

impl fmt::Debug for ToldRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = |rule: &Rule| (rule.label(), rule.location(), rule.term.clone());
        f.debug_list().entries(self.iter().map(told)).finish()
    }
}
