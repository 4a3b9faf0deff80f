//! Noticing that the policy moved.
//!
//! What is watched are directories: those that hold a link of the chain to a path, and those below it. A file's own
//! watch ends with the first editor that saves by rename, or the first ConfigMap update. An event only says "look
//! again"; what counts is the text.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use super::Event;
use crate::source::chain::steps;

/// Quiet for this long after the last event: the writer is done.
const QUIET: Duration = Duration::from_millis(2);
/// However busy, look after this long.
const CEILING: Duration = Duration::from_millis(100);

/// What is watched: directories, and which of their entries count; `None` = all of them.
type Wanted = BTreeMap<PathBuf, Option<BTreeSet<OsString>>>;

/// The watch over a policy's paths.
pub struct PolicyWatch {
    watcher: Option<RecommendedWatcher>,
    wanted: Arc<Mutex<Wanted>>,
}

impl PolicyWatch {
    /// Starts watching. Without inotify the timer alone notices changes, and a warning says so.
    pub fn start(paths: &[PathBuf], send: mpsc::Sender<Event>) -> PolicyWatch {
        let (moved, events) = mpsc::channel(1);
        let wanted = Arc::new(Mutex::new(Wanted::new()));
        let counts = Arc::clone(&wanted);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let wanted = counts.lock().unwrap_or_else(PoisonError::into_inner);
            if event.is_ok_and(|event| matters(&event) && concerns(&event, &wanted)) {
                // One waiting event says it all.
                let _ = moved.try_send(());
            }
        });
        let watcher = match watcher {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::warn!("the policy cannot be watched: {error}; it is read again every few seconds");
                None
            }
        };
        tokio::spawn(debounce(events, send));
        let mut watch = PolicyWatch { watcher, wanted };
        watch.follow(paths);
        watch
    }

    /// Watches where the paths lead now. Whether that is somewhere else than before: then something may have moved
    /// before anybody watched it.
    pub fn follow(&mut self, paths: &[PathBuf]) -> bool {
        let Some(watcher) = &mut self.watcher else {
            return false;
        };
        let mut wanted = Wanted::new();
        for path in paths {
            directories(path, &mut wanted);
        }
        // Every time, known or not: a directory may have been replaced under its name. For one that was not, the
        // kernel answers with the watch there is.
        for directory in wanted.keys() {
            let _ = watcher.watch(directory, RecursiveMode::NonRecursive);
        }
        let mut known = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        for gone in known.keys().filter(|directory| !wanted.contains_key(*directory)) {
            let _ = watcher.unwatch(gone);
        }
        let changed = *known != wanted;
        *known = wanted;
        changed
    }
}

/// Whether an event is about an entry that counts. A neighbour of the policy may be as busy as it likes.
fn concerns(event: &notify::Event, wanted: &Wanted) -> bool {
    event.paths.iter().any(|path| {
        let name = path.file_name();
        let above = path.parent().and_then(|parent| wanted.get(parent));
        let inside = match (above, name) {
            (Some(None), _) => true,
            (Some(Some(names)), Some(name)) => names.contains(name),
            _ => false,
        };
        inside || wanted.contains_key(path)
    })
}

/// Reading the policy makes events too; they must not make it be read again.
fn matters(event: &notify::Event) -> bool {
    use notify::{
        EventKind,
        event::{AccessKind, AccessMode},
    };
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    }
}

/// Every directory whose entries decide what a path reads.
fn directories(path: &Path, out: &mut Wanted) {
    let (steps, end) = steps(path);
    let last = steps.len().saturating_sub(1);
    for (at, step) in steps.iter().enumerate() {
        if step.is_link || at == last {
            one(out, &step.directory, &step.name);
        }
    }
    if end.is_dir() {
        below(&end, out, 0);
    }
}

/// One entry of a directory counts.
fn one(out: &mut Wanted, directory: &Path, name: &Path) {
    let names = out
        .entry(directory.to_owned())
        .or_insert_with(|| Some(BTreeSet::new()));
    if let Some(names) = names {
        names.insert(name.as_os_str().to_owned());
    }
}

/// A directory and those below it; links in them are followed one by one.
fn below(directory: &Path, out: &mut Wanted, depth: usize) {
    let known = matches!(out.insert(directory.to_owned(), None), Some(None));
    if depth > 16 || known {
        return;
    }
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() {
            below(&entry.path(), out, depth + 1);
        } else if kind.is_symlink()
            && let Ok(target) = fs::canonicalize(entry.path())
        {
            let target = if target.is_dir() {
                Some(target.as_path())
            } else {
                target.parent()
            };
            if let Some(target) = target {
                out.insert(target.to_owned(), None);
            }
        }
    }
}

/// Turns bursts into one event, shortly after the last.
async fn debounce(mut events: mpsc::Receiver<()>, send: mpsc::Sender<Event>) {
    while events.recv().await.is_some() {
        let ceiling = tokio::time::Instant::now() + CEILING;
        loop {
            let quiet = tokio::time::Instant::now() + QUIET;
            match tokio::time::timeout_at(quiet.min(ceiling), events.recv()).await {
                Ok(Some(())) if quiet < ceiling => {}
                Ok(None) => return,
                _ => break,
            }
        }
        if send.send(Event::PolicyMoved).await.is_err() {
            return;
        }
    }
}
