//! connect and sendmsg: an error at once where the answer is known. Enforces nothing that the packet hooks would
//! not enforce too; a doubt passes on to them.

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_addr, bpf_sock_tuple},
    helpers::{bpf_get_socket_cookie, bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release},
};
use core::ffi::c_void;
use segd_common::{
    address::{Address, is_link_local, is_loopback, is_v4, mapped},
    event::Hook,
    flow::{FLOW_LOCAL_ASKED, FLOW_PEER_ASKED, FLOW_PEER_JUDGES, Flow, FlowKey},
    packet::Packet,
    segment,
    service::{self, TCP, UDP},
    workload::Identity,
};

use crate::{
    count::{count, count_rule},
    exchange, globals,
    identity::{self, UNKNOWN},
    kept, kernel, lookup,
    policy::Policy,
    ruling::{NEW_FLOW, Ruling, emit, judge},
    toward::{Place, place},
};

const LOOPBACK_V4: Address = mapped([127, 0, 0, 1]);
const LOOPBACK_V6: Address = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// One run of a connect or sendmsg hook.
#[derive(Clone, Copy)]
pub struct Call {
    /// The context.
    pub ctx: *mut bpf_sock_addr,
    /// Which hook.
    pub hook: Hook,
    /// Whether the address is in the IPv6 fields.
    pub v6: bool,
}

impl Call {
    #[inline(always)]
    fn protocol(self) -> u8 {
        // SAFETY: the hook's own context; volatile: fused loads are refused.
        unsafe { core::ptr::read_volatile(&raw const (*self.ctx).protocol) as u8 }
    }

    #[inline(always)]
    fn port(self) -> u16 {
        // SAFETY: as above. The field holds the port in network order in its first two bytes.
        u16::from_be(unsafe { core::ptr::read_volatile(&raw const (*self.ctx).user_port) } as u16)
    }

    /// The address asked for; what "any" means to the kernel is spelled out.
    // VERIFIER: on a frame of its own, for the sake of the stack.
    #[inline(never)]
    fn address(self, to: &mut Address) {
        *to = self.requested();
    }

    #[inline(always)]
    fn requested(self) -> Address {
        if !self.v6 {
            // SAFETY: as above.
            let v4 = unsafe { core::ptr::read_volatile(&raw const (*self.ctx).user_ip4) };
            return if v4 == 0 {
                LOOPBACK_V4
            } else {
                mapped(v4.to_ne_bytes())
            };
        }
        // SAFETY: as above.
        let (a, b, c, d) = unsafe {
            let words = &raw const (*self.ctx).user_ip6;
            let word = |i| core::ptr::read_volatile(words.cast::<u32>().add(i));
            (word(0), word(1), word(2), word(3))
        };
        if a == 0 && b == 0 && c == 0 && d == 0 {
            return LOOPBACK_V6;
        }
        let (a, b, c, d) = (a.to_ne_bytes(), b.to_ne_bytes(), c.to_ne_bytes(), d.to_ne_bytes());
        let address = [
            a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3],
        ];
        // `::ffff:0.0.0.0`
        if address == mapped([0; 4]) {
            LOOPBACK_V4
        } else {
            address
        }
    }

    /// The calling socket's own cgroup, which may differ from the calling task's.
    #[inline(always)]
    fn cgroup(self) -> Option<u64> {
        // SAFETY: as above.
        let sk = unsafe { (*self.ctx).__bindgen_anon_1.sk };
        if sk.is_null() {
            return None;
        }
        kernel::cgroup_of(kernel::address_of(sk)?)
    }

    /// The calling socket, as the helpers for socket storage take it.
    #[inline(always)]
    fn socket(self) -> Option<*mut c_void> {
        // SAFETY: as above.
        let sk = unsafe { (*self.ctx).__bindgen_anon_1.sk };
        if sk.is_null() { None } else { Some(sk.cast()) }
    }

    /// Whether the packet may go elsewhere than the call says.
    // VERIFIER: on a frame of its own, for the sake of the stack.
    #[inline(never)]
    fn may_be_translated(self, packet: &Packet) -> bool {
        // SAFETY: as above.
        let sk = unsafe { (*self.ctx).__bindgen_anon_1.sk };
        sk.is_null()
            || kernel::address_of(sk)
                .is_none_or(|sk| kernel::translates_output(sk, is_v4(&packet.destination)))
    }

    #[inline(always)]
    fn namespace(self) -> u64 {
        // SAFETY: as above.
        kernel::namespace(self.ctx.cast(), unsafe { (*self.ctx).__bindgen_anon_1.sk })
    }
}

/// Whether the call may go on.
#[inline(always)]
pub fn may_call(call: Call) -> bool {
    let protocol = call.protocol();
    if protocol != TCP && protocol != UDP {
        return true;
    }
    // Without a policy the packet hooks deny.
    let Some(policy) = Policy::active() else {
        return true;
    };
    let mut packet = Packet {
        destination_port: call.port(),
        protocol,
        service: service::port(protocol, call.port()),
        ..Packet::default()
    };
    call.address(&mut packet.destination);
    if call.hook as u8 == Hook::Send as u8
        && protocol == UDP
        && let Some(socket) = call.socket()
        && kept::may_send(&policy, socket, &packet.destination, packet.destination_port)
    {
        return true;
    }
    let Some(cgroup) = call.cgroup() else {
        return true;
    };
    let Some(own) = identity::of_cgroup(&policy, cgroup) else {
        return true;
    };
    let namespace = call.namespace();
    let routed = !is_loopback(&packet.destination) && !is_link_local(&packet.destination);
    let own = if own == Identity::of(segment::HOST) && routed {
        // Which address it will use, and so who claims it, may show only in a packet.
        match identity::of_unclaimed(&policy, namespace) {
            Some(unclaimed) => unclaimed,
            None => return true,
        }
    } else {
        own
    };
    let mut ruling = Ruling {
        cgroup,
        from: own,
        hook: call.hook as u8,
        flags: NEW_FLOW,
        ..Ruling::default()
    };
    if protocol == UDP && answers(call, &packet) {
        return true;
    }
    let known = judge_call(&policy, &mut ruling, &packet, call, namespace);
    if protocol == UDP && ruling.flags & TRANSLATED != 0 {
        await_answer(call, &packet, &policy);
    }
    // A UDP connect sends nothing; programs use it to ask for a route. What they send later is judged.
    let sends = protocol == TCP || call.hook as u8 == Hook::Send as u8;
    if !known || !sends || ruling.passes() {
        return true;
    }
    count(&ruling, 0);
    count_rule(&policy, &ruling);
    emit(&policy, &ruling, &packet);
    false
}

/// In [`Ruling::flags`]: nobody listens where the call asks, so the port may be translated.
const TRANSLATED: u8 = 1 << 7;

/// Notes that this socket asks at an address whose answer will bear it, although the packet goes elsewhere.
/// Who answers is judged where it received the question and where it sends the answer.
#[inline(never)]
fn await_answer(call: Call, packet: &Packet, policy: &Policy) {
    let key = flow_key(call, packet);
    let mut flow = Flow::default();
    let Some(socket) = call.socket() else { return };
    // What is known of an exchange already is better.
    if exchange::find(socket, &key, &mut flow) == exchange::NOWHERE {
        flow = Flow {
            revision: policy.revision,
            service: packet.service,
            asked: FLOW_LOCAL_ASKED | FLOW_PEER_JUDGES,
            ..Flow::default()
        };
        exchange::keep(socket, &key, &flow);
    }
}

#[inline(always)]
fn flow_key(call: Call, packet: &Packet) -> FlowKey {
    FlowKey {
        // SAFETY: the hook's own context.
        socket: unsafe { bpf_get_socket_cookie(call.ctx.cast()) },
        peer: packet.destination,
        peer_port: packet.destination_port,
        protocol: UDP,
        reserved: [0; 5],
    }
}

/// Whether this socket was asked by whom it now sends to: the packet hook judges replies.
#[inline(always)]
fn answers(call: Call, packet: &Packet) -> bool {
    let key = flow_key(call, packet);
    let mut flow = Flow::default();
    call.socket()
        .is_some_and(|socket| exchange::find(socket, &key, &mut flow) != exchange::NOWHERE)
        && flow.asked & FLOW_PEER_ASKED != 0
}

/// Judges where the receiver is known; `false` where it is not.
#[inline(never)]
fn judge_call(policy: &Policy, ruling: &mut Ruling, packet: &Packet, call: Call, namespace: u64) -> bool {
    let own = ruling.from;
    let (place, found) = place(policy, &packet.destination, namespace, false);
    let to = match place {
        Place::Network | Place::Beside => found,
        Place::Shared => return false,
        Place::Here => {
            let cgroup = listener(call, packet);
            // Which of several sockets on a port a datagram reaches depends on where it comes from, which shows only
            // in the packet; and a refused datagram is an error at once there, too.
            if packet.protocol == UDP {
                // Docker's resolver is at 127.0.0.11, and at another port.
                if cgroup == 0 && (!is_loopback(&packet.destination) || call.may_be_translated(packet)) {
                    ruling.flags |= TRANSLATED;
                }
                return false;
            }
            if cgroup == SHARED_PORT {
                return false;
            }
            if cgroup == 0 {
                // No socket there: a translated port, or a closed one. The packet will tell, but on loopback where nobody
                // translates: there the kernel answers.
                if !is_loopback(&packet.destination) || call.may_be_translated(packet) {
                    return false;
                }
                let (owner, _) = identity::owner(policy, namespace, own);
                judge(policy, ruling, own, owner, packet.service);
                return true;
            }
            let to = identity::of_cgroup(policy, cgroup).unwrap_or(UNKNOWN);
            if to.segment == segment::NONE {
                return false;
            }
            ruling.peer_cgroup = cgroup;
            if namespace == globals::host_namespace() {
                to
            } else {
                identity::claimed_by_address(policy, to, &packet.destination)
            }
        }
    };
    judge(policy, ruling, own, to, packet.service);
    true
}

const CURRENT_NAMESPACE: u64 = u64::MAX;
/// Sockets of several cgroups listen on the port: which one a connection reaches depends on where it comes from.
const SHARED_PORT: u64 = u64::MAX;
/// How many sockets on one port are looked at; a larger group counts as shared.
const MAX_GROUP: u16 = 32;

/// The cgroup of the socket that would receive, 0 if there is none, or [`SHARED_PORT`].
#[inline(never)]
fn listener(call: Call, packet: &Packet) -> u64 {
    // SAFETY: plain integers; zero is valid.
    let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    let size = lookup::fill_tuple(&mut tuple, packet);
    let cgroup = if packet.protocol == TCP {
        listener_tcp(call, &mut tuple, size)
    } else {
        listener_udp(call, &mut tuple, size)
    };
    cgroup
}

// VERIFIER: two functions, see lookup.rs.
#[inline(never)]
fn listener_tcp(call: Call, tuple: &mut bpf_sock_tuple, size: u32) -> u64 {
    // SAFETY: the tuple has at least `size` bytes.
    cgroup_of(unsafe { bpf_sk_lookup_tcp(call.ctx.cast(), tuple, size, CURRENT_NAMESPACE, 0) })
}

#[inline(never)]
fn listener_udp(call: Call, tuple: &mut bpf_sock_tuple, size: u32) -> u64 {
    // SAFETY: the tuple has at least `size` bytes.
    cgroup_of(unsafe { bpf_sk_lookup_udp(call.ctx.cast(), tuple, size, CURRENT_NAMESPACE, 0) })
}

/// `bpf_sk_cgroup_id` is not for this kind of program; the socket's own memory says the same.
#[inline(always)]
fn cgroup_of(sk: *mut bpf_sock) -> u64 {
    if sk.is_null() {
        return 0;
    }
    let id = kernel::address_of(sk).and_then(cgroup_of_port).unwrap_or(0);
    // SAFETY: a referenced socket from a lookup helper, released on this only path.
    unsafe { bpf_sk_release(sk.cast()) };
    id
}

/// The cgroup of a listening socket and of all that share its port (`SO_REUSEPORT`).
#[inline(always)]
fn cgroup_of_port(sk: u64) -> Option<u64> {
    let id = kernel::cgroup_of(sk)?;
    let group = kernel::peek(sk + globals::sock_group())?;
    if group == 0 || is_one_workloads(group, id) {
        Some(id)
    } else {
        Some(SHARED_PORT)
    }
}

#[inline(always)]
fn is_one_workloads(group: u64, id: u64) -> bool {
    let Some(len) = kernel::peek(group + globals::group_len()) else {
        return false;
    };
    // The number of sockets is the first of the four small ones that were read. One on its way out may stand in a
    // slot still: then the packet hooks tell.
    let len = len as u16;
    if len > MAX_GROUP {
        return false;
    }
    for at in 0..MAX_GROUP {
        if at >= len {
            break;
        }
        let socket = kernel::peek(group + globals::group_socks() + 8 * u64::from(at));
        if socket.and_then(kernel::cgroup_of) != Some(id) {
            return false;
        }
    }
    true
}
