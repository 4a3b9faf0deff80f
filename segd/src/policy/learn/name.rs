//! Names for what was found: made of the unit, user or path, valid, and each only once.

use std::collections::{BTreeMap, BTreeSet};

use super::Member;
use crate::policy::resolve::name::{BUILT_IN, MAX_NAME};

/// A name for each member, none of them taken. The short one if it is the only one of its kind, else the long one.
pub fn names<'m>(
    members: impl Iterator<Item = &'m Member> + Clone,
    taken: &BTreeSet<String>,
) -> BTreeMap<Member, String> {
    let mut wanted: BTreeMap<String, usize> = BTreeMap::new();
    for member in members.clone() {
        *wanted.entry(short(member)).or_default() += 1;
    }
    let mut taken = taken.clone();
    let mut names = BTreeMap::new();
    for member in members {
        let name = short(member);
        let alone = wanted.get(&name) == Some(&1) && !taken.contains(&name);
        let name = if alone { name } else { long(member) };
        names.insert(member.clone(), free(&name, &mut taken));
    }
    names
}

/// The name, with a number behind it if it is taken; it is taken then.
pub fn free(name: &str, taken: &mut BTreeSet<String>) -> String {
    let mut number = 1_u64;
    loop {
        let candidate = match number {
            1 => name.to_owned(),
            _ => {
                let suffix = format!("-{number}");
                let room = name.get(..MAX_NAME - suffix.len()).unwrap_or(name);
                format!("{}{suffix}", room.trim_end_matches('-'))
            }
        };
        if taken.insert(candidate.clone()) {
            return candidate;
        }
        number += 1;
    }
}

fn short(member: &Member) -> String {
    match member {
        Member::Unit(unit) => valid(&unescaped(stem(unit))),
        Member::Path(path) => valid(stem(path.rsplit('/').next().unwrap_or_default())),
        other => long(other),
    }
}

fn long(member: &Member) -> String {
    match member {
        Member::Unit(unit) => valid(&unescaped(unit)),
        Member::User(id) => format!("user-{id}"),
        Member::Path(path) => valid(path),
        Member::Address(address) => valid(&format!("net-{address}")),
    }
}

/// A unit's name without its suffix.
fn stem(name: &str) -> &str {
    let suffixes = [".service", ".scope", ".slice", ".socket"];
    suffixes
        .iter()
        .find_map(|suffix| name.strip_suffix(suffix))
        .unwrap_or(name)
}

/// systemd writes `-` in a name as `\x2d`.
fn unescaped(name: &str) -> String {
    name.replace("\\x2d", "-")
}

/// `[a-z][a-z0-9-]{0,62}`, and not built in.
fn valid(text: &str) -> String {
    let mut name = String::new();
    for c in text.chars() {
        let c = c.to_ascii_lowercase();
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            name.push(c);
        } else if !name.is_empty() && !name.ends_with('-') {
            name.push('-');
        }
    }
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        name.insert_str(0, "s-");
    }
    name.truncate(MAX_NAME);
    let name = name.trim_end_matches('-');
    if BUILT_IN.contains(&name) {
        format!("{name}-segment")
    } else {
        name.to_owned()
    }
}
