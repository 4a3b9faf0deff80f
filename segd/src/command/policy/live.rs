//! What only a host can tell about a policy: which of its matchers fit nothing there now.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    policy::{
        compiled::{CompiledTables, SelectorInfo},
        diagnostic::{Code, Diagnostic, Span},
        model::{Location, SelectorKind},
    },
    workload::{
        cgroupfs::{Cgroup, CgroupRoot},
        error::WorkloadError,
        selector::{Position, SelectorTables},
        users,
    },
};

/// Warns of each workload matcher that fits no cgroup, also those that lose to a longer one excluded.
pub fn matchers_without_members(
    matchers: &[(String, SelectorKind, Span)],
    root: &CgroupRoot,
) -> Result<Vec<Diagnostic>, WorkloadError> {
    let mut cgroups: Vec<Cgroup> = Vec::new();
    let mut visited = BTreeSet::new();
    root.walk(&mut |cgroup| {
        if visited.insert(cgroup.id) {
            cgroups.push(cgroup.clone());
        }
    })?;
    let mut out = Vec::new();
    for (segment, kind, span) in matchers {
        if matches!(kind, SelectorKind::Cidr { .. }) || fits_one(kind, &cgroups)? {
            continue;
        }
        let message = format!("`{kind}` of segment `{segment}` matches nothing on this host now");
        out.push(help(
            kind,
            &cgroups,
            Diagnostic::warning(Code::NoMember, *span, message),
        ));
    }
    Ok(out)
}

/// Two segments that claim the slice of one user: the text does not tell it where one of them says a name.
pub fn users_of_two(
    matchers: &[(String, SelectorKind, Span)],
    uid: &dyn Fn(&str) -> Option<u32>,
) -> Vec<Diagnostic> {
    let mut first: BTreeMap<u32, &(String, SelectorKind, Span)> = BTreeMap::new();
    let mut out = Vec::new();
    for matcher in matchers {
        let (segment, kind, span) = matcher;
        let id = match kind {
            SelectorKind::UserId(id) => Some(*id),
            SelectorKind::UserName(name) => uid(name),
            SelectorKind::Systemd(unit) => {
                let number = unit
                    .strip_prefix("user-")
                    .and_then(|rest| rest.strip_suffix(".slice"));
                number.and_then(|number| number.parse().ok())
            }
            _ => None,
        };
        let Some(id) = id else { continue };
        let (other, its, at) = *first.entry(id).or_insert(matcher);
        if other != segment {
            let message = format!(
                "segments `{other}` and `{segment}` both claim user {id} of this host: `{its}` and `{kind}`"
            );
            let diagnostic = Diagnostic::error(Code::Conflict, *span, message)
                .label(format!("`{segment}`"))
                .related(*at, format!("`{other}`"));
            out.push(diagnostic.help("leave the user to one of them"));
        }
    }
    out
}

/// Whether a matcher, alone, claims a cgroup.
fn fits_one(kind: &SelectorKind, cgroups: &[Cgroup]) -> Result<bool, WorkloadError> {
    let alone = CompiledTables {
        selectors: std::sync::Arc::new(vec![SelectorInfo {
            segment: segd_common::segment::FIRST_SEGMENT,
            kind: kind.clone(),
            location: Location::default(),
        }]),
        ..CompiledTables::default()
    };
    let tables = SelectorTables::compile(&alone, 1, &users::uid)?;
    // A walk meets a cgroup before those below it.
    let mut positions: BTreeMap<u64, Position> = BTreeMap::new();
    for cgroup in cgroups {
        let position = match positions.get(&cgroup.parent) {
            Some(parent) => tables.descend(parent, cgroup.flags, &cgroup.name),
            None => tables.root_position(),
        };
        if position.slot.selector != 0 {
            return Ok(true);
        }
        positions.insert(cgroup.id, position);
    }
    Ok(false)
}

/// What was probably meant, if the host has something like it.
fn help(kind: &SelectorKind, cgroups: &[Cgroup], diagnostic: Diagnostic) -> Diagnostic {
    match kind {
        SelectorKind::Systemd(unit) => {
            let names = cgroups
                .iter()
                .filter_map(|cgroup| std::str::from_utf8(&cgroup.name).ok());
            diagnostic.suggest(unit, names.filter(|name| name.contains('.')))
        }
        SelectorKind::Cgroup(components) => {
            let path = format!("/{}", components.join("/"));
            diagnostic.suggest(&path, cgroups.iter().map(|cgroup| cgroup.path.as_str()))
        }
        SelectorKind::UserName(name) if users::uid(name).is_none() => {
            diagnostic.help(format!("this host knows no user `{name}`"))
        }
        _ => diagnostic,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_by_name_and_by_number_is_one_user() {
        let uid = |name: &str| (name == "root").then_some(0);
        let matcher = |segment: &str, kind| (segment.to_owned(), kind, Span::default());
        let named = |name: &str| SelectorKind::UserName(name.to_owned());
        let unit = SelectorKind::Systemd("user-0.slice".to_owned());
        let found = |others: Vec<SelectorKind>| {
            let mut matchers = vec![
                matcher("ops", named("root")),
                matcher("ops", SelectorKind::UserId(0)),
            ];
            matchers.extend(others.into_iter().map(|kind| matcher("db", kind)));
            users_of_two(&matchers, &uid)
        };
        assert!(found(vec![SelectorKind::UserId(1), named("nobody-here")]).is_empty());
        for other in [SelectorKind::UserId(0), named("root"), unit] {
            let found = found(vec![other]);
            assert_eq!(
                found.iter().map(|found| found.code).collect::<Vec<_>>(),
                [Code::Conflict]
            );
            let message = &found[0].message;
            assert!(message.contains("`ops` and `db` both claim user 0"), "{message}");
        }
    }
}
