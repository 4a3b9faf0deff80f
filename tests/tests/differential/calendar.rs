//! When a rule holds, as its author reckons: a quarter of an hour after the other, in zones whose clocks nobody changes.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::dice::Dice;

const MINUTE: i64 = 60;
/// Every window begins and ends with one, in whatever zone.
const QUARTER: i64 = 15 * MINUTE;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const WEEK: i64 = 7 * DAY;

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
/// What their clocks are ahead of UTC.
const ZONES: [(&str, i64); 5] = [
    ("UTC", 0),
    ("Asia/Kolkata", 5 * HOUR + 30 * MINUTE),
    ("Asia/Kathmandu", 5 * HOUR + 45 * MINUTE),
    ("America/Phoenix", -7 * HOUR),
    ("Asia/Tokyo", 9 * HOUR),
];

/// An entry of `when`.
#[derive(Clone, Debug)]
struct Window {
    first: i64,
    last: i64,
    /// Seconds of the day.
    from: i64,
    to: i64,
    zone: (&'static str, i64),
}

/// `until` and `when` of a rule; the default is neither.
#[derive(Clone, Debug, Default)]
pub struct Term {
    until: Option<i64>,
    when: Vec<Window>,
}

/// A random time, as far from any quarter as it gets: a round is over before anything changes.
pub fn time(dice: &mut Dice) -> i64 {
    // From 2025 to 2034.
    let quarters = dice.below((10 * 365 * DAY / QUARTER) as usize) as i64;
    1_735_689_600 + quarters * QUARTER + QUARTER / 2
}

/// A second as it is written.
pub fn text(second: i64) -> String {
    stamp(second).to_string()
}

/// A second as segd takes it.
pub fn stamp(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

impl Window {
    fn random(dice: &mut Dice) -> Window {
        let hour = |dice: &mut Dice| dice.below(48) as i64 * (HOUR / 2);
        let (first, from) = (dice.below(7) as i64, hour(dice));
        let to = match hour(dice) {
            // Midnight is written as the end of a day.
            to if to == from || to == 0 => 24 * HOUR,
            to => to,
        };
        Window {
            first,
            last: (first + dice.below(6) as i64) % 7,
            from,
            to,
            zone: *dice.pick(&ZONES),
        }
    }

    fn is_open(&self, time: i64) -> bool {
        let local = time + self.zone.1;
        // The first of January 1970 was a Thursday.
        let (day, second) = ((local.div_euclid(DAY) + 3) % 7, local.rem_euclid(DAY));
        let begins = |day: i64| (day - self.first).rem_euclid(7) <= (self.last - self.first).rem_euclid(7);
        if self.from < self.to {
            return begins(day) && self.from <= second && second < self.to;
        }
        (begins(day) && self.from <= second) || (begins(day - 1) && second < self.to)
    }

    fn write(&self, out: &mut String) {
        let clock = |second: i64| format!("{:02}:{:02}", second / HOUR, second % HOUR / MINUTE);
        let (first, last) = (DAYS[self.first as usize], DAYS[self.last as usize]);
        let days = if first == last {
            first.to_owned()
        } else {
            format!("{first}-{last}")
        };
        let (from, to, zone) = (clock(self.from), clock(self.to), self.zone.0);
        let _ = write!(out, "{{days: [{days}], hours: \"{from}-{to}\", zone: {zone}}}");
    }
}

impl Term {
    /// A random one, around a time.
    pub fn random(dice: &mut Dice, now: i64) -> Term {
        let ends = [-30 * DAY, -1, 0, HOUR, HOUR + 1, 2 * DAY, 9 * DAY, 3650 * DAY];
        let until = dice.once_in(2).then(|| now + *dice.pick(&ends));
        let count = match until {
            Some(_) => dice.below(3),
            None => 1 + dice.below(2),
        };
        let when = (0..count).map(|_| Window::random(dice)).collect();
        let mut term = Term { until, when };
        // All of the week would be no window.
        if (0..WEEK / QUARTER).all(|quarter| term.is_in_a_window(now + quarter * QUARTER)) {
            term.when.truncate(1);
        }
        term
    }

    /// Whether it never ends.
    pub fn is_lasting(&self) -> bool {
        self.until.is_none() && self.when.is_empty()
    }

    fn is_in_a_window(&self, time: i64) -> bool {
        self.when.is_empty() || self.when.iter().any(|window| window.is_open(time))
    }

    fn is_open(&self, time: i64) -> bool {
        self.until.is_none_or(|end| time < end) && self.is_in_a_window(time)
    }

    /// When it shuts, if it is open at a time in the middle of a quarter.
    pub fn open_until(&self, time: i64) -> Option<i64> {
        if !self.is_open(time) {
            return None;
        }
        let edges = (0..).map(|quarter| time + QUARTER / 2 + quarter * QUARTER);
        let shuts = edges
            .take_while(|edge| *edge < time + WEEK + DAY)
            .find(|edge| !self.is_in_a_window(*edge));
        let end = [shuts, self.until].into_iter().flatten().min();
        Some(end.expect("it is no lasting one"))
    }

    /// As fields of a rule.
    pub fn write(&self, out: &mut String) {
        if let Some(until) = self.until {
            let _ = write!(out, ", until: {}", text(until));
        }
        if self.when.is_empty() {
            return;
        }
        *out += ", when: [";
        for (number, window) in self.when.iter().enumerate() {
            *out += if number == 0 { "" } else { ", " };
            window.write(out);
        }
        *out += "]";
    }
}
