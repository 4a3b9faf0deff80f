//! Flow records, their log and its limits.

use segd_common::address::mapped;

use super::*;
use crate::policy::{
    compiled::ToldRules,
    model::{Action, Home, Rule, Spot},
};

fn tables(document: &str, number: u32) -> Arc<CompiledTables> {
    let home = Arc::new(Home {
        file: "p.yaml".into(),
        document: document.into(),
        text: "".into(),
    });
    let spot = Spot {
        line: 12,
        column: 3,
        number,
        start: 0,
        end: 0,
    };
    let ends = [Arc::default(), Arc::default()];
    let rule = Rule::new(
        (home, spot),
        Action::Allow,
        ends,
        Arc::default(),
        (None, Arc::default()),
    );
    Arc::new(CompiledTables {
        names: Arc::new(["", "host", "world", "", "web", "db"].map(String::from).to_vec()),
        rules: ToldRules([rule].into_iter().collect()),
        ..Default::default()
    })
}

fn event() -> FlowEvent {
    FlowEvent {
        time_ns: EventClock::Boot.now_ns(),
        cgroup: 42,
        peer_cgroup: 0,
        rule: Verdict::NO_RULE,
        revision: 1,
        service: service::port(service::TCP, 5432),
        bytes: 60,
        source: mapped([10, 0, 0, 1]),
        destination: mapped([10, 0, 0, 2]),
        source_port: 40000,
        destination_port: 5432,
        from: 4,
        to: 5,
        outcome: Outcome::Denied as u8,
        reason: Reason::NoRule as u8,
        hook: Hook::Ingress as u8,
        flags: 0,
        reserved: 0,
    }
}

fn log() -> FlowLog {
    let log = FlowLog::new(EventClock::Boot);
    log.adopt(1, tables("shop", 0));
    log
}

fn newest(log: &FlowLog) -> FlowRecord {
    log.follow(1, &FlowFilter::default())
        .0
        .first()
        .expect("a flow is kept")
        .as_ref()
        .clone()
}

#[test]
fn tells_a_denied_flow_in_the_policys_words() {
    let log = log();
    log.record(&event(), |id| (id == 42).then(|| "/shop/web".to_string()));
    let flow = newest(&log);
    assert_eq!((&*flow.from, &*flow.to), ("web", "db"));
    assert_eq!(
        (flow.verdict.as_ref(), flow.reason.as_ref(), flow.hook.as_ref()),
        ("denied", "no-rule", "ingress")
    );
    assert_eq!((&*flow.source, flow.source_port), ("10.0.0.1", Some(40000)));
    assert_eq!(
        (&*flow.destination, flow.destination_port),
        ("10.0.0.2", Some(5432))
    );
    assert_eq!(flow.service(), "tcp/5432");
    assert_eq!(flow.cgroup.as_deref(), Some("/shop/web"));
    assert_eq!((flow.rule, flow.peer_cgroup), (None, None));
}

#[test]
fn a_flood_is_told_of_in_few_texts() {
    let log = log();
    for number in 0..2 * KEPT as u32 {
        // Each from an address of its own: of those no more are remembered than are worth it.
        let source = mapped([10, 1, (number >> 8) as u8, number as u8]);
        let event = FlowEvent { source, ..event() };
        log.record(&event, |_| Some("/shop/web".to_string()));
    }
    let (kept, _) = log.follow(KEPT, &FlowFilter::default());
    assert_eq!(kept.len(), KEPT);
    let texts: HashSet<*const u8> = kept.iter().map(|flow| flow.from.as_ptr()).collect();
    assert!(texts.len() <= 2 + KEPT / Texts::MOST, "{}", texts.len());
    let inner = log.inner();
    assert!(inner.texts.0.len() <= Texts::MOST);
    let [last, before] = [1, 2].map(|back| Arc::clone(&inner.kept[KEPT - back]));
    assert_eq!((&*last.source, &*before.source), ("10.1.31.255", "10.1.31.254"));
    assert_eq!(last.cgroup.as_deref(), Some("/shop/web"));
}

#[test]
fn names_the_rule_of_the_revision_that_judged() {
    let log = log();
    log.adopt(2, tables("shop", 7));
    log.record(&FlowEvent { rule: 0, ..event() }, |_| None);
    assert_eq!(newest(&log).rule.as_deref(), Some("shop/allow[0]"));
    assert_eq!(newest(&log).location.as_deref(), Some("p.yaml:12"));
    log.record(
        &FlowEvent {
            rule: 0,
            revision: 2,
            ..event()
        },
        |_| None,
    );
    assert_eq!(newest(&log).rule.as_deref(), Some("shop/allow[7]"));
    log.adopt(3, tables("x", 0));
    log.record(
        &FlowEvent {
            rule: 0,
            revision: 1,
            ..event()
        },
        |_| None,
    );
    assert_eq!(
        newest(&log).rule,
        None,
        "a forgotten revision names no rule rather than a wrong one"
    );
    log.record(
        &FlowEvent {
            rule: 9,
            revision: 3,
            ..event()
        },
        |_| None,
    );
    assert_eq!(newest(&log).rule, None);
}

#[test]
fn shows_icmp_types_and_bare_protocols_without_ports() {
    let log = log();
    log.record(
        &FlowEvent {
            service: service::icmp(service::ICMPV6, 128, 0),
            ..event()
        },
        |_| None,
    );
    let flow = newest(&log);
    assert_eq!(flow.service(), "icmpv6/128/0");
    assert_eq!(
        (flow.source_port, flow.destination_port, flow.icmp_type),
        (None, None, Some(128))
    );
    log.record(
        &FlowEvent {
            service: service::bare(47),
            ..event()
        },
        |_| None,
    );
    assert_eq!(newest(&log).service(), "ip/47");
}

#[test]
fn leaves_out_its_own_probe() {
    let log = log();
    log.record(
        &FlowEvent {
            reason: Reason::Probe as u8,
            ..event()
        },
        |_| None,
    );
    assert!(log.follow(9, &FlowFilter::default()).0.is_empty());
}

#[test]
fn keeps_the_newest_and_filters_before_it_counts() {
    let log = log();
    for n in 0..KEPT + 10 {
        let outcome = if n % 2 == 0 {
            Outcome::Denied
        } else {
            Outcome::Allowed
        };
        log.record(
            &FlowEvent {
                outcome: outcome as u8,
                revision: n as u32,
                ..event()
            },
            |_| None,
        );
    }
    let all = log.follow(usize::MAX, &FlowFilter::default()).0;
    assert_eq!((all.len(), all[0].revision), (KEPT, 10));
    let filter = FlowFilter {
        verdict: vec!["allowed".into()],
        ..Default::default()
    };
    let some = log.follow(3, &filter).0;
    let revisions: Vec<_> = some.iter().map(|flow| flow.revision as usize).collect();
    assert_eq!(revisions, [KEPT + 5, KEPT + 7, KEPT + 9]);
}

#[test]
fn passes_new_flows_to_followers() {
    let log = log();
    let (_, mut coming) = log.follow(0, &FlowFilter::default());
    log.record(
        &FlowEvent {
            flags: EVENT_REVOKED,
            ..event()
        },
        |_| None,
    );
    assert!(coming.try_recv().expect("it came").revoked);
}
