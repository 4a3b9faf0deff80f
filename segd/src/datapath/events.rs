//! Flow events from the kernel's ring buffer.

use std::io;

use aya::maps::{MapData, RingBuf};
use segd_common::event::FlowEvent;
use tokio::io::unix::AsyncFd;

/// The ring, for an async reader.
pub struct Events {
    ring: AsyncFd<RingBuf<MapData>>,
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
        Ok(Events { ring })
    }

    /// Waits for events and hands over at most `most` of them.
    ///
    /// # Errors
    ///
    /// The descriptor fails.
    pub async fn read(&mut self, most: usize, take: &mut dyn FnMut(&FlowEvent)) -> io::Result<()> {
        let mut ready = self.ring.readable_mut().await?;
        let ring = ready.get_inner_mut();
        for _ in 0..most {
            let Some(item) = ring.next() else {
                ready.clear_ready();
                return Ok(());
            };
            if let Some(event) = decode(&item) {
                take(&event);
            }
        }
        Ok(())
    }
}

/// An event from its bytes; `None` if they are not one.
fn decode(bytes: &[u8]) -> Option<FlowEvent> {
    if bytes.len() != size_of::<FlowEvent>() {
        return None;
    }
    // SAFETY: as many bytes as the type has, any of which are valid; read without regard to alignment.
    Some(unsafe { bytes.as_ptr().cast::<FlowEvent>().read_unaligned() })
}
