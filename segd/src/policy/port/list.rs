//! Lists of services as people write ports: the other way round than [`super::parse`].

use segd_common::service::{self, Service};

use super::{ICMP_TYPES, ICMPV6_TYPES, Interval};

/// Sorted, disjoint intervals in words: `tcp/80`, `udp/1000-1999`, `icmp`, `ip/47`; `any but tcp/22` where that is shorter.
#[must_use]
pub fn display_list(intervals: &[Interval]) -> Vec<String> {
    let listed = words(intervals);
    let rest = words(&complement(intervals));
    if rest.is_empty() {
        return vec!["any".to_owned()];
    }
    if rest.len() < listed.len() {
        return vec![format!("any but {}", rest.join(", "))];
    }
    listed
}

/// What is in no interval.
fn complement(intervals: &[Interval]) -> Vec<Interval> {
    let mut rest = Vec::new();
    let mut next = 0;
    for (low, high) in intervals {
        if next < *low {
            rest.push((next, low - 1));
        }
        next = high + 1;
    }
    if next <= service::MAX {
        rest.push((next, service::MAX));
    }
    rest
}

/// Each interval, protocol by protocol; neighbouring protocols without ports are one range.
fn words(intervals: &[Interval]) -> Vec<String> {
    let mut words = Vec::new();
    let mut bare: Option<(u8, u8)> = None;
    for (low, high) in intervals {
        for protocol in service::protocol(*low)..=service::protocol(*high) {
            let first = service::bare(protocol);
            let (from, to) = ((*low).max(first), (*high).min(first | 0xffff));
            if has_words(protocol) {
                words.extend(bare.take().map(bare_words));
                words.extend(of_protocol(protocol, from & 0xffff, to & 0xffff));
            } else if from & 0xffff == 0 {
                // Such a protocol is the service 0 of its block; the rest of the block is nobody's.
                bare = match bare {
                    Some((start, end)) if end.checked_add(1) == Some(protocol) => Some((start, protocol)),
                    Some(before) => {
                        words.push(bare_words(before));
                        Some((protocol, protocol))
                    }
                    None => Some((protocol, protocol)),
                };
            }
        }
    }
    words.extend(bare.map(bare_words));
    words
}

fn has_words(protocol: u8) -> bool {
    service::has_ports(protocol) || matches!(protocol, service::ICMP | service::ICMPV6)
}

fn bare_words((first, last): (u8, u8)) -> String {
    if first == last {
        format!("ip/{first}")
    } else {
        format!("ip/{first}-{last}")
    }
}

/// A part of one protocol: ports, or ICMP types and codes.
fn of_protocol(protocol: u8, low: Service, high: Service) -> Vec<String> {
    let names = match protocol {
        service::ICMP => return icmp("icmp", &ICMP_TYPES, low, high),
        service::ICMPV6 => return icmp("icmpv6", &ICMPV6_TYPES, low, high),
        service::TCP => "tcp",
        service::UDP => "udp",
        service::SCTP => "sctp",
        _ => "udplite",
    };
    // Port 0 is nobody's port.
    let low = low.max(u32::from(high > 0));
    vec![if low == high {
        format!("{names}/{low}")
    } else {
        format!("{names}/{low}-{high}")
    }]
}

fn icmp(word: &str, names: &[(&str, u8)], low: Service, high: Service) -> Vec<String> {
    if (low, high) == (0, 0xffff) {
        return vec![word.to_owned()];
    }
    let name = |kind: Service| {
        let known = names.iter().find(|(_, number)| Service::from(*number) == kind);
        known.map_or_else(|| kind.to_string(), |(name, _)| (*name).to_owned())
    };
    let mut out = Vec::new();
    for kind in low >> 8..=high >> 8 {
        let (first, last) = (low.max(kind << 8) & 0xff, high.min(kind << 8 | 0xff) & 0xff);
        out.push(match (first, last) {
            (0, 0xff) => format!("{word}/{}", name(kind)),
            _ if first == last => format!("{word}/{kind}/{first}"),
            _ => format!("{word}/{kind}/{first}-{last}"),
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::port;

    #[track_caller]
    fn shown(ports: &[&str]) -> String {
        let mut intervals: Vec<Interval> = ports
            .iter()
            .map(|text| port::parse(text).expect("a port"))
            .collect();
        intervals.sort_unstable();
        display_list(&intervals).join(" ")
    }

    #[test]
    fn says_what_was_written() {
        for text in [
            "any",
            "tcp/443",
            "udp/1000-1999",
            "tcp/1-65535",
            "icmp",
            "icmp/echo-request",
            "icmp/3/4",
            "icmpv6",
            "ip/47",
        ] {
            assert_eq!(shown(&[text]), text);
        }
        assert_eq!(shown(&["tcp/80", "tcp/443", "icmp"]), "icmp tcp/80 tcp/443");
    }

    #[test]
    fn says_what_is_missing_where_that_is_shorter() {
        let ssh = service::port(service::TCP, 22);
        let rest = [(0, ssh - 1), (ssh + 1, service::MAX)];
        assert_eq!(display_list(&rest), ["any but tcp/22"]);
    }

    #[test]
    fn says_neighbouring_protocols_as_one() {
        let two = [(service::bare(47), service::bare(48))];
        assert_eq!(display_list(&two), ["ip/47-48"]);
    }
}
