//! One-line rules, read without the parser of YAML: a large policy has hundreds of thousands of such lines, and one that
//! changes has the others of its file read again.
//!
//! Of lines that say nothing but two names and a port, and follow one another, the parser gets the first and the last. Where it
//! finds those in one list, one after the other, the list is in block style and is indented as they are: it was between two entries
//! of it before each of the lines left out, and each says one entry and ends it.
//!
//! INVARIANT: what is read so is what the parser would have read. Wherever that is not sure, and wherever anything is wrong with
//! the file, the whole text is parsed.

use std::ops::Range;

use super::{
    rules::PlainRule,
    tree::{MAX_FILE_BYTES, Node},
};

/// So many lines are worth a cut.
const WORTH: usize = 8;
/// How many scalars, lists and mappings such a line is.
pub const NODES: usize = 8;

/// A text without most of its one-line rules, and those.
#[derive(Debug)]
pub struct Cuts {
    /// What is left of the text.
    pub left: String,
    runs: Vec<Run>,
    rules: Vec<PlainRule>,
}

/// Lines that follow one another.
#[derive(Debug)]
struct Run {
    /// Where the mappings of the first and the last line begin, in the whole text.
    kept: [usize; 2],
    /// Where those between were, in what is left of the text.
    at: usize,
    /// How many bytes were taken out up to here.
    taken: usize,
    /// The rules between.
    rules: Range<usize>,
    found: bool,
}

impl Cuts {
    /// Cuts a text; `None` if there is nothing to cut.
    #[must_use]
    pub fn of(text: &str) -> Option<Cuts> {
        // An anchor could stand for lines that are left out, more often than is allowed. (So a file with `R&D` in a comment is
        // parsed whole.)
        if text.len() > MAX_FILE_BYTES || text.len() < WORTH * 32 || text.contains('&') {
            return None;
        }
        let mut cuts = Cuts {
            left: String::new(),
            runs: Vec::new(),
            rules: Vec::new(),
        };
        let mut copied = 0;
        let mut run = Lines::default();
        let mut start = 0;
        for line in text.split_inclusive('\n') {
            let rule = PlainRule::of_line(line, start);
            start += line.len();
            if let (Some((indent, _)), true) = (&rule, run.count > 0)
                && *indent != run.indent
            {
                cuts.end(text, &run, &mut copied);
                run.count = 0;
            }
            match rule {
                Some((indent, rule)) => run.add(indent, rule, start, &mut cuts.rules),
                None => {
                    cuts.end(text, &run, &mut copied);
                    run.count = 0;
                }
            }
        }
        cuts.end(text, &run, &mut copied);
        if cuts.runs.is_empty() {
            return None;
        }
        cuts.left.push_str(text.get(copied..)?);
        Some(cuts)
    }

    /// Takes what is between the first and the last of some lines out.
    fn end(&mut self, text: &str, run: &Lines, copied: &mut usize) {
        let first = self.rules.len() - run.count;
        let (Some(one), Some(other)) = (self.rules.get(first), self.rules.last()) else {
            return;
        };
        if run.count < WORTH {
            self.rules.truncate(first);
            return;
        }
        let kept = [one.start(), other.start()];
        self.left
            .push_str(text.get(*copied..run.behind_first).unwrap_or_default());
        *copied = run.before_last;
        self.runs.push(Run {
            kept,
            at: self.left.len(),
            taken: *copied - self.left.len(),
            rules: first + 1..self.rules.len() - 1,
            found: false,
        });
    }

    /// Where in the whole text something stands that stands here in what is left of it.
    #[must_use]
    pub fn origin(&self, at: usize) -> usize {
        let before = self.runs.partition_point(|run| run.at <= at);
        let taken = before.checked_sub(1).and_then(|last| self.runs.get(last));
        at + taken.map_or(0, |run| run.taken)
    }

    /// How many scalars, lists and mappings were taken out.
    #[must_use]
    pub fn nodes(&self) -> usize {
        let lines = self.runs.iter().map(|run| run.rules.len());
        lines.sum::<usize>() * NODES
    }

    /// How long all texts were that were taken out.
    #[must_use]
    pub fn text(&self) -> usize {
        let rules = self
            .runs
            .iter()
            .filter_map(|run| self.rules.get(run.rules.clone()));
        rules.flatten().map(PlainRule::text_len).sum()
    }

    /// The rules that stood between two entries of a list.
    pub fn between(&mut self, one: &Node, next: Option<&Node>) -> &[PlainRule] {
        let start = one.span.start;
        let at = self.runs.partition_point(|run| run.kept[0] < start);
        match (self.runs.get_mut(at), next) {
            (Some(run), Some(next)) if run.kept == [start, next.span.start] => {
                run.found = true;
                self.rules.get(run.rules.clone()).unwrap_or_default()
            }
            _ => &[],
        }
    }

    /// Whether all that was taken out has its place.
    #[must_use]
    pub fn all_found(&self) -> bool {
        self.runs.iter().all(|run| run.found)
    }
}

/// Lines as they are met.
#[derive(Default)]
struct Lines {
    count: usize,
    indent: usize,
    /// Where the first line ends.
    behind_first: usize,
    /// Where the last line begins, and where it ends.
    before_last: usize,
    behind_last: usize,
}

impl Lines {
    fn add(&mut self, indent: usize, rule: PlainRule, end: usize, rules: &mut Vec<PlainRule>) {
        if self.count == 0 {
            self.behind_first = end;
        }
        (self.before_last, self.behind_last) = (self.behind_last, end);
        self.indent = indent;
        self.count += 1;
        rules.push(rule);
    }
}
