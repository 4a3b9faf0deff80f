//! Questions about the policy that the running daemon answers.

use std::{path::Path, process::ExitCode};

use super::{NO, YES, answer, no_answer};
use crate::control::{
    client::{Client, ClientError},
    protocol::{Request, Response},
    types::{Question, WorkloadRow},
};

/// The segment of a cgroup, as the daemon has it: its own, or that of the nearest one above.
///
/// # Errors
///
/// If the daemon does not answer.
pub fn segment_of(control: &Path, cgroup: &str) -> Result<String, ClientError> {
    let rows = Client::ask(control, &Request::Workloads).and_then(|mut client| match client.answer()? {
        Response::Workloads(rows) => Ok(rows),
        _ => Err(client.surprise()),
    })?;
    let above = |row: &&WorkloadRow| {
        let rest = cgroup.strip_prefix(row.cgroup.trim_end_matches('/'));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let nearest = rows.iter().filter(above).max_by_key(|row| row.cgroup.len());
    Ok(nearest.map_or_else(|| "host".to_owned(), |row| row.segment.clone()))
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
