//! What people see of each answer.

use super::table::{clean, columns};
use crate::control::types::{
    Applied, Explanation, FlowRecord, ForeignRow, MapUse, SegmentRow, Status, Trial, WorkloadRow,
};

/// Something that can be printed for people.
pub trait Table: serde::Serialize {
    /// The text, with its last newline.
    fn table(&self) -> String;
}

impl Table for Status {
    fn table(&self) -> String {
        let enforcing = match &self.not_enforcing_because {
            None if self.enforcing => "yes".to_string(),
            None => "no".to_string(),
            Some(reason) => format!("no: {reason}"),
        };
        let reload = match &self.last_reload {
            None => "-".to_string(),
            Some(reload) => match &reload.error {
                None => format!("{} at {}", reload.result, reload.time),
                Some(error) => format!("{} at {}: {error}", reload.result, reload.time),
            },
        };
        let mut text = String::new();
        for (name, value) in [
            ("Enforcing", enforcing),
            ("Mode", self.mode.to_string()),
            ("Revision", self.revision.to_string()),
            (
                "Trial",
                self.trial.as_ref().map_or_else(|| "none".to_owned(), trial),
            ),
            ("Policy", self.policy_paths.join(", ")),
            ("Source", self.policy_source.to_string()),
            ("Commit", commit(self)),
            ("Signature", signature(self)),
            ("Policy hash", self.policy_hash.clone()),
            ("Last reload", reload),
            ("Segments", self.segments.to_string()),
            ("Workloads", self.workloads.to_string()),
            (
                "Namespaces",
                format!(
                    "{} kept for segments whose workloads have left",
                    self.left_namespaces
                ),
            ),
            ("Events lost", self.events_lost.to_string()),
            ("Node", self.node.clone()),
            (
                "Daemon",
                format!("segd {}, pid {}, since {}", self.version, self.pid, self.started),
            ),
        ] {
            let value = if value.is_empty() { "-" } else { &value };
            text.push_str(&format!("{:<13}{}\n", format!("{name}:"), clean(value)));
        }
        for expiry in &self.expiries {
            let when = match (expiry.next.as_str(), expiry.seconds_left) {
                (next, left @ 1..) => format!("{next} in {left} s"),
                (next, _) => next.to_owned(),
            };
            let line = format!("{} at {}: {when}, {}", expiry.rule, expiry.location, expiry.until);
            text.push_str(&format!("{:<13}{}\n", "Expiry:", clean(&line)));
        }
        for warning in &self.warnings {
            text.push_str(&format!("{:<13}{}\n", "Warning:", clean(warning)));
        }
        if !self.programs.is_empty() {
            let rows: Vec<_> = self
                .programs
                .iter()
                .map(|program| {
                    vec![
                        program.hook.clone(),
                        if program.attached { "attached" } else { "MISSING" }.to_string(),
                        program.link_id.map(|id| id.to_string()).unwrap_or_default(),
                        program.note.clone().unwrap_or_default(),
                    ]
                })
                .collect();
            text.push('\n');
            text.push_str(&columns(&["PROGRAM", "STATE", "LINK", "NOTE"], &rows));
        }
        if !self.maps.is_empty() {
            let rows: Vec<_> = self.maps.iter().map(map_row).collect();
            text.push('\n');
            text.push_str(&columns(&["MAP", "ENTRIES", "CAPACITY", "USED"], &rows));
        }
        text
    }
}

fn commit(status: &Status) -> String {
    let mut text = status.policy_commit.clone().unwrap_or_default();
    if status.policy_dirty == Some(true) {
        text.push_str(", and changes that are not committed");
    }
    if status.policy_commit_by.as_deref() == Some("client") {
        text.push_str(" (says whoever applied it)");
    }
    text
}

fn signature(status: &Status) -> String {
    match (status.policy_serial, &status.policy_signer) {
        (Some(serial), Some(signer)) => format!("serial {serial}, by {signer}"),
        _ => "not required".to_owned(),
    }
}

fn trial(trial: &Trial) -> String {
    let mut text = format!(
        "revision {} for another {} s, until {}; then revision {} is back unless it is confirmed",
        trial.revision, trial.seconds_left, trial.until, trial.before
    );
    if trial.files_wait {
        text.push_str("; the policy files changed and wait");
    }
    text
}

impl Table for Applied {
    fn table(&self) -> String {
        let mut text = match &self.trial {
            Some(trial) => format!(
                "revision {} is on trial for {} s: revision {} is back then unless `segd confirm` comes\n",
                trial.revision, trial.seconds_left, trial.before
            ),
            None => format!(
                "revision {} is in force; before it was revision {}\n",
                self.revision, self.before
            ),
        };
        if self.differs_from_files && self.trial.is_none() {
            text.push_str("the files that segd follows say something else: when they change, they win\n");
        }
        text
    }
}

fn map_row(map: &MapUse) -> Vec<String> {
    let used = map.entries.saturating_mul(100).checked_div(map.capacity);
    vec![
        map.name.clone(),
        map.entries.to_string(),
        map.capacity.to_string(),
        used.map(|percent| format!("{percent}%")).unwrap_or_default(),
    ]
}

impl Table for Vec<SegmentRow> {
    fn table(&self) -> String {
        let rows: Vec<_> = self
            .iter()
            .map(|row| {
                let labels: Vec<_> = row
                    .labels
                    .iter()
                    .map(|(key, value)| format!("{key}={value}"))
                    .collect();
                vec![
                    row.name.clone(),
                    row.id.clone(),
                    row.mode.to_string(),
                    row.intra.to_string(),
                    row.workloads.to_string(),
                    row.addresses.join(","),
                    labels.join(","),
                    row.location.clone(),
                ]
            })
            .collect();
        columns(
            &[
                "SEGMENT",
                "ID",
                "MODE",
                "INTRA",
                "WORKLOADS",
                "ADDRESSES",
                "LABELS",
                "DEFINED",
            ],
            &rows,
        )
    }
}

impl Table for Vec<WorkloadRow> {
    fn table(&self) -> String {
        let rows: Vec<_> = self
            .iter()
            .map(|row| {
                let because = match (&row.selector, &row.inherited_from) {
                    (Some(selector), None) => selector.clone(),
                    (Some(selector), Some(above)) => format!("{selector} (from {above})"),
                    (None, Some(above)) => format!("from {above}"),
                    (None, None) => String::new(),
                };
                vec![
                    row.cgroup.clone(),
                    row.id.to_string(),
                    row.segment.clone(),
                    row.state.to_string(),
                    because,
                    row.location.clone().unwrap_or_default(),
                ]
            })
            .collect();
        columns(
            &["CGROUP", "ID", "SEGMENT", "STATE", "SELECTOR", "DEFINED"],
            &rows,
        )
    }
}

impl Table for Vec<ForeignRow> {
    fn table(&self) -> String {
        let rows: Vec<_> = self
            .iter()
            .map(|row| {
                vec![
                    row.segment.clone(),
                    row.holder_segment.clone(),
                    row.holder_pid.to_string(),
                    row.protocol.to_string(),
                    endpoint(&row.address, Some(row.port)),
                    endpoint(row.peer.as_deref().unwrap_or(""), row.peer_port),
                    row.cgroup.clone(),
                    row.holder_cgroup.clone(),
                ]
            })
            .collect();
        columns(
            &[
                "SEGMENT",
                "HELD BY",
                "PID",
                "PROTOCOL",
                "LOCAL",
                "PEER",
                "CGROUP",
                "HOLDER'S CGROUP",
            ],
            &rows,
        )
    }
}

impl Table for FlowRecord {
    /// One line, so that a stream of flows needs no column widths.
    fn table(&self) -> String {
        let mut line = format!(
            "{}  {:<7}  {} -> {}  {}  {} -> {}  {}",
            self.time,
            self.verdict,
            self.from,
            self.to,
            self.service(),
            endpoint(&self.source, self.source_port),
            endpoint(&self.destination, self.destination_port),
            self.reason,
        );
        if let Some(rule) = &self.rule {
            line.push_str(&format!("  {rule}"));
        }
        if let Some(location) = &self.location {
            line.push_str(&format!(" ({location})"));
        }
        if self.revoked {
            line.push_str("  session revoked");
        }
        let mut line = clean(&line).into_owned();
        line.push('\n');
        line
    }
}

impl FlowRecord {
    /// What happened in one sentence, for the log. Safe on a terminal.
    #[must_use]
    pub fn sentence(&self) -> String {
        let mut line = format!(
            "{} {} -> {} {} ({} -> {}): {}",
            self.verdict,
            self.from,
            self.to,
            self.service(),
            endpoint(&self.source, self.source_port),
            endpoint(&self.destination, self.destination_port),
            self.reason,
        );
        if let Some(location) = &self.location {
            line.push_str(&format!(" at {location}"));
        }
        if self.revoked {
            line.push_str(", session revoked");
        }
        if let Some(cgroup) = &self.cgroup {
            line.push_str(&format!(", cgroup {cgroup}"));
        }
        clean(&line).into_owned()
    }

    /// The service as a policy writes it: `tcp/5432`, `icmp/8/0`, `ip/47`.
    #[must_use]
    pub fn service(&self) -> String {
        match (self.destination_port, self.icmp_type, self.icmp_code) {
            (Some(port), _, _) => format!("{}/{port}", self.protocol),
            (None, Some(kind), Some(code)) => format!("{}/{kind}/{code}", self.protocol),
            _ => self.protocol.to_string(),
        }
    }
}

/// An address with its port, as URLs write it.
pub fn endpoint(address: &str, port: Option<u16>) -> String {
    match port {
        _ if address.is_empty() => "-".to_string(),
        Some(port) if address.contains(':') => format!("[{address}]:{port}"),
        Some(port) => format!("{address}:{port}"),
        None => address.to_string(),
    }
}

impl Table for Explanation {
    fn table(&self) -> String {
        let mut line = format!(
            "{}: {} -> {} {}: {}",
            self.verdict, self.from, self.to, self.port, self.reason
        );
        if let Some(rule) = &self.rule {
            line.push_str(&format!(": {rule}"));
        }
        if let Some(location) = &self.location {
            line.push_str(&format!(" at {location}"));
        }
        if let Some(revision) = self.revision {
            line.push_str(&format!(" (revision {revision})"));
        }
        let mut line = clean(&line).into_owned();
        line.push('\n');
        line
    }
}
