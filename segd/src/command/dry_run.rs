//! `segd apply --dry-run`: asks the daemon what a policy would change. Nothing is changed by it.

use std::process::ExitCode;

use jiff::Timestamp;

use super::{
    ClientArgs, INVALID, NO, OutputArgs, YES, answer, no_answer,
    policy::compare::{Then, later},
};
use crate::{
    control::{
        client::{Client, ClientError},
        dry_run::DryRun,
        protocol::{Request, Response},
        types::Candidate,
    },
    daemon::style,
    output::{diff::Answer as Changes, dry_run::Answer, fail},
    policy::model::{Mode, Policy, Source},
    source::{Sources, resolve_read},
};

/// Sends a policy, and compares it with the one in force. Exit code 1 if something would change: with `deny_widening`, only
/// if something would be newly allowed or no longer enforced.
#[must_use]
pub fn run(
    new: &Policy,
    candidate: Candidate,
    deny_widening: bool,
    client: &ClientArgs,
    output: OutputArgs,
) -> ExitCode {
    let mut told = match ask(client, candidate) {
        Ok(told) => told,
        Err(error) => return no_answer(&error),
    };
    let texts = std::mem::take(&mut told.texts).into_iter();
    let sources = Sources::of(texts.map(Source::from).collect());
    let old = match resolve_read(sources, true) {
        Ok(loaded) => loaded.policy,
        Err(error) => {
            crate::output::draw(&error.render(style()));
            let help = "the daemon understands the policy in force: use the segd that is running";
            return fail(INVALID, "the policy in force is not understood", Some(help));
        }
    };
    let mode = match told.mode.as_deref() {
        Some("audit") => Some(Mode::Audit),
        Some(_) => Some(Mode::Enforce),
        None => None,
    };
    let time = Timestamp::now();
    let compared = Then::of(&old, mode, time).and_then(|then| {
        let mut changes = Changes::of(&then.against(&Then::of(new, mode, time)?)?);
        changes.later = later(&old, new, mode, time, &changes.changes)?;
        changes.widens |= changes.later.iter().any(|later| later.widens);
        Ok(changes)
    });
    let changes = match compared {
        Ok(changes) => changes,
        Err(error) => return fail(INVALID, &error, None),
    };
    let found = Answer::of(told, changes);
    let no = if deny_widening {
        found.diff.widens
    } else {
        found.changes()
    };
    answer(output.output, &found, if no { NO } else { YES })
}

fn ask(client: &ClientArgs, candidate: Candidate) -> Result<DryRun, ClientError> {
    let mut client = Client::ask(&client.control, &Request::DryRun(candidate))?;
    match client.answer()? {
        Response::DryRun(told) => Ok(*told),
        _ => Err(client.surprise()),
    }
}
