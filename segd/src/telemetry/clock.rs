//! From the kernel's clock to the calendar.

use std::{
    fs,
    sync::OnceLock,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jiff::Timestamp;

use crate::policy::compiled::Moment;

/// The clock of the kernel programs' events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventClock {
    /// `CLOCK_BOOTTIME`.
    Boot,
    /// `CLOCK_MONOTONIC`: kernels without `bpf_ktime_get_boot_ns`.
    Monotonic,
}

impl EventClock {
    /// The clock's present time in nanoseconds.
    #[must_use]
    pub fn now_ns(self) -> u64 {
        let clock = match self {
            EventClock::Boot => libc::CLOCK_BOOTTIME,
            EventClock::Monotonic => libc::CLOCK_MONOTONIC,
        };
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: `time` is a valid place for one timespec for the whole call.
        unsafe { libc::clock_gettime(clock, &raw mut time) };
        let here = i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec);
        let offsets = OFFSETS.get_or_init(|| {
            fs::read_to_string("/proc/self/timens_offsets").map_or((0, 0), |text| offsets(&text))
        });
        let offset = match self {
            EventClock::Boot => offsets.1,
            EventClock::Monotonic => offsets.0,
        };
        u64::try_from(here - offset).unwrap_or(0)
    }

    /// The calendar time of an event, by its age: a step of the calendar clock does not accumulate.
    #[must_use]
    pub fn calendar(self, event_ns: u64) -> SystemTime {
        let age = Duration::from_nanos(self.now_ns().saturating_sub(event_ns));
        SystemTime::now().checked_sub(age).unwrap_or(UNIX_EPOCH)
    }
}

/// The present moment on the calendar and on the boot clock.
#[must_use]
pub fn moment() -> Moment {
    // In this order: whatever comes between the two readings makes rules end early, not late.
    let boot_ns = EventClock::Boot.now_ns();
    Moment {
        calendar: Timestamp::now(),
        boot_ns,
    }
}

/// What a time namespace adds to the kernel's own clocks (time_namespaces(7)); the kernel programs see those.
static OFFSETS: OnceLock<(i128, i128)> = OnceLock::new();

/// The offsets of `CLOCK_MONOTONIC` and `CLOCK_BOOTTIME` in nanoseconds.
fn offsets(text: &str) -> (i128, i128) {
    let of = |clock: &str| {
        text.lines().find_map(|line| {
            let mut fields = line.split_whitespace();
            let named = fields.next()? == clock;
            let seconds: i128 = fields.next()?.parse().ok()?;
            let nanoseconds: i128 = fields.next()?.parse().ok()?;
            named.then_some(seconds * 1_000_000_000 + nanoseconds)
        })
    };
    (of("monotonic").unwrap_or(0), of("boottime").unwrap_or(0))
}

/// RFC 3339 in UTC with microseconds; the years 1970 to 9999.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    format!("{:.6}", timestamp(time))
}

/// The same moment as policies know it; the years 1970 to 9999.
#[must_use]
pub fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let nanos = i128::try_from(since.as_nanos()).unwrap_or(i128::MAX);
    Timestamp::from_nanosecond(nanos).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_rfc_3339_in_utc() {
        assert_eq!(rfc3339(UNIX_EPOCH), "1970-01-01T00:00:00.000000Z");
        let time = UNIX_EPOCH + Duration::new(1_795_339_445, 123_456_789);
        assert_eq!(rfc3339(time), "2026-11-22T09:24:05.123456Z");
    }

    #[test]
    fn knows_what_a_time_namespace_adds() {
        let text = "monotonic           0         0\nboottime      -864000  -5\n";
        assert_eq!(offsets(text), (0, -864_000_000_000_005));
        assert_eq!(offsets(""), (0, 0));
    }

    #[test]
    fn dates_an_event_by_its_age() {
        let clock = EventClock::Boot;
        let event = clock.now_ns().saturating_sub(2_000_000_000);
        let age = SystemTime::now()
            .duration_since(clock.calendar(event))
            .expect("it is past");
        assert!(
            age >= Duration::from_secs(2) - Duration::from_millis(1) && age < Duration::from_secs(10),
            "{age:?}"
        );
    }
}
