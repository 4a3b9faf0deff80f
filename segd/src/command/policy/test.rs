//! `segd policy test`.

use std::{collections::BTreeSet, path::PathBuf};

use jiff::Timestamp;
use segd_common::{decide::outcome, service, service::Service, verdict::Outcome, workload::Identity};

use super::{
    CANNOT, INTERNAL, INVALID, NO, Reply, YES,
    probes::{ProbeError, probe},
};
use crate::{
    datapath::{
        Error,
        rehearsal::jury::{Jury, Side},
    },
    output::{
        Format,
        expectation::{Answered, Kernel, Tested, table},
        policy::print,
    },
    policy::{
        compile::compile,
        compiled::{CompiledTables, SegmentIndexes},
        diagnostic::Style,
        expectation::{Answer, Party, each_answer},
        model::Policy,
        port, prefixes, time,
    },
    source::{self, Trust},
};

/// The most questions that one test puts to the kernel.
const MOST_QUESTIONS: usize = 2_000;

/// Run a policy's own tests.
#[derive(Debug, clap::Args)]
pub struct Test {
    /// Files and directories; a directory is read recursively (`*.yaml`, `*.yml`)
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Ask this kernel as well: the programs that would enforce the policy, loaded for this and attached to nothing. Root
    #[arg(long)]
    kernel: bool,
    /// Probe this host as well: real traffic between short-lived cgroups below its workloads, under the policy in force, which
    /// must be this one. Nothing reaches a service or leaves the host. Root
    #[arg(long)]
    live: bool,
    /// The control socket of the running segd, for --live
    #[arg(long, env = "SEGD_CONTROL", default_value = crate::cli::CONTROL, value_name = "SOCKET")]
    control: PathBuf,
    /// Judge by this time: rules that are over then, or in none of their windows, open nothing [default: every rule holds, as when a policy is loaded]
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    at: Option<Timestamp>,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

impl Test {
    /// The answer.
    pub(super) fn reply(&self, style: Style) -> Reply {
        let loaded = match source::load(&self.paths, false, &Trust::Everybody) {
            // What is in force is in force now.
            Ok(loaded) => match self.at.or_else(|| self.live.then(Timestamp::now)) {
                Some(time) => loaded.at(time),
                None => loaded.always(),
            },
            Err(error) => {
                return Reply {
                    complaint: error.render(style),
                    code: INVALID,
                    ..Reply::default()
                };
            }
        };
        let mut indexes = SegmentIndexes::default();
        let tables = indexes
            .allocate(&loaded.policy, &BTreeSet::new())
            .and_then(|()| compile(&loaded.policy, &indexes, None));
        let tables = match tables {
            Ok(tables) => tables,
            Err(error) => return Reply::refusal(&error.to_string()),
        };
        let mut answer = Tested::of(&loaded.policy, &tables);
        if self.kernel {
            match asked(&loaded.policy, &tables, &tables) {
                Ok(kernel) => answer.kernel = Some(kernel),
                Err(error) => {
                    return Reply {
                        complaint: format!("error: {error}\n"),
                        code: CANNOT,
                        ..Reply::default()
                    };
                }
            }
        }
        if self.live {
            match probe(&loaded.policy, &loaded.sources, &self.control) {
                Ok(live) => answer.live = Some(live),
                Err(error) => return not_probed(&error),
            }
        }
        let kernel = answer.kernel.iter().map(|kernel| &kernel.disagreements);
        let live = answer.live.iter().map(|live| &live.disagreements);
        let disagrees = kernel.chain(live).any(|found| !found.is_empty());
        let code = match (disagrees, answer.failed) {
            (true, _) => INTERNAL,
            (false, 0) => YES,
            (false, _) => NO,
        };
        Reply::of(print(self.output, &answer, table), String::new(), code)
    }
}

fn not_probed(error: &ProbeError) -> Reply {
    let (code, help) = match error {
        ProbeError::Client(error) => (error.exit_code(), error.help()),
        ProbeError::Another(_) => {
            let help = "`segd apply --dry-run` says what differs; `segd status` says where it came from";
            (INVALID, Some(help.to_owned()))
        }
        ProbeError::Cannot(_) => (
            CANNOT,
            Some("run it as root, on the host whose segd it is".to_owned()),
        ),
    };
    let help = help.map_or_else(String::new, |help| format!("help: {help}\n"));
    Reply {
        complaint: format!("error: {error}\n{help}"),
        code,
        ..Reply::default()
    }
}

/// Puts every question of every test to the kernel programs under some tables, and compares with the decision under others:
/// the same ones, but to see that a difference is seen.
fn asked(policy: &Policy, tables: &CompiledTables, enforced: &CompiledTables) -> Result<Kernel, Error> {
    // The load takes its thread into a network namespace of its own.
    let done = std::thread::scope(|scope| scope.spawn(|| ask_all(policy, tables, enforced)).join());
    done.unwrap_or_else(|_| {
        Err(Error::Refused {
            operation: "asking the kernel programs".to_owned(),
            message: "the thread that asked has failed".to_owned(),
        })
    })
}

fn ask_all(policy: &Policy, tables: &CompiledTables, enforced: &CompiledTables) -> Result<Kernel, Error> {
    let mut jury = Jury::open(enforced)?;
    let mut kernel = Kernel::default();
    for test in &policy.tests {
        let mut failed = None;
        let mut questions = 0;
        each_answer(tables, test, &mut |answer| {
            let service = askable(answer);
            questions += 1;
            let heard = match service {
                Some(service) if questions <= MOST_QUESTIONS => {
                    jury.ask(side(answer.from), side(answer.to), service)
                }
                _ => Ok(None),
            };
            match heard {
                Err(error) => {
                    failed = Some(error);
                    return false;
                }
                Ok(None) => kernel.left_out += 1,
                Ok(Some(heard)) => {
                    kernel.asked += 1;
                    let (from, to) = (Identity::of(answer.from.segment), Identity::of(answer.to.segment));
                    let passes = outcome(tables, answer.verdict, from, to) != Outcome::Denied;
                    let told = &heard.told;
                    let same = (told.reason, told.rule, heard.passes)
                        == (answer.verdict.reason as u8, answer.verdict.rule, passes);
                    if !same {
                        let service = service.unwrap_or(answer.service);
                        kernel.disagreements.push(format!(
                            "{}: {} -> {} {}: the decision says {}, the kernel says {}",
                            test.label,
                            answer.from.name,
                            answer.to.name,
                            port::display(service),
                            Answered::verdict(answer),
                            segd_common::reason::Reason::ALL
                                .iter()
                                .find(|reason| **reason as u8 == told.reason)
                                .map_or("nothing", |reason| reason.label()),
                        ));
                    }
                }
            }
            true
        });
        if let Some(error) = failed {
            return Err(error);
        }
    }
    Ok(kernel)
}

fn side(party: &Party) -> Side {
    match party.address {
        Some(address) => Side::Address(prefixes::bits(address)),
        None => Side::Segment(party.segment),
    }
}

/// A service, of those that an answer stands for, that a packet can ask for.
fn askable(answer: &Answer<'_>) -> Option<Service> {
    let usual = [
        service::port(service::TCP, 443),
        service::port(service::TCP, 1),
        service::port(service::UDP, 1),
        service::port(service::SCTP, 1),
        service::icmp(service::ICMP, 8, 0),
        service::icmp(service::ICMPV6, 128, 0),
        service::bare(47),
    ];
    let inside = answer.service..=answer.last;
    // The first one, where it is one that people write; a piece of `any` begins with what nobody sends.
    let first = (answer.service & 0xffff != 0).then_some(answer.service);
    let written = first.or_else(|| usual.into_iter().find(|service| inside.contains(service)));
    written.or(Some(answer.service))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const POLICY: &str = "apiVersion: segd.dev/v1\nkind: SegmentPolicy\nmetadata: {name: shop}\nspec:\n  segments:\n    \
        web: {match: [{cgroup: /web}]}\n    db: {intra: deny, match: [{cgroup: /db}]}\n    \
        seen: {mode: audit, match: [{cgroup: /seen}]}\n    \
        net: {match: [{cidr: 192.0.2.0/24}, {cidr: '2001:db8::/32'}]}\n  allow:\n    \
        - {from: web, to: db, ports: [tcp/5432, icmp/echo-request]}\n    \
        - {from: [net, world], to: web, ports: [tcp/443, icmpv6/echo-request, sctp/1-9]}\n    \
        - {from: web, to: [net, host], ports: [udp/53, ip/47]}\n    \
        - {from: any, to: net, ports: [any]}\n  deny:\n    \
        - {from: world, to: web, ports: [tcp/22]}\n  tests:\n    \
        - {from: web, to: db, port: tcp/5432, expect: allow}\n    \
        - {from: web, to: db, port: [tcp/1-5431, udp/1-65535], expect: deny}\n    \
        - {from: 192.0.2.9, to: web, port: tcp/443, expect: allow}\n    \
        - {from: '2001:db8::9', to: web, port: [tcp/443, icmpv6/echo-request], expect: allow}\n    \
        - {from: world, to: [web, db, host], port: tcp/22, expect: deny}\n    \
        - {from: db, to: db, port: any, expect: deny}\n    \
        - {from: web, to: 192.0.2.9, port: any, expect: allow}\n    \
        - {from: db, to: [world, host, web, seen], port: any, expect: deny}\n    \
        - {from: host, to: [host, world], port: any, expect: allow}\n    \
        - {from: web, to: [host], port: [udp/53, ip/47], expect: allow}\n    \
        - {from: [web, db], to: host, port: sctp/1-65535, expect: deny}\n";

    #[track_caller]
    fn ask(text: &str, kernel: bool, output: Format) -> Reply {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("p.yaml");
        fs::write(&path, text).expect("a file");
        let paths = vec![path];
        let test = Test {
            at: None,
            paths,
            kernel,
            live: false,
            control: PathBuf::new(),
            output,
        };
        let reply = test.reply(Style::Plain);
        let strip = |text: String| text.replace(&format!("{}/", directory.path().display()), "");
        Reply {
            answer: strip(reply.answer),
            complaint: strip(reply.complaint),
            ..reply
        }
    }

    /// `world` to `host` is not enforced, so one of the tests fails.
    const FAILS: &str = "to: [web, db, host], port: tcp/22";

    fn passing() -> String {
        POLICY.replace(FAILS, "to: [web, db], port: tcp/22")
    }

    #[test]
    fn tells_each_test_and_why_one_fails() {
        let reply = ask(POLICY, false, Format::Table);
        let expected = "ok    shop/tests[3] at p.yaml:21\n\
            FAIL  shop/tests[4] at p.yaml:22 {from: world, to: [web, db, host], port: tcp/22, expect: deny}\n      \
            world -> host tcp/22 is allowed: `world` to `host` is not enforced by this policy\n";
        assert!(reply.answer.contains(expected), "{}", reply.answer);
        assert!(
            reply.answer.ends_with("11 tests: 10 passed, 1 failed\n"),
            "{}",
            reply.answer
        );
        assert_eq!(reply.code, NO);
        let reply = ask(&passing(), false, Format::Table);
        assert!(
            reply.answer.ends_with("11 tests: 11 passed, 0 failed\n"),
            "{}",
            reply.answer
        );
        assert_eq!(reply.code, YES);
    }

    #[test]
    fn answers_machines() {
        let reply = ask(POLICY, false, Format::Json);
        let answer: serde_json::Value = serde_json::from_str(&reply.answer).expect("JSON");
        assert_eq!((&answer["passed"], &answer["failed"]), (&10.into(), &1.into()));
        let wrong = serde_json::json!({
            "from": "world", "to": "host", "port": "tcp/22", "verdict": "allowed", "reason": "host-default",
            "sentence": "`world` to `host` is not enforced by this policy", "rule": null, "location": null,
        });
        assert_eq!(answer["tests"][4]["answer"], wrong);
        assert_eq!(answer["tests"][3]["answer"], serde_json::Value::Null);
    }

    #[test]
    fn the_kernel_programs_answer_every_test_alike() {
        let reply = ask(&passing(), true, Format::Json);
        if reply.code == CANNOT {
            assert!(
                std::env::var_os("SEGD_REQUIRE_KERNEL").is_none(),
                "{}",
                reply.complaint
            );
            eprintln!("skipped: {}", reply.complaint);
            return;
        }
        let answer: serde_json::Value = serde_json::from_str(&reply.answer).expect("JSON");
        assert_eq!(
            answer["kernel"]["disagreements"],
            serde_json::json!([]),
            "{}",
            reply.answer
        );
        let asked = answer["kernel"]["asked"].as_u64().unwrap_or_default();
        assert!(asked > 20, "only {asked} questions: {}", reply.answer);
        assert_eq!(reply.code, YES);
    }

    #[test]
    fn a_kernel_that_says_otherwise_is_noticed() {
        let compiled = |text: &str| {
            let sources = [crate::policy::model::Source {
                name: "p.yaml".to_owned(),
                text: text.into(),
            }];
            let (policy, _) = crate::policy::resolve::resolve(&sources, false).expect("the policy is right");
            let mut indexes = SegmentIndexes::default();
            indexes.allocate(&policy, &BTreeSet::new()).expect("fits");
            let tables = compile(&policy, &indexes, None).expect("fits");
            (policy, tables)
        };
        let (policy, tables) = compiled(&passing());
        let (_, other) = compiled(&passing().replace("ports: [tcp/5432, ", "ports: [tcp/5433, "));
        match asked(&policy, &tables, &other) {
            Ok(kernel) => {
                let said =
                    ["shop/tests[0]: web -> db tcp/5432: the decision says allowed, the kernel says no-rule"];
                assert_eq!(kernel.disagreements, said);
            }
            Err(error) => {
                assert!(std::env::var_os("SEGD_REQUIRE_KERNEL").is_none(), "{error}");
                eprintln!("skipped: {error}");
            }
        }
    }
}
