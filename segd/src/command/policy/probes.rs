//! `segd policy test --live`: real traffic between real cgroups of this host, under the policy in force.
//!
//! For each question this process enters a cgroup of its own below a workload of the receiver, opens a socket there, enters one
//! below a workload of the sender, connects or sends, and looks at what arrived. Sockets keep the cgroup that they were
//! made in. All of it happens in a network namespace that holds nothing but its own loopback.
//!
//! INVARIANT: no packet reaches a service, or leaves this host: there is no way out of the namespace, and nobody else in it.
//! INVARIANT: what is not probed is told, with the reason.

mod ground;

use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    time::{Duration, Instant},
};

use segd_common::{decide::outcome, service, service::Service, verdict::Outcome, workload::Identity};

use self::ground::Ground;
use crate::{
    control::{
        client::{self, ClientError},
        protocol::{FlowFilter, FlowQuery, Request, Response},
        types::{Candidate, FlowRecord, Text},
    },
    datapath::island,
    output::expectation::{Live, NotProbed},
    policy::{
        compile::compile,
        compiled::{CompiledTables, SegmentIndexes},
        expectation::{Answer, decider, each_answer},
        model::{Mode, Policy, Source, TestCase},
        port,
    },
};

/// The most questions of one test that are probed.
const MOST_PROBES: usize = 100;
/// How long a packet may take that nobody refused at once.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long the daemon may take to tell of a flow.
const TOLD: Duration = Duration::from_secs(2);

/// Why nothing could be probed.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The daemon did not answer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// It enforces another policy.
    #[error("this is not the policy in force, which is revision {0}")]
    Another(u32),
    /// This host, or this user, cannot do it.
    #[error("{0}")]
    Cannot(String),
}

/// Probes every question of every test.
///
/// # Errors
///
/// See [`ProbeError`].
pub fn probe(policy: &Policy, sources: &[Source], control: &Path) -> Result<Live, ProbeError> {
    let (revision, mode) = in_force(sources, control)?;
    let cannot = |error: &dyn std::error::Error| ProbeError::Cannot(crate::report::chain(error));
    let mut indexes = SegmentIndexes::default();
    let tables = indexes
        .allocate(policy, &BTreeSet::new())
        .and_then(|()| compile(policy, &indexes, mode))
        .map_err(|error| cannot(&error))?;
    // The namespace is left with the thread.
    let done = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                island::enter().map_err(|error| cannot(&error))?;
                let mut prober = Prober {
                    policy,
                    tables: &tables,
                    ground: Ground::find(control).map_err(ProbeError::Cannot)?,
                    control,
                    live: Live {
                        revision,
                        ..Live::default()
                    },
                    next: 0,
                };
                for test in &policy.tests {
                    prober.run(test)?;
                }
                Ok(prober.live)
            })
            .join()
    });
    let live =
        done.unwrap_or_else(|_| Err(ProbeError::Cannot("the thread that probes has failed".to_owned())))?;
    match in_force(sources, control)? {
        (now, _) if now == revision => Ok(live),
        (now, _) => Err(ProbeError::Cannot(format!(
            "revision {now} came into force while revision {revision} was probed: try again"
        ))),
    }
}

/// The revision in force, if it is this policy, and `--mode` of the daemon.
fn in_force(sources: &[Source], control: &Path) -> Result<(u32, Option<Mode>), ProbeError> {
    let candidate = Candidate {
        texts: sources.iter().map(Text::from).collect(),
        ..Candidate::default()
    };
    let mut client = client::Client::ask(control, &Request::DryRun(candidate))?;
    let Response::DryRun(told) = client.answer()? else {
        return Err(client.surprise().into());
    };
    // Names differ by where one stands.
    let mut now: Vec<&str> = told.texts.iter().map(|text| text.text.as_str()).collect();
    let mut given: Vec<&str> = sources.iter().map(|source| &*source.text).collect();
    now.sort_unstable();
    given.sort_unstable();
    if now != given {
        return Err(ProbeError::Another(told.revision));
    }
    let mode = told.mode.as_deref().map(|mode| match mode {
        "audit" => Mode::Audit,
        _ => Mode::Enforce,
    });
    Ok((told.revision, mode))
}

struct Prober<'p> {
    policy: &'p Policy,
    tables: &'p CompiledTables,
    ground: Ground,
    control: &'p Path,
    live: Live,
    /// Each question has an address of its own, so that the flow log tells them apart.
    next: u16,
}

impl Prober<'_> {
    fn run(&mut self, test: &TestCase) -> Result<(), ProbeError> {
        let mut asked = 0;
        let mut failed = None;
        each_answer(self.tables, test, &mut |answer| {
            let services = askable(answer);
            if services.is_empty() {
                let why = "only TCP and UDP are probed";
                self.leave(test, answer, answer.service, why.to_owned());
            }
            for service in services {
                asked += 1;
                if asked > MOST_PROBES {
                    let why = format!("only the first {MOST_PROBES} questions of a test are probed");
                    self.leave(test, answer, service, why);
                } else if let Err(error) = self.ask(test, answer, service) {
                    failed = Some(error);
                    return false;
                }
            }
            true
        });
        failed.map_or(Ok(()), Err)
    }

    fn leave(&mut self, test: &TestCase, answer: &Answer<'_>, service: Service, why: String) {
        self.live.not_probed.push(NotProbed {
            test: test.label.clone(),
            from: answer.from.name.clone(),
            to: answer.to.name.clone(),
            port: port::display(service),
            why,
        });
    }

    fn ask(&mut self, test: &TestCase, answer: &Answer<'_>, service: Service) -> Result<(), ProbeError> {
        let places = self
            .ground
            .place(answer.from)
            .and_then(|from| Ok((from, self.ground.place(answer.to)?)));
        let (from, to) = match places {
            Ok(places) => places,
            Err(why) => {
                self.leave(test, answer, service, why);
                return Ok(());
            }
        };
        self.next += 1;
        let [high, low] = self.next.to_be_bytes();
        let at = SocketAddr::from((Ipv4Addr::new(127, 83, high, low), service as u16));
        let is_tcp = service::protocol(service) == service::TCP;
        let arrived = if is_tcp {
            self.connect(&from, &to, at)
        } else {
            self.send(&from, &to, at)
        };
        self.ground
            .go_home()
            .map_err(|error| ProbeError::Cannot(format!("leaving the probes' cgroups: {error}")))?;
        let arrived = match arrived {
            Ok(arrived) => arrived,
            Err(error) => {
                self.leave(test, answer, service, format!("the probe failed: {error}"));
                return Ok(());
            }
        };
        let told = self.told(at, if is_tcp { "tcp" } else { "udp" })?;
        self.live.probed += 1;
        if let Some(wrong) = self.compare(answer, arrived, &told) {
            self.live.disagreements.push(format!(
                "{}: {} -> {} {}: {wrong}",
                test.label,
                answer.from.name,
                answer.to.name,
                port::display(service)
            ));
        }
        Ok(())
    }

    /// Whether a connection came to be at a listener of `to`.
    fn connect(&self, from: &Path, to: &Path, at: SocketAddr) -> io::Result<bool> {
        self.ground.enter(to)?;
        let listener = TcpListener::bind(at)?;
        listener.set_nonblocking(true)?;
        self.ground.enter(from)?;
        let Ok(_connection) = TcpStream::connect_timeout(&at, PATIENCE) else {
            return Ok(listener.accept().is_ok());
        };
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if listener.accept().is_ok() {
                return Ok(true);
            }
            // SLEEP: the last packet of the handshake may be on its way; there is nothing else to wait for.
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(false)
    }

    /// Whether a datagram came to a socket of `to`.
    fn send(&self, from: &Path, to: &Path, at: SocketAddr) -> io::Result<bool> {
        self.ground.enter(to)?;
        let receiver = UdpSocket::bind(at)?;
        receiver.set_read_timeout(Some(PATIENCE))?;
        self.ground.enter(from)?;
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        Ok(sender.send_to(b"segd policy test", at).is_ok() && receiver.recv(&mut [0; 32]).is_ok())
    }

    /// What the flow log has of it, as soon as it has anything.
    fn told(&self, at: SocketAddr, protocol: &str) -> Result<Vec<FlowRecord>, ClientError> {
        let deadline = Instant::now() + TOLD;
        let (address, port) = (at.ip().to_string(), at.port());
        loop {
            let query = FlowQuery {
                last: 256,
                follow: false,
                filter: FlowFilter::default(),
            };
            let mut found = Vec::new();
            let mut flows = client::flows(self.control, query)?;
            while let Some(Response::Flow(flow)) = flows.receive()? {
                if *flow.destination == *address
                    && flow.destination_port == Some(port)
                    && flow.protocol == protocol
                {
                    found.push(*flow);
                }
            }
            if !found.is_empty() || Instant::now() >= deadline {
                return Ok(found);
            }
            // SLEEP: the daemon reads its ring when it gets to it; the next question is the same.
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What is wrong, if what happened is not what the decision says.
    fn compare(&self, answer: &Answer<'_>, arrived: bool, told: &[FlowRecord]) -> Option<String> {
        let verdict = answer.verdict;
        let (from, to) = (Identity::of(answer.from.segment), Identity::of(answer.to.segment));
        let outcome = outcome(self.tables, verdict, from, to);
        let rule = decider(self.policy, answer).map(|rule| rule.label);
        disagreement(
            (
                outcome != Outcome::Denied,
                outcome.label(),
                verdict.reason.label(),
                rule.as_deref(),
            ),
            arrived,
            told,
        )
    }
}

/// Compares a decision (whether it passes, its outcome, reason and rule) with what happened.
fn disagreement(
    (passes, outcome, reason, rule): (bool, &str, &str, Option<&str>),
    arrived: bool,
    told: &[FlowRecord],
) -> Option<String> {
    let words = |outcome: &str, reason: &str, rule: Option<&str>| match rule {
        Some(rule) => format!("{outcome}, {reason}, {rule}"),
        None => format!("{outcome}, {reason}"),
    };
    let expected = words(outcome, reason, rule);
    if arrived != passes {
        let what = if arrived { "it arrived" } else { "nothing arrived" };
        return Some(format!("the decision says {expected}, but {what}"));
    }
    if told.is_empty() {
        return Some(format!("the decision says {expected}, the flow log nothing"));
    }
    let other = told
        .iter()
        .map(|flow| words(&flow.verdict, &flow.reason, flow.rule.as_deref()))
        .find(|found| *found != expected)?;
    Some(format!("the decision says {expected}, the flow log {other}"))
}

/// The services, of those that an answer stands for, that are probed: one of TCP, and one of UDP.
fn askable(answer: &Answer<'_>) -> Vec<Service> {
    let inside = answer.service..=answer.last;
    let one = |protocol: u8| {
        let first = (service::protocol(answer.service) == protocol).then_some(answer.service);
        let usual = [443, 1].map(|port| service::port(protocol, port));
        first
            .filter(|service| service & 0xffff != 0)
            .or_else(|| usual.into_iter().find(|service| inside.contains(service)))
    };
    [service::TCP, service::UDP].into_iter().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(verdict: &str, reason: &str, rule: Option<&str>) -> FlowRecord {
        FlowRecord {
            verdict: verdict.to_owned().into(),
            reason: reason.to_owned().into(),
            rule: rule.map(Into::into),
            ..FlowRecord::default()
        }
    }

    #[test]
    fn any_difference_between_decision_and_traffic_is_told() {
        let allowed = (true, "allowed", "rule", Some("a/allow[0]"));
        let right = flow("allowed", "rule", Some("a/allow[0]"));
        assert_eq!(disagreement(allowed, true, std::slice::from_ref(&right)), None);
        for (arrived, told, word) in [
            (false, vec![right.clone()], "nothing arrived"),
            (true, vec![], "the flow log nothing"),
            (true, vec![flow("allowed", "intra", None)], "intra"),
            (
                true,
                vec![flow("allowed", "rule", Some("a/allow[1]"))],
                "allow[1]",
            ),
            (true, vec![right, flow("denied", "unknown", None)], "unknown"),
        ] {
            let told = disagreement(allowed, arrived, &told).expect("a disagreement");
            assert!(told.contains(word), "{told}");
        }
        let denied = (false, "denied", "no-rule", None);
        let seen = [flow("denied", "no-rule", None)];
        assert_eq!(disagreement(denied, false, &seen), None);
        let told = disagreement(denied, true, &seen).expect("a hole");
        assert!(told.contains("it arrived"), "{told}");
    }
}
