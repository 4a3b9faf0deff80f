//! The HTTP server: `/metrics`, `/healthz`, `/readyz`. Nothing else, and nothing that changes anything.
//!
//! INVARIANT: a connection serves one request and ends after [`CONNECTION_LIMIT`] at the latest.
//! INVARIANT: no more than [`MOST_PAGES`] pages of metrics are in memory, however many connections read them slowly.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Mutex,
    time::timeout,
};

use super::{metrics::Metrics, snapshot::Snapshot};
use crate::{control::types::Readiness, crowd::Crowd};

/// How many connections are served at once. One more takes the place of the one that has been there longest.
pub const MAX_CONNECTIONS: usize = 64;
/// How long a client may take to send its request.
pub const HEADER_LIMIT: Duration = Duration::from_secs(5);
/// How long a connection may last.
pub const CONNECTION_LIMIT: Duration = Duration::from_secs(20);
/// How many pages of metrics are being sent at once. Who comes while there are so many gets the youngest of them, which is no
/// older than a connection.
pub const MOST_PAGES: usize = 4;
/// The longest request head.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// Where the answers come from.
pub trait Source: Send + Sync + 'static {
    /// Everything the metrics need, now.
    fn snapshot(&self) -> impl Future<Output = Snapshot> + Send;
    /// Whether segd enforces, and if not, why.
    fn readiness(&self) -> impl Future<Output = Readiness> + Send;
}

/// Why the address cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Somebody else listens there.
    #[error("metrics address {0} is in use; choose another with --metrics, or `--metrics none`")]
    InUse(SocketAddr),
    /// An operation failed.
    #[error("cannot serve metrics on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
}

/// Binds the address. Must be called inside a tokio runtime.
///
/// # Errors
/// If somebody else listens there, or the kernel refuses.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, HttpError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| match source.kind() {
            std::io::ErrorKind::AddrInUse => HttpError::InUse(address),
            _ => HttpError::Bind { address, source },
        })
}

/// Serves until the future is dropped.
pub async fn serve<S: Source>(listener: TcpListener, source: Arc<S>) {
    let metrics = Arc::new(Mutex::new(Pages::default()));
    let mut connections = Crowd::new(MAX_CONNECTIONS);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("metrics: accept: {error}");
                // SLEEP: out of descriptors, most likely; asking again at once would only burn the processor.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        connections.admit(connection(stream, Arc::clone(&source), Arc::clone(&metrics)));
    }
}

/// Serves one request. A client that goes away or is too slow is not an error.
async fn connection<S: Source>(stream: TcpStream, source: Arc<S>, metrics: Arc<Mutex<Pages>>) {
    let service = service_fn(|request: Request<Incoming>| {
        let (source, metrics) = (Arc::clone(&source), Arc::clone(&metrics));
        async move {
            Ok::<_, Infallible>(answer(request.method(), request.uri().path(), &*source, &metrics).await)
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_LIMIT)
        .keep_alive(false)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let _ = timeout(CONNECTION_LIMIT, served).await;
}

async fn answer<S: Source>(
    method: &Method,
    path: &str,
    source: &S,
    pages: &Mutex<Pages>,
) -> Response<Full<Bytes>> {
    const JSON: &str = "application/json";
    const TEXT: &str = "text/plain; charset=utf-8";
    if !matches!(path, "/metrics" | "/healthz" | "/readyz") {
        return page(
            StatusCode::NOT_FOUND,
            TEXT,
            "not found: /metrics, /healthz and /readyz are here\n".into(),
        );
    }
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut response = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n".into());
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path {
        "/metrics" => match pages.lock().await.page(source).await {
            Ok(text) => page(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text),
            Err(error) => page(
                StatusCode::INTERNAL_SERVER_ERROR,
                TEXT,
                format!("{error:#}\n").into(),
            ),
        },
        "/readyz" => {
            let readiness = source.readiness().await;
            let status = if readiness.ready {
                StatusCode::OK
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            };
            page(
                status,
                JSON,
                crate::output::json(&readiness, false).unwrap_or_default().into(),
            )
        }
        _ => page(StatusCode::OK, JSON, "{\"alive\":true}\n".into()),
    }
}

/// The page of metrics, and those that are being sent.
#[derive(Default)]
struct Pages {
    metrics: Metrics,
    /// The youngest last.
    sent: Vec<Weak<String>>,
}

/// A page for as long as it is being sent.
struct Sent(Arc<String>);

impl AsRef<[u8]> for Sent {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl Pages {
    async fn page<S: Source>(&mut self, source: &S) -> anyhow::Result<Bytes> {
        self.sent.retain(|page| page.strong_count() > 0);
        let youngest = self.sent.last().filter(|_| self.sent.len() >= MOST_PAGES);
        let text = match youngest.and_then(Weak::upgrade) {
            Some(text) => text,
            None => {
                let text = Arc::new(self.metrics.render(&source.snapshot().await)?);
                self.sent.push(Arc::downgrade(&text));
                text
            }
        };
        Ok(Bytes::from_owner(Sent(text)))
    }
}

fn page(status: StatusCode, kind: &'static str, text: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests;
