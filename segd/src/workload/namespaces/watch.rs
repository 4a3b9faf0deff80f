//! News of namespaces: links and addresses as the kernel tells them, births and members by looking once a second.

use std::{
    io,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use segd_common::census::Namespace;
use tokio::sync::mpsc::{Sender, error::TrySendError};

use super::{
    Listener,
    look::{Look, Seen},
    netlink::Netlink,
};
use crate::{datapath::census::Census, workload::error::WorkloadError};

/// How often the kernel's list of tasks is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How long the kernel must be silent before a burst of changes counts as over.
const QUIET: Duration = Duration::from_millis(20);
/// How long a burst may keep the news back.
const PATIENCE: Duration = Duration::from_millis(200);

/// Sends a tick whenever namespaces, their addresses or their members changed; one tick may stand for many
/// changes. A thread does it; it ends within a second of the receiver's end.
///
/// What it sees before it returns is not news. A listener that does not hear everywhere makes every look news.
///
/// # Errors
///
/// If the kernel does not tell, or no thread can be made.
pub fn watch(census: Arc<Census>, listener: Listener, ticks: Sender<()>) -> Result<(), WorkloadError> {
    let look = Look::take(&census)?;
    follow(&look, |_| true);
    let watch = Watch {
        census,
        listener,
        seen: look.seen(),
    };
    let failed = |source| WorkloadError::io("watch", "network namespaces", source);
    let thread = thread::Builder::new().name("segd-watch".to_owned());
    thread.spawn(move || watch.run(&ticks)).map_err(failed)?;
    Ok(())
}

struct Watch {
    census: Arc<Census>,
    listener: Listener,
    seen: Seen,
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

    /// Looks again; whether there is anything new.
    fn look(&mut self) -> bool {
        let Ok(look) = Look::take(&self.census) else {
            return false;
        };
        follow(&look, |namespace| !self.seen.namespaces.contains(namespace));
        let seen = look.seen();
        let changed = seen != self.seen;
        self.seen = seen;
        // Which addresses are believed depends on where the host's routes lead. They may change all the time.
        drain(self.listener.routes()) || changed || !self.listener.everywhere
    }

    /// Waits for the kernel to say something; whether it did. What it says does not matter.
    fn wait(&self, timeout: Duration) -> bool {
        let mut poll = libc::pollfd {
            fd: self.listener.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let milliseconds = timeout.as_millis().try_into().unwrap_or(i32::MAX);
        // SAFETY: one entry, ours, which outlives the call.
        let ready = unsafe { libc::poll(&raw mut poll, 1, milliseconds) };
        if ready > 0 {
            drain(poll.fd);
        }
        ready > 0
    }
}

/// Gives namespaces a number: the kernel tells news of numbered ones only.
fn follow(look: &Look, is_new: impl Fn(&Namespace) -> bool) {
    let Ok(netlink) = Netlink::open() else {
        return;
    };
    for namespace in look.namespaces().iter().filter(|namespace| is_new(namespace)) {
        if let Some(by) = look.by(namespace) {
            // One that ends meanwhile has no news.
            let _ = netlink.number(by);
        }
    }
}

/// Reads all that is there; whether there was anything. A message too many (`ENOBUFS`) is news like any other.
fn drain(socket: i32) -> bool {
    let mut buffer = [0_u8; 8192];
    let mut news = false;
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
            news = true;
            continue;
        }
        if read <= 0 {
            return news;
        }
        news = true;
    }
}
