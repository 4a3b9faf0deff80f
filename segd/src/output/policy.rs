//! The JSON and YAML of `segd policy`. Stable; documented in docs/policy.md.

use serde::Serialize;

use super::{Format, clean};
use crate::policy::{
    diagnostic::{Diagnostic, Label, Places, Span},
    explain::{self, Explanation},
    model::{Action, Policy, Source},
    port,
};

/// An answer in a format; `table` draws it for people.
///
/// # Errors
///
/// If it cannot be written in the format, which would be a fault of segd.
pub fn print<T: Serialize>(
    format: Format,
    answer: &T,
    table: impl FnOnce(&T) -> String,
) -> anyhow::Result<String> {
    Ok(match format {
        Format::Table => table(answer),
        Format::Json => serde_json::to_string_pretty(answer)? + "\n",
        Format::Yaml => serde_yaml::to_string(answer)?,
    })
}

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
    /// What `--live` could not tell; absent if there is nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
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
    /// The first character after it.
    pub end: End,
}

/// Where a place ends.
#[derive(Clone, Debug, Serialize)]
pub struct End {
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
    /// The reason in a sentence.
    pub sentence: String,
    /// The label of the rule that decided.
    pub rule: Option<String>,
    /// Where it stands, `file:line`.
    pub location: Option<String>,
    /// What stands there.
    pub text: Option<String>,
    /// Its `reason:`.
    pub because: Option<String>,
    /// The rule that almost allowed it.
    pub nearest: Option<Nearest>,
    /// The commit that the rule's line comes from, if the policy lies in a repository.
    pub commit: Option<String>,
    /// How it is known who initiates, if the question named no segment.
    pub from_because: Option<String>,
    /// How it is known towards whom.
    pub to_because: Option<String>,
    /// Other rules that speak of it.
    pub considered: Vec<Considered>,
    /// The smallest change that would turn the answer round.
    pub change: Change,
}

/// A rule that speaks of it and did not decide.
#[derive(Clone, Debug, Serialize)]
pub struct Considered {
    /// Its label.
    pub rule: String,
    /// Where it stands, `file:line`.
    pub location: String,
    /// What stands there.
    pub text: String,
    /// What it says.
    pub role: &'static str,
}

/// The smallest change that would turn the answer round.
#[derive(Clone, Debug, Serialize)]
pub struct Change {
    /// The list that a rule is to be added to: `allow`, `deny`.
    pub list: Option<&'static str>,
    /// The rule.
    pub add: Option<String>,
    /// The labels of guardrails that have to leave room for it.
    pub narrow: Vec<String>,
    /// All of it in a sentence.
    pub sentence: String,
}

/// A rule that almost allowed it.
#[derive(Clone, Debug, Serialize)]
pub struct Nearest {
    /// Its label.
    pub rule: String,
    /// Where it stands, `file:line`.
    pub location: String,
    /// What stands there.
    pub text: String,
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
        let end = places.locate(Span {
            start: span.end.max(span.start),
            ..span
        });
        Place {
            file: location.file.to_string(),
            line: location.line,
            column: location.column,
            end: End {
                line: end.line,
                column: end.column,
            },
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

impl From<&Explanation> for Explained {
    fn from(explanation: &Explanation) -> Explained {
        let rule = explanation.rule.as_ref();
        Explained {
            from: explanation.from.clone(),
            to: explanation.to.clone(),
            port: port::display(explanation.service),
            verdict: explanation.outcome.label(),
            reason: explanation.reason.label(),
            sentence: explanation.sentence.clone(),
            rule: rule.map(|rule| rule.label.clone()),
            location: rule.map(|rule| rule.location.to_string()),
            text: rule.map(|rule| rule.text.clone()),
            because: rule.and_then(|rule| rule.reason.clone()),
            nearest: explanation.nearest.as_ref().map(|near| Nearest {
                rule: near.rule.label.clone(),
                location: near.rule.location.to_string(),
                text: near.rule.text.clone(),
                difference: near.difference.clone(),
            }),
            commit: None,
            from_because: None,
            to_because: None,
            considered: explanation.considered.iter().map(Considered::of).collect(),
            change: Change::of(explanation),
        }
    }
}

impl Considered {
    fn of(considered: &explain::Considered) -> Considered {
        Considered {
            rule: considered.rule.label.clone(),
            location: considered.rule.location.to_string(),
            text: considered.rule.text.clone(),
            role: considered.role,
        }
    }
}

impl Change {
    fn of(explanation: &Explanation) -> Change {
        let turn = &explanation.turn;
        let verb = if explanation.reason.allows() {
            "deny"
        } else {
            "allow"
        };
        let mut steps = Vec::new();
        for rule in &turn.narrow {
            steps.push(format!(
                "take it out of guardrail {} at {}",
                rule.label, rule.location
            ));
        }
        if let Some((list, rule)) = &turn.add {
            steps.push(format!("add under `{list}`: {rule}"));
        }
        if turn.enforce_host {
            steps.push(
                "say `spec.defaults.host: enforce`; then the host, too, needs a rule for everything"
                    .to_owned(),
            );
        }
        Change {
            list: turn.add.as_ref().map(|(list, _)| *list),
            add: turn.add.as_ref().map(|(_, rule)| rule.clone()),
            narrow: turn.narrow.iter().map(|rule| rule.label.clone()).collect(),
            sentence: format!("to {verb} it, {}", steps.join(", and ")),
        }
    }
}

impl Explained {
    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let asked = format!("{}: {} -> {} {}", self.verdict, self.from, self.to, self.port);
        let mut out = format!("{}\n", clean(&asked));
        let mut line = |name: &str, text: &str| out.push_str(&format!("  {name:8} {}\n", clean(text)));
        for because in [&self.from_because, &self.to_because].into_iter().flatten() {
            line("who", because);
        }
        line("reason", &format!("{}: {}", self.reason, self.sentence));
        if let (Some(rule), Some(location), Some(text)) = (&self.rule, &self.location, &self.text) {
            line("rule", &format!("{rule} at {location}"));
            line("", text);
        }
        if let Some(because) = &self.because {
            line("because", because);
        }
        if let Some(commit) = &self.commit {
            line("commit", commit);
        }
        for other in &self.considered {
            line(
                "also",
                &format!("{} at {} {}", other.rule, other.location, other.role),
            );
            line("", &other.text);
        }
        if let Some(near) = &self.nearest {
            line(
                "nearest",
                &format!("{} at {}: {}", near.rule, near.location, near.difference),
            );
            line("", &near.text);
        }
        line("change", &self.change.sentence);
        out
    }
}
