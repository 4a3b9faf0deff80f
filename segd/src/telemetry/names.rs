//! Segment names by index, for as long as anything may still bear the index.

use std::sync::Arc;

use segd_common::segment::{self, SegmentIndex};

/// Remembers the name of a segment that left the policy: its orphans and its counters still bear the index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names(Arc<Vec<String>>);

impl Names {
    /// Takes the names of a new revision; an empty name keeps what was known.
    pub fn adopt(&mut self, names: &[String]) {
        let known = |(index, name): (usize, &String)| name.is_empty() || self.0.get(index) == Some(name);
        if names.iter().enumerate().all(known) && names.len() <= self.0.len() {
            return;
        }
        let held = Arc::make_mut(&mut self.0);
        if held.len() < names.len() {
            held.resize(names.len(), String::new());
        }
        for (known, name) in held.iter_mut().zip(names) {
            if !name.is_empty() {
                known.clone_from(name);
            }
        }
    }

    /// The name of an index; `unknown` for no segment, `other` for an index nobody ever named.
    #[must_use]
    pub fn name(&self, index: SegmentIndex) -> &str {
        name(&self.0, index)
    }

    /// All names by index.
    #[must_use]
    pub fn to_vec(&self) -> Vec<String> {
        self.0.to_vec()
    }

    /// All names by index, not copied.
    #[must_use]
    pub fn shared(&self) -> Arc<Vec<String>> {
        Arc::clone(&self.0)
    }
}

/// The name of an index in a list of names.
#[must_use]
pub fn name(names: &[String], index: SegmentIndex) -> &str {
    match index {
        segment::NONE => "unknown",
        segment::HOST => "host",
        segment::WORLD => "world",
        segment::PROBE => "probe",
        _ => names
            .get(usize::from(index))
            .map(String::as_str)
            .filter(|name| !name.is_empty())
            .unwrap_or("other"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_a_segment_that_left_until_its_index_is_given_again() {
        let list = |names: [&str; 6]| names.map(String::from).to_vec();
        let mut names = Names::default();
        names.adopt(&list(["", "host", "world", "", "web", "db"]));
        names.adopt(&list(["", "host", "world", "", "", "db"]));
        assert_eq!(
            (names.name(4), names.name(5), names.name(6)),
            ("web", "db", "other")
        );
        names.adopt(&list(["", "host", "world", "", "cache", "db"]));
        assert_eq!(names.name(4), "cache");
        assert_eq!(
            (names.name(0), names.name(1), names.name(2), names.name(3)),
            ("unknown", "host", "world", "probe")
        );
    }
}
