//! Kernel modules: which ones the tests need, in the order in which they can be loaded.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::command::command;

/// What the tests build networks of, and what segd asks the kernel for, where it is not built in.
const NEEDED: &[&str] = &[
    "veth",
    "bridge",
    "tun",
    "dummy",
    "nf_tables",
    "nf_nat",
    "nft_chain_nat",
    "nft_nat",
    "nft_redir",
    "nft_masq",
    "nft_ct",
    "nft_fwd_netdev",
    "sch_ingress",
    "sch_tbf",
    "vxlan",
    "cls_bpf",
    "inet_diag",
    "tcp_diag",
    "udp_diag",
];

/// The needed modules of a kernel and what they depend on, each after what it depends on.
pub fn needed(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = BTreeMap::new();
    collect(&folder.join("kernel"), &mut files)?;
    let built_in = fs::read_to_string(folder.join("modules.builtin")).unwrap_or_default();
    let built_in: Vec<String> = built_in.lines().map(|line| name_of(Path::new(line))).collect();
    let mut order = Order {
        files,
        built_in,
        found: Vec::new(),
    };
    for name in NEEDED {
        order.add(name)?;
    }
    Ok(order.found)
}

/// A module as the kernel loads it.
pub fn read(file: &Path) -> Result<Vec<u8>> {
    if file.extension().is_some_and(|extension| extension == "ko") {
        return fs::read(file).with_context(|| format!("cannot read {}", file.display()));
    }
    let output = command("xz", &["--decompress", "--stdout"])
        .arg(file)
        .output()
        .context("cannot start xz")?;
    anyhow::ensure!(output.status.success(), "xz does not unpack {}", file.display());
    Ok(output.stdout)
}

/// The name the kernel knows a module's file by.
pub fn name_of(file: &Path) -> String {
    let file = file.file_name().unwrap_or_default().to_string_lossy();
    file.split('.').next().unwrap_or_default().replace('-', "_")
}

fn collect(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry.context("cannot read a folder")?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.insert(name_of(&path), path);
        }
    }
    Ok(())
}

struct Order {
    files: BTreeMap<String, PathBuf>,
    built_in: Vec<String>,
    found: Vec<PathBuf>,
}

impl Order {
    fn add(&mut self, name: &str) -> Result<()> {
        let name = name.replace('-', "_");
        if self.built_in.contains(&name) {
            return Ok(());
        }
        let file = self.files.get(&name).cloned();
        let file = file.with_context(|| format!("the kernel has no module `{name}`, nor is it built in"))?;
        if self.found.contains(&file) {
            return Ok(());
        }
        for dependency in dependencies(&read(&file)?) {
            self.add(&dependency)?;
        }
        self.found.push(file);
        Ok(())
    }
}

/// What a module says that it depends on, in its section `.modinfo`: strings with a NUL between them.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = module[at + KEY.len()..].split(|byte| *byte == 0).next();
    let value = String::from_utf8_lossy(value.unwrap_or_default());
    value
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_dependencies_from_the_module() {
        let module = b"\x7fELF\0license=GPL\0depends=nf_tables,nf-nat\0retpoline=Y\0";
        assert_eq!(dependencies(module), ["nf_tables", "nf-nat"]);
        assert!(dependencies(b"\0license=GPL\0depends=\0name=x\0").is_empty());
        assert!(dependencies(b"").is_empty());
    }

    #[test]
    fn a_module_has_the_name_of_its_file() {
        assert_eq!(name_of(Path::new("kernel/net/nf-nat.ko.xz")), "nf_nat");
        assert_eq!(name_of(Path::new("veth.ko")), "veth");
    }
}
