//! A model of one host: the daemon's steps, a packet, two births and the clock, in every order there is.
//!
//! What a map holds is modelled by the revision it belongs to. A packet is judged right if everything it reads belongs to the
//! revision of the word it read first. Reading and writing one word, one element, one directory are atomic, nothing larger is.
//! A packet that never ends is always the same one, so one packet at a time shows everything that many could: it delays the
//! daemon only by being waited for, and not being waited for allows more.

use std::collections::BTreeSet;

use super::{AGAIN, MAKING, Step, TAGGING, Tagging};

/// The root, a cgroup that was always there, one that is born below it, one that is born below that, and one whose
/// directory is gone while its sockets live.
const ROOT: usize = 0;
const OLD: usize = 1;
const BORN: usize = 2;
const BORN_BELOW: usize = 3;
const DYING: usize = 4;
const CGROUPS: usize = 5;
const PARENT: [usize; CGROUPS] = [ROOT, ROOT, OLD, BORN, OLD];

/// A tag that belongs to no revision: made of two, or of a life that was no death.
const WRONG: u8 = u8::MAX;

/// The word that packets read first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Word {
    revision: u8,
    slot: usize,
    trial: bool,
}

/// An effect that nothing can come between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Settle,
    /// One of several words of the tables.
    Table(usize),
    Edges,
    Walk,
    AwaitBirths,
    /// So many acts back, if the last walk met what it had not expected.
    Repeat(usize),
    Unseen,
    Owners,
    /// The record of a trial.
    Record,
    /// The word: on trial or for good.
    Flip {
        trial: bool,
    },
    /// The end of a trial: kept, or put back once its time is over.
    Decide,
    /// The attempt before comes to nothing, here or at any moment before.
    Restart,
}

/// What the daemon does: for each revision, its acts.
type Program = Vec<(u8, Act)>;

/// The lists of `sequence.rs`, as acts.
fn making(revision: u8, order: &[Step], tagging: &[Tagging]) -> Program {
    let mut acts = Vec::new();
    for step in order {
        match step {
            Step::Settle => acts.push(Act::Settle),
            Step::Tables => acts.extend([Act::Table(0), Act::Table(1), Act::Edges]),
            Step::Tags => acts.extend(tagging.iter().enumerate().map(|(at, step)| match step {
                Tagging::Walk => Act::Walk,
                Tagging::AwaitBirths => Act::AwaitBirths,
                Tagging::Repeat => Act::Repeat(at - AGAIN),
                Tagging::Unseen => Act::Unseen,
            })),
            Step::Owners => acts.push(Act::Owners),
        }
    }
    acts.into_iter().map(|act| (revision, act)).collect()
}

/// Revisions, one after the other.
fn applied(order: &[Step], tagging: &[Tagging]) -> Program {
    let mut program = Program::new();
    for revision in [2, 3, 4] {
        program.extend(making(revision, order, tagging));
        program.push((revision, Act::Flip { trial: false }));
    }
    program
}

/// One revision on trial, kept or put back, and another one after it.
fn tried(order: &[Step], tagging: &[Tagging]) -> Program {
    let mut program = making(2, order, tagging);
    program.extend([(2, Act::Record), (2, Act::Flip { trial: true }), (2, Act::Decide)]);
    program.extend(making(3, order, tagging));
    program.extend([(3, Act::Record), (3, Act::Flip { trial: true })]);
    program
}

/// An attempt that ends anywhere, by an error or with the daemon, and another one after it.
fn interrupted(order: &[Step], tagging: &[Tagging]) -> Program {
    let mut program = making(2, order, tagging);
    program.push((2, Act::Restart));
    program.extend(making(3, order, tagging));
    program.push((3, Act::Flip { trial: false }));
    program
}

/// How a birth goes: the kernel's tracepoint reads the parent, writes the child, and the directory appears. `cgroup_mutex`
/// is held over all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Birth {
    Unborn,
    Read([u8; 2]),
    Written,
    Visible,
}

/// Where a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Packet {
    None,
    /// It has read a word on trial, and looks at the record next.
    Trying(Word),
    /// It reads one thing after another under a word.
    Reading(Word, u8),
}

/// Where the daemon is inside an act.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Inside {
    /// At its beginning.
    Start,
    /// A walk: who is still to be looked at, and who was tagged.
    Walking {
        queue: Vec<(usize, Look)>,
        visited: BTreeSet<usize>,
    },
    /// Those that no walk met, and what was read of the first.
    Rest { left: Vec<usize>, read: Option<[u8; 2]> },
}

/// What a walk does to a cgroup next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Look {
    Read,
    Write(Option<[u8; 2]>),
    List,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Host {
    word: Word,
    /// Which word a trial's record names, and whether its time is over.
    before: Word,
    over: bool,
    tables: [[u8; 2]; 2],
    edges: [u8; 2],
    owners: [u8; 2],
    tags: [Option<[u8; 2]>; CGROUPS],
    births: [Birth; 2],
    packet: Packet,
    /// A program run that the last flip must wait for: the packet's, the births'.
    awaited: [bool; 3],
    at: usize,
    inside: Inside,
    visited: BTreeSet<usize>,
    /// The last walk met a cgroup whose tag was another.
    changed: bool,
}

/// How the model differs from the code, to see that it notices.
#[derive(Clone, Copy, Debug, Default)]
struct Fault {
    number_reused: bool,
    record_late: bool,
    torn_read: bool,
}

impl Host {
    fn new() -> Host {
        let word = Word {
            revision: 1,
            slot: 0,
            trial: false,
        };
        Host {
            word,
            before: Word {
                revision: 0,
                slot: 0,
                trial: false,
            },
            over: true,
            tables: [[1, 1], [0, 0]],
            edges: [1, 0],
            owners: [1, 0],
            tags: [Some([1, 0]), Some([1, 0]), None, None, Some([1, 0])],
            births: [Birth::Unborn; 2],
            packet: Packet::None,
            awaited: [false; 3],
            at: 0,
            inside: Inside::Start,
            visited: BTreeSet::new(),
            changed: false,
        }
    }

    fn visible(&self, cgroup: usize) -> bool {
        match cgroup {
            BORN | BORN_BELOW => self.births[cgroup - BORN] == Birth::Visible,
            DYING => false,
            _ => true,
        }
    }

    fn birth_under_way(&self) -> bool {
        self.births
            .iter()
            .any(|birth| matches!(birth, Birth::Read(_) | Birth::Written))
    }

    /// Every state that one effect leads to.
    fn next(&self, program: &Program, fault: Fault) -> Result<Vec<Host>, String> {
        let mut all = Vec::new();
        self.packets(&mut all, fault)?;
        self.births(&mut all);
        if self.word.trial && !self.over {
            all.push(Host {
                over: true,
                ..self.clone()
            });
        }
        self.daemon(program, fault, &mut all);
        Ok(all)
    }

    fn packets(&self, all: &mut Vec<Host>, fault: Fault) -> Result<(), String> {
        let mut next = self.clone();
        match self.packet {
            Packet::None => {
                next.packet = if self.word.trial {
                    Packet::Trying(self.word)
                } else {
                    Packet::Reading(self.word, 0)
                };
            }
            Packet::Trying(word) => {
                next.packet = Packet::Reading(if self.over { self.before } else { word }, 0);
            }
            Packet::Reading(word, thing) => {
                let word = if fault.torn_read && thing > 1 {
                    self.word
                } else {
                    word
                };
                let Packet::Reading(first, _) = self.packet else {
                    return Ok(());
                };
                let belongs = |revision: u8, what: &str| {
                    if revision == first.revision {
                        Ok(())
                    } else {
                        Err(format!(
                            "revision {} was read, and {what} of {revision}",
                            first.revision
                        ))
                    }
                };
                match thing {
                    0 | 1 => belongs(self.tables[word.slot][usize::from(thing)], "a rule")?,
                    2 => belongs(self.owners[word.slot], "an owner")?,
                    _ => {
                        let cgroup = usize::from(thing) - 2;
                        if cgroup == DYING || self.visible(cgroup) {
                            belongs(self.tag(cgroup, word.slot), "a tag")?;
                        }
                    }
                }
                // Any one cgroup may be whose packet it is; reading them all is no different.
                next.packet = if usize::from(thing) == 2 + DYING {
                    next.awaited[0] = false;
                    Packet::None
                } else {
                    Packet::Reading(first, thing + 1)
                };
            }
        }
        all.push(next);
        Ok(())
    }

    /// A cgroup's tag, or that of its nearest ancestor that has one.
    fn tag(&self, cgroup: usize, slot: usize) -> u8 {
        match self.tags[cgroup] {
            Some(tags) => tags[slot],
            None if cgroup == ROOT => 0,
            None => self.tag(PARENT[cgroup], slot),
        }
    }

    fn births(&self, all: &mut Vec<Host>) {
        for number in 0..2 {
            let cgroup = BORN + number;
            let mut next = self.clone();
            match self.births[number] {
                Birth::Unborn => {
                    if self.birth_under_way() || !self.visible(PARENT[cgroup]) {
                        continue;
                    }
                    // In each slot: what its selectors make of what the parent is there.
                    let parent = self.tags[PARENT[cgroup]].unwrap_or([0; 2]);
                    let child = [0, 1].map(|slot| {
                        if parent[slot] == self.edges[slot] {
                            parent[slot]
                        } else {
                            WRONG
                        }
                    });
                    next.births[number] = Birth::Read(child);
                }
                Birth::Read(child) => {
                    next.tags[cgroup].get_or_insert(child);
                    next.births[number] = Birth::Written;
                    next.awaited[1 + number] = false;
                }
                Birth::Written => next.births[number] = Birth::Visible,
                Birth::Visible => continue,
            }
            all.push(next);
        }
    }

    fn daemon(&self, program: &Program, fault: Fault, all: &mut Vec<Host>) {
        let Some((revision, act)) = program.get(self.at).copied() else {
            return;
        };
        let slot = 1 - self.word.slot;
        let restart = program.iter().position(|(_, act)| *act == Act::Restart);
        if let Some(restart) = restart
            && self.at < restart
        {
            all.push(Host {
                at: restart,
                inside: Inside::Start,
                visited: BTreeSet::new(),
                changed: false,
                ..self.clone()
            });
        }
        let mut next = self.clone();
        next.at += 1;
        match act {
            Act::Settle if self.awaited.contains(&true) => return,
            Act::Settle => {}
            Act::Table(word) => next.tables[slot][word] = revision,
            Act::Edges => next.edges[slot] = revision,
            Act::Owners => next.owners[slot] = revision,
            Act::AwaitBirths if self.birth_under_way() => return,
            Act::AwaitBirths | Act::Restart => {}
            Act::Repeat(back) if self.changed => next.at = self.at - back,
            Act::Repeat(_) => {}
            Act::Record if fault.record_late => {}
            Act::Record => (next.before, next.over) = (self.word, false),
            Act::Flip { trial } => {
                next.flip(Word {
                    revision,
                    slot,
                    trial,
                });
                if trial && fault.record_late {
                    next.over = false;
                    let mut late = next.clone();
                    late.before = self.word;
                    // The old record is seen for a moment.
                    all.push(late);
                }
            }
            Act::Decide => {
                if self.over {
                    next.flip(self.before);
                } else {
                    next.flip(Word {
                        trial: false,
                        ..self.word
                    });
                }
            }
            Act::Walk => {
                next.at -= 1;
                next.walk(revision, slot);
            }
            Act::Unseen => {
                next.at -= 1;
                next.rest(revision, slot, fault);
            }
        }
        all.push(next);
    }

    fn flip(&mut self, word: Word) {
        self.word = word;
        self.visited.clear();
        self.awaited = [
            self.packet != Packet::None,
            matches!(self.births[0], Birth::Read(_)),
            matches!(self.births[1], Birth::Read(_)),
        ];
    }

    /// One effect of a walk.
    fn walk(&mut self, revision: u8, slot: usize) {
        let (mut queue, mut visited) = match std::mem::replace(&mut self.inside, Inside::Start) {
            Inside::Walking { queue, visited } => (queue, visited),
            _ => {
                self.changed = false;
                (vec![(ROOT, Look::Read)], self.visited.clone())
            }
        };
        let Some((cgroup, look)) = queue.pop() else {
            self.at += 1;
            self.visited = visited;
            return;
        };
        match look {
            Look::Read => queue.push((cgroup, Look::Write(self.tags[cgroup]))),
            Look::Write(read) => {
                let mut tags = read.unwrap_or([0; 2]);
                tags[slot] = revision;
                if self.tags[cgroup].is_none() == read.is_none() {
                    self.changed |= read != Some(tags);
                    self.tags[cgroup] = Some(tags);
                    visited.insert(cgroup);
                    queue.push((cgroup, Look::List));
                } else {
                    // Born between the look and the write: look again.
                    queue.push((cgroup, Look::Read));
                }
            }
            Look::List => {
                let children =
                    (OLD..CGROUPS).filter(|child| PARENT[*child] == cgroup && self.visible(*child));
                queue.extend(children.map(|child| (child, Look::Read)));
            }
        }
        self.inside = Inside::Walking { queue, visited };
    }

    /// One effect on those that no walk met: they are taken for dying, unless a parent's tag has made them right already.
    fn rest(&mut self, revision: u8, slot: usize, fault: Fault) {
        let (mut left, read) = match std::mem::replace(&mut self.inside, Inside::Start) {
            Inside::Rest { left, read } => (left, read),
            _ => {
                let unseen = |cgroup: &usize| self.tags[*cgroup].is_some() && !self.visited.contains(cgroup);
                ((0..CGROUPS).filter(unseen).collect(), None)
            }
        };
        let Some(cgroup) = left.last().copied() else {
            self.at += 1;
            return;
        };
        match read {
            None => {
                self.inside = Inside::Rest {
                    left,
                    read: self.tags[cgroup],
                }
            }
            Some(mut tags) => {
                let passes_for_it = fault.number_reused && tags[slot] == revision - 1;
                if tags[slot] != revision && !passes_for_it {
                    tags[slot] = if cgroup == DYING { revision } else { WRONG };
                    self.tags[cgroup] = Some(tags);
                }
                left.pop();
                self.inside = Inside::Rest { left, read: None };
            }
        }
    }
}

/// Visits every state. Returns how many there are, or what went wrong in one of them.
fn explore(program: &Program, fault: Fault) -> Result<usize, String> {
    let mut seen = BTreeSet::from([Host::new()]);
    let mut open = vec![Host::new()];
    let mut ended = false;
    while let Some(host) = open.pop() {
        ended |= host.at == program.len();
        for next in host
            .next(program, fault)
            .map_err(|error| format!("{error}: {host:?}"))?
        {
            if seen.insert(next.clone()) {
                open.push(next);
            }
        }
    }
    assert!(ended, "the daemon never comes to the end");
    Ok(seen.len())
}

#[test]
fn no_packet_sees_two_revisions() {
    let states = explore(&applied(&MAKING, &TAGGING), Fault::default()).unwrap();
    println!("{states} states");
    assert!(
        states > 10_000,
        "{states} states are too few to have seen anything"
    );
}

#[test]
fn no_packet_sees_two_revisions_while_one_is_on_trial() {
    let states = explore(&tried(&MAKING, &TAGGING), Fault::default()).unwrap();
    println!("{states} states");
    assert!(
        states > 10_000,
        "{states} states are too few to have seen anything"
    );
}

#[test]
fn no_packet_sees_two_revisions_after_an_attempt_that_came_to_nothing() {
    let states = explore(&interrupted(&MAKING, &TAGGING), Fault::default()).unwrap();
    println!("{states} states");
    assert!(
        states > 10_000,
        "{states} states are too few to have seen anything"
    );
    let number_reused = Fault {
        number_reused: true,
        ..Fault::default()
    };
    let found = explore(&interrupted(&MAKING, &TAGGING), number_reused);
    assert!(found.is_err(), "tags of an attempt that bears the same number");
}

#[test]
fn the_model_notices_every_step_that_is_left_out_or_out_of_order() {
    use Step::*;
    use Tagging::*;
    let orders: [&[Step]; 4] = [
        &[Tables, Tags, Owners],
        &[Settle, Tags, Owners],
        &[Settle, Tables, Owners],
        &[Settle, Tables, Tags],
    ];
    for order in orders {
        assert!(
            explore(&applied(order, &TAGGING), Fault::default()).is_err(),
            "{order:?}"
        );
    }
    assert!(
        explore(
            &applied(&[Settle, Tags, Tables, Owners], &TAGGING),
            Fault::default()
        )
        .is_err(),
        "a birth must not match against the selectors of another revision"
    );
    let taggings: [&[Tagging]; 7] = [
        &[Walk, Unseen],
        &[AwaitBirths, Walk, Unseen],
        &[Walk, Walk, Unseen],
        &[Walk, AwaitBirths, Unseen],
        // As it was until the model found a child of a newborn that neither walk met.
        &[Walk, AwaitBirths, Walk, Unseen],
        &[Walk, Walk, Repeat, Unseen],
        &[Walk, AwaitBirths, Walk, Repeat],
    ];
    for tagging in taggings {
        assert!(
            explore(&applied(&MAKING, tagging), Fault::default()).is_err(),
            "{tagging:?}"
        );
    }
    let mut early = applied(&MAKING, &TAGGING);
    let flip = early
        .iter()
        .position(|(_, act)| matches!(act, Act::Flip { .. }))
        .unwrap();
    early.swap(flip, flip - 1);
    assert!(
        explore(&early, Fault::default()).is_err(),
        "the word before the owners"
    );
    let whole = applied(&MAKING, &TAGGING);
    let torn_read = Fault {
        torn_read: true,
        ..Fault::default()
    };
    assert!(
        explore(&whole, torn_read).is_err(),
        "a packet that reads the word twice"
    );
    let record_late = Fault {
        record_late: true,
        ..Fault::default()
    };
    assert!(
        explore(&tried(&MAKING, &TAGGING), record_late).is_err(),
        "a record that is written after the word"
    );
}

/// The packet of the model reads the word once. So must the kernel programs.
#[test]
fn the_kernel_programs_read_the_word_in_one_place() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../segd-ebpf/src");
    let mut places = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        places.extend(
            lines
                .filter(|line| line.contains("ACTIVE."))
                .map(|line| format!("{}: {line}", path.display())),
        );
    }
    assert_eq!(places.len(), 1, "{places:#?}");
}
