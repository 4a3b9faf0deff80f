//! Reading a client's one request.

use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader, Take};

use crate::control::{
    peer::Right,
    protocol::{Envelope, MAX_APPLY_BYTES, MAX_REQUEST_BYTES, Refusal, RefusalKind, Request, VERSION},
};

/// How requests start that may be longer than others: they carry a policy.
const LONG: [&[u8]; 2] = [
    b"{\"version\":1,\"body\":{\"apply\":",
    b"{\"version\":1,\"body\":{\"dry-run\":",
];

/// One request, or `None` if the client left without a word.
pub(super) async fn receive<R: AsyncRead + Unpin>(
    reader: &mut BufReader<Take<R>>,
    right: Right,
) -> Result<Option<Request>, Refusal> {
    let invalid = |message: String| Refusal::new(RefusalKind::Invalid, message);
    let mut limit = MAX_REQUEST_BYTES;
    let mut line = Vec::new();
    if reader.read_until(b'\n', &mut line).await.is_err() || line.is_empty() {
        return Ok(None);
    }
    if line.len() >= limit && right == Right::Write && LONG.iter().any(|start| line.starts_with(start)) {
        limit = MAX_APPLY_BYTES;
        reader.get_mut().set_limit((MAX_APPLY_BYTES - line.len()) as u64);
        if reader.read_until(b'\n', &mut line).await.is_err() {
            return Ok(None);
        }
    }
    if line.last() != Some(&b'\n') {
        return Err(invalid(if line.len() >= limit {
            format!("the request is longer than {limit} bytes")
        } else {
            "the request has no end".to_string()
        }));
    }
    let envelope: Envelope<serde_json::Value> = serde_json::from_slice(&line)
        .map_err(|error| invalid(format!("the request is not understood: {error}")))?;
    if envelope.version != VERSION {
        return Err(invalid(format!(
            "protocol version {} is not spoken here",
            envelope.version
        ))
        .help(format!(
            "the daemon speaks version {VERSION}; use the segd that is running"
        )));
    }
    serde_json::from_value(envelope.body)
        .map(Some)
        .map_err(|error| invalid(format!("the request is not understood: {error}")))
}
