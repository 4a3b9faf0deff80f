//! The file system a kernel boots with: busybox, the modules, the test binaries, the tools they call, and what to run.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, ensure};

use super::{
    archive::{self, Package},
    modules, programs,
};
use crate::{
    built::{Built, Test},
    command::command,
    workspace,
};

/// The first process.
const INIT: &str = include_str!("init.sh");
/// Where the tests are, laid out like cargo's build directory: there they look for each other.
const DEBUG: &str = "segd/target/debug";

/// Builds it; returns the archive that the kernel unpacks.
pub fn build(package: &Package, built: &Built, tests: &[Test]) -> Result<PathBuf> {
    let root = archive::home().join(format!("root-{}", package.kernel.name));
    archive::remove(&root)?;
    for folder in [
        "bin", "dev", "proc", "run", "sys", "tmp", "root", "var/tmp", "etc",
    ] {
        let folder = root.join(folder);
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    write(&root, "init", INIT.as_bytes(), 0o755)?;
    let busybox = workspace::find_program("busybox").context("there is no busybox")?;
    fs::copy(&busybox, root.join("bin/busybox")).context("cannot copy busybox")?;
    for tool in programs::TOOLS {
        programs::install_tool(&root, tool)?;
    }
    for file in ["passwd", "group", "protocols", "services", "iproute2"] {
        copy_tree(&Path::new("/etc").join(file), &root.join("etc").join(file))?;
    }
    write(
        &root,
        "etc/nsswitch.conf",
        b"passwd: files\ngroup: files\n",
        0o644,
    )?;
    add_modules(&root, package)?;
    add_tests(&root, built, tests)?;
    pack(&root)
}

fn add_modules(root: &Path, package: &Package) -> Result<()> {
    let mut order = String::new();
    for file in modules::needed(&package.modules)? {
        let name = modules::name_of(&file);
        write(root, &format!("modules/{name}.ko"), &modules::read(&file)?, 0o644)?;
        order += &format!("{name}\n");
    }
    write(root, "modules/order", order.as_bytes(), 0o644)
}

fn add_tests(root: &Path, built: &Built, tests: &[Test]) -> Result<()> {
    let debug = Path::new(DEBUG);
    programs::install(root, &workspace::segd(), &debug.join("segd"))?;
    if uses_other_layout(tests) {
        programs::install(root, &workspace::other_layout(), &debug.join("segd-other-layout"))?;
    }
    programs::install(root, &built.worker, &debug.join("segd-test-worker"))?;
    let mut plan = String::new();
    for test in tests {
        let at = debug.join("deps").join(&test.file);
        if !root.join(&at).exists() {
            programs::install(root, &built.binary(&test.file)?.path, &at)?;
        }
        plan += &format!("{} {}\n", test.file, test.name);
    }
    write(root, "segd/plan", plan.as_bytes(), 0o644)
}

/// Whether a test upgrades to segd with other layouts, which takes a minute to build.
pub fn uses_other_layout(tests: &[Test]) -> bool {
    tests.iter().any(|test| test.file == "upgrade")
}

fn write(root: &Path, at: &str, content: &[u8], mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let file = root.join(at);
    programs::parent(&file)?;
    fs::write(&file, content).with_context(|| format!("cannot write {}", file.display()))?;
    fs::set_permissions(&file, fs::Permissions::from_mode(mode))
        .with_context(|| format!("cannot set the mode of {}", file.display()))
}

/// Copies a file or a folder, if it is there.
fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    if from.is_dir() {
        for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
            let name = entry.context("cannot read a folder")?.file_name();
            copy_tree(&from.join(&name), &to.join(&name))?;
        }
    } else if from.is_file() {
        programs::parent(to)?;
        fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    Ok(())
}

/// Packs it the way the kernel unpacks it; not compressed, as an emulated processor would have to undo that.
fn pack(root: &Path) -> Result<PathBuf> {
    let mut image = root.to_owned().into_os_string();
    image.push(".cpio");
    let image = PathBuf::from(image);
    let mut names = Vec::new();
    collect(root, Path::new("."), &mut names)?;
    let out = fs::File::create(&image).with_context(|| format!("cannot create {}", image.display()))?;
    let mut cpio = command("cpio", &["--create", "--format=newc", "--owner=0:0", "--quiet"])
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(out)
        .spawn()
        .context("cannot start cpio")?;
    let mut stdin = cpio.stdin.take().context("cpio has no stdin")?;
    stdin
        .write_all(names.join("\n").as_bytes())
        .context("cpio does not listen")?;
    drop(stdin);
    let status = cpio.wait().context("cannot wait for cpio")?;
    ensure!(status.success(), "cpio failed: {status}");
    Ok(image)
}

/// The paths of everything below, a folder before what is in it.
fn collect(root: &Path, at: &Path, names: &mut Vec<String>) -> Result<()> {
    names.push(at.to_string_lossy().into_owned());
    let here = root.join(at);
    if here.is_dir() {
        for entry in fs::read_dir(&here).with_context(|| format!("cannot read {}", here.display()))? {
            collect(
                root,
                &at.join(entry.context("cannot read a folder")?.file_name()),
                names,
            )?;
        }
    }
    Ok(())
}
