//! Datagrams that the policy refuses, as fast as one thread can ask.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
};

use serde::{Deserialize, Serialize};

use super::{Home, Ready, Slice, sockets::as_server};

/// What is asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    /// Where nobody may send.
    pub to: SocketAddr,
    /// How many datagrams a slice has.
    pub datagrams: u64,
}

pub struct Refused {
    socket: UdpSocket,
    /// Somebody whom it must not reach.
    server: UdpSocket,
    spec: Spec,
}

impl Refused {
    pub fn new(home: &Home, spec: &Spec) -> io::Result<Refused> {
        let server = as_server(home, || UdpSocket::bind(spec.to))?;
        server.set_nonblocking(true)?;
        Ok(Refused {
            socket: UdpSocket::bind("0.0.0.0:0")?,
            server,
            spec: spec.clone(),
        })
    }
}

impl Ready for Refused {
    fn slice(&mut self) -> io::Result<Slice> {
        let slice = Slice::measure(|| {
            for _ in 0..self.spec.datagrams {
                match self.socket.send_to(&[0; 64], self.spec.to) {
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                    Err(error) => return Err(error),
                    Ok(_) => return Err(io::Error::other("a datagram was not refused")),
                }
            }
            Ok(self.spec.datagrams)
        })?;
        match self.server.recv(&mut [0; 64]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(slice),
            Err(error) => Err(error),
            Ok(_) => Err(io::Error::other("a datagram arrived")),
        }
    }
}
