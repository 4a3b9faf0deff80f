//! The kernel programs' own diagnostics: records of `aya-log-ebpf` in a ring, put into the daemon's log.
//!
//! `aya-log` takes the ring from an object that it saw loaded; here the programs may be an earlier daemon's.

use std::{
    os::fd::{AsRawFd, RawFd},
    time::{Duration, Instant},
};

use aya::maps::{MapData, RingBuf};
use aya_log_common::{ArgumentKind, Level, RecordFieldKind};

/// The ring's map.
pub(super) const RING: &str = "AYA_LOGS";

/// Lines that are written within [`STRETCH`]: a full table is worth one for each workload that makes a cgroup, and no more.
const LINES: u32 = 10;
const STRETCH: Duration = Duration::from_secs(10);
/// Records that are read in one go, so that whoever makes them without end does not keep the loop.
const RECORDS: u32 = 64;

/// The ring, read by whoever waits for it to be readable.
pub struct KernelLog {
    ring: RingBuf<MapData>,
    limit: Limit,
}

/// How much may be written.
#[derive(Debug, Default)]
struct Limit {
    /// Since when lines are counted.
    since: Option<Instant>,
    written: u32,
    left_out: u64,
}

impl Limit {
    /// Whether to write a line: `Some` with how many were left out before.
    fn offer(&mut self, now: Instant) -> Option<u64> {
        let is_over = |since: Instant| now.saturating_duration_since(since) >= STRETCH;
        if self.since.is_none_or(is_over) {
            (self.since, self.written) = (Some(now), 0);
        }
        if self.written >= LINES {
            self.left_out += 1;
            return None;
        }
        self.written += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

impl AsRawFd for KernelLog {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

impl KernelLog {
    /// Reads a ring.
    pub(super) fn new(ring: RingBuf<MapData>) -> KernelLog {
        KernelLog {
            ring,
            limit: Limit::default(),
        }
    }

    /// Logs what the programs wrote since, as far as it is not too much. Whether that is all there is.
    pub fn flush(&mut self) -> bool {
        for _ in 0..RECORDS {
            let Some(record) = self.ring.next() else {
                return true;
            };
            let Some(left_out) = self.limit.offer(Instant::now()) else {
                continue;
            };
            if left_out > 0 {
                tracing::warn!("{left_out} more lines of the kernel programs were left out");
            }
            match decode(&record) {
                Some((level, message)) if level == u8::from(Level::Error) => tracing::error!("{message}"),
                Some((level, message)) if level == u8::from(Level::Warn) => tracing::warn!("{message}"),
                Some((level, message)) if level == u8::from(Level::Info) => tracing::info!("{message}"),
                Some((_, message)) => tracing::debug!("{message}"),
                None => tracing::debug!("a record of the kernel programs' log cannot be read"),
            }
        }
        false
    }
}

/// One field: its kind, its value, and what follows.
fn field(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (kind, rest) = bytes.split_first()?;
    let (len, rest) = rest.split_first_chunk::<2>()?;
    let (value, rest) = rest.split_at_checked(u16::from_ne_bytes(*len).into())?;
    Some((*kind, value, rest))
}

/// A record's level and its message.
fn decode(record: &[u8]) -> Option<(u8, String)> {
    let (size, _) = record.split_first_chunk::<2>()?;
    let mut rest = record.get(2..u16::from_ne_bytes(*size).into())?;
    let (mut level, mut arguments) = (None, None);
    // The head ends with how many arguments follow.
    while arguments.is_none() {
        let (kind, value, next) = field(rest)?;
        rest = next;
        if kind == u8::from(RecordFieldKind::Level) {
            level = value.first().copied();
        } else if kind == u8::from(RecordFieldKind::NumArgs) {
            arguments = Some(u32::from_ne_bytes(value.try_into().ok()?));
        }
    }
    let mut message = String::new();
    for _ in 0..arguments? {
        let (kind, value, next) = field(rest)?;
        rest = next;
        if kind == u8::from(ArgumentKind::Str) {
            message.push_str(&String::from_utf8_lossy(value));
        } else if kind != u8::from(ArgumentKind::DisplayHint) {
            message.push_str(&number(kind, value));
        }
    }
    Some((level?, message))
}

/// An unsigned number in decimal, and anything else that the programs do not write as its bytes.
fn number(kind: u8, value: &[u8]) -> String {
    let unsigned = [
        ArgumentKind::U8,
        ArgumentKind::U16,
        ArgumentKind::U32,
        ArgumentKind::U64,
        ArgumentKind::Usize,
    ];
    let mut bytes = [0; 8];
    match bytes.get_mut(..value.len()) {
        Some(low) if unsigned.into_iter().any(|known| u8::from(known) == kind) => {
            // The kernel programs of segd are little-endian (`bpfel`).
            low.copy_from_slice(value);
            u64::from_le_bytes(bytes).to_string()
        }
        _ => format!("{value:02x?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(record: &mut Vec<u8>, kind: impl Into<u8>, value: &[u8]) {
        record.push(kind.into());
        record.extend((value.len() as u16).to_ne_bytes());
        record.extend(value);
    }

    fn record() -> Vec<u8> {
        let mut record = vec![0, 0];
        put(&mut record, RecordFieldKind::Target, b"segd_ebpf");
        put(&mut record, RecordFieldKind::Level, &[Level::Warn.into()]);
        put(&mut record, RecordFieldKind::Module, b"segd::birth");
        put(&mut record, RecordFieldKind::File, b"birth.rs");
        put(&mut record, RecordFieldKind::Line, &155_u32.to_ne_bytes());
        put(&mut record, RecordFieldKind::NumArgs, &4_u32.to_ne_bytes());
        put(&mut record, ArgumentKind::Str, b"cgroup ");
        put(&mut record, ArgumentKind::DisplayHint, &[0]);
        put(&mut record, ArgumentKind::U64, &70_000_u64.to_ne_bytes());
        put(&mut record, ArgumentKind::Str, b" is denied");
        let size = record.len() as u16;
        record[..2].copy_from_slice(&size.to_ne_bytes());
        record
    }

    #[test]
    fn a_record_is_a_level_and_a_sentence() {
        let mut written = record();
        // The ring rounds up.
        written.extend([0xff; 5]);
        let told = decode(&written).expect("a record");
        assert_eq!(told, (Level::Warn.into(), "cgroup 70000 is denied".to_owned()));
    }

    #[test]
    fn a_record_that_was_cut_is_none() {
        let whole = record();
        for len in 0..whole.len() {
            assert_eq!(decode(&whole[..len]), None, "{len}");
        }
    }

    #[test]
    fn a_flood_of_records_is_a_few_lines_and_a_number() {
        let start = Instant::now();
        let mut limit = Limit::default();
        let mut written = |now, count| (0..count).filter_map(|_| limit.offer(now)).collect::<Vec<u64>>();
        assert_eq!(written(start, 1000).len(), LINES as usize);
        assert_eq!(written(start + STRETCH / 2, 10), [0; 0]);
        assert_eq!(written(start + STRETCH, 2), [1000, 0]);
    }
}
