//! Noticing that the policy moved.
//!
//! What is watched are directories: those that hold a link of the chain to a path, and those below it. A file's own
//! watch ends with the first editor that saves by rename, or the first ConfigMap update. An event only says "look
//! again"; what counts is the text.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use super::Event;

/// Quiet for this long after the last event: the writer is done.
const QUIET: Duration = Duration::from_millis(4);
/// However busy, look after this long.
const CEILING: Duration = Duration::from_millis(100);
/// Links followed in one path.
const MAX_LINKS: usize = 40;

/// The watch over a policy's paths.
pub struct PolicyWatch {
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
}

impl PolicyWatch {
    /// Starts watching. Without inotify the timer alone notices changes, and a warning says so.
    pub fn start(paths: &[PathBuf], send: mpsc::Sender<Event>) -> PolicyWatch {
        let (moved, events) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| matters(&event)) {
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
        let mut watch = PolicyWatch {
            watcher,
            watched: BTreeSet::new(),
        };
        watch.follow(paths);
        watch
    }

    /// Watches where the paths lead now.
    pub fn follow(&mut self, paths: &[PathBuf]) {
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        let mut wanted = BTreeSet::new();
        for path in paths {
            directories(path, &mut wanted);
        }
        for gone in self.watched.difference(&wanted) {
            let _ = watcher.unwatch(gone);
        }
        let mut watched = BTreeSet::new();
        for directory in wanted {
            // A directory that was replaced under its name needs a new watch.
            if self.watched.contains(&directory) {
                let _ = watcher.unwatch(&directory);
            }
            if watcher.watch(&directory, RecursiveMode::NonRecursive).is_ok() {
                watched.insert(directory);
            }
        }
        self.watched = watched;
    }
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
fn directories(path: &Path, out: &mut BTreeSet<PathBuf>) {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut here = PathBuf::from("/");
    let mut rest: Vec<PathBuf> = absolute
        .components()
        .skip(1)
        .map(|part| PathBuf::from(part.as_os_str()))
        .collect();
    rest.reverse();
    let mut links = 0;
    while let Some(part) = rest.pop() {
        if part.as_os_str() == ".." {
            here.pop();
            continue;
        }
        let next = here.join(&part);
        let is_last = rest.is_empty();
        match fs::read_link(&next) {
            Ok(target) if links < MAX_LINKS => {
                links += 1;
                out.insert(here.clone());
                if target.is_absolute() {
                    here = PathBuf::from("/");
                }
                let parts = target
                    .components()
                    .filter(|part| !matches!(part, std::path::Component::RootDir));
                let mut parts: Vec<PathBuf> = parts.map(|part| PathBuf::from(part.as_os_str())).collect();
                parts.reverse();
                rest.extend(parts);
            }
            _ => {
                if is_last {
                    out.insert(here.clone());
                }
                here = next;
            }
        }
    }
    if here.is_dir() {
        below(&here, out, 0);
    }
}

/// A directory and those below it; links in them are followed one by one.
fn below(directory: &Path, out: &mut BTreeSet<PathBuf>, depth: usize) {
    if depth > 16 || !out.insert(directory.to_owned()) && depth > 0 {
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
                out.insert(target.to_owned());
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
