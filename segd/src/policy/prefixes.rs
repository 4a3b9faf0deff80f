//! Which segment an address belongs to: the longest prefix that claims it and does not except it.
//!
//! The kernel only knows "longest prefix wins". So every prefix that is named anywhere gets the segment that its own
//! addresses belong to: those which no longer named prefix covers.

pub mod overlay;

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use segd_common::address::{Address, V4_PREFIX_BITS, mapped};

/// Address bits, IPv4 as v4-mapped, and the number of those that count.
type Prefix = (u128, u32);

/// `::ffff:0:0/96`: an IPv6 prefix around it claims no IPv4 address.
const V4: Prefix = (0xffff_0000_0000, V4_PREFIX_BITS);

/// A prefix that a segment claims, and what it leaves out.
#[derive(Clone, Debug)]
pub struct Claim<'a> {
    prefix: Prefix,
    except: Vec<Prefix>,
    owner: &'a str,
}

impl<'a> Claim<'a> {
    /// The claim of a segment.
    #[must_use]
    pub fn new(prefix: IpNet, except: &[IpNet], owner: &'a str) -> Claim<'a> {
        let prefix = normal(prefix);
        let mut except: Vec<Prefix> = except.iter().map(|net| normal(*net)).collect();
        if prefix.1 < V4.1 && contains(prefix, V4) {
            except.push(V4);
        }
        Claim {
            prefix,
            except,
            owner,
        }
    }
}

/// A named prefix and who claims its own addresses.
struct Step {
    extent: Extent,
    /// Claims in force here, the shortest first, by index.
    active: Vec<usize>,
}

/// A named prefix and what longer named ones leave of it.
struct Extent {
    prefix: Prefix,
    /// How many of its addresses longer named prefixes cover.
    covered: u128,
    /// They cover all of it: no address is its own.
    full: bool,
}

/// Every named prefix, each after those that contain it.
pub struct Walk<'a> {
    claims: Vec<Claim<'a>>,
    steps: Vec<Step>,
}

impl<'a> Walk<'a> {
    /// Visits all prefixes that the claims name.
    #[must_use]
    pub fn new(claims: impl IntoIterator<Item = Claim<'a>>) -> Walk<'a> {
        let claims: Vec<Claim<'a>> = claims.into_iter().collect();
        let mut named: BTreeMap<Prefix, (Vec<usize>, Vec<usize>)> = BTreeMap::new();
        for (index, claim) in claims.iter().enumerate() {
            named.entry(claim.prefix).or_default().0.push(index);
            for except in &claim.except {
                named.entry(*except).or_default().1.push(index);
            }
        }
        let mut steps: Vec<Step> = Vec::with_capacity(named.len());
        let mut above: Vec<usize> = Vec::new();
        for (prefix, (begin, end)) in named {
            while let Some(step) = above.last().and_then(|at| steps.get(*at)) {
                if contains(step.extent.prefix, prefix) {
                    break;
                }
                above.pop();
            }
            let mut active = Vec::new();
            if let Some(step) = above.last().and_then(|at| steps.get_mut(*at)) {
                step.extent.cover(prefix);
                active.clone_from(&step.active);
            }
            active.extend(begin);
            active.retain(|index| !end.contains(index));
            above.push(steps.len());
            let extent = Extent::new(prefix);
            steps.push(Step { extent, active });
        }
        Walk { claims, steps }
    }

    /// Pairs of claims, by index, that claim some address with equal right for different segments. One for each place.
    #[must_use]
    pub fn ties(&self) -> Vec<(usize, usize)> {
        let mut ties = Vec::new();
        for step in self.steps.iter().filter(|step| !step.extent.full) {
            let Some((winner, claim)) = self.winner(step) else {
                continue;
            };
            let rival = step.active.iter().find(|index| {
                self.claims
                    .get(**index)
                    .is_some_and(|other| other.prefix == claim.prefix && other.owner != claim.owner)
            });
            if let Some(rival) = rival {
                ties.push((*rival, winner));
            }
        }
        ties.sort_unstable();
        ties.dedup();
        ties
    }

    /// Every named prefix with its owner, or `None` where nobody claims its own addresses. Sorted, unique.
    pub fn table(&self) -> impl Iterator<Item = (Address, u32, Option<&'a str>)> {
        self.steps.iter().map(|step| {
            let (address, bits) = step.extent.prefix;
            (
                address.to_be_bytes(),
                bits,
                self.winner(step).map(|(_, claim)| claim.owner),
            )
        })
    }

    fn winner(&self, step: &Step) -> Option<(usize, &Claim<'a>)> {
        let index = *step.active.last()?;
        Some((index, self.claims.get(index)?))
    }
}

impl Extent {
    fn new(prefix: Prefix) -> Extent {
        Extent {
            prefix,
            covered: 0,
            full: false,
        }
    }

    /// Counts a prefix directly below.
    fn cover(&mut self, below: Prefix) {
        let size = 1_u128.checked_shl(128 - below.1).unwrap_or_default();
        match self.covered.checked_add(size) {
            Some(covered) => {
                self.covered = covered;
                self.full = 1_u128.checked_shl(128 - self.prefix.1) == Some(covered);
            }
            // All 2^128 addresses: only `::/0` can be covered so.
            None => self.full = true,
        }
    }
}

/// An address as the tables have it.
#[must_use]
pub fn bits(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(v4) => mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn normal(net: IpNet) -> Prefix {
    match net.network() {
        IpAddr::V4(v4) => (
            u128::from_be_bytes(mapped(v4.octets())),
            u32::from(net.prefix_len()) + V4_PREFIX_BITS,
        ),
        IpAddr::V6(v6) => (u128::from(v6), u32::from(net.prefix_len())),
    }
}

/// Whether the first contains the second, or is it.
fn contains(outer: Prefix, inner: Prefix) -> bool {
    let mask = u128::MAX.checked_shl(128 - outer.1).unwrap_or_default();
    outer.1 <= inner.1 && (outer.0 ^ inner.0) & mask == 0
}
