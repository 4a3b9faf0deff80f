//! The command line as users type it.

use super::*;
use crate::{daemon::Options, policy::model::Mode, source::Trust};

#[track_caller]
fn options(arguments: &[&str]) -> Options {
    let all = ["segd", "run"].into_iter().chain(arguments.iter().copied());
    match Cli::try_parse_from(all).expect("the usage is right").command {
        Command::Run(args) => args.options(),
        other => panic!("not `run`: {other:?}"),
    }
}

#[test]
fn has_no_contradiction_in_its_flags() {
    Cli::command().debug_assert();
}

#[test]
fn shows_an_example_for_every_visible_verb() {
    for command in Cli::command()
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
    {
        let help = command
            .get_after_help()
            .map(ToString::to_string)
            .unwrap_or_default();
        assert!(
            help.contains(&format!("segd {}", command.get_name())),
            "`{}` has no example",
            command.get_name()
        );
    }
}

#[test]
fn runs_with_the_defaults_of_the_contract() {
    let options = options(&["--policy", "/etc/segd/policy"]);
    assert_eq!(options.policy, [std::path::PathBuf::from("/etc/segd/policy")]);
    assert_eq!(options.mode, None);
    assert!(!options.allow_empty);
    assert_eq!(options.cgroup_root, None);
    assert_eq!(options.pin_dir.to_str(), Some("/sys/fs/bpf/segd"));
    assert_eq!(options.control.to_str(), Some("/run/segd/control.sock"));
    assert_eq!(options.control_group, None);
    assert_eq!(
        options.metrics.map(|address| address.to_string()).as_deref(),
        Some("127.0.0.1:9464")
    );
    assert!(options.interfaces.is_empty());
    assert!(!options.protect);
    assert!(!options.node_name.is_empty());
}

#[test]
fn takes_every_flag_of_run() {
    let options = options(&[
        "--policy",
        "a",
        "b",
        "--policy",
        "c",
        "--policy-owner",
        "root,4711",
        "--mode",
        "audit",
        "--allow-empty",
        "--cgroup-root",
        "/cg",
        "--pin-dir",
        "/pins",
        "--control",
        "/sock",
        "--control-group",
        "wheel",
        "--metrics",
        "none",
        "--interface",
        "eth0",
        "--interface",
        "eth1",
        "--protect",
        "--node-name",
        "n1",
    ]);
    assert_eq!(options.policy.len(), 3);
    assert_eq!(options.trust, Trust::of_daemon(&[0, 4711]));
    assert_eq!(options.mode, Some(Mode::Audit));
    assert!(options.allow_empty);
    assert_eq!(options.metrics, None);
    assert!(options.protect);
    assert_eq!(options.interfaces, ["eth0", "eth1"]);
    assert_eq!(options.control_group.as_deref(), Some("wheel"));
    assert_eq!(options.node_name, "n1");
}

#[test]
fn refuses_a_wrong_usage_with_exit_code_2() {
    for wrong in [
        &["run"][..],
        &["run", "--policy", "x", "--mode", "sometimes"],
        &["run", "--policy", "x", "--metrics", "9464"],
        &["run", "--policy", "x", "--policy-owner", "segd-no-such-user"],
        &["run", "--policy", "x", "surplus", "--no-such-flag"],
        &["flows", "--verdict", "maybe"],
        &["status", "-o", "xml"],
        &["no-such-command"],
    ] {
        let all = ["segd"].into_iter().chain(wrong.iter().copied());
        let error = Cli::try_parse_from(all).expect_err("the usage is wrong");
        assert_eq!(error.exit_code(), 2, "{wrong:?}");
    }
}

#[test]
fn an_empty_variable_is_as_good_as_none() {
    fn left(command: &clap::Command, out: &mut Vec<String>) {
        let names = command.get_arguments().filter_map(clap::Arg::get_env);
        out.extend(names.map(|name| name.to_string_lossy().into_owned()));
        command.get_subcommands().for_each(|command| left(command, out));
    }
    let (mut all, mut empty, mut one) = (Vec::new(), Vec::new(), Vec::new());
    left(&without_empty(Cli::command(), &|_| false), &mut all);
    assert!(all.len() > 20, "{all:?}");
    left(&without_empty(Cli::command(), &|_| true), &mut empty);
    assert_eq!(empty, ["SEGD_REQUIRE_SIGNATURE"]);
    left(
        &without_empty(Cli::command(), &|name| name == "SEGD_CONTROL"),
        &mut one,
    );
    assert_eq!(
        one,
        all.iter()
            .filter(|name| *name != "SEGD_CONTROL")
            .cloned()
            .collect::<Vec<_>>()
    );
}

#[test]
fn no_signature_is_required_by_an_empty_name() {
    let wrong = ["segd", "run", "--policy", "x", "--require-signature", ""];
    let error = Cli::try_parse_from(wrong).expect_err("the usage is wrong");
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("SEGD_REQUIRE_SIGNATURE"), "{error}");
    assert!(options(&["--policy", "x", "--interface", "", "--interface", "eth0,"]).interfaces == ["eth0"]);
}
