//! The packet walk on forms by name, on random ones beside the slow walk, and on everything the fuzzer has kept.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

#[path = "walk/compare.rs"]
mod compare;
#[path = "walk/slow.rs"]
mod slow;

use std::path::Path;

use proptest::{collection::vec, prelude::*, sample::select};
use segd_common::{
    packet::{MAX_EXTENSION_HEADERS, PACKET_FRAGMENT, Packet, quoted, walk},
    reason::Reason,
    service,
};

const A: [u8; 4] = [10, 0, 0, 1];
const B: [u8; 4] = [10, 0, 0, 2];

/// An IPv4 packet with these options, whose total length is right.
fn v4(options: &[u8], field: u16, protocol: u8, payload: &[u8]) -> Vec<u8> {
    assert_eq!(options.len() % 4, 0);
    let header = 20 + options.len();
    let mut packet = vec![0x40 | (header / 4) as u8, 0];
    packet.extend(((header + payload.len()) as u16).to_be_bytes());
    packet.extend([0, 7]);
    packet.extend(field.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(A);
    packet.extend(B);
    packet.extend(options);
    packet.extend(payload);
    packet
}

/// An IPv6 packet with these extension headers (each without its next header), whose payload length is right.
fn v6(chain: &[(u8, Vec<u8>)], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for (number, (_, rest)) in chain.iter().enumerate() {
        body.push(chain.get(number + 1).map_or(protocol, |(next, _)| *next));
        body.extend(rest);
    }
    body.extend(payload);
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((body.len() as u16).to_be_bytes());
    packet.extend([chain.first().map_or(protocol, |(first, _)| *first), 64]);
    packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    packet.extend(body);
    packet
}

fn udp(port: u16) -> Vec<u8> {
    let mut header = 1000_u16.to_be_bytes().to_vec();
    header.extend(port.to_be_bytes());
    header.extend([0, 12, 0, 0]);
    header.extend(b"data");
    header
}

fn tcp(port: u16) -> Vec<u8> {
    let mut header = 1000_u16.to_be_bytes().to_vec();
    header.extend(port.to_be_bytes());
    header.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
    header
}

fn padding(kind: u8) -> (u8, Vec<u8>) {
    (kind, vec![0, 1, 4, 0, 0, 0, 0])
}

fn fragment(place: u16) -> (u8, Vec<u8>) {
    let [high, low] = place.to_be_bytes();
    (44, vec![0, high, low, 0, 0, 0, 9])
}

#[track_caller]
fn walked(bytes: &[u8]) -> Result<Packet, Reason> {
    let v6 = bytes.first().is_some_and(|first| first >> 4 == 6);
    compare::agree(bytes, v6);
    let mut packet = Packet::default();
    walk(&bytes, v6, &mut packet).map(|()| packet)
}

#[track_caller]
fn refused(bytes: &[u8], reason: Reason) {
    assert_eq!(walked(bytes).map(|_| ()), Err(reason), "{bytes:02x?}");
}

#[test]
fn options_move_the_ports_and_fake_none() {
    // A record route whose slots hold what a reader at offset 20 takes for a UDP header to port 8080.
    let route = [7, 11, 4, 0x1f, 0x90, 0x1f, 0x90, 0, 12, 0, 0, 0];
    for options in [vec![], vec![1; 4], vec![1; 40], route.to_vec()] {
        let packet = walked(&v4(&options, 0, 17, &udp(9000))).unwrap();
        assert_eq!(packet.service, service::port(17, 9000));
        assert_eq!(usize::from(packet.upper), 20 + options.len());
    }
}

#[test]
fn a_source_route_hides_behind_no_other_option() {
    for kind in [131, 137] {
        let route = [kind, 7, 4, 192, 0, 2, 1, 0];
        refused(&v4(&route, 0, 17, &udp(53)), Reason::SourceRoute);
        let mut late = vec![1; 32];
        late.extend(route);
        refused(&v4(&late, 0, 17, &udp(53)), Reason::SourceRoute);
        let mut behind = vec![7, 4, 4, 0];
        behind.extend(route);
        refused(&v4(&behind, 0, 17, &udp(53)), Reason::SourceRoute);
        // Inside another option's data, or behind the end of the list, it is none.
        assert!(walked(&v4(&[7, 8, 4, kind, 7, 4, 0, 0], 0, 17, &udp(53))).is_ok());
        assert!(walked(&v4(&[0, kind, 7, 4], 0, 17, &udp(53))).is_ok());
    }
}

#[test]
fn an_option_that_ends_beyond_the_header_is_malformed() {
    for options in [
        [7, 0, 0, 0],
        [7, 1, 0, 0],
        [7, 5, 0, 0],
        [7, 255, 0, 0],
        [1, 1, 1, 7],
    ] {
        refused(&v4(&options, 0, 17, &udp(53)), Reason::Malformed);
    }
}

#[test]
fn lengths_that_lie_are_told_from_packets_that_end_early() {
    let good = v4(&[], 0, 17, &udp(53));
    for (at, value, reason) in [
        (0, 0x44, Reason::Malformed),
        (0, 0x65, Reason::Malformed),
        (3, 19, Reason::Length),
        (3, 200, Reason::Length),
        (3, 27, Reason::Truncated),
        (25, 13, Reason::Length),
        (25, 7, Reason::Length),
    ] {
        let mut packet = good.clone();
        packet[at] = value;
        let mut walked = Packet::default();
        assert_eq!(
            walk(&&packet[..], false, &mut walked),
            Err(reason),
            "byte {at} = {value}"
        );
        compare::agree(&packet, false);
    }
    for length in 0..20 {
        refused(&good[..length], Reason::Truncated);
    }
    let mut packet = v6(&[], 17, &udp(53));
    packet[5] += 1;
    refused(&packet, Reason::Length);
    packet[5] = 7;
    refused(&packet, Reason::Truncated);
    // UDP options stand behind what the UDP length covers (RFC 9868).
    packet[5] = 12;
    packet[45] = 8;
    assert!(walked(&packet).is_ok());
}

#[test]
fn an_upper_layer_of_less_than_its_header_is_truncated() {
    for (protocol, whole) in [(6, 20), (17, 8), (1, 8), (132, 12), (136, 8)] {
        for length in 0..whole {
            refused(&v4(&[], 0, protocol, &vec![0; length]), Reason::Truncated);
        }
    }
    for length in 0..8 {
        refused(&v6(&[], 58, &vec![0; length]), Reason::Truncated);
    }
    let mut beyond = tcp(22);
    beyond[12] = 0x60;
    refused(&v4(&[], 0, 6, &beyond), Reason::Length);
    beyond[12] = 0x40;
    refused(&v4(&[], 0, 6, &beyond), Reason::Length);
}

#[test]
fn sctp_and_udp_lite_have_ports() {
    let mut sctp = udp(5432);
    sctp[4..].fill(0);
    for protocol in [132, 136] {
        let packet = walked(&v4(&[], 0, protocol, &sctp)).unwrap();
        assert_eq!(packet.service, service::port(protocol, 5432));
    }
}

#[test]
fn protocols_without_ports_are_their_number() {
    // 0 to 255 but those looked into: mobility, HIP and shim6 among them, and IPv6's extension headers in IPv4.
    for protocol in (0..=255_u8).filter(|number| ![1, 6, 17, 58, 132, 136].contains(number)) {
        let packet = walked(&v4(&[], 0, protocol, b"anything")).unwrap();
        assert_eq!(packet.service, service::bare(protocol));
        assert_eq!((packet.source_port, packet.destination_port), (0, 0));
    }
    for protocol in [50, 59, 135, 139, 140] {
        let packet = walked(&v6(&[padding(60)], protocol, &udp(53))).unwrap();
        assert_eq!(packet.service, service::bare(protocol), "not walked over");
    }
}

#[test]
fn a_protocol_of_the_other_family_is_refused() {
    refused(&v4(&[], 0, 58, &[135, 0, 0, 0, 0, 0, 0, 0]), Reason::WrongFamily);
    refused(&v6(&[], 1, &[8, 0, 0, 0, 0, 0, 0, 0]), Reason::WrongFamily);
    refused(&v6(&[], 2, &[0x16, 0, 0, 0, 0, 0, 0, 0]), Reason::WrongFamily);
}

#[test]
fn a_chain_is_walked_up_to_the_documented_depth() {
    for kind in [60, 51, 43] {
        for depth in 0..=12_usize {
            let mut header = padding(kind);
            if kind == 43 {
                // A routing header without segments left.
                header.1[2] = 0;
            }
            if kind == 51 {
                header.1 = vec![2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            }
            let bytes = v6(&vec![header; depth], 6, &tcp(9000));
            if depth <= MAX_EXTENSION_HEADERS as usize {
                assert_eq!(walked(&bytes).unwrap().service, service::port(6, 9000), "{depth}");
            } else {
                refused(&bytes, Reason::ExtensionHeader);
            }
        }
    }
    let all = [padding(0), padding(60), fragment(0), padding(60)];
    assert_eq!(walked(&v6(&all, 17, &udp(9000))).unwrap().destination_port, 9000);
}

#[test]
fn a_chain_out_of_order_or_cut_is_refused() {
    refused(
        &v6(&[padding(60), padding(0)], 17, &udp(1)),
        Reason::ExtensionHeader,
    );
    refused(
        &v6(&[fragment(0), fragment(0)], 17, &udp(1)),
        Reason::ExtensionHeader,
    );
    refused(
        &v6(&[(43, vec![0, 4, 1, 0, 0, 0, 0])], 17, &udp(1)),
        Reason::RoutingHeader,
    );
    refused(
        &v6(&[(60, vec![9, 1, 4, 0, 0, 0, 0])], 17, &udp(1)),
        Reason::Truncated,
    );
    // The header is in the buffer, but beyond what the payload length covers.
    let mut hidden = v6(&[padding(60)], 17, &udp(1));
    hidden[5] = 7;
    refused(&hidden, Reason::Truncated);
}

#[test]
fn a_jumbo_option_on_a_short_packet_hides_nothing() {
    let jumbo = (0, vec![0, 0xc2, 4, 0, 1, 0, 0]);
    let mut packet = v6(std::slice::from_ref(&jumbo), 17, &udp(9000));
    packet[4..6].fill(0);
    refused(&packet, Reason::Truncated);
    let mut big = udp(9000);
    big.resize(70_000, 0);
    let mut packet = v6(&[jumbo], 17, &big);
    packet[4..6].fill(0);
    assert_eq!(walked(&packet).unwrap().destination_port, 9000, "kernel: BIG TCP");
}

#[test]
fn a_v4_mapped_address_and_a_group_as_the_source_do_not_come_by_a_wire() {
    let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1];
    for at in [8, 24] {
        let mut packet = v6(&[], 17, &udp(1));
        packet[at..at + 16].copy_from_slice(&mapped);
        refused(&packet, Reason::MappedAddress);
    }
    for source in [[224, 0, 0, 1], [239, 255, 255, 255], [255; 4]] {
        let mut packet = v4(&[], 0, 17, &udp(1));
        packet[12..16].copy_from_slice(&source);
        refused(&packet, Reason::Spoofed);
    }
    let mut packet = v6(&[], 17, &udp(1));
    packet[8..10].copy_from_slice(&[0xff, 0x02]);
    refused(&packet, Reason::Spoofed);
}

#[test]
fn fragments_are_told_apart_and_a_first_one_carries_every_header() {
    let first = walked(&v4(&[], 0x2000, 17, &udp(9000))).unwrap();
    assert!(first.flags & PACKET_FRAGMENT != 0 && first.has_upper_layer());
    let later = walked(&v4(&[], 0x2001, 17, &udp(9000))).unwrap();
    assert!(!later.has_upper_layer() && later.destination_port == 0);
    refused(&v4(&[], 0x2000, 6, &tcp(22)[..8]), Reason::TinyFragment);
    refused(&v4(&[], 0x2000, 17, &[]), Reason::TinyFragment);
    let first = walked(&v6(&[padding(60), fragment(1)], 17, &udp(9000))).unwrap();
    assert_eq!((first.fragment_at, first.destination_port), (48, 9000));
    refused(&v6(&[fragment(1)], 6, &tcp(22)[..16]), Reason::TinyFragment);
    refused(
        &v6(&[fragment(1), (60, vec![9, 0, 0])], 6, &[]),
        Reason::TinyFragment,
    );
    let later = walked(&v6(&[fragment(8), padding(60)], 17, &udp(9000))).unwrap();
    assert_eq!((later.protocol, later.has_upper_layer()), (60, false));
}

#[test]
fn a_group_hears_membership_from_its_own_link_only() {
    let report = [143, 0, 0, 0, 0, 0, 0, 0];
    let mut packet = v6(&[], 58, &report);
    packet[7] = 1;
    assert!(!walked(&packet).unwrap().is_link_control(), "to one machine");
    packet[24..26].copy_from_slice(&[0xff, 0x02]);
    assert!(walked(&packet).unwrap().is_link_control());
    packet[7] = 2;
    assert!(!walked(&packet).unwrap().is_link_control());
    let mut packet = v4(&[], 0, 2, &[0x16; 8]);
    packet[8] = 1;
    assert!(!walked(&packet).unwrap().is_group_control(), "to one machine");
    packet[16..20].copy_from_slice(&[224, 0, 0, 22]);
    assert!(walked(&packet).unwrap().is_group_control());
}

#[test]
fn an_error_is_about_the_packet_it_quotes() {
    let swapped = |mut packet: Vec<u8>, at: usize, size: usize| {
        let source = packet[at..at + size].to_vec();
        packet.copy_within(at + size..at + 2 * size, at);
        packet[at + size..at + 2 * size].copy_from_slice(&source);
        packet
    };
    let inner = swapped(v4(&[1; 8], 0, 6, &tcp(443)), 12, 4);
    let mut error = vec![3, 4, 0, 0, 0, 0, 5, 0];
    error.extend(&inner[..20 + 8 + 8]);
    let bytes = v4(&[], 0, 1, &error);
    let packet = walked(&bytes).unwrap();
    assert!(packet.is_icmp_error());
    let mut about = Packet::default();
    quoted(&&bytes[..], &packet, &mut about).unwrap();
    assert_eq!((about.service, about.source_port), (service::port(6, 443), 1000));
    assert_eq!(about.source, packet.destination);
    // A byte less, another sender, a later fragment: nothing that its receiver can have sent.
    let mut foreign = bytes.clone();
    foreign[20 + 8 + 12] = 192;
    let mut later = bytes.clone();
    later[20 + 8 + 7] = 1;
    let mut short = error.clone();
    short.pop();
    for bytes in [v4(&[], 0, 1, &short), foreign, later] {
        let packet = walked(&bytes).unwrap();
        assert_eq!(quoted(&&bytes[..], &packet, &mut about), Err(Reason::IcmpError));
    }
    let inner = swapped(v6(&[padding(0), padding(60)], 17, &udp(53)), 8, 16);
    let mut error = vec![2, 0, 0, 0, 0, 0, 5, 0];
    error.extend(&inner);
    let bytes = v6(&[padding(60)], 58, &error);
    let packet = walked(&bytes).unwrap();
    let mut about = Packet::default();
    quoted(&&bytes[..], &packet, &mut about).unwrap();
    assert_eq!(about.service, service::port(17, 53));
}

/// Every packet the fuzzer found a new way through.
#[test]
fn the_kept_corpus_walks_alike() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/walk");
    let mut seen = 0;
    for entry in std::fs::read_dir(&directory).expect("the corpus is kept") {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        if let [family, packet @ ..] = &bytes[..] {
            compare::agree(packet, family & 1 == 1);
            seen += 1;
        }
    }
    assert!(seen >= 100, "the corpus is gone: {seen} packets are left");
}

/// Packets that are nearly right: built as they should be, then a few bytes changed and the end cut or stretched.
fn nearly() -> impl Strategy<Value = (Vec<u8>, bool)> {
    let protocol = select(vec![
        0_u8, 1, 2, 6, 17, 44, 47, 50, 58, 59, 132, 135, 136, 140, 253,
    ]);
    let payload = vec(any::<u8>(), 0..48);
    let kinds = select(vec![0_u8, 43, 44, 51, 60, 60, 135]);
    let header = (
        kinds,
        vec(any::<u8>(), 7),
        prop_oneof![3 => Just(0_u8), 1 => 0_u8..4],
    );
    let chain = vec(
        header.prop_map(|(kind, mut rest, units)| {
            rest[0] = units;
            let size = if kind == 51 {
                (usize::from(units) + 2) * 4
            } else {
                (usize::from(units) + 1) * 8
            };
            rest.resize(if kind == 44 { 7 } else { size - 1 }, 1);
            (kind, rest)
        }),
        0..10,
    );
    let options = vec(select(vec![0_u8, 1, 1, 1, 2, 3, 7, 68, 131, 137, 148]), 0..40);
    let place = select(vec![0_u16, 0, 0, 0x4000, 0x2000, 0x2001, 1, 0x1fff]);
    (any::<bool>(), protocol, payload, chain, options, place)
        .prop_map(|(six, protocol, payload, chain, mut options, place)| {
            options.truncate(options.len() / 4 * 4);
            let bytes = if six {
                v6(&chain, protocol, &payload)
            } else {
                v4(&options, place, protocol, &payload)
            };
            (bytes, six)
        })
        .prop_flat_map(|(bytes, six)| {
            let length = bytes.len();
            let changes = vec((0..length, any::<u8>()), 0..4);
            (
                Just(bytes),
                changes,
                prop_oneof![4 => Just(length), 1 => 0..length + 20],
                Just(six),
            )
        })
        .prop_map(|(mut bytes, changes, length, six)| {
            for (at, value) in changes {
                bytes[at] = value;
            }
            bytes.resize(length, 0);
            (bytes, six)
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn the_walk_and_the_slow_walk_agree((bytes, six) in nearly()) {
        compare::agree(&bytes, six);
    }

    #[test]
    fn whatever_the_bytes_the_walks_agree(bytes in vec(any::<u8>(), 0..128), six in any::<bool>()) {
        compare::agree(&bytes, six);
    }
}
