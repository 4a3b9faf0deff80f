//! The guard of what segd keeps in the kernel (`segd run --protect`): nobody but the daemon removes its pins, unmounts
//! their file system, takes its links off their hooks or opens its maps to write to them, and no workload signals it.
//!
//! INVARIANT: the links are held, never pinned: the guard ends with the daemon, whatever ends the daemon. So nobody is
//! locked out: `segd unload` ends the daemon first, and a new daemon finds nothing that keeps it away.

use std::{
    collections::BTreeSet,
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::Path,
};

use segd_common::lsm;

use super::{
    Datapath, Error, feature, kept,
    links::{Attached, Links},
    map::{Map, Maps as _},
    pinned::PinnedMaps,
    sys,
};

/// The programs, in the order of attachment.
const PROGRAMS: &[&str] = &[
    "segd_lsm_inode_unlink",
    "segd_lsm_inode_rmdir",
    "segd_lsm_inode_rename",
    "segd_lsm_sb_umount",
    "segd_lsm_bpf",
    "segd_lsm_bpf_map",
    "segd_lsm_task_kill",
];

/// The programs that guard.
#[derive(Debug)]
pub struct Guard {
    links: Vec<OwnedFd>,
    word: Map<u32, lsm::Guard>,
    guarded: Map<u64, u32>,
    /// What is in there of the pinned maps: a policy's lines and its text may have maps of their own.
    pinned: BTreeSet<u32>,
    daemon: u32,
}

impl Guard {
    /// Attaches the programs; they guard nothing but themselves yet.
    ///
    /// # Errors
    ///
    /// The kernel did not take one of them.
    ///
    /// # Minimum kernel version
    ///
    /// 5.10, and `bpf` among its security modules.
    pub fn new(datapath: &Datapath) -> Result<Guard, Error> {
        let failed = |error| Error::system("attaching the guard", error);
        let word = Map::over("GUARD", datapath.find("GUARD")?)?;
        let guarded: Map<u64, u32> = Map::over("GUARDED", datapath.find("GUARDED")?)?;
        // The programs may have served an earlier daemon: what was its own is nobody's now.
        word.write(&0, &lsm::Guard::default(), 0)?;
        for key in guarded.keys()? {
            guarded.remove(&key)?;
        }
        if !feature::attaches_lsm_again()? {
            // Attached once, they are of no use to the next daemon.
            kept::forget(&datapath.pins);
        }
        let mut links = Vec::new();
        for name in PROGRAMS {
            links.push(sys::link_lsm(datapath.program(name)?).map_err(failed)?);
        }
        let process = datapath.program("segd_process")?;
        let guard = Guard {
            links,
            word,
            guarded,
            pinned: BTreeSet::new(),
            daemon: sys::run_raw_tracepoint(process, [0, 0]).map_err(failed)?,
        };
        guard.keep(datapath.programs()?.ids())?;
        Ok(guard)
    }

    /// Begins to guard: the pins below a directory, the links' programs, all maps.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn arm(&mut self, links: &Links, maps: &PinnedMaps, pin_dir: &Path) -> Result<(), Error> {
        self.keep(links.ids())?;
        self.follow(maps, pin_dir)
    }

    /// Guards programs and the maps they use.
    fn keep(&self, ids: io::Result<(Vec<u32>, Vec<u32>)>) -> Result<(), Error> {
        let (programs, maps) = ids.map_err(|error| Error::system("listing what is to be guarded", error))?;
        let programs = programs.into_iter().map(lsm::program);
        for key in programs.chain(maps.into_iter().map(lsm::map)) {
            self.guarded.write(&key, &1, 0)?;
        }
        Ok(())
    }

    /// Guards what is pinned now. bpffs may have been mounted anew over the one before.
    ///
    /// # Errors
    ///
    /// There is no pin directory, or the kernel refuses.
    pub fn follow(&mut self, maps: &PinnedMaps, pin_dir: &Path) -> Result<(), Error> {
        let pinned: BTreeSet<u32> = maps.ids().collect();
        for id in pinned.difference(&self.pinned) {
            self.guarded.write(&lsm::map(*id), &1, 0)?;
        }
        for id in self.pinned.difference(&pinned) {
            self.guarded.remove(&lsm::map(*id))?;
        }
        self.pinned = pinned;
        let place = std::fs::metadata(pin_dir)
            .map_err(|error| Error::system(format!("looking at `{}`", pin_dir.display()), error))?;
        let guard = lsm::Guard {
            daemon: self.daemon,
            device: lsm::device(libc::major(place.dev()), libc::minor(place.dev())),
            inode: place.ino(),
        };
        if self.word.read(&0)? != Some(guard) {
            self.word.write(&0, &guard, 0)?;
        }
        Ok(())
    }

    /// One line for status.
    #[must_use]
    pub fn status(&self) -> Attached {
        Attached {
            hook: "guard".to_owned(),
            attached: self.links.iter().all(|link| sys::link_info(link.as_fd()).is_ok()),
            link: 0,
            note: "pins, links and maps: for as long as the daemon lives".to_owned(),
        }
    }
}

/// Whether the kernel asks BPF programs as a security module: the one at `socket_create` answers a question that no
/// protocol does.
#[must_use]
pub fn is_asked() -> bool {
    // SAFETY: no pointers. It makes no socket: there is no such protocol.
    let made = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, lsm::QUESTION) };
    made < 0 && io::Error::last_os_error().raw_os_error() == Some(lsm::ANSWER)
}
