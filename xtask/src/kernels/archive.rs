//! Kernels out of Debian's archive: fetched by an apt of our own, which checks the archive's signatures, and unpacked.
//!
//! INVARIANT: this machine's own sources, lists and packages stay as they are. What was unpacked once is not asked for again.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::catalogue::{self, FLAVOUR, Kernel, MIRROR};
use crate::{
    command::{self, command},
    workspace,
};

/// A kernel that is here, unpacked.
#[derive(Debug)]
pub struct Package {
    /// Which of ours.
    pub kernel: &'static Kernel,
    /// What it calls itself.
    pub release: String,
    /// Its image.
    pub image: PathBuf,
    /// The folder of its modules.
    pub modules: PathBuf,
}

/// Everything of `cargo xtask kernels`.
pub fn home() -> PathBuf {
    workspace::target().join("kernels")
}

/// Finds the kernel unpacked, or fetches the newest of its line.
pub fn fetch(kernel: &'static Kernel, refresh: bool) -> Result<Package> {
    let home = self::home().join(kernel.name);
    if !refresh && let Some(package) = unpacked(kernel, &home)? {
        return Ok(package);
    }
    let apt = Apt::new(kernel)?;
    apt.update()?;
    let release = apt.newest(kernel)?;
    eprintln!("fetching Linux {release}");
    let fresh = self::home().join(format!("{}.new", kernel.name));
    remove(&fresh)?;
    fs::create_dir_all(&fresh).with_context(|| format!("cannot create {}", fresh.display()))?;
    apt.unpack(&release, &fresh)?;
    remove(&home)?;
    fs::rename(&fresh, &home).with_context(|| format!("cannot rename {}", fresh.display()))?;
    unpacked(kernel, &home)?.with_context(|| format!("the packages of {release} hold no kernel"))
}

/// Removes a folder that need not be there.
pub fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(())
}

/// What lies in `home`, if it is whole. The image is beside the modules in newer packages.
fn unpacked(kernel: &'static Kernel, home: &Path) -> Result<Option<Package>> {
    let parents = ["usr/lib/modules", "lib/modules"].map(|folder| home.join(folder));
    for parent in parents.iter().filter(|parent| parent.is_dir()) {
        for entry in fs::read_dir(parent).with_context(|| format!("cannot read {}", parent.display()))? {
            let modules = entry.context("cannot read a folder")?.path();
            let release = modules.file_name().unwrap_or_default().to_string_lossy();
            let release = release.into_owned();
            let images = [
                home.join("boot").join(format!("vmlinuz-{release}")),
                modules.join("vmlinuz"),
            ];
            let image = images.into_iter().find(|image| image.is_file());
            if let Some(image) = image.filter(|_| modules.join("kernel").is_dir()) {
                return Ok(Some(Package {
                    kernel,
                    release,
                    image,
                    modules,
                }));
            }
        }
    }
    Ok(None)
}

/// apt with lists and a cache of its own.
struct Apt {
    config: PathBuf,
    home: PathBuf,
}

impl Apt {
    fn new(kernel: &Kernel) -> Result<Apt> {
        let home = home().join(format!("apt-{}", kernel.name));
        for folder in ["state/lists/partial", "cache/archives/partial"] {
            let folder = home.join(folder);
            fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        let (archive, suite) = kernel.suite;
        let keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
        let sources = format!("deb [arch=amd64 signed-by={keys}] {MIRROR}/{archive} {suite} main\n");
        let at = home.display();
        let settings = format!(
            "Dir::State \"{at}/state\";\nDir::State::status \"/dev/null\";\nDir::Cache \"{at}/cache\";\n\
             Dir::Etc::sourcelist \"{at}/sources.list\";\nDir::Etc::sourceparts \"-\";\n\
             APT::Sandbox::User \"root\";\nAcquire::Languages \"none\";\nAcquire::Retries \"3\";\n"
        );
        let config = home.join("apt.conf");
        fs::write(home.join("sources.list"), sources).context("cannot write the sources")?;
        fs::write(&config, settings).context("cannot write apt's settings")?;
        Ok(Apt { config, home })
    }

    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = command(program, args);
        command.env("APT_CONFIG", &self.config).env("LC_ALL", "C");
        command
    }

    fn update(&self) -> Result<()> {
        // A list that cannot be had or verified is an error here, not a warning.
        let strict = "APT::Update::Error-Mode=any";
        command::run(&mut self.command("apt-get", &["update", "-qq", "-o", strict]))
    }

    /// The newest release of a line that is there with its modules.
    fn newest(&self, kernel: &Kernel) -> Result<String> {
        let names = command::read(&mut self.command("apt-cache", &["pkgnames", "linux-"]))?;
        let of_line = |name: &str| -> Option<String> {
            let release = name.strip_prefix("linux-image-")?;
            let number = release.strip_suffix(&format!("{}-{FLAVOUR}", kernel.mark))?;
            let plain = number.chars().all(|c| c.is_ascii_digit() || ".-".contains(c));
            let ours = number.strip_prefix(kernel.name)?.starts_with('.');
            (plain && ours).then(|| release.to_owned())
        };
        let newest = names
            .lines()
            .filter_map(of_line)
            .max_by_key(|release| catalogue::version(release));
        newest.with_context(|| format!("{} has no Linux {}", kernel.suite.1, kernel.name))
    }

    /// Downloads a release and unpacks it. Newer ones are split: the image in `linux-binary`, the modules beside it.
    fn unpack(&self, release: &str, into: &Path) -> Result<()> {
        let debs = self.home.join("debs");
        remove(&debs)?;
        fs::create_dir_all(&debs).with_context(|| format!("cannot create {}", debs.display()))?;
        let names = command::read(&mut self.command("apt-cache", &["pkgnames", "linux-"]))?;
        let parts = ["linux-image", "linux-binary", "linux-modules"].map(|part| format!("{part}-{release}"));
        for part in parts
            .iter()
            .filter(|part| names.lines().any(|name| name == *part))
        {
            command::run(
                self.command("apt-get", &["download", "-qq", part])
                    .current_dir(&debs),
            )?;
        }
        let mut any = false;
        for entry in fs::read_dir(&debs).context("cannot read what was downloaded")? {
            let deb = entry.context("cannot read what was downloaded")?.path();
            command::run(command("dpkg-deb", &["--extract"]).arg(&deb).arg(into))?;
            any = true;
        }
        if !any {
            bail!("no package of Linux {release} was downloaded");
        }
        remove(&debs)
    }
}
