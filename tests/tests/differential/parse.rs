//! A packet read slowly, from the RFCs: the third opinion on what the packet walk finds.
//!
//! INVARIANT: shares nothing with `segd_common::packet`. It cuts the packet into headers first and looks at them later.

/// What a packet is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    pub source: [u8; 16],
    pub destination: [u8; 16],
    pub protocol: u8,
    /// The 24-bit number of what it asks for.
    pub service: u32,
    /// ICMP and ICMPv6.
    pub kind: u8,
    pub tcp_flags: u8,
    pub source_port: u16,
    pub destination_port: u16,
    pub hop_limit: u8,
}

/// Reads a packet. The error is the word of the reason.
pub fn parse(packet: &[u8], v6: bool) -> Result<View, &'static str> {
    if v6 { parse_v6(packet) } else { parse_v4(packet) }
}

/// RFC 791.
fn parse_v4(packet: &[u8]) -> Result<View, &'static str> {
    let (version, words) = (packet[0] / 16, usize::from(packet[0] % 16));
    let length = usize::from(packet[2]) * 256 + usize::from(packet[3]);
    if version != 4 || words < 5 || length < words * 4 || length > packet.len() {
        return Err("malformed");
    }
    let (header, payload) = packet[..length].split_at(words * 4);
    let more = header[6] & 0x20 != 0;
    let offset = usize::from(header[6] & 0x1f) * 256 + usize::from(header[7]);
    let mut source = [0; 16];
    source[10..12].fill(0xff);
    let mut destination = source;
    source[12..].copy_from_slice(&header[12..16]);
    destination[12..].copy_from_slice(&header[16..20]);
    finish(
        source,
        destination,
        header[8],
        header[9],
        payload,
        fragment(more, offset),
    )
}

enum Fragment {
    Whole,
    First,
    Later,
}

fn fragment(more: bool, offset: usize) -> Fragment {
    match (more, offset) {
        (_, 1..) => Fragment::Later,
        (true, 0) => Fragment::First,
        (false, 0) => Fragment::Whole,
    }
}

/// RFC 8200.
fn parse_v6(packet: &[u8]) -> Result<View, &'static str> {
    let length = usize::from(packet[4]) * 256 + usize::from(packet[5]);
    if packet[0] / 16 != 6 || 40 + length > packet.len() {
        return Err("malformed");
    }
    let source: [u8; 16] = packet[8..24].try_into().expect("16 bytes");
    let destination: [u8; 16] = packet[24..40].try_into().expect("16 bytes");
    let mut next = packet[6];
    // What the carrier has beyond the packet's own length is not looked at by the upper layer, but a header
    // chain is only bound by what is there.
    let mut rest = &packet[40..];
    let mut seen = 0;
    let mut kept = Fragment::Whole;
    while [0, 43, 44, 51, 60].contains(&next) {
        if seen == 8 || (next == 0 && seen > 0) {
            return Err("extension-header");
        }
        seen += 1;
        if rest.len() < 4 {
            return Err("malformed");
        }
        let size = match next {
            44 => 8,
            51 => 4 * (usize::from(rest[1]) + 2),
            _ => 8 * (usize::from(rest[1]) + 1),
        };
        if next == 43 && rest[3] > 0 {
            return Err("routing-header");
        }
        if next == 44 {
            let field = usize::from(rest[2]) * 256 + usize::from(rest[3]);
            match (fragment(field % 2 == 1, field / 8), &kept) {
                (Fragment::Later, _) => kept = Fragment::Later,
                (Fragment::First, Fragment::Whole) => kept = Fragment::First,
                _ => {}
            }
        }
        next = rest[0];
        if matches!(kept, Fragment::Later) {
            break;
        }
        rest = rest.get(size..).unwrap_or_default();
    }
    let end = (40 + length).saturating_sub(packet.len() - rest.len());
    let payload = &rest[..rest.len().min(end)];
    finish(source, destination, packet[7], next, payload, kept)
}

fn finish(
    source: [u8; 16],
    destination: [u8; 16],
    hop_limit: u8,
    protocol: u8,
    payload: &[u8],
    fragment: Fragment,
) -> Result<View, &'static str> {
    let mut view = View {
        source,
        destination,
        protocol,
        service: u32::from(protocol) << 16,
        kind: 0,
        tcp_flags: 0,
        source_port: 0,
        destination_port: 0,
        hop_limit,
    };
    if matches!(fragment, Fragment::Later) {
        return Err("fragment");
    }
    let word = |at: usize| u16::from(payload[at]) * 256 + u16::from(payload[at + 1]);
    match protocol {
        6 | 17 | 132 | 136 => {
            let least = if protocol == 6 { 20 } else { 8 };
            if payload.len() < least || (protocol == 6 && payload[12] < 0x50) {
                return Err("malformed");
            }
            (view.source_port, view.destination_port) = (word(0), word(2));
            view.service += u32::from(view.destination_port);
            if protocol == 6 {
                view.tcp_flags = payload[13];
            }
        }
        1 | 58 => {
            if payload.len() < 8 {
                return Err("malformed");
            }
            view.kind = payload[0];
            view.service += u32::from(word(0));
        }
        _ => {}
    }
    match fragment {
        Fragment::Whole => Ok(view),
        _ => Err("fragment"),
    }
}
