//! Who may know whom: the crates' dependencies (I1) and the names a folder may use (I2, I3).

use anyhow::Result;

use super::{Finding, Tree, source::names};
use crate::command::{cargo, read};

/// A name that may stand only in some of the files under a folder.
struct Rule {
    /// The files it is about: a path prefix.
    under: &'static str,
    /// Paths of identifiers.
    names: &'static [&'static str],
    /// Path prefixes below `under` that may use them.
    except: &'static [&'static str],
    why: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        under: "segd/src/policy",
        names: &[
            "std::fs",
            "std::net",
            "std::env",
            "std::process",
            "std::thread",
            "SystemTime",
            "Instant",
            "tracing",
            "HashMap",
            "HashSet",
            "aya",
            "tokio",
            "println",
            "eprintln",
        ],
        // Addresses are values, not the network.
        except: &[],
        why: "the policy does no I/O, reads no clock, logs nothing and has an order (I2)",
    },
    Rule {
        under: "segd/src/",
        names: &["aya", "aya_log_common", "aya_obj"],
        except: &["datapath"],
        why: "aya is named in `datapath` only (I3)",
    },
    Rule {
        under: "segd/src/",
        names: &["clap"],
        except: &["cli", "command", "output", "main.rs"],
        why: "clap is named in `cli`, `command` and `output` only (I3)",
    },
    Rule {
        under: "segd/src/",
        names: &["serde"],
        except: &["policy/document", "control", "output"],
        why: "serde is named on exchanged types only: `policy::document`, `control`, `output` (I3)",
    },
    Rule {
        under: "xtask/src/",
        names: &["segd_common", "aya"],
        except: &[],
        why: "xtask depends on none of segd's crates",
    },
];

/// `std::net` is for I/O; these are plain values.
const VALUES: [&str; 3] = ["IpAddr", "Ipv4Addr", "Ipv6Addr"];

/// Runs these checks.
pub fn check(tree: &Tree) -> Result<Vec<Finding>> {
    let mut findings = names_out_of_place(tree);
    let depends = read(&mut cargo(&[
        "tree",
        "--package",
        "segd-common",
        "--edges",
        "normal",
        "--prefix",
        "none",
    ]))?;
    findings.extend(depends.lines().skip(1).map(|name| {
        Finding::new(
            "segd-common/Cargo.toml",
            1,
            format!("depends on {name}: on `core` alone (I1)"),
        )
    }));
    Ok(findings)
}

fn names_out_of_place(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for rule in RULES {
        for source in &tree.rust {
            let Some(below) = source.path.strip_prefix(rule.under) else {
                continue;
            };
            if rule.except.iter().any(|except| below.starts_with(except)) {
                continue;
            }
            for (line, code) in source.production() {
                let named = rule
                    .names
                    .iter()
                    .filter(|name| names(code, name) && !is_value(code, name));
                findings.extend(
                    named.map(|name| Finding::new(&source.path, line, format!("`{name}`: {}", rule.why))),
                );
            }
        }
    }
    findings
}

/// Whether every name this line takes from `std::net` is a value.
fn is_value(code: &str, name: &str) -> bool {
    let Some((_, rest)) = code.split_once("std::net") else {
        return false;
    };
    let mut words = rest
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty());
    name == "std::net" && words.all(|word| VALUES.contains(&word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::source::Source;

    #[track_caller]
    fn findings(path: &str, text: &str) -> usize {
        names_out_of_place(&Tree {
            paths: Vec::new(),
            rust: vec![Source::new(path, text)],
        })
        .len()
    }

    #[test]
    fn the_policy_may_not_do_io() {
        assert_eq!(
            findings("segd/src/policy/compile.rs", "let x = std::fs::read(p);"),
            1
        );
        assert_eq!(
            findings("segd/src/policy.rs", "use std::collections::HashMap;"),
            1
        );
        assert_eq!(
            findings(
                "segd/src/policy/compile.rs",
                "// std::fs::read\n#[cfg(test)]\nmod tests { std::fs }"
            ),
            0
        );
        assert_eq!(
            findings("segd/src/daemon.rs", "use std::collections::HashMap;"),
            0
        );
    }

    #[test]
    fn an_address_is_a_value() {
        assert_eq!(
            findings("segd/src/policy/model.rs", "use std::net::{IpAddr, Ipv6Addr};"),
            0
        );
        assert_eq!(
            findings("segd/src/policy/model.rs", "use std::net::{IpAddr, TcpStream};"),
            1
        );
    }

    #[test]
    fn aya_stays_in_the_datapath() {
        assert_eq!(findings("segd/src/datapath/attach.rs", "use aya::Ebpf;"), 0);
        assert_eq!(findings("segd/src/daemon.rs", "use aya::Ebpf;"), 1);
    }
}
