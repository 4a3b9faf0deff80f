//! A frame at a NIC, taken apart: link header, VLAN tags, the packet walk, what an ICMP error quotes.
//!
//! What is found stands in a scratch of this CPU's: XDP runs with softirqs off, so no other frame uses it meanwhile.

use core::ffi::c_void;

use aya_ebpf::{EbpfContext as _, bindings::xdp_md, macros::map, maps::PerCpuArray, programs::XdpContext};
use segd_common::{
    bytes::Bytes,
    packet::{Packet, follow, quoted, walk},
    reason::Reason,
};

const ETHERNET: u32 = 14;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
const VLAN: [u16; 2] = [0x8100, 0x88a8];
/// Below this the type of a frame is its length: LLC follows (IEEE 802.3).
const FIRST_ETHERTYPE: u16 = 0x0600;
/// The longest header chain that is looked at.
const MAX_OFFSET: usize = 2048;

/// Ethernet and two tags have 22 bytes; all bits set.
const LONGEST_LINK_HEADER: u32 = 31;

/// Room for one frame.
#[repr(C)]
pub struct Scratch {
    /// The packet; where it did not parse, its length alone is known.
    pub packet: Packet,
    /// What it quotes, if it is an ICMP error.
    pub inner: Packet,
    /// Whether that is a packet its receiver can have sent.
    pub quotes: bool,
    /// Where it begins in the frame.
    pub offset: u32,
}

#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// [`dissect`]: a packet that parses.
pub const PACKET: u32 = 0;
/// [`dissect`]: no IP packet. Any other answer is the number of a reason.
pub const OTHER: u32 = 256;

/// The bytes of a packet behind its link header.
pub struct Frame {
    ctx: XdpContext,
    offset: u32,
}

impl Frame {
    /// The packet that begins at an offset.
    #[inline(always)]
    pub fn at(ctx: *mut xdp_md, offset: u32) -> Frame {
        Frame {
            ctx: XdpContext::new(ctx),
            // VERIFIER: out of the scratch it has no bound.
            offset: offset & LONGEST_LINK_HEADER,
        }
    }

    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        (self.ctx.data(), self.ctx.data_end())
    }

    /// Where `N` bytes from an offset on are.
    #[inline(always)]
    fn place<const N: usize>(&self, offset: u32) -> Option<*const u8> {
        // VERIFIER: the offset must have a bound before it is added to the packet pointer, on the very register that is
        // added: 6.1 and 7.3 refuse the copy that the compiler compares otherwise.
        let at = core::hint::black_box(self.offset.wrapping_add(offset) as usize);
        if at >= MAX_OFFSET {
            return None;
        }
        let (data, end) = self.bounds();
        let start = data + at;
        if start + N > end {
            None
        } else {
            Some(start as *const u8)
        }
    }

    /// The hook's context, for helpers.
    #[inline(always)]
    pub fn context(&self) -> *mut c_void {
        self.ctx.as_ptr()
    }

    /// The interface it came in by.
    #[inline(always)]
    pub fn device(&self) -> u32 {
        self.ctx.ingress_ifindex() as u32
    }
}

impl Bytes for Frame {
    #[inline(always)]
    fn total(&self) -> u32 {
        let (data, end) = self.bounds();
        ((end - data) as u32).wrapping_sub(self.offset)
    }

    #[inline(always)]
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let start = self.place::<N>(offset)?;
        // SAFETY: checked against the end of the packet.
        Some(unsafe { core::ptr::read_unaligned(start.cast()) })
    }

    #[inline(always)]
    fn fill<const N: usize>(&self, offset: u32, to: &mut [u8; N]) -> bool {
        // VERIFIER: a byte after the other, through no copy on the stack, of which there is little.
        let Some(start) = self.place::<N>(offset) else {
            return false;
        };
        for (number, byte) in to.iter_mut().enumerate() {
            // SAFETY: checked against the end of the packet.
            *byte = unsafe { *start.add(number) };
        }
        true
    }

    #[inline(always)]
    fn chain(&self, start: u32, end: u32, first: u8) -> u64 {
        segd_nic_chain(self.ctx.ctx, self.offset, start, end, u32::from(first))
    }
}

// VERIFIER: see `segd_chain`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segd_nic_chain(ctx: *mut xdp_md, offset: u32, start: u32, end: u32, first: u32) -> u64 {
    follow(&Frame::at(ctx, offset), start, end, first as u8)
}

/// This CPU's scratch.
#[inline(always)]
pub fn scratch() -> Option<&'static mut Scratch> {
    // SAFETY: this CPU's element, see above.
    SCRATCH.get_ptr_mut(0).map(|scratch| unsafe { &mut *scratch })
}

/// Takes a frame apart into the scratch: [`PACKET`], [`OTHER`], or why it did not parse.
#[inline(always)]
pub fn dissect(ctx: &XdpContext) -> u32 {
    let found = segd_dissect(ctx.ctx);
    if let Some(scratch) = scratch()
        && found == PACKET
        && scratch.packet.is_icmp_error()
    {
        // VERIFIER: from here and not where it is needed, for the sake of the stack.
        scratch.quotes = segd_quoted(ctx.ctx) != 0;
    }
    found
}

// VERIFIER: global functions of the context are verified once, see `segd_judge`. What they find goes through a map and
// comes out as unknown numbers, so that the many ways through the walk are one to the rest of the program.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segd_dissect(ctx: *mut xdp_md) -> u32 {
    let Some(scratch) = scratch() else {
        return Reason::NoState as u32;
    };
    let frame = Frame::at(ctx, 0);
    let found = unwrap(&frame);
    scratch.packet = Packet {
        bytes: frame.total(),
        ..Packet::default()
    };
    let (v6, offset) = match found {
        Content::Other => return OTHER,
        Content::Hidden => return Reason::Framing as u32,
        Content::Ip { v6, offset } => (v6, offset),
    };
    scratch.offset = offset;
    let frame = Frame::at(ctx, offset);
    match walk(&frame, v6, &mut scratch.packet) {
        Ok(()) => PACKET,
        // Where it did not parse, its length alone is known.
        Err(reason) => {
            scratch.packet = Packet {
                bytes: frame.total(),
                ..Packet::default()
            };
            reason as u32
        }
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segd_quoted(ctx: *mut xdp_md) -> u32 {
    let Some(scratch) = scratch() else {
        return 0;
    };
    let frame = Frame::at(ctx, scratch.offset);
    let mut inner = Packet::default();
    if quoted(&frame, &scratch.packet, &mut inner).is_err() {
        return 0;
    }
    scratch.inner = inner;
    1
}

/// What a frame carries.
enum Content {
    /// An IP packet.
    Ip { v6: bool, offset: u32 },
    /// Something else: ARP, spanning tree, …
    Other,
    /// An IP packet that some reader finds and this one does not look for.
    Hidden,
}

/// Looks past the link header: Ethernet II with up to two VLAN tags. IP in LLC or SNAP is nothing that Linux would
/// take, but others behind this host may (CVE-2021-27853).
#[inline(always)]
fn unwrap(frame: &Frame) -> Content {
    let mut offset = ETHERNET;
    let Some(kind) = frame.read::<2>(12) else {
        return Content::Other;
    };
    let mut kind = u16::from_be_bytes(kind);
    for _ in 0..2 {
        if is_vlan(kind) {
            let Some(next) = frame.read::<2>(offset + 2) else {
                return Content::Hidden;
            };
            kind = u16::from_be_bytes(next);
            offset += 4;
        }
    }
    if kind == ETH_P_IP || kind == ETH_P_IPV6 {
        let v6 = kind == ETH_P_IPV6;
        return Content::Ip { v6, offset };
    }
    if is_vlan(kind) || (kind < FIRST_ETHERTYPE && is_ip_in_llc(frame, offset)) {
        Content::Hidden
    } else {
        Content::Other
    }
}

#[inline(always)]
fn is_vlan(kind: u16) -> bool {
    kind == VLAN[0] || kind == VLAN[1]
}

/// Whether an LLC frame holds IP, by its own service access point or by SNAP (RFC 1042).
#[inline(always)]
fn is_ip_in_llc(frame: &Frame, offset: u32) -> bool {
    const IP: u8 = 0x06;
    const SNAP: u8 = 0xaa;
    match frame.read::<8>(offset) {
        Some([IP, ..]) => true,
        Some([SNAP, _, _, 0, 0, 0, high, low]) => {
            let kind = u16::from_be_bytes([high, low]);
            kind == ETH_P_IP || kind == ETH_P_IPV6 || is_vlan(kind)
        }
        _ => false,
    }
}
