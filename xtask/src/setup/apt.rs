//! Debian packages: what is missing, and installing it without starting a service.

use std::{
    fs,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::Scope;
use crate::command::{command, line, probe};

/// Who needs which package.
const PACKAGES: &[(Scope, &str)] = &[
    // Builds bpf-linker: LLVM of the version inside rustc 1.95, and what that LLVM links with.
    (Scope::Build, "llvm-22-dev"),
    (Scope::Build, "libzstd-dev"),
    (Scope::Build, "zlib1g-dev"),
    (Scope::Build, "libxml2-dev"),
    (Scope::Build, "g++"),
    // The demo's programs, and what it lays its networks with.
    (Scope::Demo, "curl"),
    (Scope::Demo, "iproute2"),
    (Scope::Demo, "iputils-ping"),
    (Scope::Demo, "nginx-light"),
    (Scope::Demo, "redis-server"),
    (Scope::Demo, "redis-tools"),
    // The tests and benchmarks: DHCP, DNS, firewalls, what is left loaded, processes, the systemd unit.
    (Scope::Test, "busybox-static"),
    (Scope::Test, "dnsmasq-base"),
    (Scope::Test, "ipset"),
    (Scope::Test, "iptables"),
    (Scope::Test, "bpftool"),
    (Scope::Test, "nftables"),
    (Scope::Test, "openssh-client"),
    (Scope::Test, "procps"),
    (Scope::Test, "strace"),
    (Scope::Test, "systemd"),
    (Scope::Test, "systemd-container"),
    (Scope::Test, "mmdebstrap"),
    // Other kernels, under emulation.
    (Scope::Kernels, "binutils"),
    (Scope::Kernels, "busybox-static"),
    (Scope::Kernels, "cpio"),
    (Scope::Kernels, "qemu-system-x86"),
    (Scope::Kernels, "xz-utils"),
];

/// How long another apt may keep its locks.
const LOCK_TIMEOUT: Duration = Duration::from_secs(600);

/// Keeps maintainer scripts from starting what was just installed; `invoke-rc.d` asks it.
const POLICY_RC_D: &str = "/usr/sbin/policy-rc.d";

/// Whether this system installs from Debian's archive.
pub fn is_debian() -> Result<bool> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let debian = release
        .lines()
        .any(|line| matches!(line, "ID=debian" | "ID=\"debian\""));
    Ok(debian && probe(&mut command("apt-get", &["--version"]))?.is_some())
}

/// The packages `scope` needs and this machine lacks; without dpkg, the programs are looked for instead.
pub fn missing(scope: Scope) -> Result<Vec<&'static str>> {
    let wanted: Vec<&str> = PACKAGES
        .iter()
        .filter(|(from, _)| *from <= scope)
        .map(|(_, name)| *name)
        .collect();
    let mut query = command(
        "dpkg-query",
        &["--show", "--showformat=${db:Status-Status} ${Package}\n"],
    );
    let Some(output) = probe(query.args(&wanted))? else {
        return Ok(without_dpkg(&wanted));
    };
    // It fails when it does not know one of them; what it does know is on stdout all the same.
    let known = String::from_utf8_lossy(&output.stdout);
    let installed: Vec<&str> = known
        .lines()
        .filter_map(|line| line.strip_prefix("installed "))
        .collect();
    Ok(wanted
        .into_iter()
        .filter(|name| !installed.contains(name))
        .collect())
}

/// On a system without dpkg, only programs can be looked for; libraries show when bpf-linker is built.
fn without_dpkg(wanted: &[&'static str]) -> Vec<&'static str> {
    let programs = [
        ("curl", "curl"),
        ("iproute2", "ip"),
        ("iputils-ping", "ping"),
        ("nginx-light", "nginx"),
        ("redis-server", "redis-server"),
        ("redis-tools", "redis-cli"),
        ("busybox-static", "busybox"),
        ("dnsmasq-base", "dnsmasq"),
        ("ipset", "ipset"),
        ("iptables", "iptables"),
        ("bpftool", "bpftool"),
        ("nftables", "nft"),
        ("openssh-client", "ssh-keygen"),
        ("systemd-container", "systemd-nspawn"),
        ("mmdebstrap", "mmdebstrap"),
        ("binutils", "strip"),
        ("busybox-static", "busybox"),
        ("cpio", "cpio"),
        ("qemu-system-x86", "qemu-system-x86_64"),
        ("xz-utils", "xz"),
    ];
    let absent = programs
        .iter()
        .filter(|(_, program)| crate::workspace::find_program(program).is_none());
    absent
        .map(|(package, _)| *package)
        .filter(|package| wanted.contains(package))
        .collect()
}

/// Installs the packages. No service is started, not even where systemd or an init script would.
pub fn install(names: &[&'static str]) -> Result<()> {
    update()?;
    let _quiet = NoServices::new()?;
    let mut install = apt_get(&["install", "--yes", "--no-install-recommends"]);
    run_when_unlocked(install.args(names))?;
    if !Path::new("/run/systemd/system").exists() {
        return Ok(());
    }
    let services = names
        .iter()
        .filter(|name| matches!(**name, "nginx-light" | "redis-server"));
    for name in services {
        let unit = name.trim_end_matches("-light");
        eprintln!(
            "setup: {name} is installed and not started; `systemctl disable {unit}` keeps it so after a boot"
        );
    }
    Ok(())
}

/// Refreshes the package lists. A third party's list that cannot be had is no reason to stop.
pub fn update() -> Result<()> {
    if let Err(error) = run_when_unlocked(&mut apt_get(&["update", "-qq"])) {
        eprintln!("setup: {error:#}; going on with the lists there are");
    }
    Ok(())
}

/// `apt-get` that asks nothing and waits for dpkg.
pub fn apt_get(args: &[&str]) -> Command {
    let timeout = format!("DPkg::Lock::Timeout={}", LOCK_TIMEOUT.as_secs());
    let mut command = command("apt-get", &["-o", &timeout, "-o", "APT::Sandbox::User=root"]);
    command
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("LC_ALL", "C");
    command
}

/// Runs an `apt-get`, again while another one holds a lock: `DPkg::Lock::Timeout` does not cover that of the lists.
pub fn run_when_unlocked(apt: &mut Command) -> Result<()> {
    let line = line(apt);
    let deadline = Instant::now() + LOCK_TIMEOUT;
    eprintln!("$ {line}");
    loop {
        let output = apt.output().with_context(|| format!("cannot start `{line}`"))?;
        if output.status.success() {
            return Ok(());
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        let locked = ["Could not get lock", "Unable to lock", "Unable to acquire"]
            .iter()
            .any(|s| stderr.contains(s));
        if !locked || Instant::now() > deadline {
            eprint!("{}", String::from_utf8_lossy(&output.stdout));
            bail!("`{line}` failed: {}: {}", output.status, stderr.trim());
        }
        thread::sleep(Duration::from_secs(2));
    }
}

/// While it lives, `invoke-rc.d` starts nothing. A policy that was there before stays as it is.
struct NoServices {
    ours: bool,
}

impl NoServices {
    fn new() -> Result<NoServices> {
        let file = fs::File::options()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(POLICY_RC_D);
        match file {
            Ok(file) => {
                file.set_permissions(fs::Permissions::from_mode(0o755))
                    .context(POLICY_RC_D)?;
                fs::write(POLICY_RC_D, "#!/bin/sh\nexit 101\n").context(POLICY_RC_D)?;
                Ok(NoServices { ours: true })
            }
            Err(_) if Path::new(POLICY_RC_D).exists() => Ok(NoServices { ours: false }),
            Err(error) => Err(error).context(POLICY_RC_D),
        }
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = fs::remove_file(POLICY_RC_D)
        {
            eprintln!("warning: {POLICY_RC_D} is left behind: {error}");
        }
    }
}
