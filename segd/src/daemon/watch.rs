//! Noticing that the policy moved.
//!
//! What is watched are directories: those that hold a link of the chain to a path, and those below it. A file's own
//! watch ends with the first editor that saves by rename, or the first ConfigMap update. An event only says "look
//! again", and when; what counts is the text.

mod quiet;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs, mem,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use self::quiet::Quiet;
use super::{Event, queue};
use crate::source::chain::steps;

/// What is watched: directories, and which of their entries count; `None` = all of them.
type Wanted = BTreeMap<PathBuf, Option<BTreeSet<OsString>>>;

/// The watch over a policy's paths.
pub struct PolicyWatch {
    watcher: Option<RecommendedWatcher>,
    wanted: Arc<Mutex<Wanted>>,
    quiet: Arc<Mutex<Quiet>>,
}

impl PolicyWatch {
    /// Starts watching. Without inotify the timer alone notices changes, and a warning says so.
    pub fn start(paths: &[PathBuf], send: queue::Sender) -> PolicyWatch {
        let (moved, events) = mpsc::channel(1);
        let wanted = Arc::new(Mutex::new(Wanted::new()));
        let quiet = Arc::new(Mutex::new(Quiet::default()));
        let (counts, notes) = (Arc::clone(&wanted), Arc::clone(&quiet));
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let Some(event) = event.ok().filter(matters) else {
                return;
            };
            let wanted = lock(&counts);
            if concerns(&event, &wanted) {
                lock(&notes).note(&event, |path| is_read(path, &event, &wanted), Instant::now());
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
        tokio::spawn(debounce(events, Arc::clone(&quiet), send));
        let mut watch = PolicyWatch {
            watcher,
            wanted,
            quiet,
        };
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
        let before = mem::replace(&mut *lock(&self.wanted), wanted.clone());
        // Not under the lock: the watcher answers by the thread that tells of events, and that takes it.
        for gone in before.keys().filter(|directory| !wanted.contains_key(*directory)) {
            let _ = watcher.unwatch(gone);
        }
        before != wanted
    }

    /// Whether somebody is in the middle of writing the policy. When he is done the watch says so.
    pub fn awaits_a_writer(&self) -> bool {
        lock(&self.quiet).awaits_a_writer(Instant::now())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether an event is about an entry that counts. A neighbour of the policy may be as busy as it likes.
fn concerns(event: &notify::Event, wanted: &Wanted) -> bool {
    // Some were lost.
    event.need_rescan()
        || event.paths.iter().any(|path| {
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

/// Whether the policy is read from a path: it was given, or stands in a directory that was and has the name of a policy or is a directory
/// itself. What editors put beside is not; they may keep it open as long as they like.
fn is_read(path: &Path, event: &notify::Event, wanted: &Wanted) -> bool {
    use notify::event::{CreateKind, EventKind, RemoveKind};
    let Some(name) = path.file_name() else {
        return false;
    };
    match path.parent().and_then(|parent| wanted.get(parent)) {
        Some(Some(names)) => names.contains(name),
        Some(None) if name.as_encoded_bytes().starts_with(b".") => false,
        Some(None) => {
            let directory = matches!(
                event.kind,
                EventKind::Create(CreateKind::Folder) | EventKind::Remove(RemoveKind::Folder)
            );
            // One that is moved away says only that something was.
            directory
                || wanted.contains_key(path)
                || path.extension().is_some_and(|end| end == "yaml" || end == "yml")
        }
        None => false,
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

/// Turns bursts into one event, as soon as nothing is half done.
async fn debounce(mut events: mpsc::Receiver<()>, quiet: Arc<Mutex<Quiet>>, send: queue::Sender) {
    while events.recv().await.is_some() {
        while let Some(due) = waiting(&quiet) {
            if let Ok(None) = tokio::time::timeout_at(due.into(), events.recv()).await {
                return;
            }
        }
        if send.send(Event::PolicyMoved).await.is_err() {
            return;
        }
    }
}

/// Until when to wait; `None`: it is time to look, and everything from here on is for the next look.
fn waiting(quiet: &Mutex<Quiet>) -> Option<Instant> {
    let mut quiet = lock(quiet);
    let due = quiet.due().filter(|due| Instant::now() < *due);
    if due.is_none() {
        quiet.looked();
    }
    due
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicBool, Ordering},
        time::Duration,
    };

    use super::*;

    #[tokio::test]
    async fn a_directory_that_goes_while_others_are_busy_stops_nobody() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().to_owned();
        let (send, _events) = queue::queue();
        let mut watch = PolicyWatch::start(std::slice::from_ref(&path), send);
        let busy = Arc::new(AtomicBool::new(true));
        let neighbour = std::thread::spawn({
            let (busy, file) = (Arc::clone(&busy), path.join("noise"));
            move || {
                while busy.load(Ordering::Relaxed) {
                    fs::write(&file, "noise").expect("written");
                }
            }
        });
        let (done, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let below = path.join("below");
            for _ in 0..300 {
                fs::create_dir(&below).expect("made");
                watch.follow(std::slice::from_ref(&path));
                fs::remove_dir(&below).expect("removed");
                watch.follow(std::slice::from_ref(&path));
            }
            done.send(()).expect("somebody waits");
        });
        let ended = ended.recv_timeout(Duration::from_secs(30));
        busy.store(false, Ordering::Relaxed);
        neighbour.join().expect("it writes");
        assert_eq!(ended, Ok(()), "the watch does not answer any more");
    }
}
