//! The kernel programs, loaded or kept from an earlier daemon: this build's code over the pinned maps.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{Map, MapData, RingBuf},
    programs::{CgroupSkb, CgroupSockAddr, Iter, Lsm, Program, RawTracePoint, SchedClassifier, SockOps, Xdp},
};

use super::{
    Error, btf,
    census::Census,
    feature,
    kept::{self, Loaded, Wanted, taken},
    kernel,
    kernel_log::{self, KernelLog},
    manifest,
    map::Maps,
    numbering,
    pins::Pins,
    sessions::{Foreigners, Living, Sessions},
    sys,
};
use crate::report::chain;

/// The object that `build.rs` built.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/segd"));

/// Walks TCP sockets: where programs that trace may read a socket's storage (Linux 5.11).
const SESSIONS: &str = "segd_sessions";
/// Walks the storage of sockets: where they may not. Kernels that are locked down may refuse it.
const JUDGED: &str = "segd_judged";

/// Walks TCP sockets for whoever asks what a policy would do.
const LIVING: &str = "segd_living";

/// Walks open files, for whoever asks which sockets another segment holds.
const FOREIGN: &str = "segd_foreign";

/// The programs of which a kernel may take none: they tell, and nothing is judged by them.
const TELLING: [&str; 4] = [SESSIONS, JUDGED, LIVING, FOREIGN];

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
        let ebpf = load_object(Some(&pins), &globals)?;
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
            Ok(ring) => Some(KernelLog(ring)),
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

/// What of the object a kernel is given.
#[derive(Clone, Copy, Debug)]
struct Features {
    tcx: bool,
    lsm: bool,
}

impl Features {
    fn ask() -> Result<Features, Error> {
        Ok(Features {
            tcx: feature::takes_tcx()?,
            // Why it does not, where it does not, is the doctor's business.
            lsm: feature::takes_lsm().unwrap_or(false),
        })
    }

    /// Whether all of that was loaded; the programs that only tell aside, of which each kernel takes always the same.
    fn is_complete(self, ebpf: &Ebpf) -> bool {
        ebpf.programs().all(|(name, program)| match program {
            Program::Lsm(_) => !self.lsm || program.fd().is_ok(),
            _ => {
                !self.tcx && matches!(program, Program::SchedClassifier(_))
                    || TELLING.contains(&name)
                    || program.fd().is_ok()
            }
        })
    }
}

/// Loads every program of the object that the kernel has a hook for, over pinned maps or over maps of its own. `globals`: what is known beside the
/// running kernel's offsets.
pub(super) fn load_object(pins: Option<&Pins>, globals: &[(&'static str, u64)]) -> Result<Ebpf, Error> {
    let refused = |operation: &str, error: &dyn std::error::Error| Error::Refused {
        operation: operation.to_owned(),
        message: chain(error),
    };
    let offsets = btf::offsets()?;
    let namespaces = numbering::namespace_globals(&offsets)?;
    let globals: Vec<(&str, u64)> = offsets
        .globals
        .into_iter()
        .chain(namespaces)
        .chain(globals.iter().copied())
        .collect();
    let mut loader = EbpfLoader::new();
    for (pins, map) in pins
        .iter()
        .flat_map(|pins| PINNED.iter().map(move |map| (pins, map)))
    {
        loader.map_pin_path(map, pins.maps.join(map));
    }
    for (global, value) in &globals {
        loader.override_global(global, value, true);
    }
    let mut ebpf = loader
        .load(OBJECT)
        .map_err(|error| refused("loading the kernel programs", &error))?;
    let btf =
        Btf::from_sys_fs().map_err(|error| refused("reading the kernel's description of itself", &error))?;
    let Features { tcx, lsm } = Features::ask()?;
    for (name, program) in ebpf.programs_mut() {
        // They could hang nowhere else, and an older kernel need not take what they do.
        if matches!(program, Program::SchedClassifier(_)) && !tcx {
            continue;
        }
        // Nothing of the enforcement depends on them: what is not loaded is not attached, which status tells.
        if matches!(program, Program::Lsm(_)) {
            if lsm && let Err(error) = load_lsm(name, program, &btf) {
                tracing::warn!("the kernel program `{name}` was not loaded: {}", chain(&error));
            }
            continue;
        }
        if TELLING.contains(&name) {
            continue;
        }
        load_program(program, &btf)
            .map_err(|error| refused(&format!("loading the kernel program `{name}`"), &error))?;
    }
    if let Err(first) = load_iterator(&mut ebpf, SESSIONS, "tcp", &btf)
        && let Err(second) = load_iterator(&mut ebpf, JUDGED, "bpf_sk_storage_map", &btf)
    {
        tracing::warn!(
            "degraded: this kernel takes neither program that finds idle sessions, which end at their next packet: \
             {first}; {second}"
        );
    }
    if let Err(error) = load_iterator(&mut ebpf, LIVING, "tcp", &btf) {
        tracing::debug!("`segd apply --dry-run` cannot list sessions: {error}");
    }
    if let Err(error) = load_iterator(&mut ebpf, FOREIGN, "task_file", &btf) {
        tracing::debug!("`segd flows --foreign` cannot list sockets: {error}");
    }
    Ok(ebpf)
}

/// Loads one of the programs of which a kernel need take only one.
fn load_iterator(ebpf: &mut Ebpf, name: &str, target: &str, btf: &Btf) -> Result<(), String> {
    let program = ebpf.program_mut(name).ok_or("it is not in the object")?;
    <&mut Iter>::try_from(program)
        .and_then(|program| program.load(target, btf))
        .map_err(|error| chain(&error))
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

/// What the names of LSM programs begin with; what follows is the hook.
pub(super) const LSM: &str = "segd_lsm_";

fn load_lsm(name: &str, program: &mut Program, btf: &Btf) -> Result<(), aya::programs::ProgramError> {
    let hook = name.strip_prefix(LSM).unwrap_or(name);
    <&mut Lsm>::try_from(program)?.load(hook, btf)
}

fn load_program(program: &mut Program, btf: &Btf) -> Result<(), aya::programs::ProgramError> {
    match program {
        Program::CgroupSkb(_) => <&mut CgroupSkb>::try_from(program)?.load(),
        Program::CgroupSockAddr(_) => <&mut CgroupSockAddr>::try_from(program)?.load(),
        Program::SockOps(_) => <&mut SockOps>::try_from(program)?.load(),
        Program::SchedClassifier(_) => <&mut SchedClassifier>::try_from(program)?.load(),
        Program::Xdp(_) => <&mut Xdp>::try_from(program)?.load(),
        Program::RawTracePoint(_) => <&mut RawTracePoint>::try_from(program)?.load(),
        Program::Iter(_) => <&mut Iter>::try_from(program)?.load("task", btf),
        _ => Ok(()),
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
        let tcx = super::feature::takes_tcx().unwrap();
        let loaded = loaded.unwrap().loaded.programs;
        // What there is; the verifier is not asked again, which takes minutes under emulation.
        let listed = aya::Ebpf::load(super::OBJECT).unwrap();
        for (name, program) in listed.programs() {
            if super::TELLING.contains(&name) && !loaded.contains_key(name) {
                eprintln!("{name}: the other one is loaded, or this kernel does not take it");
                continue;
            }
            if matches!(program, super::Program::Lsm(_)) && !matches!(super::feature::takes_lsm(), Ok(true)) {
                eprintln!("{name}: this kernel takes no LSM programs");
                continue;
            }
            if matches!(program, super::Program::SchedClassifier(_)) && !tcx {
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
