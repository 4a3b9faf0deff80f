//! Globs that the kernel cannot match: `*` within a path component, `**` across, several `*` in a unit name.
//!
//! Pure. Names are bytes: the kernel's are not text.

use std::collections::BTreeSet;

/// Whether a name matches a pattern in which each `*` stands for any number of bytes.
#[must_use]
pub fn name_matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Where the last `*` stood, and how far it reaches so far.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(byte) if Some(byte) == name.get(n) => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((at, reached)) = star else {
                    return false;
                };
                star = Some((at, reached + 1));
                p = at + 1;
                n = reached + 1;
            }
        }
    }
    pattern.iter().skip(p).all(|byte| *byte == b'*')
}

/// How many bytes of a pattern are literal.
#[must_use]
pub fn literal_len(pattern: &str) -> usize {
    pattern.bytes().filter(|byte| *byte != b'*').count()
}

/// A path pattern, component by component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathGlob {
    components: Vec<String>,
}

/// Which components of a [`PathGlob`] a path has used up, in every way it can.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress(BTreeSet<usize>);

impl PathGlob {
    /// A pattern of these components, of which the last is not `**`.
    #[must_use]
    pub fn new(components: &[String]) -> PathGlob {
        PathGlob {
            components: components.to_vec(),
        }
    }

    /// Where the root stands.
    #[must_use]
    pub fn start(&self) -> Progress {
        self.skip_deep(BTreeSet::from([0]))
    }

    /// Where a child of this name stands.
    #[must_use]
    pub fn advance(&self, parent: &Progress, name: &[u8]) -> Progress {
        let mut next = BTreeSet::new();
        for at in &parent.0 {
            match self.components.get(*at) {
                Some(component) if component == "**" => next.insert(*at),
                Some(component) if name_matches(component.as_bytes(), name) => next.insert(at + 1),
                _ => false,
            };
        }
        self.skip_deep(next)
    }

    /// Whether the pattern matches here.
    #[must_use]
    pub fn matches(&self, progress: &Progress) -> bool {
        progress.0.contains(&self.components.len())
    }

    /// Whether the pattern could match something below.
    #[must_use]
    pub fn continues(&self, progress: &Progress) -> bool {
        progress.0.iter().any(|at| *at < self.components.len())
    }

    /// `**` also stands for no component at all.
    fn skip_deep(&self, mut reached: BTreeSet<usize>) -> Progress {
        for (at, component) in self.components.iter().enumerate() {
            if component == "**" && reached.contains(&at) {
                reached.insert(at + 1);
            }
        }
        Progress(reached)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_number_of_bytes() {
        for (pattern, name, expected) in [
            ("", "", true),
            ("*", "", true),
            ("*", "abc", true),
            ("a*c", "ac", true),
            ("a*c", "abcbc", true),
            ("a*c", "abcb", false),
            ("a*b*c", "a1b2b3c", true),
            ("a*b*c", "acb", false),
            ("**", "x", true),
            ("a", "ab", false),
            ("ab", "a", false),
            ("*aab", "aaab", true),
        ] {
            assert_eq!(
                name_matches(pattern.as_bytes(), name.as_bytes()),
                expected,
                "{pattern} {name}"
            );
        }
    }

    fn at(glob: &str, path: &str) -> (bool, bool) {
        let split = |text: &str| {
            text.split('/')
                .filter(|part| !part.is_empty())
                .map(str::to_owned)
                .collect()
        };
        let (components, path): (Vec<String>, Vec<String>) = (split(glob), split(path));
        let glob = PathGlob::new(&components);
        let end = path
            .iter()
            .fold(glob.start(), |at, name| glob.advance(&at, name.as_bytes()));
        (glob.matches(&end), glob.continues(&end))
    }

    #[test]
    fn a_path_glob_knows_where_it_matches_and_where_it_still_could() {
        for (glob, path, expected) in [
            ("/shop/*/db", "/", (false, true)),
            ("/shop/*/db", "/shop", (false, true)),
            ("/shop/*/db", "/shop/x/db", (true, false)),
            ("/shop/*/db", "/shop/db", (false, true)),
            ("/shop/*/db", "/shop/x/y", (false, false)),
            ("/**/db", "/db", (true, true)),
            ("/**/db", "/a/b/db", (true, true)),
            ("/a/**/b/**/c", "/a/c", (false, true)),
            ("/a/**/b/**/c", "/a/x/b/c", (true, true)),
            ("/a/web*", "/b", (false, false)),
        ] {
            assert_eq!(at(glob, path), expected, "{glob} at {path}");
        }
    }
}
