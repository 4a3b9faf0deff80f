//! `did you mean`: the candidate with the fewest typing slips.

/// The nearest candidate, if it is near enough to be what was meant.
#[must_use]
pub fn nearest<'a>(wrong: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wrong: Vec<char> = wrong.chars().take(256).collect();
    let limit = ((wrong.len() + 1) / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (distance(&wrong, candidate), candidate))
        .filter(|(slips, _)| *slips <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, substitutions and swaps of neighbours; letter case counts half a slip rounded down.
fn distance(a: &[char], b: &str) -> usize {
    let b: Vec<char> = b.chars().take(256).collect();
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = Vec::with_capacity(b.len() + 1);
        row.push(i + 1);
        for (j, y) in b.iter().enumerate() {
            let swap = usize::from(!x.eq_ignore_ascii_case(y));
            let mut best = (above[j] + swap).min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn finds_the_name_one_slip_away() {
        assert_eq!(nearest("wbe", ["db", "web", "world"]), Some("web"));
        assert_eq!(nearest("webb", ["db", "web"]), Some("web"));
        assert_eq!(nearest("Web", ["db", "web"]), Some("web"));
        assert_eq!(nearest("chace", ["cache", "web"]), Some("cache"));
    }

    #[test]
    fn does_not_guess_wildly() {
        assert_eq!(nearest("backend", ["db", "web"]), None);
        assert_eq!(nearest("", ["db"]), None);
    }
}
