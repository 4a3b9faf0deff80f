//! What people would use instead, each in a network namespace or cgroup of its own, with about a thousand entries and the
//! rights that the benchmark's traffic needs.

use std::{fmt::Write as _, io, os::fd::OwnedFd, path::Path};

use super::{
    assembler, bpf,
    bpf::{CGROUP_SKB, HOOKS},
    policy::OPEN,
    program::tries,
    stage::{DEVICE, Place, inside},
};

/// How many entries the sets have beside those that are used.
const ENTRIES: u16 = 1000;

/// What a rival keeps attached for as long as it is measured.
#[derive(Debug, Default)]
pub struct Attached {
    _links: Vec<OwnedFd>,
    _programs: Vec<OwnedFd>,
    _tries: Vec<assembler::Compared>,
    /// The program whose runs are counted.
    pub program: Option<u32>,
}

/// A program that does nothing, at both hooks, `times` times.
pub fn empty(place: &Place, times: usize) -> io::Result<Attached> {
    let program = assembler::empty(CGROUP_SKB)?;
    attach(place, program, times)
}

fn attach(place: &Place, program: OwnedFd, times: usize) -> io::Result<Attached> {
    let id = bpf::program(&program)?.id;
    Ok(Attached {
        _links: copies(place, &program, times, &HOOKS)?,
        _programs: vec![program],
        program: Some(id),
        ..Attached::default()
    })
}

/// Attaches a program several times: a hook that costs little is measured by running it often.
pub fn copies(
    place: &Place,
    program: &OwnedFd,
    times: usize,
    hooks: &[bpf::Hook],
) -> io::Result<Vec<OwnedFd>> {
    let all = hooks.iter().flat_map(|hook| std::iter::repeat_n(hook, times));
    all.map(|hook| bpf::attach(program, place.cgroup(), *hook))
        .collect()
}

/// One hash lookup at both hooks, `times` times.
pub fn hash(place: &Place, times: usize) -> io::Result<Attached> {
    let local = std::net::Ipv4Addr::LOCALHOST;
    let compared = assembler::one_hash(&[(local, local, 6), (local, local, 17)])?;
    let id = bpf::program(&compared.program)?.id;
    Ok(Attached {
        _links: copies(place, &compared.program, times, &HOOKS)?,
        _tries: vec![compared],
        program: Some(id),
        ..Attached::default()
    })
}

/// systemd's address filter in shape, at both hooks, `times` times.
pub fn systemd(place: &Place, times: usize) -> io::Result<Attached> {
    let mut attached = Attached::default();
    for hook in HOOKS {
        let compared = assembler::two_tries(hook, &tries())?;
        attached
            ._links
            .extend(copies(place, &compared.program, times, &[hook])?);
        attached.program = Some(bpf::program(&compared.program)?.id);
        attached._tries.push(compared);
    }
    Ok(attached)
}

/// What an nftables arm does with the packets of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connections {
    /// Looks each one up. What shakes hands belongs to no socket that nftables finds, so what is no SYN passes in the end.
    Unknown,
    /// Lets connection tracking know them, and looks up what is new.
    Tracked,
}

/// nftables: `socket cgroupv2` with the protocol and port in one set, at both hooks. What is not in it is dropped.
/// `mount`: the cgroup2 mount.
pub fn nftables(place: &Place, mount: &Path, connections: Connections) -> Result<(), String> {
    // nft opens the path below /sys/fs/cgroup; the kernel counts the level from the root of the hierarchy.
    let below = mount.strip_prefix("/sys/fs/cgroup").unwrap_or(Path::new(""));
    let path = |end: &str| below.join(place.path(end)).display().to_string();
    let level = place.path("client").split('/').count();
    let mut elements = String::new();
    for end in ["client", "server"] {
        for port in OPEN.chain(10_000..10_000 + ENTRIES / 2) {
            for protocol in ["tcp", "udp"] {
                let _ = write!(elements, "\"{}\" . {protocol} . {port}, ", path(end));
            }
        }
    }
    let kind = format!("typeof socket cgroupv2 level {level} . meta l4proto . th dport");
    let key = |port: &str| format!("socket cgroupv2 level {level} . meta l4proto . th {port} @rights accept");
    let rules = match connections {
        Connections::Unknown => [
            key("dport"),
            key("sport"),
            "tcp flags & (syn | ack) != syn accept".to_owned(),
        ]
        .join("\n"),
        Connections::Tracked => ["ct state established accept".to_owned(), key("dport")].join("\n"),
    };
    let mut text = format!("table inet bench {{\nset rights {{ {kind}; elements = {{ {elements} }} }}\n");
    for hook in ["input", "output"] {
        let _ = writeln!(
            text,
            "chain {hook} {{ type filter hook {hook} priority 0; policy drop;\n{rules}\nmeta l4proto ipv6-icmp accept\n}}"
        );
    }
    text.push_str("}\n");
    place
        .namespaces()
        .into_iter()
        .try_for_each(|netns| inside(netns, &["nft", "-f", "-"], &text))
}

/// nftables where a device hands packets over (`ingress`): a set of addresses and ports that may come in, and the rest is dropped.
/// The server's end of the cable.
pub fn nftables_ingress(place: &Place) -> Result<(), String> {
    let mut elements = String::new();
    for entry in 0..ENTRIES {
        let [high, low] = entry.to_be_bytes();
        let _ = write!(elements, "10.66.{high}.{low} . 7000, ");
    }
    let text = format!(
        "table netdev bench {{
set rights {{ type ipv4_addr . inet_service; elements = {{ {elements} }} }}
chain early {{ type filter hook ingress device \"{DEVICE}\" priority 0; policy drop;
ether type arp accept
ip saddr . udp dport @rights accept
}}
}}
"
    );
    inside(place.namespaces()[1], &["nft", "-f", "-"], &text)
}

/// iptables: `-m cgroup --path` with one `hash:ip,port` set. It knows the cgroup of what arrives only where a socket was
/// found early, so there the set alone decides; and of a SYN-ACK never, so those pass.
pub fn iptables(place: &Place) -> Result<(), String> {
    [false, true]
        .into_iter()
        .try_for_each(|six| iptables_of(place, six))
}

fn iptables_of(place: &Place, six: bool) -> Result<(), String> {
    let (program, family, name) = if six {
        ("ip6tables", "inet6", "rights6")
    } else {
        ("iptables", "inet", "rights4")
    };
    for netns in place.namespaces() {
        let mut set = format!("create {name} hash:ip,port family {family} hashsize 4096\n");
        for way in [false, true].map(|beside| super::stage::Way { beside, six }) {
            for address in [place.server(way), place.client(way)] {
                for port in OPEN.chain(10_000..10_000 + ENTRIES / 8) {
                    for protocol in ["tcp", "udp"] {
                        let _ = writeln!(set, "add {name} {address},{protocol}:{port} -exist");
                    }
                }
            }
        }
        inside(netns, &["ipset", "restore"], &set)?;
        let (client, server) = (place.path("client"), place.path("server"));
        let rule = |words: String| {
            let mut all = vec![program, "-w"];
            all.extend(words.split_whitespace());
            inside(netns, &all, "")
        };
        if six {
            for chain in ["INPUT", "OUTPUT"] {
                rule(format!("-A {chain} -p ipv6-icmp -j ACCEPT"))?;
            }
        }
        rule(format!(
            "-A OUTPUT -m cgroup --path {client} -m set --match-set {name} dst,dst -j ACCEPT"
        ))?;
        rule(format!(
            "-A OUTPUT -m cgroup --path {server} -m set --match-set {name} src,src -j ACCEPT"
        ))?;
        rule("-A OUTPUT -p tcp --tcp-flags SYN,ACK SYN,ACK -j ACCEPT".to_owned())?;
        rule(format!("-A INPUT -m set --match-set {name} dst,dst -j ACCEPT"))?;
        rule(format!("-A INPUT -m set --match-set {name} src,src -j ACCEPT"))?;
        for chain in ["INPUT", "OUTPUT"] {
            rule(format!("-P {chain} DROP"))?;
        }
    }
    Ok(())
}
