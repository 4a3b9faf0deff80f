//! Traffic between two sockets of one process, both on one CPU: the server's end is made in the server's cgroup and
//! namespace, the client's in the client's.
//!
//! The ends of a connection are two threads that wait for each other, as two processes would; datagrams go by one thread.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use segd_tests::sys;
use serde::{Deserialize, Serialize};

use super::{Home, Ready, Slice, enter};

/// The kind of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// One byte there, one byte back, on a connection.
    RequestResponse,
    /// A connection for each byte there and back, ended by a reset.
    ConnectRequestResponse,
    /// 64 KiB writes.
    Stream,
    /// Datagrams of 64 bytes on a connected socket, 16 at a time.
    UdpConnected,
    /// The same by `sendto`.
    UdpUnconnected,
}

/// What is sent where.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    /// The kind.
    pub kind: Kind,
    /// The server's address.
    pub server: IpAddr,
    /// The server's port.
    pub port: u16,
    /// How many operations a slice has.
    pub operations: u64,
}

const BLOCK: usize = 64 * 1024;
const BURST: u64 = 16;
const SMALL: usize = 64;
/// A slice takes some milliseconds: what takes this long is lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// Makes a socket in the server's cgroup and namespace, and comes back.
pub(super) fn as_server<T>(home: &Home, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    enter(&home.server)?;
    if let Some(netns) = &home.server_netns {
        sys::enter_netns(netns)?;
    }
    let made = make();
    if let Some(netns) = home.netns.as_ref().filter(|_| home.server_netns.is_some()) {
        sys::enter_netns(netns)?;
    }
    enter(&home.client)?;
    made
}

/// Makes both ends.
pub(super) fn prepare(home: &Home, spec: &Spec) -> io::Result<Box<dyn Ready>> {
    let at = SocketAddr::new(spec.server, spec.port);
    let operations = spec.operations;
    if matches!(spec.kind, Kind::UdpConnected | Kind::UdpUnconnected) {
        let server = as_server(home, || UdpSocket::bind(at))?;
        let client = UdpSocket::bind(any(at))?;
        server.set_read_timeout(Some(PATIENCE))?;
        let to = (spec.kind == Kind::UdpUnconnected).then_some(at);
        if to.is_none() {
            client.connect(at)?;
        }
        return Ok(Box::new(Datagrams {
            client,
            server,
            to,
            operations,
        }));
    }
    let listener = as_server(home, || TcpListener::bind(at))?;
    let kind = spec.kind;
    thread::spawn(move || {
        for stream in listener.incoming() {
            // A client that went away ends its own connection and no more.
            stream.and_then(|stream| answer(kind, stream)).ok();
        }
    });
    if kind == Kind::ConnectRequestResponse {
        return Ok(Box::new(Connects { to: at, operations }));
    }
    let stream = dial(at)?;
    Ok(match kind {
        Kind::Stream => Box::new(Blocks { stream, operations }),
        _ => Box::new(Requests { stream, operations }),
    })
}

fn any(like: SocketAddr) -> SocketAddr {
    let address = if like.is_ipv4() {
        IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)
    } else {
        IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED)
    };
    (address, 0).into()
}

fn dial(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    sys::leave_nothing_behind(&stream)?;
    Ok(stream)
}

/// The server's side of a connection, until it ends.
fn answer(kind: Kind, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    if kind == Kind::Stream {
        let (mut buffer, mut got) = (vec![0; BLOCK], 0);
        loop {
            let count = stream.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            got += count;
            if got >= BLOCK {
                // One byte for each block says that it is here.
                stream.write_all(&vec![1; got / BLOCK])?;
                got %= BLOCK;
            }
        }
    }
    let mut byte = [0];
    while stream.read(&mut byte)? == 1 {
        stream.write_all(&byte)?;
    }
    Ok(())
}

fn ask(stream: &mut TcpStream) -> io::Result<()> {
    let mut byte = [7];
    stream.write_all(&byte)?;
    byte[0] = 0;
    stream.read_exact(&mut byte)?;
    if byte[0] == 7 {
        Ok(())
    } else {
        Err(io::Error::other("another byte came back"))
    }
}

struct Requests {
    stream: TcpStream,
    operations: u64,
}

impl Ready for Requests {
    fn slice(&mut self) -> io::Result<Slice> {
        let (stream, operations) = (&mut self.stream, self.operations);
        Slice::measure(|| {
            for _ in 0..operations {
                ask(stream)?;
            }
            Ok(operations)
        })
    }
}

struct Connects {
    to: SocketAddr,
    operations: u64,
}

impl Ready for Connects {
    fn slice(&mut self) -> io::Result<Slice> {
        Slice::measure(|| {
            for _ in 0..self.operations {
                let stream = TcpStream::connect(self.to)?;
                sys::leave_nothing_behind(&stream)?;
                ask(&mut { stream })?;
            }
            Ok(self.operations)
        })
    }
}

struct Blocks {
    stream: TcpStream,
    operations: u64,
}

impl Ready for Blocks {
    fn slice(&mut self) -> io::Result<Slice> {
        let (stream, operations) = (&mut self.stream, self.operations);
        let block = vec![5; BLOCK];
        Slice::measure(|| {
            for _ in 0..operations {
                stream.write_all(&block)?;
            }
            stream.read_exact(&mut vec![0; operations as usize])?;
            Ok(operations)
        })
    }
}

struct Datagrams {
    client: UdpSocket,
    server: UdpSocket,
    to: Option<SocketAddr>,
    operations: u64,
}

impl Ready for Datagrams {
    fn slice(&mut self) -> io::Result<Slice> {
        let data = [9; SMALL];
        let mut buffer = [0; SMALL];
        Slice::measure(|| {
            for _ in 0..self.operations / BURST {
                for _ in 0..BURST {
                    match self.to {
                        Some(to) => self.client.send_to(&data, to)?,
                        None => self.client.send(&data)?,
                    };
                }
                for _ in 0..BURST {
                    self.server.recv(&mut buffer)?;
                }
            }
            Ok(self.operations / BURST * BURST)
        })
    }
}
