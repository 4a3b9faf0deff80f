//! A verdict watched: one datagram after another from the client to the server, until what becomes of it changes.
//!
//! Over loopback a datagram is delivered before `sendto` returns, so each one has its verdict at once.

use std::{
    io,
    net::{Ipv4Addr, UdpSocket},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{Home, Ready, Slice, sockets};

/// What is watched.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    /// The server's UDP port on loopback.
    pub port: u16,
    /// How long it may take.
    pub patience_s: u64,
}

pub struct Watch {
    client: UdpSocket,
    server: UdpSocket,
    port: u16,
    patience: Duration,
    last: Option<bool>,
    number: u64,
}

impl Watch {
    pub fn new(home: &Home, spec: &Spec) -> io::Result<Watch> {
        let server = sockets::as_server(home, || UdpSocket::bind((Ipv4Addr::LOCALHOST, spec.port)))?;
        server.set_nonblocking(true)?;
        Ok(Watch {
            client: UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?,
            server,
            port: spec.port,
            patience: Duration::from_secs(spec.patience_s),
            last: None,
            number: 0,
        })
    }

    /// Whether the next datagram arrives.
    fn passes(&mut self) -> io::Result<bool> {
        self.number += 1;
        match self
            .client
            .send_to(&self.number.to_ne_bytes(), (Ipv4Addr::LOCALHOST, self.port))
        {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(false),
            Err(error) => return Err(error),
        }
        let mut data = [0; 8];
        match self.server.recv(&mut data) {
            Ok(8) if data == self.number.to_ne_bytes() => Ok(true),
            Ok(_) => Err(io::Error::other("an old datagram arrived")),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Ready for Watch {
    /// The first slice says what the verdict is (`operations`: 1 = passes); each other one waits until it has changed.
    fn slice(&mut self) -> io::Result<Slice> {
        let start = Instant::now();
        let mut now = self.passes()?;
        while self.last == Some(now) {
            if start.elapsed() > self.patience {
                return Err(io::Error::other("the verdict does not change"));
            }
            // SLEEP: how often the verdict is looked at; the daemon wants the CPU, too.
            std::thread::sleep(Duration::from_micros(20));
            now = self.passes()?;
        }
        self.last = Some(now);
        Slice::measure(|| Ok(u64::from(now)))
    }
}
