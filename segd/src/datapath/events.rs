//! Flow events from the kernel's ring buffer.

use std::{io, time::Duration};

use aya::maps::{MapData, RingBuf};
use segd_common::event::{FlowEvent, MAX_RING_BYTES, WINDOW_NS};
use tokio::{
    io::unix::AsyncFd,
    time::{Interval, MissedTickBehavior, interval},
};

/// How often the ring is looked at: the kernel programs wake nobody for what passed, nor for each denial of a flood.
const PERIOD: Duration = Duration::from_nanos(WINDOW_NS);

/// The ring, for an async reader.
pub struct Events {
    ring: AsyncFd<RingBuf<MapData>>,
    period: Interval,
    /// The last look left some there. No program wakes whoever has not caught up.
    behind: bool,
}

impl Events {
    /// Watches a ring. Needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// The descriptor cannot be watched.
    pub fn new(ring: RingBuf<MapData>) -> io::Result<Events> {
        // SAFETY: the ring owns its descriptor and keeps it open for as long as it lives.
        let ring = unsafe { AsyncFd::register(ring) }?;
        let mut period = interval(PERIOD);
        period.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Events {
            ring,
            period,
            behind: false,
        })
    }

    /// Waits for events and hands over at most `most` of them.
    ///
    /// # Errors
    ///
    /// The descriptor fails.
    pub async fn read(&mut self, most: usize, take: &mut dyn FnMut(&FlowEvent)) -> io::Result<()> {
        if self.behind {
            // Whoever else wants this thread gets it between two looks.
            tokio::task::yield_now().await;
            self.behind = !drain(self.ring.get_mut(), most, take);
            return Ok(());
        }
        tokio::select! {
            ready = self.ring.readable_mut() => {
                let mut ready = ready?;
                if drain(ready.get_inner_mut(), most, take) {
                    ready.clear_ready();
                }
            }
            _ = self.period.tick() => {
                self.behind = !drain(self.ring.get_mut(), most, take);
            }
        }
        Ok(())
    }

    /// Hands over what is there now.
    pub fn catch_up(&mut self, take: &mut dyn FnMut(&FlowEvent)) {
        drain(
            self.ring.get_mut(),
            MAX_RING_BYTES as usize / size_of::<FlowEvent>(),
            take,
        );
    }
}

/// Hands over at most `most` events; says whether the ring was empty then.
fn drain(ring: &mut RingBuf<MapData>, most: usize, take: &mut dyn FnMut(&FlowEvent)) -> bool {
    for _ in 0..most {
        let Some(item) = ring.next() else {
            return true;
        };
        if let Some(event) = decode(&item) {
            take(&event);
        }
    }
    false
}

/// An event from its bytes; `None` if they are not one.
fn decode(bytes: &[u8]) -> Option<FlowEvent> {
    if bytes.len() != size_of::<FlowEvent>() {
        return None;
    }
    // SAFETY: as many bytes as the type has, any of which are valid; read without regard to alignment.
    Some(unsafe { bytes.as_ptr().cast::<FlowEvent>().read_unaligned() })
}
