//! Frames that come by a wire: made by the kernel at the client's end of the cable (`BPF_F_TEST_XDP_LIVE_FRAMES`), looked at by
//! whatever is attached to the server's end.
//!
//! The receiver's half runs in a softirq, which may be handed to a kernel thread, so time is the clock's here.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _},
    net::{Ipv4Addr, UdpSocket},
    os::fd::{AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{Home, Ready, Slice, sockets::as_server};
use crate::{
    assembler,
    bpf::{self, XDP},
    stage::DEVICE,
};

/// How long what was sent may take to arrive, and a daemon to know of a namespace.
const PATIENCE: Duration = Duration::from_secs(3);
/// `XDP_TX`.
const SEND: i32 = 3;

/// What is sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    /// The frame, for a UDP port of the server's.
    pub frame: Vec<u8>,
    /// That port.
    pub port: u16,
    /// How many frames a slice has.
    pub frames: u32,
    /// The program that looks at the server's end, by its id.
    pub program: Option<u32>,
    /// Whether somebody drops them before any socket gets one.
    pub dropped: bool,
}

pub struct Wire {
    generator: OwnedFd,
    _link: Option<OwnedFd>,
    server: UdpSocket,
    /// `/proc/net/dev` of the server's namespace.
    devices: File,
    device: u32,
    spec: Spec,
}

impl Wire {
    pub fn new(home: &Home, spec: &Spec) -> io::Result<Wire> {
        let (server, devices, link) = as_server(home, || {
            let server = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, spec.port))?;
            server.set_nonblocking(true)?;
            coalesce(&server)?;
            let link = match spec.program {
                Some(id) => Some(bpf::attach_xdp(&bpf::program_by_id(id)?, bpf::device(DEVICE)?)?),
                None => None,
            };
            Ok((server, File::open("/proc/thread-self/net/dev")?, link))
        })?;
        let mut wire = Wire {
            generator: assembler::answers(XDP, SEND)?,
            _link: link,
            server,
            devices,
            device: bpf::device(DEVICE)?,
            spec: spec.clone(),
        };
        let start = Instant::now();
        while wire.one_arrives()? == spec.dropped {
            if start.elapsed() > PATIENCE {
                let what = if spec.dropped { "arrived" } else { "was lost" };
                return Err(io::Error::other(format!("a frame {what}")));
            }
        }
        Ok(wire)
    }

    /// Whether a socket gets a frame that is sent.
    fn one_arrives(&mut self) -> io::Result<bool> {
        self.send(1)?;
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(30) {
            if self.server_got_one()? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn server_got_one(&self) -> io::Result<bool> {
        match self.server.recv(&mut [0; 128]) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends, and waits until the other end has had all of it.
    fn send(&mut self, count: u32) -> io::Result<u64> {
        let before = self.received()?;
        bpf::send_frames(&self.generator, &self.spec.frame, self.device, count)?;
        let (start, wanted) = (Instant::now(), before + u64::from(count));
        while self.received()? < wanted {
            if start.elapsed() > PATIENCE {
                return Err(io::Error::other("frames were lost on the cable"));
            }
        }
        Ok(u64::from(count))
    }

    /// How many frames have come by the server's end.
    fn received(&mut self) -> io::Result<u64> {
        let mut text = String::new();
        self.devices.rewind()?;
        self.devices.read_to_string(&mut text)?;
        let line = text
            .lines()
            .find_map(|line| line.trim().strip_prefix(DEVICE)?.strip_prefix(':'));
        let packets = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        packets.ok_or_else(|| io::Error::other("the device does not count"))
    }
}

impl Ready for Wire {
    fn slice(&mut self) -> io::Result<Slice> {
        let frames = self.spec.frames;
        let slice = Slice::measure(|| self.send(frames))?;
        if self.server_got_one()? {
            return Err(io::Error::other("a frame arrived"));
        }
        Ok(Slice {
            cpu_ns: slice.wall_ns,
            ..slice
        })
    }
}

/// Lets the cable's end in this namespace take whole frames without a program: it does where it puts packets together
/// (`ethtool -K eth0 gro on`, include/uapi/linux/ethtool.h).
fn coalesce(socket: &UdpSocket) -> io::Result<()> {
    const SIOCETHTOOL: libc::Ioctl = 0x8946;
    const ETHTOOL_SGRO: u32 = 0x2c;
    let mut value = [ETHTOOL_SGRO, 1];
    // SAFETY: plain integers and a pointer; all zeros are a value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(DEVICE.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
    // SAFETY: a live request, whose data is as long as the command has it.
    if unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
