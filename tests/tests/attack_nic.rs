//! Frames at a NIC that segd watches (`--interface`): tags, LLC, fragments, ICMP errors, cut and lying packets.
//! BYPASSES.md section 3, classes 2, 7, 8 and 9.
//!
//! The far end of a veth is the network. What is denied never reaches a socket and is counted once, under its own name;
//! what is allowed arrives in the same wrapping, as far as Linux takes that off.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use segd_tests::{
    Cgroup, Lab, Netns, Segd, Worker,
    netns::{Sysctl, cable},
    wait::{self, PATIENCE},
    wire,
    worker::Handle,
};

const NET: u8 = 34;
const OPEN: u16 = 5300;
const SHUT: u16 = 5301;

/// `server` on the host, which `friend` may ask on one port and `stranger` may not, both out on the network.
struct Nic {
    netns: Netns,
    mac: [u8; 6],
    here: [IpAddr; 2],
    friend: [IpAddr; 2],
    stranger: [IpAddr; 2],
    server: Worker,
    ears: Vec<Handle>,
    segd: Segd,
    _server: Cgroup,
    _loose: [Sysctl; 2],
    _lab: Lab,
}

impl Nic {
    fn open() -> Option<Nic> {
        let lab = Lab::open()?;
        let netns = lab.netns("network");
        cable(&netns, NET);
        let interface = format!("sgt{}c{NET}", std::process::id() % 100_000);
        // No answer to a stranger's source is looked for: only segd shall care where a frame comes from.
        let loose =
            ["all", &interface].map(|name| Sysctl::set(&format!("net/ipv4/conf/{name}/rp_filter"), "0"));
        let cgroup = lab.cgroup("server");
        let policy = format!(
            "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: nic}}
spec:
  segments:
    server: {{match: [{{cgroup: {}}}]}}
    friend: {{match: [{{cidr: 198.51.100.0/24}}, {{cidr: 2001:db8:1::/64}}]}}
    stranger: {{intra: deny, match: [{{cidr: 203.0.113.0/24}}, {{cidr: 2001:db8:2::/64}}]}}
  allow:
    - {{from: friend, to: server, ports: [udp/{OPEN}, tcp/{OPEN}]}}
    - {{from: server, to: friend, ports: [udp/9]}}
",
            cgroup.path()
        );
        let server = lab.worker(&cgroup);
        let segd = lab.segd(&policy).args(&["--interface", &interface]).start();
        let here = [
            IpAddr::from(Ipv4Addr::new(10, 213, NET, 1)),
            Ipv6Addr::new(0xfd13, 0x213, NET.into(), 0, 0, 0, 0, 1).into(),
        ];
        let mut ears = Vec::new();
        for address in here {
            for port in [OPEN, SHUT] {
                ears.push(server.listen_udp((address, port)));
            }
        }
        Some(Nic {
            mac: wire::mac(&interface),
            friend: ["198.51.100.7", "2001:db8:1::7"].map(|text| text.parse().unwrap()),
            stranger: ["203.0.113.7", "2001:db8:2::7"].map(|text| text.parse().unwrap()),
            netns,
            here,
            server,
            ears,
            segd,
            _server: cgroup,
            _loose: loose,
            _lab: lab,
        })
    }

    /// How often a token arrived, on whatever port.
    fn count(&self, token: &str) -> usize {
        self.ears
            .iter()
            .map(|ear| self.server.inbox(*ear).count(token))
            .sum()
    }

    /// Puts frames on the wire that are all denied, each once, for this reason.
    #[track_caller]
    fn denied(&self, frames: &[Vec<u8>], reason: &str, token: &str) {
        self.segd.denies(frames.len() as u64, &[reason], || {
            wire::inject(&self.netns, frames);
        });
        assert_eq!(self.count(token), 0, "`{token}` arrived");
    }

    /// Puts frames on the wire that are one datagram, and allowed.
    #[track_caller]
    fn arrives(&self, frames: &[Vec<u8>], token: &str) {
        wire::inject(&self.netns, frames);
        wait::wait_until(format!("`{token}` arrives"), PATIENCE, || self.count(token) == 1);
    }

    /// Puts frames on the wire that nobody takes and nobody need deny.
    #[track_caller]
    fn ignored(&self, frames: &[Vec<u8>], token: &str) {
        self.segd.denies(0, &[], || {
            wire::inject(&self.netns, frames);
            wait::quiet(wait::SILENCE);
        });
        assert_eq!(self.count(token), 0, "`{token}` arrived");
    }

    fn ethernet(&self, packet: &[u8]) -> Vec<u8> {
        wire::frame(self.mac, packet)
    }

    /// A datagram from one of these to the host.
    fn datagram(&self, from: [IpAddr; 2], family: usize, port: u16, token: &str) -> Vec<u8> {
        let (from, to) = (from[family], self.here[family]);
        let upper = wire::udp_between((from, 40_000).into(), (to, port).into(), token.as_bytes());
        wire::packet(from, to, 17, &upper)
    }
}

/// Puts tags between the addresses and the type of a frame, the outermost first: (type, VLAN).
fn tagged(frame: &[u8], tags: &[(u16, u16)]) -> Vec<u8> {
    let mut with = frame[..12].to_vec();
    for (kind, number) in tags {
        with.extend(kind.to_be_bytes());
        with.extend(number.to_be_bytes());
    }
    with.extend(&frame[12..]);
    with
}

const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88a8;

/// Class 9. VLAN 0 is a priority and no network: Linux takes such tags off without a VLAN device, so they hide nothing
/// from it (VU#855201).
#[test]
fn tags_hide_no_packet_and_more_than_two_let_none_through() {
    let Some(nic) = Nic::open() else { return };
    let stacks: [&[(u16, u16)]; 5] = [
        &[],
        &[(VLAN, 0)],
        &[(VLAN, 7)],
        &[(SERVICE_VLAN, 0), (VLAN, 0)],
        &[(SERVICE_VLAN, 5), (VLAN, 6)],
    ];
    for (number, tags) in stacks.into_iter().enumerate() {
        for family in [0, 1] {
            let token = |who: &str| format!("{who}-{number}-{family};");
            let stranger = nic.ethernet(&nic.datagram(nic.stranger, family, OPEN, &token("stranger")));
            nic.denied(&[tagged(&stranger, tags)], "no-rule", &token("stranger"));
            let good = nic.ethernet(&nic.datagram(nic.friend, family, OPEN, &token("friend")));
            let wrapped = tagged(&good, tags);
            if tags.iter().all(|(_, number)| *number == 0) {
                nic.arrives(&[wrapped], &token("friend"));
            } else {
                // Of a VLAN that this host is not in.
                nic.ignored(&[wrapped], &token("friend"));
            }
        }
    }
    for tags in [
        [(VLAN, 0); 3],
        [(SERVICE_VLAN, 1), (SERVICE_VLAN, 2), (VLAN, 3)],
        [(VLAN, 1), (VLAN, 0), (SERVICE_VLAN, 0)],
    ] {
        for (family, from) in [
            (0, nic.friend),
            (1, nic.friend),
            (0, nic.stranger),
            (1, nic.stranger),
        ] {
            let frame = nic.ethernet(&nic.datagram(from, family, OPEN, "deep;"));
            nic.denied(&[tagged(&frame, &tags)], "framing", "deep;");
        }
    }
    // A tag that the end of the frame cuts off.
    let short = tagged(&nic.ethernet(&[]), &[(VLAN, 0)]);
    nic.denied(&[short[..14].to_vec()], "framing", "cut;");
}

/// Class 9. What stands in a length field is LLC; Linux takes no IP out of that, others behind it may (CVE-2021-27853).
#[test]
fn ip_in_llc_and_snap_is_let_through_to_nobody() {
    let Some(nic) = Nic::open() else { return };
    let wrap = |family: usize, header: &[u8]| {
        let packet = nic.datagram(nic.friend, family, OPEN, "wrapped;");
        let mut body = header.to_vec();
        body.extend(&packet);
        let mut frame = nic.ethernet(&packet)[..12].to_vec();
        frame.extend((body.len() as u16).to_be_bytes());
        frame.extend(body);
        frame
    };
    let snap = |kind: u16| {
        let [high, low] = kind.to_be_bytes();
        [0xaa, 0xaa, 3, 0, 0, 0, high, low]
    };
    let hidden = [
        wrap(0, &[0x06, 0x06, 3]),
        wrap(0, &snap(0x0800)),
        wrap(1, &snap(0x86dd)),
        wrap(0, &snap(VLAN)),
        tagged(&wrap(0, &snap(0x0800)), &[(VLAN, 0)]),
        tagged(&wrap(1, &snap(0x86dd)), &[(SERVICE_VLAN, 0), (VLAN, 0)]),
    ];
    nic.denied(&hidden, "framing", "wrapped;");
    // A spanning tree's, and AppleTalk's: no packet, nobody's concern.
    let others = [wrap(0, &[0x42, 0x42, 3]), wrap(0, &snap(0x809b))];
    nic.ignored(&others, "wrapped;");
}

/// A datagram in pieces: where each begins, and how many bytes it has. The last one says so.
fn pieces(
    nic: &Nic,
    from: [IpAddr; 2],
    family: usize,
    token: &str,
    number: u16,
    cuts: &[(usize, usize)],
) -> Vec<Vec<u8>> {
    let whole = nic.datagram(
        from,
        family,
        OPEN,
        &format!("{token}{}", "x".repeat(64 - token.len())),
    );
    let end = whole.len();
    let piece = |&(start, length): &(usize, usize)| match (from[family], nic.here[family]) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let last = if start + length + 20 >= end { 0 } else { 0x2000 };
            let place = last | (start / 8) as u16;
            wire::v4_form(
                from,
                to,
                &[],
                (number, place),
                17,
                &whole[20 + start..20 + start + length],
            )
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let more = u16::from(start + length + 40 < end);
            let [high, low] = (start as u16 | more).to_be_bytes();
            let [a, b] = number.to_be_bytes();
            let header = (44, vec![0, high, low, 0, 0, a, b]);
            wire::v6_form(from, to, &[header], 17, &whole[40 + start..40 + start + length])
        }
        _ => unreachable!("one family"),
    };
    cuts.iter().map(|cut| nic.ethernet(&piece(cut))).collect()
}

/// Class 2. 72 bytes: the UDP header and 64 of data.
#[test]
fn fragments_follow_a_first_one_that_was_let_in_and_overtake_or_overwrite_nothing() {
    let Some(nic) = Nic::open() else { return };
    let number = std::cell::Cell::new(100);
    for family in [0, 1] {
        let cut = |from: [IpAddr; 2], token: &str, cuts: &[(usize, usize)]| {
            number.set(number.get() + 1);
            pieces(&nic, from, family, token, number.get(), cuts)
        };
        let token = |what: &str| format!("{what}-{family};");
        let all = [(0, 24), (24, 24), (48, 24)];
        nic.arrives(&cut(nic.friend, &token("in-order"), &all), &token("in-order"));
        // The later ones may change places among each other.
        let swapped = [(0, 24), (48, 24), (24, 24)];
        nic.arrives(&cut(nic.friend, &token("swapped"), &swapped), &token("swapped"));

        // A stranger's first one is denied, and nothing follows it.
        let foreign = cut(nic.stranger, &token("foreign"), &all);
        nic.denied(&foreign[..1], "no-rule", &token("foreign"));
        nic.denied(&foreign[1..], "orphan-fragment", &token("foreign"));
        // Nor does it follow another's first one of the same number.
        let friends = cut(nic.friend, &token("borrowed"), &all[..1]);
        wire::inject(&nic.netns, &friends);
        let strangers = pieces(
            &nic,
            nic.stranger,
            family,
            &token("borrowed"),
            number.get(),
            &all[1..],
        );
        nic.denied(&strangers, "orphan-fragment", &token("borrowed"));

        // One that comes before the first is gone, and the datagram with it.
        let early = cut(nic.friend, &token("early"), &[(24, 24), (0, 24), (48, 24)]);
        nic.denied(&early[..1], "orphan-fragment", &token("early"));
        nic.ignored(&early[1..], &token("early"));

        // What would overwrite the header, or some of what came with it.
        for start in [8, 16] {
            let pieces = cut(nic.friend, &token("over"), &[(0, 24), (start, 24)]);
            nic.ignored(&pieces[..1], &token("over"));
            nic.denied(&pieces[1..], "overlapping-fragment", &token("over"));
        }

        // A first one whose header is not all there.
        let tiny = match (nic.friend[family], nic.here[family]) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                wire::v4_form(from, to, &[], (900, 0x2000), 6, &wire::syn(OPEN)[..8])
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let header = (44, vec![0, 0, 1, 0, 0, 0, 9]);
                wire::v6_form(from, to, &[header], 6, &wire::syn(OPEN)[..8])
            }
            _ => unreachable!("one family"),
        };
        nic.denied(&[nic.ethernet(&tiny)], "tiny-fragment", "tiny;");
    }
    // Beyond the end of any datagram.
    let (IpAddr::V4(from), IpAddr::V4(to)) = (nic.friend[0], nic.here[0]) else {
        unreachable!("IPv4 comes first")
    };
    let first = wire::v4_form(
        from,
        to,
        &[],
        (901, 0x2000),
        17,
        &wire::udp(40_000, OPEN, &[0; 16]),
    );
    let beyond = wire::v4_form(from, to, &[], (901, 0x1fff), 17, &[0; 64]);
    nic.ignored(&[nic.ethernet(&first)], "beyond;");
    nic.denied(&[nic.ethernet(&beyond)], "length", "beyond;");
}

/// Class 8. An error is about a packet that left this host, or it is nothing.
#[test]
fn an_error_from_the_network_is_about_what_was_sent_or_is_dropped() {
    let Some(nic) = Nic::open() else { return };
    for family in [0, 1] {
        let (here, friend) = (nic.here[family], nic.friend[family]);
        // Whose route leads nowhere else, so that the datagrams leave by the wire.
        let hop = if family == 0 {
            format!("10.213.{NET}.2")
        } else {
            format!("fd13:213:{NET:x}::2")
        };
        segd_tests::netns::ip(&format!("route replace {friend} via {hop}"));
        let asker = nic.server.open_udp((here, 0), Some((friend, 9).into())).unwrap();
        nic.server.send(asker, "asked;").unwrap();
        let unreachable = if family == 0 { (3, 3) } else { (1, 4) };
        let error = |from: IpAddr, kind: (u8, u8), inner: &[u8]| {
            let (protocol, upper) = wire::error(from, here, kind, inner);
            nic.ethernet(&wire::packet(from, here, protocol, &upper))
        };
        let sent = |from: SocketAddr, to: SocketAddr| {
            wire::packet(from.ip(), to.ip(), 17, &wire::udp_between(from, to, b"asked;"))
        };
        let real = sent(asker.local, (friend, 9).into());
        let forged = [
            sent(asker.local, (friend, 10).into()),
            sent((here, 41_999).into(), (friend, 9).into()),
            sent((friend, 9).into(), asker.local),
            sent(asker.local, (nic.stranger[family], 9).into()),
            real[..12].to_vec(),
        ];
        let too_big = if family == 0 { (3, 4) } else { (2, 0) };
        for inner in &forged {
            for kind in [unreachable, too_big] {
                nic.denied(&[error(friend, kind, inner)], "icmp-error", "asked;");
            }
        }
        // The socket heard of none of them.
        nic.server.send(asker, "asked;").unwrap();
        // Any router on the way may be the one that says so.
        nic.segd.denies(0, &[], || {
            wire::inject(&nic.netns, &[error(nic.stranger[family], unreachable, &real)]);
        });
        wait::wait_until("the socket is told", PATIENCE, || {
            nic.server
                .send(asker, "asked;")
                .is_err_and(|refusal| refusal.errno == "ECONNREFUSED")
        });
        nic.server.close(asker);
    }
}

/// Class 7. Each cut of a good packet, down to nothing.
#[test]
fn a_packet_cut_anywhere_is_denied_and_what_is_behind_its_end_is_padding() {
    let Some(nic) = Nic::open() else { return };
    for family in [0, 1] {
        let good = nic.datagram(nic.friend, family, OPEN, "cut;");
        // What must be there before a length can be read.
        let header = if family == 0 { 20 } else { 8 };
        let frames = |lengths: std::ops::Range<usize>| -> Vec<Vec<u8>> {
            lengths.map(|length| nic.ethernet(&good[..length])).collect()
        };
        // A veth pads nothing: these are as short as they look.
        nic.denied(&frames(0..header), "truncated", "cut;");
        nic.denied(&frames(header..good.len()), "length", "cut;");
        let token = format!("padded-{family};");
        let mut padded = nic.ethernet(&nic.datagram(nic.friend, family, OPEN, &token));
        padded.resize(padded.len() + 30, 0xff);
        nic.arrives(&[padded], &token);
        // IP of the other family than the frame says.
        let mut other = nic.ethernet(&good);
        other[12..14].copy_from_slice(&if family == 0 { 0x86dd_u16 } else { 0x0800 }.to_be_bytes());
        nic.denied(&[other], "malformed", "cut;");
    }
}

/// Class 5. Whoever reads an IPv6 packet's addresses as sockets spell them takes this one for a friend's.
#[test]
fn a_v4_mapped_address_does_not_come_by_a_wire() {
    let Some(nic) = Nic::open() else { return };
    let mapped = |address: IpAddr| match address {
        IpAddr::V4(v4) => IpAddr::V6(v4.to_ipv6_mapped()),
        v6 @ IpAddr::V6(_) => v6,
    };
    let [friend4, friend6] = nic.friend;
    let [here4, here6] = nic.here;
    let ends = [
        (mapped(friend4), here6),
        (friend6, mapped(here4)),
        (mapped(friend4), mapped(here4)),
    ];
    let frames = ends.map(|(from, to)| {
        let upper = wire::udp_between((from, 40_000).into(), (to, OPEN).into(), b"mapped;");
        nic.ethernet(&wire::packet(from, to, 17, &upper))
    });
    nic.denied(&frames, "mapped-address", "mapped;");
}
