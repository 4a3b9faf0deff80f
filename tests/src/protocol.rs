//! What a test says to a worker process, one JSON line each way.

#![allow(missing_docs, reason = "the fields are named for what they are")]

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use crate::craft::Craft;

/// How a probe tries to get through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// connect, write the token, wait until the other side has read it.
    Tcp,
    /// An unconnected socket's `sendto`.
    Udp,
    /// connect, then `send`.
    UdpConnected,
    /// A datagram made by hand on a raw socket: no sock_addr hook sees it.
    RawUdp,
    /// The first packet of a TCP connection, made by hand on a raw socket; what comes back is nobody's.
    RawSyn,
    /// An echo request on a raw socket.
    Echo,
    /// An echo request on a datagram ("ping") socket.
    PingSocket,
    /// Multipath TCP.
    Mptcp,
    /// TCP Fast Open: the token rides on the SYN.
    FastOpen,
    /// A socket made, connected and written to through io_uring.
    IoUring,
    /// The same, submitted by a kernel thread.
    SqPoll,
}

/// One attempt.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Probe {
    /// How.
    pub kind: Kind,
    /// Where to.
    pub to: SocketAddr,
    /// The bytes by which the receiver recognises it.
    pub token: String,
    /// When to give up.
    pub timeout_ms: u64,
    /// The local address to bind, if it matters.
    pub from: Option<SocketAddr>,
}

/// What the prober saw. `result` is `ok` or the name of an errno.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// `ok`, `stalled` (sent, the answer never came), or the errno's name.
    pub result: String,
    /// How long the deciding system call took.
    pub micros: u64,
}

/// What arrived at a listener.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Inbox {
    /// Accepted connections.
    pub accepts: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Connections open now.
    pub open: u64,
    /// Each read or datagram, oldest first.
    pub messages: Vec<String>,
    /// Where each message came from.
    pub sources: Vec<SocketAddr>,
}

impl Inbox {
    /// Whether any message carries `token`.
    #[must_use]
    pub fn has(&self, token: &str) -> bool {
        self.messages.iter().any(|message| message.contains(token))
    }

    /// How many messages carry `token`.
    #[must_use]
    pub fn count(&self, token: &str) -> usize {
        self.messages
            .iter()
            .filter(|message| message.contains(token))
            .count()
    }
}

/// What a task in the background has done so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Tries, or rounds of traffic.
    pub attempts: u64,
    /// Those the client's side believes got through.
    pub successes: u64,
    /// The fewest rounds any one connection made (traffic only).
    pub least: u64,
    /// The others, by errno or story.
    pub failures: BTreeMap<String, u64>,
}

/// What a worker can be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Command {
    /// Accepts and reads for ever; `echo` writes everything back.
    ListenTcp { addr: SocketAddr, echo: bool },
    /// As `ListenTcp`, by Multipath TCP.
    ListenMultipath { addr: SocketAddr },
    /// As `ListenTcp`, beside others on the same port (`SO_REUSEPORT`).
    ListenBeside { addr: SocketAddr },
    /// Connects by Multipath TCP and keeps the connection.
    OpenMultipath { to: SocketAddr },
    /// Takes over an open connection of another process, as if it had been passed (`SCM_RIGHTS`).
    TakeOver {
        pid: u32,
        local: SocketAddr,
        stream: bool,
    },
    /// Reads datagrams for ever.
    ListenUdp { addr: SocketAddr, echo: bool },
    /// Reads what a raw socket of this family and protocol gets for ever.
    ListenRaw { family: i32, protocol: i32 },
    /// What arrived at a listener.
    Inbox { id: u64 },
    /// Runs all probes at once, answers in order.
    Probe { probes: Vec<Probe> },
    /// Connects and keeps the connection.
    OpenTcp {
        to: SocketAddr,
        /// The local address to bind, if it matters.
        from: Option<SocketAddr>,
        timeout_ms: u64,
    },
    /// A UDP socket, kept; connected if `to` is given.
    OpenUdp {
        bind: SocketAddr,
        to: Option<SocketAddr>,
        /// Others may bind the same (SO_REUSEADDR).
        shared: bool,
    },
    /// Sends on a kept socket (a listener's UDP socket too).
    Send {
        id: u64,
        to: Option<SocketAddr>,
        data: String,
    },
    /// Receives on a kept socket.
    Receive { id: u64, timeout_ms: u64 },
    /// Writes to every connection the listener has accepted and still holds.
    SendAccepted { id: u64, data: String },
    /// Gives a kept connection an IPv6 routing header: its segments go to `via` first.
    RouteVia { id: u64, via: Ipv6Addr },
    /// Sends a whole IPv4 packet, its header included, on a raw socket.
    SendRaw { to: IpAddr, packet: Vec<u8> },
    /// Sends once by a socket made to order.
    Craft { craft: Craft },
    /// Sets an option of a socket.
    SetOption {
        id: u64,
        level: i32,
        name: i32,
        value: Vec<u8>,
    },
    /// Sends a frame on a device through a packet socket, past the queueing layer or not.
    SendFrame {
        device: String,
        frame: Vec<u8>,
        bypass: bool,
    },
    /// Sends a frame on a device through an AF_XDP socket.
    SendXdp { device: String, frame: Vec<u8> },
    /// Makes a packet socket, past the queueing layer or not, and keeps it.
    OpenPacketSocket { bypass: bool },
    /// Takes over another process' packet socket, as if it had been passed (`SCM_RIGHTS`).
    TakePacketSocket { pid: u32 },
    /// Binds a kept packet socket to a device.
    BindPacketSocket { id: u64, device: String },
    /// Sends a frame by a kept packet socket.
    SendFrameBy { id: u64, device: String, frame: Vec<u8> },
    /// Makes a socket and closes it.
    MakeSocket { family: i32, kind: i32, protocol: i32 },
    /// Makes a TUN device and keeps it.
    OpenTun { name: String },
    /// Writes a packet as if it came in by a kept TUN device.
    WriteTun { id: u64, packet: Vec<u8> },
    /// Closes a kept socket or listener.
    Close { id: u64 },
    /// Sends a signal to a process.
    Signal { pid: u32, signal: i32 },
    /// Moves the process to another cgroup.
    Enter { cgroup: PathBuf },
    /// Attempts in the background until stopped.
    Hammer { probes: Vec<Probe>, threads: usize },
    /// Echo traffic in the background on all these connections until stopped.
    Traffic { ids: Vec<u64>, every_ms: u64 },
    /// Connects one datagram socket to every port of an address in turn, so many times over.
    Flood { to: IpAddr, rounds: u32 },
    /// Sends two datagrams to every port of an address in turn, so many times over, each time from another port.
    Scatter { to: IpAddr, rounds: u32 },
    /// Sends a datagram on a kept socket to each of these in turn, so many times, from so many threads at once.
    Alternate {
        id: u64,
        to: Vec<SocketAddr>,
        times: u32,
        threads: usize,
    },
    /// How a background task stands.
    Task { id: u64 },
    /// Ends a background task.
    Stop { id: u64 },
    /// A file as this process sees it (`/proc/thread-self/net/…`).
    ReadFile { path: PathBuf },
    /// Writes a file as this process sees it (`/proc/sys/net/…`).
    WriteFile { path: PathBuf, text: String },
}

/// What a worker answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// Done.
    Done,
    /// A new object and its local address.
    Made { id: u64, local: SocketAddr, micros: u64 },
    /// It did not work: the errno's name.
    Failed { errno: String, micros: u64 },
    /// Results of probes.
    Outcomes { outcomes: Vec<Outcome> },
    /// What arrived.
    Inbox { inbox: Inbox },
    /// What was received: `None` when nothing came in time; an empty text is the end of the stream.
    Data {
        data: Option<String>,
        from: Option<SocketAddr>,
    },
    /// A task.
    Tally { tally: Tally },
    /// A file.
    Text { text: String },
}

impl Answer {
    /// An object without a local address.
    #[must_use]
    pub fn made(id: u64) -> Answer {
        Answer::Made {
            id,
            local: (std::net::Ipv4Addr::UNSPECIFIED, 0).into(),
            micros: 0,
        }
    }
}
