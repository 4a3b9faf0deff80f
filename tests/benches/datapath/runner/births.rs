//! A cgroup that is born below the client's, and the first datagrams of a process in it: one that the policy allows, one that
//! it denies.

use std::{
    fs, io,
    net::{Ipv4Addr, UdpSocket},
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{Home, Ready, Slice, enter, sockets};
use crate::policy::{OPEN, SHUT};

/// What is expected.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    /// Whether somebody judges: the second datagram must be denied.
    pub judged: bool,
}

pub struct Births {
    client: PathBuf,
    server: UdpSocket,
    /// Somebody must own the port that is denied: what nobody hears belongs to whoever lives in the namespace.
    _shut: UdpSocket,
    judged: bool,
    number: u64,
}

impl Births {
    pub fn new(home: &Home, spec: &Spec) -> io::Result<Births> {
        let bind = |port| sockets::as_server(home, || UdpSocket::bind((Ipv4Addr::LOCALHOST, port)));
        let server = bind(*OPEN.end())?;
        server.set_read_timeout(Some(Duration::from_secs(1)))?;
        Ok(Births {
            client: home.client.clone(),
            server,
            _shut: bind(SHUT)?,
            judged: spec.judged,
            number: 0,
        })
    }

    /// Sends both.
    fn send(&self) -> io::Result<()> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let data = self.number.to_ne_bytes();
        socket.send_to(&data, (Ipv4Addr::LOCALHOST, *OPEN.end()))?;
        let mut got = [0; 8];
        self.server.recv(&mut got)?;
        if got != data {
            return Err(io::Error::other("another datagram arrived"));
        }
        let denied = socket.send_to(&data, (Ipv4Addr::LOCALHOST, SHUT));
        if self.judged && denied.is_ok() {
            return Err(io::Error::other("a newborn's denied datagram passed"));
        }
        Ok(())
    }
}

impl Ready for Births {
    /// The time is that of the birth and of the datagrams, without the move into the cgroup.
    fn slice(&mut self) -> io::Result<Slice> {
        self.number += 1;
        let cgroup = self.client.join(format!("newborn-{}", self.number));
        let born = Slice::measure(|| fs::create_dir(&cgroup).map(|()| 1))?;
        enter(&cgroup)?;
        let sent = Slice::measure(|| self.send().map(|()| 1));
        enter(&self.client)?;
        fs::remove_dir(&cgroup)?;
        let sent = sent?;
        Ok(Slice {
            operations: 1,
            cpu_ns: born.cpu_ns + sent.cpu_ns,
            wall_ns: born.wall_ns + sent.wall_ns,
            at_ns: sent.at_ns,
        })
    }
}
