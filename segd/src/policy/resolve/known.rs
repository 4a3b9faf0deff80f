//! What was found out for rules and holds on: a policy of which one file changes has the rules that it had in all others.
//!
//! INVARIANT: what is kept is what would be found again. The rules of a file follow from it, its name and what documents define;
//! where something is wrong with them, or it is not known what is missing, they are not kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
};

use super::{
    Resolver,
    defined::Defined,
    read::{Kept, ReadFile},
};
use crate::policy::{
    diagnostic::{Diagnostic, Severity},
    model::{Peer, Rule},
    numbers::Words,
    port::Interval,
};

/// Labels that a peer has to have.
type Labels = Vec<(String, String)>;

/// What holds on from one reading to the next.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// What documents defined then.
    defined: Arc<Defined>,
    /// What words stand for as an end of a rule, by their number.
    pub ends: Vec<Option<Arc<BTreeSet<Peer>>>>,
    /// And as its only port.
    pub ports: Vec<Option<Arc<[Interval]>>>,
    /// Peers that were looked up before, by labels; `any` has none.
    pub looked_up: BTreeMap<Labels, Arc<BTreeSet<Peer>>>,
    /// What a single name found: rules that name it share it.
    pub alone: Alone,
    /// Services that a rule is about.
    pub services: BTreeSet<Arc<[Interval]>>,
    /// How many of the two that a policy can make up there were when they were looked through.
    looked_through: (usize, usize),
    /// The rules of each file, by its place.
    files: BTreeMap<usize, RulesOfFile>,
}

/// Peers by single names.
#[derive(Debug, Default)]
pub(super) struct Alone {
    names: Words,
    /// By the number of the name.
    peers: Vec<Arc<BTreeSet<Peer>>>,
}

impl Alone {
    pub(super) fn get(&self, name: &str) -> Option<&Arc<BTreeSet<Peer>>> {
        self.peers.get(self.names.find(name)? as usize)
    }

    /// Adds a name that is not there yet.
    pub(super) fn insert(&mut self, name: &str, peers: Arc<BTreeSet<Peer>>) {
        if self.names.number(name) as usize == self.peers.len() {
            self.peers.push(peers);
        }
    }
}

/// What the rules of a file were found to be.
#[derive(Debug)]
struct RulesOfFile {
    name: String,
    file: Arc<ReadFile>,
    rules: Arc<Vec<Rule>>,
    /// What is to be said about them; no errors.
    out: Vec<Diagnostic>,
}

/// So many more than rules hold are no matter.
const MANY: usize = 1 << 12;

impl Known {
    /// Forgets what no rule holds any more, once that may be the most of it.
    fn look_through(&mut self) {
        let (labels, services) = self.looked_through;
        // Each may be as long as the policy has segments.
        if self.looked_up.len() > 2 * labels + 16 {
            self.looked_up.retain(|_, peers| Arc::strong_count(peers) > 1);
            self.looked_through.0 = self.looked_up.len();
        }
        if self.services.len() > 2 * services + MANY {
            self.services.retain(|services| Arc::strong_count(services) > 1);
            self.looked_through.1 = self.services.len();
        }
    }
}

impl Resolver<'_> {
    /// All rules, file by file.
    pub(super) fn rules(&mut self, files: &[Kept], words: &Words) {
        if !Arc::ptr_eq(&self.known.defined, &self.defined) {
            self.known = Known {
                defined: Arc::clone(&self.defined),
                ports: mem::take(&mut self.known.ports),
                services: mem::take(&mut self.known.services),
                ..Known::default()
            };
        }
        self.known.ends.resize(words.count(), None);
        self.known.ports.resize(words.count(), None);
        let mut known = mem::take(&mut self.known.files);
        let sources = self.sources;
        let name = |kept: &Kept| sources.get(kept.place).map_or("", |source| source.name.as_str());
        let is_of = |known: &RulesOfFile, kept: &Kept| {
            known.name == name(kept) && Arc::ptr_eq(&known.file, &kept.file)
        };
        let is_new = |kept: &&Kept| known.get(&kept.place).is_none_or(|known| !is_of(known, kept));
        let new = files.iter().filter(is_new);
        let mut made = self.made_ahead(&new.collect::<Vec<&Kept>>(), words).into_iter();
        for kept in files {
            let of_file = match known.remove(&kept.place).filter(|known| is_of(known, kept)) {
                Some(known) => known,
                None => self.of_file(name(kept), kept, words, made.next().flatten()),
            };
            self.policy.rules.add(Arc::clone(&of_file.rules));
            self.out.extend(of_file.out.iter().cloned());
            let is_error = |diagnostic: &Diagnostic| diagnostic.severity == Severity::Error;
            if self.complete && !of_file.out.iter().any(is_error) {
                self.known.files.insert(kept.place, of_file);
            }
        }
        self.known.look_through();
    }

    /// What a file's rules are found to be; `made`: they, if nothing is to be said about them.
    fn of_file(&mut self, name: &str, kept: &Kept, words: &Words, made: Option<Vec<Rule>>) -> RulesOfFile {
        let before = mem::take(&mut self.out);
        let rules = Arc::new(made.unwrap_or_else(|| self.rules_of(kept, words)));
        RulesOfFile {
            name: name.to_owned(),
            file: Arc::clone(&kept.file),
            rules,
            out: mem::replace(&mut self.out, before),
        }
    }
}
