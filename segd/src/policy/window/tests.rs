//! Weekly windows against a slower reckoning, over every change of the clocks.

use proptest::prelude::*;

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

fn when(windows: &[(&str, &str, &str)]) -> When {
    let mut when = When::default();
    for (on, between, zone) in windows {
        when.add(
            &days(on).expect("days"),
            hours(between).expect("hours"),
            Zone::find(zone).expect("a zone"),
        );
    }
    when
}

/// Every change in a time.
fn changes(when: &When, from: &str, to: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut time = at(from);
    while let Some(change) = when.change_after(time).filter(|change| *change < at(to)) {
        let word = if when.is_open(change) { "opens" } else { "shuts" };
        found.push(format!("{word} {change}"));
        time = change;
    }
    found
}

#[test]
fn reads_days_and_hours() {
    assert_eq!(days("mon"), Ok(vec![0]));
    assert_eq!(days("mon-fri"), Ok(vec![0, 1, 2, 3, 4]));
    assert_eq!(days("sat-mon"), Ok(vec![5, 6, 0]));
    assert_eq!(hours("08:00-18:30"), Ok((8 * 3600, 18 * 3600 + 1800)));
    assert_eq!(hours("00:00-24:00"), Ok((0, 86400)));
    assert_eq!(hours("22:00-06:00"), Ok((22 * 3600, 6 * 3600)));
}

#[test]
fn says_what_is_wrong_with_a_window() {
    for (text, message, help) in [
        ("monday", "`monday` is not a day", "did you mean `mon`?"),
        ("Mon", "`Mon` is not a day", "did you mean `mon`?"),
        ("mno", "`mno` is not a day", "did you mean `mon`?"),
        ("weekdays", "`weekdays` is not a day", "the days are"),
        ("mon-mon", "`mon-mon` is one day", "write `mon`"),
        ("mon-", "`` is not a day", "the days are"),
        ("7", "`7` is not a day", "the days are"),
    ] {
        let problem = days(text).expect_err(text);
        assert_eq!(problem.message, message, "{text}");
        assert!(problem.help.starts_with(help), "{text}: {problem:?}");
    }
    for (text, message) in [
        ("8-18", "is not a pair"),
        ("08:00", "is not a pair"),
        ("08:00 - 18:00", "is not a pair"),
        ("8:00-18:00", "is not a pair"),
        ("08:00-18:00:00", "is not a pair"),
        ("08:00-25:00", "is not a time of day"),
        ("08:60-09:00", "is not a time of day"),
        ("08:00-24:01", "is not a time of day"),
        ("24:00-06:00", "begins when the day is over"),
        ("22:00-00:00", "ends before it begins"),
        ("08:00-08:00", "is no time at all"),
        ("00:00-00:00", "is no time at all"),
        ("+8:00-18:00", "is not a pair"),
        ("", "is not a pair"),
    ] {
        let problem = hours(text).expect_err(text);
        assert!(problem.message.contains(message), "{text}: {problem:?}");
    }
    for (text, help) in [
        ("Europe/Berln", "did you mean `Europe/Berlin`?"),
        ("europe/berlin", "did you mean `Europe/Berlin`?"),
        ("Berlin", "did you mean `Europe/Berlin`?"),
        ("new york", "did you mean `America/New_York`?"),
        ("local", "write a name of the IANA database"),
        ("+01:00", "write a name of the IANA database"),
    ] {
        assert!(
            Zone::find(text).expect_err(text).help.starts_with(help),
            "{text}: {:?}",
            Zone::find(text)
        );
    }
}

#[test]
fn knows_days_of_a_leap_year() {
    // 29 February 2028 is a Tuesday.
    let tuesdays = when(&[("tue", "00:00-24:00", "UTC")]);
    assert_eq!(
        changes(&tuesdays, "2028-02-23T00:00:00Z", "2028-03-08T00:00:00Z"),
        [
            "opens 2028-02-29T00:00:00Z",
            "shuts 2028-03-01T00:00:00Z",
            "opens 2028-03-07T00:00:00Z"
        ]
    );
}

#[test]
fn a_window_may_go_on_into_the_next_day_and_the_next_week() {
    let nights = when(&[("sun", "22:00-06:00", "UTC"), ("wed", "22:00-06:00", "UTC")]);
    assert_eq!(
        changes(&nights, "2026-11-29T00:00:00Z", "2026-12-04T00:00:00Z"),
        [
            "opens 2026-11-29T22:00:00Z",
            "shuts 2026-11-30T06:00:00Z",
            "opens 2026-12-02T22:00:00Z",
            "shuts 2026-12-03T06:00:00Z"
        ]
    );
    // What touches is one window.
    let days = when(&[("mon-wed", "00:00-24:00", "UTC")]);
    assert_eq!(
        changes(&days, "2026-11-29T00:00:00Z", "2026-12-05T00:00:00Z"),
        ["opens 2026-11-30T00:00:00Z", "shuts 2026-12-03T00:00:00Z"]
    );
}

#[test]
fn keeps_to_the_clock_on_the_wall_when_it_is_put_forward() {
    // Berlin, 29 March 2026: after 01:59:59 (+01) comes 03:00:00 (+02).
    for (hours, expected) in [
        (
            "01:00-04:00",
            vec!["opens 2026-03-29T00:00:00Z", "shuts 2026-03-29T02:00:00Z"],
        ),
        // It would begin in the hour that is left out.
        (
            "02:30-04:00",
            vec!["opens 2026-03-29T01:00:00Z", "shuts 2026-03-29T02:00:00Z"],
        ),
        // It would end there.
        (
            "01:00-02:30",
            vec!["opens 2026-03-29T00:00:00Z", "shuts 2026-03-29T01:00:00Z"],
        ),
        // All of it would lie there.
        ("02:00-03:00", vec![]),
        (
            "08:00-18:00",
            vec!["opens 2026-03-29T06:00:00Z", "shuts 2026-03-29T16:00:00Z"],
        ),
    ] {
        let window = when(&[("sun", hours, "Europe/Berlin")]);
        assert_eq!(
            changes(&window, "2026-03-28T12:00:00Z", "2026-03-30T12:00:00Z"),
            expected,
            "{hours}"
        );
    }
}

#[test]
fn keeps_to_the_clock_on_the_wall_when_it_is_put_back() {
    // Berlin, 25 October 2026: after 02:59:59 (+02) comes 02:00:00 (+01).
    for (hours, expected) in [
        (
            "01:00-04:00",
            vec!["opens 2026-10-24T23:00:00Z", "shuts 2026-10-25T03:00:00Z"],
        ),
        // The clock shows 02:00 to 02:30 twice, and 02:30 to 03:00 between.
        (
            "01:00-02:30",
            vec![
                "opens 2026-10-24T23:00:00Z",
                "shuts 2026-10-25T00:30:00Z",
                "opens 2026-10-25T01:00:00Z",
                "shuts 2026-10-25T01:30:00Z",
            ],
        ),
        (
            "02:30-04:00",
            vec![
                "opens 2026-10-25T00:30:00Z",
                "shuts 2026-10-25T01:00:00Z",
                "opens 2026-10-25T01:30:00Z",
                "shuts 2026-10-25T03:00:00Z",
            ],
        ),
        (
            "02:00-03:00",
            vec!["opens 2026-10-25T00:00:00Z", "shuts 2026-10-25T02:00:00Z"],
        ),
        (
            "08:00-18:00",
            vec!["opens 2026-10-25T07:00:00Z", "shuts 2026-10-25T17:00:00Z"],
        ),
    ] {
        let window = when(&[("sun", hours, "Europe/Berlin")]);
        assert_eq!(
            changes(&window, "2026-10-24T12:00:00Z", "2026-10-26T12:00:00Z"),
            expected,
            "{hours}"
        );
    }
}

#[test]
fn windows_of_several_zones_are_one_if_they_touch() {
    // Berlin is six hours before New York, except for the weeks in which only one of them has changed its clocks.
    let sun = when(&[
        ("mon", "08:00-18:00", "Europe/Berlin"),
        ("mon", "12:00-18:00", "America/New_York"),
    ]);
    assert_eq!(
        changes(&sun, "2026-03-23T00:00:00Z", "2026-03-24T12:00:00Z"),
        // In the week before Berlin's change they are five hours apart.
        ["opens 2026-03-23T07:00:00Z", "shuts 2026-03-23T22:00:00Z"]
    );
    assert_eq!(
        changes(&sun, "2026-11-02T00:00:00Z", "2026-11-03T12:00:00Z"),
        ["opens 2026-11-02T07:00:00Z", "shuts 2026-11-02T23:00:00Z"]
    );
}

/// What the clock on the wall shows, by the calendar of the library, hour by hour and minute by minute.
fn shown(windows: &[(Vec<usize>, (u32, u32), &str)], time: Timestamp) -> bool {
    windows.iter().any(|(days, (start, end), zone)| {
        let zone = TimeZoneDatabase::bundled().get(zone).expect("a zone");
        let shown = time.to_zoned(zone);
        let today = shown.weekday().to_monday_zero_offset() as usize;
        let second = shown.hour() as u32 * 3600 + shown.minute() as u32 * 60 + shown.second() as u32;
        let yesterday = (today + 6) % 7;
        if start < end {
            days.contains(&today) && *start <= second && second < *end
        } else {
            days.contains(&today) && *start <= second || days.contains(&yesterday) && second < *end
        }
    })
}

fn window() -> impl Strategy<Value = (Vec<usize>, (u32, u32), &'static str)> {
    let zones = [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        // Half an hour of daylight saving, offsets of quarters, a day that was left out, and clocks against the sun.
        "Australia/Lord_Howe",
        "Asia/Kathmandu",
        "Pacific/Apia",
        "Europe/Dublin",
        "Africa/Casablanca",
    ];
    let hours = (0..96_u32, 1..96_u32).prop_map(|(start, length)| {
        let end = (start + length) % 96;
        (start * 900, if end == 0 { 86400 } else { end * 900 })
    });
    (
        proptest::sample::subsequence((0..7).collect::<Vec<usize>>(), 1..5),
        hours,
        proptest::sample::select(zones.to_vec()),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// From one change to the next, and at every quarter between, the clock on the wall says what the windows say.
    #[test]
    fn agrees_with_a_clock_on_the_wall(
        windows in proptest::collection::vec(window(), 1..4),
        start in 1_262_304_000..2_050_000_000_i64,
    ) {
        let mut when = When::default();
        for (days, hours, zone) in &windows {
            when.add(days, *hours, Zone::find(zone).expect("a zone"));
        }
        prop_assume!(!when.is_always());
        let mut time = Timestamp::from_second(start).expect("a time");
        let end = Timestamp::from_second(start + 16 * 86400).expect("a time");
        while time < end {
            let open = when.is_open(time);
            prop_assert_eq!(open, shown(&windows, time), "at {}", time);
            let change = when.change_after(time);
            let until = change.unwrap_or(end).min(end);
            prop_assert!(until > time);
            let mut between = time.as_second();
            while between < until.as_second() {
                let moment = Timestamp::from_second(between).expect("a time");
                prop_assert_eq!(open, shown(&windows, moment), "between, at {}", moment);
                between += 900 - between.rem_euclid(900);
            }
            if let Some(change) = change {
                let before = Timestamp::from_second(change.as_second() - 1).expect("a time");
                prop_assert_eq!(shown(&windows, before), open, "before the change at {}", change);
                prop_assert_eq!(shown(&windows, change), !open, "at the change at {}", change);
            }
            time = until;
        }
    }
}
