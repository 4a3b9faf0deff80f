//! Wakes the daemon at a moment of the calendar, and whenever somebody sets the clock (timerfd_create(2),
//! `TFD_TIMER_CANCEL_ON_SET`).
//!
//! Deliberately absent: what is to be done then. Without it, the daemon looks at the clock once a second.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::io::{Interest, unix::AsyncFd};

/// What is set if nothing is to happen: a step of the clock wakes all the same. Some hundred years off.
const NEVER: Duration = Duration::from_secs(1 << 34);

/// An alarm clock.
#[derive(Clone, Debug)]
pub struct Alarm(Arc<AsyncFd<OwnedFd>>);

impl Alarm {
    /// One that is not set: not even a step of the clock wakes.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn new() -> io::Result<Alarm> {
        // SAFETY: no pointers.
        let raw =
            unsafe { libc::timerfd_create(libc::CLOCK_REALTIME, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor that was just made, and that nobody else has.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        // SAFETY: the descriptor is owned, and stays open until the `AsyncFd` is gone.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
        Ok(Alarm(Arc::new(fd)))
    }

    /// Sets it, for once, instead of what was set before.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn set(&self, at: Option<SystemTime>) -> io::Result<()> {
        let since = at.map_or(NEVER, |at| {
            at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
        });
        let time = libc::itimerspec {
            it_interval: libc::timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: libc::timespec {
                tv_sec: i64::try_from(since.min(NEVER).as_secs()).unwrap_or(i64::MAX),
                // All zeros would take it away.
                tv_nsec: i64::from(since.subsec_nanos().max(1)),
            },
        };
        let flags = libc::TFD_TIMER_ABSTIME | libc::TFD_TIMER_CANCEL_ON_SET;
        // SAFETY: `time` is valid for the whole call; nothing is written back.
        let set = unsafe {
            libc::timerfd_settime(self.0.as_raw_fd(), flags, &raw const time, std::ptr::null_mut())
        };
        if set < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Waits for the moment, or for a step of the clock.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub async fn rings(&self) -> io::Result<()> {
        let read = |fd: &OwnedFd| {
            let mut count = [0_u8; 8];
            // SAFETY: `count` is a valid place for as many bytes for the whole call.
            let read = unsafe { libc::read(fd.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
            match read {
                0.. => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        };
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|fd| read(fd.get_ref())) {
                Ok(Err(error)) if error.raw_os_error() != Some(libc::ECANCELED) => return Err(error),
                Ok(_) => return Ok(()),
                // It was set anew meanwhile.
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn rings_at_a_moment_and_not_before() {
        let alarm = Alarm::new().expect("an alarm");
        alarm.set(None).expect("it is set");
        let patience = Duration::from_millis(50);
        tokio::time::timeout(patience, alarm.rings())
            .await
            .expect_err("nothing is due");
        let at = SystemTime::now() + Duration::from_millis(200);
        alarm.set(Some(at)).expect("it is set");
        tokio::time::timeout(Duration::from_secs(10), alarm.rings())
            .await
            .expect("it rings")
            .expect("it can be read");
        assert!(SystemTime::now() >= at);
        // What is past rings at once.
        alarm.set(Some(SystemTime::UNIX_EPOCH)).expect("it is set");
        tokio::time::timeout(Duration::from_secs(10), alarm.rings())
            .await
            .expect("it rings")
            .expect("it can be read");
    }
}
