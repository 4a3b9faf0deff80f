//! User names and numbers, as the host knows them.

use std::{ffi::CString, io, ptr};

mod asker;

pub use self::asker::{Answers, Asker, PATIENCE};

/// The number of a user; `None` if nobody has this name. Asks NSS, and so maybe the network: who must not wait asks an [`Asker`].
///
/// # Errors
///
/// NSS does not know: what it would ask does not answer.
pub fn ask(name: &str) -> io::Result<Option<u32>> {
    const LARGEST: usize = 1 << 20;
    let Ok(name) = CString::new(name) else {
        return Ok(None);
    };
    let mut buffer = vec![0; 4096];
    loop {
        let mut entry = std::mem::MaybeUninit::<libc::passwd>::zeroed();
        let mut found = ptr::null_mut();
        // SAFETY: the name ends in zero; the entry and the buffer are ours, as long as stated, and outlive the call.
        let status = unsafe {
            libc::getpwnam_r(
                name.as_ptr(),
                entry.as_mut_ptr(),
                buffer.as_mut_ptr(),
                buffer.len(),
                &mut found,
            )
        };
        match status {
            libc::ERANGE if buffer.len() < LARGEST => buffer.resize(buffer.len() * 2, 0),
            libc::EINTR => {}
            0 if found.is_null() => return Ok(None),
            // SAFETY: zeroed is a valid `passwd`, and the call said that it filled it.
            0 => return Ok(Some(unsafe { entry.assume_init() }.pw_uid)),
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

/// As [`ask`], for commands: who cannot be asked about is nobody.
#[must_use]
pub fn uid(name: &str) -> Option<u32> {
    ask(name).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_zero_and_a_name_nobody_has_is_none() {
        assert_eq!(uid("root"), Some(0));
        assert_eq!(uid("segd-no-such-user"), None);
        assert_eq!(uid("a\0b"), None);
    }
}
