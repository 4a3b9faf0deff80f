//! What is told of workloads that two segments claim with equal right, where they are denied and the policy comes into force.

/// How many are told one by one: whoever made one may have made thousands.
const MOST: usize = 8;

/// Logs them, and returns what status says of them.
pub(super) fn told(ambiguous: Vec<String>) -> Vec<String> {
    let rest = ambiguous.len().saturating_sub(MOST);
    let mut lines: Vec<String> = (ambiguous.into_iter().take(MOST))
        .map(|line| format!("{line}: denied"))
        .collect();
    if rest > 0 {
        lines.push(format!(
            "and {rest} more cgroups are claimed with equal right: denied"
        ));
    }
    for line in &lines {
        tracing::error!("{line}");
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_are_told_in_a_few_lines() {
        let some = |count: usize| (0..count).map(|number| format!("cgroup {number}")).collect();
        assert_eq!(told(some(0)), [""; 0]);
        assert_eq!(told(some(1)), ["cgroup 0: denied"]);
        assert_eq!(told(some(MOST)).len(), MOST);
        let many = told(some(MOST + 5));
        assert_eq!(many.len(), MOST + 1);
        assert_eq!(
            many.last().map(String::as_str),
            Some("and 5 more cgroups are claimed with equal right: denied")
        );
    }
}
