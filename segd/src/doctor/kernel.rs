//! The kernel's version. What it can do is found out by the other checks, not from its number.

use super::{Finding, Host};

/// The oldest kernel that segd's tests run on (docs/kernels.md).
const OLDEST: (u32, u32) = (5, 10);

pub(super) fn check(_: &Host) -> Finding {
    const NAME: &str = "kernel";
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    match version(release) {
        Some(version) if version >= OLDEST => Finding::ok(NAME, format!("Linux {release}")),
        Some(_) => Finding::degraded(
            NAME,
            format!("Linux {release}, older than {}.{}", OLDEST.0, OLDEST.1),
            "segd is not tested on it",
        ),
        None => Finding::degraded(
            NAME,
            format!("a kernel that calls itself `{release}`"),
            "segd is not tested on it",
        ),
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    #[test]
    fn reads_distributions_release_names() {
        assert_eq!(super::version("6.1.0-31-amd64"), Some((6, 1)));
        assert_eq!(super::version("5.10.0"), Some((5, 10)));
        assert_eq!(super::version("6.19-rc1"), Some((6, 19)));
        assert_eq!(super::version(""), None);
    }
}
