//! Questions about the policy that the running daemon answers.

use std::{path::Path, process::ExitCode};

use super::{NO, YES, answer, no_answer};
use crate::control::{
    client::Client,
    protocol::{Request, Response},
    types::Question,
};

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
