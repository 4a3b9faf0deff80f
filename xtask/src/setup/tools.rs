//! Programs that cargo builds: bpf-linker links the kernel programs, cargo-deny judges the dependencies.

use anyhow::Result;

use crate::command::{cargo, command, line, probe, run};

/// The version that goes with rustc 1.95 and LLVM 22.
pub const BPF_LINKER: &str = "0.13.0";

/// The version whose checks `deny.toml` is written for.
pub const CARGO_DENY: &str = "0.20.2";

/// The version that builds the fuzz targets with this toolchain.
pub const CARGO_FUZZ: &str = "0.13.2";

const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

/// Whether the right bpf-linker is in `PATH`.
pub fn bpf_linker_present() -> Result<bool> {
    present("bpf-linker", BPF_LINKER)
}

/// Whether the right cargo-deny is in `PATH`.
pub fn cargo_deny_present() -> Result<bool> {
    present("cargo-deny", CARGO_DENY)
}

/// Builds bpf-linker, unoptimised: half a minute on two cores. What works in it is LLVM: it links segd's programs in the same time, to
/// the same bytes, as one that took 117 s of a processor to build and not 43 s.
pub fn install_bpf_linker() -> Result<()> {
    // `LLVM_PREFIX`, or the link ends with "unable to find library -lLLVM".
    run(cargo(&bpf_linker_args())
        .env("LLVM_PREFIX", LLVM_PREFIX)
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0"))
}

/// Builds cargo-deny, unoptimised: 80 s on two cores, and it runs for one.
pub fn install_cargo_deny() -> Result<()> {
    run(cargo(&debug_install_args("cargo-deny", CARGO_DENY)).env("CARGO_PROFILE_DEV_DEBUG", "0"))
}

/// Whether the right cargo-fuzz is in `PATH`.
pub fn cargo_fuzz_present() -> Result<bool> {
    present("cargo-fuzz", CARGO_FUZZ)
}

/// Builds cargo-fuzz, unoptimised: a minute on two cores.
pub fn install_cargo_fuzz() -> Result<()> {
    run(cargo(&debug_install_args("cargo-fuzz", CARGO_FUZZ)).env("CARGO_PROFILE_DEV_DEBUG", "0"))
}

/// How to build bpf-linker by hand.
pub fn bpf_linker_line() -> String {
    let mut cargo = command("cargo", &bpf_linker_args());
    format!(
        "LLVM_PREFIX={LLVM_PREFIX} {}   (the prefix of an LLVM 22)",
        line(cargo.arg("--force"))
    )
}

/// How to build cargo-deny by hand.
pub fn cargo_deny_line() -> String {
    line(&command("cargo", &debug_install_args("cargo-deny", CARGO_DENY)))
}

fn bpf_linker_args() -> [&'static str; 8] {
    let features = "llvm-22";
    [
        "install",
        "bpf-linker",
        "--version",
        BPF_LINKER,
        "--no-default-features",
        "--features",
        features,
        "--locked",
    ]
}

/// A tool that runs for seconds is not worth the time of an optimised build, nor that of what a debugger wants.
fn debug_install_args<'a>(name: &'a str, version: &'a str) -> [&'a str; 6] {
    ["install", name, "--version", version, "--locked", "--debug"]
}

fn present(program: &str, version: &str) -> Result<bool> {
    let Some(output) = probe(&mut command(program, &["--version"]))? else {
        return Ok(false);
    };
    Ok(String::from_utf8_lossy(&output.stdout)
        .trim_end()
        .ends_with(&format!(" {version}")))
}
