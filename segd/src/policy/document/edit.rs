//! A text in which lines of a list of rules changed: all else of it stands as it stood.
//!
//! The line before the change is a one-line rule that was found in a list, or the first line of the change was one and is one. So
//! the parser, which has just read it, is in a list in block style that is indented as it is, and takes each line that is such a
//! rule for the next entry. What comes behind the change
//! it meets as it met it before: if there were no other lines before, either, since it is just as far then; or else if that
//! is another rule of the list.
//!
//! INVARIANT: what is made so is what the parser would have made of the new text. Wherever that is not sure, it is asked.

use std::ops::Range;

use super::{
    Document,
    cuts::NODES,
    rules::PlainRule,
    tree::{MAX_FILE_BYTES, MAX_NODES, Taken},
};
use crate::policy::{diagnostic::Span, model::Action};

/// So many lines around a change are looked at for a one-line rule.
const NEAR: usize = 64;

/// The lines that changed, and what stands there now.
#[derive(Debug)]
pub struct Edit {
    /// Where they were.
    before: Range<usize>,
    /// Where those are that stand there now.
    now: Range<usize>,
    /// The one-line rule above them, or the first of them in the text before.
    first: PlainRule,
    is_above: bool,
    /// The one below them in the text before, if there were others than such rules between.
    below: Option<PlainRule>,
    /// How many such rules stood between, if there were no others.
    were: Option<usize>,
    /// Those between, now, in no list yet; each with the lines between it and the first rule.
    rules: Vec<(usize, PlainRule)>,
    /// How many lines there were, and are.
    lines: [usize; 2],
}

/// Where the rules of a list are that change.
#[derive(Clone, Debug)]
pub struct Place {
    /// Those that are no more, among the plain rules of their document.
    pub gone: Range<usize>,
    /// A rule of the text before on whose line it depends where new ones stand.
    pub known: usize,
    list: Action,
    /// The number of the first that is new, and of the first after them: before, and now.
    first: usize,
    next: [usize; 2],
}

impl Edit {
    /// What makes one text of another; `None`: more than lines of rules, or what cannot be told. `has_scopes`: something in it is
    /// about all of a list, and ends with it.
    #[must_use]
    pub fn between(before: &str, now: &str, has_scopes: bool) -> Option<Edit> {
        // Anchors: see `Cuts`.
        if now.len() > MAX_FILE_BYTES || before.contains('&') {
            return None;
        }
        let same = common(
            before.as_bytes().chunks(BLOCK),
            now.as_bytes().chunks(BLOCK),
            |one, other| {
                one.iter()
                    .zip(other)
                    .take_while(|(one, other)| one == other)
                    .count()
            },
        );
        let mut start = before.get(..floor(before, same))?.rfind('\n')? + 1;
        let rest = [before, now].map(|text| text.as_bytes().get(start..).unwrap_or_default());
        let same = common(rest[0].rchunks(BLOCK), rest[1].rchunks(BLOCK), |one, other| {
            let ends = one.iter().rev().zip(other.iter().rev());
            ends.take_while(|(one, other)| one == other).count()
        });
        let mut tail = same;
        let begins = |text: &str, at: usize| at == start || text.as_bytes().get(at - 1) == Some(&b'\n');
        if !begins(before, before.len() - tail) || !begins(now, now.len() - tail) {
            let rest = before.as_bytes().get(before.len() - tail..)?;
            tail -= rest.iter().position(|byte| *byte == b'\n')? + 1;
        }
        // A rule that stays is taken into it: before the first of a list nothing may stand that a new one can be compared with.
        let at = before.len() - tail;
        if let Some(line) = before.get(at..)?.split_inclusive('\n').next()
            && PlainRule::of_line(line, at).is_some()
        {
            tail -= line.len();
        }
        let (mut above, mut one) = (None, None);
        let first = |text: &str, start: usize| {
            let line = text.get(start..text.len() - tail)?.split_inclusive('\n').next()?;
            PlainRule::of_line(line, start)
        };
        for _ in 0..NEAR {
            // What was said of a rule is not known to hold for another in its place.
            if !has_scopes && let (Some(was), Some(is)) = (first(before, start), first(now, start)) {
                one = Some(was).filter(|was| was.0 == is.0);
                break;
            }
            let line_start = before
                .get(..start.checked_sub(1)?)?
                .rfind('\n')
                .map_or(0, |at| at + 1);
            above = PlainRule::of_line(before.get(line_start..start)?, line_start);
            if above.is_some() {
                break;
            }
            start = line_start;
        }
        let is_above = above.is_some();
        let (indent, first) = above.or(one)?;
        let lines = lines_of(before.get(start..before.len() - tail)?, start, indent);
        let mut below = None;
        if has_scopes || lines.is_none() {
            for _ in 0..NEAR {
                let at = before.len() - tail;
                let line = before.get(at..)?.split_inclusive('\n').next()?;
                below = PlainRule::of_line(line, at).filter(|(other, _)| *other == indent);
                if below.is_some() {
                    break;
                }
                tail -= line.len();
            }
            below?;
        }
        let (was, is) = (start..before.len() - tail, start..now.len() - tail);
        let rules = lines_of(now.get(is.clone())?, start, indent)?;
        let count = |text: &str, lines: &Range<usize>| Some(text.get(lines.clone())?.matches('\n').count());
        Some(Edit {
            lines: [count(before, &was)?, count(now, &is)?],
            before: was,
            now: is,
            first,
            is_above,
            below: below.map(|(_, rule)| rule),
            were: lines.map(|lines| lines.len()),
            rules,
        })
    }

    /// Where something stands now that stood there before.
    #[must_use]
    pub const fn moved(&self, at: usize) -> usize {
        if at < self.before.end {
            return at;
        }
        at - self.before.end + self.now.end
    }

    /// The same for a stretch.
    pub const fn move_span(&self, span: &mut Span) {
        (span.start, span.end) = (self.moved(span.start), self.moved(span.end));
    }

    /// Whether something stood where lines changed.
    #[must_use]
    pub const fn is_gone(&self, at: usize) -> bool {
        self.before.start <= at && at < self.before.end
    }

    /// The new line of something, whose line was counted before.
    #[must_use]
    pub const fn line(&self, at: usize, line: u32) -> u32 {
        if at < self.before.end {
            return line;
        }
        // A line is counted from 1, and there are no more than bytes.
        (line as usize + self.lines[1] - self.lines[0]) as u32
    }

    /// The rules that are new, each with the lines between it and the one before the change.
    #[must_use]
    pub fn rules(&self) -> &[(usize, PlainRule)] {
        &self.rules
    }

    /// What the new text takes at most, if it is not too much.
    #[must_use]
    pub fn takes(&self, before: Taken, gone: &[PlainRule]) -> Option<Taken> {
        let new: usize = self.rules.iter().map(|(_, rule)| rule.text_len()).sum();
        let old: usize = gone.iter().map(PlainRule::text_len).sum();
        let taken = Taken {
            nodes: (before.nodes + self.rules.len() * NODES).checked_sub(gone.len() * NODES)?,
            text: (before.text + new).checked_sub(old)?,
        };
        (taken.nodes <= MAX_NODES && taken.text <= MAX_FILE_BYTES).then_some(taken)
    }

    /// Where the change is in a document of the text before.
    #[must_use]
    pub fn place(&self, document: &Document) -> Option<Place> {
        let plain = &document.rules.plain;
        let find = |rule: &PlainRule| plain.iter().position(|known| known.start() == rule.start());
        let known = find(&self.first)?;
        let one = plain.get(known)?;
        let in_list = |rule: &&PlainRule| rule.action() == one.action();
        let (first, number) = match self.is_above {
            true => (known + 1, one.index() + 1),
            false => (known, one.index()),
        };
        let (gone, next) = match &self.below {
            // All between belongs to the list, since its ends do.
            Some(below) => {
                let below = find(below)?;
                let number = plain.get(below).filter(in_list)?.index();
                (first..below, number)
            }
            None => {
                let behind = plain.get(first..)?.iter().take_while(in_list);
                let gone = behind.take_while(|rule| self.is_gone(rule.start())).count();
                self.were.filter(|were| *were == gone)?;
                (first..first + gone, number + gone)
            }
        };
        Some(Place {
            gone: Some(gone).filter(|gone| gone.start <= gone.end)?,
            known,
            list: one.action(),
            first: number,
            next: [next, number + self.rules.len()],
        })
    }

    /// How many lines below the one of [`Place::known`] something stands that so many lines below the one above the change does.
    #[must_use]
    pub const fn below(&self, lines: usize) -> usize {
        if self.is_above { lines } else { lines - 1 }
    }

    /// Makes the change in the document that it is in.
    pub fn enter(&self, document: &mut Document, place: &Place) {
        let renumbered = |action: Action, start: usize, index: usize| {
            let is_after = action == place.list && start >= self.before.end;
            if is_after {
                index + place.next[1] - place.next[0]
            } else {
                index
            }
        };
        let rules = &mut document.rules;
        rules.odd.retain(|entry| !self.is_gone(entry.span.start));
        for entry in &mut rules.odd {
            entry.index = renumbered(entry.action, entry.span.start, entry.index);
        }
        for plain in &mut rules.plain {
            plain.number(renumbered(plain.action(), plain.start(), plain.index()));
        }
        let new = self.rules.iter().zip(place.first..);
        let new = new.filter_map(|((_, rule), index)| rule.entered(place.list, index));
        // What comes in stands where it stands: nothing of it is moved.
        let after: Vec<PlainRule> = rules.plain.drain(place.gone.end..).collect();
        rules.plain.truncate(place.gone.start);
        self.shift(&mut rules.plain);
        rules.plain.extend(new);
        let first = rules.plain.len();
        rules.plain.extend(after);
        if let Some(after) = rules.plain.get_mut(first..) {
            self.shift(after);
        }
    }

    /// Moves rules that stay.
    pub fn shift(&self, rules: &mut [PlainRule]) {
        for rule in rules {
            rule.put(self.moved(rule.start()));
        }
    }
}

/// How much is compared at once.
const BLOCK: usize = 4096;

/// How much two texts have in common, from one end on.
fn common<'t>(
    one: impl Iterator<Item = &'t [u8]>,
    other: impl Iterator<Item = &'t [u8]>,
    of_blocks: impl Fn(&[u8], &[u8]) -> usize,
) -> usize {
    let mut same = 0;
    for (one, other) in one.zip(other) {
        if one != other {
            return same + of_blocks(one, other);
        }
        same += one.len();
    }
    same
}

/// The beginning of the character at a place.
fn floor(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The rules of a line in a stretch of a text, each with how many lines below the one above it stands; `None`: others stand there.
fn lines_of(stretch: &str, mut at: usize, indent: usize) -> Option<Vec<(usize, PlainRule)>> {
    let mut rules = Vec::new();
    for (number, line) in (1..).zip(stretch.split_inclusive('\n')) {
        match PlainRule::of_line(line, at) {
            Some((its, rule)) if its == indent => rules.push((number, rule)),
            None if is_nothing(line) => {}
            _ => return None,
        }
        at += line.len();
    }
    Some(rules)
}

/// Whether a line between entries says nothing to anybody: neither to the parser nor to segd.
fn is_nothing(line: &str) -> bool {
    let Some(said) = line.strip_suffix('\n').map(|line| line.trim_start_matches(' ')) else {
        return false;
    };
    let plain = said.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    said.is_empty() || (said.starts_with('#') && plain && !said.contains(['&']) && !said.contains("segd"))
}
