//! Where arms run: each has a cgroup, a pair of network namespaces and an address of its own, so that what is attached for
//! one is attached to no other, and nothing has to be toggled between slices.

use std::{
    fs,
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use segd_tests::{Cgroup, Lab, Netns, Segd, Worker};

use super::{
    bpf::{self, Hook, Program},
    policy,
    runner::Home,
};

/// The CPU that every arm runs on.
pub fn cpu() -> usize {
    std::thread::available_parallelism().map_or(0, |count| usize::from(count) - 1)
}

/// One arm's place.
#[derive(Debug)]
pub struct Place {
    number: u8,
    cgroup: Cgroup,
    _client: Cgroup,
    server: Cgroup,
    netns: Netns,
    beside: Netns,
}

/// The name of the client's device that is not loopback.
pub const DEVICE: &str = "eth0";

impl Place {
    /// Makes place number `number`: two namespaces joined by a cable, two cgroups below one.
    pub fn new(lab: &Lab, number: u8, name: &str) -> Place {
        let cgroup = lab.cgroup(name);
        let (client, server) = (cgroup.child("client"), cgroup.child("server"));
        let (netns, beside) = (lab.netns(&format!("{name}-a")), lab.netns(&format!("{name}-b")));
        netns.ip(&format!(
            "link add {DEVICE} type veth peer name {DEVICE} netns {}",
            beside.name()
        ));
        let place = Place {
            number,
            cgroup,
            _client: client,
            server,
            netns,
            beside,
        };
        for (netns, host) in [(&place.netns, 2), (&place.beside, 3)] {
            netns.ip(&format!("addr add {}/24 dev {DEVICE}", place.v4(host)));
            netns.ip(&format!("addr add {}/64 dev {DEVICE} nodad", place.v6(host)));
            netns.ip(&format!("link set {DEVICE} up"));
            netns.ip(&format!("route add default dev {DEVICE}"));
        }
        place
    }

    fn v4(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 200, self.number, host)
    }

    fn v6(&self, host: u8) -> Ipv6Addr {
        Ipv6Addr::new(0xfd13, 0x200, u16::from(self.number), 0, 0, 0, 0, u16::from(host))
    }

    /// The cgroup above the client's and the server's.
    pub fn cgroup(&self) -> &Path {
        self.cgroup.directory()
    }

    /// The cgroup of the client or the server, as the cgroup2 mount has it: without a slash in front.
    pub fn path(&self, end: &str) -> String {
        format!("{}/{end}", self.cgroup.path().trim_start_matches('/'))
    }

    /// The namespaces.
    pub fn namespaces(&self) -> [&Netns; 2] {
        [&self.netns, &self.beside]
    }

    /// Somebody who lives in the server's cgroup and namespace.
    pub fn dweller(&self, lab: &Lab) -> Worker {
        lab.worker_in(&self.server, &self.beside)
    }

    /// The address of the client's own.
    pub fn own(&self) -> Ipv4Addr {
        self.v4(2)
    }

    /// Where both ends are in one namespace, or the server beside.
    pub fn home(&self, way: Way) -> Home {
        Home {
            client: self.cgroup().join("client"),
            server: self.cgroup().join("server"),
            netns: Some(self.netns.path()),
            server_netns: (way.beside).then(|| self.beside.path()),
            cpu: cpu(),
        }
    }

    /// The client's address.
    pub fn client(&self, way: Way) -> IpAddr {
        match (way.beside, way.six) {
            (true, false) => self.v4(2).into(),
            (true, true) => self.v6(2).into(),
            _ => self.server(way),
        }
    }

    /// The server's address.
    pub fn server(&self, way: Way) -> IpAddr {
        match (way.beside, way.six) {
            (false, false) => Ipv4Addr::LOCALHOST.into(),
            (false, true) => Ipv6Addr::LOCALHOST.into(),
            (true, false) => self.v4(3).into(),
            (true, true) => self.v6(3).into(),
        }
    }
}

/// Which way traffic takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// To another namespace, by veth; else by loopback.
    pub beside: bool,
    /// By IPv6.
    pub six: bool,
}

impl Way {
    /// As the report says it.
    pub fn name(self) -> String {
        let device = if self.beside { "veth" } else { "loopback" };
        format!("{device} IPv{}", if self.six { 6 } else { 4 })
    }
}

/// A running segd that governs one place.
#[derive(Debug)]
pub struct Governed {
    /// The place.
    pub place: Place,
    /// The daemon.
    pub segd: Segd,
    /// Its policy.
    pub policy: policy::Sized,
}

impl Governed {
    /// Starts one.
    pub fn start(lab: &Lab, place: Place, rules: usize) -> Governed {
        let policy = policy::Sized::new(rules, "/client", "/server");
        let mut files = policy.files().into_iter();
        let (_, first) = files.next().expect("a first file");
        let mut segd = lab
            .segd(&first)
            .args(&["--cgroup-root", place.cgroup().to_str().expect("a path")])
            .limit(3600);
        for (name, text) in files {
            segd = segd.file(&name, &text);
        }
        let segd = segd.start();
        Governed { place, segd, policy }
    }

    /// The programs behind its pinned links.
    pub fn programs(&self) -> io::Result<Vec<Program>> {
        let mut programs = Vec::new();
        for path in pins(self.segd.pin_dir(), "links_") {
            let id = bpf::program_of_link(&bpf::open_pin(&path)?)?;
            programs.push(bpf::program(&bpf::program_by_id(id)?)?);
        }
        programs.sort_by(|a, b| a.name.cmp(&b.name));
        programs.dedup_by(|a, b| a.id == b.id);
        Ok(programs)
    }

    /// The id of the program for interfaces, whether it hangs on any or not.
    pub fn program_for_interfaces(&self) -> io::Result<u32> {
        let pins = pins(self.segd.pin_dir(), "programs_");
        let pin = pins.iter().find(|pin| pin.ends_with("program_segd_nic"));
        let pin = pin.ok_or_else(|| io::Error::other("`segd_nic` is not pinned"))?;
        Ok(bpf::program(&bpf::open_pin(pin)?)?.id)
    }

    /// The id of the program at a packet hook.
    pub fn program(&self, hook: Hook) -> io::Result<u32> {
        let name = match hook {
            Hook::Egress => "segd_egress",
            Hook::Ingress => "segd_ingress",
        };
        let programs = self.programs()?;
        let found = programs.iter().find(|program| program.name == name);
        found
            .map(|program| program.id)
            .ok_or_else(|| io::Error::other(format!("no link of `{name}` is pinned")))
    }

    /// Makes sure that it has counted as many of the client's packets as passed.
    pub fn has_judged(&self, least: u64) -> io::Result<()> {
        let labels = [("verdict", "allowed"), ("from", "client")];
        let counted = self.segd.metric("segd_packets_total", &labels);
        if counted.is_none_or(|counted| counted < least as f64) {
            return Err(io::Error::other(format!(
                "segd counted {counted:?} packets of the client's"
            )));
        }
        Ok(())
    }

    /// What its pinned maps cost the kernel, each with its name.
    pub fn maps(&self) -> io::Result<Vec<(String, u64)>> {
        let mut maps = Vec::new();
        for path in pins(self.segd.pin_dir(), "maps_") {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if let Ok(bytes) = bpf::open_pin(&path).and_then(|map| bpf::memory(&map)) {
                maps.push((name, bytes));
            }
        }
        maps.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        Ok(maps)
    }
}

/// The pins below the directories of a pin directory that begin like this.
fn pins(root: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = |directory: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    };
    let sets = entries(root).into_iter().filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(prefix)
    });
    sets.flat_map(|set| entries(&set)).collect()
}

/// Runs a command in a namespace with a text on its stdin; what it said where it fails.
pub fn inside(netns: &Netns, words: &[&str], text: &str) -> Result<(), String> {
    let mut child = Command::new("nsenter")
        .arg(format!("--net={}", netns.path().display()))
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    let pipe = child.stdin.take();
    pipe.expect("a pipe").write_all(text.as_bytes()).ok();
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(())
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("{}: {}", words.join(" "), said.trim()))
    }
}
