//! Cgroup paths and unit names: what a workload selector may say, within what the kernel can match.

use segd_common::workload::NAME_LEN;

use crate::policy::diagnostic::Problem;

/// The longest component that the kernel matches.
pub const MAX_COMPONENT: usize = NAME_LEN - 1;
/// The longest text before or after a `*` in a unit name.
pub const MAX_AFFIX: usize = 64;
/// The longest cgroup path.
pub const MAX_PATH: usize = 4095;

/// Unit types that have a cgroup of their own.
const WITH_CGROUP: [&str; 6] = [".service", ".socket", ".scope", ".slice", ".mount", ".swap"];
/// Unit types that have none.
const WITHOUT_CGROUP: [&str; 5] = [".target", ".timer", ".path", ".device", ".automount"];

/// The components of a cgroup path.
///
/// # Errors
///
/// What is wrong with it.
pub fn cgroup(path: &str) -> Result<Vec<String>, Problem> {
    let Some(inside) = path.strip_prefix('/') else {
        let absolute = format!("/{path}");
        let help = match !path.is_empty() && cgroup(&absolute).is_ok() {
            true => format!("write `{absolute}`, from the cgroup root"),
            false => "write it from the cgroup root, as in `/shop/web`".to_owned(),
        };
        return Err(Problem::new(
            format!("`{path}` is not an absolute cgroup path"),
            help,
        ));
    };
    if inside.is_empty() {
        let message = "`/` is the cgroup root, which everything is in";
        return Err(Problem::new(
            message,
            "processes that no segment claims are `host`",
        ));
    }
    if let Some(rest) = path.strip_prefix("/sys/fs/cgroup/") {
        let message = format!("`{path}` is a path in the file system");
        return Err(Problem::new(
            message,
            format!("write it from the cgroup root on: `/{rest}`"),
        ));
    }
    if path.len() > MAX_PATH {
        let message = format!("the cgroup path has {} bytes", path.len());
        return Err(Problem::new(message, format!("a path has at most {MAX_PATH}")));
    }
    let components: Vec<&str> = inside.split('/').collect();
    for part in &components {
        component(path, part)?;
    }
    if components.iter().all(|component| *component == "**") {
        let message = format!("`{path}` matches every cgroup");
        return Err(Problem::new(
            message,
            "processes that no segment claims are `host`",
        ));
    }
    Ok(components.into_iter().map(str::to_owned).collect())
}

fn component(path: &str, part: &str) -> Result<(), Problem> {
    if part.is_empty() {
        let fixed: Vec<&str> = path
            .split('/')
            .filter(|component| !component.is_empty())
            .collect();
        let message = format!("`{path}` has an empty component");
        return Err(Problem::new(message, format!("write `/{}`", fixed.join("/"))));
    }
    if part == "." || part == ".." {
        let message = format!("`{path}` has the component `{part}`");
        return Err(Problem::new(message, "write the path without detours"));
    }
    if part.len() > MAX_COMPONENT {
        let message = format!("`{path}` has a component of {} bytes", part.len());
        return Err(Problem::new(
            message,
            format!("the kernel matches at most {MAX_COMPONENT}"),
        ));
    }
    if part.contains("**") && part != "**" {
        let message = format!("`{path}`: `**` stands inside a component");
        return Err(Problem::new(
            message,
            "`**` is a component by itself; within one write `*`",
        ));
    }
    if let Some(odd) = part.chars().find(|c| c.is_control()) {
        let message = format!(
            "a cgroup path holds the control character {}",
            odd.escape_unicode()
        );
        return Err(Problem::new(message, "take it out"));
    }
    if let Some(odd) = part.chars().find(|c| matches!(c, '?' | '[' | ']' | '{' | '}')) {
        let message = format!("`{path}`: `{odd}` is not a pattern here");
        return Err(Problem::new(message, "`*` and `**` are the only patterns"));
    }
    Ok(())
}

/// Checks a unit's name.
///
/// # Errors
///
/// What is wrong with it.
pub fn unit(name: &str) -> Result<(), Problem> {
    if name.contains('/') {
        let message = format!("`{name}` is a path, not a unit name");
        let path = format!("/{}", name.trim_start_matches('/'));
        let help = match cgroup(&path) {
            Ok(_) => format!("match the path with `cgroup: {path}`"),
            Err(_) => "match a path with `cgroup`, as in `cgroup: /shop/web`".to_owned(),
        };
        return Err(Problem::new(message, help));
    }
    let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '-' | '_' | '.' | '\\' | '@' | '*');
    if let Some(odd) = name.chars().find(|c| !ok(*c)) {
        let message = format!(
            "`{name}` cannot be a unit name: `{}` is not allowed",
            odd.escape_debug()
        );
        return Err(Problem::new(message, "`*` is the only pattern"));
    }
    let Some(stem) = WITH_CGROUP.iter().find_map(|suffix| name.strip_suffix(suffix)) else {
        let ends = |suffix: &&&str| name.to_ascii_lowercase().ends_with(**suffix);
        let help = match (WITHOUT_CGROUP.iter().find(ends), WITH_CGROUP.iter().find(ends)) {
            (Some(suffix), _) => format!("a `{suffix}` unit has no processes; name the service it starts"),
            (None, Some(suffix)) => {
                let stem = name.get(..name.len() - suffix.len()).unwrap_or_default();
                format!("a suffix is written in small letters: `{stem}{suffix}`")
            }
            (None, None) => format!("write the whole name, as in `{name}.service`"),
        };
        return Err(Problem::new(
            format!("`{name}` has no unit suffix with a cgroup"),
            help,
        ));
    };
    if stem.is_empty() {
        return Err(Problem::new(
            format!("`{name}` is only a suffix"),
            "write the unit's whole name",
        ));
    }
    if name == "-.slice" {
        let message = "`-.slice` is the cgroup root, which everything is in";
        return Err(Problem::new(
            message,
            "processes that no segment claims are `host`",
        ));
    }
    if let Some(template) = name.strip_suffix("@.service") {
        let message = format!("`{name}` is a template, which never runs by itself");
        return Err(Problem::new(
            message,
            format!("write `{template}@*.service` for all its instances"),
        ));
    }
    if name.contains("**") {
        let message = format!("`{name}`: `**` has no meaning in a unit name");
        return Err(Problem::new(message, "write `*`"));
    }
    lengths(name)
}

/// The kernel's limits.
fn lengths(name: &str) -> Result<(), Problem> {
    let affixes: Vec<&str> = name.split('*').collect();
    if let [prefix, suffix] = affixes.as_slice()
        && let Some(long) = [prefix, suffix].into_iter().find(|affix| affix.len() > MAX_AFFIX)
    {
        let message = format!("`{name}` has {} bytes on one side of the `*`", long.len());
        return Err(Problem::new(
            message,
            format!("the kernel matches at most {MAX_AFFIX}"),
        ));
    }
    if name.len() > MAX_COMPONENT {
        let message = format!("`{name}` has {} bytes", name.len());
        return Err(Problem::new(
            message,
            format!("the kernel matches at most {MAX_COMPONENT}"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{cgroup, unit};

    #[test]
    fn takes_paths_and_patterns() {
        for path in [
            "/shop",
            "/shop/web",
            "/kubepods*/pod-*/**",
            "/a/**/b",
            "/system.slice/x.service",
        ] {
            assert!(cgroup(path).is_ok(), "{path} must be taken");
        }
        assert!(cgroup(&format!("/{}", "a".repeat(127))).is_ok());
    }

    #[test]
    fn refuses_paths_that_match_nothing_or_everything() {
        for path in [
            "", "/", "shop", "/shop/", "//shop", "/a/../b", "/./a", "/**", "/**/**", "/a**", "/a/***",
            "/a[0]", "/a\u{7}",
        ] {
            assert!(cgroup(path).is_err(), "{path} must be refused");
        }
        assert!(cgroup(&format!("/{}", "a".repeat(128))).is_err());
        assert!(cgroup("/sys/fs/cgroup/shop").is_err());
    }

    #[test]
    fn takes_units_that_have_a_cgroup() {
        for name in [
            "nginx.service",
            "postgresql*.service",
            "getty@*.service",
            "user-1001.slice",
            "a\\x2db.scope",
        ] {
            assert!(unit(name).is_ok(), "{name} must be taken");
        }
    }

    #[test]
    fn refuses_units_that_never_match() {
        for name in [
            "nginx",
            ".service",
            "a/b.service",
            "x.target",
            "x.timer",
            "getty@.service",
            "-.slice",
            "a b.service",
            "a**b.service",
            "a?.service",
        ] {
            assert!(unit(name).is_err(), "{name} must be refused");
        }
        assert!(unit(&format!("{}*.service", "a".repeat(65))).is_err());
        assert!(unit(&format!("{}.service", "a".repeat(120))).is_err());
    }
}
