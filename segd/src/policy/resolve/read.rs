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

use super::{defined::Definitions, known::Known};
use crate::policy::{
    diagnostic::{Diagnostic, line_starts},
    document::{
        self, Document,
        allowance::{self, Allowance},
        cuts::Cuts,
        tree::{self, Taken},
    },
    model::Source,
    numbers::Words,
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
    /// What it takes, or a little more.
    pub taken: Taken,
}

/// The files of the last reading.
#[derive(Debug, Default)]
pub struct ReadFiles {
    last: Vec<Kept>,
    /// Names and ports of their rules, and of some before.
    words: Words,
    /// How many there were when they were gathered anew.
    gathered: usize,
    /// The segments.
    pub(super) defined: Definitions,
    /// What was found out for rules, by the numbers of these words.
    pub(super) known: Known,
}

/// A file of the last reading.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    /// Its place among the others, which is part of every position in it.
    pub place: usize,
    /// Its text.
    pub text: Arc<str>,
    /// What stands in it.
    pub file: Arc<ReadFile>,
    /// Of each document, its plain rules.
    pub plain: Arc<[Vec<Found>]>,
}

/// A plain rule, looked up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    /// The numbers of its ends and its port, as words.
    pub words: [u32; 3],
    /// Where it stands.
    pub line: u32,
    /// Where it stands there.
    pub column: u32,
}

impl ReadFiles {
    /// Takes texts that are known already for those that were read, so that each is kept once.
    pub fn share(&self, sources: &mut [Source]) {
        for (place, source) in sources.iter_mut().enumerate() {
            if let Some(kept) = self.known(place, &source.text) {
                source.text = Arc::clone(&kept.text);
            }
        }
    }

    fn known(&self, place: usize, text: &Arc<str>) -> Option<&Kept> {
        let same = |kept: &&Kept| Arc::ptr_eq(&kept.text, text) || kept.text == *text;
        self.last.get(self.last_at(place)?).filter(same)
    }

    fn last_at(&self, place: usize) -> Option<usize> {
        self.last.binary_search_by_key(&place, |kept| kept.place).ok()
    }

    /// A file of whose last text lines of rules changed.
    fn edited(&mut self, place: usize, text: &Arc<str>) -> Option<Kept> {
        self.last.get(self.last_at(place)?)?.edited(text, &mut self.words)
    }

    /// What was read last in a place.
    #[cfg(test)]
    pub(super) fn last(&self, place: usize) -> Option<&Kept> {
        self.last.get(self.last_at(place)?)
    }

    /// Files in the order given, each with its place.
    pub(super) fn read<'s>(&mut self, sources: impl Iterator<Item = (usize, &'s Source)>) -> Vec<Kept> {
        let mut files: Vec<(Reading<'_>, Option<Kept>)> = Vec::new();
        for (place, source) in sources {
            let known = match self.known(place, &source.text) {
                Some(known) => Some(known.clone()),
                None => self.edited(place, &source.text),
            };
            let file = known.as_ref().map(|kept| Arc::clone(&kept.file));
            let file = file.map_or_else(OnceLock::new, OnceLock::from);
            files.push((Reading { place, source, file }, known));
        }
        // Words of files that are gone are not kept for ever.
        let again = self.words.count() > 2 * self.gathered + MANY_WORDS;
        if again {
            self.words = Words::default();
            self.known = Known::default();
        }
        let mut kept = Vec::with_capacity(files.len());
        // Names and ports of one file are looked up while others are read.
        read_all(files.iter().map(|(reading, _)| reading), |read_another| {
            for (reading, known) in &files {
                kept.push(match known {
                    Some(known) if !again => known.clone(),
                    _ => {
                        while reading.file.get().is_none() && read_another() {}
                        self.look_up(reading)
                    }
                });
            }
        });
        if again || self.last.is_empty() {
            self.gathered = self.words.count();
        }
        self.last.clone_from(&kept);
        self.last.sort_unstable_by_key(|kept| kept.place);
        kept
    }

    fn look_up(&mut self, reading: &Reading<'_>) -> Kept {
        let file = Arc::clone(reading.finish());
        let text = &reading.source.text;
        let mut columns = Columns::new(text);
        let mut numbers = Vec::new();
        let mut find = |document: &Document| {
            let plain = &document.rules.plain;
            let texts: Vec<&str> = plain.iter().flat_map(|plain| plain.texts(text)).collect();
            numbers.clear();
            self.words.numbers(&texts, &mut numbers);
            let found = plain.iter().zip(numbers.chunks_exact(3)).map(|(plain, words)| {
                let (line, column) = columns.of(plain.start());
                let mut found = Found {
                    words: [0; 3],
                    line,
                    column,
                };
                found.words.copy_from_slice(words);
                found
            });
            found.collect()
        };
        let plain = file.documents.iter().map(&mut find);
        Kept {
            place: reading.place,
            text: Arc::clone(text),
            plain: plain.collect(),
            file: Arc::clone(&file),
        }
    }

    /// The names and ports that plain rules say.
    pub(super) const fn words(&self) -> &Words {
        &self.words
    }
}

/// Where in a text is what: found by where lines begin, and in a line from where it was looked last. Documents have `allow` and
/// `deny` in the order that their authors like, and a line may be as long as a file.
struct Columns<'t> {
    text: &'t str,
    /// Where each line begins, once somebody asks.
    starts: Vec<usize>,
    /// Where it was looked last, in which line, and the column there.
    last: (usize, usize, usize),
}

impl<'t> Columns<'t> {
    const fn new(text: &'t str) -> Columns<'t> {
        Columns {
            text,
            starts: Vec::new(),
            last: (0, usize::MAX, 0),
        }
    }

    /// Line and column of a place, both counted from 1.
    fn of(&mut self, start: usize) -> (u32, u32) {
        if self.starts.is_empty() {
            self.starts = line_starts(self.text);
        }
        let line = self.starts.partition_point(|first| *first <= start);
        let (from, before) = match self.last {
            (place, known, column) if known == line && place <= start => (place, column),
            _ => {
                let first = line.checked_sub(1).and_then(|line| self.starts.get(line));
                (first.copied().unwrap_or_default(), 1)
            }
        };
        let passed = self.text.get(from..start).unwrap_or_default().chars().count();
        self.last = (start, line, before + passed);
        let told = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        (told(line), told(before + passed))
    }
}

/// So many words more than the rules need are no matter.
const MANY_WORDS: usize = 1 << 16;

/// A file that is read, or was.
struct Reading<'s> {
    place: usize,
    source: &'s Source,
    file: OnceLock<Arc<ReadFile>>,
}

impl Reading<'_> {
    fn finish(&self) -> &Arc<ReadFile> {
        self.file.get_or_init(|| Arc::new(read(self.place, self.source)))
    }
}

/// The text of files that another thread is worth.
const WORTH_A_THREAD: usize = 256 << 10;
/// However many processors there are: each holds a file as a tree.
const MOST_THREADS: usize = 8;

/// How many threads so many files are worth, which have so many bytes together.
pub(super) fn threads_for(files: usize, bytes: usize) -> usize {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let most = processors.min(MOST_THREADS).min(files);
    most.min(bytes / WORTH_A_THREAD)
}

/// Reads what is not read yet: what stands in one file is no matter of another, so several are read at once. `meanwhile` is done
/// on this thread, and may read another file as often as it has to wait for one; whether there was one is returned.
fn read_all<'r>(files: impl Iterator<Item = &'r Reading<'r>>, meanwhile: impl FnOnce(&dyn Fn() -> bool)) {
    let new: Vec<&Reading<'_>> = files.filter(|reading| reading.file.get().is_none()).collect();
    let bytes: usize = new.iter().map(|reading| reading.source.text.len()).sum();
    let threads = threads_for(new.len(), bytes);
    let next = AtomicUsize::new(0);
    let take = || {
        let reading = new.get(next.fetch_add(1, Ordering::Relaxed));
        reading.is_some_and(|reading| {
            reading.finish();
            true
        })
    };
    let take_all = || while take() {};
    thread::scope(|scope| {
        for _ in 1..threads {
            // A thread that cannot be had leaves its part to the others.
            drop(thread::Builder::new().spawn_scoped(scope, take_all));
        }
        meanwhile(&take);
    });
}

fn read(place: usize, source: &Source) -> ReadFile {
    read_lines(place, source).unwrap_or_else(|| read_whole(place, source))
}

/// A file most of whose rules are lines of their own; `None`: it is not, or there is something to be said about it.
fn read_lines(place: usize, source: &Source) -> Option<ReadFile> {
    let mut cuts = Cuts::of(&source.text)?;
    let (nodes, taken) = tree::parse_of(place, source, Some(&cuts)).ok()?;
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
        taken,
    })
}

pub(super) fn read_whole(place: usize, source: &Source) -> ReadFile {
    let mut file = ReadFile::default();
    match tree::parse_of(place, source, None) {
        Ok((nodes, taken)) => {
            file.taken = taken;
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
    use super::{
        super::{Resolved, resolve_again, resolve_doubting},
        *,
    };
    use crate::policy::diagnostic::Code;

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
        assert_eq!(again, fresh.clone().map(|resolved| format!("{resolved:?}")));
        // Who does not ask for warnings gets the same without them, and places of rules only where tests may tell of them.
        let quiet = |mut resolved: Resolved| {
            resolved.warnings = Vec::new();
            if resolved.policy.tests.is_empty() {
                resolved.rules = Vec::new();
            }
            format!("{resolved:?}")
        };
        let quietly = resolve_doubting(sources, false, files).map(|(resolved, _)| resolved);
        assert_eq!(quietly.map(quiet), fresh.map(quiet));
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

    #[test]
    fn a_place_is_found_in_whatever_order_places_are_asked_for() {
        let text = "\nab\u{e4}\u{fc}, x: [a, b]\n\n  z\r\nlast \u{20ac} one";
        let slow = |start: usize| {
            let before = text.get(..start).expect("a place between characters");
            let line = before.rsplit('\n').next().expect("there is a line");
            (
                before.matches('\n').count() as u32 + 1,
                line.chars().count() as u32 + 1,
            )
        };
        let all: Vec<usize> = (0..=text.len()).filter(|at| text.is_char_boundary(*at)).collect();
        let back = all.iter().rev();
        let jumping = all
            .iter()
            .flat_map(|at| [at, all.get(at * 7 % all.len()).unwrap_or(at)]);
        let mut columns = Columns::new(text);
        for at in all.iter().chain(back).chain(jumping) {
            assert_eq!(columns.of(*at), slow(*at), "{at}");
        }
    }

    /// Lines of all kinds, between which and within which runs of rules are drawn.
    const OTHERS: [&str; 23] = [
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
        "    # none\r    - {from: db, to: web, ports: [tcp/1]}",
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
        // And as much text, of which half is what an escape stands for.
        for escapes in [2_560_000, 2_790_000] {
            let reason = "\\L".repeat(escapes);
            let other = format!("    - {{from: web, to: db, ports: [tcp/1], reason: \"{reason}\"}}\n");
            read_as_whole(format!("{HEAD}{other}{}", run(4, 31_000)));
        }
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
    fn no_rule_hides_in_a_comment_whatever_was_read_before() {
        let mut files = ReadFiles::default();
        let read = |files: &mut ReadFiles, text: &str| {
            let sources = [source("a.yaml", SEGMENTS), source("b.yaml", text)];
            as_fresh(&sources, files);
            resolve_again(&sources, false, files).map(drop)
        };
        let right = format!("{HEAD}{}    # none\n{}", run(4, 20), run(4, 20));
        assert_eq!(read(&mut files, &right), Ok(()));
        for hidden in [
            "    # none\r    - {from: db, to: web, ports: [any]}\n",
            "    # none\r\n    \r",
        ] {
            let found =
                read(&mut files, &right.replace("    # none\n", hidden)).expect_err("must be refused");
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found.first().map(|found| found.code), Some(Code::Syntax));
            assert_eq!(read(&mut files, &right), Ok(()));
        }
    }

    /// What files may say: segments, some of which contradict others, and rules.
    fn texts() -> Vec<String> {
        let head = "apiVersion: segd.dev/v1\nkind: SegmentPolicy\nmetadata: {name: NAME}\nspec:\n";
        let lines = |port: &str| run(4, 12).replace("tcp/", port);
        [
            "  segments: {web: {match: [{cgroup: /web}]}, db: {match: [{cgroup: /db}]}}\n".to_owned(),
            "  segments: {web: {match: [{cgroup: /web}], labels: {l: x}}, db: {intra: deny}}\n".to_owned(),
            "  mode: audit\n  segments: {web: {match: [{cidr: 10.0.0.0/8}]}, db: {match: [{cidr: 10.1.0.0/16}]}}\n"
                .to_owned(),
            "  segments: {db: {match: [{cgroup: /web}, {cidr: 10.0.0.0/8}]}}\n".to_owned(),
            "  segments: {other: {match: [{cidr: 10.0.0.0/8}, {cgroup: /w*}]}}\n".to_owned(),
            format!("  allow:\n{}", lines("tcp/")),
            format!("  allow:\n{}", lines("udp/")),
            format!("  allow:\n{}  deny:\n{}", lines("udp/"), lines("udp/").replace("from: web", "from: any")),
            format!("  deny:\n{}  allow:\n{}", lines("tcp/"), run(4, 3)),
            format!("  allow:\n{}", lines("tcp/").replace("db", "other")),
            format!("  allow:\n    # segd: allow(implied)\n{}{}", lines("tcp/"), lines("tcp/")),
            format!("  allow:\n{}    - {{from: {{l: x}}, to: any, ports: [any]}}\n", lines("tcp/")),
            "  release: [db]\n".to_owned(),
            "  tests: [{from: web, to: db, port: tcp/1, expect: allow}]\n".to_owned(),
            "  nonsense".to_owned(),
        ]
        .map(|text| format!("{head}{text}"))
        .into()
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_edited_the_answer_is_that_of_a_fresh_reading(
            edits in proptest::collection::vec((0..4_usize, 0..15_usize, 0..8_usize), 1..24),
        ) {
            let (texts, mut files) = (texts(), ReadFiles::default());
            let mut sources: Vec<Source> = Vec::new();
            for (at, text, turn) in edits {
                let text = texts[text].replace("NAME", &format!("n{at}"));
                match sources.get_mut(at) {
                    Some(source) => source.text = text.into(),
                    None => sources.push(source(&format!("{}.yaml", sources.len()), &text)),
                }
                match turn {
                    0 => sources.rotate_left(1),
                    1 => sources[0].name = format!("{}x", sources[0].name),
                    2 => drop(sources.pop()),
                    3 => files.share(&mut sources),
                    _ => {}
                }
                as_fresh(&sources, &mut files);
            }
        }
    }

    #[test]
    fn a_file_that_is_as_it_was_is_not_read_again() {
        let mut files = ReadFiles::default();
        let sources = |port| [source("a.yaml", SEGMENTS), source("b.yaml", &rules(port))];
        let read = |files: &mut ReadFiles, sources: [Source; 2]| files.read(sources.iter().enumerate());
        let first = read(&mut files, sources("tcp/1"));
        let second = read(&mut files, sources("tcp/2"));
        assert!(Arc::ptr_eq(&first[0].file, &second[0].file));
        assert!(!Arc::ptr_eq(&first[1].file, &second[1].file));
    }
}
