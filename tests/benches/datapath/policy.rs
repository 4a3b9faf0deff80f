//! Policies of any size about the same two workloads, and the packets that they let pass.

use std::{fmt::Write as _, net::Ipv4Addr};

/// The most segments that have an address on the network: as many as 10.64.0.0 to 10.199.255.0 have room for, and fewer.
const PEERS: usize = 30_000;

/// TCP and UDP ports from the client to the server that every policy opens.
pub const OPEN: std::ops::RangeInclusive<u16> = 7000..=7009;
/// A port from the client to the server that none opens.
pub const SHUT: u16 = 7100;
/// The port that the rule about the verdict that is watched moves to and from.
pub const WATCHED: u16 = 7200;

/// Addresses on the network that every policy knows, and none gives a right (RFC 5737).
pub const RIGHTLESS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 0);

/// The name of the first file.
pub const FIRST: &str = "policy.yaml";
/// A file has a largest size; this many rules are far below.
const IN_ONE_FILE: usize = 8000;
const HEAD: &str = "apiVersion: segd.dev/v1\nkind: SegmentPolicy\n";

/// A policy of a given number of rules.
#[derive(Clone, Debug)]
pub struct Sized {
    rules: usize,
    client: String,
    server: String,
}

/// A rule about an address on the network: UDP to a peer, or from it.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// An address of the peer's.
    pub peer: Ipv4Addr,
    /// The port that is asked for.
    pub port: u16,
}

impl Sized {
    /// About two cgroups, as the policy calls them. At least three rules.
    pub fn new(rules: usize, client: &str, server: &str) -> Sized {
        Sized {
            rules,
            client: client.to_owned(),
            server: server.to_owned(),
        }
    }

    /// How many rules it has.
    pub fn rules(&self) -> usize {
        self.rules
    }

    fn peers(&self) -> usize {
        self.each_way().clamp(1, PEERS)
    }

    /// How many rules are about what leaves to the network; as many about what arrives.
    fn each_way(&self) -> usize {
        (self.rules - 3) / 2
    }

    /// What rule number `rule` each way opens. Ports of one pair are never neighbours: no two rules become one range.
    pub fn pair(&self, rule: usize) -> Pair {
        let (peer, turn) = (rule % self.peers(), rule / self.peers());
        let [_, _, high, low] = (peer as u32).to_be_bytes();
        Pair {
            peer: Ipv4Addr::new(10, 64 + high, low, 1),
            port: 2000 + ((peer * 7 + turn * 53) % 60_000) as u16,
        }
    }

    /// Every pair that has a rule.
    pub fn pairs(&self) -> Vec<Pair> {
        (0..self.each_way()).map(|rule| self.pair(rule)).collect()
    }

    /// Its files by name; the first holds the segments and the rule that is watched, the others the rest of the rules.
    pub fn files(&self) -> Vec<(String, String)> {
        let others: Vec<usize> = (0..self.rules - 3).collect();
        let files = others.chunks(IN_ONE_FILE).enumerate().map(|(number, rules)| {
            let mut text = format!("{}metadata: {{name: rules-{number}}}\nspec:\n  allow:\n", HEAD);
            for rule in rules {
                self.write_rule(*rule, &mut text);
            }
            (format!("rules-{number}.yaml"), text)
        });
        [(FIRST.to_owned(), self.first(true))]
            .into_iter()
            .chain(files)
            .collect()
    }

    fn write_rule(&self, rule: usize, text: &mut String) {
        let Pair { port, .. } = self.pair(rule / 2);
        let peer = rule / 2 % self.peers();
        let (from, to) = if rule.is_multiple_of(2) {
            ("client".to_owned(), format!("s{peer}"))
        } else {
            (format!("s{peer}"), "client".to_owned())
        };
        let _ = writeln!(text, "    - {{from: {from}, to: {to}, ports: [udp/{port}]}}");
    }

    /// The first file. `watched`: whether the watched port is open; the number of rules is the same.
    pub fn first(&self, watched: bool) -> String {
        let mut text = format!(
            "{HEAD}metadata: {{name: bench}}
spec:
  segments:
    client: {{match: [{{cgroup: {}}}]}}
    server: {{match: [{{cgroup: {}}}]}}
",
            self.client, self.server
        );
        for peer in 0..self.peers() {
            let mut octets = self.pair(peer).peer.octets();
            octets[3] = 0;
            let net = Ipv4Addr::from(octets);
            let _ = writeln!(text, "    s{peer}: {{match: [{{cidr: {net}/24}}]}}");
        }
        let (first, last) = (OPEN.start(), OPEN.end());
        let _ = writeln!(text, "    rightless: {{match: [{{cidr: {RIGHTLESS}/24}}]}}");
        text.push_str("  allow:\n");
        let watched = if watched { WATCHED } else { WATCHED + 1 };
        for ports in [
            format!("tcp/{first}-{last}"),
            format!("udp/{first}-{last}"),
            format!("udp/{watched}"),
        ] {
            let _ = writeln!(text, "    - {{from: client, to: server, ports: [{ports}]}}");
        }
        text
    }
}

/// A UDP datagram of 64 bytes in an Ethernet frame.
pub fn datagram(from: Ipv4Addr, to: Ipv4Addr, source_port: u16, port: u16) -> Vec<u8> {
    const LENGTH: u16 = 64;
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    frame.extend([0x45, 0]);
    frame.extend(LENGTH.to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    frame.extend(from.octets());
    frame.extend(to.octets());
    frame.extend(source_port.to_be_bytes());
    frame.extend(port.to_be_bytes());
    frame.extend((LENGTH - 20).to_be_bytes());
    frame.resize(14 + usize::from(LENGTH), 0);
    frame
}

/// The same as it comes by a wire: to whoever hears it, with the header's checksum.
pub fn on_the_wire(from: Ipv4Addr, to: Ipv4Addr, source_port: u16, port: u16) -> Vec<u8> {
    let mut frame = datagram(from, to, source_port, port);
    frame[..6].fill(0xff);
    let words = frame[14..34].chunks_exact(2);
    let sum: u32 = words
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    frame[24..26].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    frame
}
