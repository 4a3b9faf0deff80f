//! `aya::Pod` for everything that crosses the map boundary.

use crate::{address, config, counter, event, flow, fragment, lsm, tables, workload};

macro_rules! pod {
    ($($ty:ty),* $(,)?) => {
        $(
            // SAFETY: `repr(C)`, `Copy`, integers only, no implicit padding (sizes are asserted beside each type).
            unsafe impl aya::Pod for $ty {}
        )*
    };
}

pod! {
    address::Local, address::Namespace, address::Link, address::Source,
    config::Active, config::Trial,
    counter::CounterKey, counter::Counter, counter::Tally,
    event::FlowEvent,
    flow::Handover, flow::HandoverKey, flow::FlowKey, flow::Flow, flow::SocketState,
    fragment::FragmentKey, fragment::FragmentEntry,
    lsm::Guard,
    tables::Cell, tables::Line, tables::Segment, tables::Shape,
    workload::CgroupSlot, workload::CgroupEntry, workload::EdgeKey, workload::Edge, workload::UnitPattern,
}
