//! The control socket: what `segd status`, `flows` and the others ask the running daemon.
//!
//! One connection, one request: a line of JSON; the answer is one line, or a stream for flows. Both sides
//! say the protocol's version. INVARIANT: no client, however slow, large or numerous, holds the daemon up.

pub mod client;
pub mod dry_run;
pub mod peer;
pub mod protocol;
pub mod server;
pub mod types;
