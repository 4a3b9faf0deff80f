//! Questions about the policy that the running daemon answers.

use std::{path::Path, process::ExitCode};

use super::{NO, YES, answer, no_answer};
use crate::control::{
    client::{Client, ClientError},
    protocol::{Request, Response},
    types::{Explanation, Question, WorkloadRow},
};
use segd_common::verdict::Outcome;

/// What keeps everything from somebody, in the order in which the kernel decides.
const DENIED: [&str; 3] = ["orphaned", "ambiguous", "pending"];

/// Who somebody is to the daemon.
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

    /// A cgroup: itself, or, of one that is there and that the daemon does not see (its owner hides it), the nearest one above.
    fn of(rows: &[WorkloadRow], cgroup: &str, is_there: &dyn Fn(&str) -> bool) -> Option<Party> {
        let cgroup = match cgroup.trim_end_matches('/') {
            "" => "/",
            cgroup => cgroup,
        };
        let above = |row: &&WorkloadRow| {
            let rest = cgroup.strip_prefix(row.cgroup.trim_end_matches('/'));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let nearest = rows.iter().filter(above).max_by_key(|row| row.cgroup.len())?;
        (nearest.cgroup == cgroup || is_there(cgroup)).then(|| Party {
            segment: nearest.segment.clone(),
            denied: (!matches!(nearest.state.as_ref(), "tagged" | "host")).then(|| nearest.state.to_string()),
        })
    }

    /// Whose segment is asked about: who is denied everything may be of one that the policy has no more.
    fn asked(&self) -> String {
        match self.denied {
            Some(_) => "host".to_owned(),
            None => self.segment.clone(),
        }
    }
}

/// Who a cgroup is, as the daemon has it; `None`: there is no such cgroup.
///
/// # Errors
///
/// If the daemon does not answer.
pub fn party(
    control: &Path,
    cgroup: &str,
    is_there: &dyn Fn(&str) -> bool,
) -> Result<Option<Party>, ClientError> {
    let rows = Client::ask(control, &Request::Workloads).and_then(|mut client| match client.answer()? {
        Response::Workloads(rows) => Ok(rows),
        _ => Err(client.surprise()),
    })?;
    Ok(Party::of(&rows, cgroup, is_there))
}

/// What keeps everything from one of two, whatever the rules say of their segments.
fn denied(from: &Party, to: &Party) -> Option<String> {
    let states = [&from.denied, &to.denied].into_iter().flatten();
    let rank = |state: &&String| {
        DENIED
            .iter()
            .position(|known| known == state)
            .unwrap_or(DENIED.len())
    };
    states.min_by_key(rank).cloned()
}

/// `segd policy explain` without a path: asks the daemon behind `control`. Exit code 1 if it is denied; what
/// audit mode would let pass is denied too, for that is what the policy says.
#[must_use]
pub fn explain(
    control: &Path,
    from: &Party,
    to: &Party,
    port: &str,
    format: crate::output::Format,
) -> ExitCode {
    // Asked in any case: a name that the policy does not know is a mistake, whoever the other one is.
    let question = Question {
        from: from.asked(),
        to: to.asked(),
        port: port.to_string(),
    };
    let asked =
        Client::ask(control, &Request::Explain(question)).and_then(|mut client| match client.answer()? {
            Response::Explanation(explanation) => Ok(explanation),
            _ => Err(client.surprise()),
        });
    match asked {
        Ok(explanation) => {
            let explanation = match denied(from, to) {
                Some(reason) => Explanation {
                    from: from.segment.clone(),
                    to: to.segment.clone(),
                    port: port.to_owned(),
                    verdict: Outcome::Denied.label().into(),
                    reason: reason.into(),
                    revision: explanation.revision,
                    ..Explanation::default()
                },
                None => *explanation,
            };
            let code = if explanation.verdict == "allowed" { YES } else { NO };
            answer(format, &explanation, code)
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
        let is_there = |cgroup: &str| cgroup.ends_with("-hidden");
        for (cgroup, segment, denied) in [
            ("/", "host", None),
            ("/elsewhere-hidden", "host", None),
            ("/shop/web", "web", None),
            ("/shop/web/", "web", None),
            ("/shop/webs-hidden", "host", None),
            ("/shop/web/old", "web", Some("orphaned")),
            ("/shop/web/old/x-hidden", "web", Some("orphaned")),
            ("/shop/ci/1-hidden", "host", Some("pending")),
            ("/shop/torn", "web", Some("ambiguous")),
        ] {
            let party = Party::of(&rows, cgroup, &is_there).expect(cgroup);
            assert_eq!(
                (party.segment.as_str(), party.denied.as_deref()),
                (segment, denied),
                "{cgroup}"
            );
        }
        for nowhere in [
            "/elsewhere",
            "/shop/webs",
            "/shop/web/old/x",
            "/shop/ci/1",
            "shop/web",
            "",
        ] {
            let party = Party::of(&rows, nowhere, &|_| false);
            assert_eq!(
                party,
                (nowhere.is_empty()).then(|| Party::named("host".into())),
                "{nowhere}"
            );
        }
    }

    #[test]
    fn of_two_who_are_denied_the_kernels_order_tells_why() {
        let party = |denied: Option<&str>| Party {
            segment: "web".into(),
            denied: denied.map(str::to_owned),
        };
        let order = [
            Some("orphaned"),
            Some("ambiguous"),
            Some("pending"),
            Some("new"),
            None,
        ];
        for (at, one) in order.iter().enumerate() {
            for other in &order[at..] {
                let (one, other) = (party(*one), party(*other));
                assert_eq!(denied(&one, &other), one.denied, "{one:?} {other:?}");
                assert_eq!(denied(&other, &one), one.denied, "{one:?} {other:?}");
            }
        }
    }
}
