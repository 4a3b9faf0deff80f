//! What machine this is, and what it was doing beside: facts that every figure depends on.

use std::{fs, io};

use serde::Serialize;

/// The facts.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    kernel: String,
    cpu: String,
    hypervisor: bool,
    cpus: usize,
    jit: String,
    jit_hardening: String,
    cgroup_mount: String,
    mitigations: Vec<String>,
    /// The load averages when the run began.
    pub load_at_start: String,
    /// And when it ended.
    pub load_at_end: String,
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|error| format!("({error})"), |text| text.trim().to_owned())
}

impl Machine {
    /// Looks.
    pub fn look(cgroup_mount: &std::path::Path) -> Machine {
        let cpuinfo = read("/proc/cpuinfo");
        let cpu = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
        let directory = "/sys/devices/system/cpu/vulnerabilities";
        let mut mitigations: Vec<String> = fs::read_dir(directory)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| {
                (
                    entry.file_name().to_string_lossy().into_owned(),
                    read(&entry.path().to_string_lossy()),
                )
            })
            .filter(|(_, state)| state.contains("Mitigation"))
            .map(|(name, state)| format!("{name}: {state}"))
            .collect();
        mitigations.sort();
        Machine {
            kernel: read("/proc/sys/kernel/osrelease"),
            cpu: cpu.unwrap_or_default().trim_matches([' ', '\t', ':']).to_owned(),
            hypervisor: cpuinfo.contains(" hypervisor"),
            cpus: std::thread::available_parallelism().map_or(0, Into::into),
            jit: read("/proc/sys/net/core/bpf_jit_enable"),
            jit_hardening: read("/proc/sys/net/core/bpf_jit_harden"),
            cgroup_mount: cgroup_mount.display().to_string(),
            mitigations,
            load_at_start: load(),
            load_at_end: String::new(),
        }
    }

    /// The kernel's version without what its builder added.
    pub fn series(&self) -> String {
        self.kernel.splitn(3, '.').take(2).collect::<Vec<_>>().join(".")
    }

    /// As lines of a table.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let on_off = |on: bool| if on { "yes" } else { "no" }.to_owned();
        vec![
            ("kernel", self.kernel.clone()),
            ("CPU", format!("{}, {} of them", self.cpu, self.cpus)),
            ("virtual machine", on_off(self.hypervisor)),
            (
                "BPF JIT (`bpf_jit_enable`), hardening (`bpf_jit_harden`)",
                format!("{}, {}", self.jit, self.jit_hardening),
            ),
            ("cgroup2", self.cgroup_mount.clone()),
            ("mitigations", self.mitigations.join("; ")),
            ("load averages before", self.load_at_start.clone()),
            ("load averages after", self.load_at_end.clone()),
        ]
    }
}

/// The load averages.
pub fn load() -> String {
    read("/proc/loadavg")
        .split(' ')
        .take(3)
        .collect::<Vec<_>>()
        .join(" ")
}

/// The time a hypervisor gave to others although this CPU wanted it, in ticks (1/100 s).
pub fn stolen(cpu: usize) -> u64 {
    let stat = read("/proc/stat");
    let line = stat.lines().find(|line| line.starts_with(&format!("cpu{cpu} ")));
    line.and_then(|line| line.split_whitespace().nth(8)?.parse().ok())
        .unwrap_or(0)
}

/// A clock in nanoseconds.
pub fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a live `timespec`, which the call fills in.
    unsafe { libc::clock_gettime(clock, &raw mut now) };
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// Keeps this thread, and those it will start, on one CPU.
pub fn pin(cpu: usize) -> io::Result<()> {
    // SAFETY: a set of integers; zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is live and the number below its size.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the set is live and as long as said.
    if unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
