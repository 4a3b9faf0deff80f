//! Files, read: what stands in each is a matter of its text alone, so a file that is as it was need not be read again.
//!
//! INVARIANT: what is kept is what a reading of the same text in the same place among the files would give, its problems
//! included. Only the files of the last reading are kept.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use sha2::{Digest as _, Sha256};

use crate::policy::{
    diagnostic::Diagnostic,
    document::{
        self, Document,
        allowance::{self, Allowance},
        cuts::Cuts,
    },
    model::Source,
};

/// What stands in one file.
#[derive(Debug, Default)]
pub(super) struct ReadFile {
    /// Its documents, by position.
    pub documents: Vec<Document>,
    /// Every document of it could be read.
    pub complete: bool,
    /// Comments that allow warnings.
    pub allowances: Vec<Allowance>,
    /// What is wrong with it.
    pub out: Vec<Diagnostic>,
}

/// The files of the last reading.
#[derive(Debug, Default)]
pub struct ReadFiles {
    last: Vec<(Key, Arc<ReadFile>)>,
}

/// A file's place among the others, which is part of every position in it, and a hash of its text.
type Key = (usize, [u8; 32]);

impl ReadFiles {
    /// Files in the order given, each with its place.
    pub(super) fn read<'s>(
        &mut self,
        sources: impl Iterator<Item = (usize, &'s Source)>,
    ) -> Vec<Arc<ReadFile>> {
        let mut before = std::mem::take(&mut self.last);
        before.sort_unstable_by_key(|(key, _)| *key);
        let files: Vec<Reading<'_>> = sources
            .map(|(place, source)| {
                let key = (place, Sha256::digest(source.text.as_bytes()).into());
                let known = before.binary_search_by_key(&key, |(key, _)| *key).ok();
                let known = known.and_then(|at| before.get(at));
                let file = known.map_or_else(OnceLock::new, |(_, file)| OnceLock::from(Arc::clone(file)));
                Reading { key, source, file }
            })
            .collect();
        read_all(&files);
        for reading in files {
            let file = Arc::clone(reading.finish());
            self.last.push((reading.key, file));
        }
        self.last.iter().map(|(_, file)| Arc::clone(file)).collect()
    }
}

/// A file that is read, or was.
struct Reading<'s> {
    key: Key,
    source: &'s Source,
    file: OnceLock<Arc<ReadFile>>,
}

impl Reading<'_> {
    fn finish(&self) -> &Arc<ReadFile> {
        self.file.get_or_init(|| Arc::new(read(self.key.0, self.source)))
    }
}

/// The text of files that another thread is worth.
const WORTH_A_THREAD: usize = 256 << 10;
/// However many processors there are: each holds a file as a tree.
const MOST_THREADS: usize = 8;

/// Reads what is not read yet: what stands in one file is no matter of another, so several are read at once.
fn read_all(files: &[Reading<'_>]) {
    let new: Vec<&Reading<'_>> = files
        .iter()
        .filter(|reading| reading.file.get().is_none())
        .collect();
    let bytes: usize = new.iter().map(|reading| reading.source.text.len()).sum();
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let threads = processors
        .min(MOST_THREADS)
        .min(new.len())
        .min(bytes / WORTH_A_THREAD);
    let next = AtomicUsize::new(0);
    let take = || {
        while let Some(reading) = new.get(next.fetch_add(1, Ordering::Relaxed)) {
            reading.finish();
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            // A thread that cannot be had leaves its part to the others.
            drop(thread::Builder::new().spawn_scoped(scope, take));
        }
        take();
    });
}

fn read(place: usize, source: &Source) -> ReadFile {
    read_lines(place, source).unwrap_or_else(|| read_whole(place, source))
}

/// A file most of whose rules are lines of their own; `None`: it is not, or there is something to be said about it.
fn read_lines(place: usize, source: &Source) -> Option<ReadFile> {
    let mut cuts = Cuts::of(&source.text)?;
    let nodes = document::tree::parse_of(place, source, Some(&cuts)).ok()?;
    let mut out = Vec::new();
    let documents = document::documents_of(&source.text, &nodes, Some(&mut cuts), &mut out);
    if !out.is_empty() || !cuts.all_found() {
        return None;
    }
    Some(ReadFile {
        complete: documents.len() == nodes.len(),
        allowances: allowance::allowances(place, source, &nodes, &mut out),
        documents,
        out,
    })
}

fn read_whole(place: usize, source: &Source) -> ReadFile {
    let mut file = ReadFile::default();
    match document::tree::parse(place, source) {
        Ok(nodes) => {
            file.documents = document::documents(&source.text, &nodes, &mut file.out);
            file.complete = file.documents.len() == nodes.len();
            file.allowances = allowance::allowances(place, source, &nodes, &mut file.out);
        }
        Err(diagnostic) => file.out.push(*diagnostic),
    }
    file
}

#[cfg(test)]
mod tests {
    use super::{super::resolve_again, *};

    fn source(name: &str, text: &str) -> Source {
        Source {
            name: name.to_owned(),
            text: text.into(),
        }
    }

    const SEGMENTS: &str = "apiVersion: segd.dev/v1\nkind: SegmentPolicy\nmetadata: {name: a}\nspec:\n  \
                            segments: {web: {match: [{cgroup: /web}]}, db: {match: [{cgroup: /db}]}}\n";

    fn rules(port: &str) -> String {
        format!(
            "apiVersion: segd.dev/v1\nkind: SegmentPolicy\nmetadata: {{name: b}}\nspec:\n  \
             allow: [{{from: web, to: db, ports: [{port}]}}]\n"
        )
    }

    #[track_caller]
    fn as_fresh(sources: &[Source], files: &mut ReadFiles) {
        let again = resolve_again(sources, false, files).map(|resolved| format!("{resolved:?}"));
        let fresh = resolve_again(sources, false, &mut ReadFiles::default());
        assert_eq!(again, fresh.map(|resolved| format!("{resolved:?}")));
    }

    #[test]
    fn whatever_was_read_before_the_answer_is_that_of_a_fresh_reading() {
        let mut files = ReadFiles::default();
        let (a, b) = (source("a.yaml", SEGMENTS), source("b.yaml", &rules("tcp/1")));
        as_fresh(&[a.clone(), b.clone()], &mut files);
        as_fresh(&[a.clone(), source("b.yaml", &rules("tcp/2"))], &mut files);
        // A mistake is told each time, and is over when it is.
        let wrong = source("b.yaml", &rules("tcp/0"));
        for _ in 0..2 {
            as_fresh(&[a.clone(), wrong.clone()], &mut files);
        }
        as_fresh(&[a.clone(), source("b.yaml", "{")], &mut files);
        as_fresh(&[a.clone(), b.clone()], &mut files);
        // Names and places move.
        as_fresh(
            &[source("0.yaml", "# nothing\n"), a.clone(), b.clone()],
            &mut files,
        );
        as_fresh(&[b.clone(), a.clone()], &mut files);
        as_fresh(&[source("z.yaml", SEGMENTS), b], &mut files);
        as_fresh(&[a], &mut files);
    }

    /// Lines of all kinds, between which and within which runs of rules are drawn.
    const OTHERS: [&str; 22] = [
        "    - {from: [web, db], to: web, ports: [tcp/1, udp/2]}",
        "    - {from: web, to: db, ports: [tcp/1], reason: x}",
        "    - {from: web, to: db}",
        "    - {from: yes, to: db, ports: [tcp/1]}",
        "    - from: web\n      to: db\n      ports: [tcp/1]",
        "    - from: web\n      to: db\n      ports: [tcp/1]\n      reason: |",
        "    - from: web\n      to: db\n      ports: [tcp/1]\n      reason: >-\n        so",
        "    - {from: web, to: db, ports: [tcp/1], reason: \"long",
        "    so\"}",
        "    # segd: allow(implied)",
        "# nothing",
        "",
        "  deny:",
        "  allow: &all",
        "  deny: *all",
        "  tests:",
        "---",
        "---\napiVersion: segd.dev/v1\nkind: SegmentPolicy\nmetadata: {name: c}\nspec:\n  allow:",
        "kind: Other",
        "    - - {from: web, to: db, ports: [tcp/1]}",
        "    - [",
        "    ]",
    ];

    /// What is read of a file, as all of it is printed.
    fn told(file: &ReadFile) -> String {
        format!("{file:?}")
    }

    fn read_as_whole(text: String) {
        let source = Source {
            name: "t.yaml".to_owned(),
            text: text.into(),
        };
        assert_eq!(
            told(&read(3, &source)),
            told(&read_whole(3, &source)),
            "{}",
            source.text
        );
    }

    fn run(indent: usize, count: usize) -> String {
        let line = |number| format!("{:indent$}- {{from: web, to: db, ports: [tcp/{number}]}}\n", "");
        (1..=count).map(line).collect()
    }

    const HEAD: &str = "apiVersion: segd.dev/v1\nkind: SegmentPolicy\nmetadata: {name: b}\nspec:\n  allow:\n";

    #[test]
    fn rules_that_are_lines_are_read_as_the_parser_reads_them() {
        for count in [7, 8, 9] {
            for indent in [2, 4, 6] {
                read_as_whole(format!("{HEAD}{}", run(indent, count)));
                for other in OTHERS {
                    let (a, b) = (run(indent, count), run(4, 9));
                    read_as_whole(format!("{HEAD}{a}{other}\n{b}"));
                    read_as_whole(format!("{HEAD}{other}\n{a}{other}\n{b}  deny:\n{b}"));
                    read_as_whole(format!("{HEAD}{a}{b}{other}"));
                }
            }
        }
        // As many nodes as a file may have, and more.
        read_as_whole(format!("{HEAD}{}", run(4, 31_248)));
        read_as_whole(format!("{HEAD}{}", run(4, 31_249)));
        let source = Source {
            name: "t.yaml".to_owned(),
            text: format!("{HEAD}{}", run(4, 100)).into(),
        };
        assert!(read_lines(0, &source).is_some(), "all is read by the parser");
    }

    proptest::proptest! {
        #[test]
        fn whatever_stands_between_them_rules_are_read_as_the_parser_reads_them(
            parts in proptest::collection::vec((0..60_usize, 0..9_usize, 5..14_usize), 0..12),
        ) {
            let mut text = HEAD.to_owned();
            for (other, indent, count) in parts {
                match OTHERS.get(other) {
                    Some(other) => text += &format!("{other}\n"),
                    None => text += &run(if indent < 7 { 4 } else { indent - 1 }, count),
                }
            }
            read_as_whole(text);
        }
    }

    #[test]
    fn a_file_that_is_as_it_was_is_not_read_again() {
        let mut files = ReadFiles::default();
        let sources = |port| [source("a.yaml", SEGMENTS), source("b.yaml", &rules(port))];
        let read = |files: &mut ReadFiles, sources: [Source; 2]| files.read(sources.iter().enumerate());
        let first = read(&mut files, sources("tcp/1"));
        let second = read(&mut files, sources("tcp/2"));
        assert!(Arc::ptr_eq(&first[0], &second[0]));
        assert!(!Arc::ptr_eq(&first[1], &second[1]));
    }
}
