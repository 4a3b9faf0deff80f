//! Questions about the policy that the running daemon answers.

use std::{path::Path, process::ExitCode};

use super::{NO, YES, answer, no_answer};
use crate::control::{
    client::{Client, ClientError},
    protocol::{Request, Response},
    types::{Explanation, Question, WorkloadRow},
};
use segd_common::verdict::Outcome;

/// Who a cgroup is to the daemon: itself, or the nearest one above.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    /// Its segment.
    pub segment: String,
    /// What keeps everything from it, whatever its segment may: it is `pending`, `orphaned` or `ambiguous`.
    pub denied: Option<String>,
}

impl Party {
    /// A segment that was named.
    #[must_use]
    pub fn named(segment: String) -> Party {
        Party {
            segment,
            denied: None,
        }
    }

    fn of(rows: &[WorkloadRow], cgroup: &str) -> Party {
        let above = |row: &&WorkloadRow| {
            let rest = cgroup.strip_prefix(row.cgroup.trim_end_matches('/'));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let nearest = rows.iter().filter(above).max_by_key(|row| row.cgroup.len());
        nearest.map_or_else(
            || Party::named("host".to_owned()),
            |row| Party {
                segment: row.segment.clone(),
                denied: (!matches!(row.state.as_ref(), "tagged" | "host")).then(|| row.state.to_string()),
            },
        )
    }
}

/// Who a cgroup is, as the daemon has it.
///
/// # Errors
///
/// If the daemon does not answer.
pub fn party(control: &Path, cgroup: &str) -> Result<Party, ClientError> {
    let rows = Client::ask(control, &Request::Workloads).and_then(|mut client| match client.answer()? {
        Response::Workloads(rows) => Ok(rows),
        _ => Err(client.surprise()),
    })?;
    Ok(Party::of(&rows, cgroup))
}

/// The answer about somebody who is denied everything, whatever the rules say of his segment.
#[must_use]
pub fn denied(from: &Party, to: &Party, port: &str, format: crate::output::Format) -> Option<ExitCode> {
    let reason = from.denied.as_ref().or(to.denied.as_ref())?;
    let explanation = Explanation {
        from: from.segment.clone(),
        to: to.segment.clone(),
        port: port.to_owned(),
        verdict: Outcome::Denied.label().into(),
        reason: reason.clone().into(),
        ..Explanation::default()
    };
    Some(answer(format, &explanation, NO))
}

/// `segd policy explain` without a path: asks the daemon behind `control`. Exit code 1 if it is denied; what
/// audit mode would let pass is denied too, for that is what the policy says.
#[must_use]
pub fn explain(control: &Path, from: &str, to: &str, port: &str, format: crate::output::Format) -> ExitCode {
    let question = Question {
        from: from.to_string(),
        to: to.to_string(),
        port: port.to_string(),
    };
    let asked =
        Client::ask(control, &Request::Explain(question)).and_then(|mut client| match client.answer()? {
            Response::Explanation(explanation) => Ok(explanation),
            _ => Err(client.surprise()),
        });
    match asked {
        Ok(explanation) => {
            let code = if explanation.verdict == "allowed" { YES } else { NO };
            answer(format, explanation.as_ref(), code)
        }
        Err(error) => no_answer(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_denied_whatever_the_rules_say_is_not_taken_for_his_segment() {
        let row = |cgroup: &str, segment: &str, state: &'static str| WorkloadRow {
            cgroup: cgroup.into(),
            segment: segment.into(),
            state: state.into(),
            ..WorkloadRow::default()
        };
        let rows = [
            row("/", "host", "host"),
            row("/shop/web", "web", "tagged"),
            row("/shop/web/old", "web", "orphaned"),
            row("/shop/ci", "host", "pending"),
            row("/shop/torn", "web", "ambiguous"),
        ];
        for (cgroup, segment, denied) in [
            ("/", "host", None),
            ("/elsewhere", "host", None),
            ("/shop/web", "web", None),
            ("/shop/webs", "host", None),
            ("/shop/web/old/x", "web", Some("orphaned")),
            ("/shop/ci/1", "host", Some("pending")),
            ("/shop/torn", "web", Some("ambiguous")),
        ] {
            let party = Party::of(&rows, cgroup);
            assert_eq!(
                (party.segment.as_str(), party.denied.as_deref()),
                (segment, denied),
                "{cgroup}"
            );
        }
        let torn = Party::of(&rows, "/shop/torn");
        let web = Party::named("web".into());
        let said = |from: &Party, to: &Party| denied(from, to, "tcp/1", crate::output::Format::Json);
        assert!(said(&web, &web).is_none());
        assert!(said(&web, &torn).is_some() && said(&torn, &web).is_some());
    }
}
