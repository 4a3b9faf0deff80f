//! `cargo xtask setup`: installs what is missing, and nothing else; a second run does nothing.
//!
//! Every requirement is looked at first, in about a tenth of a second. Where this command cannot help (no Debian,
//! no root) it says what to do by hand.

mod apt;
mod host;
mod language_server;
mod promtool;
mod rust_src;
mod systemd_root;
mod tools;

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
pub use host::cgroup2_root;

use crate::{both::both, workspace};

/// `cargo xtask setup`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Only say what is missing; exit code 1 if anything is.
    #[arg(long)]
    check: bool,
    /// Also what `cargo xtask kernels` needs.
    #[arg(long)]
    kernels: bool,
    /// Also that and what only CI needs: cargo-deny, which takes minutes to build.
    #[arg(long)]
    ci: bool,
}

/// How much of the repository has to work. Each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Build segd and its kernel programs.
    Build,
    /// Run `cargo xtask demo` and the benchmarks.
    Demo,
    /// Run `cargo xtask test`.
    Test,
    /// Run `cargo xtask kernels`.
    Kernels,
    /// Run `.ci/run`.
    Ci,
}

/// What can be missing, in the order in which it is put right.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Missing {
    Packages(Vec<&'static str>),
    RustSource,
    BpfLinker,
    Promtool,
    CargoDeny,
    SystemdRoot,
    LanguageServer,
    BpfFs,
    Cgroup2,
}

/// Runs `cargo xtask setup`.
pub fn run(options: &Options) -> Result<ExitCode> {
    let scope = match options {
        Options { ci: true, .. } => Scope::Ci,
        Options { kernels: true, .. } => Scope::Kernels,
        _ => Scope::Test,
    };
    if !options.check {
        ensure(scope)?;
        eprintln!("setup: everything is in place");
        return Ok(ExitCode::SUCCESS);
    }
    let missing = missing(scope)?;
    for item in &missing {
        println!("missing: {}", item.describe());
    }
    if missing.is_empty() {
        println!("nothing is missing");
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::FAILURE)
}

/// Puts in place what `scope` needs and this machine lacks.
pub fn ensure(scope: Scope) -> Result<()> {
    let missing = missing(scope)?;
    if missing.is_empty() {
        return Ok(());
    }
    if let Some(why) = cannot_help(&missing)? {
        eprintln!("setup cannot do this here: {why}\nWhat is missing, and how to put it right by hand:");
        for item in &missing {
            eprintln!("  - {}\n      {}", item.describe(), item.by_hand());
        }
        bail!("{} of the things segd needs are missing", missing.len());
    }
    // What is compiled needs these two, and waits for nothing else; what is fetched needs no processor.
    let is_first = |item: &Missing| matches!(item, Missing::Packages(_) | Missing::RustSource);
    let (first, rest): (Vec<_>, Vec<_>) = missing.into_iter().partition(is_first);
    install(&first)?;
    let is_compiled = |item: &Missing| matches!(item, Missing::BpfLinker | Missing::CargoDeny);
    let (compiled, fetched): (Vec<_>, Vec<_>) = rest.into_iter().partition(is_compiled);
    both(|| install(&fetched), || install(&compiled)).map(drop)
}

fn install(missing: &[Missing]) -> Result<()> {
    for item in missing {
        eprintln!("setup: {}", item.describe());
        item.install()
            .with_context(|| format!("by hand: {}", item.by_hand()))?;
    }
    Ok(())
}

/// Builds what `cargo xtask fuzz` runs, if it is not there. No scope has it: neither CI nor a test needs it.
pub fn ensure_cargo_fuzz() -> Result<()> {
    if tools::cargo_fuzz_present()? {
        return Ok(());
    }
    eprintln!("setup: cargo-fuzz {}", tools::CARGO_FUZZ);
    tools::install_cargo_fuzz()
}

fn missing(scope: Scope) -> Result<Vec<Missing>> {
    let mut missing = Vec::new();
    let packages = apt::missing(scope)?;
    if !packages.is_empty() {
        missing.push(Missing::Packages(packages));
    }
    let checks = [
        (Scope::Build, Missing::RustSource, rust_src::present()?),
        (Scope::Build, Missing::BpfLinker, tools::bpf_linker_present()?),
        (
            Scope::Test,
            Missing::Promtool,
            workspace::find_program("promtool").is_some(),
        ),
        (Scope::Test, Missing::SystemdRoot, systemd_root::present()),
        (Scope::Test, Missing::LanguageServer, language_server::present()),
        (Scope::Ci, Missing::CargoDeny, tools::cargo_deny_present()?),
        (Scope::Demo, Missing::BpfFs, host::bpffs_mounted()?),
        (Scope::Demo, Missing::Cgroup2, cgroup2_root()?.is_some()),
    ];
    missing.extend(
        checks
            .into_iter()
            .filter(|(from, _, ok)| *from <= scope && !ok)
            .map(|(_, item, _)| item),
    );
    Ok(missing)
}

/// Why `setup` had better not try, if so.
fn cannot_help(missing: &[Missing]) -> Result<Option<&'static str>> {
    if missing.contains(&Missing::Cgroup2) {
        return Ok(Some(
            "without a cgroup2 mount no process has an identity that segd could read",
        ));
    }
    let needs_apt = missing.iter().any(|item| match item {
        Missing::Packages(_) | Missing::Promtool | Missing::SystemdRoot => true,
        Missing::LanguageServer => language_server::needs_apt(),
        _ => false,
    });
    if needs_apt && !apt::is_debian()? {
        return Ok(Some(
            "it knows the packages of Debian 12 only, and this is another system",
        ));
    }
    let needs_root = needs_apt || missing.contains(&Missing::BpfFs);
    if needs_root && !workspace::is_root() {
        return Ok(Some("it has to be root to install packages and to mount"));
    }
    Ok(None)
}

impl Missing {
    fn describe(&self) -> String {
        match self {
            Missing::Packages(names) => format!("Debian packages {}", names.join(" ")),
            Missing::RustSource => {
                String::from("rust-src, the source of `core`, which the kernel programs build")
            }
            Missing::BpfLinker => format!("bpf-linker {}", tools::BPF_LINKER),
            Missing::Promtool => String::from("promtool, which checks the metrics"),
            Missing::CargoDeny => format!("cargo-deny {}", tools::CARGO_DENY),
            Missing::SystemdRoot => {
                String::from("a small Debian, which the tests boot to try the systemd unit")
            }
            Missing::LanguageServer => {
                String::from("a YAML language server, which a test asks as an editor does")
            }
            Missing::BpfFs => String::from("bpffs at /sys/fs/bpf, where segd pins what outlives it"),
            Missing::Cgroup2 => String::from("a cgroup2 mount"),
        }
    }

    fn by_hand(&self) -> String {
        match self {
            Missing::Packages(names) => format!(
                "apt-get install --no-install-recommends {} (elsewhere: the packages with these programs and libraries)",
                names.join(" ")
            ),
            Missing::RustSource => String::from("rustup component add rust-src"),
            Missing::BpfLinker => tools::bpf_linker_line(),
            Missing::Promtool => String::from("put Prometheus's promtool into PATH"),
            Missing::CargoDeny => tools::cargo_deny_line(),
            Missing::SystemdRoot => format!("as root: {}", systemd_root::by_hand()),
            Missing::LanguageServer => language_server::by_hand(),
            Missing::BpfFs => String::from("as root: mount -t bpf bpf /sys/fs/bpf"),
            Missing::Cgroup2 => String::from(
                "boot with systemd.unified_cgroup_hierarchy=1, or as root: mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified",
            ),
        }
    }

    fn install(&self) -> Result<()> {
        match self {
            Missing::Packages(names) => apt::install(names),
            Missing::RustSource => rust_src::install(),
            Missing::BpfLinker => tools::install_bpf_linker(),
            Missing::Promtool => promtool::install(),
            Missing::CargoDeny => tools::install_cargo_deny(),
            Missing::SystemdRoot => systemd_root::install(),
            Missing::LanguageServer => language_server::install(),
            Missing::BpfFs => host::mount_bpffs(),
            Missing::Cgroup2 => bail!("no cgroup2 mount"),
        }
    }
}
