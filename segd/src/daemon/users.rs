//! Which number each user of a policy has on this host: asked beside the loop, with each load and each minute.
//!
//! INVARIANT: the loop never waits for a directory service. What needs its answer goes on when it is there, or was waited for long enough.
//! INVARIANT: who has a number keeps it until NSS says that he has another, or has said for a minute that nobody has his name: a directory
//! service that is stopped may be no error to NSS, but nobody. That it says nothing is no answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    policy::model::{Policy, SelectorKind},
    workload::{
        selector::SelectorTables,
        users::{Answers, Asker, PATIENCE, ask},
    },
};

/// Between two looks at who has which number, and between the first and the last word that somebody is gone.
const MINUTE: Duration = Duration::from_secs(60);
/// Between two looks where NSS does not answer, or says for the first time that somebody is gone.
const SOON: Duration = Duration::from_secs(10);

/// What is known of users.
#[derive(Debug)]
pub struct Users {
    asker: Arc<Asker>,
    /// The last known numbers.
    known: BTreeMap<String, u32>,
    /// Whose question was not answered last.
    silent: BTreeSet<String>,
    /// Who has a number, and since when NSS says that nobody has his name.
    missed: BTreeMap<String, Instant>,
    /// The last asking, by number, that had a word on somebody. An earlier one that comes later is of then.
    heard: BTreeMap<String, u64>,
    /// How many askings there were.
    askings: u64,
    /// Who was asked about for what goes on now.
    asked: BTreeSet<String>,
    busy: bool,
    due: Instant,
    /// Why numbers that are others now are not in force.
    pub(super) stuck: Option<String>,
}

/// The users that a policy names.
pub fn names_of(policy: &Policy) -> BTreeSet<String> {
    let selectors = policy.segments.values().flat_map(|segment| &segment.selectors);
    let names = selectors.filter_map(|selector| match &selector.kind {
        SelectorKind::UserName(name) => Some(name.clone()),
        _ => None,
    });
    names.collect()
}

impl Users {
    /// Nothing is known.
    pub fn new() -> Users {
        Users::asking(Asker::new(ask))
    }

    fn asking(asker: Arc<Asker>) -> Users {
        Users {
            asker,
            known: BTreeMap::new(),
            silent: BTreeSet::new(),
            missed: BTreeMap::new(),
            heard: BTreeMap::new(),
            askings: 0,
            asked: BTreeSet::new(),
            busy: false,
            due: Instant::now(),
            stuck: None,
        }
    }

    /// Who asks.
    pub fn asker(&self) -> Arc<Asker> {
        Arc::clone(&self.asker)
    }

    /// The number of an asking that begins now.
    pub(super) fn begin(&mut self) -> u64 {
        self.askings += 1;
        self.askings
    }

    /// The number of a user, as it was last known.
    pub fn number(&self, name: &str) -> Option<u32> {
        self.known.get(name).copied()
    }

    /// Takes over what an earlier daemon knew.
    pub fn remember(&mut self, numbers: BTreeMap<String, u32>) {
        for (name, number) in numbers {
            self.known.entry(name).or_insert(number);
        }
    }

    /// Whether a policy can be put in force now.
    ///
    /// # Errors
    ///
    /// These have to be asked about first.
    pub fn ask_first(&self, policy: &Policy) -> Result<(), BTreeSet<String>> {
        let names = names_of(policy);
        if names.is_subset(&self.asked) {
            Ok(())
        } else {
            Err(names)
        }
    }

    /// A policy is about to be put in force. A start asks for its users now, and waits a moment; the loop has asked before.
    pub fn settle(&mut self, policy: &Policy, now: Instant) {
        let names = names_of(policy);
        if !names.is_subset(&self.asked) {
            let asking = self.begin();
            let answers = self.asker.ask(&names, PATIENCE);
            self.learn(asking, &names, &answers, now);
        }
        self.only(&names);
        self.put_off(now);
    }

    /// Nobody but these is waited for: others were asked about for a policy that is not in force.
    fn only(&mut self, names: &BTreeSet<String>) {
        self.silent.retain(|name| names.contains(name));
        self.missed.retain(|name, _| names.contains(name));
    }

    /// What was asked for is answered, as far as it is.
    pub(super) fn learn(&mut self, asking: u64, names: &BTreeSet<String>, answers: &Answers, now: Instant) {
        for name in names {
            if self.heard.get(name).is_some_and(|heard| *heard > asking) {
                continue;
            }
            match answers.get(name) {
                Some(said) => {
                    self.heard.insert(name.clone(), asking);
                    if self.silent.remove(name) {
                        tracing::info!("user `{name}`: the host's name service answers again");
                    }
                    match said {
                        Some(number) => {
                            self.missed.remove(name);
                            self.known.insert(name.clone(), *number);
                        }
                        None => self.miss(name, now),
                    }
                }
                None => {
                    if self.silent.insert(name.clone()) {
                        tracing::warn!("{}", self.silence(name));
                    }
                }
            }
        }
    }

    /// NSS says that nobody has a name.
    fn miss(&mut self, name: &str, now: Instant) {
        let Some(number) = self.number(name) else { return };
        match self.missed.get(name) {
            None => {
                tracing::warn!("{}", absence(name, number));
                self.missed.insert(name.to_owned(), now);
            }
            Some(first) if now.saturating_duration_since(*first) >= MINUTE => {
                self.missed.remove(name);
                self.known.remove(name);
            }
            Some(_) => {}
        }
    }

    /// Whether it is time for a look at the users of the policy in force.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        !self.busy && now >= self.due
    }

    /// It is under way from here on.
    pub(super) fn begin_look(&mut self, names: &BTreeSet<String>) {
        self.busy = true;
        self.only(names);
    }

    /// Nobody but these is named by what is in force: others' numbers may be somebody else's by the time they are named again.
    pub(super) fn forget_all_but(&mut self, names: &BTreeSet<String>) {
        self.known.retain(|name, _| names.contains(name));
        self.heard.retain(|name, _| names.contains(name));
    }

    /// A look has ended.
    pub(super) fn looked(&mut self, now: Instant) {
        self.busy = false;
        self.put_off(now);
    }

    fn put_off(&mut self, now: Instant) {
        let settled = self.silent.is_empty() && self.missed.is_empty();
        self.due = now + if settled { MINUTE } else { SOON };
    }

    /// These were asked about for what goes on now; or for nothing any more.
    pub(super) fn asked_for(&mut self, names: BTreeSet<String>) {
        self.asked = names;
    }

    fn silence(&self, name: &str) -> String {
        match self.number(name) {
            Some(number) => {
                format!(
                    "user `{name}`: the host's name service does not answer, the last known number {number} stays"
                )
            }
            None => {
                format!("user `{name}`: the host's name service does not answer, its matcher matches nothing")
            }
        }
    }

    /// A policy is in force with these numbers. Logs the users that match nothing.
    pub fn tell(&mut self, selectors: &SelectorTables) {
        self.stuck = None;
        for name in selectors.unresolved().filter(|name| !self.silent.contains(*name)) {
            tracing::warn!("user `{name}` is not known on this host: its matcher matches nothing");
        }
    }

    /// What status says of the users of a policy.
    pub fn warnings(&self, selectors: &SelectorTables) -> Vec<String> {
        let unknown = selectors.unresolved().filter(|name| !self.silent.contains(*name));
        let unknown = unknown.map(|name| format!("user `{name}` is not known on this host"));
        let silent = self
            .silent
            .iter()
            .filter(|name| selectors.users.contains_key(*name));
        let silent = silent.map(|name| self.silence(name));
        let missed = self.missed.keys().filter(|name| !self.silent.contains(*name));
        let missed = missed.filter_map(|name| Some(absence(name, (*selectors.users.get(name)?)?)));
        silent
            .chain(missed)
            .chain(unknown)
            .chain(self.stuck.clone())
            .collect()
    }
}

fn absence(name: &str, number: u32) -> String {
    format!(
        "user `{name}`: the host's name service says that nobody has this name, the last known number {number} stays until it has said so for a minute"
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::source::{Sources, resolve_read};

    /// What NSS says: nothing of whom is not in it.
    type Said = Arc<Mutex<Answers>>;

    fn host(said: &[(&str, Option<u32>)]) -> (Said, Users) {
        let said: Said = Arc::new(Mutex::new(answers(said)));
        let asked = Arc::clone(&said);
        let users = Users::asking(Asker::new(move |name| {
            let said = asked.lock().unwrap().get(name).copied();
            said.ok_or_else(|| std::io::ErrorKind::TimedOut.into())
        }));
        (said, users)
    }

    fn answers(said: &[(&str, Option<u32>)]) -> Answers {
        said.iter().map(|(name, id)| ((*name).to_owned(), *id)).collect()
    }

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn policy(users: &[&str]) -> Arc<Policy> {
        let matchers: Vec<String> = users.iter().map(|user| format!("{{user: {user}}}")).collect();
        let text = format!(
            "apiVersion: segd.dev/v1\nkind: SegmentPolicy\nmetadata: {{name: a}}\nspec:\n  segments: {{s: {{match: [{}]}}}}\n",
            matchers.join(", ")
        );
        let source = crate::policy::model::Source {
            name: "a.yaml".into(),
            text: text.into(),
        };
        resolve_read(Sources::of(vec![source]), false).unwrap().policy
    }

    #[test]
    fn who_has_a_number_keeps_it_while_nobody_answers() {
        let (said, mut users) = host(&[("alice", Some(1001)), ("gone", None)]);
        let policy = policy(&["alice", "far", "gone", "1007"]);
        assert_eq!(names_of(&policy), names(&["alice", "far", "gone"]));
        users.settle(&policy, Instant::now());
        let numbers = |users: &Users| ["alice", "far", "gone"].map(|name| users.number(name));
        assert_eq!(numbers(&users), [Some(1001), None, None]);
        said.lock().unwrap().clear();
        users.settle(&policy, Instant::now());
        assert_eq!(numbers(&users), [Some(1001), None, None]);
        assert_eq!(users.silent, names(&["alice", "far", "gone"]));
        *said.lock().unwrap() = answers(&[("alice", None), ("far", Some(7)), ("gone", Some(8))]);
        users.settle(&policy, Instant::now());
        assert_eq!(numbers(&users), [Some(1001), Some(7), Some(8)]);
        assert!(users.silent.is_empty());
    }

    #[test]
    fn what_an_earlier_daemon_knew_stays_until_something_else_is_said() {
        let (said, mut users) = host(&[]);
        users.remember([("alice".to_owned(), 1001), ("bob".to_owned(), 1002)].into());
        let policy = policy(&["alice", "bob"]);
        users.settle(&policy, Instant::now());
        assert_eq!(users.number("alice"), Some(1001));
        // A directory service that is not up yet is nobody to NSS, where it is not asked last.
        *said.lock().unwrap() = answers(&[("alice", Some(5)), ("bob", None)]);
        let now = Instant::now();
        let numbers = |users: &Users| (users.number("alice"), users.number("bob"));
        for after in [Duration::ZERO, SOON, MINUTE - SOON] {
            users.settle(&policy, now + after);
            assert_eq!(numbers(&users), (Some(5), Some(1002)), "{after:?}");
            assert!(users.is_due(now + after + SOON), "{after:?}");
        }
        users.settle(&policy, now + MINUTE);
        assert_eq!(numbers(&users), (Some(5), None));
        assert!(!users.is_due(now + MINUTE + SOON), "he is given up");
    }

    #[test]
    fn a_load_waits_for_answers_of_its_own() {
        let (_, mut users) = host(&[]);
        let both = policy(&["alice", "bob"]);
        assert_eq!(users.ask_first(&policy(&["1001"])), Ok(()));
        users.asked_for(names(&["alice"]));
        // All of them again: what was asked for another load is of then.
        assert_eq!(users.ask_first(&both), Err(names(&["alice", "bob"])));
        users.asked_for(names(&["alice", "bob"]));
        assert_eq!(users.ask_first(&both), Ok(()));
        users.asked_for(BTreeSet::new());
        assert!(users.ask_first(&both).is_err());
    }

    #[test]
    fn what_was_asked_later_is_believed_whatever_comes_last() {
        let (_, mut users) = host(&[]);
        let both = names(&["alice", "far"]);
        let (early, late) = (users.begin(), users.begin());
        let now = Instant::now();
        users.learn(late, &names(&["alice"]), &answers(&[("alice", Some(1002))]), now);
        users.learn(
            early,
            &both,
            &answers(&[("alice", Some(1001)), ("far", Some(7))]),
            now,
        );
        assert_eq!(
            (users.number("alice"), users.number("far")),
            (Some(1002), Some(7))
        );
        // Nor is it a word that she is gone, or silence.
        for said in [answers(&[("alice", None)]), answers(&[])] {
            users.learn(early, &both, &said, now + MINUTE);
        }
        assert!(users.missed.is_empty() && !users.silent.contains("alice"));
        let asking = users.begin();
        users.learn(asking, &both, &answers(&[("alice", Some(1003))]), now);
        assert_eq!(users.number("alice"), Some(1003));
    }

    #[test]
    fn silence_is_no_word_that_came_later() {
        let (_, mut users) = host(&[]);
        let (early, late) = (users.begin(), users.begin());
        let now = Instant::now();
        let alice = names(&["alice"]);
        users.learn(late, &alice, &Answers::new(), now);
        users.learn(early, &alice, &answers(&[("alice", Some(1001))]), now);
        assert_eq!(users.number("alice"), Some(1001));
        assert!(users.silent.is_empty());
    }

    #[test]
    fn whom_no_policy_in_force_names_has_no_number_when_one_names_him_again() {
        let (said, mut users) = host(&[("alice", Some(1001)), ("bob", Some(1002))]);
        let now = Instant::now();
        users.settle(&policy(&["alice", "bob"]), now);
        users.forget_all_but(&names(&["bob"]));
        assert_eq!((users.number("alice"), users.number("bob")), (None, Some(1002)));
        // The number is another's by now.
        *said.lock().unwrap() = answers(&[("alice", None), ("bob", None)]);
        users.settle(&policy(&["alice", "bob"]), now);
        assert_eq!((users.number("alice"), users.number("bob")), (None, Some(1002)));
        assert_eq!(users.heard.keys().collect::<Vec<_>>(), ["alice", "bob"]);
        users.forget_all_but(&names(&["bob"]));
        assert_eq!(users.heard.keys().collect::<Vec<_>>(), ["bob"]);
    }

    #[test]
    fn who_only_a_refused_policy_names_is_not_waited_for() {
        let (_, mut users) = host(&[("alice", Some(1001))]);
        let now = Instant::now();
        users.settle(&policy(&["alice"]), now);
        let asking = users.begin();
        users.learn(asking, &names(&["far"]), &Answers::new(), now);
        let at = now + MINUTE;
        users.begin_look(&names(&["alice"]));
        let asking = users.begin();
        users.learn(asking, &names(&["alice"]), &answers(&[("alice", Some(1001))]), at);
        users.looked(at);
        assert!(!users.is_due(at + SOON) && users.is_due(at + MINUTE));
    }

    #[test]
    fn who_is_gone_for_a_minute_is_given_up() {
        let (_, mut users) = host(&[("alice", Some(1001)), ("bob", None)]);
        let now = Instant::now();
        users.settle(&policy(&["alice", "bob"]), now);
        let all = names(&["alice", "bob"]);
        let look = |users: &mut Users, at: Instant, said: &[(&str, Option<u32>)]| {
            assert!(users.is_due(at));
            users.begin_look(&all);
            assert!(!users.is_due(at), "one at a time");
            let asking = users.begin();
            users.learn(asking, &all, &answers(said), at);
            users.looked(at);
            users.number("alice")
        };
        let gone = [("alice", None), ("bob", None)];
        assert!(!users.is_due(now + SOON));
        let mut at = now + MINUTE;
        assert_eq!(look(&mut users, at, &gone), Some(1001));
        at += SOON;
        // Somebody again: that he was missed is forgotten.
        let another = [("alice", Some(1002)), ("bob", None)];
        assert_eq!(look(&mut users, at, &another), Some(1002));
        assert!(!users.is_due(at + SOON));
        at += MINUTE;
        let first = at;
        assert_eq!(look(&mut users, at, &gone), Some(1002));
        while at + SOON < first + MINUTE {
            at += SOON;
            assert_eq!(look(&mut users, at, &gone), Some(1002), "{:?}", at - first);
        }
        at += SOON;
        // No answer is no last word.
        assert_eq!(look(&mut users, at, &[("bob", None)]), Some(1002));
        at += SOON;
        assert_eq!(look(&mut users, at, &gone), None);
        assert!(!users.is_due(at + SOON) && users.is_due(at + MINUTE));
    }
}
