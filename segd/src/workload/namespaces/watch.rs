//! News of namespaces: links and addresses as the kernel tells them, births and members by looking once a second.
//!
//! A listening socket keeps its namespace alive; within a second of its last process and name leaving, it is closed.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::mpsc::{Sender, error::TrySendError};

use super::{census::Census, inside};
use crate::workload::error::WorkloadError;

/// How often `/proc` is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How long the kernel must be silent before a burst of changes counts as over.
const QUIET: Duration = Duration::from_millis(20);
/// How long a burst may keep the news back.
const PATIENCE: Duration = Duration::from_millis(200);

/// Sends a tick whenever namespaces, their addresses or their members changed; one tick may stand for many
/// changes. A thread does it; it ends within a second of the receiver's end.
///
/// # Errors
///
/// If `/proc` cannot be read, or no thread can be made.
pub fn watch(ticks: Sender<()>) -> Result<(), WorkloadError> {
    let mut watch = Watch {
        census: Census::take(None)?,
        sockets: BTreeMap::new(),
    };
    watch.follow();
    let failed = |source| WorkloadError::io("watch", "/proc/*/ns/net", source);
    let thread = thread::Builder::new().name("segd-watch".to_owned());
    thread.spawn(move || watch.run(&ticks)).map_err(failed)?;
    Ok(())
}

struct Watch {
    census: Census,
    sockets: BTreeMap<u64, OwnedFd>,
}

impl Watch {
    fn run(mut self, ticks: &Sender<()>) {
        let mut looked = Instant::now();
        while !ticks.is_closed() {
            let mut changed = self.wait(LOOK.saturating_sub(looked.elapsed()));
            let first = Instant::now();
            while changed && first.elapsed() < PATIENCE && self.wait(QUIET) {}
            // After a change too: a new namespace often comes with a new link in an old one.
            if changed || looked.elapsed() >= LOOK {
                looked = Instant::now();
                changed |= self.look();
            }
            if changed && matches!(ticks.try_send(()), Err(TrySendError::Closed(()))) {
                return;
            }
        }
    }

    /// Takes a new census; whether it is another one.
    fn look(&mut self) -> bool {
        let Ok(census) = Census::take(Some(&self.census)) else {
            return false;
        };
        let changed = census.differs(&self.census);
        self.census = census;
        self.follow();
        changed
    }

    /// Listens in every namespace there is, and in no other.
    fn follow(&mut self) {
        self.sockets
            .retain(|inode, _| self.census.places.contains_key(inode));
        let new = self
            .census
            .places
            .keys()
            .filter(|inode| !self.sockets.contains_key(inode));
        let files: Vec<File> = new.filter_map(|inode| self.census.open(*inode)).collect();
        if !files.is_empty() {
            // What fails now is tried again at the next look.
            self.sockets.extend(inside::listen(files).unwrap_or_default());
        }
    }

    /// Waits for the kernel to say something; whether it did. What it says does not matter.
    fn wait(&self, timeout: Duration) -> bool {
        let poll = |socket: &OwnedFd| libc::pollfd {
            fd: socket.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let mut polls: Vec<libc::pollfd> = self.sockets.values().map(poll).collect();
        let milliseconds = timeout.as_millis().try_into().unwrap_or(i32::MAX);
        // SAFETY: the array is ours, as long as stated, and outlives the call.
        let ready = unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, milliseconds) };
        if ready <= 0 {
            return false;
        }
        for poll in polls.iter().filter(|poll| poll.revents != 0) {
            drain(poll.fd);
        }
        true
    }
}

/// Reads all that is there. A message too many (`ENOBUFS`) is news like any other.
fn drain(socket: i32) {
    let mut buffer = [0_u8; 8192];
    loop {
        // SAFETY: the buffer is ours, as long as stated, and outlives the call.
        let read = unsafe {
            libc::recv(
                socket,
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                libc::MSG_DONTWAIT,
            )
        };
        if read < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ENOBUFS) {
            continue;
        }
        if read <= 0 {
            return;
        }
    }
}
