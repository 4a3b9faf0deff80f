//! Two segments that claim the same with equal right.

use std::collections::BTreeMap;

use super::{Claim, Resolver};
use crate::policy::{
    diagnostic::{Code, Diagnostic},
    model::SelectorKind,
    prefixes,
};

impl Resolver<'_> {
    pub(super) fn conflicts(&mut self) {
        let mut out = Vec::new();
        let mut first: BTreeMap<String, &Claim> = BTreeMap::new();
        for claim in &self.claims {
            for key in keys(&claim.selector.kind) {
                match first.get(&key) {
                    Some(other) if other.segment != claim.segment => {
                        out.push(conflict(other, claim));
                        break;
                    }
                    Some(_) => {}
                    None => drop(first.insert(key, claim)),
                }
            }
        }
        let cidrs: Vec<&Claim> = self
            .claims
            .iter()
            .filter(|claim| matches!(claim.selector.kind, SelectorKind::Cidr { .. }))
            .collect();
        let claims = cidrs.iter().filter_map(|claim| match &claim.selector.kind {
            SelectorKind::Cidr { prefix, except } => {
                Some(prefixes::Claim::new(*prefix, except, &claim.segment))
            }
            _ => None,
        });
        for (a, b) in prefixes::Walk::new(claims).ties() {
            if let (Some(a), Some(b)) = (cidrs.get(a), cidrs.get(b)) {
                out.push(conflict(a, b));
            }
        }
        self.out.extend(out);
    }
}

fn conflict(a: &Claim, b: &Claim) -> Diagnostic {
    let (first, second) = if a.span <= b.span { (a, b) } else { (b, a) };
    let message = format!(
        "segments `{}` and `{}` both claim `{}`",
        first.segment, second.segment, second.selector.kind
    );
    let help = match second.selector.kind {
        SelectorKind::Cidr { .. } => "make one prefix longer, or take the overlap out of one with `except`",
        _ => "leave it to one of them",
    };
    Diagnostic::error(Code::Conflict, second.span, message)
        .label(format!("`{}`", second.segment))
        .related(first.span, format!("`{}`", first.segment))
        .help(help)
}

/// What a workload selector claims by name. A service claims its socket unit; a user claims the user's slice.
fn keys(kind: &SelectorKind) -> Vec<String> {
    match kind {
        SelectorKind::Cgroup(components) => vec![format!("/{}", components.join("/"))],
        SelectorKind::Systemd(unit) => match unit.strip_suffix(".service") {
            Some(stem) => vec![unit.clone(), format!("{stem}.socket")],
            None => vec![unit.clone()],
        },
        SelectorKind::UserId(id) => vec![format!("user-{id}.slice")],
        // A space keeps it apart from unit names.
        SelectorKind::UserName(name) => vec![format!("user {name}")],
        SelectorKind::Cidr { .. } => Vec::new(),
    }
}
