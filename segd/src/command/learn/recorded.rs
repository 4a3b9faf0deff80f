//! Flows to learn from: those the daemon tells, or those of a log. What is missing is counted, never passed over.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::{self, BufRead, BufReader},
    net::IpAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use segd_common::service::Service;

use super::Failed;
use crate::{
    command::{
        CANNOT,
        policy::{
            replay::LONGEST_LINE,
            who::{Who, of_record},
        },
    },
    control::{
        client::{self, Client, ClientError},
        protocol::{FlowFilter, FlowQuery, Request, Response},
        types::FlowRecord,
    },
    policy::port,
    telemetry::flows::KEPT,
    workload::cgroupfs::CgroupRoot,
};

/// How many different flows are told apart; more are counted each time they are told of.
const TOLD_APART: usize = 1 << 20;
/// How often new cgroups are looked for, so that their paths are known when they are gone.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Flows that are alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alike {
    /// How many.
    pub flows: u64,
    /// The first of them.
    pub example: String,
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Recording {
    /// Who started what towards whom.
    pub seen: BTreeMap<(Who, Who, Service), Alike>,
    /// How many lines or events were read.
    pub read: u64,
    /// Flows that nothing can be learned from: why, and how many.
    pub left_out: BTreeMap<&'static str, u64>,
    /// What may be missing, in words.
    pub missing: Vec<String>,
    /// The times of the first and the last.
    pub span: Option<(String, String)>,
    include_denied: bool,
    told_apart: BTreeSet<u64>,
}

impl Recording {
    /// Nothing yet.
    pub fn new(include_denied: bool) -> Recording {
        Recording {
            include_denied,
            ..Recording::default()
        }
    }

    /// Takes a flow.
    pub fn take(&mut self, flow: &FlowRecord) {
        self.read += 1;
        match self.understand(flow) {
            Ok((from, to, service)) => {
                match &mut self.span {
                    Some((_, last)) => last.clone_from(&flow.time),
                    None => self.span = Some((flow.time.clone(), flow.time.clone())),
                }
                let new = self.is_new(flow);
                let alike = self.seen.entry((from, to, service)).or_insert_with(|| Alike {
                    flows: 0,
                    example: example(flow),
                });
                alike.flows += u64::from(new || alike.flows == 0);
            }
            Err(why) => *self.left_out.entry(why).or_default() += 1,
        }
    }

    fn understand(&self, flow: &FlowRecord) -> Result<(Who, Who, Service), &'static str> {
        match (&*flow.verdict, &*flow.reason) {
            ("allowed" | "audited", _) => {}
            ("denied", "no-rule") if self.include_denied => {}
            ("denied", "no-rule") => {
                return Err("dropped for want of a rule (`--include-denied` learns them, too)");
            }
            ("denied", _) => return Err("dropped, and no rule would open it (`segd flows` says why)"),
            _ => return Err("not understood"),
        }
        let gone = |path: &Option<Arc<str>>, id: u64| path.is_none() && id != 0;
        if gone(&flow.cgroup, flow.cgroup_id) || gone(&flow.peer_cgroup, flow.peer_cgroup_id) {
            return Err("of a cgroup whose path is not known: it was gone, or is younger than the recording");
        }
        let (from, to, text) = of_record(flow).map_err(|_| "not understood")?;
        let service = port::parse_one(&text).map_err(|_| "a protocol or port that a rule cannot name")?;
        for side in [&from, &to] {
            if let Who::Named(name) = side
                && name
                    .parse()
                    .is_ok_and(|address: IpAddr| address.is_loopback() || address.is_unspecified())
            {
                return Err("of somebody on this host who is not known");
            }
        }
        Ok((from, to, service))
    }

    /// In audit mode each packet is told of: a flow counts once.
    fn is_new(&mut self, flow: &FlowRecord) -> bool {
        let mut hasher = DefaultHasher::new();
        (
            &flow.source,
            flow.source_port,
            &flow.destination,
            flow.destination_port,
        )
            .hash(&mut hasher);
        (&*flow.protocol, flow.icmp_type, flow.icmp_code).hash(&mut hasher);
        self.told_apart.len() >= TOLD_APART || self.told_apart.insert(hasher.finish())
    }
}

/// `10.0.0.1:4000 -> 10.0.0.2:5432 at TIME`.
fn example(flow: &FlowRecord) -> String {
    let end = |address: &str, port: Option<u16>| match (address.parse(), port) {
        (Ok(IpAddr::V6(_)), Some(port)) => format!("[{address}]:{port}"),
        (Ok(_), Some(port)) => format!("{address}:{port}"),
        (Ok(_), None) => address.to_owned(),
        (Err(_), _) => "?".to_owned(),
    };
    format!(
        "{} -> {} at {}",
        end(&flow.source, flow.source_port),
        end(&flow.destination, flow.destination_port),
        flow.time
    )
}

/// Reads a log: the lines of `segd flows -o json`; `-`: stdin.
pub fn from_log(log: &Path, recording: &mut Recording) -> Result<(), Failed> {
    let failed =
        |error: io::Error| Failed::new(CANNOT, &format!("cannot read `{}`: {error}", log.display()), None);
    let mut reader: Box<dyn BufRead> = if log == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(BufReader::new(File::open(log).map_err(failed)?))
    };
    let mut line = Vec::new();
    let mut strange = 0_u64;
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line).map_err(failed)? == 0 {
            break;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let flow = (line.len() <= LONGEST_LINE)
            .then(|| serde_json::from_slice::<FlowRecord>(&line).ok())
            .flatten()
            .filter(|flow| !flow.verdict.is_empty());
        match flow {
            Some(flow) => recording.take(&flow),
            None => {
                recording.read += 1;
                strange += 1;
            }
        }
    }
    if strange > 0 {
        recording
            .missing
            .push(format!("{strange} lines of the log are no flow"));
    }
    Ok(())
}

/// Asks the daemon: for what it has recorded, or for what comes in this time (seconds).
pub fn from_daemon(control: &Path, listen: Option<u64>, recording: &mut Recording) -> Result<(), Failed> {
    let failed =
        |error: ClientError| Failed::new(error.exit_code(), &error.to_string(), error.help().as_deref());
    let lost_before = lost(control).map_err(failed)?;
    let mut paths = Paths::of_this_host();
    let query = FlowQuery {
        last: if listen.is_some() { 0 } else { KEPT },
        follow: listen.is_some(),
        filter: FlowFilter::default(),
    };
    let mut client = client::flows(control, query).map_err(failed)?;
    let end = listen.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let missed = listen_to(&mut client, end, recording, &mut paths).map_err(failed)?;
    if missed > 0 {
        recording.missing.push(format!(
            "{missed} flows were not told of: this client was too slow"
        ));
    }
    let lost = lost(control).map_err(failed)?;
    match listen {
        Some(_) if lost > lost_before => recording.missing.push(format!(
            "{} events were lost while it listened (segd_events_lost_total): flows may be missing",
            lost - lost_before
        )),
        None if lost > 0 => recording.missing.push(format!(
            "{lost} events were lost since segd started (segd_events_lost_total): flows may be missing"
        )),
        _ => {}
    }
    if listen.is_none() && recording.read >= KEPT as u64 {
        recording.missing.push(format!(
            "segd keeps the newest {KEPT} flows: older ones are not in it"
        ));
    }
    Ok(())
}

/// How many events the daemon has lost.
fn lost(control: &Path) -> Result<u64, ClientError> {
    let mut client = Client::ask(control, &Request::Status)?;
    match client.answer()? {
        Response::Status(status) => Ok(status.events_lost),
        _ => Err(client.surprise()),
    }
}

/// Takes flows until there are no more or the time is over; tells how many were left out on the way.
fn listen_to(
    client: &mut Client,
    end: Option<Instant>,
    recording: &mut Recording,
    paths: &mut Paths,
) -> Result<u64, ClientError> {
    let mut missed = 0;
    loop {
        let received = match end {
            None => client.receive()?,
            Some(end) => {
                let now = Instant::now();
                paths.look(now);
                if now >= end {
                    return Ok(missed);
                }
                match client.wait_readable((end - now).min(LOOK_EVERY)) {
                    true => client.receive()?,
                    false => continue,
                }
            }
        };
        match received {
            Some(Response::Flow(mut flow)) => {
                paths.complete(&mut flow);
                recording.take(&flow);
            }
            Some(Response::Missed(count)) => missed += count,
            Some(Response::End) if end.is_none() => return Ok(missed),
            Some(Response::End) | None => {
                recording
                    .missing
                    .push("segd ended while it listened: what came after is missing".to_owned());
                return Ok(missed);
            }
            Some(_) => return Err(client.surprise()),
        }
    }
}

/// Paths of cgroups that are younger than the policy in force: the daemon knows their ids alone.
struct Paths {
    root: Option<CgroupRoot>,
    known: BTreeMap<u64, Option<Arc<str>>>,
    looked: Option<Instant>,
}

impl Paths {
    fn of_this_host() -> Paths {
        let mut paths = Paths {
            root: CgroupRoot::find().ok(),
            known: BTreeMap::new(),
            looked: None,
        };
        paths.walk();
        paths
    }

    fn look(&mut self, now: Instant) {
        if self.looked.is_none_or(|looked| now - looked >= LOOK_EVERY) {
            self.walk();
        }
    }

    fn walk(&mut self) {
        self.looked = Some(Instant::now());
        let known = &mut self.known;
        if let Some(root) = &self.root {
            // What the walk did not get to stays unknown, and is counted as such.
            let _ = root.walk(&mut |cgroup| {
                known.insert(cgroup.id, Some(cgroup.path.as_str().into()));
            });
        }
    }

    fn complete(&mut self, flow: &mut FlowRecord) {
        for (path, id) in [
            (&mut flow.cgroup, flow.cgroup_id),
            (&mut flow.peer_cgroup, flow.peer_cgroup_id),
        ] {
            if path.is_none() && id != 0 {
                if !self.known.contains_key(&id) {
                    self.walk();
                }
                // One that is gone is not looked for again.
                path.clone_from(self.known.entry(id).or_default());
            }
        }
    }
}
