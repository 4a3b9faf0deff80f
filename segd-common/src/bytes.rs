//! Access to a packet's bytes, wherever they are.

/// Reads from a packet that starts at its IP header. Every read is checked; a failed one is `None`.
pub trait Bytes {
    /// The packet's length in bytes, as the carrier knows it.
    fn len(&self) -> u32;
    /// One byte.
    fn u8(&self, offset: u32) -> Option<u8>;
    /// Two bytes in network order.
    fn u16(&self, offset: u32) -> Option<u16>;
    /// Four bytes.
    fn array4(&self, offset: u32) -> Option<[u8; 4]>;
    /// Sixteen bytes.
    fn array16(&self, offset: u32) -> Option<[u8; 16]>;
    /// Whether there is nothing.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Bytes for &[u8] {
    fn len(&self) -> u32 {
        (**self).len().try_into().unwrap_or(u32::MAX)
    }

    fn u8(&self, offset: u32) -> Option<u8> {
        self.get(offset as usize).copied()
    }

    fn u16(&self, offset: u32) -> Option<u16> {
        let [high, low] = read(self, offset)?;
        Some(u16::from_be_bytes([high, low]))
    }

    fn array4(&self, offset: u32) -> Option<[u8; 4]> {
        read(self, offset)
    }

    fn array16(&self, offset: u32) -> Option<[u8; 16]> {
        read(self, offset)
    }
}

fn read<const N: usize>(bytes: &[u8], offset: u32) -> Option<[u8; N]> {
    let start = offset as usize;
    bytes.get(start..start.checked_add(N)?)?.try_into().ok()
}
