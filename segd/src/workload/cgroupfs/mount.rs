//! Where the hierarchy is mounted.

use std::{ffi::OsString, os::unix::ffi::OsStringExt as _, path::PathBuf};

/// The first cgroup2 mount in `/proc/self/mountinfo`, one of the whole hierarchy if there is any.
pub(super) fn mount_point(mountinfo: &[u8]) -> Option<PathBuf> {
    let mut part = None;
    for line in mountinfo.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b' ').skip(3);
        let (Some(root), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        let mut kind = fields.skip_while(|field| *field != b"-").skip(1);
        if kind.next() == Some(b"cgroup2") {
            let path = PathBuf::from(OsString::from_vec(unescape(path)));
            if root == b"/" {
                return Some(path);
            }
            part.get_or_insert(path);
        }
    }
    part
}

/// Undoes the kernel's `\040` for a space, and the like.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let digits = tail
            .first_chunk::<3>()
            .filter(|digits| digits.iter().all(|digit| (b'0'..=b'7').contains(digit)));
        match (first, digits) {
            (b'\\', Some([a, b, c])) => {
                bytes.push((a & 3) << 6 | (b & 7) << 3 | (c & 7));
                rest = tail.get(3..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    bytes
}
