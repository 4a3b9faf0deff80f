//! Asking for the numbers of users beside whoever must not wait: a directory service may take its time, or never answer.
//!
//! INVARIANT: whoever asks waits no longer than he says. Names that do not answer keep no other from being asked, until as many hang as are
//! asked about at a time.
//! INVARIANT: a question that hangs is asked again beside itself ever more seldom, and only while there is much room for others: threads
//! do not heap up.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// How long the daemon waits for all names of a policy.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// Questions under way at a time.
const MOST: usize = 64;
/// How often one that hangs is under way at a time, unless there is very much room.
const TIMES: u32 = 3;
/// When one that hangs is asked again beside itself; twice as long after the second, and so on.
const HANGS: Duration = Duration::from_secs(5);

/// What was answered, by name: a number, or that nobody has it. A name without an answer is not in it.
pub type Answers = BTreeMap<String, Option<u32>>;

type Ask = dyn Fn(&str) -> io::Result<Option<u32>> + Send + Sync;

/// Who asks.
pub struct Asker {
    ask: Box<Ask>,
    hangs: Duration,
    desk: Mutex<Desk>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct Desk {
    /// How often a name is being asked about, and since when the last time.
    under_way: BTreeMap<String, (u32, Instant)>,
    threads: usize,
    /// Who waits for an answer, and what was answered to him; `None`: NSS does not know.
    rounds: BTreeMap<u64, BTreeMap<String, Option<Option<u32>>>>,
    last: u64,
}

impl std::fmt::Debug for Asker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asker").finish_non_exhaustive()
    }
}

impl Asker {
    /// Asks with this; [`super::ask`], but for tests.
    pub fn new(ask: impl Fn(&str) -> io::Result<Option<u32>> + Send + Sync + 'static) -> Arc<Asker> {
        Asker::patient(HANGS, ask)
    }

    fn patient(
        hangs: Duration,
        ask: impl Fn(&str) -> io::Result<Option<u32>> + Send + Sync + 'static,
    ) -> Arc<Asker> {
        Arc::new(Asker {
            ask: Box::new(ask),
            hangs,
            desk: Mutex::default(),
            moved: Condvar::new(),
        })
    }

    /// Asks for some names, each on a thread of its own. What is not answered in time is left out, and its answer is nobody's.
    #[must_use]
    pub fn ask(self: &Arc<Self>, names: &BTreeSet<String>, within: Duration) -> Answers {
        let until = Instant::now() + within;
        let mut waiting = names.clone();
        let mut desk = self.desk();
        desk.last += 1;
        let round = desk.last;
        desk.rounds.insert(round, BTreeMap::new());
        loop {
            let answered = desk.rounds.get(&round).map_or(0, BTreeMap::len);
            let left = until.saturating_duration_since(Instant::now());
            if answered == names.len() || left.is_zero() {
                break;
            }
            self.begin(&mut desk, round, &mut waiting);
            let woken = self.moved.wait_timeout(desk, left);
            desk = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        let said = desk.rounds.remove(&round).unwrap_or_default();
        said.into_iter()
            .filter_map(|(name, said)| Some((name, said?)))
            .collect()
    }

    /// Begins to ask what may be asked now.
    fn begin(self: &Arc<Self>, desk: &mut Desk, round: u64, waiting: &mut BTreeSet<String>) {
        let now = Instant::now();
        while desk.threads < MOST {
            let mut free = waiting.iter().filter(|name| desk.may_ask(name, now, self.hangs));
            let Some(name) = free.next().cloned() else {
                return;
            };
            waiting.remove(&name);
            desk.threads += 1;
            let times = desk.under_way.get(&name).map_or(0, |(times, _)| *times);
            desk.under_way.insert(name.clone(), (times + 1, now));
            let (asker, asked) = (Arc::clone(self), name.clone());
            let thread = thread::Builder::new().name("segd-users".to_owned());
            let begun = thread.spawn(move || {
                let said = (asker.ask)(&asked);
                asker.desk().end(round, asked, said.ok());
                asker.moved.notify_all();
            });
            if begun.is_err() {
                desk.end(round, name, None);
            }
        }
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        // A panic is a compile error here; what a poisoned lock guards is whole.
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Desk {
    /// Whether a name is not being asked about, or hangs for long enough.
    fn may_ask(&self, name: &str, now: Instant, hangs: Duration) -> bool {
        self.under_way.get(name).is_none_or(|(times, last)| {
            let after = hangs.saturating_mul(1_u32.checked_shl(times - 1).unwrap_or(u32::MAX));
            let is_long = now.saturating_duration_since(*last) >= after;
            let room = if *times < TIMES { MOST / 2 } else { MOST / 4 };
            is_long && self.threads < room
        })
    }

    fn end(&mut self, round: u64, name: String, said: Option<Option<u32>>) {
        self.threads -= 1;
        if let Some((times, _)) = self.under_way.get_mut(&name) {
            *times -= 1;
            if *times == 0 {
                self.under_way.remove(&name);
            }
        }
        if let Some(answers) = self.rounds.get_mut(&round) {
            answers.insert(name, said);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    };

    use super::*;

    const LONG: Duration = Duration::from_secs(20);
    const SHORT: Duration = Duration::from_millis(50);

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn one_that_hangs_keeps_nobody_waiting_and_is_asked_again_once_it_ends() {
        let (release, released) = mpsc::channel::<()>();
        let released = Mutex::new(released);
        let hangs = Arc::new((AtomicBool::new(true), AtomicUsize::new(0)));
        let known = Arc::clone(&hangs);
        let asker = Asker::new(move |name| match name {
            "far" if known.0.load(Ordering::SeqCst) => {
                known.1.fetch_add(1, Ordering::SeqCst);
                drop(released.lock().map(|released| released.recv()));
                Ok(Some(1))
            }
            "far" => Ok(Some(2)),
            "near" => Ok(Some(3)),
            "down" => Err(io::ErrorKind::ConnectionRefused.into()),
            _ => Ok(None),
        });
        let all = names(&["far", "near", "down", "ghost"]);
        let expected = Answers::from([("near".to_owned(), Some(3)), ("ghost".to_owned(), None)]);
        for _ in 0..3 {
            assert_eq!(asker.ask(&all, SHORT), expected);
        }
        assert_eq!(hangs.1.load(Ordering::SeqCst), 1, "it was asked beside itself");
        hangs.0.store(false, Ordering::SeqCst);
        release.send(()).unwrap();
        // What it says now is of long ago.
        assert_eq!(
            asker.ask(&names(&["far"]), LONG),
            Answers::from([("far".to_owned(), Some(2))])
        );
        assert!(asker.ask(&BTreeSet::new(), LONG).is_empty());
    }

    #[test]
    fn one_that_hangs_for_good_is_asked_again_ever_more_seldom() {
        let times = Arc::new(AtomicUsize::new(0));
        let asked = Arc::clone(&times);
        let asker = Asker::patient(Duration::from_millis(20), move |_| {
            // The first questions are of a service that died without a word.
            if asked.fetch_add(1, Ordering::SeqCst) < 5 {
                loop {
                    thread::park();
                }
            }
            Ok(Some(1))
        });
        let began = Instant::now();
        while asker.ask(&names(&["far"]), Duration::from_millis(10)).is_empty() {
            assert!(began.elapsed() < LONG, "it is not asked again");
        }
        // After 20, 40, 80, 160 and 320 ms.
        assert!(
            began.elapsed() >= Duration::from_millis(620),
            "{:?}",
            began.elapsed()
        );
        assert!(times.load(Ordering::SeqCst) >= 6);
    }

    #[test]
    fn many_that_hang_for_good_keep_nobody_else_from_being_asked() {
        let hanging = Arc::new(AtomicUsize::new(0));
        let hangs = Arc::clone(&hanging);
        let asker = Asker::patient(Duration::from_millis(1), move |name| match name {
            "near" => Ok(Some(3)),
            _ => {
                hangs.fetch_add(1, Ordering::SeqCst);
                loop {
                    thread::park();
                }
            }
        });
        let dead: BTreeSet<String> = (0..MOST / 2).map(|name| name.to_string()).collect();
        let few = names(&["0", "1", "2"]);
        let often = MOST / 4;
        for (dead, most) in [(&few, often), (&dead, often + MOST / 2)] {
            for _ in 0..10 {
                assert!(asker.ask(dead, Duration::from_millis(10)).is_empty());
            }
            let hanging = hanging.load(Ordering::SeqCst);
            assert!(hanging <= most, "{hanging}");
            assert_eq!(asker.ask(&names(&["near"]), LONG).len(), 1, "{hanging} hang");
        }
    }

    #[test]
    fn many_are_asked_some_at_a_time() {
        let now = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
        let seen = Arc::clone(&now);
        let asker = Asker::new(move |name| {
            let beside = seen.0.fetch_add(1, Ordering::SeqCst) + 1;
            seen.1.fetch_max(beside, Ordering::SeqCst);
            thread::yield_now();
            seen.0.fetch_sub(1, Ordering::SeqCst);
            Ok(name.parse().ok())
        });
        let all: BTreeSet<String> = (0..1000).map(|number: u32| number.to_string()).collect();
        let answers = asker.ask(&all, LONG);
        assert_eq!(answers.len(), 1000);
        assert!(answers.iter().all(|(name, id)| name.parse().ok() == *id));
        assert!(now.1.load(Ordering::SeqCst) <= MOST);
    }
}
