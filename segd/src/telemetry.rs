//! What people and dashboards see of the packets: flows, counters, the denial log.
//!
//! Data flows in only: nothing here can change a verdict. Counters are exact; the log and the flow ring are not.

pub mod clock;
pub mod denials;
pub mod flows;
pub mod hits;
pub mod usage;
pub mod http;
pub mod metrics;
pub mod names;
pub mod snapshot;
