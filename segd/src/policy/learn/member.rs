//! Who a cgroup is, said by the selector that will be true tomorrow: its unit, its user, else its path.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use crate::policy::resolve::selector;

/// A matcher to be written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Member {
    /// `systemd: nginx.service`
    Unit(String),
    /// `user: 1001`
    User(u32),
    /// `cgroup: /shop/web`
    Path(String),
    /// `cidr: 198.51.100.7/32`
    Address(IpAddr),
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Member::Unit(unit) => write!(f, "systemd: {unit}"),
            Member::User(id) => write!(f, "user: {id}"),
            Member::Path(path) => write!(f, "cgroup: {path}"),
            Member::Address(address @ IpAddr::V4(_)) => write!(f, "cidr: {address}/32"),
            Member::Address(address @ IpAddr::V6(_)) => write!(f, "cidr: {address}/128"),
        }
    }
}

impl Member {
    /// Who a cgroup is. A name proves something only if root gave it, and below a unit or a user's slice names are
    /// theirs to give. `None`: no matcher can say it.
    #[must_use]
    pub fn of_cgroup(path: &str, made_by_root: Option<usize>) -> Option<Member> {
        let components: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
        for component in components.iter().take(made_by_root.unwrap_or(usize::MAX)) {
            let user = component
                .strip_prefix("user-")
                .and_then(|rest| rest.strip_suffix(".slice"));
            if let Some(id) = user.and_then(number) {
                return Some(Member::User(id));
            }
            // systemd makes the listening socket in the socket unit's cgroup; a service stands for both.
            let socket = component.strip_suffix(".socket");
            let is_unit = component.ends_with(".service") || component.ends_with(".scope");
            if !is_unit && socket.is_none() {
                continue;
            }
            let unit = socket.map_or_else(|| (*component).to_owned(), |stem| format!("{stem}.service"));
            // systemd itself names no unit with a `*`; as a selector it would be a pattern.
            if !unit.contains('*') && selector::unit(&unit).is_ok() {
                return Some(Member::Unit(unit));
            }
            break;
        }
        let path = format!("/{}", components.join("/"));
        let literal = !path.contains('*') && selector::cgroup(&path).is_ok();
        literal.then_some(Member::Path(path))
    }
}

/// A user's number in its one spelling.
fn number(text: &str) -> Option<u32> {
    let id: u32 = text.parse().ok()?;
    (id.to_string() == text && id < u32::MAX).then_some(id)
}

/// `worker@1.service` as `worker@*.service`.
fn template(member: &Member) -> Option<Member> {
    let Member::Unit(unit) = member else { return None };
    let (stem, _) = unit.strip_suffix(".service")?.split_once('@')?;
    let pattern = format!("{stem}@*.service");
    selector::unit(&pattern).ok()?;
    Some(Member::Unit(pattern))
}

/// How many templates at most become patterns: the kernel matches 32, and a service counts twice.
const MOST_TEMPLATES: usize = 8;

/// Who makes a segment of their own, with what to know about each. Instances of one unit file belong together, if
/// there are several; nothing else does, because a name that looks alike proves nothing.
pub fn families<'m>(members: impl Iterator<Item = &'m Member>) -> BTreeMap<Member, Vec<String>> {
    let members: BTreeSet<&Member> = members.collect();
    let mut instances: BTreeMap<Member, Vec<&Member>> = BTreeMap::new();
    for member in &members {
        if let Some(pattern) = template(member) {
            instances.entry(pattern).or_default().push(member);
        }
    }
    instances.retain(|_, found| found.len() > 1);
    let mut families = BTreeMap::new();
    let mut together: BTreeSet<&Member> = BTreeSet::new();
    for (pattern, found) in instances.into_iter().take(MOST_TEMPLATES) {
        let remark = format!("{} instances of one unit were seen", found.len());
        together.extend(found);
        families.insert(pattern, vec![remark]);
    }
    for member in members {
        if !together.contains(member) {
            families.insert(member.clone(), remarks(member));
        }
    }
    families
}

/// The family of a member.
pub fn family(member: &Member, families: &BTreeMap<Member, Vec<String>>) -> Member {
    template(member)
        .filter(|pattern| families.contains_key(pattern))
        .unwrap_or_else(|| member.clone())
}

/// A name that is another one next time is said as it is: a pattern would take in whoever is named alike.
fn remarks(member: &Member) -> Vec<String> {
    let name = match member {
        Member::Unit(unit) => unit.as_str(),
        Member::Path(path) => path.rsplit('/').next().unwrap_or_default(),
        Member::User(_) | Member::Address(_) => return Vec::new(),
    };
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    let transient = ["run-r", "run-u", "run-p", "session-"].iter().any(|prefix| {
        stem.strip_prefix(prefix)
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_hexdigit()))
    });
    let long = stem
        .split(|c: char| !c.is_ascii_hexdigit())
        .any(|run| run.len() >= 12);
    if transient || long {
        vec![
            "this looks like a name given for once: next time it will be another; give it a fixed one"
                .to_owned(),
        ]
    } else {
        Vec::new()
    }
}
