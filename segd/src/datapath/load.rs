//! The object's programs, handed to the kernel: which of them, over which maps, with what is known of the running kernel.
//!
//! The verifier works on one program at a time, and three of them are most of its work: they are verified side by side.

use std::{
    cmp::Reverse,
    num::NonZero,
    sync::{Mutex, PoisonError},
    thread,
};

use aya::{
    Btf, Ebpf, EbpfLoader,
    programs::{Iter, Program, ProgramError},
};
use segd_common::event::ring_bytes;

use super::{
    Error,
    again::again,
    btf, feature, kernel, numbering,
    object::{OBJECT, PINNED},
    pins::Pins,
};
use crate::report::chain;

/// Walks TCP sockets: where programs that trace may read a socket's storage (Linux 5.11).
pub(super) const SESSIONS: &str = "segd_sessions";
/// Walks the storage of sockets: where they may not. Kernels that are locked down may refuse it.
pub(super) const JUDGED: &str = "segd_judged";

/// Walks TCP sockets for whoever asks what a policy would do.
pub(super) const LIVING: &str = "segd_living";

/// Walks open files, for whoever asks which sockets another segment holds.
pub(super) const FOREIGN: &str = "segd_foreign";

/// The programs of which a kernel may take none: they tell, and nothing is judged by them.
pub(super) const TELLING: [&str; 4] = [SESSIONS, JUDGED, LIVING, FOREIGN];

/// What the names of LSM programs begin with; what follows is the hook.
pub(super) const LSM: &str = "segd_lsm_";

/// What of the object a kernel is given.
#[derive(Clone, Copy, Debug)]
pub(super) struct Features {
    /// Links are judged.
    pub(super) tcx: bool,
    /// Security modules may be programs.
    pub(super) lsm: bool,
}

impl Features {
    pub(super) fn ask() -> Result<Features, Error> {
        Ok(Features {
            tcx: feature::takes_tcx()?,
            // Why it does not, where it does not, is the doctor's business.
            lsm: feature::takes_lsm().unwrap_or(false),
        })
    }

    /// Whether all of that was loaded; the programs that only tell aside, of which each kernel takes always the same.
    pub(super) fn is_complete(self, ebpf: &Ebpf) -> bool {
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

/// Which of the object's programs somebody needs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Chosen<'a> {
    /// Every one that the kernel has a hook for.
    All,
    /// These.
    Only(&'a [&'a str]),
}

impl Chosen<'_> {
    fn has(self, name: &str) -> bool {
        match self {
            Chosen::All => true,
            Chosen::Only(names) => names.contains(&name),
        }
    }
}

/// Loads programs of the object, over pinned maps or over maps of their own. `globals`: what is known beside the running kernel's
/// offsets.
pub(super) fn load(
    pins: Option<&Pins>,
    globals: &[(&'static str, u64)],
    chosen: Chosen<'_>,
) -> Result<Ebpf, Error> {
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
    // A ring that is pinned stays as large as it is.
    loader.map_max_entries("EVENTS", ring_bytes(kernel::possible_cpus()?));
    let mut ebpf = loader
        .load(OBJECT)
        .map_err(|error| refused("loading the kernel programs", &error))?;
    let btf =
        Btf::from_sys_fs().map_err(|error| refused("reading the kernel's description of itself", &error))?;
    let features = Features::ask()?;
    let mut programs: Vec<(&str, &mut Program)> = ebpf
        .programs_mut()
        .filter(|(name, program)| {
            // They could hang nowhere else, and an older kernel need not take what they do.
            let takes = match program {
                Program::SchedClassifier(_) => features.tcx,
                Program::Lsm(_) => features.lsm,
                _ => !TELLING.contains(name),
            };
            takes && chosen.has(name)
        })
        .collect();
    programs.sort_by_key(|(name, _)| {
        Reverse(
            HEAVY
                .iter()
                .position(|heavy| heavy == name)
                .unwrap_or(HEAVY.len()),
        )
    });
    side_by_side(programs, &btf)?;
    if matches!(chosen, Chosen::All) {
        load_telling(&mut ebpf, &btf);
    }
    Ok(ebpf)
}

/// What the verifier works longest on, begun first.
const HEAVY: [&str; 3] = ["segd_egress", "segd_link_come_out", "segd_ingress"];

/// Each program is verified on one processor: more than these threads would have nothing to do while the longest takes.
const THREADS: usize = 4;

/// Hands programs to the kernel, the last one first.
fn side_by_side(programs: Vec<(&str, &mut Program)>, btf: &Btf) -> Result<(), Error> {
    let waiting = Mutex::new(programs);
    let work = || {
        loop {
            let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some((name, program)) = next else {
                return Ok(());
            };
            // Nothing of the enforcement depends on one of these: what is not loaded is not attached, which status tells.
            let spared = matches!(program, Program::Lsm(_));
            match again(|| load_program(name, program, btf)) {
                Err(error) if spared => {
                    tracing::warn!("the kernel program `{name}` was not loaded: {}", chain(&error));
                }
                Err(error) => return Err(refused(&format!("loading the kernel program `{name}`"), &error)),
                Ok(()) => {}
            }
        }
    };
    let helpers = thread::available_parallelism()
        .map_or(1, NonZero::get)
        .min(THREADS)
        - 1;
    thread::scope(|scope| {
        // Whoever may have no more threads does it alone.
        let helpers: Vec<_> = (0..helpers)
            .map_while(|_| thread::Builder::new().spawn_scoped(scope, work).ok())
            .collect();
        let mut result = work();
        for helper in helpers {
            match helper.join() {
                Ok(helped) => result = result.and(helped),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        result
    })
}

/// Loads what only tells: of some programs a kernel takes one or none.
fn load_telling(ebpf: &mut Ebpf, btf: &Btf) {
    if let Err(first) = load_iterator(ebpf, SESSIONS, "tcp", btf)
        && let Err(second) = load_iterator(ebpf, JUDGED, "bpf_sk_storage_map", btf)
    {
        tracing::warn!(
            "degraded: this kernel takes neither program that finds idle sessions, which end at their next packet: \
             {first}; {second}"
        );
    }
    if let Err(error) = load_iterator(ebpf, LIVING, "tcp", btf) {
        tracing::debug!("`segd apply --dry-run` cannot list sessions: {error}");
    }
    if let Err(error) = load_iterator(ebpf, FOREIGN, "task_file", btf) {
        tracing::debug!("`segd flows --foreign` cannot list sockets: {error}");
    }
}

/// Loads one of the programs of which a kernel need take only one.
fn load_iterator(ebpf: &mut Ebpf, name: &str, target: &str, btf: &Btf) -> Result<(), String> {
    let program = ebpf.program_mut(name).ok_or("it is not in the object")?;
    <&mut Iter>::try_from(program)
        .and_then(|program| again(|| program.load(target, btf)))
        .map_err(|error| chain(&error))
}

fn load_program(name: &str, program: &mut Program, btf: &Btf) -> Result<(), ProgramError> {
    match program {
        Program::Lsm(program) => program.load(name.strip_prefix(LSM).unwrap_or(name), btf),
        Program::CgroupSkb(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::SockOps(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        Program::Xdp(program) => program.load(),
        Program::RawTracePoint(program) => program.load(),
        Program::Iter(program) => program.load("task", btf),
        _ => Ok(()),
    }
}

fn refused(operation: &str, error: &dyn std::error::Error) -> Error {
    Error::Refused {
        operation: operation.to_owned(),
        message: chain(error),
    }
}
