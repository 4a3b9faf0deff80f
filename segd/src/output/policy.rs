//! The JSON and YAML of `segd policy`. Stable; documented in docs/policy.md.

use serde::Serialize;

use crate::policy::{
    diagnostic::{Diagnostic, Label, Places, Span},
    explain::{Explanation, NearMiss, RuleRef},
    model::{Action, Policy, Source},
    port,
};

/// The answer of `segd policy check`.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// Whether the policy would be taken.
    pub valid: bool,
    /// What is in it; absent if it is invalid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
    /// Why it could not be read; absent if it could.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Errors and warnings.
    pub diagnostics: Vec<Finding>,
}

/// What is in a policy.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Files read.
    pub files: usize,
    /// Documents.
    pub documents: usize,
    /// Segments.
    pub segments: usize,
    /// `allow` rules.
    pub allow: usize,
    /// `deny` rules.
    pub deny: usize,
    /// Matchers.
    pub matchers: usize,
}

/// A diagnostic.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// `error` or `warning`.
    pub severity: &'static str,
    /// Its class.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// Where; absent if it is about the policy as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// Other places that matter.
    pub related: Vec<Related>,
    /// What to do.
    pub help: Vec<String>,
}

/// A place in a file.
#[derive(Clone, Debug, Serialize)]
pub struct Place {
    /// The file.
    pub file: String,
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
}

/// Another place.
#[derive(Clone, Debug, Serialize)]
pub struct Related {
    /// Where.
    #[serde(flatten)]
    pub place: Place,
    /// What is there.
    pub text: String,
}

/// The answer of `segd policy explain`.
#[derive(Clone, Debug, Serialize)]
pub struct Explained {
    /// Who initiates.
    pub from: String,
    /// Towards whom.
    pub to: String,
    /// On what.
    pub port: String,
    /// `allowed`, `denied` or `audited`.
    pub verdict: &'static str,
    /// The reason's word.
    pub reason: &'static str,
    /// The reason's number.
    pub reason_number: u8,
    /// The reason in a sentence.
    pub sentence: String,
    /// The rule that decided.
    pub rule: Option<Rule>,
    /// The rule that almost allowed it.
    pub nearest: Option<Nearest>,
}

/// A rule.
#[derive(Clone, Debug, Serialize)]
pub struct Rule {
    /// Its label in metrics.
    pub label: String,
    /// Where it stands.
    #[serde(flatten)]
    pub place: Place,
    /// What the user wrote.
    pub text: String,
    /// `reason:`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A rule that almost allowed it.
#[derive(Clone, Debug, Serialize)]
pub struct Nearest {
    /// The rule.
    pub rule: Rule,
    /// What would have to be different.
    pub difference: String,
}

impl Summary {
    /// Counts.
    #[must_use]
    pub fn of(policy: &Policy, files: usize) -> Summary {
        let count = |action| policy.rules.iter().filter(|rule| rule.action == action).count();
        Summary {
            files,
            documents: policy.names.len(),
            segments: policy.segments.len(),
            allow: count(Action::Allow),
            deny: count(Action::Deny),
            matchers: policy
                .segments
                .values()
                .map(|segment| segment.selectors.len())
                .sum(),
        }
    }
}

/// The diagnostics of some sources.
#[must_use]
pub fn findings(diagnostics: &[Diagnostic], sources: &[Source]) -> Vec<Finding> {
    let places = Places::new(sources);
    let place = |span: Span| {
        let location = places.locate(span);
        Place {
            file: location.file,
            line: location.line,
            column: location.column,
        }
    };
    let related = |label: &Label| Related {
        place: place(label.span),
        text: label.text.clone(),
    };
    let finding = |diagnostic: &Diagnostic| Finding {
        severity: diagnostic.severity.label(),
        code: diagnostic.code.label(),
        message: diagnostic.message.clone(),
        place: diagnostic.span.map(place),
        related: diagnostic.related.iter().map(related).collect(),
        help: diagnostic.help.clone(),
    };
    diagnostics.iter().map(finding).collect()
}

impl From<&RuleRef> for Rule {
    fn from(rule: &RuleRef) -> Rule {
        let location = rule.location.clone();
        Rule {
            label: rule.label.clone(),
            place: Place {
                file: location.file,
                line: location.line,
                column: location.column,
            },
            text: rule.text.clone(),
            reason: rule.reason.clone(),
        }
    }
}

impl From<&NearMiss> for Nearest {
    fn from(near: &NearMiss) -> Nearest {
        Nearest {
            rule: Rule::from(&near.rule),
            difference: near.difference.clone(),
        }
    }
}

impl From<&Explanation> for Explained {
    fn from(explanation: &Explanation) -> Explained {
        Explained {
            from: explanation.from.clone(),
            to: explanation.to.clone(),
            port: port::display(explanation.service),
            verdict: explanation.outcome.label(),
            reason: explanation.reason.label(),
            reason_number: explanation.reason as u8,
            sentence: explanation.sentence.clone(),
            rule: explanation.rule.as_ref().map(Rule::from),
            nearest: explanation.nearest.as_ref().map(Nearest::from),
        }
    }
}

impl Explained {
    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut out = format!("{}: {} -> {} {}\n", self.verdict, self.from, self.to, self.port);
        out.push_str(&format!("  reason: {} ({})\n", self.sentence, self.reason));
        if let Some(rule) = &self.rule {
            out.push_str(&format!("  rule:   {}\n", rule.one_line()));
            if let Some(reason) = &rule.reason {
                out.push_str(&format!("  why:    {reason}\n"));
            }
        }
        if let Some(near) = &self.nearest {
            out.push_str(&format!(
                "  near:   {}\n          {}\n",
                near.rule.one_line(),
                near.difference
            ));
        }
        out
    }
}

impl Rule {
    fn one_line(&self) -> String {
        format!(
            "{} at {}:{}\n          {}",
            self.label, self.place.file, self.place.line, self.text
        )
    }
}
