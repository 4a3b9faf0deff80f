//! The packet walk once more, slowly: by taking slices apart, from the RFCs, without a line of `segd_common::packet`.
//!
//! The tests and the fuzzer hold the fast walk against it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What part of its datagram a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// The beginning.
    First,
    /// Anything behind that.
    Later,
}

/// What a packet is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub hop_limit: u8,
    pub part: Part,
    pub protocol: u8,
    /// Source and destination, where the protocol has them; the identifier twice for an echo.
    pub ports: Option<(u16, u16)>,
    /// Type and code.
    pub icmp: Option<(u8, u8)>,
    pub tcp_flags: u8,
    /// How many bytes stand before the upper layer.
    pub headers: usize,
}

fn word(bytes: &[u8]) -> u16 {
    u16::from(bytes[0]) * 256 + u16::from(bytes[1])
}

/// Takes a packet apart; an error is the label of a reason.
pub fn look(packet: &[u8], v6: bool) -> Result<Seen, &'static str> {
    if v6 { look6(packet) } else { look4(packet) }
}

fn look4(packet: &[u8]) -> Result<Seen, &'static str> {
    if packet.len() < 20 {
        return Err("truncated");
    }
    let words = usize::from(packet[0] % 16);
    if packet[0] / 16 != 4 || words < 5 {
        return Err("malformed");
    }
    let said = usize::from(word(&packet[2..]));
    let packet = match said {
        0 if packet.len() > 65_535 => packet,
        _ if said < words * 4 || said > packet.len() => return Err("length"),
        _ => &packet[..said],
    };
    let source = Ipv4Addr::new(packet[12], packet[13], packet[14], packet[15]);
    let destination = Ipv4Addr::new(packet[16], packet[17], packet[18], packet[19]);
    if source.is_multicast() || source.is_broadcast() {
        return Err("spoofed");
    }
    let mut options = &packet[20..words * 4];
    while let [kind, rest @ ..] = options {
        options = match *kind {
            0 => break,
            1 => rest,
            131 | 137 => return Err("source-route"),
            _ => match rest.first() {
                None => return Err("malformed"),
                Some(length) if *length < 2 || usize::from(*length) > options.len() => {
                    return Err("malformed");
                }
                Some(length) => &options[usize::from(*length)..],
            },
        };
    }
    let place = word(&packet[6..]);
    let part = match (place & 0x2000 != 0, place & 0x1fff) {
        (false, 0) => Part::Whole,
        (true, 0) => Part::First,
        _ => Part::Later,
    };
    let seen = Seen {
        source: source.into(),
        destination: destination.into(),
        hop_limit: packet[8],
        part,
        protocol: packet[9],
        ports: None,
        icmp: None,
        tcp_flags: 0,
        headers: words * 4,
    };
    if seen.protocol == 58 {
        return Err("wrong-family");
    }
    upper(seen, &packet[words * 4..], packet.len() <= 65_535)
}

fn look6(packet: &[u8]) -> Result<Seen, &'static str> {
    if packet.len() < 8 {
        return Err("truncated");
    }
    if packet[0] / 16 != 6 {
        return Err("malformed");
    }
    let said = usize::from(word(&packet[4..]));
    let big = said == 0 && packet.len() > 65_535;
    if !big && said + 40 > packet.len() {
        return Err("length");
    }
    let packet = if big { packet } else { &packet[..said + 40] };
    let address = |at: usize| {
        let bytes: [u8; 16] = packet[at..at + 16].try_into().expect("16 bytes");
        Ipv6Addr::from(bytes)
    };
    let (source, destination) = (address(8), address(24));
    if source.to_ipv4_mapped().is_some() || destination.to_ipv4_mapped().is_some() {
        return Err("mapped-address");
    }
    if source.is_multicast() {
        return Err("spoofed");
    }
    let mut rest = &packet[40..];
    let mut next = packet[6];
    let mut part = Part::Whole;
    let mut before: Vec<u8> = Vec::new();
    while [0, 43, 44, 51, 60].contains(&next) && part != Part::Later {
        let cut = if part == Part::First {
            "tiny-fragment"
        } else {
            "truncated"
        };
        if before.len() == 8 || (next == 0 && !before.is_empty()) || (next == 44 && before.contains(&44)) {
            return Err("extension-header");
        }
        if rest.len() < 8 {
            return Err(cut);
        }
        let size = match next {
            44 => 8,
            51 => (usize::from(rest[1]) + 2) * 4,
            _ => (usize::from(rest[1]) + 1) * 8,
        };
        if size > rest.len() {
            return Err(cut);
        }
        if next == 44 {
            let place = word(&rest[2..]);
            part = match (place & 1 != 0, place >> 3) {
                (false, 0) => Part::Whole,
                (true, 0) => Part::First,
                _ => Part::Later,
            };
        }
        if next == 43 && rest[3] != 0 {
            return Err("routing-header");
        }
        before.push(next);
        next = rest[0];
        rest = &rest[size..];
    }
    let seen = Seen {
        source: source.into(),
        destination: destination.into(),
        hop_limit: packet[7],
        part,
        protocol: next,
        ports: None,
        icmp: None,
        tcp_flags: 0,
        headers: packet.len() - rest.len(),
    };
    if next == 1 || next == 2 {
        return Err("wrong-family");
    }
    upper(seen, rest, packet.len() <= 65_535)
}

fn upper(seen: Seen, payload: &[u8], lengths_fit: bool) -> Result<Seen, &'static str> {
    let needs = match seen.protocol {
        6 => 20,
        132 => 12,
        1 | 17 | 58 | 136 => 8,
        _ => return Ok(seen),
    };
    let first = match seen.part {
        Part::Later => return Ok(seen),
        Part::First => true,
        Part::Whole => false,
    };
    if payload.len() < needs {
        return Err(if first { "tiny-fragment" } else { "truncated" });
    }
    let ports = Some((word(payload), word(&payload[2..])));
    match seen.protocol {
        6 => {
            let header = usize::from(payload[12] / 16) * 4;
            if header < 20 {
                return Err("length");
            }
            if header > payload.len() {
                return Err(if first { "tiny-fragment" } else { "length" });
            }
            Ok(Seen {
                ports,
                tcp_flags: payload[13],
                ..seen
            })
        }
        17 | 136 => {
            let said = usize::from(word(&payload[4..]));
            let covers_all = seen.protocol == 136 && said == 0;
            if lengths_fit && !covers_all && (said < 8 || (said > payload.len() && !first)) {
                return Err("length");
            }
            Ok(Seen { ports, ..seen })
        }
        132 => Ok(Seen { ports, ..seen }),
        _ => {
            let (kind, code) = (payload[0], payload[1]);
            let echo = matches!((seen.protocol, kind), (1, 0 | 8) | (58, 128 | 129));
            let identifier = word(&payload[4..]);
            let ports = echo.then_some((identifier, identifier));
            Ok(Seen {
                ports,
                icmp: Some((kind, code)),
                ..seen
            })
        }
    }
}
