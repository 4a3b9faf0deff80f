//! Which sessions have lost their right: asked when a policy takes effect, of every TCP socket of the host's network
//! namespace, where the daemon can end them. And which sessions there are, for a policy that is only thought of.
//!
//! INVARIANT: decides nothing of its own. What is told is what the packet hooks would deny at the session's next packet;
//! where only that packet could show who the peer is, nothing is told.

use core::{ffi::c_void, ptr};

use aya_ebpf::helpers::{bpf_sk_storage_get, generated::bpf_seq_write};
use segd_common::{
    address::{Address, mapped},
    flow::{
        DIRECTION_ACTIVE, DIRECTION_PASSIVE, STATE_FOREIGN, STATE_LEARN, STATE_PEER_JUDGES, STATE_PEER_LOCAL,
        STATE_WAS_ALLOWED, SocketState,
    },
    reason::Reason,
    service::{self, Service, TCP},
    session::{Living, Session},
    verdict::Outcome,
    workload::Identity,
};

use crate::{
    globals, identity,
    kernel::{cgroup_of, namespace_of, peek},
    maps::SOCKETS,
    policy::Policy,
    ruling::reason,
    skb::state,
};

/// Tells of one socket of an iterator over TCP sockets.
#[inline(always)]
pub fn tell_of_tcp(ctx: *mut c_void) -> Option<()> {
    let (meta, sk, memory) = of_tcp(ctx)?;
    tell(meta, sk, memory)
}

/// What an iterator over TCP sockets is at: the sequence file, the socket, and what is remembered on it.
#[inline(always)]
fn of_tcp(ctx: *mut c_void) -> Option<(*mut c_void, u64, *mut SocketState)> {
    // The iterator's context: `meta`, `sk_common`, and a user (net/ipv4/tcp_ipv4.c, `bpf_iter__tcp`).
    let fields = ctx.cast::<*mut c_void>();
    // SAFETY: the context of this program type.
    // VERIFIER: the pointers must come from the context itself to be known for what they are.
    let (meta, sk) = unsafe { (fields.read_volatile(), fields.add(1).read_volatile()) };
    if sk.is_null() {
        return None;
    }
    // SAFETY: a live socket of this run. Nothing is made: what was never judged has lost nothing, and neither has a
    // socket that is not whole (TIME_WAIT, a request), of which the kernel says that it has no storage.
    let memory =
        unsafe { bpf_sk_storage_get((&raw const SOCKETS).cast_mut().cast(), sk, ptr::null_mut(), 0) };
    Some((meta, sk as u64, memory.cast()))
}

/// Tells of one socket of an iterator over the storage of sockets.
#[inline(always)]
pub fn tell_of_judged(ctx: *mut c_void) -> Option<()> {
    // The iterator's context: four pointers, `meta`, `map`, `sk`, `value` (net/core/bpf_sk_storage.c,
    // `bpf_iter__bpf_sk_storage_map`).
    let fields = ctx.cast::<*mut c_void>();
    // SAFETY: the context of this program type.
    // VERIFIER: as above.
    let (meta, sk, value) = unsafe {
        (
            fields.read_volatile(),
            fields.add(2).read_volatile(),
            fields.add(3).read_volatile(),
        )
    };
    tell(meta, sk as u64, value.cast())
}

/// Tells of a socket, if its session has lost its right.
#[inline(always)]
fn tell(meta: *mut c_void, sk: u64, memory: *mut SocketState) -> Option<()> {
    if sk == 0 || memory.is_null() {
        return None;
    }
    // SAFETY: the value of this object's map; copied out while others may write, and judged as any of those.
    let memory = unsafe { memory.read_volatile() };
    let policy = Policy::for_good()?;
    if is_in_order(&memory, &policy) {
        return None;
    }
    let mut session = Session::default();
    if !is_open(describe(sk, &mut session)?) {
        return None;
    }
    let (from, to) = sides(&policy, &memory, &session, sk)?;
    let (reason, passes) = reason(&policy, from, to, service(&memory, &session));
    if passes || !is_final(reason) {
        return None;
    }
    session.from = from.segment;
    session.to = to.segment;
    session.reason = reason as u8;
    // What passed before was denied since: the hook that did it has counted.
    session.counted = u8::from(memory.outcome == Outcome::Denied as u8);
    // SAFETY: `meta` holds the sequence file first (include/linux/bpf.h, `bpf_iter_meta`).
    let seq = unsafe { meta.cast::<*mut c_void>().read_volatile() };
    // SAFETY: a live value of the length given. Too little room makes the kernel run this again with more.
    unsafe {
        bpf_seq_write(
            seq.cast(),
            (&raw const session).cast(),
            size_of::<Session>() as u32,
        )
    };
    Some(())
}

/// Tells of one socket of an iterator over TCP sockets, whatever right its session has.
#[inline(always)]
pub fn tell_of_living(ctx: *mut c_void) -> Option<()> {
    let (meta, sk, memory) = of_tcp(ctx)?;
    let policy = Policy::for_good()?;
    let mut living = Living::default();
    if !is_open(describe(sk, &mut living.session)?) {
        return None;
    }
    if !memory.is_null() {
        // SAFETY: as in `tell`.
        let memory = unsafe { memory.read_volatile() };
        know(&policy, &memory, &mut living, sk);
    }
    // SAFETY: as in `tell`.
    let seq = unsafe { meta.cast::<*mut c_void>().read_volatile() };
    // SAFETY: as in `tell`.
    unsafe { bpf_seq_write(seq.cast(), (&raw const living).cast(), size_of::<Living>() as u32) };
    Some(())
}

/// Says who the ends are and what the policy says, if both are certain and it has a right to lose.
#[inline(always)]
fn know(policy: &Policy, memory: &SocketState, living: &mut Living, sk: u64) -> Option<()> {
    living.own_cgroup = cgroup_of(sk)?;
    living.peer_cgroup = memory.peer_cgroup;
    living.direction = memory.direction;
    living.service = service(memory, &living.session);
    if memory.flags & (STATE_PEER_JUDGES | STATE_LEARN) != 0 {
        return None;
    }
    let (from, to) = sides(policy, memory, &living.session, sk)?;
    let (reason, passes) = reason(policy, from, to, living.service);
    living.session.from = from.segment;
    living.session.to = to.segment;
    living.session.reason = reason as u8;
    living.passes = u8::from(passes);
    Some(())
}

/// Whether there is nothing to find out: it never had a right, or has one under this very revision, or only a packet can
/// tell.
#[inline(always)]
fn is_in_order(memory: &SocketState, policy: &Policy) -> bool {
    let denied = memory.outcome == Outcome::Denied as u8;
    memory.flags & STATE_WAS_ALLOWED == 0
        || memory.flags & (STATE_PEER_JUDGES | STATE_LEARN) != 0
        || memory.revision == policy.revision && !denied
}

/// Reasons that the next packet cannot change. An identity that is not known now may be known then.
#[inline(always)]
fn is_final(reason: u32) -> bool {
    reason == Reason::NoRule as u32
        || reason == Reason::Guardrail as u32
        || reason == Reason::Orphaned as u32
        || reason == Reason::Ambiguous as u32
}

#[inline(always)]
fn service(memory: &SocketState, session: &Session) -> Service {
    if memory.direction == DIRECTION_PASSIVE {
        service::port(TCP, session.own_port)
    } else {
        memory.service
    }
}

/// Who connected, and to whom; `None` unless both are certain.
#[inline(always)]
fn sides(policy: &Policy, memory: &SocketState, session: &Session, sk: u64) -> Option<(Identity, Identity)> {
    let mut own = identity::of_cgroup(policy, cgroup_of(sk)?)?;
    if session.namespace != globals::host_namespace() {
        own = identity::claimed_by_address(policy, own, &session.own);
    }
    let peer = if memory.peer_cgroup != 0 {
        let peer = identity::of_cgroup(policy, memory.peer_cgroup)?;
        identity::claimed_by_address(policy, peer, &session.peer)
    } else {
        let foreign = match memory.direction {
            DIRECTION_ACTIVE => memory.flags & STATE_PEER_LOCAL == 0,
            DIRECTION_PASSIVE => memory.flags & STATE_FOREIGN != 0,
            _ => false,
        };
        if !foreign || identity::is_local(&session.peer) {
            return None;
        }
        Identity::of(identity::of_address(policy, &session.peer))
    };
    match memory.direction {
        DIRECTION_ACTIVE if memory.service != 0 => Some((own, peer)),
        DIRECTION_PASSIVE => Some((peer, own)),
        _ => None,
    }
}

/// Reads who a socket is, and whom it is connected to; returns the state it is in.
// VERIFIER: on a frame of its own, for the sake of the stack.
#[inline(never)]
pub fn describe(sk: u64, session: &mut Session) -> Option<u32> {
    const AF_INET: u16 = 2;
    let at = globals::sock_family();
    if at == 0 {
        return None;
    }
    // `struct sock_common`: addresses, a hash, ports, family, state, device.
    let kind = peek(sk + at)?;
    let ports = peek(sk + at - 8)?;
    let now = u32::from((kind >> 16) as u8);
    session.device = (kind >> 32) as u32;
    session.peer_port = u16::from_be((ports >> 32) as u16);
    session.own_port = (ports >> 48) as u16;
    if kind as u16 == AF_INET {
        let addresses = peek(sk + at - 16)?;
        session.peer = mapped((addresses as u32).to_ne_bytes());
        session.own = mapped(((addresses >> 32) as u32).to_ne_bytes());
    } else {
        session.peer = address(sk + globals::sock_v6_peer())?;
        session.own = address(sk + globals::sock_v6_own())?;
    }
    session.namespace = namespace_of(sk)?;
    session.cookie = peek(sk + globals::sock_cookie()).filter(|cookie| *cookie != 0)?;
    session.protocol = TCP;
    Some(now)
}

/// Whether there is a connection to end (`include/net/tcp_states.h`).
#[inline(always)]
pub fn is_open(now: u32) -> bool {
    const TIME_WAIT: u32 = 6;
    const CLOSE: u32 = 7;
    const NEW_SYN_RECV: u32 = 12;
    now != state::LISTEN && now != state::SYN_SENT && now != TIME_WAIT && now != CLOSE && now != NEW_SYN_RECV
}

#[inline(always)]
fn address(at: u64) -> Option<Address> {
    let (high, low) = (peek(at)?.to_ne_bytes(), peek(at + 8)?.to_ne_bytes());
    let mut address = [0; 16];
    let mut byte = 0;
    while byte < 8 {
        address[byte] = high[byte];
        address[byte + 8] = low[byte];
        byte += 1;
    }
    Some(address)
}
