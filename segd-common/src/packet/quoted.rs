//! The packet that an ICMP error is about: its beginning stands in the error.
//!
//! Deliberately absent: its lengths. A router quotes as little as the header and eight bytes (RFC 792).

use super::{PACKET_LATER_FRAGMENT, PACKET_V6, Packet, upper, v4, v6};
use crate::{address::mapped, bytes::Bytes, reason::Reason};

/// An ICMP error's own header.
const ERROR: u32 = 8;

/// Walks the packet quoted in an error that [`super::walk`] has walked.
///
/// # Errors
///
/// [`Reason::IcmpError`]: it quotes nothing that the error's receiver can have sent.
#[inline(always)]
pub fn quoted<B: Bytes>(bytes: &B, error: &Packet, inner: &mut Packet) -> Result<(), Reason> {
    let at = u32::from(error.upper) + ERROR;
    let walked = if error.flags & PACKET_V6 != 0 {
        header6(bytes, at, inner)
    } else {
        header4(bytes, at, inner)
    };
    // What answers is sent to whom it is about, and a datagram's later part has nothing to be told by.
    if walked.is_none()
        || inner.source != error.destination
        || inner.flags & PACKET_LATER_FRAGMENT != 0
        || inner.is_icmp_error()
    {
        return Err(Reason::IcmpError);
    }
    Ok(())
}

#[inline(always)]
fn header4<B: Bytes>(bytes: &B, at: u32, inner: &mut Packet) -> Option<()> {
    let header: [u8; 20] = bytes.read(at)?;
    let length = u32::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || length < v4::SHORTEST {
        return None;
    }
    inner.flags = v4::place(u16::from_be_bytes([header[6], header[7]]));
    inner.protocol = header[9];
    inner.source = mapped([header[12], header[13], header[14], header[15]]);
    inner.destination = mapped([header[16], header[17], header[18], header[19]]);
    upper::fields(inner, &bytes.read(at + length)?);
    Some(())
}

#[inline(always)]
fn header6<B: Bytes>(bytes: &B, at: u32, inner: &mut Packet) -> Option<()> {
    let start: [u8; 8] = bytes.read(at)?;
    if start[0] >> 4 != 6 {
        return None;
    }
    inner.flags = PACKET_V6;
    if !bytes.fill(at + 8, &mut inner.source) || !bytes.fill(at + 24, &mut inner.destination) {
        return None;
    }
    v6::chain(bytes, at + v6::HEADER, u32::from(u16::MAX), start[6], inner).ok()?;
    upper::fields(inner, &bytes.read(u32::from(inner.upper))?);
    Some(())
}
