//! Builds the kernel programs and leaves the object where `datapath` embeds it from.

use std::{
    env,
    fs::{self, File},
    path::PathBuf,
};

use anyhow::{Context as _, Result};
use object::build::elf::{Builder, SectionData};

const OUT_DIR: &str = "OUT_DIR";

fn main() -> Result<()> {
    println!("cargo:rerun-if-changed=../segd-common/src");
    let features: &[&str] = match env::var_os("CARGO_FEATURE_OTHER_LAYOUT") {
        Some(_) => &["other-layout"],
        None => &[],
    };
    let out = PathBuf::from(env::var_os(OUT_DIR).context("OUT_DIR is not set")?);
    // `<target>/<profile>/build/<package>/out`: the programs are the same for each profile, and their `core` for all.
    let target = out
        .ancestors()
        .nth(4)
        .context("OUT_DIR is not below a target folder")?;
    let shared = target.join("ebpf");
    fs::create_dir_all(&shared).with_context(|| format!("cannot make {}", shared.display()))?;
    let lock = File::create(shared.join("lock")).context("cannot make a lock file")?;
    lock.lock()
        .context("cannot wait for another build of the kernel programs")?;

    // The target has no shipped `core`; building it needs `-Z build-std`, which stable grants to this package only.
    // SAFETY: a build script has one thread here, and nobody reads the environment at the same time.
    unsafe {
        env::set_var("RUSTC_BOOTSTRAP", "1");
        env::set_var("CARGO_PROFILE_RELEASE_LTO", "thin");
        env::set_var(OUT_DIR, &shared);
    }
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../segd-ebpf");
    aya_build::build_ebpf(
        [aya_build::Package {
            name: "segd-ebpf",
            root_dir: root,
            features,
            ..Default::default()
        }],
        aya_build::Toolchain::Custom("1.95.0"),
    )
    .context("building the kernel programs failed; `cargo xtask setup` installs what they need")?;
    let object = fs::read(shared.join("segd")).context("cannot read the kernel programs")?;
    let object = without_dwarf(&object).context("the kernel programs' object cannot be read")?;
    fs::write(out.join("segd"), object).context("cannot write the kernel programs")
}

/// An object without its DWARF, three quarters of it: the kernel reads BTF, and what is embedded stays in memory.
fn without_dwarf(object: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(object)?;
    for section in &mut builder.sections {
        section.delete = [&b".debug_"[..], b".rel.debug_"]
            .iter()
            .any(|prefix| section.name.starts_with(prefix));
    }
    builder.delete_orphans();
    // LLVM keeps the names of sections with those of symbols.
    let names = builder.sections.add();
    names.name = b".shstrtab"[..].into();
    names.sh_type = object::elf::SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = SectionData::SectionString;
    let mut left = Vec::new();
    builder.write(&mut left)?;
    Ok(left)
}
