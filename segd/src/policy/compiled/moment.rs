//! When rules end, on the clocks that tell.

use jiff::Timestamp;

/// One moment on two clocks: by the calendar, in which policies are written, and by the one that the kernel programs read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The calendar.
    pub calendar: Timestamp,
    /// Nanoseconds of the clock that counts from boot, suspended time included.
    pub boot_ns: u64,
}

/// Of a rule that is over, whatever the boot clock says: not never.
pub(super) const OVER: u64 = 1;

impl Moment {
    /// Before the end of every rule, for tables that are to be read as they are.
    pub const FIRST: Moment = Moment {
        calendar: Timestamp::MIN,
        boot_ns: 0,
    };

    /// When the calendar will say `end`, on the kernel's clock. Never 0; what is past is past, whatever is 0 there.
    #[must_use]
    pub fn boot_ns_of(&self, end: Timestamp) -> u64 {
        let left = end.as_nanosecond() - self.calendar.as_nanosecond();
        let at = i128::from(self.boot_ns).saturating_add(left);
        u64::try_from(at.max(1)).unwrap_or(u64::MAX)
    }
}
