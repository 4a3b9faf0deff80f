//! The client's side of the control socket: blocking, one request per connection.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use super::protocol::{Envelope, FlowQuery, Refusal, RefusalKind, Request, Response, VERSION};

/// How long the daemon may take to answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(15);
/// The longest answer line: a million rules fit.
const MAX_ANSWER_BYTES: u64 = 1024 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("segd is not running: {}: {source}", path.display())]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The kernel did not let this user connect.
    #[error("no access to the control socket {}: {source}", path.display())]
    NoAccess {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The daemon said no.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// The connection broke, or no answer came.
    #[error("no answer on {}: {source}", path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The answer makes no sense.
    #[error("the answer on {} is not understood: {reason}", path.display())]
    NotUnderstood {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl ClientError {
    /// What to do about it.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        match self {
            ClientError::NotRunning { .. } => {
                Some("start it with `segd run --policy PATH`, or name its socket with --control".to_string())
            }
            ClientError::NoAccess { .. } => {
                Some("run it as root, or let a group in with `segd run --control-group`".to_string())
            }
            ClientError::Refused(refusal) => refusal.help.clone(),
            ClientError::Broken { .. } => None,
            ClientError::NotUnderstood { .. } => Some("use the segd that is running".to_string()),
        }
    }

    /// The exit code of the contract.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            ClientError::Refused(Refusal {
                kind: RefusalKind::Invalid,
                ..
            }) => 2,
            ClientError::Refused(Refusal {
                kind: RefusalKind::Conflict,
                ..
            }) => 1,
            ClientError::Refused(Refusal {
                kind: RefusalKind::Internal,
                ..
            })
            | ClientError::NotUnderstood { .. } => 4,
            _ => 3,
        }
    }
}

/// A connection to the daemon.
#[derive(Debug)]
pub struct Client {
    reader: BufReader<UnixStream>,
    path: PathBuf,
}

impl Client {
    /// Connects and sends one request.
    ///
    /// # Errors
    /// If nobody listens there or this user may not connect.
    pub fn ask(path: &Path, request: &Request) -> Result<Client, ClientError> {
        let stream = UnixStream::connect(path).map_err(|source| {
            let path = path.to_path_buf();
            match source.kind() {
                std::io::ErrorKind::PermissionDenied => ClientError::NoAccess { path, source },
                _ => ClientError::NotRunning { path, source },
            }
        })?;
        let broken = |source| ClientError::Broken {
            path: path.to_path_buf(),
            source,
        };
        stream.set_read_timeout(Some(ANSWER_DEADLINE)).map_err(broken)?;
        stream.set_write_timeout(Some(ANSWER_DEADLINE)).map_err(broken)?;
        let mut line = serde_json::to_vec(&Envelope {
            version: VERSION,
            body: request,
        })
        .map_err(|error| broken(error.into()))?;
        line.push(b'\n');
        match (&stream).write_all(&line) {
            // A daemon that refuses at once may have closed before it read; its words are still there.
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => return Err(broken(error)),
            _ => {}
        }
        Ok(Client {
            reader: BufReader::new(stream),
            path: path.to_path_buf(),
        })
    }

    /// The next answer; `None` at the end of the connection. A refusal is an error.
    ///
    /// # Errors
    /// If the daemon says no, nothing comes in time, or it is not understood.
    pub fn receive(&mut self) -> Result<Option<Response>, ClientError> {
        let mut line = Vec::new();
        let read = (&mut self.reader)
            .take(MAX_ANSWER_BYTES)
            .read_until(b'\n', &mut line);
        if let Err(source) = read {
            return Err(ClientError::Broken {
                path: self.path.clone(),
                source,
            });
        }
        if line.is_empty() {
            return Ok(None);
        }
        let envelope: Envelope<Response> =
            serde_json::from_slice(&line).map_err(|error| ClientError::NotUnderstood {
                path: self.path.clone(),
                reason: error.to_string(),
            })?;
        match envelope.body {
            Response::Refused(refusal) => Err(ClientError::Refused(refusal)),
            response => Ok(Some(response)),
        }
    }

    /// The one answer to a request that has one.
    ///
    /// # Errors
    /// Like [`Client::receive`], and if the daemon closes without an answer.
    pub fn answer(&mut self) -> Result<Response, ClientError> {
        self.receive()?.ok_or_else(|| ClientError::Broken {
            path: self.path.clone(),
            source: std::io::ErrorKind::UnexpectedEof.into(),
        })
    }

    /// Waits for answers without a deadline from now on.
    pub fn wait_for_ever(&mut self) {
        let _ = self.reader.get_ref().set_read_timeout(None);
    }

    /// Waits for the next answer to begin, for at most this long. Tells whether one did, or the connection ended.
    pub fn wait_readable(&mut self, limit: Duration) -> bool {
        // No time at all would mean for ever.
        let _ = self
            .reader
            .get_ref()
            .set_read_timeout(Some(limit.max(Duration::from_millis(1))));
        let ready = match self.reader.fill_buf() {
            Ok(_) => true,
            Err(error) => !matches!(
                error.kind(),
                std::io::ErrorKind::WouldBlock
                    | std::io::ErrorKind::TimedOut
                    | std::io::ErrorKind::Interrupted
            ),
        };
        let _ = self.reader.get_ref().set_read_timeout(Some(ANSWER_DEADLINE));
        ready
    }

    /// Waits until the daemon closes the connection or the time is over. Tells whether it closed.
    pub fn wait_for_the_end(&mut self, limit: Duration) -> bool {
        let _ = self.reader.get_ref().set_read_timeout(Some(limit));
        let mut rest = Vec::new();
        match (&mut self.reader).take(MAX_ANSWER_BYTES).read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }

    /// An answer that does not belong to the question.
    #[must_use]
    pub fn surprise(&self) -> ClientError {
        ClientError::NotUnderstood {
            path: self.path.clone(),
            reason: "it answers another question".to_string(),
        }
    }
}

/// Asks one question with one answer.
///
/// # Errors
/// See [`Client::ask`] and [`Client::answer`].
pub fn ask(path: &Path, request: &Request) -> Result<Response, ClientError> {
    Client::ask(path, request)?.answer()
}

/// Asks for flows.
///
/// # Errors
/// See [`Client::ask`].
pub fn flows(path: &Path, query: FlowQuery) -> Result<Client, ClientError> {
    let follow = query.follow;
    let mut client = Client::ask(path, &Request::Flows(query))?;
    if follow {
        client.wait_for_ever();
    }
    Ok(client)
}
