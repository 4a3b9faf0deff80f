//! Every map of the datapath. All are pinned by the daemon and outlive it.

use core::ptr;

use aya_ebpf::{
    bindings::bpf_map_type,
    btf_maps::{ArrayOfMaps, SkStorage},
    helpers::bpf_map_lookup_elem,
    macros::{btf_map, map},
    maps::{Array, HashMap, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf},
};
use segd_common::{
    address::{Link, Local, MAX_LINKS, MAX_LOCALS, MAX_NAMESPACES, MAX_SOURCES, Namespace, Source},
    config::{Active, Trial},
    counter::{Counter, CounterKey, MAX_COUNTERS, MAX_TALLIES, Tally, stat},
    event::MAX_RING_BYTES,
    flow::{Exchanges, Flow, FlowKey, Handover, HandoverKey, MAX_FLOWS, MAX_HANDOVERS, SocketState},
    fragment::{FragmentEntry, FragmentKey, MAX_FRAGMENTS},
    kept::KeptAll,
    lsm::{Guard, MAX_GUARDED},
    segment::MAX_SEGMENTS,
    tables::{Line, PolicyTables},
    workload::{CgroupEntry, Edge, EdgeKey, MAX_CGROUPS, MAX_EDGES, UnitPatterns},
};

const BPF_F_NO_PREALLOC: u32 = 1;
/// The daemon writes such a map in place, without a copy through the kernel's allocator.
const BPF_F_MMAPABLE: u32 = 1 << 10;
/// In a map of maps, such a map may have any number of elements.
const BPF_F_INNER_MAP: u32 = 1 << 12;

/// Which revision, in which slot.
#[map]
pub static ACTIVE: Array<Active> = Array::with_max_entries(1, 0);
/// Until when, if the revision in force is on trial, and what comes back then.
#[map]
pub static TRIAL: Array<Trial> = Array::with_max_entries(1, 0);
/// The policy, by slot.
#[map]
pub static POLICY: Array<PolicyTables> = Array::with_max_entries(2, BPF_F_MMAPABLE);
/// Its lines, by slot: as many as it needs.
#[btf_map]
pub static LINES: ArrayOfMaps<LineArray, 2> = ArrayOfMaps::new();

/// The arrays in [`LINES`]. The daemon makes them, as long as they have to be.
// By sizes and not by types: before Linux 6.2 an array takes the place of another only if the types of both are described, or of
// neither (`timer_off` in `bpf_map_meta_equal`), and the daemon describes none.
#[repr(C)]
pub struct LineArray {
    r#type: *const [i32; bpf_map_type::BPF_MAP_TYPE_ARRAY as usize],
    key_size: *const [i32; size_of::<u32>()],
    value_size: *const [i32; size_of::<Line>()],
    max_entries: *const [i32; 1],
    map_flags: *const [i32; (BPF_F_MMAPABLE | BPF_F_INNER_MAP) as usize],
}

/// A line of a slot.
#[inline(always)]
pub fn line(slot: u32, index: u32) -> Option<*mut Line> {
    let array = ptr::from_ref(LINES.get(slot)?).cast_mut();
    // SAFETY: an array that the kernel holds, with keys of this size.
    let line = unsafe { bpf_map_lookup_elem(array.cast(), (&raw const index).cast()) };
    if line.is_null() { None } else { Some(line.cast()) }
}

/// Workloads by cgroup id.
#[map]
pub static CGROUPS: HashMap<u64, CgroupEntry> = HashMap::with_max_entries(MAX_CGROUPS, BPF_F_NO_PREALLOC);
/// Literal selectors, both slots.
#[map]
pub static EDGES: HashMap<EdgeKey, Edge> = HashMap::with_max_entries(2 * MAX_EDGES, BPF_F_NO_PREALLOC);
/// `prefix*suffix` unit selectors, by slot.
#[map]
pub static UNIT_PATTERNS: Array<UnitPatterns> = Array::with_max_entries(2, 0);

/// This host's addresses, those of its namespaces included.
#[map]
pub static LOCALS: HashMap<[u8; 16], Local> = HashMap::with_max_entries(MAX_LOCALS, BPF_F_NO_PREALLOC);
/// Who lives in which network namespace, by cookie.
#[map]
pub static NAMESPACES: HashMap<u64, Namespace> = HashMap::with_max_entries(MAX_NAMESPACES, BPF_F_NO_PREALLOC);

/// A number that is another one whenever `LOCALS` or `NAMESPACES` have changed.
#[map]
pub static PLACES: Array<u64> = Array::with_max_entries(1, 0);

/// Links of other namespaces, by the index of the host's end.
#[map]
pub static LINKS: HashMap<u32, Link> = HashMap::with_max_entries(MAX_LINKS, BPF_F_NO_PREALLOC);
/// Which sources may come out of which link.
#[map]
pub static SOURCES: HashMap<Source, u32> = HashMap::with_max_entries(MAX_SOURCES, BPF_F_NO_PREALLOC);
/// Not 0 once a frame came round loopback with its mark. Belongs to one load, not pinned.
#[map]
pub static LOOPBACK_SEEN: Array<u64> = Array::with_max_entries(1, 0);

/// Who sent what is on its way between two sockets of this host.
#[map]
pub static HANDOVERS: LruHashMap<HandoverKey, Handover> = LruHashMap::with_max_entries(MAX_HANDOVERS, 0);
/// Exchanges without a connection, on the socket.
#[btf_map]
pub static EXCHANGES: SkStorage<Exchanges> = SkStorage::new();
/// What datagrams like it were judged, on the socket.
#[btf_map]
pub static KEPT: SkStorage<KeptAll> = SkStorage::new();
/// Those that found no room on their socket.
#[map]
pub static FLOWS: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(MAX_FLOWS, 0);
/// Datagrams that come in by a NIC in fragments. Belongs to one load, not pinned.
#[map]
pub static FRAGMENTS: LruHashMap<FragmentKey, FragmentEntry> = LruHashMap::with_max_entries(MAX_FRAGMENTS, 0);
/// What a TCP socket remembers.
#[btf_map]
pub static SOCKETS: SkStorage<SocketState> = SkStorage::new();

/// Exact counters.
#[map]
pub static COUNTERS: PerCpuHashMap<CounterKey, Counter> =
    PerCpuHashMap::with_max_entries(MAX_COUNTERS, BPF_F_NO_PREALLOC);
/// Whose each of `TALLIES` is.
#[map]
pub static TALLY_KEYS: HashMap<u32, CounterKey> = HashMap::with_max_entries(MAX_TALLIES, BPF_F_NO_PREALLOC);
/// What is counted beside `COUNTERS`.
#[map]
pub static TALLIES: PerCpuArray<Tally> = PerCpuArray::with_max_entries(MAX_TALLIES, 0);
/// What did not fit into `COUNTERS`.
#[map]
pub static COUNTERS_OTHER: PerCpuArray<Counter> = PerCpuArray::with_max_entries(3, 0);
/// Plain counts, see `segd_common::counter::stat`.
#[map]
pub static STATS: PerCpuArray<u64> = PerCpuArray::with_max_entries(stat::COUNT, 0);
/// Flow events for the daemon, which makes it smaller where there are few CPUs.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(MAX_RING_BYTES, 0);

/// One window of the event limiter.
#[repr(C)]
pub struct Window {
    /// When it began.
    pub start_ns: u64,
    /// Events in it.
    pub events: u32,
    /// Those that woke the daemon.
    pub woke: u32,
}

/// The clock, per CPU.
#[map]
pub static CLOCK: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// The event limiter, per CPU. Only events are limited, never counters.
#[map]
pub static EVENT_WINDOW: PerCpuArray<Window> = PerCpuArray::with_max_entries(1, 0);

/// Not 0 once a newborn cgroup did not fit into `CGROUPS`.
#[map]
pub static CGROUPS_FULL: Array<u64> = Array::with_max_entries(1, 0);

/// Room for one birth. Belongs to one load, not pinned.
#[map]
pub static BIRTH: Array<crate::birth::Scratch> = Array::with_max_entries(1, 0);

/// Whose things are guarded. Belongs to one load, not pinned.
#[map]
pub static GUARD: Array<Guard> = Array::with_max_entries(1, 0);
/// Which maps and programs those are. Belongs to one load, not pinned.
#[map]
pub static GUARDED: HashMap<u64, u32> = HashMap::with_max_entries(MAX_GUARDED, 0);

/// Which segment has which index, for the next daemon. The programs do not read it.
#[map]
pub static NAMES: HashMap<u32, [u8; 64]> = HashMap::with_max_entries(MAX_SEGMENTS as u32, BPF_F_NO_PREALLOC);
