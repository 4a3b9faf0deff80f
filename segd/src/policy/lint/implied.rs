//! Rules that another rule of the same kind makes superfluous: take them out and nothing changes.

use super::{
    Ends, Looked,
    grid::{Grid, Related},
    within,
};
use crate::policy::{
    diagnostic::{Code, Diagnostic},
    model::{Action, Peer, Policy},
};

/// Rules by what they are about, so that those which could imply one are found without asking all.
pub struct Implied<'l, 'p> {
    rules: &'l [Looked<'p>],
    allows: (&'l Grid<'l>, Related),
    denies: (&'l Grid<'l>, Related),
}

impl<'l, 'p> Implied<'l, 'p> {
    /// Of rules, by their kinds.
    pub fn new(
        rules: &'l [Looked<'p>],
        ends: &Ends,
        allows: &'l Grid<'l>,
        denies: &'l Grid<'l>,
    ) -> Implied<'l, 'p> {
        Implied {
            rules,
            allows: (allows, allows.around(ends)),
            denies: (denies, denies.around(ends)),
        }
    }

    /// The warning about a rule, if another one says all that it says.
    pub fn of(&self, number: usize, policy: &Policy) -> Option<Diagnostic> {
        let looked = self.rules.get(number)?;
        if let Some(diagnostic) = intra(looked, policy) {
            return Some(diagnostic);
        }
        let other = self.by(number, looked)?;
        let (kind, verb) = match looked.rule.action {
            Action::Allow => ("rule", "allows"),
            Action::Deny => ("guardrail", "forbids"),
        };
        let message = format!("the {kind} changes nothing: another one {verb} all of it");
        let diagnostic = Diagnostic::warning(Code::Implied, looked.span, message);
        Some(
            diagnostic
                .related(other.span, format!("{kind} `{}`", other.rule.label()))
                .help("take one of the two out"),
        )
    }

    /// A rule that says all that this one says; of two that say the same, the first.
    fn by(&self, number: usize, looked: &Looked<'_>) -> Option<&Looked<'p>> {
        let (grid, around) = match looked.rule.action {
            Action::Allow => &self.allows,
            Action::Deny => &self.denies,
        };
        if grid.is_alone(around, looked) {
            return None;
        }
        let rule = looked.rule;
        let first = *rule.services.first()?;
        grid.find(around, looked, |bundle| {
            let same = bundle.from == looked.from.number && bundle.to == looked.to.number;
            let covers = |other: usize| {
                let by = &self.rules.get(other)?.rule;
                let services = &by.services;
                let earlier = !same || other < number || *services != rule.services || by.term != rule.term;
                (other != number && earlier && within(&rule.services, services) && by.term.covers(&rule.term))
                    .then_some(other)
            };
            // Nearly always the one that reaches farthest does; else each that begins early enough is asked.
            bundle.around(first).find_map(covers)
        })
        .and_then(|other| self.rules.get(other))
    }
}

/// Members of one segment may talk to each other without a rule, unless it says otherwise.
fn intra(looked: &Looked<'_>, policy: &Policy) -> Option<Diagnostic> {
    if looked.rule.action != Action::Allow || looked.from != looked.to || looked.from.len() != 1 {
        return None;
    }
    let Some(Peer::Segment(name)) = looked.rule.from.first() else {
        return None;
    };
    policy.segments.get(name).filter(|segment| segment.intra)?;
    let message = format!("the rule changes nothing: members of `{name}` may talk to each other anyway");
    Some(
        Diagnostic::warning(Code::Implied, looked.span, message)
            .help("take it out, or give the segment `intra: deny`"),
    )
}
