//! User names and numbers, as the host knows them.

use std::{ffi::CString, ptr};

/// The number of a user; `None` if nobody has this name. May ask the network (NSS): not for an async thread.
#[must_use]
pub fn uid(name: &str) -> Option<u32> {
    const LARGEST: usize = 1 << 20;
    let name = CString::new(name).ok()?;
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
        if status == libc::ERANGE && buffer.len() < LARGEST {
            buffer.resize(buffer.len() * 2, 0);
            continue;
        }
        if status != 0 || found.is_null() {
            return None;
        }
        // SAFETY: zeroed is a valid `passwd`, and the call said that it filled it.
        return Some(unsafe { entry.assume_init() }.pw_uid);
    }
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
