//! Sockets in other hands than their makers': listed for whoever asks, and TCP connections of them ended where the daemon was
//! told to (`--strict-sockets`).
//!
//! INVARIANT: ends nothing that the host made or holds: who starts services passes sockets on, and is believed. During a trial
//! nothing is ended.
//! Deliberately absent: enforcement. Such a socket is judged as its maker's, by every hook.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Weak},
    thread,
    time::Duration,
};

use segd_common::{
    segment::{FIRST_SEGMENT, SegmentIndex},
    service::{TCP, UDP},
    session::Foreign,
};

use super::{engine::Engine, failure::Failure};
use crate::{
    control::types::ForeignRow,
    datapath::{kernel, sessions::Foreigners},
    telemetry::{
        flows::{self, FlowLog},
        names,
    },
};

/// How often open files are walked: what moved is ended within a second.
const PERIOD: Duration = Duration::from_millis(400);

/// Ends connections in other hands for as long as somebody holds the program. `host`: the network namespace where it can.
///
/// # Errors
///
/// What the host lacks for it.
pub fn start(foreigners: Option<&Arc<Foreigners>>, host: u64, flows: &Arc<FlowLog>) -> Result<(), Failure> {
    let foreigners = foreigners.ok_or_else(|| {
        let what = "--strict-sockets: this kernel does not tell which process holds a socket";
        Failure::host(what.to_owned(), Some("it needs Linux 5.11"))
    })?;
    if !kernel::can_destroy_sockets()? {
        let what = "--strict-sockets: this kernel cannot end a socket from outside";
        return Err(Failure::host(
            what.to_owned(),
            Some("it needs CONFIG_INET_DIAG_DESTROY"),
        ));
    }
    let (foreigners, flows) = (Arc::downgrade(foreigners), Arc::clone(flows));
    let thread = thread::Builder::new().name("foreign".to_owned());
    match thread.spawn(move || work(&foreigners, host, &flows)) {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::internal(format!("starting a thread: {error}"))),
    }
}

fn work(foreigners: &Weak<Foreigners>, host: u64, flows: &FlowLog) {
    let mut failing = false;
    while let Some(foreigners) = foreigners.upgrade() {
        let swept = sweep(&foreigners, host, flows);
        if let (Err(error), false) = (&swept, failing) {
            tracing::error!("degraded: connections in other hands are not ended: {error}");
        }
        failing = swept.is_err();
        drop(foreigners);
        // SLEEP: nobody tells when a descriptor is passed on.
        thread::sleep(PERIOD);
    }
}

/// Whether a socket is ended: a TCP connection that one segment made and another holds.
fn is_stolen(socket: &Foreign) -> bool {
    let session = &socket.session;
    session.protocol == TCP && session.from >= FIRST_SEGMENT && session.to >= FIRST_SEGMENT
}

fn sweep(foreigners: &Foreigners, host: u64, flows: &FlowLog) -> io::Result<()> {
    let mut ended: BTreeMap<(SegmentIndex, SegmentIndex), u64> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut result = Ok(());
    for socket in foreigners.all()?.iter().filter(|socket| is_stolen(socket)) {
        let session = &socket.session;
        // Each of several descriptors tells of it.
        if session.namespace != host || !seen.insert(session.cookie) {
            continue;
        }
        match foreigners.end(session) {
            Ok(true) => *ended.entry((session.from, session.to)).or_default() += 1,
            Ok(false) => {}
            // One that cannot be ended saves no other.
            Err(error) => result = Err(error),
        }
    }
    if ended.is_empty() {
        return result;
    }
    let names = flows.names().to_vec();
    for ((maker, holder), count) in ended {
        tracing::warn!(
            "--strict-sockets: ended {count} TCP connection{} of {} in the hands of {}",
            if count == 1 { "" } else { "s" },
            names::name(&names, maker),
            names::name(&names, holder)
        );
    }
    result
}

impl Engine {
    /// Every socket in other hands; `None`: this kernel does not tell.
    pub(super) fn foreign_rows(&self) -> io::Result<Option<Vec<ForeignRow>>> {
        let Some(foreigners) = &self.foreigners else {
            return Ok(None);
        };
        let names = self.flows.names().to_vec();
        let path = |id: u64| self.path_of(id).unwrap_or_else(|| format!("id {id}"));
        let mut rows: Vec<ForeignRow> = (foreigners.all()?.iter())
            .map(|socket| {
                let session = &socket.session;
                let connected = session.peer_port != 0;
                ForeignRow {
                    protocol: if session.protocol == UDP { "udp" } else { "tcp" }.into(),
                    address: flows::address(session.own),
                    port: session.own_port,
                    peer: connected.then(|| flows::address(session.peer)),
                    peer_port: connected.then_some(session.peer_port),
                    segment: names::name(&names, session.from).to_owned(),
                    cgroup: path(socket.socket_cgroup),
                    holder_segment: names::name(&names, session.to).to_owned(),
                    holder_cgroup: path(socket.holder_cgroup),
                    holder_pid: socket.process,
                }
            })
            .collect();
        rows.sort();
        // Each of several descriptors tells of it.
        rows.dedup();
        Ok(Some(rows))
    }
}
