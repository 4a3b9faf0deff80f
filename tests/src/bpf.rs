//! What of BPF is loaded on this machine, as `bpftool` tells it.

use std::{collections::BTreeSet, process::Command};

/// The programs, maps and links of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    /// `kind id name`, one each.
    pub all: BTreeSet<String>,
}

impl Objects {
    /// Looks now.
    ///
    /// # Panics
    /// When bpftool is missing or fails.
    #[track_caller]
    #[must_use]
    pub fn now() -> Objects {
        let mut all = BTreeSet::new();
        for kind in ["prog", "map", "link"] {
            let output = Command::new("bpftool")
                .args(["-j", kind, "show"])
                .output()
                .expect("bpftool is installed");
            let list: serde_json::Value = serde_json::from_slice(&output.stdout)
                .unwrap_or_else(|_| serde_json::Value::Array(Vec::new()));
            for object in list.as_array().into_iter().flatten() {
                let name = object["name"]
                    .as_str()
                    .or_else(|| object["type"].as_str())
                    .unwrap_or_default();
                all.insert(format!("{kind} {} {name}", object["id"]));
            }
        }
        Objects { all }
    }

    /// What is here and was not there before.
    #[must_use]
    pub fn since(&self, before: &Objects) -> Objects {
        Objects {
            all: self.all.difference(&before.all).cloned().collect(),
        }
    }

    /// What of these still exists in `now`.
    #[must_use]
    pub fn left(&self, now: &Objects) -> BTreeSet<String> {
        self.all.intersection(&now.all).cloned().collect()
    }

    /// How many objects are of `kind` (`prog`, `map`, `link`).
    #[must_use]
    pub fn count(&self, kind: &str) -> usize {
        self.all.iter().filter(|object| object.starts_with(kind)).count()
    }
}
