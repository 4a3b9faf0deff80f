//! Handing a program to the kernel once more: it leaves off verifying one where a signal waits for the thread (`EAGAIN`), and
//! says nothing of the program by that.

use std::io;

use aya::{programs::ProgramError, sys::SyscallError};

/// As often as libbpf.
const TRIES: u32 = 5;

/// What loads a program, and may have to again.
pub(super) fn again<T, E: Interrupted>(mut load: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    for _ in 1..TRIES {
        match load() {
            Err(error) if error.is_interrupted() => {}
            result => return result,
        }
    }
    load()
}

/// An error that may be none of the program's.
pub(super) trait Interrupted {
    /// Whether the kernel left off.
    fn is_interrupted(&self) -> bool;
}

impl Interrupted for io::Error {
    fn is_interrupted(&self) -> bool {
        self.raw_os_error() == Some(libc::EAGAIN)
    }
}

impl Interrupted for ProgramError {
    fn is_interrupted(&self) -> bool {
        match self {
            ProgramError::LoadError { io_error, .. }
            | ProgramError::SyscallError(SyscallError { io_error, .. }) => io_error.is_interrupted(),
            _ => false,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "test code")]
mod tests {
    use super::*;

    fn said(code: i32) -> ProgramError {
        ProgramError::SyscallError(SyscallError {
            call: "bpf_prog_load",
            io_error: io::Error::from_raw_os_error(code),
        })
    }

    #[test]
    fn what_a_signal_interrupted_is_asked_again_and_nothing_else() {
        let mut asked = 0;
        let answer = again(|| {
            asked += 1;
            if asked < 3 {
                Err(said(libc::EAGAIN))
            } else {
                Ok(asked)
            }
        });
        assert_eq!(answer.unwrap(), 3);
        for (code, times) in [(libc::EAGAIN, TRIES), (libc::EINVAL, 1)] {
            let mut asked = 0;
            let answer: Result<(), _> = again(|| {
                asked += 1;
                Err(said(code))
            });
            assert!(answer.is_err());
            assert_eq!(asked, times, "{code}");
        }
    }
}
