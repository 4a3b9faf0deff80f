//! Random packets in every form that can reach a hook, and in forms that should not be able to.

use super::{dice::Dice, spec::PORTS};

/// A packet and the family its carrier says it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    pub v6: bool,
    pub bytes: Vec<u8>,
}

const UPPER: [u8; 24] = [
    6, 6, 6, 6, 17, 17, 17, 17, 1, 58, 1, 58, 132, 136, 2, 0, 4, 41, 47, 50, 59, 89, 253, 135,
];
const KINDS: [u8; 26] = [
    0, 0, 1, 2, 3, 4, 5, 8, 8, 9, 10, 11, 12, 13, 17, 128, 128, 129, 130, 131, 132, 133, 134, 135, 137, 143,
];

/// A packet between two addresses, given v4-mapped where they are IPv4. The addresses are never garbled.
pub fn random(dice: &mut Dice, source: [u8; 16], destination: [u8; 16]) -> Made {
    let v6 = !is_v4(&source);
    let protocol = if dice.once_in(12) {
        dice.byte()
    } else {
        *dice.pick(&UPPER)
    };
    let upper = upper_layer(dice, protocol, v6);
    let mut bytes = if v6 {
        v6_packet(dice, source, destination, protocol, &upper)
    } else {
        v4_packet(dice, source, destination, protocol, &upper)
    };
    if dice.once_in(4) {
        garble(dice, v6, &mut bytes);
    }
    Made { v6, bytes }
}

/// Whether an address is v4-mapped.
pub fn is_v4(address: &[u8; 16]) -> bool {
    address[..10] == [0; 10] && address[10..12] == [0xff; 2]
}

fn upper_layer(dice: &mut Dice, protocol: u8, v6: bool) -> Vec<u8> {
    let source_port = 1024 + dice.below(60_000) as u16;
    let source_port = if dice.once_in(10) {
        *dice.pick(&PORTS)
    } else {
        source_port
    };
    let port = if dice.once_in(12) {
        dice.next() as u16
    } else {
        *dice.pick(&PORTS)
    };
    let mut bytes: Vec<u8> = Vec::new();
    match protocol {
        6 => {
            bytes.extend(source_port.to_be_bytes());
            bytes.extend(port.to_be_bytes());
            bytes.extend([0; 8]);
            let words = if dice.once_in(8) { dice.byte() & 15 } else { 5 };
            bytes.push(words << 4);
            bytes.push(if dice.once_in(3) {
                dice.byte()
            } else {
                *dice.pick(&[2, 0x12, 0x10, 4, 0x11])
            });
            bytes.extend([0; 6]);
            bytes.resize(bytes.len() + usize::from(words.saturating_sub(5)) * 4, 1);
        }
        17 | 136 => {
            bytes.extend(source_port.to_be_bytes());
            bytes.extend(port.to_be_bytes());
            bytes.extend([0, 8, 0, 0]);
        }
        132 => {
            bytes.extend(source_port.to_be_bytes());
            bytes.extend(port.to_be_bytes());
            bytes.extend([0; 8]);
        }
        1 | 58 => {
            let kind = if dice.once_in(8) {
                dice.byte()
            } else {
                *dice.pick(&KINDS)
            };
            let code = if dice.once_in(3) { dice.byte() & 7 } else { 0 };
            bytes.extend([kind, code, 0, 0]);
            bytes.extend((dice.next() as u32).to_be_bytes());
            if dice.once_in(2) {
                bytes.resize(bytes.len() + 28 + dice.below(24), if v6 { 0x60 } else { 0x45 });
            }
        }
        _ => bytes.extend(dice.next().to_be_bytes()),
    }
    bytes.resize(bytes.len() + *dice.pick(&[0, 0, 0, 1, 4, 20, 200]), 0xa5);
    if matches!(protocol, 17 | 136) {
        let length = (bytes.len() as u16).to_be_bytes();
        bytes[4..6].copy_from_slice(&length);
    }
    bytes
}

fn v4_packet(
    dice: &mut Dice,
    source: [u8; 16],
    destination: [u8; 16],
    protocol: u8,
    upper: &[u8],
) -> Vec<u8> {
    let options: Vec<u8> = match dice.below(8) {
        0 => vec![1; 4 * (1 + dice.below(10))],
        // Record route, loose source route, router alert.
        1 => {
            let kind = *dice.pick(&[7_u8, 131, 137, 148]);
            let mut option = vec![kind, 11, 4, 10, 1, 2, 3, 192, 0, 2, 9, 0];
            if kind == 148 {
                option = vec![148, 4, 0, 0];
            }
            option
        }
        _ => Vec::new(),
    };
    let length = 20 + options.len() + upper.len();
    let mut bytes = vec![0x40 | ((20 + options.len()) / 4) as u8, 0];
    bytes.extend((length as u16).to_be_bytes());
    bytes.extend((dice.next() as u16).to_be_bytes());
    let fragment: u16 = match dice.below(16) {
        0 => 0x2000,
        1 => 0x2000 | (1 + dice.below(100)) as u16,
        2 => (1 + dice.below(8000)) as u16,
        3..=8 => 0x4000,
        _ => 0,
    };
    bytes.extend(fragment.to_be_bytes());
    bytes.extend([*dice.pick(&[1, 64, 64, 255]), protocol, 0, 0]);
    bytes.extend(&source[12..]);
    bytes.extend(&destination[12..]);
    bytes.extend(options);
    bytes.extend(upper);
    bytes
}

fn v6_packet(
    dice: &mut Dice,
    source: [u8; 16],
    destination: [u8; 16],
    protocol: u8,
    upper: &[u8],
) -> Vec<u8> {
    let mut chain: Vec<u8> = Vec::new();
    if dice.once_in(3) {
        if dice.once_in(3) {
            chain.push(0);
        }
        for _ in 0..*dice.pick(&[0, 1, 1, 1, 2, 3, 7, 8, 9, 12]) {
            chain.push(*dice.pick(&[60, 60, 60, 43, 44, 51, 0, 135]));
        }
    }
    let mut body: Vec<u8> = Vec::new();
    for (at, header) in chain.iter().enumerate() {
        let next = chain.get(at + 1).copied().unwrap_or(protocol);
        match header {
            44 => {
                let field: u16 = match dice.below(5) {
                    0 => 1,
                    1 => (8 * (1 + dice.below(100)) as u16) | 1,
                    2 => 8 * (1 + dice.below(1000)) as u16,
                    _ => 0,
                };
                body.extend([next, 0]);
                body.extend(field.to_be_bytes());
                body.extend((dice.next() as u32).to_be_bytes());
            }
            51 => {
                let words = dice.below(4) as u8 + 1;
                body.extend([next, words]);
                body.resize(body.len() + (usize::from(words) + 2) * 4 - 2, 0);
            }
            43 => {
                let left = u8::from(dice.once_in(2));
                body.extend([next, 0, *dice.pick(&[0, 3, 4]), left, 0, 0, 0, 0]);
            }
            _ => {
                let eights = dice.below(3) as u8;
                body.extend([next, eights, 1, 4 + eights * 8]);
                body.resize(body.len() + 4 + usize::from(eights) * 8, 0);
            }
        }
    }
    body.extend(upper);
    let first = chain.first().copied().unwrap_or(protocol);
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend((body.len() as u16).to_be_bytes());
    bytes.extend([first, *dice.pick(&[1, 64, 64, 255])]);
    bytes.extend(source);
    bytes.extend(destination);
    bytes.extend(body);
    bytes
}

/// Damages a packet outside its addresses.
fn garble(dice: &mut Dice, v6: bool, bytes: &mut Vec<u8>) {
    let header = if v6 { 40 } else { 20 };
    match dice.below(6) {
        0 => bytes.truncate(header + dice.below(bytes.len() - header + 1)),
        1 => bytes.resize(bytes.len() + 1 + dice.below(40), 0),
        2 => {
            let at = if v6 { 4 } else { 2 };
            let length = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            let lie = match dice.below(4) {
                0 => length.wrapping_add(1),
                1 => length.wrapping_sub(1 + dice.below(24) as u16),
                2 => 0,
                _ => dice.next() as u16,
            };
            bytes[at..at + 2].copy_from_slice(&lie.to_be_bytes());
        }
        3 => bytes[0] = dice.byte(),
        _ => {
            for _ in 0..1 + dice.below(4) {
                let at = dice.below(bytes.len());
                let address = if v6 { 8..40 } else { 12..20 };
                if !address.contains(&at) {
                    bytes[at] = dice.byte();
                }
            }
        }
    }
}
