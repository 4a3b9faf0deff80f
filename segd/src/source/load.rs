//! From paths to a policy in one step: what `segd policy check` and the daemon both do.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;

use super::{
    ContentHash, SourceError, Sources, Trust,
    git::{GitPath, Provenance},
    read,
    signature::Signed,
};
use crate::policy::{
    compile::compile,
    compiled::SegmentIndexes,
    diagnostic::{Diagnostic, Span, Style, clean, render},
    document::allowance::Allowance,
    expectation,
    model::{Policy, SelectorKind, Source},
    resolve::{Doubts, ReadFiles, Resolved, resolve_again, resolve_doubting},
};

/// A policy that is right, with its texts.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The policy.
    pub policy: Arc<Policy>,
    /// What it probably does not mean.
    pub warnings: Vec<Diagnostic>,
    /// Warnings that its author allows.
    pub allowances: Vec<Allowance>,
    /// Every matcher: its segment, what it says, where.
    pub matchers: Arc<Vec<(String, SelectorKind, Span)>>,
    /// Where rules stand, by their index.
    pub rules: Vec<Span>,
    /// Where tests stand, by their index.
    pub tests: Vec<Span>,
    /// Its texts.
    pub sources: Vec<Source>,
    /// Who signed it, if that was looked at.
    pub signed: Option<Signed>,
    /// The commit that whoever sent it says it comes from.
    pub claimed: Option<Provenance>,
}

impl From<&Loaded> for Sources {
    /// What it was made from; texts are shared.
    fn from(loaded: &Loaded) -> Sources {
        Sources {
            sources: loaded.sources.clone(),
            signed: loaded.signed.clone(),
            claimed: loaded.claimed.clone(),
        }
    }
}

impl Loaded {
    /// The hash of its texts.
    #[must_use]
    pub fn hash(&self) -> ContentHash {
        ContentHash::of(&self.sources)
    }

    /// Only if its own tests pass: a policy that fails them does not mean what its author thinks. They are asked of the
    /// rules as if they held for good: no policy becomes wrong because time passes.
    ///
    /// # Errors
    ///
    /// Every test that fails.
    pub fn tested(self) -> Result<Loaded, LoadError> {
        if self.policy.tests.is_empty() {
            return Ok(self);
        }
        let policy = self.policy.always();
        let mut indexes = SegmentIndexes::default();
        let tables = indexes
            .allocate(&policy, &BTreeSet::new())
            .and_then(|()| compile(&policy, &indexes, None));
        // Whoever puts it in force compiles it, too, and is told what does not fit.
        let Ok(tables) = tables else { return Ok(self) };
        let diagnostics = expectation::diagnostics(&policy, &tables, &self.tests, &self.rules);
        if diagnostics.is_empty() {
            return Ok(self);
        }
        Err(LoadError::Invalid {
            diagnostics,
            sources: self.sources,
        })
    }

    /// The same, judged at a time.
    #[must_use]
    pub fn at(self, time: Timestamp) -> Loaded {
        Loaded {
            policy: owned(self.policy.at(time), &self.policy),
            ..self
        }
    }

    /// The same, as if every rule held for good.
    #[must_use]
    pub fn always(self) -> Loaded {
        Loaded {
            policy: owned(self.policy.always(), &self.policy),
            ..self
        }
    }

    /// The warnings, drawn. Empty if there are none.
    #[must_use]
    pub fn render_warnings(&self, style: Style) -> String {
        render(&self.warnings, &self.sources, style)
    }
}

/// What was made of a policy, without a copy of one that is as it was.
fn owned(made: Cow<'_, Policy>, policy: &Arc<Policy>) -> Arc<Policy> {
    match made {
        Cow::Borrowed(_) => Arc::clone(policy),
        Cow::Owned(made) => Arc::new(made),
    }
}

/// Why there is no policy.
#[derive(Debug)]
pub enum LoadError {
    /// It cannot be read.
    Unreadable(SourceError),
    /// It is wrong.
    Invalid {
        /// Everything that is wrong with it.
        diagnostics: Vec<Diagnostic>,
        /// Its texts.
        sources: Vec<Source>,
    },
}

impl LoadError {
    /// The whole story, drawn, ending with a newline.
    #[must_use]
    pub fn render(&self, style: Style) -> String {
        match self {
            LoadError::Unreadable(error) => {
                let help = error.help().map(|help| format!("help: {}\n", clean(&help)));
                format!(
                    "error: {}\n{}",
                    clean(&error.to_string()),
                    help.unwrap_or_default()
                )
            }
            LoadError::Invalid {
                diagnostics, sources, ..
            } => render(diagnostics, sources, style),
        }
    }
}

impl fmt::Display for LoadError {
    /// One line, for a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::Unreadable(error) => error.fmt(f),
            LoadError::Invalid {
                diagnostics, sources, ..
            } => {
                let Some(first) = diagnostics.first() else {
                    return f.write_str("the policy is invalid");
                };
                if let Some(span) = first.span {
                    let places = crate::policy::diagnostic::Places::new(sources);
                    let place = places.locate(span);
                    write!(f, "{}:{}:{}: ", clean(&place.file), place.line, place.column)?;
                }
                f.write_str(&clean(&first.message))?;
                match diagnostics.len() {
                    0 | 1 => Ok(()),
                    2 => f.write_str(" (and 1 more error)"),
                    count => write!(f, " (and {} more errors)", count - 1),
                }
            }
        }
    }
}

impl std::error::Error for LoadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            LoadError::Unreadable(error) => std::error::Error::source(error),
            LoadError::Invalid { .. } => None,
        }
    }
}

/// Reads and resolves a policy.
///
/// # Errors
///
/// If it cannot be read, or with everything that is wrong with it.
pub fn load(paths: &[PathBuf], allow_empty: bool, trust: &Trust) -> Result<Loaded, LoadError> {
    resolve_read(read(paths, trust).map_err(LoadError::Unreadable)?, allow_empty)
}

/// As [`load`], of a path or of `git:REV:PATH`, for commands that only look.
///
/// # Errors
///
/// As [`load`].
pub fn load_named(path: &Path, allow_empty: bool) -> Result<Loaded, LoadError> {
    match path.to_str().and_then(GitPath::parse) {
        Some(commit) => resolve_read(commit.read().map_err(LoadError::Unreadable)?, allow_empty),
        None => load(&[path.to_owned()], allow_empty, &Trust::Everybody),
    }
}

/// Resolves what was read.
///
/// # Errors
///
/// Everything that is wrong with it.
pub fn resolve_read(read: Sources, allow_empty: bool) -> Result<Loaded, LoadError> {
    resolve_read_by(resolve_again, read, allow_empty, &mut ReadFiles::default())
}

/// As [`resolve_read`], without warnings, for whoever tells of them when there is time for it, or nobody; files that are as they were are not
/// parsed again.
///
/// # Errors
///
/// As [`resolve_read`].
pub fn resolve_read_doubting(
    read: Sources,
    allow_empty: bool,
    files: &mut ReadFiles,
) -> Result<(Loaded, Doubts), LoadError> {
    let mut doubts = Doubts::default();
    let resolve = |sources: &[Source], allow_empty, files: &mut ReadFiles| {
        let resolved;
        (resolved, doubts) = resolve_doubting(sources, allow_empty, files)?;
        Ok(resolved)
    };
    Ok((resolve_read_by(resolve, read, allow_empty, files)?, doubts))
}

/// `resolve`: [`resolve_again`], or what does less.
fn resolve_read_by(
    resolve: impl FnOnce(&[Source], bool, &mut ReadFiles) -> Result<Resolved, Vec<Diagnostic>>,
    read: Sources,
    allow_empty: bool,
    files: &mut ReadFiles,
) -> Result<Loaded, LoadError> {
    let Sources {
        mut sources,
        signed,
        claimed,
    } = read;
    files.share(&mut sources);
    match resolve(&sources, allow_empty, files) {
        Ok(Resolved {
            policy,
            warnings,
            allowances,
            matchers,
            rules,
            tests,
        }) => Ok(Loaded {
            policy: Arc::new(policy),
            warnings,
            allowances,
            matchers,
            rules,
            tests,
            sources,
            signed,
            claimed,
        }),
        Err(diagnostics) => Err(LoadError::Invalid { diagnostics, sources }),
    }
}
