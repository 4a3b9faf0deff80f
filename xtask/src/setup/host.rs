//! What the running kernel has to offer: bpffs for the pins, cgroup2 for the identities.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::command::{command, run};

const BPFFS: &str = "/sys/fs/bpf";

/// Whether bpffs is where pins are expected.
pub fn bpffs_mounted() -> Result<bool> {
    Ok(mounts()?
        .iter()
        .any(|mount| mount.kind == "bpf" && mount.at == Path::new(BPFFS)))
}

/// Where the unified hierarchy is mounted, if it is.
pub fn cgroup2_root() -> Result<Option<PathBuf>> {
    Ok(mounts()?
        .into_iter()
        .find(|mount| mount.kind == "cgroup2")
        .map(|mount| mount.at))
}

/// Mounts bpffs; it is gone after a boot, which is what a pin's life should be.
pub fn mount_bpffs() -> Result<()> {
    run(&mut command(
        "mount",
        &["-t", "bpf", "-o", "nosuid,nodev,noexec,mode=700", "bpf", BPFFS],
    ))
}

struct Mount {
    kind: String,
    at: PathBuf,
}

fn mounts() -> Result<Vec<Mount>> {
    let text = fs::read_to_string("/proc/self/mounts").context("/proc/self/mounts")?;
    let mount = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        let at = PathBuf::from(fields.next()?);
        Some(Mount {
            kind: fields.next()?.to_owned(),
            at,
        })
    };
    Ok(text.lines().filter_map(mount).collect())
}
