//! Where things are: the repository, its build directory, the tools that live outside `PATH`.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::Result;

use crate::command;

/// The top of the repository.
pub fn root() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// Cargo's build directory.
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// Tools that are unpacked rather than installed, because installing them would start a service.
pub fn tools() -> PathBuf {
    target().join("tools")
}

/// The segd that is run: what `SEGD_BIN` names, else the release build.
pub fn segd() -> PathBuf {
    env::var_os("SEGD_BIN").map_or_else(|| target().join("release").join("segd"), PathBuf::from)
}

/// Builds the segd that is run, unless `SEGD_BIN` names one that is built already.
pub fn build_segd() -> Result<()> {
    if env::var_os("SEGD_BIN").is_some() {
        return Ok(());
    }
    command::run(&mut command::cargo(&[
        "build",
        "--release",
        "--locked",
        "--package",
        "segd",
    ]))
}

/// The segd with other layouts of its maps, which the tests upgrade to.
pub fn other_layout() -> PathBuf {
    target().join("debug").join("segd-other-layout")
}

/// Builds it, on its own: together with others, cargo would give them its features.
pub fn build_other_layout() -> Result<()> {
    let package = ["build", "--locked", "--package", "segd-other-layout"];
    command::run(&mut command::cargo(&package))
}

/// `PATH` with the folders in front that hold what `setup` installs.
pub fn path() -> OsString {
    let mut dirs = vec![tools()];
    dirs.extend(cargo_home().map(|home| home.join("bin")));
    dirs.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    // A user's shell may lack the folders where Debian keeps `nginx`, `nft` and `bpftool`.
    dirs.extend(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    env::join_paths(dirs).unwrap_or_else(|_| env::var_os("PATH").unwrap_or_default())
}

/// The file that `name` runs, if there is one.
pub fn find_program(name: &str) -> Option<PathBuf> {
    env::split_paths(&path())
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// Whether this process may do everything.
pub fn is_root() -> bool {
    // SAFETY: `geteuid` takes nothing, touches no memory and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

fn cargo_home() -> Option<PathBuf> {
    let explicit = env::var_os("CARGO_HOME").map(PathBuf::from);
    explicit.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")))
}
