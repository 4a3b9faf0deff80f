//! A packet's ruling: the decision, what becomes of it, and how it is counted and told.

use aya_ebpf::{bindings::BPF_RB_NO_WAKEUP, helpers::bpf_ktime_get_boot_ns};
use segd_common::{
    counter::stat,
    decide::{decide_by, outcome, rule_at},
    event::{EVENT_REVOKED, EVENTS_PER_WINDOW, FlowEvent, WINDOW_NS},
    packet::Packet,
    reason::Reason,
    segment,
    service::Service,
    tables::{Tables as _, place},
    told::Told,
    verdict::{Outcome, Verdict},
    workload::Identity,
};

use crate::{
    clock,
    count::{count, count_rule, stat},
    globals,
    maps::{EVENT_WINDOW, EVENTS},
    policy::Policy,
    skb::Skb,
};

/// The receiver on this host decides, and counts.
pub const RECEIVER_JUDGES: u8 = 1 << 0;
/// The peer is on this host.
pub const PEER_LOCAL: u8 = 1 << 1;
/// The first packet of a flow.
pub const NEW_FLOW: u8 = 1 << 2;
/// A session that lost its right.
pub const REVOKED: u8 = 1 << 3;
/// Counted here although the peer is local: nobody else will.
pub const COUNT_HERE: u8 = 1 << 4;
/// A copy for a sniffer: judged, but not a packet of its own.
pub const COPY: u8 = 1 << 5;
/// The packet is a reply: its tuple names the initiator second.
pub const REVERSED: u8 = 1 << 6;
/// The receiving kernel may serve the protocol by itself: its namespace's owner is judged, too.
pub const KERNEL_SERVES: u8 = 1 << 7;

/// What was ruled on one packet.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Ruling {
    /// The local side's cgroup.
    pub cgroup: u64,
    /// The peer's cgroup, where known.
    pub peer_cgroup: u64,
    /// The initiator.
    pub from: Identity,
    /// The other side.
    pub to: Identity,
    /// What was initiated.
    pub service: Service,
    /// The rule that decided.
    pub rule: u32,
    /// A `Reason`; 0 until ruled.
    pub reason: u8,
    /// An `Outcome`.
    pub outcome: u8,
    /// The flags above.
    pub flags: u8,
    /// A `Hook`.
    pub hook: u8,
    /// A `Place`: where the destination is.
    pub place: u8,
    /// What is to be done once it is ruled: [`PUBLISH`], [`DIALS`], [`KEEP`], [`UNNAMED`].
    pub after: u8,
    /// Explicit padding, zero.
    pub reserved: u16,
    /// The cgroup of the socket that will receive, where it was found; else 0.
    pub receiver: u64,
    /// Who answers at the destination, if not a socket in the same namespace.
    pub there: Identity,
    /// The state of the tables of addresses, before anything was looked up in them.
    pub places: u32,
}

/// In [`Ruling::after`]: the receiver must learn who sends.
pub const PUBLISH: u8 = 1 << 0;
/// In [`Ruling::after`]: it must learn that as the sender of a handshake.
pub const DIALS: u8 = 1 << 1;
/// In [`Ruling::after`]: the judgement of a datagram may be kept.
pub const KEEP: u8 = 1 << 2;
/// In [`Ruling::after`]: whoever sends has no cgroup that a receiver could be told.
pub const UNNAMED: u8 = 1 << 3;

impl Ruling {
    /// Whether the packet passes: the one place per hook asks this.
    #[inline(always)]
    pub fn passes(&self) -> bool {
        self.outcome != Outcome::Denied as u8
    }

    /// Whether the policy itself allowed it, audit aside.
    #[inline(always)]
    pub fn allowed(&self) -> bool {
        self.outcome == Outcome::Allowed as u8
    }

    /// Rules without a decision of the policy: malformed, control, no policy.
    #[inline(always)]
    pub fn fixed(&mut self, reason: Reason) {
        self.reason = reason as u8;
        self.rule = Verdict::NO_RULE;
        self.outcome = if reason.allows() {
            Outcome::Allowed as u8
        } else {
            Outcome::Denied as u8
        };
    }

    /// Denies what did not parse, for a reason given as a number.
    #[inline(always)]
    pub fn unparsed(&mut self, reason: u32) {
        self.reason = reason as u8;
        self.rule = Verdict::NO_RULE;
        self.outcome = Outcome::Denied as u8;
    }

    /// Changes nothing; but the verifier no longer knows what led here.
    // VERIFIER: see `globals::zero`.
    #[inline(always)]
    pub fn forget_path(&mut self) {
        let zero = globals::zero();
        self.peer_cgroup ^= zero;
        self.receiver ^= zero;
        self.service ^= zero as u32;
        self.rule ^= zero as u32;
        self.place ^= zero as u8;
        self.after ^= zero as u8;
        self.reason ^= zero as u8;
        self.outcome ^= zero as u8;
        self.flags ^= zero as u8;
        self.from = unpack(pack(self.from) ^ zero);
        self.to = unpack(pack(self.to) ^ zero);
        self.there = unpack(pack(self.there) ^ zero);
    }

    /// Leaves the decision to the receiving socket.
    #[inline(always)]
    pub fn defer(&mut self) {
        self.fixed(Reason::Rule);
        self.to = Identity::of(segment::NONE);
        self.flags |= RECEIVER_JUDGES | PEER_LOCAL;
    }
}

/// An identity as a number.
#[inline(always)]
pub fn pack(identity: Identity) -> u64 {
    u64::from(identity.flags) << 16 | u64::from(identity.segment)
}

/// The identity in the lower half of a number.
#[inline(always)]
pub fn unpack(packed: u64) -> Identity {
    Identity {
        segment: packed as u16,
        flags: (packed >> 16) as u16,
    }
}

/// Judges an initiation and notes the ruling.
#[inline(always)]
pub fn judge(policy: &Policy, ruling: &mut Ruling, from: Identity, to: Identity, service: Service) {
    let verdict = verdict(policy, from, to, service);
    ruling.from = from;
    ruling.to = to;
    ruling.service = service;
    ruling.rule = verdict as u32;
    ruling.reason = (verdict >> 32) as u8;
    ruling.outcome = (verdict >> 40) as u8;
}

/// Judges without a ruling: the reason, and whether that lets pass.
// VERIFIER: for the sake of the stack.
#[inline(always)]
pub fn reason(policy: &Policy, from: Identity, to: Identity, service: Service) -> (u32, bool) {
    let verdict = verdict(policy, from, to, service);
    let outcome = (verdict >> 40) as u8;
    ((verdict >> 32) as u8 as u32, outcome != Outcome::Denied as u8)
}

/// The decision: `rule | reason << 32 | outcome << 40`; 0 is a denial.
#[inline(always)]
fn verdict(policy: &Policy, from: Identity, to: Identity, service: Service) -> u64 {
    let sides = pack(from) | pack(to) << 32;
    let place = segd_cell(policy.slot, sides);
    let rule = match place {
        0 => Verdict::NO_RULE,
        _ => segd_rule(policy.slot, place, service),
    };
    segd_judge(policy.slot, sides, service, rule)
}

/// [`place`], of the two sides' segments.
// VERIFIER: as `segd_judge`, and beside it: in one function they would take more stack than their callers leave.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segd_cell(slot: u32, sides: u64) -> u32 {
    let Some(policy) = Policy::in_slot(slot) else {
        return 0;
    };
    let (from, to) = (unpack(sides), unpack(sides >> 32));
    place(&policy, policy.segment(from.segment), policy.segment(to.segment))
}

/// [`rule_at`].
// VERIFIER: as `segd_cell`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segd_rule(slot: u32, place: u32, service: u32) -> u32 {
    match Policy::in_slot(slot) {
        Some(policy) => rule_at(&policy, place, service),
        None => Verdict::NO_RULE,
    }
}

/// [`verdict`], by the rule that was found.
// VERIFIER: a global function of scalars is verified once, whoever calls it. As a static one it is verified again on
// every path that leads to it, and no program stays below a million instructions.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segd_judge(slot: u32, sides: u64, service: u32, rule: u32) -> u64 {
    let Some(policy) = Policy::in_slot(slot) else {
        return 0;
    };
    let (from, to) = (unpack(sides), unpack(sides >> 32));
    let verdict = decide_by(&policy, from, to, service, rule);
    let outcome = outcome(&policy, verdict, from, to);
    u64::from(verdict.rule) | (verdict.reason as u64) << 32 | (outcome as u64) << 40
}

/// How many of those wake the daemon, which looks by itself once in a window.
const WAKES_PER_WINDOW: u32 = 4;

/// Whether this CPU may emit another event now, and wake the daemon for it if it `matters`; `None` if not. Losing the race
/// against an interrupt costs accuracy of the limits, nothing else.
#[inline(always)]
fn may_emit(now: u64, matters: bool) -> Option<bool> {
    let window = EVENT_WINDOW.get_ptr_mut(0)?;
    // SAFETY: this CPU's element.
    unsafe {
        if now.wrapping_sub((*window).start_ns) >= WINDOW_NS {
            (*window).start_ns = now;
            (*window).events = 0;
            (*window).woke = 0;
        }
        (*window).events += 1;
        if (*window).events > EVENTS_PER_WINDOW {
            return None;
        }
        let wakes = matters && (*window).woke < WAKES_PER_WINDOW;
        (*window).woke += u32::from(wakes);
        Some(wakes)
    }
}

/// Tells the daemon.
#[inline(never)]
pub fn emit(policy: &Policy, ruling: &Ruling, packet: &Packet) {
    if globals::learning() != 0 {
        return;
    }
    // Waking the daemon costs more than all else here: an interrupt, which in a virtual machine leaves the guest. What passed can
    // wait until it looks by itself, and so can what else is denied in a flood.
    let matters = !ruling.allowed() || ruling.flags & REVOKED != 0;
    let Some(wakes) = may_emit(clock::now(), matters) else {
        stat(stat::EVENTS_SUPPRESSED, 1);
        return;
    };
    let Some(mut entry) = EVENTS.reserve::<FlowEvent>(0) else {
        stat(stat::EVENTS_LOST, 1);
        return;
    };
    let reversed = ruling.flags & REVERSED != 0;
    let (source, destination) = if reversed {
        (&packet.destination, &packet.source)
    } else {
        (&packet.source, &packet.destination)
    };
    let (source_port, destination_port) = if reversed {
        (packet.destination_port, packet.source_port)
    } else {
        (packet.source_port, packet.destination_port)
    };
    let event = entry.as_mut_ptr();
    // SAFETY: the reservation has the size of the event; every field is written, padding included.
    unsafe {
        (*event).time_ns = bpf_ktime_get_boot_ns();
        (*event).cgroup = ruling.cgroup;
        (*event).peer_cgroup = ruling.peer_cgroup;
        (*event).rule = ruling.rule;
        (*event).revision = policy.revision;
        (*event).service = ruling.service;
        (*event).bytes = packet.bytes;
        (*event).source = *source;
        (*event).destination = *destination;
        (*event).source_port = source_port;
        (*event).destination_port = destination_port;
        (*event).from = ruling.from.segment;
        (*event).to = ruling.to.segment;
        (*event).outcome = ruling.outcome;
        (*event).reason = ruling.reason;
        (*event).hook = ruling.hook;
        (*event).flags = if ruling.flags & REVOKED != 0 {
            EVENT_REVOKED
        } else {
            0
        };
        (*event).reserved = 0;
    }
    entry.submit(if wakes { 0 } else { BPF_RB_NO_WAKEUP.into() });
}

/// Tells who rehearsed this packet what was ruled.
// VERIFIER: `REHEARSAL` is a constant of a frozen map. Where it is 0 all of this is dead code and removed before the
// kernel looks whether a program uses the control block, which it would have to save around each run.
#[inline(always)]
pub fn tell(skb: Skb, ruling: &Ruling) {
    if globals::rehearsal() != 0 {
        skb.leave(Told {
            reason: ruling.reason,
            outcome: ruling.outcome,
            hook: ruling.hook,
            from: ruling.from,
            to: ruling.to,
            service: ruling.service,
            rule: ruling.rule,
            cgroup: ruling.cgroup,
        });
    }
}

/// Counts and tells what was ruled on one packet.
#[inline(always)]
pub fn settle(policy: &Policy, ruling: &Ruling, packet: &Packet) {
    if ruling.flags & COPY != 0 {
        return;
    }
    if ruling.flags & RECEIVER_JUDGES != 0 && ruling.passes() && ruling.flags & COUNT_HERE == 0 {
        return;
    }
    count(ruling, packet.bytes);
    count_rule(policy, ruling);
    if !ruling.allowed() || ruling.flags & (NEW_FLOW | REVOKED) != 0 {
        emit(policy, ruling, packet);
    }
}
