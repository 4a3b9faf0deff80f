//! What a rule is called and what was written, kept as where it comes from: a policy may have a million of them.

use std::{fmt, sync::Arc};

use super::Action;

/// The label of a rule in metrics: `<document name>/allow[3]`, counted from 0.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleLabel {
    document: Arc<str>,
    list: Action,
    number: u32,
}

impl RuleLabel {
    /// The label of an entry of a document's list.
    #[must_use]
    pub const fn new(document: Arc<str>, list: Action, number: u32) -> RuleLabel {
        RuleLabel {
            document,
            list,
            number,
        }
    }

    /// The name of the document.
    #[must_use]
    pub const fn document(&self) -> &Arc<str> {
        &self.document
    }

    /// In which of its lists it stands.
    #[must_use]
    pub const fn list(&self) -> Action {
        self.list
    }

    /// Its number there, from 0.
    #[must_use]
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// Whether both are of one list, as far as that is seen without reading the name.
    #[must_use]
    pub fn is_of_list_of(&self, other: &RuleLabel) -> bool {
        Arc::ptr_eq(&self.document, &other.document) && self.list == other.list
    }
}

impl fmt::Display for RuleLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}[{}]", self.document, self.list.word(), self.number)
    }
}

impl fmt::Debug for RuleLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl PartialEq<str> for RuleLabel {
    fn eq(&self, other: &str) -> bool {
        let told = self.to_string();
        told == other
    }
}

/// A stretch of a file, told on one line and cut where it is long.
#[derive(Clone, Default)]
pub struct Written {
    text: Arc<str>,
    start: u32,
    end: u32,
}

impl Written {
    /// How much is told, in characters.
    const LONGEST: usize = 200;

    /// Bytes of a text; what lies outside is nothing.
    #[must_use]
    pub fn new(text: Arc<str>, start: usize, end: usize) -> Written {
        let at = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Written {
            text,
            start: at(start),
            end: at(end),
        }
    }

    /// Whether it is so short that it is certainly not cut.
    #[must_use]
    pub const fn is_short(&self) -> bool {
        (self.end as usize) < self.start as usize + Written::LONGEST
    }

    /// What is written, word by word, uncut.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        let said = self.text.get(self.start as usize..self.end as usize);
        said.unwrap_or_default().split_whitespace()
    }
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = Written::LONGEST;
        for (number, word) in self.words().enumerate() {
            for part in [if number == 0 { "" } else { " " }, word] {
                if let Some((at, _)) = part.char_indices().nth(left) {
                    return write!(f, "{}…", part.get(..at).unwrap_or_default());
                }
                f.write_str(part)?;
                left -= part.chars().count();
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

impl PartialEq for Written {
    fn eq(&self, other: &Written) -> bool {
        self.to_string() == other.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_one_line_and_cuts_what_is_long() {
        let told = |text: &str| Written::new(text.into(), 0, text.len()).to_string();
        assert_eq!(told(""), "");
        assert_eq!(told("  - from: a\n    to: b "), "- from: a to: b");
        let long = "é".repeat(200);
        assert_eq!(told(&long), long);
        assert_eq!(told(&format!("{long}é")), format!("{long}…"));
        assert_eq!(told(&format!("{long} é")), format!("{long}…"));
        assert_eq!(told(&format!("a {long}")), format!("a {}…", "é".repeat(198)));
    }

    #[test]
    fn names_the_list_and_the_place_in_it() {
        let label = RuleLabel::new("shop".into(), Action::Deny, 3);
        assert_eq!(label.to_string(), "shop/deny[3]");
        assert_eq!(label, *"shop/deny[3]");
    }
}
