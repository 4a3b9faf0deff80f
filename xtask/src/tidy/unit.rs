//! The systemd unit: systemd itself reads it, offline, and says how exposed the service would be.

use std::{fs, os::unix::fs::symlink};

use anyhow::{Context as _, Result};

use super::Finding;
use crate::{
    command::{command, probe, read},
    workspace,
};

const UNIT: &str = "deploy/systemd/segd.service";

/// Tenths of systemd's exposure level; without any sandbox it is 96.
const MOST_EXPOSED: &str = "25";

/// Runs these checks.
pub fn check() -> Result<Vec<Finding>> {
    let unit = workspace::root().join(UNIT);
    // `verify` wants the service's programs to exist: it gets a system of its own in which they do.
    let root = workspace::target().join("xtask/unit-root");
    let _ = fs::remove_dir_all(&root);
    for dir in ["etc/systemd/system", "usr/bin", "usr/lib/systemd"] {
        fs::create_dir_all(root.join(dir)).with_context(|| format!("cannot create {}", root.display()))?;
    }
    fs::copy(&unit, root.join("etc/systemd/system/segd.service"))
        .with_context(|| format!("cannot copy {UNIT}"))?;
    for program in ["segd", "mkdir"] {
        fs::copy("/bin/true", root.join("usr/bin").join(program)).context("cannot copy /bin/true")?;
    }
    // The targets it names, too.
    read(command("cp", &["-r", "--", "/lib/systemd/system"]).arg(root.join("usr/lib/systemd/")))?;
    symlink("usr/lib", root.join("lib")).context("cannot link /lib")?;

    let in_root = format!("--root={}", root.display());
    let verify = command(
        "systemd-analyze",
        &["verify", "--man=no", &in_root, "segd.service"],
    );
    let threshold = format!("--threshold={MOST_EXPOSED}");
    let mut security = command(
        "systemd-analyze",
        &["security", "--offline=yes", "--no-pager", &threshold],
    );
    security.arg(&unit);
    let mut findings = Vec::new();
    for mut analyze in [verify, security] {
        let Some(output) = probe(&mut analyze)? else {
            findings.push(Finding::new(
                UNIT,
                1,
                "cannot be checked without systemd-analyze: `cargo xtask setup`",
            ));
            break;
        };
        if !output.status.success() {
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said)
                .trim()
                .lines()
                .last()
                .unwrap_or("nothing")
                .to_owned();
            findings.push(Finding::new(
                UNIT,
                1,
                format!("systemd-analyze refuses it: {said}"),
            ));
        }
    }
    Ok(findings)
}
