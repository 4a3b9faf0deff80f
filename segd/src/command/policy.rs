//! `segd policy …`: questions about a policy that need no daemon.

mod check;
pub(super) mod compare;
mod diff;
mod explain;
mod fmt;
mod graph;
mod live;
mod probes;
pub(super) mod replay;
mod schema;
mod sign;
mod test;
mod trust_reset;
mod unused;
mod verify;
pub(super) mod who;

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
};

use crate::policy::diagnostic::{Style, clean};

/// The subcommands of `segd policy`.
#[derive(Debug, clap::Subcommand)]
pub enum PolicyCommand {
    /// Validate a policy: every error at once, with its place and a remedy; warnings for what cannot be meant
    Check(check::Check),
    /// Say whether one segment may reach another, why, and by which line
    Explain(explain::Explain),
    /// Write a policy in one form, in place: every comment and every meaning stays
    Fmt(fmt::Fmt),
    /// Draw who may start what towards whom, as it is enforced: a matrix (SVG), or a graph (DOT, Mermaid)
    Graph(graph::Graph),
    /// Print the JSON Schema of a policy: an editor that knows it completes, explains and checks as you type
    Schema(schema::Schema),
    /// Run the policy's own tests: by the decision, by the kernel programs with `--kernel`, by real traffic with `--live`
    Test(test::Test),
    /// Say what changes between two policies, by meaning: who may newly start what towards whom, and who no longer
    Diff(diff::Diff),
    /// Sign a policy with an SSH key, under the next serial, for `segd run --require-signature`
    Sign(sign::Sign),
    /// Say whether a policy is signed by an allowed signer, and what its serial is
    Verify(verify::Verify),
    /// Begin to count serials anew: the next signed policy is accepted whatever its serial
    TrustReset(trust_reset::TrustReset),
}

impl PolicyCommand {
    /// Runs it.
    #[must_use]
    pub fn run(self) -> ExitCode {
        match self {
            PolicyCommand::Check(check) => check.reply(style()).send(),
            PolicyCommand::Explain(explain) if explain.asks_the_daemon() => explain.ask_the_daemon(),
            PolicyCommand::Explain(explain) => explain.reply(style()).send(),
            PolicyCommand::Fmt(fmt) => fmt.reply(style()).send(),
            PolicyCommand::Diff(diff) => diff.reply(style()).send(),
            PolicyCommand::Test(test) => test.reply(style()).send(),
            PolicyCommand::Schema(schema) => schema.reply().send(),
            PolicyCommand::Graph(graph) => graph.reply(style()).send(),
            PolicyCommand::Sign(sign) => sign.reply().send(),
            PolicyCommand::Verify(verify) => verify.reply().send(),
            PolicyCommand::TrustReset(reset) => reset.reply().send(),
        }
    }
}

/// Done, or yes.
const YES: u8 = 0;
/// A negative answer.
const NO: u8 = 1;
/// An invalid policy or question.
const INVALID: u8 = 2;
/// The host cannot do it.
const CANNOT: u8 = 3;
/// segd's own fault.
const INTERNAL: u8 = 4;

/// What a command says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Reply {
    /// On stdout: the answer.
    answer: String,
    /// On stderr: complaints.
    complaint: String,
    /// The exit code.
    code: u8,
}

impl Reply {
    /// An answer, if it could be written.
    fn of(answer: anyhow::Result<String>, complaint: String, code: u8) -> Reply {
        match answer {
            Ok(answer) => Reply {
                answer,
                complaint,
                code,
            },
            Err(error) => Reply {
                complaint: format!("error: {error:#}\n"),
                code: INTERNAL,
                ..Reply::default()
            },
        }
    }

    /// A refusal to answer.
    fn refusal(message: &str) -> Reply {
        Reply {
            complaint: format!("error: {}\n", clean(message)),
            code: INVALID,
            ..Reply::default()
        }
    }

    /// Says it. A reader that has gone away is no failure of ours.
    fn send(self) -> ExitCode {
        let _ = std::io::stderr().lock().write_all(self.complaint.as_bytes());
        let _ = std::io::stdout().lock().write_all(self.answer.as_bytes());
        ExitCode::from(self.code)
    }
}

/// `1 rule`, `2 rules`.
fn counted(count: usize, noun: &str) -> String {
    if count == 1 {
        format!("1 {noun}")
    } else {
        format!("{count} {noun}s")
    }
}

/// Colours on a terminal, unless the user objects (no-color.org).
fn style() -> Style {
    let objects = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if std::io::stderr().is_terminal() && !objects {
        Style::Ansi
    } else {
        Style::Plain
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(subcommand)]
        command: PolicyCommand,
    }

    const RIGHT: &str = "apiVersion: segd.dev/v1\nkind: SegmentPolicy\nmetadata: {name: shop}\nspec:\n  segments:\n    \
        web: {match: [{cgroup: /web}]}\n    db: {match: [{cgroup: /db}], mode: audit}\n    ops: {match: [{user: alice}]}\n  \
        allow:\n    - {from: web, to: db, ports: [tcp/5432], reason: orders}\n    - {from: ops, to: web, ports: [tcp/22]}\n";

    /// What `segd policy ARGUMENTS` says about a policy of this text.
    #[track_caller]
    fn ask(text: &str, arguments: &[&str]) -> Reply {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("p.yaml");
        fs::write(&path, text).expect("a file");
        let reply = ask_about(&path, arguments);
        let strip = |text: String| text.replace(&format!("{}/", directory.path().display()), "");
        Reply {
            answer: strip(reply.answer),
            complaint: strip(reply.complaint),
            ..reply
        }
    }

    #[track_caller]
    fn ask_about(path: &Path, arguments: &[&str]) -> Reply {
        let path = path.to_str().expect("UTF-8");
        let arguments = ["policy"]
            .iter()
            .chain(arguments)
            .map(|word| if *word == "PATH" { path } else { word });
        match Line::try_parse_from(arguments).expect("a command").command {
            PolicyCommand::Check(check) => check.reply(Style::Plain),
            PolicyCommand::Explain(explain) => explain.reply(Style::Plain),
            PolicyCommand::Diff(diff) => diff.reply(Style::Plain),
            PolicyCommand::Test(test) => test.reply(Style::Plain),
            PolicyCommand::Schema(schema) => schema.reply(),
            PolicyCommand::Graph(graph) => graph.reply(Style::Plain),
            PolicyCommand::Sign(sign) => sign.reply(),
            PolicyCommand::Verify(verify) => verify.reply(),
            PolicyCommand::TrustReset(reset) => reset.reply(),
            PolicyCommand::Fmt(fmt) => fmt.reply(Style::Plain),
        }
    }

    #[test]
    fn check_counts_what_is_in_a_right_policy() {
        let reply = ask(RIGHT, &["check", "PATH"]);
        assert_eq!(
            reply.answer,
            "ok: 3 segments, 2 rules (2 allow, 0 deny), 1 file\n"
        );
        assert_eq!((reply.complaint.as_str(), reply.code), ("", YES));
    }

    #[test]
    fn check_complains_on_stderr_and_exits_with_2() {
        let reply = ask(&RIGHT.replace("to: db", "to: bd"), &["check", "PATH"]);
        assert_eq!((reply.answer.as_str(), reply.code), ("", INVALID));
        assert!(reply.complaint.contains("p.yaml:10:23"), "{}", reply.complaint);
        assert!(
            reply.complaint.contains("did you mean `db`?"),
            "{}",
            reply.complaint
        );
        assert!(
            reply.complaint.ends_with("\ninvalid: 1 error\n"),
            "{}",
            reply.complaint
        );
    }

    #[test]
    fn check_answers_machines_on_stdout_only() {
        for (text, valid) in [
            (RIGHT.to_owned(), true),
            (RIGHT.replace("to: db", "to: bd"), false),
        ] {
            let reply = ask(&text, &["check", "PATH", "-o", "json"]);
            assert_eq!(reply.complaint, "");
            let answer: serde_json::Value = serde_json::from_str(&reply.answer).expect("JSON");
            assert_eq!(answer["valid"], valid);
            assert_eq!(
                answer["diagnostics"].as_array().map(Vec::len),
                Some(usize::from(!valid))
            );
            if !valid {
                assert_eq!(answer["diagnostics"][0]["code"], "undeclared-peer");
                let place = serde_json::json!({
                    "file": "p.yaml", "line": 10, "column": 23, "end": {"line": 10, "column": 25}
                });
                assert_eq!(answer["diagnostics"][0]["place"], place);
            }
            let yaml = ask(&text, &["check", "PATH", "-o", "yaml"]).answer;
            let same: serde_json::Value = serde_yaml::from_str(&yaml).expect("YAML");
            assert_eq!(same, answer, "YAML has the shape of JSON");
        }
    }

    #[test]
    fn check_tells_doubts_on_stderr_and_lets_ci_insist() {
        let doubtful = RIGHT.replace("{from: ops, to: web", "{from: [], to: web");
        let reply = ask(&doubtful, &["check", "PATH"]);
        assert!(
            reply.answer.ends_with(", 1 file, 2 warnings\n"),
            "{}",
            reply.answer
        );
        assert!(
            reply.complaint.contains("warning[matches-nothing]"),
            "{}",
            reply.complaint
        );
        assert_eq!(reply.code, YES);
        assert_eq!(ask(&doubtful, &["check", "PATH", "--deny-warnings"]).code, NO);
        let allowed = format!("# segd: allow(matches-nothing, unused-segment)\n{doubtful}");
        let reply = ask(&allowed, &["check", "PATH", "--deny-warnings"]);
        assert_eq!((reply.complaint.as_str(), reply.code), ("", YES));
    }

    #[test]
    fn check_live_tells_which_matchers_fit_nothing_here() {
        if crate::workload::cgroupfs::CgroupRoot::find().is_err() {
            let reply = ask(RIGHT, &["check", "PATH", "--live"]);
            assert_eq!(reply.code, CANNOT, "a host without cgroup2 says so");
            return;
        }
        let absent = RIGHT.replace("/web", "/no-such-cgroup-anywhere");
        let reply = ask(&absent, &["check", "PATH", "--live"]);
        let said = "`cgroup: /no-such-cgroup-anywhere` of segment `web` matches nothing on this host now";
        assert!(reply.complaint.contains(said), "{}", reply.complaint);
        let allowed = absent.replace("    web:", "    # segd: allow(no-member)\n    web:");
        let reply = ask(&allowed, &["check", "PATH", "--live"]);
        assert!(!reply.complaint.contains(said), "{}", reply.complaint);
        assert!(
            !reply.complaint.contains("unneeded-allowance"),
            "{}",
            reply.complaint
        );
    }

    #[test]
    fn check_refuses_an_empty_policy_unless_told_otherwise() {
        assert_eq!(ask("# nothing\n", &["check", "PATH"]).code, INVALID);
        let reply = ask("# nothing\n", &["check", "PATH", "--allow-empty"]);
        assert_eq!(
            reply.answer,
            "ok: 0 segments, 0 rules (0 allow, 0 deny), 1 file\n"
        );
    }

    #[test]
    fn an_empty_policy_is_refused_by_whoever_has_no_flag_for_it() {
        let explain = [
            "explain", "PATH", "--from", "host", "--to", "world", "--port", "tcp/22",
        ];
        for arguments in [&["test", "PATH"][..], &explain] {
            let reply = ask("# nothing\n", arguments);
            assert_eq!((reply.answer.as_str(), reply.code), ("", INVALID));
            let said = "gives up every segment, rule and guardrail";
            assert!(reply.complaint.contains(said), "{}", reply.complaint);
        }
    }

    #[test]
    fn verify_answers_machines_and_tells_no_signature_from_no_list_of_signers() {
        let directory = tempfile::tempdir().expect("a directory");
        let signers = directory.path().join("signers");
        let words = [
            "verify",
            "PATH",
            "--allowed-signers",
            signers.to_str().expect("UTF-8"),
        ];
        assert_eq!(ask(RIGHT, &words).code, INVALID, "there is no list");
        fs::write(&signers, "").expect("a file");
        let unsigned = ask(RIGHT, &words);
        assert_eq!(
            (unsigned.answer.as_str(), unsigned.code),
            ("", NO),
            "{}",
            unsigned.complaint
        );
        assert!(
            unsigned.complaint.contains("is not signed"),
            "{}",
            unsigned.complaint
        );
        for format in ["json", "yaml"] {
            let reply = ask(RIGHT, &[&words[..], &["-o", format]].concat());
            assert_eq!((reply.complaint.as_str(), reply.code), ("", NO));
            let answer: serde_json::Value = serde_yaml::from_str(&reply.answer).expect("YAML, or JSON");
            assert_eq!(answer["signed"], false, "{}", reply.answer);
            assert_eq!(answer["serial"], serde_json::Value::Null);
            assert!(
                answer["error"]
                    .as_str()
                    .is_some_and(|error| error.contains("is not signed"))
            );
        }
    }

    #[test]
    fn what_is_no_text_is_neither_signed_nor_formatted() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("p.yaml");
        let bytes = b"# segd: serial 1\na: \xff\xfe\nb: c\n";
        fs::write(&path, bytes).expect("a file");
        for words in [&["sign", "PATH", "--key", "/no/such/key"][..], &["fmt", "PATH"]] {
            let reply = ask_about(&path, words);
            assert_eq!(reply.code, INVALID, "{}", reply.complaint);
            assert!(reply.complaint.contains("not UTF-8"), "{}", reply.complaint);
            assert_eq!(fs::read(&path).expect("a file"), bytes);
        }
    }

    #[test]
    fn check_of_a_missing_path_names_it_and_exits_with_2() {
        let reply = ask_about(Path::new("/nowhere/at/all.yaml"), &["check", "PATH"]);
        assert_eq!(reply.code, INVALID);
        assert_eq!(
            reply.complaint,
            "error: cannot read `/nowhere/at/all.yaml`: No such file or directory (os error 2)\nhelp: check the path\n"
        );
    }

    #[test]
    fn explain_traces_a_verdict_to_its_line() {
        let reply = ask(
            RIGHT,
            &[
                "explain", "PATH", "--from", "web", "--to", "db", "--port", "tcp/5432",
            ],
        );
        assert_eq!(
            reply.answer,
            "allowed: web -> db tcp/5432\n  \
             reason   rule: a rule allows `web` to reach `db` on tcp/5432\n  \
             rule     shop/allow[0] at p.yaml:10\n           \
             {from: web, to: db, ports: [tcp/5432], reason: orders}\n  \
             because  orders\n  \
             change   to deny it, add under `deny`: {from: web, to: db, ports: [tcp/5432]}\n"
        );
        assert_eq!(reply.code, YES);
    }

    #[test]
    fn nothing_of_a_policy_steers_the_terminal() {
        let odd = RIGHT.replace("reason: orders", r#"reason: "\e[2J\u202e""#);
        let question = [
            "explain", "PATH", "--from", "web", "--to", "db", "--port", "tcp/5432",
        ];
        let reply = ask(&odd, &question);
        assert!(
            reply.answer.contains("because  \\u{1b}[2J\\u{202e}\n"),
            "{:?}",
            reply.answer
        );
        let machines: serde_json::Value =
            serde_json::from_str(&ask(&odd, &[&question[..], &["-o", "json"]].concat()).answer)
                .expect("JSON");
        assert_eq!(
            machines["because"], "\u{1b}[2J\u{202e}",
            "machines get what is there"
        );
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("p\u{1b}[2J.yaml");
        let missing = ask_about(&path, &["check", "PATH"]);
        fs::write(&path, odd.replace("to: db", "to: bd")).expect("a file");
        for reply in [missing, ask_about(&path, &["check", "PATH"])] {
            assert!(
                reply.complaint.contains("p\\u{1b}[2J.yaml"),
                "{:?}",
                reply.complaint
            );
            assert!(!reply.complaint.contains('\u{1b}'), "{:?}", reply.complaint);
        }
    }

    #[test]
    fn explain_of_a_denial_exits_with_1_and_names_the_nearest_rule() {
        let reply = ask(
            RIGHT,
            &[
                "explain", "PATH", "--from", "ops", "--to", "web", "--port", "tcp/80", "-o", "json",
            ],
        );
        let answer: serde_json::Value = serde_json::from_str(&reply.answer).expect("JSON");
        assert_eq!(answer["verdict"], "denied");
        assert_eq!(answer["reason"], "no-rule");
        assert_eq!(answer["rule"], serde_json::Value::Null);
        assert_eq!(answer["nearest"]["rule"], "shop/allow[1]");
        assert_eq!(answer["nearest"]["location"], "p.yaml:11");
        assert_eq!(reply.code, NO);
    }

    #[test]
    fn explain_of_what_only_audit_mode_lets_pass_exits_with_1() {
        let reply = ask(
            RIGHT,
            &[
                "explain", "PATH", "--from", "web", "--to", "db", "--port", "tcp/22",
            ],
        );
        assert!(
            reply.answer.starts_with("audited: web -> db tcp/22\n"),
            "{}",
            reply.answer
        );
        assert_eq!(reply.code, NO);
    }

    #[test]
    fn explain_takes_addresses_cgroups_and_flows() {
        let policy = RIGHT.replace("{user: alice}", "{user: 1001}, {cidr: 192.0.2.0/24}");
        for (question, said) in [
            (
                &["--from", "192.0.2.9", "--to", "web", "--port", "tcp/22"][..],
                ["allowed: ops -> web tcp/22", "192.0.2.9 is `ops` on the network"],
            ),
            (
                &[
                    "--from",
                    "203.0.113.9",
                    "--to-cgroup",
                    "/no-such/web",
                    "--port",
                    "tcp/22",
                ],
                [
                    "denied: world -> host tcp/22",
                    "/no-such/web is `host`: no segment claims it; this host has no such cgroup now",
                ],
            ),
            (
                &[
                    "--from-cgroup",
                    "/web/worker",
                    "--to-cgroup",
                    "/db",
                    "--port",
                    "tcp/5432",
                ],
                [
                    "allowed: web -> db tcp/5432",
                    "/web/worker is `web` by cgroup: /web at p.yaml:6",
                ],
            ),
            (
                &[
                    "--flow",
                    r#"{"from":"x","to":"y","hook":"egress","protocol":"tcp","destination_port":5432,"cgroup":"/web","peer_cgroup":"/db"}"#,
                ],
                [
                    "allowed: web -> db tcp/5432",
                    "/db is `db` by cgroup: /db at p.yaml:7",
                ],
            ),
        ] {
            let enforced = policy
                .replace("spec:\n", "spec:\n  defaults: {host: enforce}\n")
                .replace("p.yaml:6", "p.yaml:7");
            let text = if question.contains(&"203.0.113.9") {
                &enforced
            } else {
                &policy
            };
            let reply = ask(text, &[&["explain", "PATH"], question].concat());
            for said in said {
                assert!(
                    reply.answer.contains(said),
                    "{said}\n{}{}",
                    reply.answer,
                    reply.complaint
                );
            }
        }
    }

    #[test]
    fn a_workload_of_two_segments_is_denied_and_both_are_named() {
        let tie = RIGHT
            .replace("{user: alice}", "{systemd: \"a*.service\"}")
            .replace("{cgroup: /web}", "{systemd: \"*b.service\"}");
        let question = [
            "explain",
            "PATH",
            "--from-cgroup",
            "/x/ab.service",
            "--to",
            "db",
            "--port",
            "tcp/22",
        ];
        let reply = ask(&tie, &question);
        assert_eq!((reply.complaint.as_str(), reply.code), ("", NO));
        for said in [
            "denied: /x/ab.service -> db tcp/22",
            "reason   ambiguous: ",
            "`web` by systemd: *b.service at p.yaml:6",
            "`ops` by systemd: a*.service at p.yaml:8",
        ] {
            assert!(reply.answer.contains(said), "{said}\n{}", reply.answer);
        }
    }

    #[test]
    fn explain_says_what_would_turn_the_answer_round() {
        let guarded = format!("{RIGHT}  deny:\n    - {{from: web, to: db}}\n");
        let question = [
            "explain", "PATH", "--from", "web", "--to", "db", "--port", "tcp/5432", "-o", "json",
        ];
        let reply = ask(&guarded, &question);
        let answer: serde_json::Value = serde_json::from_str(&reply.answer).expect("JSON");
        let change = serde_json::json!({
            "list": null, "add": null, "narrow": ["shop/deny[0]"],
            "sentence": "to allow it, take it out of guardrail shop/deny[0] at p.yaml:13",
        });
        assert_eq!(answer["change"], change);
        assert_eq!(answer["considered"][0]["rule"], "shop/allow[0]");
        assert_eq!(
            answer["considered"][0]["role"],
            "would allow it, but a guardrail beats it"
        );
    }

    #[test]
    fn explain_refuses_what_it_cannot_answer() {
        for (from, to, port, said) in [
            (
                "webb",
                "db",
                "tcp/22",
                "the policy has no segment `webb`; did you mean `web`?",
            ),
            (
                "web",
                "any",
                "tcp/22",
                "`any` is everybody; name one party: a segment, `host`, `world` or an address",
            ),
            (
                "web",
                "db",
                "tcp/1-2",
                "`tcp/1-2` is more than one port; ask about one of them, as in `tcp/1`",
            ),
            (
                "web",
                "db",
                "22",
                "`22` is not a port; write `tcp/22` or `udp/22`",
            ),
        ] {
            let reply = ask(
                RIGHT,
                &["explain", "PATH", "--from", from, "--to", to, "--port", port],
            );
            assert_eq!(
                (reply.complaint, reply.code),
                (format!("error: {said}\n"), INVALID)
            );
        }
    }
}
