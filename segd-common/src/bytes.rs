//! Access to a packet's bytes, wherever they are.

/// Reads from a packet that starts at its IP header. Every read is checked; a failed one is `None`.
pub trait Bytes {
    /// The packet's length in bytes, as the carrier knows it.
    fn total(&self) -> u32;
    /// `N` bytes from `offset` on.
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;
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
