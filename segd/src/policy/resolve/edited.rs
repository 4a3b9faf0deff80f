//! A file of which lines of rules changed: what stands in all others is moved, not read again.
//!
//! INVARIANT: what comes out is what a reading of the whole text would give; see [`Edit`].

use std::sync::Arc;

use super::read::{Found, Kept, ReadFile};
use crate::policy::{
    document::{edit::Edit, spans},
    numbers::Words,
};

impl Kept {
    /// The file with a new text, if no more than lines of rules are others.
    pub(super) fn edited(&self, text: &Arc<str>, words: &mut Words) -> Option<Kept> {
        let file = &self.file;
        if !file.complete || !file.out.is_empty() {
            return None;
        }
        let edit = Edit::between(&self.text, text, !file.allowances.is_empty())?;
        let mut documents = file.documents.iter().enumerate();
        let (changed, place) =
            documents.find_map(|(number, document)| Some((number, edit.place(document)?)))?;
        let gone = file.documents.get(changed)?.rules.plain.get(place.gone.clone())?;
        let taken = edit.takes(file.taken, gone)?;
        let mut documents = file.documents.clone();
        let mut plain = Vec::with_capacity(documents.len());
        for (number, (document, found)) in documents.iter_mut().zip(self.plain.iter()).enumerate() {
            let mut found = found.clone();
            for (rule, found) in document.rules.plain.iter().zip(&mut found) {
                found.line = edit.line(rule.start(), found.line);
            }
            if number == changed {
                let known = *found.get(place.known)?;
                let new = edit.rules().iter().map(|(lines, rule)| Found {
                    words: rule.texts(text).map(|word| words.number(word)),
                    line: known.line + edit.below(*lines) as u32,
                    ..known
                });
                found.splice(place.gone.clone(), new);
                edit.enter(document, &place);
            } else {
                edit.shift(&mut document.rules.plain);
            }
            spans::change(document, &mut |span| edit.move_span(span));
            plain.push(found);
        }
        let mut allowances = file.allowances.clone();
        allowances.retain(|allowance| !edit.is_gone(allowance.span.start));
        for allowance in &mut allowances {
            edit.move_span(&mut allowance.span);
            edit.move_span(&mut allowance.scope);
        }
        Some(Kept {
            place: self.place,
            text: Arc::clone(text),
            file: Arc::new(ReadFile {
                documents,
                complete: true,
                allowances,
                out: Vec::new(),
                taken,
            }),
            plain: plain.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{
        model::Source,
        resolve::{ReadFiles, Resolved, read::read_whole, resolve_again},
    };

    const HEAD: &str = "apiVersion: segd.dev/v1\nkind: SegmentPolicy\nmetadata: {name: NAME}\nspec:\n";

    /// Lines of which lists are drawn, most often rules of a line.
    const LINES: [&str; 12] = [
        "    - {from: web, to: db, ports: [tcp/1]}",
        "    - {from: db, to: web, ports: [udp/53]}",
        "    - {from: any, to: host, ports: [icmp/echo-request]}",
        "    - {from: web, to: db, ports: [tcp/1]}",
        "    - {from: nobody, to: db, ports: [tcp/1]}",
        "    - {from: web, to: db, ports: [tcp/1, udp/2], reason: 'so \u{e4}'}",
        "    - from: {l: x}\n      to: db\n      ports: [tcp/1]\n      reason: |\n        - {from: web, to: db, ports: [tcp/9]}",
        "    # why",
        "    - {from: web, to: [db, web], ports: [any], until: 2030-01-01T00:00:00Z}",
        "",
        "    - {from: web, to: db, ports: [tcp/1], when: {days: [mon-fri], hours: '08:00-18:00', zone: UTC}}",
        "    # segd: allow(implied, broad)",
    ];
    /// What may stand between lists.
    const BETWEEN: [&str; 6] = [
        "  deny:",
        "  tests:\n    - {from: web, to: db, port: tcp/1, expect: allow}\n  deny:",
        "---\napiVersion: segd.dev/v1\nkind: SegmentPolicy\nmetadata: {name: other}\nspec:\n  deny:",
        "  segments: {a: {match: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}], labels: {l: x}}}\n  release: [gone]\n  deny:",
        "---\napiVersion: segd.dev/v1\nkind: SegmentPolicy\nmetadata: {name: more}\nspec:\n  allow:",
        "  mode: audit\n  deny:",
    ];
    const SEGMENTS: &str =
        "  segments:\n    web: {match: [{cgroup: /web}], labels: {l: x}}\n    db: {match: [{user: 7}]}\n";

    fn source(name: &str, text: &str) -> Source {
        Source {
            name: name.to_owned(),
            text: text.into(),
        }
    }

    fn rule(draw: usize) -> String {
        LINES.get(draw % 40).map_or_else(
            || format!("    - {{from: web, to: db, ports: [tcp/{}]}}", draw % 9 + 1),
            |line| (*line).to_owned(),
        )
    }

    fn lines(lists: &[(usize, Vec<usize>)]) -> Vec<String> {
        let mut out = vec![HEAD.replace("NAME", "rules"), "  allow:\n".to_owned()];
        for (between, rules) in lists {
            out.extend(rules.iter().map(|draw| rule(*draw) + "\n"));
            out.extend(BETWEEN.get(between % 12).map(|line| format!("{line}\n")));
        }
        out
    }

    /// Everything that is known of a file, but what it takes, which may be told as more than it is.
    fn told(kept: &Kept, words: &Words) -> String {
        let mut said = String::new();
        let file = &kept.file;
        for (document, found) in file.documents.iter().zip(kept.plain.iter()) {
            for found in found {
                let texts = found.words.map(|word| words.text(word));
                said += &format!("{texts:?} {} {}\n", found.line, found.column);
            }
            said += &format!("{document:#?}");
        }
        format!("{said}{:?}{:?}{}", file.allowances, file.out, file.complete)
    }

    /// How a session goes on: whether the last text was made of the one before.
    #[track_caller]
    fn reads_on(files: &mut ReadFiles, text: &str) -> bool {
        let sources = [
            source("a.yaml", &format!("{}{SEGMENTS}", HEAD.replace("NAME", "a"))),
            source("b.yaml", text),
        ];
        let whole = read_whole(1, &sources[1]);
        let before = files.last(1).cloned();
        let edited = before.and_then(|before| before.edited(&sources[1].text, &mut files.words().clone()));
        let mut fresh = ReadFiles::default();
        let again = resolve_again(&sources, false, files);
        let first = resolve_again(&sources, false, &mut fresh);
        let said = |resolved: Result<Resolved, _>| resolved.map(|resolved| format!("{resolved:#?}"));
        assert_eq!(said(again), said(first), "{text}");
        let (kept, anew) = (files.last(1).expect("read"), fresh.last(1).expect("read"));
        assert_eq!(told(kept, files.words()), told(anew, fresh.words()), "{text}");
        assert!(kept.file.taken.nodes >= whole.taken.nodes && kept.file.taken.text >= whole.taken.text);
        edited.is_some()
    }

    #[test]
    fn rules_that_change_come_or_go_leave_the_others_as_they_are() {
        let run = |ports: std::ops::Range<u32>| -> String {
            let line = |port| format!("    - {{from: web, to: db, ports: [tcp/{port}]}}\n");
            ports.map(line).collect()
        };
        let head = HEAD.replace("NAME", "b") + "  allow:\n";
        let more = "    - {from: web, to: db, ports: [tcp/1, tcp/2], reason: x}\n  deny:\n";
        let text = |ports: [std::ops::Range<u32>; 3]| {
            let [a, b, c] = ports.map(run);
            format!("{head}{a}{b}{more}{c}  tests: [{{from: web, to: db, port: tcp/9, expect: allow}}]\n")
        };
        let mut files = ReadFiles::default();
        for (ports, is_edit) in [
            ([1..20, 30..50, 60..80], false),
            // One for another, some more, some less, none, some at the end of a list, and many.
            ([1..20, 31..51, 60..80], true),
            ([1..20, 25..51, 60..80], true),
            ([1..20, 48..51, 60..80], true),
            ([1..20, 0..0, 60..80], true),
            ([1..20, 48..51, 60..80], true),
            ([1..20, 48..51, 60..70], true),
            ([1..20, 48..51, 60..80], true),
            // The first of a list.
            ([1..20, 48..51, 62..80], true),
            ([3..20, 48..51, 62..80], true),
            ([1..20, 48..51, 62..80], true),
            ([1..25, 48..51, 62..80], true),
            ([1..10_000, 48..51, 62..80], true),
            ([1..2, 48..51, 62..80], true),
        ] {
            assert_eq!(reads_on(&mut files, &text(ports.clone())), is_edit, "{ports:?}");
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(200))]
        #[test]
        fn whatever_lines_change_the_file_is_as_if_it_were_read_anew(
            lists in proptest::collection::vec((0..12_usize, proptest::collection::vec(0..60_usize, 0..24)), 1..4),
            edits in proptest::collection::vec(
                (0..80_usize, 0..6_usize, proptest::collection::vec(0..60_usize, 0..4), 0..10_usize), 1..8),
        ) {
            let mut lines = lines(&lists);
            let mut files = ReadFiles::default();
            reads_on(&mut files, &lines.concat());
            for (at, gone, new, kind) in edits {
                let at = at.min(lines.len());
                let end = (at + gone).min(lines.len());
                let new = new.into_iter().map(|draw| rule(draw) + "\n");
                match kind {
                    0 => lines.extend(new),
                    1 => drop(lines.splice(at..end, [format!("{}\n", BETWEEN[gone])])),
                    2 => drop(lines.splice(at..end, new.map(|line| line.replace("    -", "  -")))),
                    // Within a line.
                    3 => if let Some(line) = lines.get_mut(at) { *line = line.replace("web", "db").replacen('t', "u", gone) },
                    4 => if let Some(line) = lines.get_mut(at) { for _ in 0..gone { line.pop(); } },
                    _ => drop(lines.splice(at..end, new)),
                }
                reads_on(&mut files, &lines.concat());
            }
        }
    }
}
