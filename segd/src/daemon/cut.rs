//! Ends sessions that have lost their right and do not send: whoever sends is denied at the next packet without any of this.
//!
//! INVARIANT: what both the old policy and the new one allow is never ended, and neither is what only a packet could judge:
//! the kernel program that tells asks the decision that packets get. During a trial nothing is ended, as it may come back.
//! Deliberately absent: enforcement. A session that nobody ends here is denied all the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use segd_common::{
    counter::CounterKey,
    session::{self, Session},
    verdict::Outcome,
};

use super::shared::lock;
use crate::{
    datapath::{
        kernel,
        sessions::{Living, Sessions},
    },
    telemetry::names,
};

/// A connection that was being accepted while the sockets were walked is found by a second walk.
const AGAIN: Duration = Duration::from_millis(300);
/// How many pairs of segments one walk tells of.
const MOST_LINES: usize = 16;

/// Whoever ends them, on a thread of its own.
#[derive(Debug, Default)]
pub struct Cutter {
    /// Takes the segments' names, by index. `None`: this kernel cannot find, or end, a socket from outside.
    ask: Option<Sender<Arc<Vec<String>>>>,
    tally: Arc<Mutex<Tally>>,
    living: Option<Living>,
}

/// What was ended since the daemon started.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Sessions.
    pub sessions: u64,
    /// Those of them that no packet hook has counted as revoked, each where it would have.
    pub revoked: BTreeMap<CounterKey, u64>,
}

impl Cutter {
    /// Waits for work, if this kernel lets idle sessions be found, and ended from outside. `host`: the namespace where it
    /// does.
    ///
    /// # Errors
    ///
    /// No thread.
    pub fn start(sessions: Option<Sessions>, living: Option<Living>, host: u64) -> io::Result<Cutter> {
        let Some(sessions) = sessions.filter(|_| kernel::can_destroy_sockets().unwrap_or(false)) else {
            return Ok(Cutter {
                living,
                ..Cutter::default()
            });
        };
        let (ask, asked) = channel();
        let tally = Arc::<Mutex<Tally>>::default();
        let count = Arc::clone(&tally);
        thread::Builder::new()
            .name("cut".to_owned())
            .spawn(move || work(&sessions, host, &asked, &count))?;
        Ok(Cutter {
            ask: Some(ask),
            tally,
            living,
        })
    }

    /// A policy took effect for good. Returns at once.
    pub fn look(&self, names: Arc<Vec<String>>) {
        if let Some(ask) = &self.ask {
            // It ends with this.
            let _ = ask.send(names);
        }
    }

    /// Every end of a TCP session of this process' network namespace; `None`: this kernel does not list them.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn living(&self) -> io::Result<Option<Vec<session::Living>>> {
        self.living.as_ref().map(Living::all).transpose()
    }

    /// What was ended so far.
    pub fn tally(&self) -> Tally {
        lock(&self.tally).clone()
    }
}

fn work(sessions: &Sessions, host: u64, asked: &Receiver<Arc<Vec<String>>>, tally: &Mutex<Tally>) {
    let mut waiting = asked.recv().ok();
    while let Some(names) = waiting {
        sweep(sessions, host, &names, tally);
        waiting = match asked.recv_timeout(AGAIN) {
            Ok(names) => Some(names),
            Err(RecvTimeoutError::Timeout) => {
                sweep(sessions, host, &names, tally);
                asked.recv().ok()
            }
            Err(RecvTimeoutError::Disconnected) => None,
        };
    }
}

/// A session, whichever end it is looked at from.
pub(super) type Ends = [([u8; 16], u16); 2];

pub(super) fn ends(session: &Session) -> Ends {
    let mut ends = [(session.own, session.own_port), (session.peer, session.peer_port)];
    ends.sort_unstable();
    ends
}

/// Ends every session of the host's namespace that has lost its right.
fn sweep(sessions: &Sessions, host: u64, names: &[String], tally: &Mutex<Tally>) {
    let began = Instant::now();
    let found = match sessions.without_right() {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!("idle sessions are not ended, they end at their next packet: {error}");
            return;
        }
    };
    let mut ended: BTreeMap<CounterKey, BTreeSet<Ends>> = BTreeMap::new();
    let mut counted = BTreeSet::new();
    for session in found.iter().filter(|session| session.namespace == host) {
        if session.counted != 0 {
            counted.insert(ends(session));
        }
        match sessions.end(session) {
            Ok(true) => {
                let key = CounterKey {
                    from: session.from,
                    to: session.to,
                    outcome: Outcome::Denied as u8,
                    reason: session.reason,
                    reserved: 0,
                };
                ended.entry(key).or_default().insert(ends(session));
            }
            // Its peer's reset was faster, or its own process.
            Ok(false) => {}
            Err(error) => tracing::debug!("a session is not ended, it ends at its next packet: {error}"),
        }
    }
    let all: usize = ended.values().map(BTreeSet::len).sum();
    let mut tally = lock(tally);
    tally.sessions += all as u64;
    for (key, sessions) in &ended {
        let new = sessions.difference(&counted).count();
        *tally.revoked.entry(*key).or_default() += new as u64;
    }
    drop(tally);
    for (key, pair) in ended.iter().take(MOST_LINES) {
        let (from, to) = (names::name(names, key.from), names::name(names, key.to));
        tracing::info!(
            "ended {} that lost the right: {from} to {to}",
            sessions_of(pair.len())
        );
    }
    if ended.len() > MOST_LINES {
        tracing::info!("ended {} in all", sessions_of(all));
    }
    tracing::debug!(
        "{} ends of sessions had lost their right, looked at in {:?}",
        found.len(),
        began.elapsed()
    );
}

fn sessions_of(count: usize) -> String {
    format!("{count} session{}", if count == 1 { "" } else { "s" })
}
