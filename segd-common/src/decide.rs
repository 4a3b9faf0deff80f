//! The decision: may `from` initiate `service` towards `to`? The kernel, `explain` and the daemon run this.
//!
//! Deliberately absent: packets, replies, addresses. Who the sides are is found out before; a reply is
//! judged as the initiation it answers.

use crate::{
    reason::Reason,
    segment::{self, SegmentIndex},
    service::{self, Service},
    tables::{
        CELL_LIST, CELL_RANGE, Cell, LINE_CELLS, Line, MAX_LEVELS, RULE_DENY, RULE_UNTIL, TABLES_AUDIT,
        TABLES_HOST_OPEN, Tables, below, lines_of_list, numbered, place, placed,
    },
    verdict::{Outcome, RuleIndex, Verdict},
    workload::{AMBIGUOUS, Identity, ORPHANED, PENDING},
};

/// Judges one initiation.
#[inline(always)]
pub fn decide<T: Tables>(tables: &T, from: Identity, to: Identity, service: Service) -> Verdict {
    let segments = (tables.segment(from.segment), tables.segment(to.segment));
    let rule = rule_at(tables, place(tables, segments.0, segments.1), service);
    decide_by(tables, from, to, service, rule)
}

/// [`decide`], where the rule of the service was found before: what [`rule_at`] says.
#[inline(always)]
pub fn decide_by<T: Tables>(
    tables: &T,
    from: Identity,
    to: Identity,
    service: Service,
    rule: RuleIndex,
) -> Verdict {
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
    // What is no service (`service::NONE`) nothing allows.
    let asks = service <= service::MAX;
    let host_open = tables.flags() & TABLES_HOST_OPEN != 0;
    if asks && host_open && is_of_the_host(from.segment, to.segment) {
        return Verdict::of(Reason::HostDefault);
    }
    let intra = asks
        && from.segment == to.segment
        && tables.segment(from.segment).flags & segment::SEGMENT_INTRA != 0;
    match (rule != Verdict::NO_RULE).then_some(rule) {
        Some(rule) if rule & RULE_DENY != 0 => Verdict {
            reason: Reason::Guardrail,
            rule: rule & !RULE_DENY,
        },
        Some(rule) if rule & RULE_UNTIL == 0 => Verdict {
            reason: Reason::Rule,
            rule,
        },
        // What lasts is told before what does not.
        _ if intra => Verdict::of(Reason::Intra),
        Some(rule) if !tables.is_over(rule & !RULE_UNTIL) => Verdict {
            reason: Reason::Rule,
            rule: rule & !RULE_UNTIL,
        },
        _ => Verdict::of(Reason::NoRule),
    }
}

/// Whether a pair is what a policy leaves alone that does not enforce `host`.
#[must_use]
#[inline(always)]
pub const fn is_of_the_host(from: SegmentIndex, to: SegmentIndex) -> bool {
    matches!(
        (from, to),
        (segment::HOST, segment::HOST | segment::WORLD) | (segment::WORLD, segment::HOST)
    )
}

/// The rule that decides a service in the cell at a [`place`], as the cell has it but for `CELL_RANGE`; or
/// [`Verdict::NO_RULE`].
// VERIFIER: a number, as `place`.
#[inline(always)]
pub fn rule_at<T: Tables>(tables: &T, place: u32, service: Service) -> RuleIndex {
    let range = placed(tables, place).and_then(|cell| match cell.rule & CELL_LIST {
        0 => Some(cell),
        _ => last_not_above(tables, *cell, service),
    });
    match range {
        Some(range) if range.rule & CELL_RANGE != 0 && service >= range.low && service <= range.high => {
            range.rule & !CELL_RANGE
        }
        _ => Verdict::NO_RULE,
    }
}

/// The last range of a list that does not begin above the service, or the first of its root.
// VERIFIER: without branches but for the end. With one per turn the verifier follows every path.
#[inline(always)]
fn last_not_above<T: Tables>(tables: &T, list: Cell, service: Service) -> Option<&Cell> {
    let lines = lines_of_list(list.high);
    let (mut line, mut found) = (0, list.low.wrapping_mul(LINE_CELLS as u32));
    for _ in 0..MAX_LEVELS {
        if line >= lines {
            break;
        }
        let at = list.low.wrapping_add(line);
        let Line { cells: [a, b, c, d] } = tables.line(at)?;
        // They are sorted: so many do not begin above it.
        let above = is_below(service, a.low)
            + is_below(service, b.low)
            + is_below(service, c.low)
            + is_below(service, d.low);
        let turn = LINE_CELLS as u32 - above;
        let last = at
            .wrapping_mul(LINE_CELLS as u32)
            .wrapping_add(turn)
            .wrapping_sub(1);
        found = found.wrapping_add(last.wrapping_sub(found).wrapping_mul(is_below(0, turn)));
        line = below(line, turn);
    }
    numbered(tables, found)
}

/// 1 if `a < b`, else 0, without a branch.
// `black_box`, because the compiler would see that only two values are possible and branch on them after all. A
// logical shift and a product, because the verifier follows both values of an arithmetic shift to the sign.
#[inline(always)]
fn is_below(a: u32, b: u32) -> u32 {
    (core::hint::black_box(u64::from(a).wrapping_sub(u64::from(b))) >> 63) as u32
}

/// What becomes of a packet with this verdict: the one place where audit and enforce differ.
#[inline(always)]
pub fn outcome<T: Tables>(tables: &T, verdict: Verdict, from: Identity, to: Identity) -> Outcome {
    if verdict.allows() {
        return Outcome::Allowed;
    }
    let audit = tables.flags() & TABLES_AUDIT != 0
        || (tables.segment(from.segment).flags | tables.segment(to.segment).flags) & segment::SEGMENT_AUDIT
            != 0;
    if audit && verdict.reason.auditable() {
        Outcome::Audited
    } else {
        Outcome::Denied
    }
}
