//! Sessions older than segd: who opened them.
//!
//! A listener on a socket's local port means that it was accepted. One that is closed by now makes it look as if this side
//! had connected (docs/architecture.md).

use segd_common::{
    flow::{DIRECTION_ACTIVE, DIRECTION_PASSIVE, DIRECTION_UNKNOWN},
    packet::Packet,
};

use crate::{
    lookup,
    skb::{Skb, state},
    tcp::remembered,
};

/// Finds out who opened the connection of a socket older than segd: a listener on its local port means it was accepted.
// VERIFIER: before the judgement and not inside it, for the sake of the stack.
#[inline(never)]
pub fn adopt(skb: Skb, packet: &Packet, arrives: bool) {
    let Some(socket) = skb.socket() else {
        return;
    };
    let now = socket.state();
    if now == state::LISTEN || (!arrives && packet.is_syn()) {
        return;
    }
    let Some(memory) = remembered(socket, true) else {
        return;
    };
    if memory.direction != DIRECTION_UNKNOWN {
        return;
    }
    if arrives && now == state::SYN_SENT {
        memory.direction = DIRECTION_ACTIVE;
        return;
    }
    let mut probe = if arrives { *packet } else { packet.mirrored() };
    // No connection has port 0: only a listener can answer.
    probe.source_port = 0;
    memory.direction = if lookup::receiver(skb, &probe) != 0 {
        DIRECTION_PASSIVE
    } else {
        DIRECTION_ACTIVE
    };
}
