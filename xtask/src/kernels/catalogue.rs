//! The kernels that segd is tested on, oldest first, and where Debian keeps them.

use anyhow::{Result, bail};

/// A line of kernels.
#[derive(Debug, PartialEq, Eq)]
pub struct Kernel {
    /// The beginning of its version.
    pub name: &'static str,
    /// Debian's archive below its mirror, and the suite there.
    pub suite: (&'static str, &'static str),
    /// What its packages' names have between the version and the flavour.
    pub mark: &'static str,
}

/// Debian's mirror.
pub const MIRROR: &str = "http://deb.debian.org";
/// The kernel for virtual machines: the same source, fewer drivers.
pub const FLAVOUR: &str = "cloud-amd64";

/// Oldest first. Of 6.19 and of 7.0 to 7.1 the archive has no modules, of 5.15 nothing.
pub const KERNELS: &[Kernel] = &[
    Kernel {
        name: "5.10",
        suite: ("debian-security", "bullseye-security"),
        mark: "",
    },
    Kernel {
        name: "6.1",
        suite: ("debian-security", "bookworm-security"),
        mark: "",
    },
    Kernel {
        name: "6.12",
        suite: ("debian-security", "trixie-security"),
        mark: "+deb13",
    },
    Kernel {
        name: "6.18",
        suite: ("debian", "trixie-backports"),
        mark: "+deb13",
    },
    Kernel {
        name: "7.3",
        suite: ("debian", "trixie-backports"),
        mark: "+deb13",
    },
];

impl Kernel {
    /// Its major and minor version.
    pub fn version(&self) -> Vec<u32> {
        version(self.name)
    }
}

/// The numbers of a version, in order.
pub fn version(text: &str) -> Vec<u32> {
    let numbers = text.split(|c: char| !c.is_ascii_digit());
    numbers.filter_map(|number| number.parse().ok()).collect()
}

/// The kernels of these names; without any, the oldest and the newest, or all.
pub fn choose(names: &[String], all: bool) -> Result<Vec<&'static Kernel>> {
    if names.is_empty() {
        let last = KERNELS.len() - 1;
        return Ok(KERNELS
            .iter()
            .enumerate()
            .filter(|(at, _)| all || *at == 0 || *at == last)
            .map(|(_, kernel)| kernel)
            .collect());
    }
    names.iter().map(|name| named(name)).collect()
}

fn named(name: &str) -> Result<&'static Kernel> {
    if let Some(kernel) = KERNELS.iter().find(|kernel| kernel.name == name) {
        return Ok(kernel);
    }
    let known: Vec<&str> = KERNELS.iter().map(|kernel| kernel.name).collect();
    bail!("no kernel `{name}`; there are {}", known.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_and_newest_unless_told() {
        let names = |kernels: Vec<&Kernel>| kernels.iter().map(|kernel| kernel.name).collect::<Vec<_>>();
        assert_eq!(names(choose(&[], false).unwrap()), ["5.10", "7.3"]);
        assert_eq!(choose(&[], true).unwrap().len(), KERNELS.len());
        assert_eq!(names(choose(&["6.1".to_owned()], false).unwrap()), ["6.1"]);
        assert!(choose(&["6".to_owned()], false).is_err());
    }

    #[test]
    fn stand_oldest_first() {
        let ordered = KERNELS
            .windows(2)
            .all(|pair| pair[0].version() < pair[1].version());
        assert!(ordered);
    }
}
