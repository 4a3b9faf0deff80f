//! Times as a policy writes them: RFC 3339, to the second or finer, with an offset from UTC.
//!
//! INVARIANT: reads no clock and no time zone database.

use jiff::Timestamp;

/// Why a text is no time, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}: {help}")]
pub struct Problem {
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: &'static str,
}

/// What a time looks like.
const FORM: &str =
    "write it like `2026-12-01T18:00:00Z`, or with an offset, as in `2026-12-01T18:00:00+01:00`";

/// Reads a time.
///
/// # Errors
///
/// If it is none, or means different moments in different places.
pub fn parse(text: &str) -> Result<Timestamp, Problem> {
    let problem = |what: &str, help| Problem {
        message: format!("`{text}` {what}"),
        help,
    };
    let (date, rest) = text.split_at_checked(10).unwrap_or((text, ""));
    if !has_form(date, "dddd-dd-dd") {
        return Err(problem("is not a time", FORM));
    }
    if rest.is_empty() {
        return Err(problem(
            "is a day, not a moment",
            "say when on that day and where, as in `T18:00:00Z`",
        ));
    }
    let (time, zone) = rest.split_at_checked(9).unwrap_or((rest, ""));
    if !has_form(time, "Tdd:dd:dd") {
        return Err(problem("is not a time", FORM));
    }
    let digits = |fraction: &str| fraction.bytes().take_while(u8::is_ascii_digit).count();
    let zone = match zone
        .strip_prefix('.')
        .map(|fraction| (fraction, digits(fraction)))
    {
        Some((fraction, 1..=9)) => fraction.trim_start_matches(|c: char| c.is_ascii_digit()),
        Some(_) => return Err(problem("is not a time", FORM)),
        None => zone,
    };
    if zone.is_empty() {
        let help = "end it with `Z` for UTC, or with an offset, as in `+01:00`";
        return Err(problem("says a different moment in each time zone", help));
    }
    if zone != "Z" && !has_form(zone, "+dd:dd") && !has_form(zone, "-dd:dd") {
        return Err(problem("is not a time", FORM));
    }
    let help = "look at the month, the day, the hour, the second and the offset";
    // The library that reads it takes a second 60 for 59, and offsets of more than a day.
    let beyond = |number: Option<&str>, most: u8| {
        let number = number.and_then(|digits| digits.parse::<u8>().ok());
        number.is_some_and(|number| number > most)
    };
    if beyond(time.get(7..9), 59) || beyond(zone.get(1..3), 23) || beyond(zone.get(4..6), 59) {
        return Err(problem("is no moment of the calendar", help));
    }
    text.parse()
        .map_err(|_| problem("is no moment of the calendar", help))
}

/// Whether a text is letter by letter what the form says; `d` is a digit.
fn has_form(text: &str, form: &str) -> bool {
    let fits = |(letter, form): (u8, u8)| match form {
        b'd' => letter.is_ascii_digit(),
        _ => letter == form,
    };
    text.len() == form.len() && text.bytes().zip(form.bytes()).all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_one_moment_however_it_is_written() {
        let moment = Timestamp::from_second(1_796_148_000).expect("a time");
        for text in [
            "2026-12-01T18:00:00Z",
            "2026-12-01T18:00:00.000Z",
            "2026-12-01T19:00:00+01:00",
            "2026-12-01T12:30:00-05:30",
            "2026-12-02T00:00:00+06:00",
            "2026-12-02T17:59:00+23:59",
            "2026-12-01T18:00:00-00:00",
        ] {
            assert_eq!(parse(text), Ok(moment), "{text}");
        }
    }

    #[test]
    fn refuses_what_two_readers_could_take_for_two_moments() {
        for (text, says) in [
            ("2026-12-01", "is a day"),
            ("2026-12-01T18:00:00", "in each time zone"),
            ("2026-12-01T18:00:00.5", "in each time zone"),
            ("2026-12-01 18:00:00Z", "is not a time"),
            ("2026-12-01t18:00:00z", "is not a time"),
            ("2026-12-01T18:00Z", "is not a time"),
            ("2026-12-01T18:00:00.Z", "is not a time"),
            ("2026-12-01T18:00:00.0000000001Z", "is not a time"),
            ("2026-12-01T18:00:00+0100", "is not a time"),
            ("2026-12-01T18:00:00Z[Europe/Berlin]", "is not a time"),
            ("2026-13-01T18:00:00Z", "is no moment"),
            ("2026-02-29T18:00:00Z", "is no moment"),
            ("2026-12-01T24:00:00Z", "is no moment"),
            ("2026-12-01T18:00:00+99:00", "is no moment"),
            ("2026-12-01T18:00:00+24:00", "is no moment"),
            ("2026-12-01T18:00:00-25:59", "is no moment"),
            ("2026-12-01T18:00:00+01:60", "is no moment"),
            ("2026-12-01T18:00:60Z", "is no moment"),
            ("2026-12-01T18:00:60.5+01:00", "is no moment"),
            ("tomorrow", "is not a time"),
            ("ä026-12-01T18:00:00Z", "is not a time"),
            ("", "is not a time"),
        ] {
            let problem = parse(text).expect_err(text);
            assert!(problem.message.contains(says), "{text}: {problem}");
        }
    }
}
