//! Two prefix tables laid over each other: who an address belongs to under either.

use std::net::Ipv6Addr;

use segd_common::{
    address::{Address, V4_PREFIX_BITS},
    segment::{self, SegmentIndex},
};

use super::{Extent, V4, contains};

/// A prefix that has addresses of its own, and their owners under both tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    /// The prefix as people write it.
    pub text: String,
    /// Under the first table.
    pub old: SegmentIndex,
    /// Under the second table.
    pub new: SegmentIndex,
}

/// A table as it is compiled: address, prefix length, owner; sorted.
type Table = [(Address, u32, SegmentIndex)];

/// Every prefix of either table that longer ones leave something of, with both owners.
#[must_use]
pub fn overlay(old: &Table, new: &Table) -> Vec<Owned> {
    let key = |(address, bits, _): &(Address, u32, SegmentIndex)| (u128::from_be_bytes(*address), *bits);
    let (mut olds, mut news) = (old.iter().peekable(), new.iter().peekable());
    let mut steps: Vec<Step> = Vec::with_capacity(old.len() + new.len());
    let mut above: Vec<usize> = Vec::new();
    loop {
        let prefix = match (olds.peek(), news.peek()) {
            (None, None) => break,
            (Some(one), None) | (None, Some(one)) => key(one),
            (Some(one), Some(other)) => key(one).min(key(other)),
        };
        while let Some(step) = above.last().and_then(|at| steps.get(*at)) {
            if contains(step.extent.prefix, prefix) {
                break;
            }
            above.pop();
        }
        let (mut old_owner, mut new_owner) = (segment::WORLD, segment::WORLD);
        if let Some(step) = above.last().and_then(|at| steps.get_mut(*at)) {
            step.extent.cover(prefix);
            (old_owner, new_owner) = (step.old, step.new);
        }
        if let Some((_, _, owner)) = olds.next_if(|entry| key(entry) == prefix) {
            old_owner = *owner;
        }
        if let Some((_, _, owner)) = news.next_if(|entry| key(entry) == prefix) {
            new_owner = *owner;
        }
        above.push(steps.len());
        steps.push(Step {
            extent: Extent::new(prefix),
            old: old_owner,
            new: new_owner,
        });
    }
    let owned = steps.into_iter().filter(|step| !step.extent.full);
    owned
        .map(|step| Owned {
            text: text(step.extent.prefix),
            old: step.old,
            new: step.new,
        })
        .collect()
}

struct Step {
    extent: Extent,
    old: SegmentIndex,
    new: SegmentIndex,
}

fn text((address, bits): (u128, u32)) -> String {
    let address = Ipv6Addr::from(address);
    match address.to_ipv4_mapped() {
        Some(v4) if bits >= V4_PREFIX_BITS && contains(V4, (address.into(), bits)) => {
            format!("{v4}/{}", bits - V4_PREFIX_BITS)
        }
        _ => format!("{address}/{bits}"),
    }
}
