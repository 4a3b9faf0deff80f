//! Weekly windows as a policy writes them (`when:`): days, hours, and the time zone whose clocks count.
//!
//! A window is open while a clock on the wall of its zone shows a time in it, whatever daylight saving does to that clock: an
//! hour that is left out is in no window, an hour that comes twice is in its window twice.
//!
//! INVARIANT: reads no clock and no file. The zones' rules are part of the program, so a policy means the same on every host.

use jiff::{
    Timestamp,
    tz::{TimeZone, TimeZoneDatabase},
};

use super::diagnostic::nearest;

/// Why a text is no part of a window, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: String,
}

impl Problem {
    fn new(message: String, help: impl Into<String>) -> Problem {
        let help = help.into();
        Problem { message, help }
    }
}

/// The days of a week, which begins on Monday.
pub const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const DAY: u32 = 24 * 60 * 60;
const WEEK: u32 = 7 * DAY;

/// The days that `mon` or `mon-fri` names, as places in [`DAYS`]; `sat-mon` goes round the week.
///
/// # Errors
///
/// If it names no days.
pub fn days(text: &str) -> Result<Vec<usize>, Problem> {
    let day = |word: &str| {
        DAYS.iter().position(|day| *day == word).ok_or_else(|| {
            let lower = word.to_ascii_lowercase();
            let meant = DAYS
                .iter()
                .find(|day| lower.starts_with(**day))
                .copied()
                .or_else(|| nearest(&lower, DAYS));
            let help = match meant {
                Some(day) => format!("did you mean `{day}`?"),
                None => format!("the days are `{}`; `mon-fri` is five of them", DAYS.join("`, `")),
            };
            Problem::new(format!("`{word}` is not a day"), help)
        })
    };
    let Some((first, last)) = text.split_once('-') else {
        return Ok(vec![day(text)?]);
    };
    let (first, last) = (day(first)?, day(last)?);
    if first == last {
        let message = format!("`{text}` is one day");
        return Err(Problem::new(
            message,
            format!("write `{}`, or `mon-sun` for every day", DAYS[first]),
        ));
    }
    let count = (last + 7 - first) % 7 + 1;
    Ok((0..count).map(|day| (first + day) % 7).collect())
}

/// What hours look like.
const HOURS: &str =
    "write them like `08:00-18:00`; `22:00-06:00` goes on into the next day, `00:00-24:00` is a whole day";

/// The hours of `08:00-18:00`: the seconds of the day between which they lie. The second is the smaller one if they go on into
/// the next day.
///
/// # Errors
///
/// If they are none.
pub fn hours(text: &str) -> Result<(u32, u32), Problem> {
    let time = |text: &str| {
        let (hour, minute) = text.split_once(':')?;
        let two = |digits: &str| -> Option<u32> {
            let plain = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
            plain.then(|| digits.parse().ok()).flatten()
        };
        Some((two(hour)?, two(minute)?))
    };
    let pair = text
        .split_once('-')
        .and_then(|(from, to)| Some(((time(from)?, from), (time(to)?, to))));
    let Some((from, to)) = pair else {
        return Err(Problem::new(format!("`{text}` is not a pair of hours"), HOURS));
    };
    let second = |((hour, minute), text): ((u32, u32), &str)| match (hour, minute) {
        (0..=23, 0..=59) | (24, 0) => Ok(hour * 60 * 60 + minute * 60),
        _ => {
            let message = format!("`{text}` is not a time of day");
            Err(Problem::new(message, "a day goes from `00:00` to `24:00`"))
        }
    };
    let (start, end) = (second(from)?, second(to)?);
    let problem = |what: &str, help: String| Err(Problem::new(format!("`{text}` {what}"), help));
    match (start, end) {
        (DAY, _) => problem(
            "begins when the day is over",
            format!("write `00:00-{}` on the day after", to.1),
        ),
        (0, 0) => problem("is no time at all", "a whole day is `00:00-24:00`".to_owned()),
        (_, 0) => problem(
            "ends before it begins",
            format!("the end of the day is `24:00`: write `{}-24:00`", from.1),
        ),
        _ if start == end => problem("is no time at all", "a whole day is `00:00-24:00`".to_owned()),
        _ => Ok((start, end)),
    }
}

/// A time zone. Two of one name are one.
#[derive(Clone, Debug)]
pub struct Zone {
    name: String,
    clocks: TimeZone,
}

impl Zone {
    /// Looks a zone of the IANA database up.
    ///
    /// # Errors
    ///
    /// If there is none of this name.
    pub fn find(name: &str) -> Result<Zone, Problem> {
        let zones = TimeZoneDatabase::bundled();
        let found = zones.get(name).ok();
        match found.as_ref().and_then(TimeZone::iana_name) {
            // What is looked up without regard to case is written in one way.
            Some(known) if known == name => Ok(Zone {
                name: name.to_owned(),
                clocks: found.unwrap_or(TimeZone::UTC),
            }),
            known => {
                let known = known.map(str::to_owned).or_else(|| {
                    let all: Vec<String> = zones.available().map(|zone| zone.to_string()).collect();
                    // `Berlin` alone is what people write.
                    let city = |zone: &&String| {
                        let last = zone.rsplit('/').next().unwrap_or_default();
                        last.eq_ignore_ascii_case(&name.replace(' ', "_"))
                    };
                    let city = all.iter().find(city).map(String::as_str);
                    city.or_else(|| nearest(name, all.iter().map(String::as_str)))
                        .map(str::to_owned)
                });
                let help = match known {
                    Some(known) => format!("did you mean `{known}`?"),
                    None => "write a name of the IANA database, as in `Europe/Berlin`, or `UTC`".to_owned(),
                };
                Err(Problem::new(format!("`{name}` is not a time zone"), help))
            }
        }
    }
}

impl PartialEq for Zone {
    fn eq(&self, other: &Zone) -> bool {
        self.name == other.name
    }
}

impl Eq for Zone {}

impl PartialOrd for Zone {
    fn partial_cmp(&self, other: &Zone) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Zone {
    fn cmp(&self, other: &Zone) -> std::cmp::Ordering {
        self.name.cmp(&other.name)
    }
}

/// Seconds of a week: sorted, disjoint, not adjacent, each from its first to before its second.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Week(Vec<(u32, u32)>);

impl Week {
    fn add(&mut self, day: usize, (start, end): (u32, u32)) {
        let midnight = u32::try_from(day).unwrap_or_default() * DAY;
        let length = if end > start {
            end - start
        } else {
            DAY - start + end
        };
        let (from, to) = (midnight + start, midnight + start + length);
        self.0.push((from, to.min(WEEK)));
        if to > WEEK {
            self.0.push((0, to - WEEK));
        }
        self.0.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::new();
        for (from, to) in self.0.drain(..) {
            match merged.last_mut() {
                Some((_, end)) if *end >= from => *end = to.max(*end),
                _ => merged.push((from, to)),
            }
        }
        self.0 = merged;
    }

    fn is_all(&self) -> bool {
        self.0 == [(0, WEEK)]
    }

    fn is_open(&self, second: u32) -> bool {
        self.0.iter().any(|(from, to)| (*from..*to).contains(&second))
    }

    fn is_within(&self, other: &Week) -> bool {
        let held = |(from, to): &(u32, u32)| other.0.iter().any(|(start, end)| start <= from && to <= end);
        self.0.iter().all(held)
    }

    /// How many seconds after one the state changes; `None`: never.
    fn change_after(&self, second: u32) -> Option<u32> {
        let first = *self.0.first()?;
        let open = self.0.iter().find(|(from, to)| (*from..*to).contains(&second));
        let at = match open {
            Some(_) if self.is_all() => return None,
            Some((_, WEEK)) if first.0 == 0 => WEEK + first.1,
            Some((_, to)) => *to,
            None => self
                .0
                .iter()
                .map(|(from, _)| *from)
                .find(|from| *from > second)
                .unwrap_or(WEEK + first.0),
        };
        Some(at - second)
    }
}

/// The windows of one rule. Never all of the week of a zone, never nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct When(Vec<(Zone, Week)>);

impl When {
    /// Adds a window: days as places in [`DAYS`], and hours as [`hours`] reads them.
    pub fn add(&mut self, days: &[usize], hours: (u32, u32), zone: Zone) {
        let at = match self.0.binary_search_by(|(known, _)| known.cmp(&zone)) {
            Ok(at) => at,
            Err(at) => {
                self.0.insert(at, (zone, Week::default()));
                at
            }
        };
        if let Some((_, week)) = self.0.get_mut(at) {
            for day in days {
                week.add(*day, hours);
            }
        }
    }

    /// Whether it says nothing because some zone's week is open all through.
    #[must_use]
    pub fn is_always(&self) -> bool {
        self.0.iter().any(|(_, week)| week.is_all())
    }

    /// Whether whatever is in a window of this one is in one of another's, as far as windows of one zone tell.
    #[must_use]
    pub fn is_within(&self, other: &When) -> bool {
        self.0.iter().all(|(zone, week)| {
            let same = other.0.iter().find(|(known, _)| known == zone);
            same.is_some_and(|(_, wider)| week.is_within(wider))
        })
    }

    /// Whether a moment is in a window.
    #[must_use]
    pub fn is_open(&self, time: Timestamp) -> bool {
        let open = |(zone, week): &(Zone, Week)| week.is_open(second_of_week(time, &zone.clocks));
        self.0.iter().any(open)
    }

    /// The next moment at which that changes; `None`: not in the next years.
    #[must_use]
    pub fn change_after(&self, time: Timestamp) -> Option<Timestamp> {
        /// Of windows in several zones that together leave no gap.
        const MOST_CHANGES: usize = 2000;
        let open = self.is_open(time);
        let mut at = time;
        for _ in 0..MOST_CHANGES {
            at = self
                .0
                .iter()
                .filter_map(|(zone, week)| next(week, &zone.clocks, at))
                .min()?;
            if self.is_open(at) != open {
                return Some(at);
            }
        }
        None
    }

    /// When the clocks of its zones are put forward or back within a time.
    #[must_use]
    pub fn clock_changes(&self, from: Timestamp, to: Timestamp) -> Vec<Timestamp> {
        let changes = self.0.iter().flat_map(|(zone, _)| {
            let following = zone.clocks.following(from).map(|change| change.timestamp());
            following.take_while(|at| *at < to).collect::<Vec<_>>()
        });
        changes.collect()
    }
}

/// Whole seconds of Unix time.
fn second_of(time: Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond().div_euclid(1_000_000_000)).unwrap_or(i64::MAX)
}

/// What the clocks of a zone show.
fn second_of_week(time: Timestamp, clocks: &TimeZone) -> u32 {
    // 1970 began on a Thursday.
    let shown = second_of(time) + i64::from(clocks.to_offset(time).seconds()) + i64::from(3 * DAY);
    u32::try_from(shown.rem_euclid(i64::from(WEEK))).unwrap_or_default()
}

/// The next change of one zone's week. Between two changes of the clocks a second on the wall is a second.
fn next(week: &Week, clocks: &TimeZone, time: Timestamp) -> Option<Timestamp> {
    let open = week.is_open(second_of_week(time, clocks));
    let mut shifts = clocks.following(time).map(|shift| shift.timestamp());
    let mut at = time;
    loop {
        let shift = shifts.next();
        let here = second_of_week(at, clocks);
        if week.is_open(here) != open {
            return Some(at);
        }
        let seconds = i64::from(week.change_after(here)?);
        let change = Timestamp::from_second(second_of(at).checked_add(seconds)?).ok()?;
        match shift {
            Some(shift) if shift <= change => at = shift,
            _ => return Some(change),
        }
    }
}

#[cfg(test)]
mod tests;
