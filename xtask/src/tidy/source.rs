//! A Rust file as the checks see it: the raw lines, the code without comments and literals, where its tests begin.

/// A Rust file.
pub struct Source {
    /// From the top of the repository.
    pub path: String,
    /// As written.
    pub lines: Vec<String>,
    /// As written, with the insides of comments and of string and character literals blanked.
    pub code: Vec<String>,
    /// How many lines come before its unit tests.
    pub before_tests: usize,
}

impl Source {
    /// Splits `text`.
    pub fn new(path: &str, text: &str) -> Source {
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let code: Vec<String> = blank(text).lines().map(str::to_owned).collect();
        let tests = |at: &usize| {
            let next = code.get(at + 1).map_or("", String::as_str);
            // `#[cfg(test)] mod tests;` keeps the tests elsewhere: what follows is code.
            code[*at].starts_with("#[cfg(test)]") && !next.trim_end().ends_with(';')
        };
        let whole = path.starts_with("tests/") || path.ends_with("/tests.rs") || path.contains("/tests/");
        let before_tests = if whole {
            0
        } else {
            (0..code.len()).find(tests).unwrap_or(code.len())
        };
        Source {
            path: path.to_owned(),
            lines,
            code,
            before_tests,
        }
    }

    /// The code before the tests: line numbers from 1, and the code.
    pub fn production(&self) -> impl Iterator<Item = (usize, &str)> {
        self.numbered().take(self.before_tests)
    }

    /// All the code: line numbers from 1, and the code.
    pub fn numbered(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code
            .iter()
            .enumerate()
            .map(|(at, code)| (at + 1, code.as_str()))
    }
}

/// Whether `path` (identifiers joined by `::`) stands in `code` as whole words.
pub fn names(code: &str, path: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(path).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + path.len()..].chars().next();
        !before.is_some_and(word) && !after.is_some_and(word)
    })
}

/// Blanks comments and the insides of literals, keeping every line where it was.
fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = literal_end(&chars, at);
        if end == at {
            out.push(chars[at]);
            at += 1;
            continue;
        }
        out.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
        at = end;
    }
    out
}

/// Where the comment or literal that starts at `at` ends; `at` itself if none starts there.
fn literal_end(chars: &[char], at: usize) -> usize {
    let peek = |offset: usize| chars.get(at + offset).copied().unwrap_or('\0');
    let in_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    match (chars[at], peek(1)) {
        ('/', '/') => (at..chars.len())
            .find(|i| chars[*i] == '\n')
            .unwrap_or(chars.len()),
        ('/', '*') => block_comment_end(chars, at),
        ('"', _) => string_end(chars, at + 1),
        ('\'', '\\') => (at + 3..chars.len())
            .find(|i| chars[*i] == '\'')
            .map_or(chars.len(), |i| i + 1),
        // Anything else after a quote is a lifetime unless the next character closes it.
        ('\'', _) if peek(2) == '\'' => at + 3,
        ('r', '"' | '#') if !in_word => raw_string_end(chars, at + 1).unwrap_or(at),
        ('b' | 'c', 'r') if !in_word => raw_string_end(chars, at + 2).unwrap_or(at),
        _ => at,
    }
}

fn block_comment_end(chars: &[char], start: usize) -> usize {
    let (mut depth, mut at) = (0, start);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    at
}

fn string_end(chars: &[char], start: usize) -> usize {
    let mut at = start;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// `hashes` is where the `#`s of a raw string may start.
fn raw_string_end(chars: &[char], hashes: usize) -> Option<usize> {
    let count = chars[hashes..].iter().take_while(|c| **c == '#').count();
    let open = hashes + count;
    if chars.get(open) != Some(&'"') {
        return None;
    }
    let closes =
        |at: &usize| chars[*at] == '"' && chars[at + 1..].iter().take_while(|c| **c == '#').count() >= count;
    Some(
        (open + 1..chars.len())
            .find(closes)
            .map_or(chars.len(), |at| at + 1 + count),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_comments_and_literals_and_keeps_lines() {
        let code =
            blank("a // aya\n/* x /* y */\nz */ b \"s \\\" aya\" 'x' '\\'' &'life c r#\"raw \" aya\"# d");
        assert!(!code.contains("aya"), "{code}");
        assert_eq!(code.lines().count(), 3);
        for kept in ["a ", " b ", "&'life c", " d"] {
            assert!(code.contains(kept), "{kept:?} is gone from {code:?}");
        }
    }

    #[test]
    fn a_name_is_a_whole_word() {
        assert!(names("use aya::Ebpf;", "aya"));
        assert!(!names("use aya_log::X; let maya = 1;", "aya"));
        assert!(names("std::fs::read(p)", "std::fs"));
        assert!(!names("std::fsx", "std::fs"));
    }

    #[test]
    fn finds_where_the_tests_begin() {
        assert_eq!(
            Source::new("a.rs", "//! a\nfn a() {}\n#[cfg(test)]\nmod tests {}\n").before_tests,
            2
        );
        assert_eq!(
            Source::new("a.rs", "//! a\n#[cfg(test)]\nmod tests;\nfn a() {}\n").before_tests,
            4
        );
        assert_eq!(Source::new("a/tests.rs", "//! a\n").before_tests, 0);
    }
}
