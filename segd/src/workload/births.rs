//! News of cgroups born where a glob could match them: there the kernel left them `PENDING`, and somebody waits.
//!
//! INVARIANT: a missed event delays, it never opens: what is not classified stays denied, and a rescan comes.
//!
//! Deliberately absent: classification. A policy without globs needs none of this.

mod news;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::CString,
    io,
    mem::size_of,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{Interest, unix::AsyncFd},
    task::JoinHandle,
    time::{self, MissedTickBehavior},
};

pub use self::news::News;
use super::cgroupfs::CgroupRoot;

/// How often everything is looked at again while newborns can be `PENDING`.
const RESCAN: Duration = Duration::from_secs(5);
/// Room for many events at once; the largest has a name of 255 bytes.
const BUFFER_BYTES: usize = 16 * 1024;

/// What to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Birth {
    /// This cgroup, by path from the root, may have children that nobody classified.
    Below(String),
    /// Any may.
    Anywhere,
}

/// The watch; ends when dropped.
#[derive(Debug)]
pub struct Births {
    root: PathBuf,
    inotify: Arc<AsyncFd<OwnedFd>>,
    watched: BTreeMap<String, i32>,
    paths: Arc<Mutex<BTreeMap<i32, String>>>,
    news: Arc<News>,
    tasks: [JoinHandle<()>; 2],
}

impl Births {
    /// Starts without anything to watch. Needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// If the system gives no inotify instance.
    pub fn start(root: &CgroupRoot, news: Arc<News>) -> io::Result<Births> {
        // SAFETY: no pointers; the result is checked.
        let descriptor = unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        let owned = unsafe { OwnedFd::from_raw_fd(descriptor) };
        // SAFETY: an `OwnedFd` is one open descriptor for as long as it lives.
        let inotify = Arc::new(unsafe { AsyncFd::register_with_interest(owned, Interest::READABLE) }?);
        let paths: Arc<Mutex<BTreeMap<i32, String>>> = Arc::default();
        let read = tokio::spawn(read_events(
            Arc::clone(&inotify),
            Arc::clone(&paths),
            Arc::clone(&news),
        ));
        let rescan = tokio::spawn(rescan(Arc::clone(&news)));
        let watched = BTreeMap::new();
        Ok(Births {
            root: root.path().to_owned(),
            inotify,
            watched,
            paths,
            news,
            tasks: [read, rescan],
        })
    }

    /// Where it tells.
    #[must_use]
    pub fn news(&self) -> &News {
        &self.news
    }

    /// Watches exactly these cgroups, by path from the root. What is new among them is reported once, because
    /// something may have been born before the watch began.
    pub fn watch(&mut self, cgroups: &BTreeSet<String>) {
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        let gone: Vec<String> = self
            .watched
            .keys()
            .filter(|path| !cgroups.contains(*path))
            .cloned()
            .collect();
        for path in gone {
            if let Some(watch) = self.watched.remove(&path) {
                paths.remove(&watch);
                // SAFETY: no pointers. It fails if the kernel ended the watch with its directory: as good.
                unsafe { libc::inotify_rm_watch(self.inotify.as_raw_fd(), watch) };
            }
        }
        let mut new = Vec::new();
        for path in cgroups {
            // Every time, watched or not: a cgroup may have been removed and made again under its path. The
            // kernel answers with the same number if it is the same directory.
            let Some(watch) = self.add(path) else {
                continue;
            };
            if paths.insert(watch, path.clone()).is_none() {
                new.push(path.clone());
            }
            self.watched.insert(path.clone(), watch);
        }
        match (new.pop(), new.is_empty()) {
            (None, _) => {}
            (Some(only), true) => self.news.tell(Birth::Below(only)),
            (Some(_), false) => self.news.tell(Birth::Anywhere),
        }
    }

    /// `None` if the cgroup is gone, or no watch is left: the rescan must do then.
    fn add(&self, path: &str) -> Option<i32> {
        let directory = self.root.join(path.trim_start_matches('/'));
        let directory = CString::new(directory.as_os_str().as_bytes()).ok()?;
        let mask = libc::IN_CREATE | libc::IN_ONLYDIR;
        // SAFETY: the path ends in zero and outlives the call.
        let watch = unsafe { libc::inotify_add_watch(self.inotify.as_raw_fd(), directory.as_ptr(), mask) };
        (watch >= 0).then_some(watch)
    }
}

impl Drop for Births {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn rescan(news: Arc<News>) {
    let mut ticks = time::interval_at(time::Instant::now() + RESCAN, RESCAN);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        news.tell(Birth::Anywhere);
    }
}

async fn read_events(
    inotify: Arc<AsyncFd<OwnedFd>>,
    paths: Arc<Mutex<BTreeMap<i32, String>>>,
    news: Arc<News>,
) {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = inotify.async_io(Interest::READABLE, |descriptor| {
            // SAFETY: the buffer is ours, as long as stated, and outlives the call.
            let len = unsafe { libc::read(descriptor.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
            usize::try_from(len).map_err(|_| io::Error::last_os_error())
        });
        let Ok(len) = read.await else {
            return;
        };
        for birth in births(buffer.get(..len).unwrap_or_default(), &paths) {
            news.tell(birth);
        }
    }
}

/// What a buffer of `struct inotify_event` tells, each directory once.
fn births(mut buffer: &[u8], paths: &Mutex<BTreeMap<i32, String>>) -> Vec<Birth> {
    const HEADER: usize = size_of::<libc::inotify_event>();
    let mut paths = paths.lock().unwrap_or_else(PoisonError::into_inner);
    let mut below = BTreeSet::new();
    // `int wd; uint32_t mask, cookie, len; char name[]`.
    while let Some(header) = buffer.first_chunk::<HEADER>() {
        let [w0, w1, w2, w3, m0, m1, m2, m3, _, _, _, _, l0, l1, l2, l3] = *header;
        let watch = i32::from_ne_bytes([w0, w1, w2, w3]);
        let mask = u32::from_ne_bytes([m0, m1, m2, m3]);
        let len = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        if mask & libc::IN_Q_OVERFLOW != 0 {
            return vec![Birth::Anywhere];
        }
        if mask & libc::IN_IGNORED != 0 {
            paths.remove(&watch);
        } else if mask & libc::IN_ISDIR != 0 {
            below.extend(paths.get(&watch).cloned());
        }
        buffer = buffer.get(HEADER + len..).unwrap_or_default();
    }
    below.into_iter().map(Birth::Below).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{super::cgroupfs::tests::Scratch, *};

    /// The next news that is no rescan.
    async fn next(news: &News) -> Birth {
        let deadline = Duration::from_secs(4);
        time::timeout(deadline, news.come())
            .await
            .expect("news within the deadline");
        let mut births = news.take();
        assert_eq!(births.len(), 1, "{births:?}");
        births.remove(0)
    }

    #[tokio::test]
    async fn tells_where_a_cgroup_was_born() {
        let Some(scratch) = Scratch::new() else { return };
        let news = Arc::new(News::default());
        let mut births = Births::start(&scratch.root, Arc::clone(&news)).unwrap();
        let (a, b) = (scratch.make("a"), scratch.make("b"));
        births.watch(&BTreeSet::from([a.clone()]));
        assert_eq!(
            next(&news).await,
            Birth::Below(a.clone()),
            "what is watched first is reported once"
        );
        births.watch(&BTreeSet::from([a.clone()]));
        scratch.make("b/ignored");
        fs::write(scratch.root.directory(&a).join("cgroup.procs"), "").ok();
        scratch.make("a/x");
        assert_eq!(next(&news).await, Birth::Below(a.clone()));
        births.watch(&BTreeSet::from([b.clone()]));
        assert_eq!(next(&news).await, Birth::Below(b.clone()));
        scratch.make("a/ignored");
        scratch.make("b/y");
        assert_eq!(next(&news).await, Birth::Below(b));
    }

    #[tokio::test]
    async fn a_cgroup_made_again_under_its_path_is_watched_again() {
        let Some(scratch) = Scratch::new() else { return };
        let news = Arc::new(News::default());
        let mut births = Births::start(&scratch.root, Arc::clone(&news)).unwrap();
        let a = scratch.make("a");
        let set = BTreeSet::from([a.clone()]);
        births.watch(&set);
        assert_eq!(next(&news).await, Birth::Below(a.clone()));
        fs::remove_dir(scratch.root.directory(&a)).unwrap();
        scratch.make("a");
        births.watch(&set);
        assert_eq!(next(&news).await, Birth::Below(a.clone()));
        scratch.make("a/x");
        assert_eq!(next(&news).await, Birth::Below(a));
    }

    #[test]
    fn an_overflow_asks_to_look_anywhere() {
        let mut event = vec![0; 16];
        let mask = libc::IN_Q_OVERFLOW.to_ne_bytes();
        event.splice(4..8, mask);
        assert_eq!(births(&event, &Mutex::default()), [Birth::Anywhere]);
        assert_eq!(births(&[1, 2, 3], &Mutex::default()), []);
    }
}
