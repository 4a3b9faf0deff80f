//! What comes out of a workload's link: whose address it bears, and who accounts for it.
//!
//! INVARIANT: a frame that no socket hook has seen never passes on the tuple that a socket uses.

use aya_ebpf::bindings::__sk_buff;
use segd_common::{
    address::{self, Address, NAMESPACE_MANAGED, NAMESPACE_PLAIN, SOURCE_OWN, Source, mapped},
    bytes::Bytes as _,
    flow::CONTESTED_NS,
    packet::{PACKET_FRAGMENT, PACKET_LATER_FRAGMENT, Packet, icmp},
    reason::Reason,
    segment,
    service::{IGMP, TCP, UDP},
};

use crate::{
    egress::is_dhcp,
    fragments, identity,
    link::{
        Bears, ETH_P_ARP, ETH_P_IP, ETH_P_IPV6, Frame, Sender, Way, identify, is_plain_host, read, refuse,
        sender,
    },
    link_found::{is_hidden, is_its_sockets},
    link_sent::judge_sent,
    link_tunnel::into_tunnel,
    maps::{LINKS, NAMESPACES, SOURCES},
    policy::Policy,
    settled,
    skb::Skb,
};

pub const UNSPECIFIED_V4: Address = mapped([0; 4]);
pub const UNSPECIFIED_V6: Address = [0; 16];
pub const BROADCAST: Address = mapped([255; 4]);
/// No namespace has this cookie.
pub const UNKNOWN_NAMESPACE: u64 = 0;

/// tcx ingress on the host's end of a workload's link: whether a frame may come out.
#[inline(always)]
pub fn may_come_out(skb: Skb) -> bool {
    let Some(policy) = Policy::active() else {
        // The socket hooks deny; here ARP and the like must live.
        return true;
    };
    let by = sender(skb);
    let mut way = Way::new(policy, skb, by);
    // A link that found no room in its table leads to a namespace that nobody has looked at.
    // SAFETY: copied out.
    way.namespace = LINKS
        .get_ptr(skb.device())
        .map_or(UNKNOWN_NAMESPACE, |link| unsafe { (*link).namespace });
    if by == Sender::Inet && is_known_stream(&way) {
        return true;
    }
    let lives = lives(&way.policy, way.namespace);
    way.managed = lives & (NAMESPACE_MANAGED | NAMESPACE_PLAIN) != NAMESPACE_PLAIN;
    way.inhabited = lives & NAMESPACE_MANAGED != 0;
    if by == Sender::Device {
        identify(&mut way);
        if way.inhabited || !is_plain_host(way.from) {
            return refuse(&way, Reason::Unjudged as u32);
        }
        if way.managed {
            // Only an address is claimed: an unclaimed process there is who its frames say they come from.
            way.by = Sender::Nobody;
        }
    }
    match u16::from_be(skb.protocol()) {
        // VERIFIER: what is denied is counted from here, for the sake of the stack.
        ETH_P_IP | ETH_P_IPV6 => match packet_comes_out(&mut way) {
            PASSES => true,
            reason => refuse(&way, reason),
        },
        ETH_P_ARP => arp_comes_out(&way),
        // Neither IP nor what IP needs: between workloads there is no policy that could allow it.
        _ => !way.inhabited || refuse(&way, Reason::Unjudged as u32),
    }
}

/// The early way out: a connection of the namespace's own whose verdict was made under this revision.
// VERIFIER: on a frame of its own, for the sake of the stack.
#[inline(never)]
fn is_known_stream(way: &Way) -> bool {
    let skb = way.skb;
    // The pieces of what is cut are known by the first one. Options may lead it to another machine.
    let plain = if skb.is_v6() {
        Frame { skb }.read::<1>(6) == Some([TCP])
    } else {
        let header = Frame { skb }.read::<10>(0);
        matches!(header, Some([0x45, _, _, _, _, _, place, 0, _, TCP]) if place & 0x3f == 0)
    };
    plain
        && skb
            .socket()
            .is_some_and(|socket| settled::is_settled(&way.policy, socket))
        && is_its_sockets(skb, way.namespace)
}

/// Whether a TCP frame goes where its socket is connected to, and comes from there. Behind the socket's hooks its namespace can
/// still write something else into it (nftables at `netdev` egress, traffic control).
// VERIFIER: global, as `segd_judge`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn segd_bears_own_tuple(skb: *mut __sk_buff) -> u32 {
    let skb = Skb { skb };
    let Some(socket) = skb.inet_socket() else {
        return 0;
    };
    let frame = Frame { skb };
    let (differs, ports) = if skb.is_v6() {
        let Some(header) = frame.read::<40>(0) else {
            return 0;
        };
        let mut differs = u32::from(header[6] ^ TCP);
        let [_, _, _, _, _, _, _, _, addresses @ ..] = &header;
        for (word, found) in socket
            .addresses_v6()
            .into_iter()
            .zip(addresses.as_chunks::<4>().0)
        {
            differs |= word ^ u32::from_ne_bytes(*found);
        }
        (differs, 40)
    } else {
        let Some(h) = frame.read::<20>(0) else {
            return 0;
        };
        let [own, peer] = socket.addresses_v4();
        let differs = u32::from(h[9] ^ TCP)
            | (own ^ u32::from_ne_bytes([h[12], h[13], h[14], h[15]]))
            | (peer ^ u32::from_ne_bytes([h[16], h[17], h[18], h[19]]));
        (differs, u32::from(h[0] & 0xf) * 4)
    };
    let Some([a, b, c, d]) = frame.read::<4>(ports) else {
        return 0;
    };
    let same =
        u16::from_be_bytes([a, b]) == socket.port() && u16::from_be_bytes([c, d]) == socket.peer_port();
    u32::from(same && differs == 0)
}

/// The `NAMESPACE_` flags of a namespace. One that nobody has looked at may hold anybody.
#[inline(always)]
fn lives(policy: &Policy, namespace: u64) -> u16 {
    // SAFETY: an element of the map.
    NAMESPACES
        .get_ptr(namespace)
        .map_or(NAMESPACE_MANAGED, |known| unsafe {
            (*known).flags[(policy.slot & 1) as usize]
        })
}

/// Whose address it is, as far as this link is concerned: `SOURCE_` or 0.
#[inline(always)]
fn source(skb: Skb, address: &Address) -> u32 {
    let key = Source {
        device: skb.device(),
        address: *address,
    };
    SOURCES.get_ptr(key).map_or(0, |kind| {
        // SAFETY: an element of the map.
        unsafe { *kind }
    })
}

/// Whether nobody else is known to have an address: a namespace may have been given it a moment ago.
#[inline(always)]
fn is_nobodys(policy: &Policy, address: &Address) -> bool {
    !address::is_multicast(address)
        && !identity::is_local(address)
        && identity::of_address(policy, address) == segment::WORLD
}

#[inline(never)]
fn arp_comes_out(way: &Way) -> bool {
    // RFC 826, for Ethernet and IPv4: the sender's protocol address.
    let Some(bytes) = (Frame { skb: way.skb }).read::<4>(14) else {
        return refuse(way, Reason::Malformed as u32);
    };
    let address = mapped(bytes);
    address == UNSPECIFIED_V4
        || source(way.skb, &address) != 0
        || is_nobodys(&way.policy, &address)
        || refuse(way, Reason::Spoofed as u32)
}

#[inline(never)]
fn packet_comes_out(way: &mut Way) -> u32 {
    let mut packet = Packet::default();
    let unparsed = read(way.skb, &mut packet);
    if unparsed != 0 {
        return unparsed;
    }
    let whose = source(way.skb, &packet.source);
    // To a receiver an address is somebody's by another table.
    if whose == 0 || !identity::is_local(&packet.source) {
        way.bears = Bears::Nobodys;
    }
    if whose == 0 && !may_have_source(way, &packet) || is_false_neighbour(way, &packet) {
        return Reason::Spoofed as u32;
    }
    let denied = into_tunnel(way, &packet);
    if denied != PASSES {
        return denied;
    }
    // What a namespace behind this one sent, its own sockets' hooks have judged.
    if !way.managed || way.by == Sender::Device || (whose != 0 && whose != SOURCE_OWN) {
        return PASSES;
    }
    let known_whole = way.by == Sender::Inet || !way.inhabited;
    if known_whole && packet.flags & PACKET_LATER_FRAGMENT != 0 {
        // The hooks of its socket saw the whole of it, if this is no tunnel's.
        let frame = Frame { skb: way.skb };
        return fragments::refuses(&frame, &packet, way.skb.device(), CONTESTED_NS)
            .map_or(PASSES, |reason| reason as u32);
    }
    if is_hidden(way, &packet) {
        way.bears = Bears::Hidden;
    }
    let denied = judge_sent(way, &packet);
    if denied == PASSES && known_whole && packet.flags & PACKET_FRAGMENT != 0 {
        fragments::first(&Frame { skb: way.skb }, &packet, way.skb.device());
    }
    denied
}

/// The answer that is no reason.
pub const PASSES: u32 = 0;

/// Sources that are not in the list of the namespace's addresses and right all the same.
#[inline(always)]
fn may_have_source(way: &Way, packet: &Packet) -> bool {
    let from = &packet.source;
    if packet.is_link_control() && (*from == UNSPECIFIED_V6 || address::is_link_local(from)) {
        return true;
    }
    if *from == UNSPECIFIED_V4 {
        return packet.protocol == IGMP
            || packet.protocol == UDP && is_dhcp(packet.source_port, packet.destination_port);
    }
    // Its own socket's hook has judged it, whatever it calls itself, or the listener's whom it answers; but not by another's name.
    let judged = way.by == Sender::Inet || way.by == Sender::Kernel && is_its_sockets(way.skb, way.namespace);
    judged && is_nobodys(&way.policy, from)
}

/// A neighbour advertisement for somebody else's address; a router's message, which no workload is here.
#[inline(always)]
fn is_false_neighbour(way: &Way, packet: &Packet) -> bool {
    if !packet.is_link_control() {
        return false;
    }
    match packet.kind {
        icmp::ROUTER_ADVERTISEMENT | icmp::REDIRECT => true,
        icmp::NEIGHBOUR_ADVERTISEMENT => {
            // RFC 4861 4.4: behind eight bytes. Linux steps over extension headers, too.
            match (Frame { skb: way.skb }).read::<16>(u32::from(packet.upper) + 8) {
                Some(target) => {
                    !address::is_link_local(&target)
                        && source(way.skb, &target) == 0
                        && !is_nobodys(&way.policy, &target)
                }
                None => true,
            }
        }
        _ => false,
    }
}
