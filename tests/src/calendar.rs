//! The calendar clock of the host, stepped by a test and put back whatever becomes of it.
//!
//! Deliberately absent: the clocks that count from boot, which nobody can set.

use std::time::Instant;

/// A step of the calendar clock; it is stepped back when this is dropped.
#[derive(Debug)]
pub struct Step {
    /// What the clock said before.
    real: libc::timespec,
    /// When it said that.
    start: Instant,
    /// How many seconds it is ahead.
    ahead: i64,
}

impl Step {
    /// Steps the clock by some seconds.
    #[must_use = "the clock is put back when this is dropped"]
    pub fn by(seconds: i64) -> Step {
        let mut real = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: a valid place for one timespec.
        unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &raw mut real) };
        let mut step = Step {
            real,
            start: Instant::now(),
            ahead: 0,
        };
        step.set(seconds);
        step
    }

    /// Steps to the next time at which this many seconds are left of a minute, from where the clock is now.
    pub fn to_the_end_of_a_minute(&mut self, left: i64) {
        let now = self.real.tv_sec + self.start.elapsed().as_secs() as i64 + self.ahead;
        self.set(self.ahead + (60 - left - now).rem_euclid(60));
    }

    /// Sets the clock to what it would be, and some seconds.
    fn set(&mut self, seconds: i64) {
        self.ahead = seconds;
        let gone = self.start.elapsed();
        let nanoseconds = self.real.tv_nsec + i64::from(gone.subsec_nanos());
        let time = libc::timespec {
            tv_sec: self.real.tv_sec + gone.as_secs() as i64 + nanoseconds / 1_000_000_000 + seconds,
            tv_nsec: nanoseconds % 1_000_000_000,
        };
        // SAFETY: a live timespec.
        let result = unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &raw const time) };
        assert_eq!(
            result,
            0,
            "the clock cannot be set: {}",
            std::io::Error::last_os_error()
        );
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.set(0);
    }
}
