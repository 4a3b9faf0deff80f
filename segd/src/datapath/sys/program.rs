//! Programs: loading one that does nothing, hanging one on what takes no attach type, those on a hook as the kernel lists
//! them, their maps and names.

use std::{
    ffi::CString,
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use super::{InfoByFd, bpf, bpf_fd};

#[repr(C)]
struct ProgramLoad {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
}

/// Loads a program of a `bpf_prog_type` that does nothing but return 1.
pub fn load_trivial(kind: u32) -> io::Result<OwnedFd> {
    // r0 = 1; exit
    const CODE: [u64; 2] = [1 << 32 | 0xb7, 0x95];
    let mut attr = ProgramLoad {
        kind,
        instructions: CODE.len() as u32,
        code: CODE.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
    };
    // SAFETY: the code and the license are live statics.
    unsafe { bpf_fd(5, &mut attr) }
}

#[repr(C)]
struct LsmLoad {
    common: ProgramLoad,
    // From the log to the interface.
    unused: [u64; 5],
    interface: u32,
    attach_type: u32,
    // Of the program's own types.
    types: [u64; 4],
    lines: u32,
    hook: u32,
}

const _: () = assert!(std::mem::offset_of!(LsmLoad, attach_type) == 68);
const _: () = assert!(std::mem::offset_of!(LsmLoad, hook) == 108);

/// Loads a program that does nothing in the place of a function of the kernel's security modules, by its type's number.
pub fn load_lsm(hook: u32) -> io::Result<OwnedFd> {
    const LSM: u32 = 29;
    const LSM_MAC: u32 = 27;
    // r0 = 0; exit
    const CODE: [u64; 2] = [0xb7, 0x95];
    let mut attr = LsmLoad {
        common: ProgramLoad {
            kind: LSM,
            instructions: CODE.len() as u32,
            code: CODE.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
        },
        unused: [0; 5],
        interface: 0,
        attach_type: LSM_MAC,
        types: [0; 4],
        lines: 0,
        hook,
    };
    // SAFETY: the code and the license are live statics.
    unsafe { bpf_fd(5, &mut attr) }
}

#[repr(C)]
struct RawTracepoint {
    name: u64,
    program: u32,
    padding: u32,
}

/// Attaches a program to a raw tracepoint.
pub fn raw_tracepoint(name: &str, program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let name = CString::new(name).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut attr = RawTracepoint {
        name: name.as_ptr() as u64,
        program: program.as_raw_fd() as u32,
        padding: 0,
    };
    // SAFETY: the name is a live C string.
    unsafe { bpf_fd(17, &mut attr) }
}

/// Attaches a program to the LSM hook that it was loaded for.
pub fn link_lsm(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attr = RawTracepoint {
        name: 0,
        program: program.as_raw_fd() as u32,
        padding: 0,
    };
    // SAFETY: no pointers.
    unsafe { bpf_fd(17, &mut attr) }
}

#[repr(C)]
struct ProgramQuery {
    target: u32,
    attach_type: u32,
    flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
}

/// In the flags of a hook: others may attach beside (`BPF_F_ALLOW_MULTI`).
pub const ALLOW_MULTI: u32 = 2;

/// The ids of the programs on a cgroup's hook, and the flags it was attached to with.
pub fn programs_on(cgroup: u32, attach_type: u32) -> io::Result<(Vec<u32>, u32)> {
    // The kernel allows so many (`BPF_CGROUP_MAX_PROGS`).
    let mut ids = [0_u32; 64];
    let mut attr = ProgramQuery {
        target: cgroup,
        attach_type,
        flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr() as u64,
        count: ids.len() as u32,
        padding: 0,
    };
    // SAFETY: the ids are live and as many as said.
    unsafe { bpf(16, &mut attr) }?;
    let ids = ids.iter().take(attr.count as usize).copied().collect();
    Ok((ids, attr.attach_flags))
}

/// The start of `struct bpf_prog_info`.
#[repr(C)]
struct ProgramInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    lengths: [u32; 2],
    codes: [u64; 2],
    loaded: u64,
    user: u32,
    maps: u32,
    map_ids: u64,
    name: [u8; 16],
}

impl ProgramInfo {
    /// What the kernel says of a program, and the ids of as many of its maps as `ids` has room for.
    fn of(program: BorrowedFd<'_>, ids: &mut [u32]) -> io::Result<ProgramInfo> {
        // SAFETY: integers only; zero is valid.
        let mut info: ProgramInfo = unsafe { std::mem::zeroed() };
        info.maps = ids.len() as u32;
        info.map_ids = ids.as_mut_ptr() as u64;
        let mut attr = InfoByFd {
            fd: program.as_raw_fd() as u32,
            len: size_of::<ProgramInfo>() as u32,
            info: (&raw mut info) as u64,
        };
        // SAFETY: the info is a live value of the length given, and so are the ids.
        unsafe { bpf(15, &mut attr) }?;
        Ok(info)
    }
}

/// What tells a loaded program from every other one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedProgram {
    /// `BPF_PROG_TYPE_`.
    pub kind: u32,
    /// The kernel's number of it, given once.
    pub id: u32,
    /// A hash of its instructions, the kernel's own.
    pub tag: [u8; 8],
    /// The ids of the maps that it uses.
    pub maps: Vec<u32>,
}

/// What the kernel says of a program; an error if the descriptor is no program's.
pub fn loaded_program(program: BorrowedFd<'_>) -> io::Result<LoadedProgram> {
    super::info::only(program, "bpf-prog")?;
    // A program may use as many (`MAX_USED_MAPS`).
    let mut ids = [0; 64];
    let info = ProgramInfo::of(program, &mut ids)?;
    Ok(LoadedProgram {
        kind: info.kind,
        id: info.id,
        tag: info.tag,
        maps: ids.into_iter().take(info.maps as usize).collect(),
    })
}

/// The ids of the maps that a program uses.
pub fn maps_of(program: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    loaded_program(program).map(|program| program.maps)
}

/// The name of a program by its id. Needs CAP_SYS_ADMIN.
pub fn program_name(id: u32) -> io::Result<String> {
    let mut by_id = [id, 0, 0];
    // SAFETY: no pointers.
    let program = unsafe { bpf_fd(13, &mut by_id) }?;
    let info = ProgramInfo::of(program.as_fd(), &mut [])?;
    let name: Vec<u8> = info.name.into_iter().take_while(|byte| *byte != 0).collect();
    Ok(String::from_utf8_lossy(&name).into_owned())
}
