//! "Deny everything" for a while, and the network itself goes on: neighbours, router discovery, groups, duplicate
//! addresses, DHCP, path MTU, resets. BYPASSES.md B18.
//!
//! A short form by default; `SEGD_DENY_SECONDS=120` for the two minutes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    fs,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use segd_tests::{
    Cgroup, Craft, Kind, Lab, Netns, Segd, Worker,
    netns::ip,
    sys,
    wait::{self, PATIENCE},
    worker::{Handle, probe},
};

/// Between the host and the router, and between the router and the far machine, where the path is narrow.
const NEAR: u8 = 35;
const FAR: u8 = 36;
const NARROW: u16 = 1300;
const OPEN: u16 = 5400;
/// Allowed, and nobody listens.
const CLOSED: u16 = 5401;
const SHUT: u16 = 9000;

/// A process that ends with the test.
struct Process(Child);

impl Process {
    #[track_caller]
    fn start(words: &[&str], netns: Option<&Netns>) -> Process {
        let mut command = match netns {
            Some(netns) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net={}", netns.path().display()));
                command.args(words);
                command
            }
            None => {
                let mut command = Command::new(words[0]);
                command.args(&words[1..]);
                command
            }
        };
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Process(
            command
                .spawn()
                .unwrap_or_else(|error| panic!("{words:?}: {error}")),
        )
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The host with one wire, a router at its end that also gives out addresses, and a machine behind the router.
struct Net {
    router: Netns,
    interface: String,
    web: Worker,
    rogue: Worker,
    /// Nobody's process on the router.
    outside: Worker,
    far: Worker,
    ears: [Handle; 2],
    shut: Vec<Handle>,
    segd: Segd,
    directory: tempfile::TempDir,
    _far: Netns,
    _cgroups: [Cgroup; 3],
    _lab: Lab,
}

fn address(net: u8, host: u8) -> [IpAddr; 2] {
    [
        format!("10.213.{net}.{host}").parse().unwrap(),
        format!("fd13:213:{net:x}::{host}").parse().unwrap(),
    ]
}

/// Everything is denied but what one port needs to show the path MTU and resets, and what this machine lives by.
fn policy(web: &Cgroup, rogue: &Cgroup) -> String {
    format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: deny-everything}}
spec:
  defaults: {{host: enforce}}
  segments:
    web: {{match: [{{cgroup: {}}}]}}
    rogue: {{match: [{{cgroup: {}}}]}}
    outside:
      intra: deny
      match: [{{cidr: 10.213.{NEAR}.0/24}}, {{cidr: 10.213.{FAR}.0/24}}, {{cidr: \"fd13:213::/32\"}}]
  allow:
    - {{from: [host, world], to: [host, world], ports: [any]}}
    - {{from: web, to: outside, ports: [tcp/{OPEN}-{CLOSED}]}}
    # The host may ask for an address without a rule. Here the server is on this very host, and may be asked by this one.
    - {{from: host, to: outside, ports: [udp/67]}}
",
        web.path(),
        rogue.path()
    )
}

impl Net {
    fn build() -> Option<Net> {
        let lab = Lab::open()?;
        let (router, far) = (lab.netns("router"), lab.netns("far"));
        let interface = format!("sgt{}c{NEAR}", std::process::id() % 100_000);
        ip(&format!(
            "link add {interface} type veth peer name left netns {}",
            router.name()
        ));
        ip(&format!(
            "link add eth0 netns {} type veth peer name right netns {}",
            far.name(),
            router.name()
        ));
        for (netns, device, net, host) in [
            (&router, "left", NEAR, 1),
            (&router, "right", FAR, 1),
            (&far, "eth0", FAR, 2),
        ] {
            netns.sysctl(&format!("net/ipv6/conf/{device}/accept_dad"), "0");
            let [v4, v6] = address(net, host);
            netns.ip(&format!("addr add {v4}/24 dev {device}"));
            netns.ip(&format!("addr add {v6}/64 dev {device} nodad"));
            netns.ip(&format!("link set {device} up"));
        }
        for (family, gateway) in address(FAR, 1).into_iter().enumerate() {
            far.ip(&format!(
                "{} route add default via {gateway}",
                ["-4", "-6"][family]
            ));
        }
        router.sysctl("net/ipv4/ip_forward", "1");
        router.sysctl("net/ipv6/conf/all/forwarding", "1");
        // Only the router knows how narrow it is behind it.
        router.ip(&format!("link set dev right mtu {NARROW}"));
        for (name, value) in [
            ("accept_ra", "2"),
            ("autoconf", "1"),
            ("router_solicitation_delay", "0"),
        ] {
            fs::write(format!("/proc/sys/net/ipv6/conf/{interface}/{name}"), value).unwrap();
        }
        let [web, rogue, nobody] = ["web", "rogue", "nobody"].map(|name| lab.cgroup(name));
        let policy = policy(&web, &rogue);
        let segd = lab
            .segd(&policy)
            .args(&["--interface", &interface])
            .limit(240 + window().as_secs())
            .start();
        let outside = lab.worker_in(&nobody, &router);
        let server = lab.worker_in(&nobody, &far);
        let ears = address(FAR, 2).map(|at| server.listen_tcp((at, OPEN)));
        let mut shut = Vec::new();
        for at in address(FAR, 2) {
            shut.push(server.listen_udp((at, SHUT)));
            shut.push(server.listen_tcp((at, SHUT)));
        }
        Some(Net {
            web: lab.worker(&web),
            rogue: lab.worker(&rogue),
            outside,
            far: server,
            ears,
            shut,
            segd,
            router,
            interface,
            directory: tempfile::Builder::new().prefix("segd-t-").tempdir().unwrap(),
            _far: far,
            _cgroups: [web, rogue, nobody],
            _lab: lab,
        })
    }

    /// A server that leases for 20 s, on the router.
    fn dhcp_server(&self) -> Process {
        let [first, last] = [address(NEAR, 100)[0], address(NEAR, 110)[0]];
        let leases = self.directory.path().join("leases");
        fs::write(&leases, "").unwrap();
        let configuration = self.directory.path().join("udhcpd.conf");
        let text = format!(
            "start {first}\nend {last}\ninterface left\nlease_file {leases}\npidfile {pid}\nmin_lease 10\n\
             option subnet 255.255.255.0\noption lease 20\n",
            leases = leases.display(),
            pid = self.directory.path().join("pid").display()
        );
        fs::write(&configuration, text).unwrap();
        Process::start(
            &["busybox", "udhcpd", "-f", configuration.to_str().unwrap()],
            Some(&self.router),
        )
    }

    /// A client on the host, which writes what became of its lease to a file.
    fn dhcp_client(&self) -> (Process, PathBuf) {
        let (story, script) = (
            self.directory.path().join("story"),
            self.directory.path().join("script"),
        );
        fs::write(&story, "").unwrap();
        let text = format!(
            "#!/bin/sh\necho \"$1 $ip\" >> {}\ncase $1 in bound|renew) ip addr replace $ip/24 dev $interface;; esac\n",
            story.display()
        );
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let words = [
            "busybox",
            "udhcpc",
            "-f",
            "-i",
            &self.interface,
            "-t",
            "20",
            "-T",
            "1",
            "-s",
        ];
        let script = script.to_str().unwrap();
        (Process::start(&[&words[..], &[script]].concat(), None), story)
    }

    /// How often the router has received an ICMPv6 message of this name (RFC 4293).
    fn router_heard(&self, name: &str) -> u64 {
        let counters = self.outside.read_file("/proc/thread-self/net/snmp6");
        let line = counters.lines().find_map(|line| line.strip_prefix(name));
        line.map_or(0, |count| count.trim().parse().unwrap())
    }

    /// The router tells the prefix: no default route, an address of one's own making.
    fn advertise(&self) {
        let mut message = vec![134, 0, 0, 0, 64, 0, 0, 0];
        message.extend([0; 8]);
        message.extend([3, 4, 64, 0xc0, 0, 0, 2, 0x58, 0, 0, 2, 0x58, 0, 0, 0, 0]);
        message.extend(address_octets(NEAR));
        let all_nodes: Ipv6Addr = "ff02::1".parse().unwrap();
        let index: i32 = self
            .outside
            .read_file("/proc/thread-self/net/if_inet6")
            .lines()
            .find(|line| line.ends_with(" left"))
            .and_then(|line| i32::from_str_radix(line.split_whitespace().nth(1)?, 16).ok())
            .expect("the router's left device");
        let craft = Craft::raw(all_nodes, libc::IPPROTO_ICMPV6, &message)
            .flag(libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF, index)
            .flag(libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_HOPS, 255);
        self.outside.craft(craft).expect("a router may advertise");
    }

    fn addresses(&self) -> String {
        let output = Command::new("ip")
            .args(["addr", "show", "dev", &self.interface])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Both families' neighbours, forgotten and found again from both ends.
    fn neighbours_are_found(&self) {
        for (at, host) in [(None, 1), (Some(&self.router), 9)] {
            let run = |words: &str| match at {
                None => ip(&words.replace("DEVICE", &self.interface)),
                Some(netns) => netns.ip(&words.replace("DEVICE", "left")),
            };
            for (option, target) in ["-4", "-6"].into_iter().zip(address(NEAR, host)) {
                run(&format!("{option} neigh flush dev DEVICE"));
                run(&format!(
                    "{option} neigh replace {target} dev DEVICE nud none use"
                ));
                wait::wait_until(format!("{target} is found"), Duration::from_secs(3), || {
                    let mut command = Command::new("ip");
                    if let Some(netns) = at {
                        command.args(["-n", netns.name()]);
                    }
                    let text = command
                        .args([option, "neigh", "show", &target.to_string()])
                        .output()
                        .unwrap();
                    let text = String::from_utf8_lossy(&text.stdout).into_owned();
                    ["REACHABLE", "DELAY", "STALE"]
                        .iter()
                        .any(|state| text.contains(state))
                        && text.contains("lladdr")
                });
            }
        }
    }

    /// A new address is tried, and one that the router has is found out.
    fn duplicates_are_found(&self) {
        for (last, ends) in [("77", "it is good"), ("1", "dadfailed")] {
            let new = format!("fd13:213:{NEAR:x}::{last}");
            ip(&format!("addr add {new}/64 dev {}", self.interface));
            wait::wait_until(format!("{new} was tried"), Duration::from_secs(5), || {
                let addresses = self.addresses();
                let line = addresses.lines().find(|line| line.contains(&format!("{new}/64")));
                line.is_some_and(|line| {
                    line.contains("dadfailed") == (ends == "dadfailed")
                        && (line.contains("dadfailed") || !line.contains("tentative"))
                })
            });
            ip(&format!("addr del {new}/64 dev {}", self.interface));
        }
    }

    /// The one allowed flow learns how narrow its path is, anew each time.
    fn path_is_learned(&self) {
        for (option, ear) in ["-4", "-6"].into_iter().zip(self.ears) {
            ip(&format!("{option} route flush cache"));
            let before = self.far.inbox(ear).bytes;
            let flow = self.web.open_tcp(ear.local).expect("it is allowed");
            self.web.send(flow, &"x".repeat(50_000)).unwrap();
            wait::wait_until(
                format!("50 kB over the narrow path to {}", ear.local),
                PATIENCE,
                || self.far.inbox(ear).bytes == before + 50_000,
            );
            self.web.close(flow);
        }
    }

    fn resets_arrive(&self) {
        for at in address(FAR, 2) {
            let outcome = self.web.probe(Kind::Tcp, (at, CLOSED), "closed;");
            assert_eq!(outcome.result, "ECONNREFUSED", "the reset of {at}");
        }
    }

    /// What is denied: from a workload, from nobody's process there, from the host itself.
    fn rest_is_denied(&self) {
        let mut here: Vec<SocketAddr> = Vec::new();
        for at in address(FAR, 2) {
            here.extend([SHUT, OPEN].map(|port| SocketAddr::from((at, port))));
        }
        for kind in [Kind::Tcp, Kind::Udp, Kind::RawUdp] {
            let probes = here.iter().map(|to| probe(kind, *to, "leak;")).collect();
            self.rogue.probe_all(probes);
            let shut = address(FAR, 2).map(|at| probe(kind, (at, SHUT), "leak;"));
            self.web.probe_all(shut.to_vec());
        }
        for at in address(FAR, 2) {
            assert_ne!(self.rogue.probe(Kind::Echo, (at, 0), "leak").result, "ok");
        }
    }

    fn nothing_leaked(&self) {
        wait::quiet(wait::SILENCE);
        for ear in self.shut.iter().chain(&self.ears) {
            let inbox = self.far.inbox(*ear);
            assert!(!inbox.has("leak;"), "{}", ear.local);
        }
        for ear in &self.shut {
            assert_eq!(self.far.inbox(*ear).accepts, 0, "{}", ear.local);
        }
    }
}

fn address_octets(net: u8) -> [u8; 16] {
    let IpAddr::V6(prefix) = address(net, 0)[1] else {
        unreachable!("the second is IPv6")
    };
    prefix.octets()
}

fn window() -> Duration {
    let seconds = std::env::var("SEGD_DENY_SECONDS").ok();
    Duration::from_secs(seconds.map_or(12, |seconds| seconds.parse().expect("a number of seconds")))
}

fn renewals(story: &PathBuf) -> usize {
    fs::read_to_string(story)
        .unwrap()
        .lines()
        .filter(|line| line.starts_with("renew "))
        .count()
}

#[test]
fn the_network_itself_goes_on_while_everything_is_denied() {
    let Some(net) = Net::build() else { return };
    let start = Instant::now();
    // Whoever wants to hear which groups the host is in listens on a group of its own (RFC 3810).
    let reports = net.outside.listen_udp((Ipv6Addr::UNSPECIFIED, 5999));
    let index = net.outside.read_file("/proc/thread-self/net/if_inet6");
    let index = index.lines().find(|line| line.ends_with(" left")).unwrap();
    let index = u32::from_str_radix(index.split_whitespace().nth(1).unwrap(), 16).unwrap();
    let routers: Ipv6Addr = "ff02::16".parse().unwrap();
    let join = [&routers.octets()[..], &index.to_ne_bytes()].concat();
    net.outside
        .set_option(reports, libc::IPPROTO_IPV6, libc::IPV6_ADD_MEMBERSHIP, &join);

    // The wire is plugged in: the host asks for routers, tells its groups, and makes its addresses.
    ip(&format!("link set {} up", net.interface));
    wait::wait_until("the router hears a solicitation", PATIENCE, || {
        net.router_heard("Icmp6InRouterSolicits") > 0
    });
    wait::wait_until("the router hears of groups", PATIENCE, || {
        net.router_heard("Icmp6InMLDv2Reports") > 0
    });
    wait::wait_until("the host has an address by advertisement", PATIENCE, || {
        net.advertise();
        let addresses = net.addresses();
        let line = addresses.lines().find(|line| line.contains("dynamic mngtmpaddr"));
        line.is_some_and(|line| line.contains(&format!("fd13:213:{NEAR:x}:")) && !line.contains("tentative"))
    });
    let server = net.dhcp_server();
    let (client, story) = net.dhcp_client();
    wait::wait_until("a lease", PATIENCE, || {
        fs::read_to_string(&story).unwrap().contains("bound 10.213.")
    });
    // The router answers to a fixed address of the host, and the host has a way to the far machine.
    let [v4, v6] = address(NEAR, 9);
    ip(&format!("addr add {v4}/24 dev {}", net.interface));
    ip(&format!("addr add {v6}/64 dev {} nodad", net.interface));
    for (network, gateway) in [format!("10.213.{FAR}.0/24"), format!("fd13:213:{FAR:x}::/64")]
        .into_iter()
        .zip(address(NEAR, 1))
    {
        ip(&format!("route add {network} via {gateway} mtu 1500"));
    }
    let mut rounds = 0;
    while rounds < 2 || start.elapsed() < window() {
        rounds += 1;
        net.neighbours_are_found();
        net.duplicates_are_found();
        net.path_is_learned();
        net.resets_arrive();
        net.rest_is_denied();
        net.advertise();
        let before = renewals(&story);
        // At once instead of after half the lease: by a UDP socket, to the server alone.
        sys::kill(client.0.id(), libc::SIGUSR1);
        wait::wait_until("the lease is renewed", PATIENCE, || renewals(&story) > before);
    }
    net.nothing_leaked();
    let told = fs::read_to_string(&story).unwrap();
    for line in told.lines() {
        let word = line.split(' ').next().unwrap();
        assert!(["deconfig", "bound", "renew"].contains(&word), "{told}");
    }
    assert_eq!(
        told.matches("bound").count(),
        1,
        "the lease was never lost: {told}"
    );
    println!(
        "{rounds} rounds in {:?}; denied: {:?}",
        start.elapsed(),
        net.segd.denied()
    );
    drop(server);
}
