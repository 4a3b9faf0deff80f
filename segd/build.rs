//! Builds the kernel programs and leaves the object where `datapath` embeds it from.

use anyhow::{Context as _, Result};

fn main() -> Result<()> {
    println!("cargo:rerun-if-changed=../segd-common/src");
    let features: &[&str] = match std::env::var_os("CARGO_FEATURE_OTHER_LAYOUT") {
        Some(_) => &["other-layout"],
        None => &[],
    };
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../segd-ebpf");
    // The target has no shipped `core`; building it needs `-Z build-std`, which stable grants to this package only.
    // SAFETY: a build script has one thread here, and nobody reads the environment at the same time.
    unsafe { std::env::set_var("RUSTC_BOOTSTRAP", "1") };
    aya_build::build_ebpf(
        [aya_build::Package {
            name: "segd-ebpf",
            root_dir: root,
            features,
            ..Default::default()
        }],
        aya_build::Toolchain::Custom("1.95.0"),
    )
    .context("building the kernel programs failed; `cargo xtask setup` installs what they need")
}
