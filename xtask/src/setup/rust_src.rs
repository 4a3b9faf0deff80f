//! The source of `core`, which `-Z build-std` builds for the kernel: from rustup, else from Debian.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::apt;
use crate::command::{command, probe, read, run};

/// Where Debian has the source of newer compilers.
const SUITE: &str = "trixie-backports";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Whether this toolchain has its source.
pub fn present() -> Result<bool> {
    Ok(place()?.join("library/core/src/lib.rs").is_file())
}

/// Fetches it.
pub fn install() -> Result<()> {
    let rustup = probe(&mut command("rustup", &["component", "add", "rust-src"]))?;
    if rustup.is_some_and(|output| output.status.success()) && present()? {
        return Ok(());
    }
    eprintln!(
        "setup: rustup has no rust-src for this toolchain; taking the same source from Debian's {SUITE}"
    );
    from_debian(&place()?)
}

fn place() -> Result<PathBuf> {
    let sysroot = read(&mut command("rustc", &["--print", "sysroot"]))?;
    Ok(Path::new(sysroot.trim()).join("lib/rustlib/src/rust"))
}

/// Fetches the source of exactly this compiler with an apt state of its own: nothing of the system's is touched,
/// and what arrives is signed by Debian.
fn from_debian(place: &Path) -> Result<()> {
    if !apt::is_debian()? {
        bail!("this is not Debian");
    }
    let version = read(&mut command("rustc", &["--version"]))?;
    let version = version.split(' ').nth(1).context("rustc --version")?.to_owned();
    let parent = place.parent().context("a place without a parent")?;
    let scratch = parent.join("segd-setup");
    let _ = fs::remove_dir_all(&scratch);
    for dir in ["state/lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(scratch.join(dir))
            .with_context(|| format!("cannot create {}", scratch.display()))?;
    }
    let fetched = sites()?.iter().any(|site| match fetch(&scratch, site, &version) {
        Ok(()) => true,
        Err(error) => {
            eprintln!("setup: {error:#}");
            false
        }
    });
    if !fetched {
        bail!("no site of this machine's apt has rust-src {version} in {SUITE}");
    }
    // A link that leads nowhere, or half a tree, would be in the way.
    let _ = fs::remove_file(place);
    let _ = fs::remove_dir_all(place);
    let unpacked = scratch.join(format!("root/usr/src/rustc-{version}"));
    fs::rename(&unpacked, place).with_context(|| format!("cannot move {}", unpacked.display()))?;
    fs::remove_dir_all(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))
}

/// The sites this machine's apt already takes Debian from.
fn sites() -> Result<Vec<String>> {
    let filter = [
        "indextargets",
        "--format",
        "$(SITE)",
        "Created-By: Packages",
        "Origin: Debian",
    ];
    let mut sites: Vec<String> = read(&mut command("apt-get", &filter))?
        .lines()
        .map(str::to_owned)
        .collect();
    sites.sort();
    sites.dedup();
    Ok(sites)
}

fn fetch(scratch: &Path, site: &str, version: &str) -> Result<()> {
    let write = |name: &str, text: String| {
        let path = scratch.join(name);
        fs::write(&path, text)
            .with_context(|| format!("cannot write {}", path.display()))
            .map(|()| path)
    };
    let dir = scratch.display();
    write(
        "sources.list",
        format!("deb [signed-by={KEYRING}] {site} {SUITE} main\n"),
    )?;
    let config = write(
        "apt.conf",
        format!(
            "Dir::Etc::sourcelist \"{dir}/sources.list\";\nDir::Etc::sourceparts \"/dev/null\";\n\
             Dir::State::Lists \"{dir}/state/lists\";\nDir::Cache \"{dir}/cache\";\n"
        ),
    )?;
    let private = |args: &[&str]| {
        let mut apt = apt::apt_get(args);
        apt.env("APT_CONFIG", &config).current_dir(scratch);
        apt
    };
    apt::run_when_unlocked(&mut private(&["update", "-qq"]))?;
    apt::run_when_unlocked(&mut private(&["download", &format!("rust-src={version}*")]))?;
    let mut debs = fs::read_dir(scratch)
        .context("scratch")?
        .filter_map(|entry| Some(entry.ok()?.path()));
    let deb = debs
        .find(|path| path.extension().is_some_and(|e| e == "deb"))
        .context("no package came")?;
    run(command("dpkg-deb", &["--extract", &deb.to_string_lossy(), "root"]).current_dir(scratch))
}
