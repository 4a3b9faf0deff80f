//! Access to a packet's bytes, wherever they are.

use crate::packet;

/// Reads from a packet that starts at its IP header. Every read is checked; a failed one is `None`.
pub trait Bytes {
    /// The packet's length in bytes, as the carrier knows it.
    fn total(&self) -> u32;
    /// `N` bytes from `offset` on.
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;
    /// As [`Bytes::read`], to where they are kept. `false`: what is there now is no part of the packet.
    #[inline(always)]
    fn fill<const N: usize>(&self, offset: u32, to: &mut [u8; N]) -> bool {
        match self.read(offset) {
            Some(bytes) => {
                *to = bytes;
                true
            }
            None => false,
        }
    }
    /// `N` words from `offset` on, as they lie in memory. A carrier in the kernel reads them whole.
    #[inline(always)]
    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        let mut words = [0; N];
        let mut at = offset;
        for word in &mut words {
            *word = u32::from_ne_bytes(self.read(at)?);
            at = at.checked_add(4)?;
        }
        Some(words)
    }
    /// Follows a chain of IPv6 extension headers from `start` on, as [`packet::follow`] does. A carrier in the kernel does so in
    /// a function that is verified once, not on each way that leads there.
    #[inline(always)]
    fn chain(&self, start: u32, end: u32, first: u8) -> u64
    where
        Self: Sized,
    {
        packet::follow(self, start, end, first)
    }
}

impl Bytes for &[u8] {
    fn total(&self) -> u32 {
        self.len().try_into().unwrap_or(u32::MAX)
    }

    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let start = offset as usize;
        self.get(start..start.checked_add(N)?)?.try_into().ok()
    }
}
