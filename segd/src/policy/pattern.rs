//! What two patterns have in common: a name, or a cgroup path, that fits both.

/// Stands where both patterns leave it open: no selector can name it, so that nothing but `*` fits it.
pub const NOBODY: u8 = 1;

/// A name that fits two patterns in which `*` stands for any number of bytes, if there is one.
#[must_use]
pub fn common_name(a: &[u8], b: &[u8]) -> Option<Vec<u8>> {
    let meets = Meets::of(a.len(), b.len(), |meets, i, j| match (a.get(i), b.get(j)) {
        (None, None) => true,
        (Some(b'*'), _) | (_, Some(b'*')) => {
            (a.get(i) == Some(&b'*') && (meets.at(i + 1, j) || (j < b.len() && meets.at(i, j + 1))))
                || (b.get(j) == Some(&b'*') && (meets.at(i, j + 1) || (i < a.len() && meets.at(i + 1, j))))
        }
        (x, y) => x == y && meets.at(i + 1, j + 1),
    });
    if !meets.at(0, 0) {
        return None;
    }
    let (mut i, mut j) = (0, 0);
    let mut name = Vec::new();
    while i < a.len() || j < b.len() {
        match (a.get(i), b.get(j)) {
            (Some(b'*'), Some(b'*')) => {
                name.push(NOBODY);
                if meets.at(i + 1, j) { i += 1 } else { j += 1 }
            }
            (Some(b'*'), _) if meets.at(i + 1, j) => i += 1,
            (_, Some(b'*')) if meets.at(i, j + 1) => j += 1,
            // A star takes the other's letter.
            (Some(b'*'), Some(letter)) => {
                name.push(*letter);
                j += 1;
            }
            (Some(letter), Some(b'*')) => {
                name.push(*letter);
                i += 1;
            }
            (letter, _) => {
                name.extend(letter);
                (i, j) = (i + 1, j + 1);
            }
        }
    }
    Some(name)
}

/// A cgroup, by its components, that lies in both paths: a path stands for all below it, `**` for any number of components.
#[must_use]
pub fn common_path(a: &[&str], b: &[&str]) -> Option<Vec<Vec<u8>>> {
    let name = |i: usize, j: usize| match (a.get(i), b.get(j)) {
        (Some(x), Some(y)) => common_name(x.as_bytes(), y.as_bytes()),
        _ => None,
    };
    let deep = |part: Option<&&str>| part == Some(&"**");
    let meets = Meets::of(a.len(), b.len(), |meets, i, j| {
        // Where one path ends, everything below is in it.
        i == a.len()
            || j == b.len()
            || ((deep(a.get(i)) || deep(b.get(j))) && (meets.at(i + 1, j) || meets.at(i, j + 1)))
            || (!deep(a.get(i)) && !deep(b.get(j)) && meets.at(i + 1, j + 1) && name(i, j).is_some())
    });
    if !meets.at(0, 0) {
        return None;
    }
    let (mut i, mut j) = (0, 0);
    let mut path = Vec::new();
    let filled = |part: &str| common_name(part.as_bytes(), b"*").unwrap_or_default();
    while i < a.len() || j < b.len() {
        match (a.get(i), b.get(j)) {
            (Some(&"**"), _) if meets.at(i + 1, j) => i += 1,
            (_, Some(&"**")) if meets.at(i, j + 1) => j += 1,
            // Any number of components takes the other's next one; below an end everything fits.
            (None | Some(&"**"), Some(part)) => {
                path.push(filled(part));
                j += 1;
            }
            (Some(part), None | Some(&"**")) => {
                path.push(filled(part));
                i += 1;
            }
            _ => {
                path.push(name(i, j)?);
                (i, j) = (i + 1, j + 1);
            }
        }
    }
    Some(path)
}

/// For each pair of rests of two sequences, whether they have something in common.
struct Meets {
    width: usize,
    cells: Vec<bool>,
}

impl Meets {
    /// Built from the ends; `cell` may ask for later places.
    fn of(a: usize, b: usize, cell: impl Fn(&Meets, usize, usize) -> bool) -> Meets {
        let mut meets = Meets {
            width: b + 1,
            cells: vec![false; (a + 1) * (b + 1)],
        };
        for (i, j) in (0..=a).rev().flat_map(|i| (0..=b).rev().map(move |j| (i, j))) {
            let found = cell(&meets, i, j);
            if let Some(slot) = meets.cells.get_mut(i * (b + 1) + j) {
                *slot = found;
            }
        }
        meets
    }

    fn at(&self, i: usize, j: usize) -> bool {
        j < self.width && self.cells.get(i * self.width + j).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::glob::name_matches;

    #[test]
    fn finds_a_name_that_fits_two_patterns() {
        for (a, b) in [
            ("a*", "*b"),
            ("*", ""),
            ("a*c*e", "abc*e"),
            ("x", "x"),
            ("a*b", "a*b"),
            ("**", "*x*"),
            ("job-*a", "job-b*"),
        ] {
            let name = common_name(a.as_bytes(), b.as_bytes()).unwrap_or_else(|| panic!("{a} and {b}"));
            assert!(
                name_matches(a.as_bytes(), &name) && name_matches(b.as_bytes(), &name),
                "{a} {b} {name:?}"
            );
        }
        for (a, b) in [("a*", "b*"), ("x", "y"), ("", "a"), ("a*x", "*y"), ("abc", "ab")] {
            assert!(common_name(a.as_bytes(), b.as_bytes()).is_none(), "{a} and {b}");
        }
    }

    #[test]
    fn finds_one_exactly_where_one_of_a_few_letters_is_one() {
        let letters = [b"a".as_slice(), b"b", b"*"];
        let words = |len: u32| {
            (0..3_usize.pow(len)).map(move |mut number| {
                let mut word = Vec::new();
                for _ in 0..len {
                    word.extend(letters[number % 3]);
                    number /= 3;
                }
                word
            })
        };
        let all: Vec<Vec<u8>> = (0..=3).flat_map(words).collect();
        let names: Vec<&Vec<u8>> = all.iter().filter(|word| !word.contains(&b'*')).collect();
        for (a, b) in all.iter().flat_map(|a| all.iter().map(move |b| (a, b))) {
            let told = common_name(a, b);
            if let Some(name) = &told {
                assert!(
                    name_matches(a, name) && name_matches(b, name),
                    "{a:?} {b:?} {name:?}"
                );
            }
            let found = names
                .iter()
                .any(|name| name_matches(a, name) && name_matches(b, name));
            assert!(told.is_some() || !found, "{a:?} {b:?}");
        }
    }

    #[test]
    fn finds_a_cgroup_that_lies_in_two_paths() {
        fn parts(path: &str) -> Vec<&str> {
            path.split('/').skip(1).collect()
        }
        let common = |a: &str, b: &str| {
            let path = common_path(&parts(a), &parts(b))?;
            let names: Vec<String> = path
                .into_iter()
                .map(|name| String::from_utf8_lossy(&name).into_owned())
                .collect();
            Some(format!("/{}", names.join("/")))
        };
        assert_eq!(common("/a/*", "/*/b").as_deref(), Some("/a/b"));
        assert_eq!(common("/a/**/x", "/a/b/*").as_deref(), Some("/a/b/x"));
        assert_eq!(
            common("/a", "/a/b/*").as_deref(),
            Some("/a/b/\u{1}"),
            "all below a path is meant, too"
        );
        assert_eq!(common("/a/*/x", "/b/*/x"), None);
        assert_eq!(common("/a/b*", "/a/c*"), None);
    }
}
