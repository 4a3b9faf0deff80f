//! Where a task lives, as the kernel tells it: in which network namespace, and in which cgroup.

/// A task outside the host's network namespace.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Task {
    /// Its network namespace.
    pub namespace: Namespace,
    /// Its cgroup's id.
    pub cgroup: u64,
    /// When it started, in nanoseconds since boot: with its number it is this task and no other.
    pub started: u64,
    /// Its number, as whoever asks sees it.
    pub number: u32,
    /// Always 0.
    pub reserved: u32,
}

/// A network namespace.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Namespace {
    /// Its cookie, as `bpf_get_netns_cookie` tells it; 0 = none.
    pub cookie: u64,
    /// The inode number of its file.
    pub inode: u32,
    /// Not 0: it belongs to another user namespace than the initial one.
    pub delegated: u32,
}

const _: () = assert!(size_of::<Task>() == 40);
const _: () = assert!(size_of::<Namespace>() == 16);

impl Namespace {
    /// Its words, one for each run of the program that tells of one namespace.
    #[must_use]
    #[inline(always)]
    pub const fn word(&self, number: u64) -> u32 {
        match number {
            0 => self.cookie as u32,
            1 => (self.cookie >> 32) as u32,
            2 => self.inode,
            _ => self.delegated,
        }
    }

    /// From its words.
    #[must_use]
    pub const fn from_words(words: [u32; 4]) -> Namespace {
        let [low, high, inode, delegated] = words;
        Namespace {
            cookie: low as u64 | (high as u64) << 32,
            inode,
            delegated,
        }
    }
}
