//! `segd flows`: the flow log, recorded and live.

use std::process::ExitCode;

use super::{ClientArgs, INTERNAL, OutputArgs, YES, answer, no_answer};
use crate::{
    control::{
        client,
        protocol::{FlowFilter, FlowQuery, Request, Response},
        types::FlowRecord,
    },
    output::{self, Format, Table as _},
};

/// A verdict to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum VerdictArg {
    /// Passed by right
    Allowed,
    /// Dropped, or refused at its system call
    Denied,
    /// Denied by policy, passed by audit mode
    Audited,
}

impl VerdictArg {
    fn word(self) -> String {
        match self {
            VerdictArg::Allowed => "allowed",
            VerdictArg::Denied => "denied",
            VerdictArg::Audited => "audited",
        }
        .to_string()
    }
}

/// Flags of `segd flows`.
#[derive(Debug, clap::Args)]
pub struct FlowsArgs {
    /// Keep printing new flows until interrupted
    #[arg(short, long)]
    follow: bool,
    /// Print at most this many recorded flows, the newest
    #[arg(long, default_value_t = 20, value_name = "N")]
    last: usize,
    /// Only flows with this verdict; may be repeated
    #[arg(long, value_enum, value_name = "VERDICT")]
    verdict: Vec<VerdictArg>,
    /// Only flows from this segment; may be repeated
    #[arg(long, value_name = "SEGMENT")]
    from: Vec<String>,
    /// Only flows to this segment; may be repeated
    #[arg(long, value_name = "SEGMENT")]
    to: Vec<String>,
    /// Instead: sockets that a process of another segment holds now: it moved to another cgroup, or was handed them. Root only
    #[arg(long, conflicts_with_all = ["follow", "last", "verdict", "from", "to"])]
    foreign: bool,
    #[command(flatten)]
    client: ClientArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl FlowsArgs {
    /// Runs it.
    #[must_use]
    pub fn run(self) -> ExitCode {
        if self.foreign {
            return self.list_foreign();
        }
        let query = FlowQuery {
            last: self.last,
            follow: self.follow,
            filter: FlowFilter {
                verdict: self.verdict.into_iter().map(VerdictArg::word).collect(),
                from: self.from,
                to: self.to,
            },
        };
        let mut client = match client::flows(&self.client.control, query) {
            Ok(client) => client,
            Err(error) => return no_answer(&error),
        };
        loop {
            match client.receive() {
                Ok(Some(Response::Flow(flow))) => {
                    let printed = line(self.output.output, &flow).and_then(|text| Ok(output::stdout(&text)?));
                    match printed {
                        Ok(true) => {}
                        Ok(false) => return ExitCode::from(YES),
                        Err(error) => {
                            return output::fail(INTERNAL, &format!("cannot print: {error:#}"), None);
                        }
                    }
                }
                Ok(Some(Response::Missed(count))) => {
                    output::complain(
                        &format!("{count} flows were left out: this client is too slow"),
                        None,
                    );
                }
                Ok(Some(Response::End)) => return ExitCode::from(YES),
                Ok(Some(_)) => return no_answer(&client.surprise()),
                Ok(None) => {
                    return output::fail(
                        super::CANNOT,
                        "segd closed the connection: it may have stopped",
                        None,
                    );
                }
                Err(error) => return no_answer(&error),
            }
        }
    }
}

impl FlowsArgs {
    fn list_foreign(&self) -> ExitCode {
        let asked =
            client::Client::ask(&self.client.control, &Request::Foreign).and_then(|mut client| match client
                .answer()?
            {
                Response::Foreign(rows) => Ok(rows),
                _ => Err(client.surprise()),
            });
        match asked {
            Ok(rows) => answer(self.output.output, &rows, YES),
            Err(error) => no_answer(&error),
        }
    }
}

/// A line of the table or of JSON lines, or a YAML document.
fn line(format: Format, flow: &FlowRecord) -> anyhow::Result<String> {
    match format {
        Format::Table => Ok(flow.table()),
        Format::Json => output::json(flow, false),
        Format::Yaml => Ok(format!("---\n{}", output::yaml(flow)?)),
    }
}
