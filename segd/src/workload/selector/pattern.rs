//! Unit patterns as the kernel can hold them: few, short, with one `*`. The others only raise a flag there.

use segd_common::{
    segment,
    workload::{MAX_UNIT_PATTERNS, UNIT_AFFIX_LEN, UnitPattern},
};

use super::{UnitSelector, padded};

/// What is known of a name from both its ends.
struct Affixes<'a> {
    prefix: &'a [u8],
    suffix: &'a [u8],
}

/// The patterns to give to the kernel; marks the selectors that they hold in full.
///
/// INVARIANT: whatever a selector matches, one of the patterns matches, for its segment or as `PENDING`.
pub(super) fn for_kernel(units: &mut [UnitSelector]) -> Vec<UnitPattern> {
    for unit in units.iter_mut() {
        unit.in_kernel = fits(&unit.pattern);
    }
    if units.len() <= MAX_UNIT_PATTERNS {
        return units
            .iter()
            .map(|unit| one(unit, &affixes(&unit.pattern)))
            .collect();
    }
    // Too many: the last pattern stands for all that is left, and for what the kernel cannot match anyway.
    let mut patterns = Vec::new();
    let mut rest: Option<Affixes<'_>> = None;
    for unit in units.iter_mut() {
        if unit.in_kernel && patterns.len() < MAX_UNIT_PATTERNS - 1 {
            patterns.push(one(unit, &affixes(&unit.pattern)));
            continue;
        }
        unit.in_kernel = false;
        let own = affixes(&unit.pattern);
        rest = Some(match rest {
            None => own,
            Some(so_far) => common(&so_far, &own),
        });
    }
    patterns.extend(rest.map(|affixes| fill(&affixes, segment::NONE, 0)));
    patterns
}

/// Whether the kernel can match the pattern in full.
fn fits(pattern: &str) -> bool {
    match pattern.split_once('*') {
        Some((prefix, suffix)) => {
            !suffix.contains('*') && prefix.len() <= UNIT_AFFIX_LEN && suffix.len() <= UNIT_AFFIX_LEN
        }
        None => false,
    }
}

/// Before the first `*` and after the last; a name without one is cut in two.
fn affixes(pattern: &str) -> Affixes<'_> {
    let bytes = pattern.as_bytes();
    let (prefix, suffix) = match (pattern.find('*'), pattern.rfind('*')) {
        (Some(first), Some(last)) => (bytes.get(..first), bytes.get(last + 1..)),
        _ => (bytes.get(..bytes.len() / 2), bytes.get(bytes.len() / 2..)),
    };
    let (prefix, suffix) = (prefix.unwrap_or_default(), suffix.unwrap_or_default());
    let prefix = prefix.get(..UNIT_AFFIX_LEN).unwrap_or(prefix);
    let suffix = suffix
        .last_chunk::<UNIT_AFFIX_LEN>()
        .map_or(suffix, |last| last.as_slice());
    Affixes { prefix, suffix }
}

fn common<'a>(one: &Affixes<'a>, other: &Affixes<'a>) -> Affixes<'a> {
    let head = one
        .prefix
        .iter()
        .zip(other.prefix)
        .take_while(|(a, b)| a == b)
        .count();
    let tail = one
        .suffix
        .iter()
        .rev()
        .zip(other.suffix.iter().rev())
        .take_while(|(a, b)| a == b)
        .count();
    Affixes {
        prefix: one.prefix.get(..head).unwrap_or_default(),
        suffix: one.suffix.get(one.suffix.len() - tail..).unwrap_or_default(),
    }
}

fn one(unit: &UnitSelector, affixes: &Affixes<'_>) -> UnitPattern {
    let segment = if unit.in_kernel {
        unit.segment
    } else {
        segment::NONE
    };
    fill(affixes, segment, unit.selector)
}

fn fill(affixes: &Affixes<'_>, segment: u16, selector: u32) -> UnitPattern {
    let mut suffix: Vec<u8> = affixes.suffix.to_vec();
    suffix.reverse();
    let mut suffix: [u8; UNIT_AFFIX_LEN] = padded(&suffix);
    suffix.reverse();
    UnitPattern {
        // Both are at most `UNIT_AFFIX_LEN`.
        prefix_len: affixes.prefix.len() as u16,
        suffix_len: affixes.suffix.len() as u16,
        segment,
        reserved: 0,
        selector,
        prefix: padded(affixes.prefix),
        suffix,
    }
}
