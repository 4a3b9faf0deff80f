//! Programs of this machine, copied into another root with the libraries they are linked with.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{
    command::{self, command},
    workspace,
};

/// What the tests and the bench call; busybox does not do what they ask of these.
pub const TOOLS: &[&str] = &[
    "ip", "tc", "nft", "bpftool", "strace", "unshare", "nsenter", "mount", "umount",
];

/// Copies a program that is found by its name.
pub fn install_tool(root: &Path, name: &str) -> Result<()> {
    let tool = workspace::find_program(name).with_context(|| format!("there is no program `{name}`"))?;
    install(root, &tool, &Path::new("usr/bin").join(name))
}

/// Copies a program to a path below `root`, without its symbols, and its libraries to the paths where they are here.
pub fn install(root: &Path, program: &Path, at: &Path) -> Result<()> {
    let to = root.join(at);
    parent(&to)?;
    command::run_quiet(
        command("strip", &["--strip-unneeded", "-o"])
            .arg(&to)
            .arg(program),
    )?;
    for library in libraries(program)? {
        let inside = root.join(library.strip_prefix("/").unwrap_or(&library));
        if !inside.exists() {
            parent(&inside)?;
            fs::copy(&library, &inside).with_context(|| format!("cannot copy {}", library.display()))?;
        }
    }
    Ok(())
}

/// Makes the folder a file goes to.
pub fn parent(file: &Path) -> Result<()> {
    let Some(folder) = file.parent() else {
        return Ok(());
    };
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))
}

/// The libraries a program is linked with, the loader among them; none if it is linked statically.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = command("ldd", &[])
        .arg(program)
        .output()
        .context("cannot start ldd")?;
    Ok(listed(&String::from_utf8_lossy(&output.stdout)))
}

/// `ldd` prints `name => path (address)`, and the loader as `path (address)`.
fn listed(output: &str) -> Vec<PathBuf> {
    let path = |line: &str| -> Option<PathBuf> {
        let path = line.split_once(" => ").map_or(line, |(_, path)| path);
        let path = path.trim().split(' ').next()?;
        path.starts_with('/').then(|| PathBuf::from(path))
    };
    output.lines().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_ldd_prints() {
        let output = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x2)\n\t/lib64/ld-linux-x86-64.so.2 (0x3)\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(listed(output), expected.map(PathBuf::from));
        assert!(listed("\tnot a dynamic executable\n").is_empty());
    }
}
