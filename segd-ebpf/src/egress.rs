//! cgroup_skb egress: what a socket of this host sends.

use aya_ebpf::bindings::__sk_buff;
use segd_common::{
    event::Hook,
    flow::{FLOW_LOCAL_ASKED, FLOW_PEER_ASKED, Flow},
    packet::{Packet, icmp, tcp},
    reason::Reason,
    segment,
    service::{ICMP, ICMPV6, IGMP, TCP, UDP, has_ports},
    workload::Identity,
};

use crate::{
    adopt::adopt,
    count::count,
    errors, exchange, globals, identity, kept, kernel,
    policy::Policy,
    publish::publish,
    ruling::{
        DIALS, KEEP, PEER_LOCAL, PUBLISH, REVERSED, Ruling, UNNAMED, judge, pack, settle, tell, unpack,
    },
    settled,
    skb::{Skb, parse},
    tcp as stream,
    toward::{Place, judge_departure, locate},
};

/// Rules on one packet that leaves: whether it passes.
#[inline(always)]
pub fn egress(skb: Skb) -> bool {
    let policy = Policy::active();
    // Before anything is made room for: most packets end here.
    if let Some(policy) = &policy
        && let Some(socket) = skb.socket()
        && settled::may_go_on(policy, skb, socket, Hook::Egress)
    {
        return true;
    }
    let mut ruling = Ruling {
        hook: Hook::Egress as u8,
        ..Ruling::default()
    };
    let mut packet = Packet::default();
    let Some(policy) = policy else {
        return no_policy(&mut ruling, skb);
    };
    ruling.cgroup = skb.cgroup();
    ruling.places = kept::places();
    let unparsed = parse(skb, &mut packet);
    if unparsed == 0 && kept::may_leave(&policy, &ruling, &packet, skb) {
        return true;
    }
    let mut own = identity::of_socket(&policy, skb, ruling.cgroup);
    ruling.from = own;
    ruling.to = Identity::of(segment::WORLD);
    if unparsed != 0 {
        ruling.unparsed(unparsed);
    } else {
        // What the kernel itself sends bears the root cgroup, whoever claims the address it sends from.
        let made_by = own;
        if skb.namespace() != globals::host_namespace() {
            own = identity::claimed_by_address(&policy, own, &packet.source);
            ruling.from = own;
        }
        if !by_list(&policy, &mut ruling, &packet, skb, &made_by) {
            let spoken = segd_voice(skb.skb, policy.slot, pack(made_by), pack(ruling.from));
            own = unpack(spoken);
            ruling.from = own;
            locate(&policy, &mut ruling, &packet, skb);
            ruling.forget_path();
            depart(&policy, &mut ruling, &packet, skb, &own);
            // VERIFIER: no branch, so that the ways do not part here.
            let kernels = (spoken >> UNNAMED_BIT) as u8 & 1;
            ruling.after = ruling.after & !(KEEP * kernels) | UNNAMED * kernels;
        }
        ruling.forget_path();
        if ruling.after & (PUBLISH | DIALS) != 0 && ruling.passes() {
            publish(&mut ruling, &packet, skb, &own, own != made_by);
        }
        kept::keep(&policy, &ruling, &packet, skb);
    }
    settle(&policy, &ruling, &packet);
    tell(skb, &ruling);
    ruling.passes()
}

/// Without a policy nothing passes. It cannot happen while the daemon keeps its promises: the hooks are
/// attached after the first policy is complete.
#[inline(always)]
pub fn no_policy(ruling: &mut Ruling, skb: Skb) -> bool {
    ruling.fixed(Reason::NoPolicy);
    count(ruling, skb.bytes());
    tell(skb, ruling);
    false
}

/// Beside a packed identity: a kernel speaks.
const UNNAMED_BIT: u32 = 33;

/// Who is spoken for, packed: what a kernel sends by itself in a workload's namespace, whose root may make anything of it, it sends for
/// whoever lives there. `from`: who it is with what claims its address.
// VERIFIER: global, see `segd_judge`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segd_voice(skb: *mut __sk_buff, slot: u32, made_by: u64, from: u64) -> u64 {
    const HOST: Identity = Identity::of(segment::HOST);
    let skb = Skb { skb };
    let namespace = skb.namespace();
    let from = pack(unpack(from));
    let hosts = unpack(made_by) == HOST;
    // Some of the kernel's raw sockets bear the cgroup of whoever made the namespace.
    let may_be = hosts || skb.socket().is_some_and(|socket| socket.is_raw());
    // The kernel makes the sockets of a rehearsal, whose senders are who they are said to be.
    let rehearsed = globals::rehearsal() != 0;
    if !may_be || rehearsed || namespace == globals::host_namespace() || !is_kernels(skb) {
        return from;
    }
    let lives = match identity::voice(slot, namespace) {
        // Nobody's container: who has made the socket speaks, if only for a process that has no file of it yet (MPTCP).
        HOST if hosts => return from,
        HOST => identity::UNKNOWN,
        lives => lives,
    };
    1 << UNNAMED_BIT | pack(lives)
}

/// Rules on what needs no look at where it goes: errors that quote nothing, and control traffic. Says whether it did.
// VERIFIER: on a frame of its own, for the sake of the stack.
#[inline(never)]
fn by_list(policy: &Policy, ruling: &mut Ruling, packet: &Packet, skb: Skb, made_by: &Identity) -> bool {
    if packet.is_icmp_error() && !errors::may_leave(skb, packet) {
        ruling.service = packet.service;
        ruling.fixed(Reason::IcmpError);
        return true;
    }
    if !is_control(packet, *made_by, ruling.from != *made_by, skb) {
        return false;
    }
    let service = errors::refused(skb, packet);
    if service == 0 || !errors::keeps_silent(policy, ruling, packet, skb.namespace(), service) {
        ruling.fixed(Reason::Control);
        // A DHCP server on this host wants to know who asks.
        ruling.after = if packet.protocol == UDP { PUBLISH } else { 0 };
    }
    true
}

/// What the kernel itself sends, by an enumerated list, and the host's DHCP client. `claimed`: a segment claims the address, so
/// that a process may only be told by that from the kernel of its namespace.
#[inline(always)]
fn is_control(packet: &Packet, own: Identity, claimed: bool, skb: Skb) -> bool {
    let host = own.segment == segment::HOST && own.flags == 0;
    if host && claimed && !is_kernels(skb) {
        return false;
    }
    let raw = skb.socket().is_none_or(|socket| socket.is_raw());
    match packet.protocol {
        // The kernel's sockets for it bear the cgroup of whoever made the namespace. A workload that says the same by a
        // raw socket speaks for itself, and needs a rule.
        ICMPV6 if packet.is_link_control() => {
            host || (packet.kind != icmp::ROUTER_ADVERTISEMENT
                && packet.kind != icmp::REDIRECT
                && is_kernels(skb))
        }
        ICMP | ICMPV6 => host && raw && (packet.is_icmp_error() || packet.is_echo_reply()),
        IGMP => packet.is_group_control() && (host || is_kernels(skb)),
        // Before 6.13 the answers of TIME_WAIT come from the kernel's control socket, too.
        TCP => {
            let resets = host && packet.tcp_flags & tcp::RST != 0;
            raw && packet.tcp_flags & tcp::SYN == 0
                && stream::carries_nothing(packet, &skb)
                && (resets || is_kernels(skb))
        }
        // Not what a container's rules make of the kernel's own words.
        UDP => host && !raw && is_dhcp(packet.source_port, packet.destination_port),
        _ => false,
    }
}

/// Whether the kernel made the socket for itself: no process has a file of it.
#[inline(always)]
pub fn is_kernels(skb: Skb) -> bool {
    let Some(socket) = skb.socket() else {
        return true;
    };
    kernel::address_of(socket.sk.as_ptr()).is_some_and(kernel::has_no_file)
}

/// RFC 2131, RFC 8415: a client's ports.
#[inline(always)]
pub fn is_dhcp(local: u16, peer: u16) -> bool {
    matches!((local, peer), (68, 67) | (546, 547))
}

#[inline(always)]
fn depart(policy: &Policy, ruling: &mut Ruling, packet: &Packet, skb: Skb, own: &Identity) {
    if packet.protocol == TCP && skb.socket().is_some_and(|socket| socket.is_tcp()) {
        adopt(skb, packet, false);
        ruling.after = stream::departs(policy, ruling, packet, skb, own);
    } else {
        ruling.after = datagram_departs(policy, ruling, packet, skb, own);
    }
}

/// Rules on a datagram, and says what is to be done after.
// VERIFIER: see `handover::fill_key` on why it returns something.
#[inline(never)]
fn datagram_departs(policy: &Policy, ruling: &mut Ruling, packet: &Packet, skb: Skb, own: &Identity) -> u8 {
    judge_departure(policy, ruling, packet, skb, own);
    let Some(socket) = skb.socket() else {
        return PUBLISH;
    };
    let key = exchange::key_of(packet, skb, false);
    let mut flow = Flow::default();
    let found = exchange::find(socket.storage(), &key, &mut flow);
    let known = (found != exchange::NOWHERE).then_some(&flow);
    if !ruling.allowed()
        && let Some(flow) = known
    {
        answer(policy, ruling, packet, flow, own);
    }
    exchange::note(
        policy,
        ruling,
        socket.storage(),
        &key,
        known,
        Some(FLOW_LOCAL_ASKED),
    );
    if found == exchange::ON_SOCKET {
        PUBLISH | KEEP
    } else {
        PUBLISH
    }
}

/// A datagram back to a peer that asked: judged as what was asked.
#[inline(always)]
fn answer(policy: &Policy, ruling: &mut Ruling, packet: &Packet, flow: &Flow, own: &Identity) {
    if flow.asked & FLOW_PEER_ASKED == 0 || !has_ports(packet.protocol) {
        return;
    }
    let first = *ruling;
    let peer = match flow.peer_cgroup {
        // An address on the network is looked up again: its segment may have changed.
        0 if ruling.place == Place::Network as u8 => ruling.there,
        0 => flow.peer,
        cgroup => {
            let peer = identity::of_cgroup(policy, cgroup).unwrap_or(flow.peer);
            identity::claimed_by_address(policy, peer, &packet.destination)
        }
    };
    judge(policy, ruling, peer, *own, packet.reverse_service());
    if ruling.allowed() {
        ruling.reason = Reason::Reply as u8;
        ruling.flags |= REVERSED;
        ruling.flags &= !crate::ruling::COUNT_HERE;
        if flow.peer_cgroup != 0 {
            ruling.flags |= crate::ruling::RECEIVER_JUDGES | PEER_LOCAL;
        }
    } else if !ruling.passes() {
        *ruling = first;
    }
}
