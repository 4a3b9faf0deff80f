//! A process of the test in a cgroup and a network namespace: the user, or the attacker.

use std::{
    io::{BufRead, BufReader, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command as Process, Stdio},
    sync::Mutex,
};

use crate::{
    Cgroup,
    craft::Craft,
    protocol::{Answer, Command, Inbox, Kind, Outcome, Probe, Tally},
    wait::PATIENCE,
};

/// The process and the pipe to it.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    pipe: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
}

/// Something a worker holds open: a listener, a connection, a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle {
    /// Its number in the worker.
    pub id: u64,
    /// Its local address.
    pub local: SocketAddr,
    /// How long opening it took.
    pub micros: u64,
}

/// What a worker did not get: the errno's name, and how long that took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// `EPERM`, …
    pub errno: String,
    /// Of the system call.
    pub micros: u64,
}

/// The default time for a probe to succeed.
pub const PROBE_MS: u64 = 400;

/// The worker's binary, beside the test's.
///
/// # Panics
/// When it was not built.
#[track_caller]
#[must_use]
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let path = test
        .ancestors()
        .skip(1)
        .map(|directory| directory.join("segd-test-worker"));
    path.take(3)
        .find(|path| path.exists())
        .expect("segd-test-worker is built with the tests")
}

impl Worker {
    /// Starts one.
    ///
    /// # Panics
    /// When it cannot enter where it should live.
    #[track_caller]
    #[must_use]
    pub fn start(cgroup: Option<&Path>, netns: Option<&Path>) -> Worker {
        Worker::start_with(cgroup, netns, &[])
    }

    /// Starts one without any privilege, once it is where it should live.
    ///
    /// # Panics
    /// When it cannot enter where it should live.
    #[track_caller]
    #[must_use]
    pub fn start_as_nobody(cgroup: Option<&Path>, netns: Option<&Path>) -> Worker {
        Worker::start_with(cgroup, netns, &["--nobody"])
    }

    #[track_caller]
    fn start_with(cgroup: Option<&Path>, netns: Option<&Path>, more: &[&str]) -> Worker {
        let mut process = Process::new(binary());
        process.arg("serve").args(more);
        for (name, path) in [("--cgroup", cgroup), ("--netns", netns)] {
            if let Some(path) = path {
                process.arg(name).arg(path);
            }
        }
        Worker::spawn(process)
    }

    /// Starts one by a command that ends with the worker's binary, as whoever runs it sees that.
    ///
    /// # Panics
    /// When it does not start.
    #[track_caller]
    #[must_use]
    pub fn start_by(words: &[String]) -> Worker {
        let (program, words) = words.split_first().expect("a program");
        let mut process = Process::new(program);
        process.args(words).arg("serve");
        Worker::spawn(process)
    }

    #[track_caller]
    fn spawn(mut process: Process) -> Worker {
        let mut child = process
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the worker starts");
        let stdin = child.stdin.take().expect("a pipe");
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("the worker speaks");
        assert_eq!(line, "ready\n", "the worker did not get ready: {process:?}");
        Worker {
            child,
            pipe: Mutex::new((stdin, stdout)),
        }
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks; the answer may be a failure.
    ///
    /// # Panics
    /// When the worker is gone.
    #[track_caller]
    pub fn ask(&self, command: &Command) -> Answer {
        let mut pipe = self.pipe.lock().expect("one test, one thread");
        let mut line = serde_json::to_string(command).expect("a command is JSON");
        line.push('\n');
        pipe.0.write_all(line.as_bytes()).expect("the worker lives");
        let mut answer = String::new();
        pipe.1.read_line(&mut answer).expect("the worker lives");
        assert!(!answer.is_empty(), "the worker died of {command:?}");
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{answer}: {error}"))
    }

    #[track_caller]
    fn make(&self, command: &Command) -> Result<Handle, Refusal> {
        match self.ask(command) {
            Answer::Made { id, local, micros } => Ok(Handle { id, local, micros }),
            Answer::Failed { errno, micros } => Err(Refusal { errno, micros }),
            other => panic!("{command:?} gave {other:?}"),
        }
    }

    #[track_caller]
    fn perform(&self, command: &Command) -> Result<(), Refusal> {
        match self.ask(command) {
            Answer::Done => Ok(()),
            Answer::Failed { errno, micros } => Err(Refusal { errno, micros }),
            other => panic!("{command:?} gave {other:?}"),
        }
    }

    /// A TCP listener that reads and notes everything.
    #[track_caller]
    pub fn listen_tcp(&self, addr: impl Into<SocketAddr>) -> Handle {
        let addr = addr.into();
        self.make(&Command::ListenTcp { addr, echo: false })
            .unwrap_or_else(|e| panic!("tcp {addr}: {e:?}"))
    }

    /// A TCP listener that also sends everything back.
    #[track_caller]
    pub fn listen_tcp_echo(&self, addr: impl Into<SocketAddr>) -> Handle {
        let addr = addr.into();
        self.make(&Command::ListenTcp { addr, echo: true })
            .unwrap_or_else(|e| panic!("tcp {addr}: {e:?}"))
    }

    /// A listener that speaks Multipath TCP.
    #[track_caller]
    pub fn listen_multipath(&self, addr: impl Into<SocketAddr>) -> Handle {
        let addr = addr.into();
        self.make(&Command::ListenMultipath { addr })
            .unwrap_or_else(|e| panic!("mptcp {addr}: {e:?}"))
    }

    /// A TCP listener beside others on the same port.
    #[track_caller]
    pub fn listen_beside(&self, addr: impl Into<SocketAddr>) -> Handle {
        let addr = addr.into();
        self.make(&Command::ListenBeside { addr })
            .unwrap_or_else(|e| panic!("tcp {addr}: {e:?}"))
    }

    /// A UDP receiver that notes everything.
    #[track_caller]
    pub fn listen_udp(&self, addr: impl Into<SocketAddr>) -> Handle {
        let addr = addr.into();
        self.make(&Command::ListenUdp { addr, echo: false })
            .unwrap_or_else(|e| panic!("udp {addr}: {e:?}"))
    }

    /// A UDP receiver that also sends everything back.
    #[track_caller]
    pub fn listen_udp_echo(&self, addr: impl Into<SocketAddr>) -> Handle {
        let addr = addr.into();
        self.make(&Command::ListenUdp { addr, echo: true })
            .unwrap_or_else(|e| panic!("udp {addr}: {e:?}"))
    }

    /// A raw socket of a family (`AF_INET6`) and protocol that notes everything it gets.
    #[track_caller]
    pub fn listen_raw(&self, family: i32, protocol: i32) -> Handle {
        self.make(&Command::ListenRaw { family, protocol })
            .unwrap_or_else(|error| panic!("raw {family} {protocol}: {error:?}"))
    }

    /// What arrived at a listener.
    #[track_caller]
    pub fn inbox(&self, listener: Handle) -> Inbox {
        match self.ask(&Command::Inbox { id: listener.id }) {
            Answer::Inbox { inbox } => inbox,
            other => panic!("inbox gave {other:?}"),
        }
    }

    /// Waits until a message with `token` arrived.
    #[track_caller]
    pub fn wait_for_message(&self, listener: Handle, token: &str) {
        crate::wait::wait_until(format!("`{token}` at {}", listener.local), PATIENCE, || {
            self.inbox(listener).has(token)
        });
    }

    /// Runs all probes at once.
    #[track_caller]
    pub fn probe_all(&self, probes: Vec<Probe>) -> Vec<Outcome> {
        match self.ask(&Command::Probe { probes }) {
            Answer::Outcomes { outcomes } => outcomes,
            other => panic!("probes gave {other:?}"),
        }
    }

    /// Runs one probe.
    #[track_caller]
    pub fn probe(&self, kind: Kind, to: impl Into<SocketAddr>, token: &str) -> Outcome {
        let probe = probe(kind, to, token);
        self.probe_all(vec![probe]).remove(0)
    }

    /// Connects and keeps the connection.
    #[track_caller]
    pub fn open_tcp(&self, to: impl Into<SocketAddr>) -> Result<Handle, Refusal> {
        self.make(&Command::OpenTcp {
            to: to.into(),
            from: None,
            timeout_ms: 2000,
        })
    }

    /// The same, from an address.
    #[track_caller]
    pub fn open_tcp_from(
        &self,
        from: impl Into<SocketAddr>,
        to: impl Into<SocketAddr>,
    ) -> Result<Handle, Refusal> {
        self.make(&Command::OpenTcp {
            to: to.into(),
            from: Some(from.into()),
            timeout_ms: 2000,
        })
    }

    /// Connects by Multipath TCP and keeps the connection.
    #[track_caller]
    pub fn open_multipath(&self, to: impl Into<SocketAddr>) -> Result<Handle, Refusal> {
        self.make(&Command::OpenMultipath { to: to.into() })
    }

    /// Takes another worker's connection, or its UDP socket.
    #[track_caller]
    pub fn take_over(&self, other: &Worker, socket: Handle, stream: bool) -> Handle {
        let take = Command::TakeOver {
            pid: other.pid(),
            local: socket.local,
            stream,
        };
        self.make(&take)
            .unwrap_or_else(|error| panic!("taking {}: {error:?}", socket.local))
    }

    /// A UDP socket; connected if `to` is given.
    #[track_caller]
    pub fn open_udp(&self, bind: impl Into<SocketAddr>, to: Option<SocketAddr>) -> Result<Handle, Refusal> {
        self.make(&Command::OpenUdp {
            bind: bind.into(),
            to,
            shared: false,
        })
    }

    /// A UDP socket whose address and port others may have too.
    #[track_caller]
    pub fn share_udp(&self, bind: impl Into<SocketAddr>) -> Handle {
        let made = self.make(&Command::OpenUdp {
            bind: bind.into(),
            to: None,
            shared: true,
        });
        made.expect("a shared port")
    }

    /// Sends on a kept, connected socket.
    #[track_caller]
    pub fn send(&self, socket: Handle, data: &str) -> Result<(), Refusal> {
        self.perform(&Command::Send {
            id: socket.id,
            to: None,
            data: data.into(),
        })
    }

    /// Sends a datagram on a kept socket.
    #[track_caller]
    pub fn send_to(&self, socket: Handle, to: impl Into<SocketAddr>, data: &str) -> Result<(), Refusal> {
        self.perform(&Command::Send {
            id: socket.id,
            to: Some(to.into()),
            data: data.into(),
        })
    }

    /// Writes on everything the listener accepted.
    #[track_caller]
    pub fn send_accepted(&self, listener: Handle, data: &str) -> Result<(), Refusal> {
        self.perform(&Command::SendAccepted {
            id: listener.id,
            data: data.into(),
        })
    }

    /// Receives within `timeout_ms`: `Ok(None)` when nothing came.
    #[track_caller]
    pub fn receive(&self, socket: Handle, timeout_ms: u64) -> Result<Option<String>, Refusal> {
        match self.ask(&Command::Receive {
            id: socket.id,
            timeout_ms,
        }) {
            Answer::Data { data, .. } => Ok(data),
            Answer::Failed { errno, micros } => Err(Refusal { errno, micros }),
            other => panic!("receive gave {other:?}"),
        }
    }

    /// Gives a connection an IPv6 routing header: its segments go to `via` first.
    #[track_caller]
    pub fn route_via(&self, connection: Handle, via: Ipv6Addr) -> Result<(), Refusal> {
        self.perform(&Command::RouteVia {
            id: connection.id,
            via,
        })
    }

    /// Sends a whole IPv4 packet, its header included, on a raw socket.
    #[track_caller]
    pub fn send_raw(&self, to: impl Into<IpAddr>, packet: &[u8]) -> Result<(), Refusal> {
        self.perform(&Command::SendRaw {
            to: to.into(),
            packet: packet.to_vec(),
        })
    }

    /// Asks for as many exchanges as `rounds` times all ports of an address.
    #[track_caller]
    pub fn flood(&self, to: IpAddr, rounds: u32) {
        self.perform(&Command::Flood { to, rounds })
            .expect("a flood of connects");
    }

    /// Sends two datagrams to every port of an address, `rounds` times over, each time from another port.
    #[track_caller]
    pub fn scatter(&self, to: IpAddr, rounds: u32) {
        self.perform(&Command::Scatter { to, rounds })
            .expect("a flood of datagrams");
    }

    /// Sends once by a socket made to order.
    #[track_caller]
    pub fn craft(&self, craft: Craft) -> Result<(), Refusal> {
        self.perform(&Command::Craft { craft })
    }

    /// Sets an option of a socket.
    #[track_caller]
    pub fn set_option(&self, socket: Handle, level: i32, name: i32, value: &[u8]) {
        self.perform(&Command::SetOption {
            id: socket.id,
            level,
            name,
            value: value.to_vec(),
        })
        .unwrap_or_else(|error| panic!("option {name}: {error:?}"));
    }

    /// Sends a frame on a device through a packet socket, past the queueing layer or not.
    #[track_caller]
    pub fn send_frame(&self, device: &str, frame: &[u8], bypass: bool) -> Result<(), Refusal> {
        self.perform(&Command::SendFrame {
            device: device.into(),
            frame: frame.to_vec(),
            bypass,
        })
    }

    /// Sends a frame on a device through an AF_XDP socket.
    #[track_caller]
    pub fn send_xdp(&self, device: &str, frame: &[u8]) -> Result<(), Refusal> {
        self.perform(&Command::SendXdp {
            device: device.into(),
            frame: frame.to_vec(),
        })
    }

    /// A packet socket, past the queueing layer or not.
    #[track_caller]
    pub fn open_packet_socket(&self, bypass: bool) -> Result<Handle, Refusal> {
        self.make(&Command::OpenPacketSocket { bypass })
    }

    /// Takes another worker's packet socket.
    #[track_caller]
    pub fn take_packet_socket(&self, other: &Worker) -> Handle {
        self.make(&Command::TakePacketSocket { pid: other.pid() })
            .unwrap_or_else(|error| panic!("taking a packet socket: {error:?}"))
    }

    /// Binds a packet socket to a device.
    #[track_caller]
    pub fn bind_packet_socket(&self, socket: Handle, device: &str) -> Result<(), Refusal> {
        self.perform(&Command::BindPacketSocket {
            id: socket.id,
            device: device.into(),
        })
    }

    /// Sends a frame by a packet socket.
    #[track_caller]
    pub fn send_frame_by(&self, socket: Handle, device: &str, frame: &[u8]) -> Result<(), Refusal> {
        self.perform(&Command::SendFrameBy {
            id: socket.id,
            device: device.into(),
            frame: frame.to_vec(),
        })
    }

    /// Makes a socket of this family, type and protocol, and closes it.
    #[track_caller]
    pub fn make_socket(&self, family: i32, kind: i32, protocol: i32) -> Result<(), Refusal> {
        self.perform(&Command::MakeSocket {
            family,
            kind,
            protocol,
        })
    }

    /// Makes a TUN device in the worker's namespace; it lives as long as the worker.
    #[track_caller]
    pub fn open_tun(&self, name: &str) -> Handle {
        self.make(&Command::OpenTun { name: name.into() })
            .unwrap_or_else(|error| panic!("TUN {name}: {error:?}"))
    }

    /// Writes a packet as if it came in by a TUN device.
    #[track_caller]
    pub fn write_tun(&self, tun: Handle, packet: &[u8]) -> Result<(), Refusal> {
        self.perform(&Command::WriteTun {
            id: tun.id,
            packet: packet.to_vec(),
        })
    }

    /// Closes a socket or listener.
    #[track_caller]
    pub fn close(&self, socket: Handle) {
        self.perform(&Command::Close { id: socket.id })
            .expect("close does not fail");
    }

    /// Sends a signal to a process.
    #[track_caller]
    pub fn signal(&self, pid: u32, signal: i32) -> Result<(), Refusal> {
        self.perform(&Command::Signal { pid, signal })
    }

    /// Moves the process to another cgroup.
    #[track_caller]
    pub fn enter(&self, cgroup: &Cgroup) {
        self.enter_directory(cgroup.directory());
    }

    /// Moves the process to another cgroup, by its directory.
    #[track_caller]
    pub fn enter_directory(&self, directory: &Path) {
        self.perform(&Command::Enter {
            cgroup: directory.to_owned(),
        })
        .unwrap_or_else(|error| panic!("enter {}: {error:?}", directory.display()));
    }

    /// Repeats `probes` in the background.
    #[track_caller]
    pub fn hammer(&self, probes: Vec<Probe>, threads: usize) -> Handle {
        self.make(&Command::Hammer { probes, threads })
            .expect("a task starts")
    }

    /// Echo traffic in the background on kept connections.
    #[track_caller]
    pub fn traffic(&self, connections: &[Handle]) -> Handle {
        self.traffic_every(connections, 5)
    }

    /// Echo traffic in the background on kept connections, a round every so many milliseconds on each.
    #[track_caller]
    pub fn traffic_every(&self, connections: &[Handle], every_ms: u64) -> Handle {
        let ids = connections.iter().map(|connection| connection.id).collect();
        self.make(&Command::Traffic { ids, every_ms })
            .expect("a task starts")
    }

    /// Sends a datagram on a kept socket to each of these in turn, `times` times, from so many threads at once.
    #[track_caller]
    pub fn alternate(&self, socket: Handle, to: Vec<SocketAddr>, times: u32, threads: usize) -> Tally {
        let id = socket.id;
        match self.ask(&Command::Alternate {
            id,
            to,
            times,
            threads,
        }) {
            Answer::Tally { tally } => tally,
            other => panic!("alternate gave {other:?}"),
        }
    }

    /// How a background task stands.
    #[track_caller]
    pub fn task(&self, task: Handle) -> Tally {
        match self.ask(&Command::Task { id: task.id }) {
            Answer::Tally { tally } => tally,
            other => panic!("task gave {other:?}"),
        }
    }

    /// Ends a background task.
    #[track_caller]
    pub fn stop(&self, task: Handle) -> Tally {
        match self.ask(&Command::Stop { id: task.id }) {
            Answer::Tally { tally } => tally,
            other => panic!("stop gave {other:?}"),
        }
    }

    /// A file as the worker sees it.
    #[track_caller]
    pub fn read_file(&self, path: &str) -> String {
        match self.ask(&Command::ReadFile { path: path.into() }) {
            Answer::Text { text } => text,
            other => panic!("{path}: {other:?}"),
        }
    }

    /// Writes a file as the worker sees it.
    #[track_caller]
    pub fn write_file(&self, path: &str, text: &str) {
        self.perform(&Command::WriteFile {
            path: path.into(),
            text: text.into(),
        })
        .unwrap_or_else(|error| panic!("{path}: {error:?}"));
    }

    /// How many echo requests the kernel of this namespace has received: (IPv4, IPv6).
    #[track_caller]
    #[must_use]
    pub fn echo_requests_received(&self) -> (u64, u64) {
        let snmp = self.read_file("/proc/thread-self/net/snmp");
        let mut icmp = snmp.lines().filter(|line| line.starts_with("Icmp:"));
        let (names, values) = (icmp.next().unwrap_or_default(), icmp.next().unwrap_or_default());
        let v4 = names
            .split_whitespace()
            .zip(values.split_whitespace())
            .find(|(name, _)| *name == "InEchos")
            .and_then(|(_, value)| value.parse().ok())
            .expect("InEchos in /proc/net/snmp");
        let snmp6 = self.read_file("/proc/thread-self/net/snmp6");
        let v6 = snmp6
            .lines()
            .find_map(|line| line.strip_prefix("Icmp6InEchos"))
            .and_then(|value| value.trim().parse().ok())
            .expect("Icmp6InEchos in /proc/net/snmp6");
        (v4, v6)
    }
}

/// A probe with the usual patience.
#[must_use]
pub fn probe(kind: Kind, to: impl Into<SocketAddr>, token: &str) -> Probe {
    Probe {
        kind,
        to: to.into(),
        token: token.into(),
        timeout_ms: PROBE_MS,
        from: None,
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
