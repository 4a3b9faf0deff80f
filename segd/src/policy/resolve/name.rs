//! Names: segments, documents, labels, users.

use crate::policy::diagnostic::{Code, Problem};

/// The peers that exist without being declared.
pub const BUILT_IN: [&str; 3] = ["any", "host", "world"];
/// The longest name.
pub const MAX_NAME: usize = 63;

/// Checks a segment's name: `[a-z][a-z0-9-]{0,62}`.
///
/// # Errors
///
/// What is wrong with it.
pub fn segment(name: &str) -> Result<(), (Code, Problem)> {
    if BUILT_IN.contains(&name) {
        let message = format!("`{name}` is built in and cannot be redefined");
        return Err((Code::ReservedName, Problem::new(message, "choose another name")));
    }
    let rest_ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let good = name.len() <= MAX_NAME
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(rest_ok);
    if good {
        return Ok(());
    }
    let message = format!("`{name}` cannot be a segment's name");
    Err((Code::InvalidName, Problem::new(message, proposal(name))))
}

/// A name near the wrong one that would do, or the rule.
fn proposal(name: &str) -> String {
    let rule = "a name is a letter `a` to `z`, then at most 62 of `a` to `z`, `0` to `9`, `-`";
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) || !name.is_ascii() {
        return rule.to_owned();
    }
    let fixed: String = name
        .to_ascii_lowercase()
        .chars()
        .map(|c| {
            if c.is_ascii_lowercase() || c.is_ascii_digit() {
                c
            } else {
                '-'
            }
        })
        .collect();
    let fixed = fixed
        .trim_matches('-')
        .trim_start_matches(|c: char| c.is_ascii_digit() || c == '-');
    match fixed {
        "" => rule.to_owned(),
        _ if fixed.len() > MAX_NAME || BUILT_IN.contains(&fixed) => rule.to_owned(),
        _ => format!("{rule}; `{fixed}` would do"),
    }
}

/// Checks a document's name: it begins every rule's label in metrics.
///
/// # Errors
///
/// What is wrong with it.
pub fn document(name: &str) -> Result<(), Problem> {
    let rest_ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let ends_ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if name.len() <= MAX_NAME
        && name.chars().all(rest_ok)
        && name.starts_with(ends_ok)
        && name.ends_with(ends_ok)
    {
        return Ok(());
    }
    let message = format!("`{name}` cannot be a document's name");
    Err(Problem::new(
        message,
        "use at most 63 of `a` to `z`, `0` to `9`, `-`, `.`, a letter or digit at both ends",
    ))
}

/// Checks a label's name or value.
///
/// # Errors
///
/// What is wrong with it.
pub fn label(text: &str) -> Result<(), Problem> {
    let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    if !text.is_empty() && text.len() <= MAX_NAME && text.chars().all(ok) {
        return Ok(());
    }
    let message = format!("`{text}` cannot be a label");
    Err(Problem::new(
        message,
        "use 1 to 63 ASCII letters, digits, `-`, `_`, `.`, `/`",
    ))
}

/// Checks a user's name.
///
/// # Errors
///
/// What is wrong with it.
pub fn user(name: &str) -> Result<(), Problem> {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_';
    let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@' | '$');
    if name.starts_with(first) && name.len() <= 256 && name.chars().all(ok) {
        return Ok(());
    }
    let digits = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
    let help = match name.parse::<u32>() {
        Ok(id) if digits && id < u32::MAX => {
            format!("a user number is written without quotes and leading zeros: `user: {id}`")
        }
        _ => "write a login name or a user number".to_owned(),
    };
    Err(Problem::new(format!("`{name}` cannot be a user"), help))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_longest_name_and_no_longer_one() {
        assert!(segment(&"a".repeat(63)).is_ok());
        assert!(segment(&"a".repeat(64)).is_err());
    }

    #[test]
    fn refuses_what_is_built_in_or_misspelt() {
        for name in [
            "host", "world", "any", "", "Web", "1web", "-web", "web_1", "wéb", "web.1", "web ",
        ] {
            assert!(segment(name).is_err(), "{name} must be refused");
        }
    }

    #[test]
    fn proposes_a_name_that_would_do() {
        let (_, problem) = segment("Web_Front").expect_err("must be refused");
        assert!(
            problem
                .help
                .is_some_and(|help| help.contains("`web-front` would do"))
        );
    }

    #[test]
    fn tells_a_quoted_number_from_a_user_name() {
        let problem = user("1001").expect_err("must be refused");
        assert!(problem.help.is_some_and(|help| help.contains("`user: 1001`")));
    }
}
