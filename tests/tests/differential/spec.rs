//! A random policy as its author thinks of it: written out as YAML, and read by its author as the reference reads it.
//!
//! INVARIANT: nothing here asks segd what anything means. `docs/policy.md` is the only source.

use std::fmt::Write as _;

use super::{
    calendar::{self, Term},
    dice::Dice,
};

/// One end of a rule, as it is written.
#[derive(Clone, Debug)]
pub enum End {
    /// `any`.
    Any,
    /// `host`, `world`, a segment, or several of them; none is nobody.
    Names(Vec<String>),
    /// Labels: all of them; none is nobody.
    Labels(Vec<(&'static str, &'static str)>),
}

/// An entry of `allow` or `deny`.
#[derive(Clone, Debug)]
pub struct Rule {
    pub from: End,
    pub to: End,
    /// Empty in `deny`: left out, every port.
    pub ports: Vec<Port>,
    /// Only in `allow`: when it holds.
    pub term: Term,
}

/// A port as it is written, and the services it stands for.
#[derive(Clone, Debug)]
pub struct Port {
    text: String,
    low: u32,
    high: u32,
}

/// An address prefix, exceptions inside it.
#[derive(Clone, Debug)]
pub struct Cidr {
    pub prefix: &'static str,
    pub except: Vec<&'static str>,
}

/// A segment.
#[derive(Clone, Debug)]
pub struct Segment {
    pub name: String,
    pub labels: Vec<(&'static str, &'static str)>,
    pub intra: bool,
    pub audit: Option<bool>,
    pub cidrs: Vec<Cidr>,
}

/// A policy.
#[derive(Clone, Debug, Default)]
pub struct Spec {
    pub segments: Vec<Segment>,
    pub allow: Vec<Rule>,
    pub deny: Vec<Rule>,
    pub audit: bool,
    pub enforce_host: bool,
    /// `--mode`: audit or enforce over everything.
    pub mode: Option<bool>,
    /// When it is asked.
    pub time: i64,
}

const TIERS: [(&str, &str); 5] = [
    ("tier", "front"),
    ("tier", "back"),
    ("env", "prod"),
    ("env", "dev"),
    ("zone", "a"),
];

/// Prefixes that nest, touch and surround each other, in both families.
pub const PREFIXES: [&str; 22] = [
    "0.0.0.0/0",
    "0.0.0.0/1",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.0/24",
    "10.1.2.128/25",
    "10.1.2.200/32",
    "192.0.2.0/24",
    "192.0.2.7/32",
    "172.16.0.0/12",
    "172.16.5.0/24",
    "224.0.0.0/4",
    "239.1.1.1/32",
    "::/0",
    "2000::/3",
    "2001:db8::/32",
    "2001:db8:1::/48",
    "2001:db8:1::7/128",
    "2001:db8:5::/48",
    "fe80::/10",
    "ff00::/8",
    "ff02::1/128",
];

impl Spec {
    /// A random policy.
    pub fn random(dice: &mut Dice) -> Spec {
        let mut spec = Spec {
            audit: dice.once_in(8),
            enforce_host: dice.once_in(2),
            time: calendar::time(dice),
            mode: [None, None, None, None, None, Some(true), Some(false)][dice.below(7)],
            ..Spec::default()
        };
        let mut free: Vec<&'static str> = PREFIXES.to_vec();
        for number in 0..1 + dice.below(5) {
            let mut labels: Vec<(&str, &str)> = Vec::new();
            for _ in 0..dice.below(3) {
                let (key, value) = *dice.pick(&TIERS);
                if labels.iter().all(|(known, _)| *known != key) {
                    labels.push((key, value));
                }
            }
            let mut cidrs = Vec::new();
            for _ in 0..dice.below(5) {
                if free.is_empty() {
                    break;
                }
                let prefix = free.swap_remove(dice.below(free.len()));
                let inside: Vec<&'static str> = PREFIXES
                    .iter()
                    .copied()
                    .filter(|other| *other != prefix && contains(prefix, net(other).0))
                    .filter(|other| net(other).1 > net(prefix).1)
                    .collect();
                let mut except = Vec::new();
                for _ in 0..dice.below(3) {
                    if !inside.is_empty() {
                        let one = *dice.pick(&inside);
                        if !except.contains(&one) {
                            except.push(one);
                        }
                    }
                }
                cidrs.push(Cidr { prefix, except });
            }
            spec.segments.push(Segment {
                name: format!("s{number}"),
                labels,
                intra: !dice.once_in(3),
                audit: [None, None, None, Some(true), Some(false)][dice.below(5)],
                cidrs,
            });
        }
        for _ in 0..dice.below(10) {
            let rule = spec.random_rule(dice, false);
            spec.allow.push(rule);
        }
        for _ in 0..dice.below(4) {
            let rule = spec.random_rule(dice, true);
            spec.deny.push(rule);
        }
        spec
    }

    fn random_rule(&self, dice: &mut Dice, deny: bool) -> Rule {
        let ports = if deny && dice.once_in(2) {
            0
        } else {
            1 + dice.below(4)
        };
        Rule {
            from: self.random_end(dice),
            to: self.random_end(dice),
            ports: (0..ports).map(|_| Port::random(dice)).collect(),
            term: if !deny && dice.once_in(2) {
                Term::random(dice, self.time)
            } else {
                Term::default()
            },
        }
    }

    fn random_end(&self, dice: &mut Dice) -> End {
        let names = |dice: &mut Dice, count: usize| {
            let mut names = Vec::new();
            for _ in 0..count {
                let name = match dice.below(self.segments.len() + 2) {
                    0 => "host".to_owned(),
                    1 => "world".to_owned(),
                    at => self.segments[at - 2].name.clone(),
                };
                if !names.contains(&name) {
                    names.push(name);
                }
            }
            names
        };
        match dice.below(12) {
            0 | 1 => End::Any,
            2 => End::Names(Vec::new()),
            3 => End::Labels(Vec::new()),
            4..=6 => End::Labels({
                let first = *dice.pick(&TIERS);
                let second = *dice.pick(&TIERS);
                if first.0 == second.0 || dice.once_in(2) {
                    vec![first]
                } else {
                    vec![first, second]
                }
            }),
            7 | 8 => {
                let count = 2 + dice.below(3);
                End::Names(names(dice, count))
            }
            _ => End::Names(names(dice, 1)),
        }
    }

    /// As a document.
    pub fn yaml(&self) -> String {
        let mut out =
            String::from("apiVersion: segd.dev/v1\nkind: SegmentPolicy\nmetadata: {name: random}\nspec:\n");
        if self.audit {
            out += "  mode: audit\n";
        }
        if self.enforce_host {
            out += "  defaults: {host: enforce}\n";
        }
        out += "  segments:\n";
        for segment in &self.segments {
            let _ = write!(
                out,
                "    {}: {{match: [{{cgroup: /proof/{}}}",
                segment.name, segment.name
            );
            for cidr in &segment.cidrs {
                let _ = write!(out, ", {{cidr: \"{}\"", cidr.prefix);
                if !cidr.except.is_empty() {
                    let except: Vec<String> = cidr.except.iter().map(|net| format!("\"{net}\"")).collect();
                    let _ = write!(out, ", except: [{}]", except.join(", "));
                }
                out += "}";
            }
            out += "]";
            if !segment.labels.is_empty() {
                let _ = write!(out, ", labels: {}", labels(&segment.labels));
            }
            if !segment.intra {
                out += ", intra: deny";
            }
            if let Some(audit) = segment.audit {
                let _ = write!(out, ", mode: {}", if audit { "audit" } else { "enforce" });
            }
            out += "}\n";
        }
        for (list, rules) in [("allow", &self.allow), ("deny", &self.deny)] {
            if rules.is_empty() {
                continue;
            }
            let _ = writeln!(out, "  {list}:");
            for rule in rules {
                let _ = write!(out, "    - {{from: {}, to: {}", rule.from.text(), rule.to.text());
                if !rule.ports.is_empty() {
                    let ports: Vec<&str> = rule.ports.iter().map(|port| port.text.as_str()).collect();
                    let _ = write!(out, ", ports: [{}]", ports.join(", "));
                }
                rule.term.write(&mut out);
                out += "}\n";
            }
        }
        out
    }

    fn segment(&self, name: &str) -> Option<&Segment> {
        self.segments.iter().find(|segment| segment.name == name)
    }

    /// Who claims an address: `world` if nobody does.
    pub fn owner(&self, address: u128) -> &str {
        let claims = self.segments.iter().flat_map(|segment| {
            let cidrs = segment.cidrs.iter().filter(|cidr| {
                contains(cidr.prefix, address) && !cidr.except.iter().any(|except| contains(except, address))
            });
            cidrs.map(|cidr| (net(cidr.prefix).1, segment.name.as_str()))
        });
        claims
            .max_by_key(|(len, _)| *len)
            .map_or("world", |(_, name)| name)
    }

    /// The reason, as a word, and the rule: its number among all, `allow` first.
    pub fn judge(&self, from: &str, to: &str, service: u32) -> (&'static str, Option<usize>) {
        let between_host_and_world = matches!((from, to), ("host", "host" | "world") | ("world", "host"));
        if between_host_and_world && !self.enforce_host {
            return ("host-default", None);
        }
        let says = |rule: &&Rule| {
            let everything = rule.ports.is_empty();
            let port = everything
                || rule
                    .ports
                    .iter()
                    .any(|port| port.low <= service && service <= port.high);
            port && self.stands(&rule.from, from) && self.stands(&rule.to, to)
        };
        if let Some(at) = self.deny.iter().position(|rule| says(&rule)) {
            return ("guardrail", Some(self.allow.len() + at));
        }
        let lasting = |rule: &Rule| rule.term.is_lasting() && says(&rule);
        if let Some(at) = self.allow.iter().position(lasting) {
            return ("rule", Some(at));
        }
        if from == to && self.segment(from).is_some_and(|segment| segment.intra) {
            return ("intra", None);
        }
        // Of rules that end, the one that ends last; of those, the first.
        let ending = self
            .allow
            .iter()
            .enumerate()
            .filter(|(_, rule)| !rule.term.is_lasting() && says(rule));
        let open = ending.filter_map(|(at, rule)| Some((rule.term.open_until(self.time)?, at)));
        match open.max_by_key(|(end, at)| (*end, std::cmp::Reverse(*at))) {
            Some((_, at)) => ("rule", Some(at)),
            None => ("no-rule", None),
        }
    }

    fn stands(&self, end: &End, peer: &str) -> bool {
        match end {
            End::Any => true,
            End::Names(names) => names.iter().any(|name| name == peer),
            End::Labels(labels) => {
                !labels.is_empty()
                    && self
                        .segment(peer)
                        .is_some_and(|segment| labels.iter().all(|label| segment.labels.contains(label)))
            }
        }
    }

    /// Whether a denial between the two only counts.
    pub fn audits(&self, from: &str, to: &str) -> bool {
        if let Some(mode) = self.mode {
            return mode;
        }
        [from, to].into_iter().any(|peer| {
            self.segment(peer)
                .is_some_and(|segment| segment.audit.unwrap_or(self.audit))
        })
    }
}

fn labels(labels: &[(&str, &str)]) -> String {
    let labels: Vec<String> = labels
        .iter()
        .map(|(key, value)| format!("{key}: {value}"))
        .collect();
    format!("{{{}}}", labels.join(", "))
}

impl End {
    fn text(&self) -> String {
        match self {
            End::Any => "any".to_owned(),
            End::Names(names) if names.len() == 1 => names[0].clone(),
            End::Names(names) => format!("[{}]", names.join(", ")),
            End::Labels(pairs) => labels(pairs),
        }
    }
}

/// Ports that rules begin and end at, and that packets ask for.
pub const PORTS: [u16; 16] = [
    1, 22, 53, 67, 68, 80, 443, 546, 547, 999, 1000, 1001, 5001, 5002, 65534, 65535,
];

impl Port {
    fn random(dice: &mut Dice) -> Port {
        let port = |protocol: &str, number: u32, low: u16, high: u16| {
            let base = number << 16;
            let text = if low == high {
                format!("{protocol}/{low}")
            } else {
                format!("{protocol}/{low}-{high}")
            };
            Port {
                text,
                low: base | u32::from(low),
                high: base | u32::from(high),
            }
        };
        let (a, b) = (*dice.pick(&PORTS), *dice.pick(&PORTS));
        let (low, high) = if dice.once_in(2) {
            (a, a)
        } else {
            (a.min(b), a.max(b))
        };
        match dice.below(13) {
            0 => Port {
                text: "any".to_owned(),
                low: 0,
                high: 0x00ff_ffff,
            },
            1..=4 => port("tcp", 6, low, high),
            5..=7 => port("udp", 17, low, high),
            8 => port("sctp", 132, low, high),
            9 => {
                let (word, number) = *dice.pick(&[("icmp", 1_u32), ("icmpv6", 58)]);
                Port {
                    text: word.to_owned(),
                    low: number << 16,
                    high: number << 16 | 0xffff,
                }
            }
            10 => {
                let (word, number, kind) = *dice.pick(&[
                    ("icmp/echo-request", 1_u32, 8_u32),
                    ("icmp/destination-unreachable", 1, 3),
                    ("icmp/13", 1, 13),
                    ("icmpv6/echo-request", 58, 128),
                    ("icmpv6/packet-too-big", 58, 2),
                    ("icmpv6/135", 58, 135),
                ]);
                Port {
                    text: word.to_owned(),
                    low: number << 16 | kind << 8,
                    high: number << 16 | kind << 8 | 0xff,
                }
            }
            11 => {
                let (word, number, kind, code) =
                    *dice.pick(&[("icmp", 1_u32, 3_u32, 4_u32), ("icmpv6", 58, 1, 4)]);
                let service = number << 16 | kind << 8 | code;
                Port {
                    text: format!("{word}/{kind}/{code}"),
                    low: service,
                    high: service,
                }
            }
            _ => {
                let protocol = *dice.pick(&[47_u32, 50, 4, 41, 253]);
                Port {
                    text: format!("ip/{protocol}"),
                    low: protocol << 16,
                    high: protocol << 16,
                }
            }
        }
    }
}

/// A prefix as bits and the number of those that count; IPv4 is kept v4-mapped.
pub fn net(text: &str) -> (u128, u32) {
    let (address, len) = text.split_once('/').expect("a prefix");
    let len: u32 = len.parse().expect("a length");
    match address.parse().expect("an address") {
        std::net::IpAddr::V4(v4) => (u128::from(v4.to_ipv6_mapped()), len + 96),
        std::net::IpAddr::V6(v6) => (u128::from(v6), len),
    }
}

/// Whether a prefix holds an address. One of a family holds none of the other.
fn contains(prefix: &str, address: u128) -> bool {
    let (network, len) = net(prefix);
    let mapped = |bits: u128| bits >> 32 == 0xffff;
    let v4 = prefix.contains('.');
    v4 == mapped(address) && (len == 0 || (network ^ address) >> (128 - len) == 0)
}
