//! A small Debian with systemd as its first process: what the tests boot to try segd's unit.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};

use crate::{
    command::{command, line, run},
    workspace,
};

/// Debian's release, and what is in it beside the essential.
const RELEASE: &str = "bookworm";
const PACKAGES: &str = "--include=systemd,systemd-sysv,dbus,iproute2,procps,openssh-client,git";

/// Where it is. `tests/src/machine.rs` looks here.
fn root() -> PathBuf {
    workspace::target().join("systemd-root")
}

/// Whether it is there, whole.
pub fn present() -> bool {
    let whole = ["usr/lib/systemd/systemd", "usr/bin/ssh-keygen", "usr/bin/git"];
    whole.iter().all(|file| root().join(file).exists())
}

/// How to make it by hand.
pub fn by_hand() -> String {
    line(command("mmdebstrap", &["--variant=minbase", PACKAGES, RELEASE]).arg(root()))
}

/// Makes it, in half a minute.
pub fn install() -> Result<()> {
    let fresh = root().with_extension("new");
    if fresh.exists() {
        fs::remove_dir_all(&fresh).with_context(|| format!("cannot remove {}", fresh.display()))?;
    }
    run(command("mmdebstrap", &["--quiet", "--variant=minbase", PACKAGES, RELEASE]).arg(&fresh))?;
    // One of an older segd lacks what was added since.
    if root().exists() {
        fs::remove_dir_all(root()).with_context(|| format!("cannot remove {}", root().display()))?;
    }
    fs::rename(&fresh, root()).with_context(|| format!("cannot rename {}", fresh.display()))
}
