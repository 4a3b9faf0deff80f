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

    /// A cgroup by its path from the daemon's root; or by its id on this host, and of one that is there and that the daemon does not see
    /// (its owner hides it), the nearest one above.
    fn of(rows: &[WorkloadRow], path: Option<&str>, ids: &[u64]) -> Option<Party> {
        let path = path.map(|path| match path.trim_end_matches('/') {
            "" => "/",
            path => path,
        });
        let named = rows.iter().find(|row| Some(&*row.cgroup) == path);
        let nearest = || ids.iter().find_map(|id| rows.iter().find(|row| row.id == *id));
        let row = named.or_else(nearest)?;
        Some(Party {
            segment: row.segment.clone(),
            denied: (!matches!(row.state.as_ref(), "tagged" | "host")).then(|| row.state.to_string()),
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

/// Who a cgroup is, as the daemon has it: by its path from the daemon's root, if that is known, or by its ids and those above it. `None`:
/// there is no such cgroup.
///
/// # Errors
///
/// If the daemon does not answer.
pub fn party(control: &Path, path: Option<&str>, ids: &[u64]) -> Result<Option<Party>, ClientError> {
    let rows = Client::ask(control, &Request::Workloads).and_then(|mut client| match client.answer()? {
        Response::Workloads(rows) => Ok(rows),
        _ => Err(client.surprise()),
    })?;
    Ok(Party::of(&rows, path, ids))
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
        let row = |id: u64, cgroup: &str, segment: &str, state: &'static str| WorkloadRow {
            id,
            cgroup: cgroup.into(),
            segment: segment.into(),
            state: state.into(),
            ..WorkloadRow::default()
        };
        let rows = [
            row(1, "/", "host", "host"),
            row(2, "/shop/web", "web", "tagged"),
            row(3, "/shop/web/old", "web", "orphaned"),
            row(4, "/shop/ci", "host", "pending"),
            row(5, "/shop/torn", "web", "ambiguous"),
        ];
        for (path, ids, segment, denied) in [
            (Some("/"), &[][..], "host", None),
            (Some("/elsewhere"), &[9, 1], "host", None),
            (Some("/shop/web"), &[], "web", None),
            (Some("/shop/web/"), &[], "web", None),
            (Some("/shop/webs"), &[9, 8, 1], "host", None),
            (Some("/shop/web/old"), &[], "web", Some("orphaned")),
            (Some("/shop/web/old/x"), &[9, 3, 2, 8, 1], "web", Some("orphaned")),
            (Some("/shop/ci/1"), &[9, 4, 8, 1], "host", Some("pending")),
            (Some("/shop/torn"), &[], "web", Some("ambiguous")),
            // A process: its path begins elsewhere.
            (None, &[2, 8, 1, 7], "web", None),
        ] {
            let party = Party::of(&rows, path, ids).expect("somebody");
            assert_eq!(
                (party.segment.as_str(), party.denied.as_deref()),
                (segment, denied),
                "{path:?} {ids:?}"
            );
        }
        for nowhere in ["/elsewhere", "/shop/web/old/x", "shop/web"] {
            assert_eq!(Party::of(&rows, Some(nowhere), &[]), None, "{nowhere}");
        }
        // What is on this host, and not below the daemon's root.
        assert_eq!(Party::of(&rows, Some("/elsewhere"), &[9, 7]), None);
        assert_eq!(Party::of(&rows, None, &[9, 7]), None);
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
