//! The decision: may `from` initiate `service` towards `to`? The kernel, `explain` and the daemon run this.
//!
//! Deliberately absent: packets, replies, addresses. Who the sides are is found out before; a reply is
//! judged as the initiation it answers.

use crate::{
    reason::Reason,
    segment,
    service::Service,
    tables::{
        MAX_STEPS, PortRange, PortSet, RULE_DENY, RULE_HOST, RULE_INTRA, RULE_UNTIL, TABLES_AUDIT, Tables,
    },
    verdict::{Outcome, Verdict},
    workload::{AMBIGUOUS, Identity, ORPHANED, PENDING},
};

/// Judges one initiation.
#[inline(always)]
pub fn decide<T: Tables>(tables: &T, from: Identity, to: Identity, service: Service) -> Verdict {
    if from.segment == segment::PROBE || to.segment == segment::PROBE {
        return Verdict::of(Reason::Probe);
    }
    if from.segment == segment::NONE || to.segment == segment::NONE {
        return Verdict::of(Reason::Unknown);
    }
    let flags = from.flags | to.flags;
    if flags & ORPHANED != 0 {
        return Verdict::of(Reason::Orphaned);
    }
    if flags & AMBIGUOUS != 0 {
        return Verdict::of(Reason::Ambiguous);
    }
    if flags & PENDING != 0 {
        return Verdict::of(Reason::Pending);
    }
    search(tables, tables.class(from.segment, to.segment), service)
}

/// Finds the range of a class that covers the service.
#[inline(always)]
fn search<T: Tables>(tables: &T, class: u16, service: Service) -> Verdict {
    let set = tables.set(class);
    let found = if set.len == 0 {
        None
    } else if set.len <= 1 << SHORT_STEPS {
        last_not_above::<T, SHORT_STEPS>(tables, set, service)
    } else {
        last_not_above::<T, MAX_STEPS>(tables, set, service)
    };
    let Some(range) = found else {
        return Verdict::of(Reason::NoRule);
    };
    if service < range.low || service > range.high {
        return Verdict::of(Reason::NoRule);
    }
    match range.rule {
        RULE_INTRA => Verdict::of(Reason::Intra),
        RULE_HOST => Verdict::of(Reason::HostDefault),
        rule if rule & RULE_DENY != 0 => Verdict {
            reason: Reason::Guardrail,
            rule: rule & !RULE_DENY,
        },
        // The compiler lets a rule that ends decide only where nothing else allows.
        rule if rule & RULE_UNTIL != 0 && tables.is_over(rule & !RULE_UNTIL) => Verdict::of(Reason::NoRule),
        rule if rule & RULE_UNTIL != 0 => Verdict {
            reason: Reason::Rule,
            rule: rule & !RULE_UNTIL,
        },
        rule => Verdict {
            reason: Reason::Rule,
            rule,
        },
    }
}

/// Steps that are enough for most sets.
const SHORT_STEPS: u32 = 3;

/// The last range of a set that does not begin above the service, or the first one.
// VERIFIER: a binary search without branches. With one per turn the verifier follows every path: 2^16 of them.
#[inline(always)]
fn last_not_above<T: Tables, const STEPS: u32>(
    tables: &T,
    set: PortSet,
    service: Service,
) -> Option<PortRange> {
    let mut at = 0;
    let mut step = 1 << STEPS;
    for _ in 0..STEPS {
        step >>= 1;
        let next = at + step;
        let inside = below(next, set.len);
        let range = tables.range(set.first.wrapping_add(next * inside))?;
        at += step * (inside * (1 - below(service, range.low)));
    }
    tables.range(set.first.wrapping_add(at))
}

/// 1 if `a < b`, else 0, without a branch.
// `black_box`, because the compiler would see that only two values are possible and branch on them after all. A
// logical shift and a product, because the verifier follows both values of an arithmetic shift to the sign.
#[inline(always)]
fn below(a: u32, b: u32) -> u32 {
    (core::hint::black_box(u64::from(a).wrapping_sub(u64::from(b))) >> 63) as u32
}

/// What becomes of a packet with this verdict: the one place where audit and enforce differ.
#[inline(always)]
pub fn outcome<T: Tables>(tables: &T, verdict: Verdict, from: Identity, to: Identity) -> Outcome {
    if verdict.allows() {
        return Outcome::Allowed;
    }
    let audit = tables.flags() & TABLES_AUDIT != 0
        || (tables.segment(from.segment) | tables.segment(to.segment)) & segment::SEGMENT_AUDIT != 0;
    if audit && verdict.reason.auditable() {
        Outcome::Audited
    } else {
        Outcome::Denied
    }
}
