//! Who is at the other end of a connection, as the kernel remembers it from the moment of `connect`.
//!
//! The groups come from `SO_PEERGROUPS`, not from `/proc`: a process id can be reused, the socket's
//! credentials cannot.

use std::{io, os::fd::AsRawFd as _};

use tokio::net::UnixStream;

/// Who may talk to the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// The user segd runs as; allowed everything, like root.
    pub own: u32,
    /// A group that may ask, but not change anything.
    pub group: Option<u32>,
}

/// What a peer may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// Nothing.
    None,
    /// Ask.
    Read,
    /// Ask and change.
    Write,
}

impl Access {
    /// Access for root, the user this process runs as, and optionally a group.
    #[must_use]
    pub fn new(group: Option<u32>) -> Access {
        // SAFETY: geteuid has no preconditions and cannot fail.
        let own = unsafe { libc::geteuid() };
        Access { own, group }
    }

    /// What the peer of a connection may do. Credentials that cannot be read give no right.
    #[must_use]
    pub fn of(&self, stream: &UnixStream) -> Right {
        let Ok(peer) = stream.peer_cred() else {
            return Right::None;
        };
        let groups = supplementary(stream).unwrap_or_default();
        self.right(peer.uid(), peer.gid(), &groups)
    }

    /// What a user with these groups may do.
    #[must_use]
    pub fn right(&self, user: u32, group: u32, supplementary: &[u32]) -> Right {
        if user == 0 || user == self.own {
            return Right::Write;
        }
        match self.group {
            Some(allowed) if group == allowed || supplementary.contains(&allowed) => Right::Read,
            _ => Right::None,
        }
    }
}

/// The peer's supplementary groups when it connected.
fn supplementary(stream: &UnixStream) -> io::Result<Vec<u32>> {
    /// The kernel's NGROUPS_MAX.
    const MOST: usize = 65536;
    let mut groups = vec![0u32; 32];
    loop {
        let mut bytes = libc::socklen_t::try_from(size_of_val(groups.as_slice())).unwrap_or(0);
        // SAFETY: the descriptor is open for the borrow of `stream`; the kernel writes at most `bytes` bytes
        // into `groups`, which holds that many, and every bit pattern is a u32.
        let result = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        let len = bytes as usize / size_of::<u32>();
        if result == 0 {
            groups.truncate(len);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || len <= groups.len() || len > MOST {
            return Err(error);
        }
        groups.resize(len, 0);
    }
}

/// The number of a group given by name or number. Names are looked up in `/etc/group` alone, so that a
/// static build asks no name service.
///
/// # Errors
/// If `/etc/group` cannot be read or does not name it.
pub fn group_id(group: &str) -> io::Result<u32> {
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    let text = std::fs::read_to_string("/etc/group")?;
    find_group(&text, group).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("group `{group}` is not in /etc/group"),
        )
    })
}

fn find_group(text: &str, group: &str) -> Option<u32> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(group))
            .then(|| fields.nth(1)?.parse().ok())
            .flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_everything_to_root_and_questions_to_the_group() {
        let access = Access {
            own: 990,
            group: Some(50),
        };
        assert_eq!(access.right(0, 0, &[]), Right::Write);
        assert_eq!(access.right(990, 990, &[]), Right::Write);
        assert_eq!(access.right(1000, 50, &[]), Right::Read);
        assert_eq!(access.right(1000, 1000, &[4, 50]), Right::Read);
        assert_eq!(access.right(1000, 1000, &[4]), Right::None);
        assert_eq!(Access { own: 0, group: None }.right(1000, 50, &[50]), Right::None);
    }

    #[test]
    fn finds_a_group_by_its_whole_name() {
        let text = "root:x:0:\nsegd-x:x:7:\nsegd:x:115:alice,bob\nbroken\n";
        assert_eq!(find_group(text, "segd"), Some(115));
        assert_eq!(find_group(text, "seg"), None);
        assert_eq!(find_group(text, "broken"), None);
    }

    #[tokio::test]
    async fn reads_the_groups_of_a_real_connection() {
        let (one, _other) = UnixStream::pair().expect("a pair of sockets");
        supplementary(&one).expect("the kernel tells the groups");
        assert_eq!(Access::new(None).of(&one), Right::Write, "this very process");
    }
}
