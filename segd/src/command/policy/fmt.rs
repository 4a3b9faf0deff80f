//! `segd policy fmt`.

use std::{
    collections::BTreeSet,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{CANNOT, INTERNAL, INVALID, NO, Reply, YES};
use crate::{
    output::unified::unified,
    policy::{
        compile::compile,
        compiled::{CompiledTables, SegmentIndexes},
        diagnostic::Style,
        document::tree,
        format,
        model::{Location, Policy, RuleLabel, Source},
        term::Term,
    },
    source::{self, LoadError, Loaded, Sources, Trust, resolve_read},
};

/// Write a policy in one form.
#[derive(Debug, clap::Args)]
pub struct Fmt {
    /// The files and directories of one policy, or `-`: from stdin to stdout
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Change nothing: print what would change, and exit with 1 if anything would
    #[arg(long)]
    check: bool,
}

/// A file and its canonical form.
struct Formatted {
    source: Source,
    text: String,
}

impl Fmt {
    /// Formats, and says what was done.
    pub(super) fn reply(&self, style: Style) -> Reply {
        let formatted = self.read().map_err(|error| Reply {
            complaint: error.render(style),
            code: INVALID,
            ..Reply::default()
        });
        let formatted = match formatted.and_then(all) {
            Ok(formatted) => formatted,
            Err(reply) => return reply,
        };
        let changed = formatted.iter().filter(|file| *file.source.text != *file.text);
        if self.check {
            let answer: String = changed
                .map(|file| unified(&file.source.name, &file.source.text, &file.text))
                .collect();
            let code = if answer.is_empty() { YES } else { NO };
            return Reply {
                answer,
                code,
                ..Reply::default()
            };
        }
        let mut reply = Reply::default();
        if self.is_stdin() {
            reply.answer = formatted.into_iter().map(|file| file.text).collect();
            return reply;
        }
        for file in changed {
            match source::replace::replace(Path::new(&file.source.name), &file.source.text, &file.text) {
                Ok(()) => reply
                    .answer
                    .push_str(&format!("formatted {}\n", file.source.name)),
                Err(error) => {
                    reply
                        .complaint
                        .push_str(&format!("error: cannot write `{}`: {error}\n", file.source.name));
                    reply.code = CANNOT;
                }
            }
        }
        reply
    }

    fn is_stdin(&self) -> bool {
        self.paths == [Path::new("-")]
    }

    fn read(&self) -> Result<Loaded, LoadError> {
        if !self.is_stdin() {
            return source::load(&self.paths, false, &Trust::Everybody);
        }
        let mut text = String::new();
        // One byte more than is read of a file tells that it is too large.
        let most = source::MAX_FILE_BYTES + 1;
        let name = "<stdin>".to_owned();
        match std::io::stdin().lock().take(most).read_to_string(&mut text) {
            Ok(_) => resolve_read(
                Sources::of(vec![Source {
                    name,
                    text: text.into(),
                }]),
                false,
            ),
            Err(source) => Err(LoadError::Unreadable(source::SourceError::Io {
                operation: "read",
                path: PathBuf::from(name),
                source,
            })),
        }
    }
}

/// Every file of a policy that is right, if all of them can be formatted and say the same then.
fn all(loaded: Loaded) -> Result<Vec<Formatted>, Reply> {
    let mut formatted = Vec::new();
    let mut complaint = String::new();
    for source in &loaded.sources {
        match tree::parse(0, source).map(|nodes| format::format(&source.text, &nodes)) {
            Ok(Ok(text)) => formatted.push(Formatted {
                source: source.clone(),
                text,
            }),
            Ok(Err(refusal)) => complaint.push_str(&format!(
                "error: {}:{}: {}\n",
                source.name, refusal.line, refusal.what
            )),
            Err(diagnostic) => {
                complaint.push_str(&format!("error: {}: {}\n", source.name, diagnostic.message))
            }
        }
    }
    if !complaint.is_empty() {
        complaint.push_str("help: this cannot be formatted without losing something; no file was changed\n");
        let code = INVALID;
        return Err(Reply {
            complaint,
            code,
            ..Reply::default()
        });
    }
    match differs(&loaded, &formatted) {
        None => Ok(formatted),
        Some(what) => Err(Reply {
            complaint: format!(
                "error: {what}\nhelp: no file was changed; this is a fault of segd: please report it with the policy\n"
            ),
            code: INTERNAL,
            ..Reply::default()
        }),
    }
}

/// What formatting has changed beside the form, which must be nothing.
fn differs(before: &Loaded, formatted: &[Formatted]) -> Option<String> {
    for Formatted { source, text } in formatted {
        if !format::same(&source.text, text) {
            return Some(format!("formatting `{}` would change what it says", source.name));
        }
        let again = Source {
            name: source.name.clone(),
            text: text.as_str().into(),
        };
        let again = tree::parse(0, &again)
            .ok()
            .and_then(|nodes| format::format(text, &nodes).ok());
        if again.as_ref() != Some(text) {
            return Some(format!(
                "formatting `{}` twice is not formatting it once",
                source.name
            ));
        }
    }
    let texts = formatted.iter().map(|file| Source {
        name: file.source.name.clone(),
        text: file.text.as_str().into(),
    });
    let Ok(after) = resolve_read(Sources::of(texts.collect()), false) else {
        return Some("the formatted policy would be wrong".to_owned());
    };
    let warnings = |loaded: &Loaded| -> Vec<String> {
        let told = loaded.warnings.iter();
        told.map(|warning| format!("{} {}", warning.code.label(), warning.message))
            .collect()
    };
    let same = tables(&before.policy) == tables(&after.policy)
        && before.policy.tests.len() == after.policy.tests.len()
        && warnings(before) == warnings(&after);
    (!same).then(|| "formatting would change what the policy means".to_owned())
}

/// What is told of a rule, without where it stands.
type Told = (RuleLabel, Arc<Term>);

/// What is enforced, without where it stands.
fn tables(policy: &Policy) -> Result<(CompiledTables, Vec<Told>), String> {
    let mut indexes = SegmentIndexes::default();
    let mut tables = indexes
        .allocate(policy, &BTreeSet::new())
        .and_then(|()| compile(policy, &indexes, None))
        .map_err(|error| error.to_string())?;
    let nowhere = Location::default();
    let rules = std::mem::take(&mut tables.rules);
    let rules = rules.iter().map(|rule| (rule.label(), Arc::clone(&rule.term)));
    for selector in Arc::make_mut(&mut tables.selectors) {
        selector.location = nowhere.clone();
    }
    Ok((tables, rules.collect()))
}
