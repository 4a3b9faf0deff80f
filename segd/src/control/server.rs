//! The daemon's side of the control socket.
//!
//! INVARIANT: a client costs at most one task, [`MAX_REQUEST_BYTES`] of memory for its request, and the
//! deadlines below; one beyond [`MAX_CLIENTS`] takes the place of the one that has been there longest, so no number of silent
//! clients keeps anybody out; of answers that grow with the policy there is one at a time for root, and one for the group. Deliberately absent: what is answered; that is the [`Handler`]'s.

mod request;

use std::{
    future::Future,
    os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, broadcast},
    time::timeout,
};

use self::request::receive;
use super::{
    dry_run::DryRun,
    peer::{Access, Right},
    protocol::{
        Envelope, FlowFilter, FlowQuery, MAX_REQUEST_BYTES, Refusal, RefusalKind, Request, Response, VERSION,
    },
    types::{
        Applied, Candidate, Explanation, FlowRecord, ForeignRow, Question, Reloaded, RuleRow, SegmentRow,
        Status, Stopping, WorkloadRow,
    },
};
use crate::crowd::Crowd;

/// How many clients of root and of segd's own user are served at once.
pub const MAX_CLIENTS: usize = 64;
/// How many of the group are: they take nobody's place but each other's.
pub const MAX_GROUP_CLIENTS: usize = 48;
/// How long a client may take to send its request.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(5);
/// How long a client may take to accept one answer line.
pub const WRITE_DEADLINE: Duration = Duration::from_secs(10);

/// What the daemon answers.
pub trait Handler: Send + Sync + 'static {
    /// What is in force.
    fn status(&self) -> impl Future<Output = Status> + Send;
    /// The segments of the policy in force.
    fn segments(&self) -> impl Future<Output = Vec<SegmentRow>> + Send;
    /// Which cgroup is in which segment.
    fn workloads(&self) -> impl Future<Output = Vec<WorkloadRow>> + Send;
    /// The rules in force, and how they are used.
    fn rules(&self) -> impl Future<Output = Result<Vec<RuleRow>, Refusal>> + Send;
    /// Comes back when the flow log has what happened until now.
    fn catch_up(&self) -> impl Future<Output = ()> + Send;
    /// Sockets in other hands than their makers'.
    fn foreign(&self) -> impl Future<Output = Result<Vec<ForeignRow>, Refusal>> + Send;
    /// The newest recorded flows, oldest first, and every later one; see `telemetry::flows::FlowLog::follow`.
    fn flows(
        &self,
        last: usize,
        filter: &FlowFilter,
    ) -> (Vec<Arc<FlowRecord>>, broadcast::Receiver<Arc<FlowRecord>>);
    /// A verdict of the policy in force.
    fn explain(&self, question: Question) -> impl Future<Output = Result<Explanation, Refusal>> + Send;
    /// Reads the policy again.
    fn reload(&self) -> impl Future<Output = Result<Reloaded, Refusal>> + Send;
    /// Puts a policy in force, for good or on trial.
    fn apply(&self, candidate: Candidate) -> impl Future<Output = Result<Applied, Refusal>> + Send;
    /// Says what a policy would change.
    fn dry_run(&self, candidate: Candidate) -> impl Future<Output = Result<DryRun, Refusal>> + Send;
    /// Keeps what is on trial.
    fn confirm(&self) -> impl Future<Output = Result<Applied, Refusal>> + Send;
    /// Puts back what was in force before.
    fn rollback(&self) -> impl Future<Output = Result<Applied, Refusal>> + Send;
    /// Makes the daemon end soon; returns at once.
    fn stop(&self);
}

/// Why the control socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A daemon answers there.
    #[error("another segd is running: it answers on {0}")]
    Running(PathBuf),
    /// Something else than a socket is there.
    #[error("{0} exists and is not a socket")]
    NotASocket(PathBuf),
    /// An operation failed.
    #[error("control socket {path}: {operation}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
}

/// A bound control socket. Removes its path when dropped.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    inode: (u64, u64),
    access: Access,
}

impl Server {
    /// Binds the socket: mode 0600, or 0660 and the group. Must be called inside a tokio runtime.
    ///
    /// The socket gets its mode under a temporary name and is then renamed, so it is never open to others.
    ///
    /// # Errors
    /// If another daemon answers there, or the kernel refuses.
    pub async fn bind(path: &Path, group: Option<u32>) -> Result<Server, ServerError> {
        let io = |operation| {
            move |source| ServerError::Io {
                operation,
                path: path.to_path_buf(),
                source,
            }
        };
        if let Some(parent) = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty() && !parent.exists())
        {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(parent)
                .map_err(io("creating its directory"))?;
        }
        refuse_if_taken(path).await?;
        let mut fresh = path.as_os_str().to_os_string();
        fresh.push(".new");
        let fresh = PathBuf::from(fresh);
        match std::fs::remove_file(&fresh) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(io("removing what a start left behind")(error));
            }
            _ => {}
        }
        let listener = UnixListener::bind(&fresh).map_err(io("binding"))?;
        let mode = if group.is_some() { 0o660 } else { 0o600 };
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(mode))
            .map_err(io("setting its mode"))?;
        if group.is_some() {
            std::os::unix::fs::chown(&fresh, None, group).map_err(io("giving it to the group"))?;
        }
        let metadata = std::fs::symlink_metadata(&fresh).map_err(io("looking at it"))?;
        std::fs::rename(&fresh, path).map_err(io("moving it into place"))?;
        Ok(Server {
            listener,
            path: path.to_path_buf(),
            inode: (metadata.dev(), metadata.ino()),
            access: Access::new(group),
        })
    }

    /// Serves until the future is dropped.
    pub async fn run<H: Handler>(self, handler: Arc<H>) {
        let mut own = Crowd::new(MAX_CLIENTS);
        let mut group = Crowd::new(MAX_GROUP_CLIENTS);
        // Whoever may only read cannot keep root waiting.
        let [large, group_large] = [(); 2].map(|()| Arc::new(Semaphore::new(1)));
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!("control socket: accept: {error}");
                    // SLEEP: out of descriptors, most likely; asking again at once would only burn the processor.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let right = self.access.of(&stream);
            let (crowd, large) = match right {
                Right::None => {
                    refuse(
                        &stream,
                        Refusal::new(RefusalKind::Forbidden, "only root may talk to segd")
                            .help("run it as root, or let a group in with `segd run --control-group`"),
                    );
                    continue;
                }
                Right::Read => (&mut group, &group_large),
                Right::Write => (&mut own, &large),
            };
            let (handler, large) = (Arc::clone(&handler), Arc::clone(large));
            crowd.admit(async move { serve(stream, right, handler.as_ref(), &large).await });
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Only this server's own socket: another daemon may have replaced it.
        if let Ok(metadata) = std::fs::symlink_metadata(&self.path)
            && (metadata.dev(), metadata.ino()) == self.inode
        {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Fails unless the path is free or a socket that nobody serves.
async fn refuse_if_taken(path: &Path) -> Result<(), ServerError> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        return Err(ServerError::NotASocket(path.to_path_buf()));
    }
    match timeout(Duration::from_secs(2), UnixStream::connect(path)).await {
        Ok(Err(error))
            if matches!(
                error.kind(),
                std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::NotFound
            ) =>
        {
            Ok(())
        }
        // A full backlog and no answer at all are signs of life too.
        _ => Err(ServerError::Running(path.to_path_buf())),
    }
}

/// Says no without waiting: what the socket's buffer does not take is lost.
fn refuse(stream: &UnixStream, refusal: Refusal) {
    let _ = stream.try_write(&line(&Response::Refused(refusal)));
}

fn line(response: &Response) -> Vec<u8> {
    let mut line = serde_json::to_vec(&Envelope {
        version: VERSION,
        body: response,
    })
    .unwrap_or_default();
    line.push(b'\n');
    line
}

/// Reads one request, answers it, closes. A client that goes away is not an error. `large`: answers that grow with the policy are
/// made and sent one at a time, a quarter of a gigabyte with a million rules; so are those that take a compilation.
async fn serve<H: Handler>(stream: UnixStream, right: Right, handler: &H, large: &Semaphore) {
    let (read, mut write) = stream.into_split();
    let mut reader = BufReader::with_capacity(4096, read.take(MAX_REQUEST_BYTES as u64));
    let request = match timeout(REQUEST_DEADLINE, receive(&mut reader, right)).await {
        Ok(Ok(Some(request))) => request,
        Ok(Ok(None)) => return,
        Ok(Err(refusal)) => {
            let _ = send(&mut write, &Response::Refused(refusal)).await;
            return;
        }
        Err(_) => {
            let refusal = Refusal::new(RefusalKind::Invalid, "no request came in time");
            let _ = send(&mut write, &Response::Refused(refusal)).await;
            return;
        }
    };
    if request.writes() && right < Right::Write {
        let refusal = Refusal::new(RefusalKind::Forbidden, "only root may change what segd does");
        let _ = send(&mut write, &Response::Refused(refusal)).await;
        return;
    }
    let _one = match request {
        Request::Rules | Request::Segments | Request::Workloads | Request::Explain(_) => {
            let Ok(one) = timeout(WRITE_DEADLINE, large.acquire()).await else {
                let refusal = Refusal::new(RefusalKind::Busy, "others are being answered")
                    .help("ask again in a few seconds");
                let _ = send(&mut write, &Response::Refused(refusal)).await;
                return;
            };
            one.ok()
        }
        _ => None,
    };
    let response = match request {
        Request::Status => Response::Status(Box::new(handler.status().await)),
        Request::Segments => Response::Segments(handler.segments().await),
        Request::Workloads => Response::Workloads(handler.workloads().await),
        Request::Rules => match handler.rules().await {
            Ok(rows) => Response::Rules(rows),
            Err(refusal) => Response::Refused(refusal),
        },
        Request::Foreign => match handler.foreign().await {
            Ok(rows) => Response::Foreign(rows),
            Err(refusal) => Response::Refused(refusal),
        },
        Request::Explain(question) => match handler.explain(question).await {
            Ok(explanation) => Response::Explanation(Box::new(explanation)),
            Err(refusal) => Response::Refused(refusal),
        },
        Request::Reload => match handler.reload().await {
            Ok(reloaded) => Response::Reloaded(reloaded),
            Err(refusal) => Response::Refused(refusal),
        },
        Request::Apply(candidate) => applied(handler.apply(candidate).await),
        Request::DryRun(candidate) => match handler.dry_run(candidate).await {
            Ok(told) => Response::DryRun(Box::new(told)),
            Err(refusal) => Response::Refused(refusal),
        },
        Request::Confirm => applied(handler.confirm().await),
        Request::Rollback => applied(handler.rollback().await),
        Request::Stop => Response::Stopping(Stopping {
            pid: std::process::id(),
        }),
        Request::Flows(query) => {
            let _ = flows(&mut reader.into_inner().into_inner(), &mut write, query, handler).await;
            return;
        }
    };
    let stopping = matches!(response, Response::Stopping(_));
    let _ = send(&mut write, &response).await;
    if stopping {
        handler.stop();
        // The client sees the connection end when the daemon has ended.
        std::future::pending::<()>().await;
    }
}

fn applied(result: Result<Applied, Refusal>) -> Response {
    match result {
        Ok(applied) => Response::Applied(applied),
        Err(refusal) => Response::Refused(refusal),
    }
}

/// Sends recorded flows and, if asked, new ones until the client leaves.
async fn flows<R, W, H>(read: &mut R, write: &mut W, query: FlowQuery, handler: &H) -> std::io::Result<()>
where
    R: tokio::io::AsyncRead + Unpin,
    W: tokio::io::AsyncWrite + Unpin,
    H: Handler,
{
    handler.catch_up().await;
    let (recorded, coming) = handler.flows(query.last, &query.filter);
    for flow in recorded {
        send(write, &Response::Flow(Box::new(flow.as_ref().clone()))).await?;
    }
    if query.follow {
        follow(read, write, &query.filter, coming).await?;
    }
    send(write, &Response::End).await
}

/// Sends new flows until the daemon or the client ends.
async fn follow<R, W>(
    read: &mut R,
    write: &mut W,
    filter: &FlowFilter,
    mut coming: broadcast::Receiver<Arc<FlowRecord>>,
) -> std::io::Result<()>
where
    R: tokio::io::AsyncRead + Unpin,
    W: tokio::io::AsyncWrite + Unpin,
{
    let mut byte = [0u8; 1];
    loop {
        let next = tokio::select! {
            next = coming.recv() => next,
            // Nothing more belongs to a request: an end, an error or another byte all mean goodbye.
            _ = read.read(&mut byte) => return Err(std::io::ErrorKind::ConnectionAborted.into()),
        };
        match next {
            Ok(flow) if filter.matches(&flow) => {
                send(write, &Response::Flow(Box::new(flow.as_ref().clone()))).await?;
            }
            Ok(_) => {}
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                send(write, &Response::Missed(missed)).await?
            }
            Err(broadcast::error::RecvError::Closed) => return Ok(()),
        }
    }
}

async fn send<W: tokio::io::AsyncWrite + Unpin>(write: &mut W, response: &Response) -> std::io::Result<()> {
    let line = line(response);
    match timeout(WRITE_DEADLINE, write.write_all(&line)).await {
        Ok(result) => result,
        Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
    }
}

#[cfg(test)]
mod tests;
