//! The denial log's limiter: how often a line may be written for one cause, and in all.
//!
//! Pure: the caller says what time it is. Exact numbers are the counters' business.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Lines a cause may write at once.
const BURST: u32 = 5;
/// A cause gets another line after this long.
const REFILL: Duration = Duration::from_secs(10);
/// Lines all causes together may write at once.
const TOTAL_BURST: u32 = 50;
/// All causes together get another line after this long.
const TOTAL_REFILL: Duration = Duration::from_millis(100);
/// Causes that are told apart; further ones share one.
const MAX_CAUSES: usize = 4096;

/// What makes two denials alike: from, to, reason, outcome.
pub type Cause = (u16, u16, u8, u8);
/// The cause of those that are not told apart.
pub const OTHER: Cause = (0, 0, 0, 0);

/// A bucket of lines.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: u32,
    since: Instant,
}

impl Bucket {
    fn full(burst: u32, now: Instant) -> Bucket {
        Bucket {
            left: burst,
            since: now,
        }
    }

    fn refill(&mut self, burst: u32, every: Duration, now: Instant) {
        let gained = now.saturating_duration_since(self.since).as_nanos() / every.as_nanos();
        if gained > 0 {
            self.left = burst.min(
                self.left
                    .saturating_add(u32::try_from(gained).unwrap_or(u32::MAX)),
            );
            let whole = u32::try_from(gained)
                .ok()
                .and_then(|gained| every.checked_mul(gained));
            self.since = whole
                .and_then(|whole| self.since.checked_add(whole))
                .unwrap_or(now);
        }
    }
}

#[derive(Debug)]
struct Entry {
    bucket: Bucket,
    suppressed: u64,
    touched: Instant,
}

/// Decides which denials are logged.
#[derive(Debug)]
pub struct Limiter {
    causes: HashMap<Cause, Entry>,
    total: Bucket,
    /// Suppressed denials of causes that went quiet when no line was left to say so.
    unsaid: u64,
}

impl Limiter {
    /// A limiter with full buckets.
    #[must_use]
    pub fn new(now: Instant) -> Limiter {
        Limiter {
            causes: HashMap::new(),
            total: Bucket::full(TOTAL_BURST, now),
            unsaid: 0,
        }
    }

    /// Whether to write a line for a denial now: `Some` with how many of its kind were suppressed before.
    pub fn offer(&mut self, cause: Cause, now: Instant) -> Option<u64> {
        let cause = if self.causes.len() >= MAX_CAUSES && !self.causes.contains_key(&cause) {
            OTHER
        } else {
            cause
        };
        let entry = self.causes.entry(cause).or_insert_with(|| Entry {
            bucket: Bucket::full(BURST, now),
            suppressed: 0,
            touched: now,
        });
        entry.touched = now;
        entry.bucket.refill(BURST, REFILL, now);
        self.total.refill(TOTAL_BURST, TOTAL_REFILL, now);
        if entry.bucket.left == 0 || self.total.left == 0 {
            entry.suppressed += 1;
            return None;
        }
        entry.bucket.left -= 1;
        self.total.left -= 1;
        Some(std::mem::take(&mut entry.suppressed))
    }

    /// Causes that went quiet: their suppressed denials, to be summed up in one line each, as far as there are lines left for all causes
    /// together; those of the rest in one, as of [`OTHER`]. Forgets them.
    pub fn quiet(&mut self, now: Instant) -> Vec<(Cause, u64)> {
        let idle = |entry: &Entry| now.saturating_duration_since(entry.touched) >= REFILL;
        let mut summaries: Vec<_> = self
            .causes
            .iter()
            .filter(|(_, entry)| entry.suppressed > 0 && idle(entry))
            .map(|(cause, entry)| (*cause, entry.suppressed))
            .collect();
        summaries.sort_unstable();
        // A bucket that has refilled meanwhile is as good as a new one.
        self.causes.retain(|_, entry| {
            !idle(entry) || {
                entry.suppressed = 0;
                entry.bucket.refill(BURST, REFILL, now);
                entry.bucket.left < BURST
            }
        });
        self.total.refill(TOTAL_BURST, TOTAL_REFILL, now);
        let mut rest = std::mem::take(&mut self.unsaid);
        let mut lines = Vec::new();
        let last = summaries.len().saturating_sub(1);
        for (number, (cause, count)) in summaries.into_iter().enumerate() {
            // One line is kept for the rest, if there will be any.
            let kept = u32::from(rest > 0 || number < last);
            if cause != OTHER && self.total.left > kept {
                self.total.left -= 1;
                lines.push((cause, count));
            } else {
                rest += count;
            }
        }
        if rest > 0 && self.total.left > 0 {
            self.total.left -= 1;
            lines.push((OTHER, rest));
        } else {
            self.unsaid = rest;
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Cause = (4, 5, 16, 0);
    const B: Cause = (5, 4, 16, 0);

    #[test]
    fn writes_a_burst_and_then_says_how_many_it_left_out() {
        let start = Instant::now();
        let mut limiter = Limiter::new(start);
        let lines = (0..100).filter(|_| limiter.offer(A, start).is_some()).count();
        assert_eq!(lines, BURST as usize);
        assert_eq!(
            limiter.offer(B, start),
            Some(0),
            "another cause has its own bucket"
        );
        assert_eq!(limiter.offer(A, start + REFILL), Some(95));
        assert_eq!(limiter.offer(A, start + REFILL), None);
    }

    #[test]
    fn sums_up_causes_that_went_quiet_once() {
        let start = Instant::now();
        let mut limiter = Limiter::new(start);
        for _ in 0..10 {
            limiter.offer(A, start);
        }
        assert!(limiter.quiet(start + REFILL / 2).is_empty());
        assert_eq!(limiter.quiet(start + REFILL), [(A, 5)]);
        assert!(limiter.quiet(start + 2 * REFILL).is_empty());
    }

    #[test]
    fn bounds_the_lines_of_all_causes_together() {
        let start = Instant::now();
        let mut limiter = Limiter::new(start);
        let lines = (0..1000u16)
            .filter(|n| limiter.offer((*n, 1, 16, 0), start).is_some())
            .count();
        assert_eq!(lines, TOTAL_BURST as usize);
        let later = start + Duration::from_secs(1);
        let lines = (0..1000u16)
            .filter(|n| limiter.offer((*n, 1, 16, 0), later).is_some())
            .count();
        assert_eq!(lines, 10);
    }

    #[test]
    fn sums_up_no_more_than_all_causes_may_write() {
        let start = Instant::now();
        let mut limiter = Limiter::new(start);
        let mut written = 0;
        for n in 0..4000u16 {
            for _ in 0..10 {
                written += u64::from(limiter.offer((n, 1, 16, 0), start).is_some());
            }
        }
        let quiet = limiter.quiet(start + REFILL);
        assert_eq!(quiet.len(), TOTAL_BURST as usize);
        assert_eq!(quiet.last().map(|(cause, _)| *cause), Some(OTHER));
        let summed: u64 = quiet.iter().map(|(_, count)| count).sum();
        assert_eq!(summed, 40_000 - written, "nothing is forgotten");
        assert_eq!(
            limiter.offer(A, start + REFILL),
            None,
            "they are lines like others"
        );
        // What found no line waits for one.
        for n in 0..2u16 {
            for _ in 0..10 {
                limiter.offer((n, 2, 16, 0), start + REFILL);
            }
        }
        while limiter.total.left > 0 {
            limiter.total.left -= 1;
        }
        let later = start + 2 * REFILL;
        limiter.total.since = later;
        assert!(limiter.quiet(later).is_empty());
        assert_eq!(limiter.quiet(later + TOTAL_REFILL), [(OTHER, 21)]);
    }

    #[test]
    fn forgets_causes_and_keeps_its_memory_bounded() {
        let start = Instant::now();
        let mut limiter = Limiter::new(start);
        for n in 0..20_000u16 {
            limiter.offer((n, 1, 16, 0), start);
        }
        assert!(limiter.causes.len() <= MAX_CAUSES + 1);
        limiter.quiet(start + Duration::from_secs(600));
        assert!(limiter.causes.is_empty());
    }
}
