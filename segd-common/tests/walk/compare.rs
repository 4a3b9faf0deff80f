//! Holds the walk against the slow one, on one packet.

use std::net::{IpAddr, Ipv6Addr};

use segd_common::{
    packet::{PACKET_FRAGMENT, PACKET_LATER_FRAGMENT, PACKET_V6, Packet, quoted, walk},
    service::{self, ICMP, ICMPV6, has_ports},
};

use super::slow::{self, Part, Seen};

fn address(bytes: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(bytes).to_canonical()
}

/// Walks the bytes both ways, as IPv4 or IPv6.
///
/// # Panics
/// When the two do not agree.
pub fn agree(bytes: &[u8], v6: bool) {
    let mut packet = Packet::default();
    let fast = walk(&bytes, v6, &mut packet);
    let slow = slow::look(bytes, v6);
    match (&fast, &slow) {
        (Err(fast), Err(slow)) => assert_eq!(fast.label(), *slow, "another reason for {bytes:02x?}"),
        (Ok(()), Ok(seen)) => same(&packet, seen, bytes, v6),
        _ => panic!("the walk says {fast:?}, the slow one {slow:?}, of {bytes:02x?}"),
    }
    if fast.is_ok() && packet.is_icmp_error() {
        let mut inner = Packet::default();
        if quoted(&bytes, &packet, &mut inner).is_ok() {
            assert_eq!(
                inner.source, packet.destination,
                "an error goes to whom it is about"
            );
            assert!(inner.has_upper_layer() && !inner.is_icmp_error());
        }
    }
}

fn same(packet: &Packet, seen: &Seen, bytes: &[u8], v6: bool) {
    let part = match packet.flags & !PACKET_V6 {
        0 => Part::Whole,
        PACKET_FRAGMENT => Part::First,
        flags => {
            assert_eq!(flags, PACKET_FRAGMENT | PACKET_LATER_FRAGMENT);
            Part::Later
        }
    };
    let ports = (packet.source_port, packet.destination_port);
    let has = seen.ports.is_some();
    let walked = Seen {
        source: address(packet.source),
        destination: address(packet.destination),
        hop_limit: packet.hop_limit,
        part,
        protocol: packet.protocol,
        ports: has.then_some(ports),
        icmp: seen.icmp.map(|_| (packet.kind, packet.service as u8)),
        tcp_flags: packet.tcp_flags,
        headers: usize::from(packet.upper),
    };
    assert_eq!(walked, *seen, "of {bytes:02x?}");
    assert_eq!(packet.flags & PACKET_V6 != 0, v6);
    assert!(has || ports == (0, 0), "ports from nowhere: {packet:?}");
    let is_icmp = packet.protocol == ICMP || packet.protocol == ICMPV6;
    let service = match (seen.part, seen.icmp) {
        (Part::Later, _) => service::bare(packet.protocol),
        (_, Some((kind, code))) => service::icmp(packet.protocol, kind, code),
        _ if has_ports(packet.protocol) => service::port(packet.protocol, ports.1),
        _ => service::bare(packet.protocol),
    };
    assert_eq!(packet.service, service, "of {bytes:02x?}");
    assert!(is_icmp || packet.kind == 0);
}
