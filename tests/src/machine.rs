//! A machine whose first process is systemd: segd's own unit on it, services, slices and sockets around it.
//!
//! A container of systemd-nspawn with a cgroup tree, processes, network and bpffs of its own. segd hangs below the
//! host's root there, at the container's, and governs nothing else.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use tempfile::TempDir;

use crate::{
    Lab, Worker,
    cgroup::remove_tree,
    segd, sys,
    wait::{self, PATIENCE},
    worker,
};

/// What nspawn makes beside each other at the cgroup root.
const CGROUPS: [&str; 2] = ["payload", "supervisor"];

/// The machine. It ends when dropped, with everything in it.
#[derive(Debug)]
pub struct Machine {
    nspawn: Child,
    init: u32,
    directory: TempDir,
    cgroup_root: PathBuf,
}

/// A unit that is started at a boot.
#[derive(Clone, Copy, Debug)]
pub struct Unit<'a> {
    /// Its name.
    pub name: &'a str,
    /// The target that wants it.
    pub wanted_by: &'a str,
    /// Its file; empty if the machine has it.
    pub text: &'a str,
}

impl Unit<'_> {
    fn enable(&self, units: &Path) {
        if !self.text.is_empty() {
            fs::write(units.join(self.name), self.text).unwrap();
        }
        let wants = units.join(format!("{}.wants", self.wanted_by));
        fs::create_dir_all(&wants).unwrap();
        std::os::unix::fs::symlink(format!("../{}", self.name), wants.join(self.name)).unwrap();
    }
}

impl Machine {
    /// Boots with segd's unit in place, not started, and this policy.
    ///
    /// # Panics
    /// When it does not boot, or has no root file system: `cargo xtask setup` makes it.
    #[track_caller]
    #[must_use]
    pub fn boot(lab: &Lab, policy: &str) -> Machine {
        Machine::boot_with(lab, policy, &[], &[])
    }

    /// Boots with segd enabled and beside units that are started at the boot, each with the target that wants it; `words`:
    /// the command line that the first process sees as the kernel's.
    ///
    /// # Panics
    /// As [`Machine::boot`].
    #[track_caller]
    #[must_use]
    pub fn boot_enabled(lab: &Lab, policy: &str, units: &[Unit<'_>], words: &[&str]) -> Machine {
        let segd = fs::read_to_string(repository().join("deploy/systemd/segd.service")).unwrap();
        let wanted_by = segd.lines().find_map(|line| line.strip_prefix("WantedBy="));
        let own = Unit {
            name: "segd.service",
            wanted_by: wanted_by.expect("the unit can be enabled"),
            text: "",
        };
        Machine::boot_with(lab, policy, &[units, &[own]].concat(), words)
    }

    #[track_caller]
    fn boot_with(lab: &Lab, policy: &str, units: &[Unit<'_>], words: &[&str]) -> Machine {
        let root = root();
        assert!(
            root.join("usr/lib/systemd/systemd").exists(),
            "no system in {}: `cargo xtask setup` makes it",
            root.display()
        );
        clean(lab.cgroup_root());
        let directory = tempfile::Builder::new().prefix("segd-t-").tempdir().unwrap();
        for name in ["bpf", "policy", "units"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        for unit in units {
            unit.enable(&directory.path().join("units"));
        }
        let bpf = directory.path().join("bpf");
        let mount = Command::new("mount")
            .args(["-t", "bpf", "bpf"])
            .arg(&bpf)
            .output()
            .unwrap();
        assert!(mount.status.success(), "{mount:?}");
        let repository = repository();
        let log = File::create(directory.path().join("console")).unwrap();
        let mut nspawn = Command::new("systemd-nspawn");
        nspawn
            .args([
                "--quiet",
                "--boot",
                "--register=no",
                "--keep-unit",
                "--private-network",
            ])
            .args(["--volatile=overlay", "--capability=all", "--machine=segd-t"])
            .arg("--system-call-filter=bpf perf_event_open")
            .arg(format!("--directory={}", root.display()))
            .arg(format!("--bind={}:/sys/fs/bpf", bpf.display()));
        for (from, to) in [
            (segd::binary(), "/usr/bin/segd"),
            (worker::binary(), "/usr/bin/segd-test-worker"),
            (
                repository.join("deploy/systemd/segd.service"),
                "/etc/systemd/system/segd.service",
            ),
            (directory.path().join("policy"), "/etc/segd"),
            (directory.path().join("units"), "/usr/local/lib/systemd/system"),
        ] {
            nspawn.arg(format!("--bind-ro={}:{to}", from.display()));
        }
        nspawn.args(words);
        nspawn
            .env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        // SAFETY: the closure calls one async-signal-safe function.
        unsafe {
            nspawn.pre_exec(|| {
                sys::die_with_parent();
                Ok(())
            });
        }
        let nspawn = nspawn.spawn().expect("systemd-nspawn starts");
        let mut machine = Machine {
            init: 0,
            cgroup_root: lab.cgroup_root().to_owned(),
            nspawn,
            directory,
        };
        machine.set_policy(policy);
        wait::wait_until("the machine's first process", PATIENCE, || {
            machine.find_init();
            machine.init != 0
        });
        wait::wait_until("the machine is up", PATIENCE, || {
            let state = machine.run(&["systemctl", "is-system-running"]);
            matches!(stdout(&state).as_str(), "running" | "degraded")
        });
        machine
    }

    /// systemd is the one child of nspawn, and the first of its pid namespace.
    fn find_init(&mut self) {
        let pid = self.nspawn.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let child = children
            .split_whitespace()
            .next()
            .and_then(|child| child.parse().ok());
        let is_init = |child: &u32| {
            let status = fs::read_to_string(format!("/proc/{child}/status")).unwrap_or_default();
            let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            numbers.is_some_and(|numbers| numbers.split_whitespace().last() == Some("1"))
        };
        self.init = child.filter(is_init).unwrap_or(0);
    }

    /// The words that run a command in the machine.
    fn inside(&self) -> Vec<String> {
        let pid = self.init.to_string();
        ["nsenter", "-t", &pid, "-m", "-u", "-i", "-n", "-p", "-C", "--"]
            .map(str::to_owned)
            .to_vec()
    }

    /// Runs a command in the machine, as root, outside its cgroups.
    ///
    /// # Panics
    /// When it cannot be run.
    #[track_caller]
    pub fn run(&self, words: &[&str]) -> Output {
        let mut all = self.inside().into_iter();
        Command::new(all.next().expect("a program"))
            .args(all)
            .args(words)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .output()
            .expect("nsenter runs")
    }

    /// Runs a command that must succeed; what it said.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn must(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(
            output.status.success(),
            "{words:?}: {output:?}\n{}",
            self.journal()
        );
        stdout(&output)
    }

    /// A property of segd's unit.
    #[track_caller]
    #[must_use]
    pub fn segd(&self, property: &str) -> String {
        self.must(&[
            "systemctl",
            "show",
            "segd.service",
            "--value",
            "--property",
            property,
        ])
    }

    /// A test's process as a unit of its own, with these `systemd-run` words.
    #[track_caller]
    #[must_use]
    pub fn worker(&self, words: &[&str]) -> Worker {
        let mut all = self.inside();
        all.extend(["systemd-run", "--pipe", "--quiet", "--collect"].map(str::to_owned));
        all.extend(words.iter().map(|&word| word.to_owned()));
        all.push("/usr/bin/segd-test-worker".to_owned());
        Worker::start_by(&all)
    }

    /// Where its policy lies on this host: `/etc/segd` there, read-only.
    #[must_use]
    pub fn policy_directory(&self) -> PathBuf {
        self.directory.path().join("policy")
    }

    /// Replaces the policy, as an editor does. segd is not told.
    pub fn set_policy(&self, text: &str) {
        segd::write_atomically(&self.directory.path().join("policy/policy.yaml"), text);
    }

    /// A unit file of the machine, loaded.
    #[track_caller]
    pub fn unit(&self, name: &str, text: &str) {
        let path = format!("/run/systemd/system/{name}");
        let root = PathBuf::from(format!("/proc/{}/root", self.init));
        fs::create_dir_all(root.join("run/systemd/system")).unwrap();
        fs::write(root.join(path.trim_start_matches('/')), text).unwrap();
        self.must(&["systemctl", "daemon-reload"]);
    }

    /// A file of the machine.
    #[must_use]
    pub fn file(&self, path: &str) -> String {
        let path = PathBuf::from(format!("/proc/{}/root{path}", self.init));
        fs::read_to_string(path).unwrap_or_default()
    }

    /// What segd's unit said.
    #[must_use]
    pub fn journal(&self) -> String {
        stdout(&self.run(&["journalctl", "--no-pager", "--output=cat", "--unit=segd.service"]))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self.init != 0 {
            sys::kill(self.init, libc::SIGKILL);
        }
        self.nspawn.kill().ok();
        self.nspawn.wait().ok();
        let bpf = self.directory.path().join("bpf");
        Command::new("umount").arg(bpf).output().ok();
        wait::within(PATIENCE, || clean(&self.cgroup_root));
    }
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("a folder of the repository")
}

/// Removes nspawn's cgroups; whether they are gone.
fn clean(cgroup_root: &Path) -> bool {
    CGROUPS.iter().all(|name| {
        let directory = cgroup_root.join(name);
        remove_tree(&directory);
        !directory.exists()
    })
}

/// Where `cargo xtask setup` puts the machine's root file system.
fn root() -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    test.ancestors()
        .nth(3)
        .expect("target/<profile>/deps/<test>")
        .join("systemd-root")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
