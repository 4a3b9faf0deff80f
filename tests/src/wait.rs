//! Waiting for a condition with a deadline: the only place that lets time pass.

use std::{
    fmt::Display,
    sync::OnceLock,
    time::{Duration, Instant},
};

/// How long a fixture may take before the test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// How long "nothing arrives" is watched. Delivery on one host is synchronous; this is slack, not hope.
pub const SILENCE: Duration = Duration::from_millis(250);

const STEP: Duration = Duration::from_millis(2);

/// A deadline as it is on this machine: `SEGD_PATIENCE` says how many times slower it is than the ones the deadlines were
/// chosen on, as under emulation.
#[must_use]
pub fn patient(deadline: Duration) -> Duration {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    let given = || std::env::var("SEGD_PATIENCE").ok()?.parse().ok();
    deadline * *FACTOR.get_or_init(|| given().unwrap_or(1))
}

/// Polls `ready` until it yields a value.
///
/// # Panics
/// When `deadline` passes first.
#[track_caller]
pub fn wait_for<T>(what: impl Display, deadline: Duration, mut ready: impl FnMut() -> Option<T>) -> T {
    let (start, deadline) = (Instant::now(), patient(deadline));
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(
            start.elapsed() < deadline,
            "waited {deadline:?} in vain for: {what}"
        );
        std::thread::sleep(STEP);
    }
}

/// Polls `holds` until it is true.
///
/// # Panics
/// When `deadline` passes first.
#[track_caller]
pub fn wait_until(what: impl Display, deadline: Duration, mut holds: impl FnMut() -> bool) {
    wait_for(what, deadline, || holds().then_some(()));
}

/// Whether `holds` became true within `deadline`.
pub fn within(deadline: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let (start, deadline) = (Instant::now(), patient(deadline));
    loop {
        if holds() {
            return true;
        }
        if start.elapsed() >= deadline {
            return false;
        }
        std::thread::sleep(STEP);
    }
}

/// Probes `holds` again and again for the whole `window`.
///
/// # Panics
/// At the first time it does not hold.
#[track_caller]
pub fn stays(what: impl Display, window: Duration, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while start.elapsed() < window {
        assert!(holds(), "after {:?} it no longer held: {what}", start.elapsed());
        std::thread::sleep(STEP);
    }
}

/// Lets `window` pass so that what is on its way can arrive; used before asserting an absence.
pub fn quiet(window: Duration) {
    let start = Instant::now();
    while start.elapsed() < window {
        std::thread::sleep(STEP);
    }
}
