//! Whether a packet bears a source address that its sender's namespace does not have.
//!
//! The kernel itself sees to that, but for sockets that write their own headers or were allowed any address. Deliberately
//! absent: addresses whose scope is a link or a host, which no segment claims; what a transparent proxy's listener answers,
//! which is judged as the connection it accepts.

use segd_common::{
    address::{self, Address, mapped},
    packet::Packet,
    service::TCP,
};

use crate::{globals, identity, kernel, skb::Skb};

/// `raw`: a raw socket sends. `claimed`: who sends is known by this address alone.
#[inline(never)]
pub fn is_forged(packet: &Packet, skb: Skb, raw: bool, claimed: bool) -> bool {
    if packet.protocol == TCP && !packet.is_syn() && !raw || is_anybodys(&packet.source) {
        return false;
    }
    let namespace = skb.namespace();
    // 0: several namespaces have it, and nobody can tell whether this is one of them.
    if identity::local(&packet.source)
        .is_some_and(|local| local.namespace == namespace || local.namespace == 0)
    {
        return false;
    }
    claimed || may_forge(skb, raw)
}

#[inline(always)]
fn is_anybodys(source: &Address) -> bool {
    address::is_loopback(source)
        || address::is_link_local(source)
        || *source == [0; 16]
        || *source == mapped([0; 4])
}

#[inline(always)]
fn may_forge(skb: Skb, raw: bool) -> bool {
    if globals::sock_forges() == 0 {
        return raw;
    }
    skb.socket()
        .and_then(|socket| kernel::address_of(socket.sk.as_ptr()))
        .and_then(|socket| kernel::peek(socket + globals::sock_flags()))
        .is_some_and(|flags| flags & globals::sock_forges() != 0)
}
