//! Packets shown to a program by hand (`BPF_PROG_TEST_RUN`): one many times in one call, or many one by one.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use serde::{Deserialize, Serialize};

use super::{Ready, Slice};
use crate::bpf::{self, Show};

/// What is shown to whom.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    /// The program's id.
    pub program: u32,
    /// The packets, each with an Ethernet header.
    pub frames: Vec<Vec<u8>>,
    /// In which order, again and again.
    pub order: Vec<usize>,
    /// How often each in one call.
    pub repeat: u32,
    /// How many calls a slice has.
    pub calls: usize,
    /// The device it comes by, by its name in the namespace; none = loopback.
    pub device: Option<String>,
    /// What the program must answer each time.
    pub expect: u32,
}

pub struct Shown {
    program: OwnedFd,
    spec: Spec,
    device: u32,
    next: usize,
}

impl Shown {
    pub fn new(spec: &Spec) -> io::Result<Shown> {
        let device = match &spec.device {
            Some(name) => bpf::device(name)?,
            None => 0,
        };
        let mut shown = Shown {
            program: bpf::program_by_id(spec.program)?,
            spec: spec.clone(),
            device,
            next: 0,
        };
        // Every frame once, before any time is taken: it must be judged as expected.
        for number in 0..shown.spec.frames.len() {
            shown.call(number, 1)?;
        }
        Ok(shown)
    }

    fn call(&mut self, frame: usize, repeat: u32) -> io::Result<()> {
        let show = Show {
            program: self.program.as_fd(),
            frame: &self.spec.frames[frame],
            device: self.device,
            repeat,
        };
        let answer = show.run()?;
        if answer != self.spec.expect {
            return Err(io::Error::other(format!(
                "the program answered {answer} to packet {frame}"
            )));
        }
        Ok(())
    }
}

impl Ready for Shown {
    fn slice(&mut self) -> io::Result<Slice> {
        let (calls, repeat) = (self.spec.calls, self.spec.repeat);
        Slice::measure(|| {
            for _ in 0..calls {
                let frame = self.spec.order[self.next];
                self.next = (self.next + 1) % self.spec.order.len();
                self.call(frame, repeat)?;
            }
            Ok(calls as u64 * u64::from(repeat))
        })
    }
}
