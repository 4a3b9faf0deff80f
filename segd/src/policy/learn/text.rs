//! The proposal as YAML that says nothing but itself: whatever is not plainly a word is quoted, comments stay comments.

use std::{fmt::Write as _, net::IpAddr};

use super::{Member, Proposal, Rule, Segment};

/// A whole document.
pub fn document(proposal: &Proposal, name: &str, heading: &[String]) -> String {
    let mut out = String::new();
    for line in heading {
        comment(&mut out, "", line);
    }
    let _ = write!(
        out,
        "apiVersion: segd.dev/v1\nkind: SegmentPolicy\nmetadata:\n  name: {}\nspec:\n",
        scalar(name)
    );
    if !proposal.segments.is_empty() {
        out.push_str("  segments:\n");
        for entry in &proposal.segments {
            segment(&mut out, "    ", entry);
        }
    }
    if !proposal.rules.is_empty() {
        out.push_str("  allow:\n");
        for entry in &proposal.rules {
            rule(&mut out, "    ", entry);
        }
    }
    out
}

/// An entry of `segments:`.
pub fn segment(out: &mut String, indent: &str, segment: &Segment) {
    for remark in &segment.remarks {
        comment(out, indent, remark);
    }
    let _ = writeln!(out, "{indent}{}:", scalar(&segment.name));
    // What members do among themselves was seen, or it is not opened.
    let _ = writeln!(out, "{indent}  intra: deny\n{indent}  match:");
    for member in &segment.members {
        let text = member.to_string();
        let (field, value) = text.split_once(": ").unwrap_or((&text, ""));
        let value = match member {
            Member::User(_) | Member::Address(IpAddr::V4(_)) => value.to_owned(),
            _ => scalar(value),
        };
        let _ = writeln!(out, "{indent}    - {field}: {value}");
    }
}

/// An entry of `allow:`.
pub fn rule(out: &mut String, indent: &str, rule: &Rule) {
    let noun = if rule.flows == 1 { "flow" } else { "flows" };
    comment(
        out,
        indent,
        &format!("{} {noun}, e.g. {}", rule.flows, rule.example),
    );
    for remark in &rule.remarks {
        comment(out, indent, remark);
    }
    let _ = writeln!(
        out,
        "{indent}- {{from: {}, to: {}, ports: [{}]}}",
        scalar(&rule.from),
        scalar(&rule.to),
        rule.ports.join(", ")
    );
}

/// A line that YAML passes over, whatever it says.
pub fn comment(out: &mut String, indent: &str, text: &str) {
    let _ = write!(out, "{indent}# ");
    for c in text.chars() {
        if is_printable(c) {
            out.push(c);
        } else {
            let _ = write!(out, "{}", c.escape_unicode());
        }
    }
    out.push('\n');
}

fn is_printable(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Words that YAML readers disagree about.
const DISPUTED: [&str; 8] = ["y", "n", "yes", "no", "on", "off", "true", "false"];

/// A text as a YAML scalar, in block or flow style.
fn scalar(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '/' | '_');
    let word = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text.chars().all(plain)
        && !DISPUTED.contains(&text.to_ascii_lowercase().as_str())
        && !matches!(text, "null" | "nan" | "inf");
    if word {
        return text.to_owned();
    }
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_ascii() && !c.is_control() => out.push(c),
            c => {
                let _ = write!(out, "\\U{:08x}", u32::from(c));
            }
        }
    }
    out.push('"');
    out
}
