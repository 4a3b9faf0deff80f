//! How long the policy's files have to be quiet before they are looked at.
//!
//! A rename, a swapped link and a file that its writer closed are complete: what they made is looked at in a moment. A file that was
//! begun and is not closed is half of one, and half a policy may well be a right one that lacks its guardrails: its writer is waited for.
//! INVARIANT: whatever is written, and however long, it is looked at in the end.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use notify::{
    EventKind,
    event::{AccessKind, AccessMode, ModifyKind, RenameMode},
};

/// Quiet for this long after the last event: nothing is half done.
pub(super) const QUIET: Duration = Duration::from_millis(2);
/// However busy, look after this long, if nothing is half done.
const CEILING: Duration = Duration::from_millis(100);
/// A file that is gone, or was made: it may come back, or be written, in a moment (`git checkout` removes and makes anew).
const SWAPPED: Duration = Duration::from_millis(100);
/// A file that is being written: its writer may wait for a network.
const WRITTEN: Duration = Duration::from_secs(1);
/// However long something is being written, look after this long.
const LONGEST: Duration = Duration::from_secs(30);

/// What has happened since the last look.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    /// The first event that is not looked at, and the last.
    busy: Option<(Instant, Instant)>,
    /// What was begun and not finished: until when that is waited for.
    begun: BTreeMap<PathBuf, Instant>,
}

impl Quiet {
    /// Takes note of an event. `is_read`: whether a path is that of something that the policy is read from.
    pub fn note(&mut self, event: &notify::Event, is_read: impl Fn(&Path) -> bool, now: Instant) {
        let first = self.busy.map_or(now, |(first, _)| first);
        self.busy = Some((first, now));
        let had_begun = !self.begun.is_empty();
        match (&event.kind, event.paths.as_slice()) {
            // The old name is free. If the new one is nothing that is read (a backup), somebody is about to write.
            (EventKind::Modify(ModifyKind::Name(RenameMode::Both)), [from, to]) => {
                self.begun.remove(to);
                if is_read(to) {
                    self.begun.remove(from);
                }
            }
            (EventKind::Access(AccessKind::Close(AccessMode::Write)), paths)
            | (EventKind::Modify(ModifyKind::Name(RenameMode::To)), paths) => {
                for path in paths {
                    self.begun.remove(path);
                }
            }
            (kind, paths) => {
                let Some(wait) = unfinished(kind) else { return };
                for path in paths.iter().filter(|path| is_read(path)) {
                    self.begun.insert(path.clone(), now + wait);
                }
            }
        }
        if had_begun && self.begun.is_empty() {
            self.busy = Some((now, now));
        }
    }

    /// When to look; `None`: nothing has happened.
    pub fn due(&self) -> Option<Instant> {
        let (first, last) = self.busy?;
        Some(match self.begun.values().max() {
            None => (last + QUIET).min(first + CEILING),
            Some(until) => (*until).max(last + QUIET).min(first + LONGEST),
        })
    }

    /// Whether something is half done.
    pub fn awaits_a_writer(&self, now: Instant) -> bool {
        !self.begun.is_empty() && self.due().is_some_and(|due| now < due)
    }

    /// From here on everything is new.
    pub fn looked(&mut self) {
        *self = Quiet::default();
    }
}

/// How long what an event tells of may stay half done; `None`: it is whole.
fn unfinished(kind: &EventKind) -> Option<Duration> {
    match kind {
        EventKind::Create(_) | EventKind::Remove(_) => Some(SWAPPED),
        EventKind::Modify(ModifyKind::Name(_)) => Some(SWAPPED),
        EventKind::Modify(ModifyKind::Metadata(_)) => None,
        EventKind::Modify(_) => Some(WRITTEN),
        EventKind::Access(_) | EventKind::Any | EventKind::Other => None,
    }
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, DataChange, MetadataKind, RemoveKind};

    use super::*;

    const WRITE: EventKind = EventKind::Modify(ModifyKind::Data(DataChange::Any));
    const CLOSE: EventKind = EventKind::Access(AccessKind::Close(AccessMode::Write));
    const CREATE: EventKind = EventKind::Create(CreateKind::File);
    const REMOVE: EventKind = EventKind::Remove(RemoveKind::File);
    const FROM: EventKind = EventKind::Modify(ModifyKind::Name(RenameMode::From));
    const TO: EventKind = EventKind::Modify(ModifyKind::Name(RenameMode::To));
    const BOTH: EventKind = EventKind::Modify(ModifyKind::Name(RenameMode::Both));

    /// How long after the last event it is looked. An event has its time in milliseconds, its kind, and its names.
    fn waits(events: &[(u64, EventKind, &[&str])]) -> Duration {
        let (mut quiet, start) = (Quiet::default(), Instant::now());
        let mut last = start;
        for (at, kind, names) in events {
            last = start + Duration::from_millis(*at);
            let event = names.iter().fold(notify::Event::new(*kind), |event, name| {
                event.add_path(name.into())
            });
            quiet.note(
                &event,
                |path| path.extension().is_some_and(|extension| extension == "yaml"),
                last,
            );
        }
        quiet.due().expect("something happened") - last
    }

    #[test]
    fn what_is_complete_is_looked_at_in_a_moment() {
        let (a, tmp) = (&["a.yaml"][..], &["a.tmp"][..]);
        let cases: [&[(u64, EventKind, &[&str])]; 7] = [
            // An atomic save, with a name that counts and with one that does not.
            &[
                (0, CREATE, tmp),
                (0, WRITE, tmp),
                (0, CLOSE, tmp),
                (1, FROM, tmp),
                (1, TO, a),
                (1, BOTH, &["a.tmp", "a.yaml"]),
            ],
            &[
                (0, FROM, &["b.yaml"]),
                (0, TO, a),
                (0, BOTH, &["b.yaml", "a.yaml"]),
            ],
            // From another directory.
            &[(0, TO, a)],
            // In place.
            &[(0, WRITE, a), (0, WRITE, a), (3, CLOSE, a)],
            // `git checkout`.
            &[(0, REMOVE, a), (1, CREATE, a), (1, WRITE, a), (2, CLOSE, a)],
            // vim, with its backup.
            &[
                (0, FROM, a),
                (0, TO, &["a.yaml~"]),
                (0, BOTH, &["a.yaml", "a.yaml~"]),
                (1, CREATE, a),
                (1, WRITE, a),
                (70, CLOSE, a),
                (71, REMOVE, &["a.yaml~"]),
            ],
            &[(0, EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any)), a)],
        ];
        for case in cases {
            assert_eq!(waits(case), QUIET, "{case:?}");
        }
    }

    #[test]
    fn a_writer_is_waited_for() {
        let (a, b) = (&["a.yaml"][..], &["b.yaml"][..]);
        assert_eq!(waits(&[(0, WRITE, a)]), WRITTEN, "emptied or written, not closed");
        assert_eq!(waits(&[(0, WRITE, a), (900, WRITE, a)]), WRITTEN);
        assert_eq!(waits(&[(0, CREATE, a)]), SWAPPED);
        assert_eq!(waits(&[(0, REMOVE, a)]), SWAPPED);
        // vim has put the file away, and is writing the new one to the disk.
        let away = [(0, FROM, a), (0, BOTH, &["a.yaml", "a.yaml~"])];
        assert_eq!(waits(&away), SWAPPED);
        // Another file that is done does not finish this one.
        assert_eq!(
            waits(&[(0, WRITE, a), (400, WRITE, b), (400, CLOSE, b)]),
            WRITTEN - Duration::from_millis(400)
        );
    }

    #[test]
    fn nobody_is_waited_for_for_ever() {
        let writes: Vec<(u64, EventKind, &[&str])> = (0..40)
            .map(|second| (second * 750, WRITE, &["a.yaml"][..]))
            .collect();
        assert_eq!(waits(&writes), LONGEST - Duration::from_millis(39 * 750));
        let saves: Vec<(u64, EventKind, &[&str])> = (0..100).map(|at| (at, CLOSE, &["a.yaml"][..])).collect();
        assert_eq!(
            waits(&saves),
            Duration::from_millis(1),
            "{CEILING:?} after the first"
        );
    }

    #[test]
    fn the_time_of_a_writer_is_no_time_of_what_comes_after_him() {
        let (a, b) = (&["a.yaml"][..], &["b.yaml"][..]);
        let written = [(0, WRITE, a), (700, WRITE, a), (700, CLOSE, a), (701, CLOSE, b)];
        assert_eq!(waits(&written), QUIET);
    }
}
