//! The metrics of the contract (docs/metrics.md), as Prometheus text.
//!
//! INVARIANT: labels come from the policy and from closed lists only; the number of series is bounded, and a
//! series that was once shown stays shown: what does not fit is counted under `other` from its first packet.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt::Write as _,
};

use prometheus::{
    TextEncoder,
    proto::{Counter as PlainCounter, Gauge, LabelPair, Metric, MetricFamily, MetricType},
};
use segd_common::{
    counter::{Counter, CounterKey},
    reason::Reason,
    verdict::Outcome,
};

use super::{flows::family, names, snapshot::Snapshot};

/// How many segment pairs, and how many rules, are told apart unless told otherwise.
pub const MAX_SERIES: usize = 10_000;
/// The label of what does not fit.
const OTHER: &str = "other";

/// Renders snapshots; remembers which pairs and rules it has shown.
#[derive(Debug)]
pub struct Metrics {
    limit: usize,
    pairs: BTreeSet<(String, String)>,
    rules: HashSet<String>,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::with_limit(MAX_SERIES)
    }
}

/// What a series of packets is labelled with.
type Series<'a> = (&'a str, &'a str, &'static str, &'static str);

impl Metrics {
    /// A renderer that tells so many pairs and rules apart.
    #[must_use]
    pub fn with_limit(limit: usize) -> Metrics {
        Metrics {
            limit,
            pairs: BTreeSet::new(),
            rules: HashSet::new(),
        }
    }

    /// The text of a scrape.
    ///
    /// # Errors
    /// If the text cannot be written.
    pub fn render(&mut self, snapshot: &Snapshot) -> anyhow::Result<String> {
        let mut page = Page::default();
        self.packets(snapshot, &mut page)?;
        sockets(snapshot, &mut page)?;
        self.rules(snapshot, &mut page)?;
        page.gauge(
            "segd_policy_revision",
            "The policy revision in force; 0 if there is none.",
            snapshot.revision,
        )?;
        let (commit, dirty) = match &snapshot.commit {
            Some((commit, dirty)) => (commit.as_str(), if *dirty { "true" } else { "false" }),
            None => ("", ""),
        };
        page.family(
            MetricType::GAUGE,
            "segd_policy_info",
            "Where the policy in force comes from; always 1.",
            [(
                vec![
                    ("commit", commit),
                    ("dirty", dirty),
                    ("source", snapshot.policy_source),
                ],
                1,
            )],
        )?;
        page.family(
            MetricType::COUNTER,
            "segd_policy_reload_total",
            "Readings of the policy, the first included, by result.",
            [
                ("success", snapshot.reload_success),
                ("failure", snapshot.reload_failure),
            ]
            .map(|(result, count)| (vec![("result", result)], count)),
        )?;
        page.gauge(
            "segd_policy_files_refused",
            "1 while what stands in the policy's files is refused or cannot be read, else 0.",
            u32::from(snapshot.files_refused),
        )?;
        page.family(
            MetricType::GAUGE,
            "segd_workloads",
            "Workloads (cgroups) by segment.",
            snapshot
                .workloads
                .iter()
                .map(|(segment, count)| (vec![("segment", segment.as_str())], *count)),
        )?;
        page.family(
            MetricType::COUNTER,
            "segd_events_lost_total",
            "Flow events that did not fit into the ring buffer; the counters here are exact all the same.",
            [(vec![], snapshot.events_lost)],
        )?;
        page.family(
            MetricType::GAUGE,
            "segd_map_entries",
            "Entries in use of a kernel table.",
            snapshot
                .maps
                .iter()
                .map(|(map, entries, _)| (vec![("map", map.as_str())], *entries)),
        )?;
        page.family(
            MetricType::GAUGE,
            "segd_map_capacity",
            "Entries a kernel table can hold.",
            snapshot
                .maps
                .iter()
                .map(|(map, _, capacity)| (vec![("map", map.as_str())], *capacity)),
        )?;
        page.family(
            MetricType::COUNTER,
            "segd_repairs_total",
            "Links, programs and pins that somebody took away and segd put back, by what was lost.",
            snapshot
                .repairs
                .iter()
                .map(|(lost, count)| (vec![("lost", *lost)], *count)),
        )?;
        page.family(
            MetricType::COUNTER,
            "segd_sessions_cut_total",
            "TCP sessions that lost their right and were ended without waiting for their next packet.",
            [(vec![], snapshot.sessions_cut)],
        )?;
        page.gauge(
            "segd_enforcing",
            "1 if every program is attached and a probe was refused, else 0.",
            u32::from(snapshot.enforcing),
        )?;
        let abi = segd_common::ABI_VERSION.to_string();
        page.family(
            MetricType::GAUGE,
            "segd_build_info",
            "The running segd; always 1.",
            [(
                vec![("version", env!("CARGO_PKG_VERSION")), ("abi", abi.as_str())],
                1,
            )],
        )?;
        Ok(page.text)
    }

    fn packets(&mut self, snapshot: &Snapshot, page: &mut Page) -> anyhow::Result<()> {
        let name = |index| names::name(&snapshot.names, index);
        for (key, _) in packet_counters(snapshot) {
            if self.pairs.len() >= self.limit {
                break;
            }
            self.pairs
                .insert((name(key.from).to_string(), name(key.to).to_string()));
        }
        let shown: BTreeSet<(&str, &str)> = self
            .pairs
            .iter()
            .map(|(from, to)| (from.as_str(), to.as_str()))
            .collect();
        let mut series: BTreeMap<Series<'_>, Counter> = BTreeMap::new();
        let mut revoked: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for (key, counter) in packet_counters(snapshot) {
            let pair = (name(key.from), name(key.to));
            let (from, to) = if shown.contains(&pair) {
                pair
            } else {
                (OTHER, OTHER)
            };
            let verdict = Outcome::from_number(key.outcome).label();
            let reason = Reason::from_number(key.reason).map_or("unknown", Reason::label);
            sum(series.entry((from, to, verdict, reason)).or_default(), counter);
            *revoked.entry((from, to)).or_default() += counter.revoked;
        }
        if snapshot.other != Counter::default() {
            sum(
                series.entry((OTHER, OTHER, OTHER, OTHER)).or_default(),
                &snapshot.other,
            );
            *revoked.entry((OTHER, OTHER)).or_default() += snapshot.other.revoked;
        }
        for (metric, help, value) in [
            (
                "segd_packets_total",
                "Packets judged, by initiating segment, other side, verdict and reason.",
                (|counter| counter.packets) as fn(&Counter) -> u64,
            ),
            (
                "segd_bytes_total",
                "Bytes judged, from the IP header on.",
                |counter| counter.bytes,
            ),
            ("segd_flows_total", "Flows judged: first packets.", |counter| {
                counter.flows
            }),
        ] {
            page.family(
                MetricType::COUNTER,
                metric,
                help,
                series.iter().map(|((from, to, verdict, reason), counter)| {
                    (
                        vec![
                            ("from", *from),
                            ("to", *to),
                            ("verdict", *verdict),
                            ("reason", *reason),
                        ],
                        value(counter),
                    )
                }),
            )?;
        }
        page.family(
            MetricType::COUNTER,
            "segd_sessions_revoked_total",
            "Established sessions that lost their right under a newer policy revision.",
            revoked
                .iter()
                .map(|((from, to), count)| (vec![("from", *from), ("to", *to)], *count)),
        )
    }

    fn rules(&mut self, snapshot: &Snapshot, page: &mut Page) -> anyhow::Result<()> {
        for (label, _) in &snapshot.rule_hits {
            if self.rules.len() >= self.limit {
                break;
            }
            if !self.rules.contains(label) {
                self.rules.insert(label.clone());
            }
        }
        let mut hits: BTreeMap<&str, u64> = BTreeMap::new();
        for (label, count) in &snapshot.rule_hits {
            let label = if self.rules.contains(label) {
                label.as_str()
            } else {
                OTHER
            };
            *hits.entry(label).or_default() += count;
        }
        page.family(
            MetricType::COUNTER,
            "segd_rule_hits_total",
            "Verdicts by the rule that made them.",
            hits.iter().map(|(rule, count)| (vec![("rule", *rule)], *count)),
        )?;
        page.family(
            MetricType::GAUGE,
            "segd_rule_expiry_timestamp_seconds",
            "When what a rule allows ends next by itself (`until`, `when`), in Unix time; an `until` stays when that is past.",
            snapshot
                .rule_ends
                .iter()
                .take(self.limit)
                .map(|(rule, end)| (vec![("rule", rule.as_str())], *end)),
        )
    }
}

/// The family of socket that a counter is about, if it is about sockets.
fn family_of(key: &CounterKey) -> Option<&'static str> {
    Reason::from_number(key.reason).and_then(family)
}

fn packet_counters(snapshot: &Snapshot) -> impl Iterator<Item = &(CounterKey, Counter)> {
    snapshot
        .counters
        .iter()
        .filter(|(key, _)| family_of(key).is_none())
}

fn sockets(snapshot: &Snapshot, page: &mut Page) -> anyhow::Result<()> {
    let mut series: BTreeMap<(&str, &str, &str), u64> = BTreeMap::new();
    for (key, counter) in &snapshot.counters {
        if let Some(family) = family_of(key) {
            let segment = names::name(&snapshot.names, key.from);
            let verdict = Outcome::from_number(key.outcome).label();
            *series.entry((segment, family, verdict)).or_default() += counter.packets;
        }
    }
    page.family(
        MetricType::COUNTER,
        "segd_sockets_refused_total",
        "Packet and XDP sockets that a workload wanted to make, bind or send by; audited ones were let pass.",
        series.iter().map(|((segment, family, verdict), count)| {
            let labels = vec![("segment", *segment), ("family", *family), ("verdict", *verdict)];
            (labels, *count)
        }),
    )
}

fn sum(total: &mut Counter, part: &Counter) {
    total.packets += part.packets;
    total.bytes += part.bytes;
    total.flows += part.flows;
    total.revoked += part.revoked;
}

/// The page so far. Families are encoded one by one, so that only one is held in memory.
#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn gauge(&mut self, name: &str, help: &str, value: u32) -> anyhow::Result<()> {
        self.family(MetricType::GAUGE, name, help, [(vec![], u64::from(value))])
    }

    /// Adds a family. One without a series still has its help and type, so that its name is known.
    fn family<'a>(
        &mut self,
        kind: MetricType,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Vec<(&'static str, &'a str)>, u64)>,
    ) -> anyhow::Result<()> {
        let metrics: Vec<Metric> = series
            .into_iter()
            .map(|(labels, value)| metric(kind, labels, value))
            .collect();
        if metrics.is_empty() {
            let word = if kind == MetricType::COUNTER {
                "counter"
            } else {
                "gauge"
            };
            writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {word}")?;
            return Ok(());
        }
        let mut family = MetricFamily::default();
        family.set_name(name.to_string());
        family.set_help(help.to_string());
        family.set_field_type(kind);
        family.set_metric(metrics);
        Ok(TextEncoder::new().encode_utf8(&[family], &mut self.text)?)
    }
}

// Prometheus numbers are doubles; a count is exact up to 2^53.
#[allow(clippy::cast_precision_loss)]
fn metric(kind: MetricType, labels: Vec<(&'static str, &str)>, value: u64) -> Metric {
    let labels = labels
        .into_iter()
        .map(|(name, value)| {
            let mut label = LabelPair::default();
            label.set_name(name.to_string());
            label.set_value(value.to_string());
            label
        })
        .collect();
    let mut metric = Metric::from_label(labels);
    if kind == MetricType::COUNTER {
        let mut counter = PlainCounter::default();
        counter.set_value(value as f64);
        metric.set_counter(counter);
    } else {
        let mut gauge = Gauge::default();
        gauge.set_value(value as f64);
        metric.set_gauge(gauge);
    }
    metric
}

#[cfg(test)]
mod tests;
