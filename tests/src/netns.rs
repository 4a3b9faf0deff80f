//! Network namespaces and the bridge that joins them.

use std::{
    io::Write as _,
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    process::{Command, Stdio},
};

/// A named network namespace, deleted on drop.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

/// Runs `ip` with words separated by blanks.
///
/// # Panics
/// When it fails.
#[track_caller]
pub fn ip(words: &str) {
    let output = Command::new("ip")
        .args(words.split_whitespace())
        .output()
        .expect("ip runs");
    assert!(
        output.status.success(),
        "ip {words}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

impl Netns {
    /// Makes one with loopback up, without duplicate address detection.
    #[track_caller]
    #[must_use]
    pub fn create(name: &str) -> Netns {
        ip(&format!("netns add {name}"));
        let netns = Netns { name: name.into() };
        netns.ip("link set lo up");
        netns
    }

    /// Makes one from inside a cgroup, as a container runtime does: its kernel sockets belong to that cgroup.
    #[track_caller]
    #[must_use]
    pub fn create_in(name: &str, cgroup: &crate::Cgroup) -> Netns {
        let procs = cgroup.directory().join("cgroup.procs");
        let script = format!("echo 0 > {} && exec ip netns add {name}", procs.display());
        let output = Command::new("sh")
            .args(["-c", &script])
            .output()
            .expect("sh runs");
        assert!(
            output.status.success(),
            "{script}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let netns = Netns { name: name.into() };
        netns.ip("link set lo up");
        netns
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file to enter it by.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Runs `ip` inside.
    #[track_caller]
    pub fn ip(&self, words: &str) {
        ip(&format!("-n {} {words}", self.name));
    }

    /// Runs a program inside, with a text as its input.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn run(&self, words: &[&str], input: &str) {
        let mut child = Command::new("nsenter")
            .arg(format!("--net={}", self.path().display()))
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("nsenter runs");
        let mut pipe = child.stdin.take().expect("a pipe");
        pipe.write_all(input.as_bytes()).expect("it reads its input");
        drop(pipe);
        let output = child.wait_with_output().expect("it ends");
        assert!(
            output.status.success(),
            "{words:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Sets a sysctl inside, by its path below `/proc/sys`.
    #[track_caller]
    pub fn sysctl(&self, path: &str, value: &str) {
        self.run(&["sh", "-c", &format!("echo '{value}' > /proc/sys/{path}")], "");
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        Command::new("ip")
            .args(["netns", "del", &self.name])
            .output()
            .ok();
    }
}

/// A sysctl of the host that is put back on drop.
#[derive(Debug)]
pub struct Sysctl {
    path: String,
    before: String,
}

impl Sysctl {
    /// Sets it, by its path below `/proc/sys`.
    ///
    /// # Panics
    /// When there is no such sysctl.
    #[track_caller]
    #[must_use]
    pub fn set(path: &str, value: &str) -> Sysctl {
        let path = format!("/proc/sys/{path}");
        let before = std::fs::read_to_string(&path).expect("a sysctl");
        std::fs::write(&path, value).expect("a sysctl");
        Sysctl { path, before }
    }

    /// The same, if the kernel has it.
    #[track_caller]
    #[must_use]
    pub fn set_if_any(path: &str, value: &str) -> Option<Sysctl> {
        let there = std::path::Path::new("/proc/sys").join(path).exists();
        there.then(|| Sysctl::set(path, value))
    }
}

impl Drop for Sysctl {
    fn drop(&mut self) {
        std::fs::write(&self.path, &self.before).ok();
    }
}

/// An nftables table of the host, deleted on drop.
#[derive(Debug)]
pub struct NftTable {
    name: String,
}

impl NftTable {
    /// Makes table `inet name` with this body.
    #[track_caller]
    #[must_use]
    pub fn create(name: &str, body: &str) -> NftTable {
        let table = NftTable { name: name.into() };
        let text = format!("table inet {name} {{\n{body}\n}}\n");
        let output = Command::new("nft").arg(&text).output().expect("nft runs");
        assert!(
            output.status.success(),
            "{text}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        table
    }
}

impl Drop for NftTable {
    fn drop(&mut self) {
        Command::new("nft")
            .args(["delete", "table", "inet", &self.name])
            .output()
            .ok();
    }
}

/// A cable between a namespace and the host, without the bridge: network number `net`, the host is 1, the
/// namespace is 2 and routes everything over it.
#[track_caller]
pub fn cable(netns: &Netns, net: u8) -> (std::net::IpAddr, std::net::IpAddr) {
    let port = format!("sgt{}c{net}", std::process::id() % 100_000);
    ip(&format!(
        "link add {port} type veth peer name eth0 netns {}",
        netns.name()
    ));
    for (directory, netns) in [(port.as_str(), None), ("eth0", Some(netns))] {
        let path = format!("net/ipv6/conf/{directory}/accept_dad");
        match netns {
            Some(netns) => netns.sysctl(&path, "0"),
            None => std::fs::write(format!("/proc/sys/{path}"), "0").expect("a sysctl"),
        }
    }
    ip(&format!("addr add 10.213.{net}.1/24 dev {port}"));
    ip(&format!("addr add fd13:213:{net:x}::1/64 dev {port} nodad"));
    ip(&format!("link set {port} up"));
    netns.ip(&format!("addr add 10.213.{net}.2/24 dev eth0"));
    netns.ip(&format!("addr add fd13:213:{net:x}::2/64 dev eth0 nodad"));
    netns.ip("link set eth0 up");
    netns.ip(&format!("route add default via 10.213.{net}.1"));
    netns.ip(&format!("route add default via fd13:213:{net:x}::1"));
    (
        Ipv4Addr::new(10, 213, net, 2).into(),
        Ipv6Addr::new(0xfd13, 0x213, u16::from(net), 0, 0, 0, 0, 2).into(),
    )
}

/// A bridge in the host's namespace: the switch all namespaces and the other machines hang on.
#[derive(Debug)]
pub struct Bridge {
    name: String,
    ports: std::cell::Cell<u32>,
}

/// The IPv4 address number `host` of the bridge's network.
#[must_use]
pub const fn v4(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 213, 7, host)
}

/// The IPv6 address number `host` of the bridge's network.
#[must_use]
pub fn v6(host: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd13, 0x213, 7, 0, 0, 0, 0, u16::from(host))
}

impl Bridge {
    /// Makes the bridge; the host's own address on it is number 1.
    #[track_caller]
    #[must_use]
    pub fn create(name: &str) -> Bridge {
        ip(&format!("link add {name} type bridge"));
        let bridge = Bridge {
            name: name.into(),
            ports: std::cell::Cell::new(0),
        };
        for (file, value) in [("accept_dad", "0"), ("accept_ra", "0")] {
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/{file}"), value).ok();
        }
        // Without snooping no report is needed for multicast (neighbour discovery) to flow at once.
        std::fs::write(format!("/sys/class/net/{name}/bridge/multicast_snooping"), "0").ok();
        ip(&format!("addr add {}/24 dev {name}", v4(1)));
        ip(&format!("addr add {}/64 dev {name} nodad", v6(1)));
        ip(&format!("link set {name} up"));
        bridge
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Gives `netns` an `eth0` on this bridge, with the addresses number `host`. Returns the host side's name.
    #[track_caller]
    pub fn plug(&self, netns: &Netns, host: u8) -> String {
        let number = self.ports.get();
        self.ports.set(number + 1);
        let port = format!("sgt{}p{number}", std::process::id() % 100_000);
        ip(&format!(
            "link add {port} type veth peer name eth0 netns {}",
            netns.name()
        ));
        netns.sysctl("net/ipv6/conf/eth0/accept_dad", "0");
        netns.ip(&format!("addr add {}/24 dev eth0", v4(host)));
        netns.ip(&format!("addr add {}/64 dev eth0 nodad", v6(host)));
        netns.ip("link set eth0 up");
        self.enslave(&port);
        netns.ip(&format!("route add default via {}", v4(1)));
        netns.ip(&format!("route add default via {}", v6(1)));
        port
    }

    /// Makes an interface of the host a port of this bridge.
    #[track_caller]
    pub fn enslave(&self, port: &str) {
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{port}/disable_ipv6"), "1").ok();
        ip(&format!("link set {port} master {}", self.name));
        ip(&format!("link set {port} up"));
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        Command::new("ip").args(["link", "del", &self.name]).output().ok();
    }
}
