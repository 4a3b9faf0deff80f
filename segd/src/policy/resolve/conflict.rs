//! Two segments that claim the same with equal right.

use super::defined::Claim;
use crate::policy::{
    diagnostic::{Code, Diagnostic},
    model::SelectorKind,
    numbers::Words,
    prefixes,
};

/// All of them.
pub(super) fn conflicts(claims: &[Claim]) -> Vec<Diagnostic> {
    let mut out = Vec::new();
    // By the number of a key, who claims it first.
    let (mut known, mut first) = (Words::default(), Vec::<&Claim>::new());
    for claim in claims {
        let (segment, kind, _) = claim;
        for key in keys(kind) {
            match first.get(known.number(&key) as usize) {
                Some(other) if other.0 != *segment => {
                    out.push(conflict(other, claim));
                    break;
                }
                Some(_) => {}
                None => first.push(claim),
            }
        }
    }
    let cidrs: Vec<&Claim> = claims
        .iter()
        .filter(|(_, kind, _)| matches!(kind, SelectorKind::Cidr { .. }))
        .collect();
    let claims = cidrs.iter().filter_map(|(segment, kind, _)| match kind {
        SelectorKind::Cidr { prefix, except } => Some(prefixes::Claim::new(*prefix, except, segment)),
        _ => None,
    });
    for (a, b) in prefixes::Walk::new(claims).ties() {
        if let (Some(a), Some(b)) = (cidrs.get(a), cidrs.get(b)) {
            out.push(conflict(a, b));
        }
    }
    out
}

fn conflict(a: &Claim, b: &Claim) -> Diagnostic {
    let (first, second) = if a.2 <= b.2 { (a, b) } else { (b, a) };
    let ((first, _, first_span), (second, kind, span)) = (first, second);
    let message = format!("segments `{first}` and `{second}` both claim `{kind}`");
    let help = match kind {
        SelectorKind::Cidr { .. } => "make one prefix longer, or take the overlap out of one with `except`",
        _ => "leave it to one of them",
    };
    Diagnostic::error(Code::Conflict, *span, message)
        .label(format!("`{second}`"))
        .related(*first_span, format!("`{first}`"))
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
