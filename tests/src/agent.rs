//! The worker process: enters its cgroup and namespace before it makes a socket, then does as it is told.

use std::{
    collections::HashMap,
    fs,
    io::{self, BufRead, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    exotic,
    protocol::{Answer, Command, Inbox, Kind, Outcome, Probe, Tally},
    sys, wire, xdp,
};

/// The entry point of `segd-test-worker`.
#[must_use]
pub fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let mode = arguments.next().unwrap_or_default();
    let rest: Vec<String> = arguments.collect();
    match mode.as_str() {
        "serve" => serve(&rest),
        "births" => births(&rest),
        "watchdog" => watchdog(&rest),
        other => panic!("segd-test-worker: unknown mode `{other}`"),
    }
    ExitCode::SUCCESS
}

fn option<'a>(arguments: &'a [String], name: &str) -> Option<&'a str> {
    let at = arguments.iter().position(|argument| argument == name)?;
    arguments.get(at + 1).map(String::as_str)
}

fn enter_cgroup(directory: &Path) -> io::Result<()> {
    fs::write(directory.join("cgroup.procs"), "0")
}

fn serve(arguments: &[String]) {
    sys::die_with_parent();
    sys::raise_file_limit();
    if let Some(cgroup) = option(arguments, "--cgroup") {
        enter_cgroup(Path::new(cgroup)).unwrap_or_else(|error| panic!("enter {cgroup}: {error}"));
    }
    if let Some(netns) = option(arguments, "--netns") {
        sys::enter_netns(Path::new(netns)).unwrap_or_else(|error| panic!("enter {netns}: {error}"));
    }
    if arguments.iter().any(|argument| argument == "--nobody") {
        sys::become_nobody().unwrap_or_else(|error| panic!("become nobody: {error}"));
    }
    let mut agent = Agent::default();
    println!("ready");
    for line in io::stdin().lock().lines() {
        let Ok(line) = line else { return };
        let command: Command = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"));
        let answer = agent.obey(command);
        println!("{}", serde_json::to_string(&answer).expect("an answer is JSON"));
    }
}

enum Kept {
    Stream(TcpStream),
    Datagram(UdpSocket),
}

struct Listener {
    inbox: Arc<Mutex<Inbox>>,
    accepted: Arc<Mutex<Vec<TcpStream>>>,
    /// Of datagrams.
    socket: Option<UdpSocket>,
    /// Of connections.
    port: Option<TcpListener>,
    stop: Arc<AtomicBool>,
}

#[derive(Default)]
struct Task {
    stop: AtomicBool,
    tally: Mutex<Tally>,
    rounds: Mutex<Vec<Arc<AtomicU64>>>,
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
}

impl Task {
    fn tally(&self) -> Tally {
        let mut tally = self.tally.lock().unwrap().clone();
        let rounds = self.rounds.lock().unwrap();
        if !rounds.is_empty() {
            tally.least = rounds
                .iter()
                .map(|count| count.load(Ordering::Relaxed))
                .min()
                .unwrap_or(0);
            tally.attempts = rounds.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        }
        tally
    }

    fn fail(&self, story: String) {
        *self.tally.lock().unwrap().failures.entry(story).or_default() += 1;
    }
}

#[derive(Default)]
struct Agent {
    last: u64,
    kept: HashMap<u64, Kept>,
    listeners: HashMap<u64, Listener>,
    tasks: HashMap<u64, Arc<Task>>,
    tuns: HashMap<u64, fs::File>,
    packet_sockets: HashMap<u64, OwnedFd>,
}

fn failed(error: &io::Error, start: Instant) -> Answer {
    Answer::Failed {
        errno: sys::errno_name(error),
        micros: start.elapsed().as_micros() as u64,
    }
}

/// Each thread begins with another of the peers.
fn alternate(socket: &UdpSocket, to: &[SocketAddr], times: u32, threads: usize) -> Tally {
    let tally = Mutex::new(Tally::default());
    thread::scope(|scope| {
        for first in 0..threads {
            let tally = &tally;
            scope.spawn(move || {
                let mut own = Tally::default();
                for peer in to.iter().cycle().skip(first).take(times as usize * to.len()) {
                    own.attempts += 1;
                    match socket.send_to(format!("for {peer};").as_bytes(), peer) {
                        Ok(_) => own.successes += 1,
                        Err(error) => {
                            let story = format!("{} to {peer}", sys::errno_name(&error));
                            *own.failures.entry(story).or_default() += 1;
                        }
                    }
                }
                let mut all = tally.lock().unwrap();
                all.attempts += own.attempts;
                all.successes += own.successes;
                for (story, count) in own.failures {
                    *all.failures.entry(story).or_default() += count;
                }
            });
        }
    });
    tally.into_inner().unwrap()
}

impl Agent {
    fn id(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn obey(&mut self, command: Command) -> Answer {
        let start = Instant::now();
        match self.try_obey(command, start) {
            Ok(answer) => answer,
            Err(error) => failed(&error, start),
        }
    }

    fn try_obey(&mut self, command: Command, start: Instant) -> io::Result<Answer> {
        Ok(match command {
            Command::ListenTcp { addr, echo } => self.accept_on(TcpListener::bind(addr)?, echo)?,
            Command::ListenMultipath { addr } => self.accept_on(exotic::multipath_listener(addr)?, false)?,
            Command::ListenBeside { addr } => self.accept_on(exotic::listener_beside(addr)?, false)?,
            Command::OpenMultipath { to } => self.keep(
                Kept::Stream(exotic::multipath(to, Duration::from_secs(2))?),
                start,
            )?,
            Command::TakeOver { pid, local, stream } => {
                let socket = exotic::taken_over(pid, local)?;
                let kept = if stream {
                    Kept::Stream(socket.into())
                } else {
                    Kept::Datagram(socket.into())
                };
                self.keep(kept, start)?
            }
            Command::ListenUdp { addr, echo } => self.hear(UdpSocket::bind(addr)?, echo)?,
            Command::ListenRaw { family, protocol } => {
                let socket = sys::socket(family, libc::SOCK_RAW, protocol)?;
                self.hear(socket.into(), false)?
            }
            Command::Inbox { id } => Answer::Inbox {
                inbox: self.listeners[&id].inbox.lock().unwrap().clone(),
            },
            Command::Probe { probes } => Answer::Outcomes {
                outcomes: probe_all(probes),
            },
            Command::OpenTcp { to, from, timeout_ms } => {
                let timeout = Duration::from_millis(timeout_ms);
                let stream = match from {
                    Some(from) => TcpStream::from(sys::connected_from(from, to, timeout)?),
                    None => TcpStream::connect_timeout(&to, timeout)?,
                };
                // Whoever asked waits for the answer: a test whose packets are lost must fail, not hang.
                stream.set_write_timeout(Some(Duration::from_secs(10)))?;
                self.keep(Kept::Stream(stream), start)?
            }
            Command::OpenUdp { bind, to, shared } => {
                let socket = if shared {
                    sys::share_udp(bind)?
                } else {
                    UdpSocket::bind(bind)?
                };
                if let Some(to) = to {
                    socket.connect(to)?;
                }
                self.keep(Kept::Datagram(socket), start)?
            }
            Command::Send { id, to, data } => {
                self.send(id, to, &data)?;
                Answer::Done
            }
            Command::Receive { id, timeout_ms } => self.receive(id, Duration::from_millis(timeout_ms))?,
            Command::SendAccepted { id, data } => {
                for stream in self.listeners[&id].accepted.lock().unwrap().iter_mut() {
                    stream.write_all(data.as_bytes())?;
                }
                Answer::Done
            }
            Command::RouteVia { id, via } => {
                let Some(Kept::Stream(stream)) = self.kept.get(&id) else {
                    panic!("{id} is no connection")
                };
                sys::route_via(stream, via)?;
                Answer::Done
            }
            Command::SendRaw { to, packet } => {
                let socket = sys::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW)?;
                sys::send_to(&socket, &packet, SocketAddr::new(to, 0))?;
                Answer::Done
            }
            Command::Flood { to, rounds } => {
                for _ in 0..rounds {
                    let socket = UdpSocket::bind(any((to, 0).into()))?;
                    for port in 1..=u16::MAX {
                        socket.connect((to, port)).ok();
                    }
                }
                Answer::Done
            }
            Command::Scatter { to, rounds } => {
                for _ in 0..rounds {
                    let socket = UdpSocket::bind(any((to, 0).into()))?;
                    for port in 1..=u16::MAX {
                        // What is looked at again is kept longer than what is not.
                        for _ in 0..2 {
                            socket.send_to(b"scatter;", (to, port)).ok();
                        }
                    }
                }
                Answer::Done
            }
            Command::Alternate {
                id,
                to,
                times,
                threads,
            } => {
                let Some(Kept::Datagram(socket)) = self.kept.get(&id) else {
                    panic!("{id} is no datagram socket")
                };
                Answer::Tally {
                    tally: alternate(socket, &to, times, threads),
                }
            }
            Command::Craft { craft } => {
                craft.send()?;
                Answer::Done
            }
            Command::SetOption {
                id,
                level,
                name,
                value,
            } => {
                match self.kept.get(&id) {
                    Some(Kept::Stream(socket)) => sys::set_bytes(socket, level, name, &value)?,
                    Some(Kept::Datagram(socket)) => sys::set_bytes(socket, level, name, &value)?,
                    None => {
                        let listener = &self.listeners[&id];
                        match &listener.socket {
                            Some(socket) => sys::set_bytes(socket, level, name, &value)?,
                            None => {
                                sys::set_bytes(listener.port.as_ref().expect("a port"), level, name, &value)?;
                            }
                        }
                    }
                }
                Answer::Done
            }
            Command::SendFrame {
                device,
                frame,
                bypass,
            } => {
                wire::send_frame(&device, &frame, bypass)?;
                Answer::Done
            }
            Command::SendXdp { device, frame } => {
                xdp::send(&device, &frame)?;
                Answer::Done
            }
            Command::OpenPacketSocket { bypass } => {
                let socket = wire::packet_socket(bypass)?;
                self.keep_packet_socket(socket)
            }
            Command::TakePacketSocket { pid } => {
                let socket = exotic::taken_packet_socket(pid)?;
                self.keep_packet_socket(socket)
            }
            Command::BindPacketSocket { id, device } => {
                wire::bind_to_device(&self.packet_sockets[&id], &device)?;
                Answer::Done
            }
            Command::SendFrameBy { id, device, frame } => {
                wire::send_frame_by(&self.packet_sockets[&id], &device, &frame)?;
                Answer::Done
            }
            Command::MakeSocket {
                family,
                kind,
                protocol,
            } => {
                sys::socket(family, kind, protocol)?;
                Answer::Done
            }
            Command::OpenTun { name } => {
                let tun = sys::open_tun(&name, libc::IFF_TUN)?;
                let id = self.id();
                self.tuns.insert(id, tun);
                Answer::made(id)
            }
            Command::WriteTun { id, packet } => {
                (&self.tuns[&id]).write_all(&packet)?;
                Answer::Done
            }
            Command::Close { id } => {
                self.kept.remove(&id);
                if let Some(listener) = self.listeners.remove(&id) {
                    listener.stop.store(true, Ordering::Relaxed);
                }
                Answer::Done
            }
            Command::Signal { pid, signal } => {
                // SAFETY: no memory is passed.
                if unsafe { libc::kill(pid as libc::pid_t, signal) } != 0 {
                    return Err(io::Error::last_os_error());
                }
                Answer::Done
            }
            Command::Enter { cgroup } => {
                enter_cgroup(&cgroup)?;
                Answer::Done
            }
            Command::Hammer { probes, threads } => self.hammer(probes, threads)?,
            Command::Traffic { ids, every_ms } => self.traffic(&ids, Duration::from_millis(every_ms))?,
            Command::Task { id } => Answer::Tally {
                tally: self.tasks[&id].tally(),
            },
            Command::Stop { id } => {
                let task = self.tasks.remove(&id).expect("a task of this worker");
                task.stop.store(true, Ordering::Relaxed);
                for handle in std::mem::take(&mut *task.threads.lock().unwrap()) {
                    handle.join().expect("a task does not panic");
                }
                Answer::Tally { tally: task.tally() }
            }
            Command::ReadFile { path } => Answer::Text {
                text: fs::read_to_string(path)?,
            },
            Command::WriteFile { path, text } => {
                fs::write(path, text)?;
                Answer::Done
            }
        })
    }

    fn keep_packet_socket(&mut self, socket: OwnedFd) -> Answer {
        let id = self.id();
        self.packet_sockets.insert(id, socket);
        Answer::made(id)
    }

    fn keep(&mut self, kept: Kept, start: Instant) -> io::Result<Answer> {
        let micros = start.elapsed().as_micros() as u64;
        let local = match &kept {
            Kept::Stream(stream) => {
                stream.set_nodelay(true)?;
                sys::leave_nothing_behind(stream)?;
                stream.local_addr()?
            }
            Kept::Datagram(socket) => socket.local_addr()?,
        };
        let id = self.id();
        self.kept.insert(id, kept);
        Ok(Answer::Made { id, local, micros })
    }

    fn accept_on(&mut self, listener: TcpListener, echo: bool) -> io::Result<Answer> {
        let local = listener.local_addr()?;
        let inbox = Arc::new(Mutex::new(Inbox::default()));
        let accepted = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let id = self.id();
        self.listeners.insert(
            id,
            Listener {
                inbox: inbox.clone(),
                accepted: accepted.clone(),
                socket: None,
                port: Some(listener.try_clone()?),
                stop: stop.clone(),
            },
        );
        // Polled, so that Close really closes the port.
        listener.set_nonblocking(true)?;
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let mut poll = libc::pollfd {
                    fd: std::os::fd::AsRawFd::as_raw_fd(&listener),
                    events: libc::POLLIN,
                    revents: 0,
                };
                // SAFETY: one valid pollfd.
                unsafe { libc::poll(&raw mut poll, 1, 20) };
                let Ok((stream, peer)) = listener.accept() else {
                    continue;
                };
                stream.set_nonblocking(false).expect("a fresh socket");
                stream.set_nodelay(true).ok();
                sys::leave_nothing_behind(&stream).ok();
                {
                    let mut inbox = inbox.lock().unwrap();
                    inbox.accepts += 1;
                    inbox.open += 1;
                }
                if let Ok(copy) = stream.try_clone() {
                    let mut accepted = accepted.lock().unwrap();
                    accepted.push(copy);
                }
                let (inbox, accepted) = (inbox.clone(), accepted.clone());
                thread::spawn(move || read_stream(stream, peer, echo, &inbox, &accepted));
            }
        });
        Ok(Answer::Made { id, local, micros: 0 })
    }

    fn hear(&mut self, socket: UdpSocket, echo: bool) -> io::Result<Answer> {
        let local = socket.local_addr()?;
        let inbox = Arc::new(Mutex::new(Inbox::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let reader = socket.try_clone()?;
        reader.set_read_timeout(Some(Duration::from_millis(20)))?;
        let id = self.id();
        self.listeners.insert(
            id,
            Listener {
                inbox: inbox.clone(),
                accepted: Arc::default(),
                socket: Some(socket),
                port: None,
                stop: stop.clone(),
            },
        );
        thread::spawn(move || {
            let mut buffer = vec![0u8; 65536];
            while !stop.load(Ordering::Relaxed) {
                let Ok((length, peer)) = reader.recv_from(&mut buffer) else {
                    continue;
                };
                note(&inbox, &buffer[..length], peer);
                if echo {
                    reader.send_to(&buffer[..length], peer).ok();
                }
            }
        });
        Ok(Answer::Made { id, local, micros: 0 })
    }

    fn send(&mut self, id: u64, to: Option<SocketAddr>, data: &str) -> io::Result<()> {
        let datagram = match self.kept.get_mut(&id) {
            Some(Kept::Stream(stream)) => return stream.write_all(data.as_bytes()),
            Some(Kept::Datagram(socket)) => &*socket,
            None => self.listeners[&id].socket.as_ref().expect("a UDP listener"),
        };
        match to {
            Some(to) => datagram.send_to(data.as_bytes(), to)?,
            None => datagram.send(data.as_bytes())?,
        };
        Ok(())
    }

    fn receive(&mut self, id: u64, timeout: Duration) -> io::Result<Answer> {
        let mut buffer = vec![0u8; 65536];
        let timeout = Some(timeout.max(Duration::from_millis(1)));
        let read = match self.kept.get_mut(&id).expect("a kept socket") {
            Kept::Stream(stream) => {
                stream.set_read_timeout(timeout)?;
                stream.read(&mut buffer).map(|length| (length, None))
            }
            Kept::Datagram(socket) => {
                socket.set_read_timeout(timeout)?;
                socket
                    .recv_from(&mut buffer)
                    .map(|(length, from)| (length, Some(from)))
            }
        };
        match read {
            Ok((length, from)) => Ok(Answer::Data {
                data: Some(String::from_utf8_lossy(&buffer[..length]).into_owned()),
                from,
            }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Answer::Data {
                data: None,
                from: None,
            }),
            Err(error) => Err(error),
        }
    }

    fn hammer(&mut self, probes: Vec<Probe>, threads: usize) -> io::Result<Answer> {
        let task = Arc::new(Task::default());
        for number in 0..threads.max(1) {
            let (shared, mut probes) = (task.clone(), probes.clone());
            let length = probes.len();
            probes.rotate_left(number % length);
            task.threads.lock().unwrap().push(thread::spawn(move || {
                while !shared.stop.load(Ordering::Relaxed) {
                    for probe in &probes {
                        let outcome = attempt(probe);
                        let mut tally = shared.tally.lock().unwrap();
                        tally.attempts += 1;
                        if outcome.result == "ok" {
                            tally.successes += 1;
                        } else {
                            let story = format!("{:?} {}", probe.kind, outcome.result);
                            *tally.failures.entry(story).or_default() += 1;
                        }
                    }
                }
            }));
        }
        let id = self.id();
        self.tasks.insert(id, task);
        Ok(Answer::Made {
            id,
            local: ([0, 0, 0, 0], 0).into(),
            micros: 0,
        })
    }

    fn traffic(&mut self, ids: &[u64], every: Duration) -> io::Result<Answer> {
        let task = Arc::new(Task::default());
        for id in ids {
            let Some(Kept::Stream(stream)) = self.kept.get(id) else {
                panic!("{id} is no connection")
            };
            let (mut stream, shared) = (stream.try_clone()?, task.clone());
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            let rounds = Arc::new(AtomicU64::new(0));
            task.rounds.lock().unwrap().push(rounds.clone());
            task.threads.lock().unwrap().push(thread::spawn(move || {
                while !shared.stop.load(Ordering::Relaxed) {
                    let message = format!("{:08}", rounds.load(Ordering::Relaxed) % 100_000_000);
                    let mut answer = [0u8; 8];
                    let turn = stream
                        .write_all(message.as_bytes())
                        .and_then(|()| stream.read_exact(&mut answer));
                    if let Err(error) = turn {
                        return shared.fail(sys::errno_name(&error));
                    }
                    if answer != message.as_bytes() {
                        return shared.fail("another echo than was sent".into());
                    }
                    rounds.fetch_add(1, Ordering::Relaxed);
                    // SLEEP: pacing, so that a hundred connections leave the machine some air.
                    thread::sleep(every);
                }
            }));
        }
        let id = self.id();
        self.tasks.insert(id, task);
        Ok(Answer::Made {
            id,
            local: ([0, 0, 0, 0], 0).into(),
            micros: 0,
        })
    }
}

fn note(inbox: &Mutex<Inbox>, data: &[u8], peer: SocketAddr) {
    const KEPT: usize = 50_000;
    let mut inbox = inbox.lock().unwrap();
    inbox.bytes += data.len() as u64;
    if inbox.messages.len() < KEPT {
        inbox.messages.push(String::from_utf8_lossy(data).into_owned());
        inbox.sources.push(peer);
    }
}

fn read_stream(
    mut stream: TcpStream,
    peer: SocketAddr,
    echo: bool,
    inbox: &Mutex<Inbox>,
    accepted: &Mutex<Vec<TcpStream>>,
) {
    let mut buffer = vec![0u8; 16384];
    while let Ok(length) = stream.read(&mut buffer) {
        if length == 0 {
            break;
        }
        note(inbox, &buffer[..length], peer);
        if echo && stream.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    inbox.lock().unwrap().open -= 1;
    accepted
        .lock()
        .unwrap()
        .retain(|other| other.peer_addr().is_ok_and(|other| other != peer));
    stream.shutdown(Shutdown::Both).ok();
}

fn probe_all(probes: Vec<Probe>) -> Vec<Outcome> {
    let threads: Vec<_> = probes
        .into_iter()
        .map(|probe| thread::spawn(move || attempt(&probe)))
        .collect();
    threads
        .into_iter()
        .map(|thread| thread.join().expect("a probe does not panic"))
        .collect()
}

fn attempt(probe: &Probe) -> Outcome {
    let start = Instant::now();
    let mut micros = 0;
    let result = try_attempt(probe, start, &mut micros);
    if micros == 0 {
        micros = start.elapsed().as_micros() as u64;
    }
    Outcome {
        result: result.map_or_else(|error| sys::errno_name(&error), str::to_owned),
        micros,
    }
}

fn any(to: SocketAddr) -> SocketAddr {
    if to.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        ([0u16; 8], 0).into()
    }
}

fn try_attempt(probe: &Probe, start: Instant, micros: &mut u64) -> io::Result<&'static str> {
    let timeout = Duration::from_millis(probe.timeout_ms.max(1));
    let token = probe.token.as_bytes();
    let bind = probe.from.unwrap_or_else(|| any(probe.to));
    match probe.kind {
        Kind::Tcp => {
            let mut stream = match probe.from {
                Some(from) => sys::dial(from, probe.to, timeout)?,
                None => TcpStream::connect_timeout(&probe.to, timeout)?,
            };
            *micros = start.elapsed().as_micros() as u64;
            stream.set_read_timeout(Some(timeout.max(Duration::from_secs(1))))?;
            stream.write_all(token)?;
            stream.shutdown(Shutdown::Write)?;
            let mut rest = Vec::new();
            return Ok(if stream.read_to_end(&mut rest).is_ok() {
                "ok"
            } else {
                "stalled"
            });
        }
        Kind::Udp => {
            let socket = UdpSocket::bind(bind)?;
            let start = Instant::now();
            let sent = socket.send_to(token, probe.to);
            *micros = start.elapsed().as_micros() as u64;
            sent?;
        }
        Kind::UdpConnected => {
            let socket = UdpSocket::bind(bind)?;
            let start = Instant::now();
            let sent = socket.connect(probe.to).and_then(|()| socket.send(token));
            *micros = start.elapsed().as_micros() as u64;
            sent?;
        }
        Kind::Mptcp | Kind::FastOpen | Kind::IoUring | Kind::SqPoll => {
            return exotic::attempt(probe, timeout, micros);
        }
        Kind::RawUdp => sys::raw_udp(probe.to, probe.from.map_or(40_000, |from| from.port()), token)?,
        Kind::RawSyn => sys::raw_syn(probe.to)?,
        Kind::Echo | Kind::PingSocket => {
            // The token tells replies apart; the identifier only has to differ between threads.
            let identifier = sys::checksum(token);
            sys::echo(
                probe.to.ip(),
                identifier,
                token,
                timeout,
                probe.kind == Kind::PingSocket,
            )?;
        }
    }
    Ok("ok")
}

/// Creates a cgroup, enters it and connects at once; again and again. Prints a [`Tally`].
fn births(arguments: &[String]) {
    let base = PathBuf::from(option(arguments, "--base").expect("--base"));
    let prefix = option(arguments, "--prefix").unwrap_or("b");
    let count: usize = option(arguments, "--count")
        .expect("--count")
        .parse()
        .expect("a number");
    let timeout: u64 = option(arguments, "--timeout-ms")
        .unwrap_or("50")
        .parse()
        .expect("a number");
    let targets: Vec<SocketAddr> = option(arguments, "--to")
        .expect("--to")
        .split(',')
        .map(|target| target.parse().expect("an address"))
        .collect();
    let mut tally = Tally::default();
    for number in 0..count {
        let directory = base.join(format!("{prefix}-{number}"));
        fs::create_dir(&directory).unwrap_or_else(|error| panic!("mkdir {}: {error}", directory.display()));
        enter_cgroup(&directory).unwrap_or_else(|error| panic!("enter {}: {error}", directory.display()));
        let outcome = attempt(&Probe {
            kind: Kind::Tcp,
            to: targets[number % targets.len()],
            token: format!("birth-{prefix}-{number};"),
            timeout_ms: timeout,
            from: None,
        });
        tally.attempts += 1;
        if outcome.result == "ok" {
            tally.successes += 1;
        } else {
            *tally.failures.entry(outcome.result).or_default() += 1;
        }
    }
    println!("{}", serde_json::to_string(&tally).expect("a tally is JSON"));
}

/// Outlives a test that crashed, or a machine that segd cut off: kills segd and removes its pins when the
/// test's pipe closes or the time is up. Reads `pid N` lines; `done` ends it.
fn watchdog(arguments: &[String]) {
    let pin_dir = PathBuf::from(option(arguments, "--pin-dir").expect("--pin-dir"));
    let limit: u64 = option(arguments, "--limit-s")
        .unwrap_or("240")
        .parse()
        .expect("a number");
    let pid = Arc::new(AtomicU64::new(0));
    let rescue = {
        let pid = pid.clone();
        move || {
            let pid = pid.load(Ordering::Relaxed);
            if pid != 0 {
                sys::kill(pid as u32, libc::SIGKILL);
            }
            fs::remove_dir_all(&pin_dir).ok();
        }
    };
    let timed = rescue.clone();
    thread::spawn(move || {
        // SLEEP: a watchdog is about time.
        thread::sleep(Duration::from_secs(limit));
        eprintln!("segd-test-worker: the watchdog's time is up; removing segd");
        timed();
    });
    for line in io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        if line == "done" {
            return;
        }
        if let Some(number) = line.strip_prefix("pid ").and_then(|number| number.parse().ok()) {
            pid.store(number, Ordering::Relaxed);
        }
    }
    rescue();
}
