//! What ends and opens, by a calendar of its own.

use jiff::Timestamp;

use super::*;
use crate::policy::{compile::compile, compiled::SegmentIndexes, testing::policy_of};

fn moment(second: i64, boot_ns: u64) -> Moment {
    Moment {
        calendar: Timestamp::from_second(second).expect("a time"),
        boot_ns,
    }
}

#[test]
fn time_that_passes_is_no_step() {
    let before = moment(1_000_000, 5_000_000_000);
    assert_eq!(step_ns(&before, &moment(1_000_007, 12_000_000_000)), 0);
    assert_eq!(
        step_ns(&before, &moment(1_000_107, 12_000_000_000)),
        100_000_000_000
    );
    assert_eq!(
        step_ns(&before, &moment(1_000_006, 12_000_000_000)),
        -1_000_000_000
    );
}

#[test]
fn an_end_keeps_its_distance_on_the_boot_clock() {
    let now = moment(1_000_000, 5_000_000_000);
    let end = |second: i64| Timestamp::from_second(second).expect("a time");
    assert_eq!(now.boot_ns_of(end(1_000_003)), 8_000_000_000);
    assert_eq!(now.boot_ns_of(end(999_999)), 4_000_000_000);
    assert_eq!(now.boot_ns_of(end(0)), 1, "past, and not without an end");
    assert_eq!(Moment::FIRST.boot_ns_of(end(0)), u64::MAX, "nothing is over yet");
    assert!(now.boot_ns_of(Timestamp::MAX) > now.boot_ns);
}

const SEGMENTS: &str = "{a: {match: [{cgroup: /a}]}, b: {match: [{cgroup: /b}]}}";

/// 2026-11-30 is a Monday.
const RULES: &str = "[{from: a, to: b, ports: [tcp/1], until: 2026-11-30T12:00:00Z}, \
    {from: a, to: b, ports: [tcp/2], when: {days: [mon-fri], hours: 08:00-18:00, zone: UTC}}, \
    {from: a, to: b, ports: [tcp/3]}, \
    {from: a, to: b, ports: [tcp/2], when: {days: [mon], hours: 17:00-19:00, zone: UTC}}]";

fn tables() -> CompiledTables {
    let policy = policy_of(SEGMENTS, RULES, "[]");
    let mut indexes = SegmentIndexes::default();
    indexes.allocate(&policy, &BTreeSet::new()).expect("fits");
    compile(&policy, &indexes, None).expect("fits")
}

fn at(time: &str) -> Moment {
    let calendar: Timestamp = format!("2026-{time}:00Z").parse().expect("a time");
    let booted: Timestamp = "2026-11-29T00:00:00Z".parse().expect("a time");
    Moment {
        calendar,
        boot_ns: u64::try_from(calendar.as_nanosecond() - booted.as_nanosecond()).expect("later"),
    }
}

/// The calendar was set, and the boot clock does not know.
fn set(moment: Moment, calendar: &str) -> Moment {
    Moment {
        calendar: at(calendar).calendar,
        ..moment
    }
}

/// The rules that opened and those that shut, by their place in the list.
fn rules(todo: &Todo) -> (Vec<&str>, Vec<&str>) {
    fn place(label: &str) -> &str {
        label.trim_start_matches("test/allow[").trim_end_matches(']')
    }
    let opened = todo.opened.iter().map(|(_, label)| place(label));
    let shut = todo.shut.iter().map(|(_, label, _)| place(label));
    (opened.collect(), shut.collect())
}

#[test]
fn opens_and_shuts_rules_when_it_is_time_and_does_nothing_in_between() {
    let tables = tables();
    let policies = [(7, &tables)];
    let mut expiry = Expiry::default();
    for (time, opened, shut, due) in [
        // The first look says all there is; what is shut may have sessions from before.
        ("11-30T07:00", vec![], vec!["1", "3"], "11-30T08:00"),
        ("11-30T08:00", vec!["1"], vec![], "11-30T12:00"),
        ("11-30T12:00", vec![], vec!["0"], "11-30T17:00"),
        // Nobody looked at 17:00.
        ("11-30T17:30", vec!["3"], vec![], "11-30T18:00"),
        ("11-30T18:00", vec![], vec!["1"], "11-30T19:00"),
        ("11-30T19:00", vec![], vec!["3"], "12-01T08:00"),
    ] {
        let todo = expiry.look(&policies, at(time));
        assert!(todo.write, "{time}");
        assert_eq!(rules(&todo), (opened, shut), "{time}");
        assert_eq!(expiry.due, Some(at(due).calendar), "{time}");
        assert_eq!(expiry.look(&policies, at(time)), Todo::default(), "{time}: again");
        let before = Moment {
            calendar: at(due)
                .calendar
                .saturating_sub(jiff::SignedDuration::from_millis(1))
                .expect("a time"),
            boot_ns: at(due).boot_ns - 1_000_000,
        };
        assert_eq!(
            expiry.look(&policies, before),
            Todo::default(),
            "{time}: just before the next"
        );
    }
}

#[test]
fn follows_a_step_of_the_calendar_in_both_directions() {
    let tables = tables();
    let policies = [(7, &tables)];
    let mut expiry = Expiry::default();
    expiry.look(&policies, at("11-30T09:00"));
    let noon = at("11-30T10:00");
    assert_eq!(expiry.look(&policies, noon), Todo::default());
    // Into the night, and the window is shut at once: what the kernel was told is of the calendar before.
    let night = set(noon, "11-30T23:00");
    let todo = expiry.look(&policies, night);
    assert!(todo.write);
    assert_eq!(rules(&todo), (vec![], vec!["0", "1"]));
    let ends: Vec<u64> = tables.ends(night).take(5).collect();
    assert!(ends.iter().all(|end| *end <= night.boot_ns), "{ends:?}");
    // And back: open, until the boot clock has counted eight hours.
    let back = set(noon, "11-30T10:00");
    let todo = expiry.look(&policies, back);
    assert_eq!(rules(&todo), (vec!["0", "1"], vec![]));
    let hours = |hours: u64| back.boot_ns + hours * 3_600_000_000_000;
    let ends: Vec<u64> = tables.ends(back).take(5).collect();
    // The last one is of rules 1 and 3 together: 08:00 to 19:00.
    assert_eq!(ends, [hours(2), hours(8), 0, 1, hours(9)]);
    // A small step inside a window moves its end.
    let late = set(noon, "11-30T10:01");
    assert!(expiry.look(&policies, late).write);
    assert_eq!(tables.ends(late).nth(1), Some(hours(8) - 60_000_000_000));
}

#[test]
fn looks_at_a_policy_that_is_new_and_tries_again_what_failed() {
    let tables = tables();
    let mut expiry = Expiry::default();
    let now = at("11-30T09:00");
    expiry.look(&[(7, &tables)], now);
    let todo = expiry.look(&[(8, &tables)], now);
    assert!(todo.write);
    assert_eq!(rules(&todo), (vec![], vec!["3"]), "of the new revision");
    expiry.again();
    let todo = expiry.look(&[(8, &tables)], now);
    assert!(todo.write && todo.shut.is_empty());
}

#[test]
fn tells_what_each_rule_does_next() {
    let policy = policy_of(SEGMENTS, RULES, "[]");
    let term = |rule: usize| &policy.rules.get(rule).expect("a rule").term;
    let next = |rule: usize, time: &str| {
        next_of(term(rule), at(time).calendar).map(|(word, at)| format!("{word} {at}"))
    };
    let says = |text: &str| Some(text.to_owned());
    assert_eq!(next(0, "11-30T09:00"), says("ends 2026-11-30T12:00:00Z"));
    assert_eq!(next(0, "11-30T13:00"), says("over 2026-11-30T12:00:00Z"));
    assert_eq!(next(1, "11-30T09:00"), says("shuts 2026-11-30T18:00:00Z"));
    assert_eq!(next(1, "11-30T19:00"), says("opens 2026-12-01T08:00:00Z"));
    assert_eq!(next(2, "11-30T09:00"), None);
    let end = |rule: usize, time: &str| end_of(term(rule), at(time).calendar).map(|end| end.to_string());
    assert_eq!(end(1, "11-30T09:00"), says("2026-11-30T18:00:00Z"));
    assert_eq!(end(1, "11-30T19:00"), says("2026-12-01T18:00:00Z"));
    assert_eq!(end(0, "11-30T13:00"), says("2026-11-30T12:00:00Z"));
}
