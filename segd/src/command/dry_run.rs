//! `segd apply --dry-run`: asks the daemon what a policy would change. Nothing is changed by it.

use std::{collections::BTreeSet, process::ExitCode};

use super::{ClientArgs, INVALID, NO, OutputArgs, YES, answer, no_answer};
use crate::{
    control::{
        client::{Client, ClientError},
        dry_run::DryRun,
        protocol::{Request, Response},
        types::{Candidate, Text},
    },
    daemon::style,
    output::{diff::Answer as Changes, dry_run::Answer, fail},
    policy::{
        compile::{CompileError, compile},
        compiled::{CompiledTables, SegmentIndexes},
        diff::{Side, diff},
        model::{Mode, Policy, Source},
    },
    source::{Sources, resolve_read},
    workload::selector::moves::moves,
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
    let sources = Sources::of(texts.map(|Text { name, text }| Source { name, text }).collect());
    let old = match resolve_read(sources, true) {
        Ok(loaded) => loaded.policy,
        Err(error) => {
            eprint!("{}", error.render(style()));
            let help = "the daemon understands the policy in force: use the segd that is running";
            return fail(INVALID, "the policy in force is not understood", Some(help));
        }
    };
    let mode = match told.mode.as_deref() {
        Some("audit") => Some(Mode::Audit),
        Some(_) => Some(Mode::Enforce),
        None => None,
    };
    let (old_tables, new_tables) = match (tables(&old, mode), tables(new, mode)) {
        (Ok(old), Ok(new)) => (old, new),
        (Err(error), _) | (_, Err(error)) => return fail(INVALID, &error.to_string(), None),
    };
    let moves = match moves(&old_tables, &new_tables) {
        Ok(moves) => moves,
        Err(error) => return fail(INVALID, &error.to_string(), None),
    };
    let old = Side {
        policy: &old,
        tables: &old_tables,
    };
    let new = Side {
        policy: new,
        tables: &new_tables,
    };
    let found = Answer::of(told, Changes::of(&diff(old, new, moves)));
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

fn tables(policy: &Policy, mode: Option<Mode>) -> Result<CompiledTables, CompileError> {
    let mut indexes = SegmentIndexes::default();
    indexes.allocate(policy, &BTreeSet::new())?;
    compile(policy, &indexes, mode)
}
