//! Why the daemon does not run, and with which exit code.

use std::process::ExitCode;

use super::{error::ApplyError, start::style};
use crate::{
    command::{CANNOT, INTERNAL, INVALID},
    datapath::Error,
    doctor, output,
    report::chain,
    source::LoadError,
    workload::error::WorkloadError,
};

/// Why the daemon does not run: one clear line, and the contract's exit code.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    text: String,
    help: Option<String>,
    /// The text is a drawing, ending with a newline.
    drawn: bool,
}

impl Failure {
    /// The host cannot do it.
    pub fn host(text: String, help: Option<&str>) -> Failure {
        Failure {
            code: CANNOT,
            text,
            help: help.map(str::to_owned),
            drawn: false,
        }
    }

    pub fn internal(text: String) -> Failure {
        Failure {
            code: INTERNAL,
            text,
            help: None,
            drawn: false,
        }
    }

    /// Says it on stderr.
    pub fn report(self) -> ExitCode {
        if self.drawn {
            crate::output::draw(&self.text);
        } else {
            output::complain(&self.text, self.help.as_deref());
        }
        ExitCode::from(self.code)
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Failure {
        Failure {
            code: INVALID,
            text: error.render(style()),
            help: None,
            drawn: true,
        }
    }
}

impl From<WorkloadError> for Failure {
    fn from(error: WorkloadError) -> Failure {
        Failure::host(chain(&error), doctor::cgroup_help(&error))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        match error {
            Error::Host { what, help } => Failure::host(what, Some(&help)),
            Error::System { .. } => Failure::host(chain(&error), None),
            Error::Refused { .. } => Failure::host(
                chain(&error),
                Some("README.md says what the kernel must have; please report the message"),
            ),
        }
    }
}

impl From<ApplyError> for Failure {
    fn from(error: ApplyError) -> Failure {
        match error {
            ApplyError::Datapath(error) => error.into(),
            ApplyError::Workload(error) => error.into(),
            ApplyError::Gate(error) => Failure {
                code: if error.is_the_hosts() { CANNOT } else { INVALID },
                text: error.to_string(),
                help: Some(error.help().to_owned()),
                drawn: false,
            },
            ApplyError::OnTrial(_) => Failure::internal(chain(&error)),
            ApplyError::Compile(_) | ApplyError::Ambiguous(_) => Failure {
                code: INVALID,
                text: chain(&error),
                help: None,
                drawn: false,
            },
        }
    }
}
