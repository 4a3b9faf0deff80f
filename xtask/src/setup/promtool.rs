//! promtool: unpacked from Debian's package, because installing that would start a Prometheus server.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};

use super::apt;
use crate::{command, workspace};

/// Its own package since Debian 13; before, part of `prometheus`.
const PACKAGES: [&str; 2] = ["promtool", "prometheus"];

/// Leaves `promtool` in the folder of unpacked tools.
pub fn install() -> Result<()> {
    let scratch = workspace::tools().join("promtool.d");
    fs::create_dir_all(&scratch).with_context(|| format!("cannot create {}", scratch.display()))?;
    if download(&scratch).is_err() {
        apt::update()?;
        download(&scratch)?;
    }
    for entry in fs::read_dir(&scratch).context("promtool.d")? {
        let deb = entry.context("promtool.d")?.path();
        if deb.extension().is_some_and(|extension| extension == "deb") {
            let deb = deb.to_string_lossy();
            command::run(command::command("dpkg-deb", &["--extract", &deb, "root"]).current_dir(&scratch))?;
        }
    }
    let tool = workspace::tools().join("promtool");
    fs::copy(scratch.join("root/usr/bin/promtool"), &tool).context("no promtool in the package")?;
    fs::remove_dir_all(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))
}

fn download(scratch: &Path) -> Result<()> {
    let mut refusals = Vec::new();
    for package in PACKAGES {
        let mut apt = apt::apt_get(&["download", package]);
        match apt::run_when_unlocked(apt.current_dir(scratch)) {
            Ok(()) => return Ok(()),
            Err(error) => refusals.push(format!("{error:#}")),
        }
    }
    bail!("{}", refusals.join("; "))
}
