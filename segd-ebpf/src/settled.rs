//! The fast path of TCP: what a connection was judged under the revision in force lies on its socket.

use segd_common::{
    counter::CounterKey,
    event::Hook,
    flow::{
        DIRECTION_ACTIVE, DIRECTION_UNKNOWN, STATE_DIALS, STATE_LEARN, STATE_PEER_LOCAL, STATE_PUBLISHED,
        STATE_STAYS,
    },
    verdict::Outcome,
};

use crate::{
    count::count_known,
    policy::Policy,
    publish::is_published,
    skb::{LOOPBACK, Skb, state},
    socket::Socket,
    tcp::remembered,
};

/// The fast path: a connection whose verdict was made under this very revision, and lets it pass. `false` = judge.
#[inline(always)]
pub fn may_go_on(policy: &Policy, skb: Skb, socket: Socket, hook: Hook) -> bool {
    if !socket.is_tcp() {
        return false;
    }
    // A listener sees many peers; a connecting socket may have been connected elsewhere before.
    let now = socket.state();
    if now == state::LISTEN || now == state::SYN_SENT {
        return false;
    }
    let Some(memory) = remembered(socket, false) else {
        return false;
    };
    if memory.revision != policy.revision
        || memory.outcome == Outcome::Denied as u8
        || memory.direction == DIRECTION_UNKNOWN
        || memory.flags & STATE_LEARN != 0
    {
        return false;
    }
    // What stayed in its namespace, and leaves it or comes from outside after all, is another's.
    if memory.flags & STATE_STAYS != 0 && skb.device() != LOOPBACK {
        return false;
    }
    if hook as u8 == Hook::Egress as u8 {
        // A connected socket may be given options that lead by way of somebody else at any time: then the packet is looked at.
        if memory.flags & STATE_PUBLISHED == 0 || !skb.is_plain_tcp() {
            return false;
        }
        // Whoever dials may have been forgotten before the peer has shown that it accepts.
        if memory.flags & STATE_DIALS != 0 && !is_published(skb) {
            return false;
        }
        if memory.flags & STATE_PEER_LOCAL != 0 {
            return true;
        }
    }
    if memory.flags & STATE_DIALS != 0 && hook as u8 == Hook::Ingress as u8 {
        // More than a handshake: the peer has accepted.
        if !skb.is_plain_without_syn() {
            return false;
        }
        memory.flags &= !STATE_DIALS;
    }
    let (own, peer) = (memory.own, memory.peer.segment);
    let active = memory.direction == DIRECTION_ACTIVE;
    let key = CounterKey {
        from: if active { own } else { peer },
        to: if active { peer } else { own },
        outcome: memory.outcome,
        reason: memory.reason,
        reserved: 0,
    };
    count_known(&mut memory.counted, key, skb.bytes());
    true
}

/// Whether a connection's verdict was made under this very revision, and lets it pass out of its namespace.
#[inline(always)]
pub fn is_settled(policy: &Policy, socket: Socket) -> bool {
    if !socket.is_tcp() || socket.state() == state::LISTEN || socket.state() == state::SYN_SENT {
        return false;
    }
    remembered(socket, false).is_some_and(|memory| {
        memory.revision == policy.revision
            && memory.outcome != Outcome::Denied as u8
            && memory.direction != DIRECTION_UNKNOWN
            && memory.flags & STATE_STAYS == 0
    })
}
