//! Network namespaces as the kernel sees them: who is in which, and which one a file is.
//!
//! INVARIANT: nothing here takes more than CAP_BPF and CAP_PERFMON.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use segd_common::census::{Namespace, Task};

use super::{
    Error,
    kept::{Loaded, taken},
    load::{Chosen, load},
    sys,
    walk::Walk,
};

/// Who is in which, and which one a file is.
const PROGRAMS: [&str; 2] = ["segd_census", "segd_namespace"];

/// The programs that tell, kept for as long as somebody asks.
#[derive(Debug)]
pub struct Census {
    tasks: Walk<Task>,
    word: OwnedFd,
}

impl Census {
    pub(super) fn new(loaded: &Loaded) -> Result<Census, Error> {
        let failed = |error| Error::system("making an iterator over tasks", error);
        let [tasks, word] = PROGRAMS;
        let (tasks, word) = (loaded.program(tasks)?, loaded.program(word)?);
        Ok(Census {
            tasks: Walk::of(tasks, "tasks")?,
            word: word.try_clone_to_owned().map_err(failed)?,
        })
    }

    /// The programs alone, loaded for whoever wants to look without a datapath.
    ///
    /// # Errors
    ///
    /// What the host lacks, or what the kernel refused.
    pub fn load() -> Result<Census, Error> {
        super::kernel::check_privilege()?;
        let host = super::kernel::own_namespace()?.number();
        let ebpf = load(None, &[("HOST_NAMESPACE", host)], Chosen::Only(&PROGRAMS))?;
        Census::new(&taken(&ebpf)?)
    }

    /// Every task outside this process' network namespace, as far as its pid namespace shows them.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn tasks(&self) -> io::Result<Vec<Task>> {
        self.tasks.all()
    }

    /// The namespace that an open file is; `None` if it is none.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn namespace(&self, file: BorrowedFd<'_>) -> io::Result<Option<Namespace>> {
        if !is_network_namespace(file) {
            return Ok(None);
        }
        let mut words = [0; 4];
        for (number, word) in words.iter_mut().enumerate() {
            *word = sys::run_raw_tracepoint(self.word.as_fd(), [file.as_raw_fd() as u64, number as u64])?;
        }
        Ok(Some(Namespace::from_words(words)).filter(|namespace| namespace.cookie != 0))
    }
}

/// Whether a file is a network namespace's: the program takes that for granted.
fn is_network_namespace(file: BorrowedFd<'_>) -> bool {
    /// `NS_GET_NSTYPE`, ioctl_ns(2). Other files may know another request by this number, so the file system is asked first.
    const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
    const NSFS_MAGIC: libc::c_long = 0x6e73_6673;
    let mut stat = std::mem::MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the descriptor is open, and the buffer is a `statfs` that outlives the call.
    let status = unsafe { libc::fstatfs(file.as_raw_fd(), stat.as_mut_ptr()) };
    // SAFETY: zeroed is a valid `statfs`, and the call filled it.
    if status != 0 || unsafe { stat.assume_init() }.f_type as libc::c_long != NSFS_MAGIC {
        return false;
    }
    // SAFETY: no pointers; the descriptor is open.
    unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE as _) == libc::CLONE_NEWNET }
}
