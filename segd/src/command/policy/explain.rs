//! `segd policy explain`.

use std::{
    collections::BTreeSet,
    io::Read as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use jiff::Timestamp;
use segd_common::{reason::Reason, service::Service, verdict::Outcome};

use super::{
    INVALID, NO, Reply, YES,
    who::{self, Identified, Unidentified, Who, of_flow},
};
use crate::{
    command::live::{self, Party},
    output::{
        Format,
        policy::{Change, Explained, print},
    },
    policy::{
        compile::compile,
        compiled::SegmentIndexes,
        diagnostic::Style,
        explain::{Explanation, explain},
        port, time,
    },
    source::{self, Loaded, Trust, git},
};

/// The longest flow-log line that is read.
const LONGEST_LINE: u64 = 64 << 10;

/// Say whether one segment may reach another.
#[derive(Debug, clap::Args)]
pub struct Explain {
    /// Files and directories; without any, the running daemon is asked
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Who initiates: a segment, `host` or `world`, or an address on the network
    #[arg(long, value_name = "WHO", required_unless_present_any = ["from_cgroup", "from_pid", "flow"])]
    from: Option<String>,
    /// Who initiates: a cgroup, by its path from the cgroup root
    #[arg(long, value_name = "CGROUP", conflicts_with = "from")]
    from_cgroup: Option<String>,
    /// Who initiates: a process of this host
    #[arg(long, value_name = "PID", conflicts_with_all = ["from", "from_cgroup"])]
    from_pid: Option<u32>,
    /// Towards whom: a segment, `host` or `world`, or an address on the network
    #[arg(long, value_name = "WHO", required_unless_present_any = ["to_cgroup", "to_pid", "flow"])]
    to: Option<String>,
    /// Towards whom: a cgroup, by its path from the cgroup root
    #[arg(long, value_name = "CGROUP", conflicts_with = "to")]
    to_cgroup: Option<String>,
    /// Towards whom: a process of this host
    #[arg(long, value_name = "PID", conflicts_with_all = ["to", "to_cgroup"])]
    to_pid: Option<u32>,
    /// On what, as in `tcp/5432` or `icmp/echo-request`
    #[arg(long, value_name = "PORT", required_unless_present = "flow")]
    port: Option<String>,
    /// A recorded flow: a line of `segd flows -o json`, or `-` to read it from stdin
    #[arg(long, value_name = "LINE", conflicts_with_all = ["from", "from_cgroup", "from_pid", "to", "to_cgroup", "to_pid", "port"])]
    flow: Option<String>,
    /// Judge by this time instead of now
    #[arg(long, value_name = "TIME", value_parser = time::parse, requires = "paths")]
    at: Option<Timestamp>,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    /// The daemon's control socket
    #[arg(
        long,
        env = "SEGD_CONTROL",
        value_name = "PATH",
        default_value = "/run/segd/control.sock"
    )]
    control: PathBuf,
}

/// What is asked.
struct Question {
    from: Who,
    to: Who,
    port: String,
    service: Service,
}

impl Explain {
    /// Whether no policy was given.
    pub(super) fn asks_the_daemon(&self) -> bool {
        self.paths.is_empty()
    }

    /// Hands the question to the daemon.
    pub(super) fn ask_the_daemon(&self) -> ExitCode {
        let question = match self.question() {
            Ok(question) => question,
            Err(refusal) => return refusal.send(),
        };
        let mut parties = [const { String::new() }; 2].map(Party::named);
        for (party, who) in parties.iter_mut().zip([question.from, question.to]) {
            // The path of a process begins at the mount, segd's at `--cgroup-root`.
            let is_segds = matches!(who, Who::Cgroup(_));
            *party = match who.settled() {
                Ok(Who::Named(text)) if text.parse::<std::net::IpAddr>().is_err() => Party::named(text),
                Ok(Who::Cgroup(path)) => {
                    if let Err(error) = who::check_path(&path) {
                        return Reply::refusal(&error).send();
                    }
                    let known = is_segds.then_some(path.as_str());
                    match live::party(&self.control, known, &who::ids_on_this_host(&path)) {
                        Ok(Some(party)) => party,
                        Ok(None) => {
                            let message = format!("there is no cgroup `{path}` below segd's cgroup root");
                            return Reply::refusal(&message).send();
                        }
                        Err(error) => return crate::command::no_answer(&error),
                    }
                }
                Ok(_) => return Reply::refusal("give the policy's PATH to ask about an address").send(),
                Err(error) => return Reply::refusal(&error).send(),
            };
        }
        let [from, to] = &parties;
        live::explain(&self.control, from, to, &question.port, self.output)
    }

    /// The answer from the policy that was given.
    pub(super) fn reply(&self, style: Style) -> Reply {
        let question = match self.question() {
            Ok(question) => question,
            Err(refusal) => return refusal,
        };
        let loaded = match source::load(&self.paths, false, &Trust::Everybody) {
            Ok(loaded) => loaded.at(self.at.unwrap_or_else(Timestamp::now)),
            Err(error) => {
                return Reply {
                    complaint: error.render(style),
                    code: INVALID,
                    ..Reply::default()
                };
            }
        };
        let mut indexes = SegmentIndexes::default();
        let tables = indexes
            .allocate(&loaded.policy, &BTreeSet::new())
            .and_then(|()| compile(&loaded.policy, &indexes, None));
        let tables = match tables {
            Ok(tables) => tables,
            Err(error) => return Reply::refusal(&error.to_string()),
        };
        let names = [question.from.to_string(), question.to.to_string()];
        let (from, to) = match (question.from.identify(&tables), question.to.identify(&tables)) {
            (Ok(from), Ok(to)) => (from, to),
            (Err(error @ Unidentified::Question(_)), _) | (_, Err(error @ Unidentified::Question(_))) => {
                return Reply::refusal(&error.to_string());
            }
            (from, to) => return self.ambiguous(names, &question.port, [from.err(), to.err()]),
        };
        match explain(
            &loaded.policy,
            &indexes,
            None,
            &from.segment,
            &to.segment,
            question.service,
        ) {
            Ok(explanation) => self.answer(&explanation, &loaded, from, to),
            Err(unknown) => Reply::refusal(&unknown.to_string()),
        }
    }

    fn answer(&self, explanation: &Explanation, loaded: &Loaded, from: Identified, to: Identified) -> Reply {
        // What only audit mode lets pass is denied: that is what the policy says.
        let code = if explanation.outcome == Outcome::Allowed {
            YES
        } else {
            NO
        };
        let answer = Explained {
            commit: commit(explanation, loaded),
            from_because: from.because,
            to_because: to.because,
            ..Explained::from(explanation)
        };
        Reply::of(print(self.output, &answer, Explained::table), String::new(), code)
    }

    /// The answer about somebody whom two segments claim: segd denies him everything.
    fn ambiguous(&self, names: [String; 2], port: &str, why: [Option<Unidentified>; 2]) -> Reply {
        let ([from, to], [from_because, to_because]) = (names, why.map(|why| why.map(|why| why.to_string())));
        let answer = Explained {
            from,
            to,
            port: port.to_owned(),
            verdict: Outcome::Denied.label(),
            reason: Reason::Ambiguous.label(),
            sentence: "two segments claim one side with equal right".to_owned(),
            rule: None,
            location: None,
            text: None,
            because: None,
            nearest: None,
            commit: None,
            from_because,
            to_because,
            considered: Vec::new(),
            change: Change {
                list: None,
                add: None,
                narrow: Vec::new(),
                sentence: "leave the workload to one of the two segments".to_owned(),
            },
        };
        Reply::of(print(self.output, &answer, Explained::table), String::new(), NO)
    }

    /// What is asked, or why it cannot be.
    fn question(&self) -> Result<Question, Reply> {
        let asked = match &self.flow {
            Some(line) => line_of(line).and_then(|line| of_flow(&line)),
            None => {
                let side = |name: &Option<String>, cgroup: &Option<String>, pid: Option<u32>| match (
                    name, cgroup, pid,
                ) {
                    (Some(name), ..) => Who::Named(name.clone()),
                    (None, Some(cgroup), _) => Who::Cgroup(cgroup.clone()),
                    (None, None, pid) => Who::Process(pid.unwrap_or_default()),
                };
                Ok((
                    side(&self.from, &self.from_cgroup, self.from_pid),
                    side(&self.to, &self.to_cgroup, self.to_pid),
                    self.port.clone().unwrap_or_default(),
                ))
            }
        };
        let (from, to, port) = asked.map_err(|error| Reply::refusal(&error))?;
        if [&from, &to].contains(&&Who::Named("any".to_owned())) {
            return Err(Reply::refusal(
                "`any` is everybody; name one party: a segment, `host`, `world` or an address",
            ));
        }
        for who in [&from, &to] {
            if let Who::Cgroup(path) = who
                && !path.starts_with('/')
            {
                return Err(Reply::refusal(&format!(
                    "`{path}` is no path from the cgroup root: it begins with `/`"
                )));
            }
        }
        let service = port::parse_one(&port).map_err(|problem| {
            let help = problem.help.map(|help| format!("; {help}")).unwrap_or_default();
            Reply::refusal(&format!("{}{help}", problem.message))
        })?;
        Ok(Question {
            from,
            to,
            port,
            service,
        })
    }
}

/// The line that was given, or that stdin gives.
fn line_of(line: &str) -> Result<String, String> {
    if line != "-" {
        return Ok(line.to_owned());
    }
    let mut text = String::new();
    let read = std::io::stdin()
        .lock()
        .take(LONGEST_LINE)
        .read_to_string(&mut text);
    read.map_err(|error| format!("cannot read stdin: {error}"))?;
    Ok(text)
}

/// The commit that the deciding line comes from.
fn commit(explanation: &Explanation, loaded: &Loaded) -> Option<String> {
    let location = &explanation.rule.as_ref()?.location;
    let source = loaded
        .sources
        .iter()
        .find(|source| *source.name == *location.file)?;
    git::commit_of(Path::new(&source.name), &source.text, location.line)
}
