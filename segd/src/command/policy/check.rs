//! `segd policy check`.

use std::{collections::BTreeSet, path::PathBuf};

use jiff::Timestamp;

use super::{
    CANNOT, INVALID, NO, Reply, YES, counted, live,
    unused::{Unused, unused_rules},
};
use crate::{
    output::{
        Format,
        policy::{Check as Answer, Summary, findings, print},
    },
    policy::{
        compile::{CompileError, compile},
        compiled::SegmentIndexes,
        diagnostic::{Code, Diagnostic, Style, render},
        document::allowance::{self, Allowance},
        lint, resolve, time,
    },
    source::{self, LoadError, Loaded, Trust},
    workload::{cgroupfs::CgroupRoot, error::WorkloadError, users},
};

/// Validate a policy.
#[derive(Debug, clap::Args)]
pub struct Check {
    /// Files and directories; a directory is read recursively (`*.yaml`, `*.yml`)
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    /// Take a policy without any document, and empty files
    #[arg(long)]
    allow_empty: bool,
    /// Look at this host as well: warn of matchers that none of its cgroups fits now
    #[arg(long)]
    live: bool,
    /// Judge by this time instead of now: warn of rules whose `until` is over then
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    at: Option<Timestamp>,
    /// The root of the cgroup v2 tree that `--live` looks at [default: where cgroup2 is mounted]
    #[arg(long, requires = "live", value_name = "DIR")]
    cgroup_root: Option<PathBuf>,
    /// With --live: warn of rules of the policy in force under which nothing has begun for this long, as the running segd has
    /// watched them: 30d, 12h, 30m
    #[arg(long, requires = "live", value_name = "TIME")]
    unused_for: Option<Unused>,
    /// The control socket of the running segd, for --unused-for
    #[arg(long, env = "SEGD_CONTROL", default_value = crate::cli::CONTROL, value_name = "SOCKET")]
    control: PathBuf,
    /// Exit with 1 if there is any warning: for CI
    #[arg(long)]
    deny_warnings: bool,
}

impl Check {
    /// The answer. Errors are complaints for people and part of the answer for machines.
    pub(super) fn reply(&self, style: Style) -> Reply {
        match source::load(&self.paths, self.allow_empty, &Trust::Everybody).and_then(Loaded::tested) {
            Ok(mut loaded) => match fits(&loaded) {
                Ok(()) => match self.look_beyond_the_text(&mut loaded, style) {
                    Ok(notes) => self.valid(&loaded, notes, style),
                    Err(reply) => reply,
                },
                Err(error) => self.invalid(Some(error.to_string()), Vec::new(), format!("error: {error}\n")),
            },
            Err(error @ LoadError::Unreadable(_)) => {
                self.invalid(Some(error.to_string()), Vec::new(), error.render(style))
            }
            Err(error @ LoadError::Invalid { .. }) => {
                let mut complaint = error.render(style);
                let mut found = Vec::new();
                if let LoadError::Invalid {
                    diagnostics, sources, ..
                } = &error
                {
                    complaint.push_str(&format!("\ninvalid: {}\n", counted(diagnostics.len(), "error")));
                    found = findings(diagnostics, sources);
                }
                self.invalid(None, found, complaint)
            }
        }
    }

    fn valid(&self, loaded: &Loaded, notes: Vec<String>, style: Style) -> Reply {
        let noted: String = notes.iter().map(|note| format!("note: {note}\n")).collect();
        let answer = Answer {
            valid: true,
            summary: Some(Summary::of(&loaded.policy, loaded.sources.len())),
            error: None,
            diagnostics: findings(&loaded.warnings, &loaded.sources),
            notes,
        };
        let complaint = match self.output {
            Format::Table => loaded.render_warnings(style) + &noted,
            Format::Json | Format::Yaml => String::new(),
        };
        let code = if self.deny_warnings && !loaded.warnings.is_empty() {
            NO
        } else {
            YES
        };
        Reply::of(print(self.output, &answer, table), complaint, code)
    }

    /// Adds what the text alone does not tell: the time does, and with `--live` the host; and notes of what it cannot.
    fn look_beyond_the_text(&self, loaded: &mut Loaded, style: Style) -> Result<Vec<String>, Reply> {
        let now = self.at.unwrap_or_else(Timestamp::now);
        let mut found = lint::expired(&loaded.policy, &loaded.rules, now);
        allowance::apply(&allowed(loaded, Code::Expired), true, &mut found);
        let mut notes = Vec::new();
        if self.live {
            let ties = live::users_of_two(&loaded.matchers, &users::uid);
            if !ties.is_empty() {
                let drawn = render(&ties, &loaded.sources, style);
                let complaint = format!("{drawn}\ninvalid: {}\n", counted(ties.len(), "error"));
                return Err(self.invalid(None, findings(&ties, &loaded.sources), complaint));
            }
            let matchers = self.matchers(loaded).map_err(|error| Reply {
                complaint: format!("error: {}\n", crate::report::chain(&error)),
                code: CANNOT,
                ..Reply::default()
            })?;
            found.extend(matchers);
        }
        if let Some(unused) = self.unused_for.as_ref().filter(|_| self.live) {
            let told = unused_rules(loaded, unused, &self.control).map_err(|error| {
                let help = error
                    .help()
                    .map_or_else(String::new, |help| format!("help: {help}\n"));
                Reply {
                    complaint: format!("error: {error}\n{help}"),
                    code: error.exit_code(),
                    ..Reply::default()
                }
            })?;
            notes = told.notes;
            let mut unused = told.warnings;
            // A rule may be used for a while: an allowance that waits is not superfluous.
            allowance::apply(&allowed(loaded, Code::UnusedRule), false, &mut unused);
            found.extend(unused);
        }
        loaded.warnings.extend(found);
        resolve::sort(&loaded.sources, &mut loaded.warnings);
        Ok(notes)
    }

    fn matchers(&self, loaded: &Loaded) -> Result<Vec<Diagnostic>, WorkloadError> {
        let root = CgroupRoot::of(self.cgroup_root.as_deref())?;
        let mut found = live::matchers_without_members(&loaded.matchers, &root)?;
        allowance::apply(&allowed(loaded, Code::NoMember), true, &mut found);
        Ok(found)
    }

    fn invalid(
        &self,
        error: Option<String>,
        diagnostics: Vec<crate::output::policy::Finding>,
        complaint: String,
    ) -> Reply {
        let answer = Answer {
            valid: false,
            summary: None,
            error,
            diagnostics,
            notes: Vec::new(),
        };
        let complaint = match self.output {
            Format::Table => complaint,
            Format::Json | Format::Yaml => String::new(),
        };
        Reply::of(print(self.output, &answer, |_| String::new()), complaint, INVALID)
    }
}

/// The comments that allow one warning.
fn allowed(loaded: &Loaded, code: Code) -> Vec<Allowance> {
    let allowances = loaded.allowances.iter();
    allowances
        .filter(|allowance| allowance.code == code)
        .cloned()
        .collect()
}

/// Whether it fits into the kernel tables.
fn fits(loaded: &Loaded) -> Result<(), CompileError> {
    let mut indexes = SegmentIndexes::default();
    indexes.allocate(&loaded.policy, &BTreeSet::new())?;
    compile(&loaded.policy, &indexes, None).map(drop)
}

/// `ok: 3 segments, 7 rules (6 allow, 1 deny), 2 files`.
fn table(answer: &Answer) -> String {
    let Some(summary) = &answer.summary else {
        return String::new();
    };
    let mut line = format!(
        "ok: {}, {} ({} allow, {} deny), {}",
        counted(summary.segments, "segment"),
        counted(summary.allow + summary.deny, "rule"),
        summary.allow,
        summary.deny,
        counted(summary.files, "file")
    );
    if !answer.diagnostics.is_empty() {
        line.push_str(&format!(", {}", counted(answer.diagnostics.len(), "warning")));
    }
    line.push('\n');
    line
}
