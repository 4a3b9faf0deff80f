//! The other machine: a TCP/IP stack in user space behind a TAP device, a port of the bridge like any NIC.
//! No kernel socket of this host belongs to it, so only its address can say who it is.

use std::{
    collections::VecDeque,
    fs::File,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant as Clock},
};

use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    phy::{self, ChecksumCapabilities, Device, DeviceCapabilities, Medium},
    socket::{icmp, tcp, udp},
    time::Instant,
    wire::{
        EthernetAddress, HardwareAddress, Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpAddress,
        IpCidr, IpEndpoint, IpListenEndpoint,
    },
};

use crate::{
    Bridge,
    netns::{v4, v6},
    protocol::Inbox,
    sys, wait,
};

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// What a frame that reached the other machine was about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Who sent it.
    pub source: IpAddr,
    /// The IP protocol.
    pub protocol: u8,
    /// TCP and UDP: the destination port; ICMP: the type.
    pub port: u16,
    /// TCP: the flags.
    pub flags: u8,
    /// TCP: the sequence number.
    pub sequence: u32,
    /// What followed the transport header.
    pub payload: Vec<u8>,
}

/// The other machine.
pub struct Remote {
    inner: Arc<Mutex<Inner>>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
    interface: String,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
}

struct Inner {
    device: Tap,
    stack: Interface,
    sockets: SocketSet<'static>,
    tcp_listeners: Vec<(SocketHandle, u16)>,
    udp_listeners: Vec<SocketHandle>,
    inbox: Inbox,
    next_port: u16,
    // The names of the sockets are their addresses: the device must outlive the stack.
    fd: i32,
}

impl Remote {
    /// Plugs a machine with the addresses number `host` into `bridge`.
    ///
    /// # Panics
    /// When there is no `/dev/net/tun`.
    #[track_caller]
    #[must_use]
    pub fn plug(bridge: &Bridge, host: u8) -> Remote {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let interface = format!("sgt{}t{number}", std::process::id() % 100_000);
        let mut device = Tap::open(&interface);
        let fd = device.file.as_raw_fd();
        bridge.enslave(&interface);
        let mac = EthernetAddress([2, 0x5e, 0x9d, 0, 0, host]);
        let mut stack = Interface::new(
            Config::new(HardwareAddress::Ethernet(mac)),
            &mut device,
            Instant::now(),
        );
        stack.update_ip_addrs(|addresses| {
            addresses
                .push(IpCidr::new(IpAddress::Ipv4(v4(host)), 24))
                .expect("room");
            addresses
                .push(IpCidr::new(IpAddress::Ipv6(v6(host)), 64))
                .expect("room");
        });
        let inner = Arc::new(Mutex::new(Inner {
            device,
            stack,
            sockets: SocketSet::new(Vec::new()),
            tcp_listeners: Vec::new(),
            udp_listeners: Vec::new(),
            inbox: Inbox::default(),
            next_port: 45_000,
            fd,
        }));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (inner, stop) = (inner.clone(), stop.clone());
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    inner.lock().expect("no poison").turn();
                    let mut poll = libc::pollfd {
                        fd,
                        events: libc::POLLIN,
                        revents: 0,
                    };
                    // SAFETY: one valid pollfd; the device lives as long as this thread's `inner`.
                    unsafe { libc::poll(&raw mut poll, 1, 2) };
                }
            })
        };
        Remote {
            inner,
            stop,
            thread: Some(thread),
            interface,
            v4: v4(host),
            v6: v6(host),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no poison")
    }

    /// The TAP device on the host: what a NIC would be.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Its address of the family of `like`.
    #[must_use]
    pub fn address(&self, like: IpAddr) -> IpAddr {
        if like.is_ipv4() {
            self.v4.into()
        } else {
            self.v6.into()
        }
    }

    /// Accepts TCP connections and datagrams on `port` and notes what they carry.
    pub fn listen(&self, port: u16) {
        let mut inner = self.lock();
        for _ in 0..8 {
            let mut socket = tcp_socket();
            socket.listen(IpListenEndpoint::from(port)).expect("a port");
            let handle = inner.sockets.add(socket);
            inner.tcp_listeners.push((handle, port));
        }
        let mut socket = udp_socket();
        socket.bind(port).expect("a port");
        let handle = inner.sockets.add(socket);
        inner.udp_listeners.push(handle);
    }

    /// What arrived in its sockets.
    #[must_use]
    pub fn inbox(&self) -> Inbox {
        self.lock().inbox.clone()
    }

    /// Every IP frame that reached it, whether a socket took it or not.
    #[must_use]
    pub fn frames(&self) -> Vec<Frame> {
        self.lock().device.seen.clone()
    }

    /// How many echo requests reached it: (IPv4, IPv6).
    #[must_use]
    pub fn echo_requests_received(&self) -> (u64, u64) {
        let frames = self.frames();
        let count = |protocol: u8, kind: u16| {
            frames
                .iter()
                .filter(|frame| frame.protocol == protocol && frame.port == kind)
                .count() as u64
        };
        (count(1, 8), count(58, 128))
    }

    /// Connects, sends `token`, waits until the other side's kernel has acknowledged it: `ok`, `timeout`, `reset`.
    #[must_use]
    pub fn tcp(&self, to: SocketAddr, token: &str, timeout: Duration) -> &'static str {
        let (handle, deadline) = {
            let mut guard = self.lock();
            let inner = &mut *guard;
            let local = IpEndpoint::new(source(self, to.ip()), inner.port());
            let mut socket = tcp_socket();
            socket
                .connect(inner.stack.context(), endpoint(to), local)
                .expect("a fresh socket connects");
            (inner.sockets.add(socket), Clock::now() + timeout)
        };
        let mut sent = false;
        let mut result = "timeout";
        while Clock::now() < deadline {
            {
                let mut inner = self.lock();
                inner.turn();
                let socket = inner.sockets.get_mut::<tcp::Socket>(handle);
                match socket.state() {
                    tcp::State::Closed if !sent => {
                        result = "reset";
                        break;
                    }
                    tcp::State::Established | tcp::State::CloseWait if !sent => {
                        socket
                            .send_slice(token.as_bytes())
                            .expect("an established socket takes bytes");
                        sent = true;
                    }
                    _ if sent && socket.send_queue() == 0 => {
                        result = "ok";
                        break;
                    }
                    _ => {}
                }
            }
            wait::within(Duration::from_millis(2), || false);
        }
        let mut inner = self.lock();
        let socket = inner.sockets.get_mut::<tcp::Socket>(handle);
        if result == "ok" {
            socket.close()
        } else {
            socket.abort()
        }
        inner.turn();
        result
    }

    /// Sends one datagram from `from_port` (0: any). Nothing comes back to tell.
    pub fn udp(&self, to: SocketAddr, from_port: u16, token: &str) {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let port = if from_port == 0 { inner.port() } else { from_port };
        let handle = inner
            .udp_listeners
            .iter()
            .copied()
            .find(|&handle| inner.sockets.get::<udp::Socket>(handle).endpoint().port == port);
        let handle = handle.unwrap_or_else(|| {
            let mut socket = udp_socket();
            socket.bind(port).expect("a port");
            let handle = inner.sockets.add(socket);
            inner.udp_listeners.push(handle);
            handle
        });
        let socket = inner.sockets.get_mut::<udp::Socket>(handle);
        socket
            .send_slice(token.as_bytes(), endpoint(to))
            .expect("room for a datagram");
        inner.turn();
    }

    /// Puts a frame on the wire by hand.
    ///
    /// # Panics
    /// When the device does not take it.
    #[track_caller]
    pub fn inject(&self, frame: &[u8]) {
        (&self.lock().device.file)
            .write_all(frame)
            .expect("a TAP takes frames");
    }

    /// Sends an echo request; whether the reply came within `timeout`.
    #[must_use]
    pub fn ping(&self, to: IpAddr, timeout: Duration) -> bool {
        let (handle, ident) = {
            let mut guard = self.lock();
            let inner = &mut *guard;
            let ident = inner.port();
            let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 8], vec![0; 2048]);
            let mut socket = icmp::Socket::new(buffer(), buffer());
            socket.bind(icmp::Endpoint::Ident(ident)).expect("an identifier");
            let data = b"segd-remote-ping";
            let sums = ChecksumCapabilities::default();
            match (to, source(self, to)) {
                (IpAddr::V4(to), _) => {
                    let repr = Icmpv4Repr::EchoRequest {
                        ident,
                        seq_no: 1,
                        data,
                    };
                    let bytes = socket.send(repr.buffer_len(), IpAddress::Ipv4(to)).expect("room");
                    repr.emit(&mut Icmpv4Packet::new_unchecked(bytes), &sums);
                }
                (IpAddr::V6(to), IpAddress::Ipv6(from)) => {
                    let repr = Icmpv6Repr::EchoRequest {
                        ident,
                        seq_no: 1,
                        data,
                    };
                    let bytes = socket.send(repr.buffer_len(), IpAddress::Ipv6(to)).expect("room");
                    repr.emit(&from, &to, &mut Icmpv6Packet::new_unchecked(bytes), &sums);
                }
                _ => unreachable!("the source has the family of the destination"),
            }
            let handle = inner.sockets.add(socket);
            inner.turn();
            (handle, ident)
        };
        let answered = wait::within(timeout, || {
            let mut inner = self.lock();
            inner.turn();
            inner.sockets.get_mut::<icmp::Socket>(handle).can_recv()
        });
        let _ = ident;
        self.lock().sockets.remove(handle);
        answered
    }
}

fn source(remote: &Remote, to: IpAddr) -> IpAddress {
    if to.is_ipv4() {
        IpAddress::Ipv4(remote.v4)
    } else {
        IpAddress::Ipv6(remote.v6)
    }
}

fn endpoint(to: SocketAddr) -> IpEndpoint {
    IpEndpoint::from(to)
}

fn tcp_socket() -> tcp::Socket<'static> {
    tcp::Socket::new(
        tcp::SocketBuffer::new(vec![0; 4096]),
        tcp::SocketBuffer::new(vec![0; 4096]),
    )
}

fn udp_socket() -> udp::Socket<'static> {
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 64], vec![0; 32768]);
    udp::Socket::new(buffer(), buffer())
}

impl Inner {
    fn port(&mut self) -> u16 {
        self.next_port += 1;
        self.next_port
    }

    fn turn(&mut self) {
        self.device.drain(self.fd);
        self.stack
            .poll(Instant::now(), &mut self.device, &mut self.sockets);
        for &(handle, port) in &self.tcp_listeners {
            let socket = self.sockets.get_mut::<tcp::Socket>(handle);
            while socket.can_recv() {
                let from = socket.remote_endpoint();
                let data = socket
                    .recv(|bytes| (bytes.len(), bytes.to_vec()))
                    .unwrap_or_default();
                if let Some(from) = from {
                    note(&mut self.inbox, &data, from);
                }
            }
            match socket.state() {
                tcp::State::CloseWait => socket.close(),
                tcp::State::Closed | tcp::State::TimeWait => {
                    socket.abort();
                    socket.listen(IpListenEndpoint::from(port)).ok();
                }
                _ => {}
            }
        }
        for &handle in &self.udp_listeners {
            let socket = self.sockets.get_mut::<udp::Socket>(handle);
            while let Ok((data, meta)) = socket.recv() {
                let data = data.to_vec();
                note(&mut self.inbox, &data, meta.endpoint);
            }
        }
        self.stack
            .poll(Instant::now(), &mut self.device, &mut self.sockets);
    }
}

fn note(inbox: &mut Inbox, data: &[u8], from: IpEndpoint) {
    let ip: IpAddr = from.addr.into();
    inbox.bytes += data.len() as u64;
    inbox.messages.push(String::from_utf8_lossy(data).into_owned());
    inbox.sources.push(SocketAddr::new(ip, from.port));
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

struct Tap {
    file: File,
    waiting: VecDeque<Vec<u8>>,
    seen: Vec<Frame>,
}

impl Tap {
    #[track_caller]
    fn open(name: &str) -> Tap {
        let file = sys::open_tun(name, libc::IFF_TAP).unwrap_or_else(|error| panic!("TAP {name}: {error}"));
        Tap {
            file,
            waiting: VecDeque::new(),
            seen: Vec::new(),
        }
    }

    fn drain(&mut self, _fd: i32) {
        let mut buffer = [0u8; 4096];
        while let Ok(length) = (&self.file).read(&mut buffer) {
            if length == 0 {
                break;
            }
            if let Some(frame) = dissect(&buffer[..length]) {
                self.seen.push(frame);
            }
            self.waiting.push_back(buffer[..length].to_vec());
        }
    }
}

fn dissect(frame: &[u8]) -> Option<Frame> {
    let packet = frame.get(14..)?;
    let (source, protocol, rest): (IpAddr, u8, &[u8]) = match frame.get(12..14)? {
        [8, 0] => {
            let source: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
            (
                source.into(),
                *packet.get(9)?,
                packet.get(usize::from(packet.first()? & 15) * 4..)?,
            )
        }
        [0x86, 0xdd] => {
            let source: [u8; 16] = packet.get(8..24)?.try_into().ok()?;
            (source.into(), *packet.get(6)?, packet.get(40..)?)
        }
        _ => return None,
    };
    let word = |at: usize| Some(u16::from_be_bytes(rest.get(at..at + 2)?.try_into().ok()?));
    let (port, flags, header) = match protocol {
        6 => (word(2)?, *rest.get(13)?, usize::from(rest.get(12)? >> 4) * 4),
        17 => (word(2)?, 0, 8),
        1 | 58 => (u16::from(*rest.first()?), 0, 8),
        _ => (0, 0, 0),
    };
    let sequence = match protocol {
        6 => u32::from(word(4)?) << 16 | u32::from(word(6)?),
        _ => 0,
    };
    Some(Frame {
        source,
        protocol,
        port,
        flags,
        sequence,
        payload: rest.get(header..).unwrap_or_default().to_vec(),
    })
}

struct Received(Vec<u8>);
struct Sender<'a>(&'a File);

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, consume: F) -> R {
        consume(&self.0)
    }
}

impl phy::TxToken for Sender<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(mut self, length: usize, fill: F) -> R {
        let mut frame = vec![0; length];
        let result = fill(&mut frame);
        self.0.write_all(&frame).ok();
        result
    }
}

impl Device for Tap {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sender<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Received, Sender<'_>)> {
        let frame = self.waiting.pop_front()?;
        Some((Received(frame), Sender(&self.file)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Sender<'_>> {
        Some(Sender(&self.file))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}
