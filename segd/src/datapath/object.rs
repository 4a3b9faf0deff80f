//! The kernel programs, loaded or kept from an earlier daemon: this build's code over the pinned maps.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use aya::maps::{Map, MapData, RingBuf};

use super::{
    Error,
    census::Census,
    kept::{self, Loaded, Wanted, taken},
    kernel,
    kernel_log::{self, KernelLog},
    load::{Chosen, FOREIGN, Features, JUDGED, LIVING, SESSIONS, load},
    manifest,
    map::Maps,
    pins::Pins,
    sessions::{Foreigners, Living, Sessions},
    sys,
};
use crate::report::chain;

/// The object that `build.rs` built.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/segd"));

/// Every map that outlives the daemon. What is not here (aya's log buffer) belongs to one load.
pub const PINNED: &[&str] = &[
    "ACTIVE",
    "TRIAL",
    "POLICY",
    "LINES",
    "CGROUPS",
    "CGROUPS_FULL",
    "EDGES",
    "UNIT_PATTERNS",
    "LOCALS",
    "NAMESPACES",
    "PLACES",
    "LINKS",
    "SOURCES",
    "HANDOVERS",
    "FLOWS",
    "EXCHANGES",
    "KEPT",
    "SOCKETS",
    "COUNTERS",
    "COUNTERS_OTHER",
    "TALLY_KEYS",
    "TALLIES",
    "STATS",
    "EVENTS",
    "EVENT_WINDOW",
    "NAMES",
];

/// Programs, and where their maps are pinned.
pub struct Datapath {
    loaded: Loaded,
    /// The pins.
    pub pins: Pins,
    /// The programs were there, just as they would have been loaded.
    pub kept: bool,
}

impl Datapath {
    /// Loads the programs over the maps pinned below a directory, which are made if they are not there. What an earlier daemon
    /// loaded is kept instead if it is just that.
    ///
    /// Attaches nothing. `subtree`: they will hang below the hierarchy's root. `learning`: they judge and remember,
    /// but let everything pass and count nothing.
    ///
    /// # Errors
    ///
    /// What the host lacks, or what the kernel refused.
    ///
    /// # Minimum kernel version
    ///
    /// 5.10.
    pub fn load(pin_dir: &Path, subtree: bool, learning: bool) -> Result<Datapath, Error> {
        kernel::check_privilege()?;
        kernel::check_bpffs(pin_dir)?;
        kernel::lift_memory_limit();
        let pins = Pins::new(pin_dir);
        pins.create()?;
        let globals = [
            ("HOST_NAMESPACE", kernel::own_namespace()?.number()),
            ("SUBTREE", u64::from(subtree)),
            ("LEARNING", u64::from(learning)),
        ];
        let features = Features::ask()?;
        let wanted = Wanted::of(&globals, &[("tcx", features.tcx), ("lsm", features.lsm)]);
        if manifest::exists(&pins) {
            match kept::adopt(&pins, &wanted) {
                Ok(loaded) => {
                    tracing::debug!("the kernel programs are those that an earlier daemon loaded: kept");
                    return Ok(Datapath {
                        loaded,
                        pins,
                        kept: true,
                    });
                }
                Err(why) => tracing::debug!("the kernel programs are loaded anew: {why}"),
            }
        }
        let ebpf = load(Some(&pins), &globals, Chosen::All)?;
        let loaded = taken(&ebpf)?;
        if !manifest::exists(&pins) {
            manifest::write(&pins)?;
        }
        kept::forget(&pins);
        // What only learns is not for the next daemon, nor is what the kernel might take in another hour.
        if !learning
            && features.is_complete(&ebpf)
            && let Err(why) = kept::keep(&pins, &wanted, &loaded)
        {
            kept::forget(&pins);
            tracing::warn!("the next start will load the kernel programs again: {why}");
        }
        Ok(Datapath {
            loaded,
            pins,
            kept: false,
        })
    }

    /// A loaded program.
    pub fn program(&self, name: &str) -> Result<BorrowedFd<'_>, Error> {
        self.loaded.program(name)
    }

    /// All programs, to be held when the datapath is gone.
    pub fn programs(&self) -> Result<Programs, Error> {
        let mut all = BTreeMap::new();
        for (name, program) in &self.loaded.programs {
            let failed = |error| Error::system(format!("holding the kernel program `{name}`"), error);
            let program = program.try_clone().map_err(failed)?;
            let id = sys::info::program_id(program.as_fd()).map_err(failed)?;
            all.insert(name.clone(), (program, id));
        }
        Ok(Programs(all))
    }

    /// The programs that tell who is in which network namespace.
    pub fn census(&self) -> Result<Census, Error> {
        Census::new(&self.loaded)
    }

    /// The program that tells which sessions have lost their right; `None` where the kernel takes none.
    pub fn sessions(&self) -> Result<Option<Sessions>, Error> {
        if let Ok(program) = self.program(SESSIONS) {
            return Sessions::of_tcp(program).map(Some);
        }
        let Ok(program) = self.program(JUDGED) else {
            return Ok(None);
        };
        Sessions::of_judged(program, self.pins.find("SOCKETS")?).map(Some)
    }

    /// The program that tells which sessions there are; `None` where the kernel takes none (before 5.11).
    pub fn living(&self) -> Result<Option<Living>, Error> {
        match self.program(LIVING) {
            Ok(program) => Living::of_tcp(program).map(Some),
            Err(_) => Ok(None),
        }
    }

    /// The program that tells which sockets another segment holds; `None` where the kernel takes none (before 5.11).
    pub fn foreigners(&self) -> Result<Option<Foreigners>, Error> {
        match self.program(FOREIGN) {
            Ok(program) => Foreigners::of_files(program).map(Some),
            Err(_) => Ok(None),
        }
    }

    /// Hands the programs' own diagnostics to the log.
    pub fn take_logger(&self) -> Option<KernelLog> {
        match self.ring(kernel_log::RING) {
            Ok(ring) => Some(KernelLog::new(ring)),
            Err(error) => {
                tracing::warn!("the kernel programs' own log is not available: {}", chain(&error));
                None
            }
        }
    }

    /// The ring buffer of flow events.
    pub fn take_events(&self) -> Result<RingBuf<MapData>, Error> {
        self.ring("EVENTS")
    }

    fn ring(&self, name: &'static str) -> Result<RingBuf<MapData>, Error> {
        let failed = |error: &dyn std::error::Error| Error::Refused {
            operation: format!("opening the ring `{name}`"),
            message: chain(error),
        };
        let map = MapData::from_fd(self.find(name)?).map_err(|error| failed(&error))?;
        RingBuf::try_from(Map::RingBuf(map)).map_err(|error| failed(&error))
    }
}

impl Maps for Datapath {
    fn find(&self, name: &'static str) -> Result<OwnedFd, Error> {
        match self.loaded.private.get(name) {
            Some(map) => map
                .try_clone()
                .map_err(|error| Error::system(format!("holding the map `{name}`"), error)),
            None => self.pins.find(name),
        }
    }
}

/// The programs of one load: their descriptors and the kernel's ids of them.
#[derive(Debug)]
pub struct Programs(BTreeMap<String, (OwnedFd, u32)>);

impl Programs {
    /// A program, to attach it.
    pub fn borrow(&self, name: &str) -> io::Result<BorrowedFd<'_>> {
        let missing = || io::Error::other(format!("the kernel program `{name}` is not loaded"));
        self.0
            .get(name)
            .map(|(program, _)| program.as_fd())
            .ok_or_else(missing)
    }

    /// The ids of all programs, and of the maps they use.
    pub(super) fn ids(&self) -> io::Result<(Vec<u32>, Vec<u32>)> {
        let (mut programs, mut maps) = (Vec::new(), Vec::new());
        for (program, id) in self.0.values() {
            programs.push(*id);
            maps.extend(sys::maps_of(program.as_fd())?);
        }
        Ok((programs, maps))
    }

    /// The kernel's id of a program.
    #[must_use]
    pub fn id(&self, name: &str) -> Option<u32> {
        self.0.get(name).map(|(_, id)| *id)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    #[test]
    fn the_verifier_accepts_every_program() {
        let dir = std::path::PathBuf::from(format!("/sys/fs/bpf/segd-unit-{}", std::process::id()));
        if let Err(error) = super::kernel::check_privilege().and_then(|()| super::kernel::check_bpffs(&dir)) {
            assert!(std::env::var_os("SEGD_REQUIRE_KERNEL").is_none(), "{error}");
            eprintln!("skipped: {error}");
            return;
        }
        let loaded = super::Datapath::load(&dir, false, false);
        // While the maps are pinned: one of the two programs walks what a map holds.
        let sessions = loaded.as_ref().ok().map(super::Datapath::sessions);
        let unloaded = crate::datapath::pins::unload(&dir);
        if let Err(error) = &loaded {
            panic!("{error}");
        }
        unloaded.unwrap();
        assert!(
            sessions.unwrap().unwrap().is_some(),
            "idle sessions could not be found"
        );
        let tcx = crate::datapath::feature::takes_tcx().unwrap();
        let loaded = loaded.unwrap().loaded.programs;
        // What there is; the verifier is not asked again, which takes minutes under emulation.
        let listed = aya::Ebpf::load(super::OBJECT).unwrap();
        for (name, program) in listed.programs() {
            if crate::datapath::load::TELLING.contains(&name) && !loaded.contains_key(name) {
                eprintln!("{name}: the other one is loaded, or this kernel does not take it");
                continue;
            }
            if matches!(program, aya::programs::Program::Lsm(_))
                && !matches!(crate::datapath::feature::takes_lsm(), Ok(true))
            {
                eprintln!("{name}: this kernel takes no LSM programs");
                continue;
            }
            if matches!(program, aya::programs::Program::SchedClassifier(_)) && !tcx {
                eprintln!("{name}: this kernel has no tcx");
                continue;
            }
            let program = loaded.get(name).unwrap_or_else(|| panic!("{name} is not loaded"));
            let said = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd())).unwrap();
            // Linux 5.16.
            let verified = said.lines().find_map(|line| line.strip_prefix("verified_insns:"));
            eprintln!(
                "{name}: {} instructions verified",
                verified.map_or("0", str::trim)
            );
        }
    }
}
