//! The decision: may `from` initiate `service` towards `to`? The kernel, `explain` and the daemon run this.
//!
//! Deliberately absent: packets, replies, addresses. Who the sides are is found out before; a reply is
//! judged as the initiation it answers.

use crate::{
    reason::Reason,
    segment,
    service::Service,
    tables::{MAX_STEPS, RULE_DENY, RULE_HOST, RULE_INTRA, TABLES_AUDIT, Tables},
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
    let mut low = 0;
    let mut high = set.len;
    // VERIFIER: a constant bound; every turn halves the interval, so a longer set cannot exist.
    for _ in 0..=MAX_STEPS {
        if low >= high {
            break;
        }
        let middle = low + (high - low) / 2;
        let Some(range) = tables.range(set.first.wrapping_add(middle)) else {
            break;
        };
        if service < range.low {
            high = middle;
        } else if service > range.high {
            low = middle + 1;
        } else {
            return match range.rule {
                RULE_INTRA => Verdict::of(Reason::Intra),
                RULE_HOST => Verdict::of(Reason::HostDefault),
                rule if rule & RULE_DENY != 0 => {
                    Verdict { reason: Reason::Guardrail, rule: rule & !RULE_DENY }
                }
                rule => Verdict { reason: Reason::Rule, rule },
            };
        }
    }
    Verdict::of(Reason::NoRule)
}

/// What becomes of a packet with this verdict: the one place where audit and enforce differ.
#[inline(always)]
pub fn outcome<T: Tables>(tables: &T, verdict: Verdict, from: Identity, to: Identity) -> Outcome {
    if verdict.allows() {
        return Outcome::Allowed;
    }
    let audit = tables.flags() & TABLES_AUDIT != 0
        || (tables.segment(from.segment) | tables.segment(to.segment)) & segment::SEGMENT_AUDIT != 0;
    if audit && verdict.reason.auditable() { Outcome::Audited } else { Outcome::Denied }
}
