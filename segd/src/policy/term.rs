//! For how long a rule holds: for good, until a moment (`until:`), in weekly windows (`when:`), or both.
//!
//! INVARIANT: reads no clock.

use jiff::Timestamp;

use super::window::When;

/// For how long a rule holds. The default is for good.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Term {
    /// `until:`: from then on it opens nothing.
    pub until: Option<Timestamp>,
    /// `when:`: outside of these windows it opens nothing.
    pub when: Option<When>,
}

/// What a rule, or several together, are at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Open, until then; `None`: no end is known.
    Open(Option<Timestamp>),
    /// Shut, until then; `None`: for good.
    Shut(Option<Timestamp>),
}

impl State {
    /// Whether anything may pass.
    #[must_use]
    pub const fn is_open(self) -> bool {
        matches!(self, State::Open(_))
    }

    /// When it changes.
    #[must_use]
    pub const fn change(self) -> Option<Timestamp> {
        match self {
            State::Open(change) | State::Shut(change) => change,
        }
    }
}

impl Term {
    /// Until a moment, or for good.
    #[must_use]
    pub const fn until(until: Option<Timestamp>) -> Term {
        Term { until, when: None }
    }

    /// Whether it never ends.
    #[must_use]
    pub const fn is_lasting(&self) -> bool {
        self.until.is_none() && self.when.is_none()
    }

    /// What it is at a moment.
    #[must_use]
    pub fn at(&self, time: Timestamp) -> State {
        if self.until.is_some_and(|end| end <= time) {
            return State::Shut(None);
        }
        let Some(when) = &self.when else {
            return State::Open(self.until);
        };
        let change = when.change_after(time);
        let before_the_end = change.filter(|change| self.until.is_none_or(|end| *change < end));
        if when.is_open(time) {
            State::Open(before_the_end.or(self.until))
        } else {
            State::Shut(before_the_end)
        }
    }

    /// Whether it holds whenever another one does, as far as can be told from the two alone.
    #[must_use]
    pub fn covers(&self, other: &Term) -> bool {
        let lasts = match (self.until, other.until) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(end), Some(other)) => end >= other,
        };
        lasts
            && match (&self.when, &other.when) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(wider), Some(narrower)) => narrower.is_within(wider),
            }
    }
}

/// What several terms are together: open as long as one of them is.
#[must_use]
pub fn together<'t>(terms: impl Iterator<Item = &'t Term> + Clone, time: Timestamp) -> State {
    /// Windows that take turns for ever: what is farther off than this is told when it is nearer.
    const MOST_TURNS: usize = 400;
    let mut at = time;
    for turn in 0..MOST_TURNS {
        let mut latest = None;
        for state in terms.clone().map(|term| term.at(at)) {
            match state {
                State::Open(None) => return state,
                State::Open(Some(end)) => latest = latest.max(Some(end)),
                State::Shut(_) => {}
            }
        }
        match latest {
            Some(end) => at = end,
            None if turn == 0 => {
                let opens = terms.filter_map(|term| term.at(time).change()).min();
                return State::Shut(opens);
            }
            None => break,
        }
    }
    State::Open(Some(at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::window::{Zone, days, hours};

    fn when(windows: &[(&str, &str)]) -> When {
        let mut when = When::default();
        for (on, at) in windows {
            let zone = Zone::find("UTC").expect("a zone");
            when.add(&days(on).expect("days"), hours(at).expect("hours"), zone);
        }
        when
    }

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    #[test]
    fn an_end_ends_the_windows_too() {
        let term = Term {
            until: Some(at("2026-12-01T10:00:00Z")),
            when: Some(when(&[("mon-fri", "08:00-18:00")])),
        };
        // A Monday.
        assert_eq!(
            term.at(at("2026-11-30T07:00:00Z")),
            State::Shut(Some(at("2026-11-30T08:00:00Z")))
        );
        assert_eq!(
            term.at(at("2026-11-30T08:00:00Z")),
            State::Open(Some(at("2026-11-30T18:00:00Z")))
        );
        assert_eq!(
            term.at(at("2026-11-30T18:00:00Z")),
            State::Shut(Some(at("2026-12-01T08:00:00Z")))
        );
        assert_eq!(
            term.at(at("2026-12-01T09:00:00Z")),
            State::Open(Some(at("2026-12-01T10:00:00Z")))
        );
        assert_eq!(term.at(at("2026-12-01T10:00:00Z")), State::Shut(None));
        let over_before_it_opens = Term {
            until: Some(at("2026-11-30T08:00:00Z")),
            ..term
        };
        assert_eq!(
            over_before_it_opens.at(at("2026-11-30T07:00:00Z")),
            State::Shut(None)
        );
    }

    #[test]
    fn terms_that_touch_are_open_together() {
        let morning = Term {
            until: None,
            when: Some(when(&[("mon", "08:00-12:00")])),
        };
        let noon = Term {
            until: None,
            when: Some(when(&[("mon", "11:30-13:00")])),
        };
        let evening = Term {
            until: None,
            when: Some(when(&[("mon", "13:00-18:00")])),
        };
        let all = [&morning, &noon, &evening];
        let state = |time: &str| together(all.into_iter(), at(time));
        assert_eq!(
            state("2026-11-30T08:00:00Z"),
            State::Open(Some(at("2026-11-30T18:00:00Z")))
        );
        assert_eq!(
            state("2026-11-30T12:59:59.5Z"),
            State::Open(Some(at("2026-11-30T18:00:00Z")))
        );
        assert_eq!(
            state("2026-11-30T18:00:00Z"),
            State::Shut(Some(at("2026-12-07T08:00:00Z")))
        );
        let lasting = Term::default();
        assert_eq!(
            together([&morning, &lasting].into_iter(), at("2026-11-30T08:00:00Z")),
            State::Open(None)
        );
    }

    #[test]
    fn a_term_covers_what_is_shorter_and_what_is_narrower() {
        let wide = when(&[("mon-fri", "08:00-18:00")]);
        let narrow = when(&[("tue", "08:00-18:00"), ("wed", "09:00-10:00")]);
        let (soon, late) = (at("2026-12-01T10:00:00Z"), at("2026-12-02T10:00:00Z"));
        let term = |until: Option<Timestamp>, when: Option<&When>| Term {
            until,
            when: when.cloned(),
        };
        let good = Term::default();
        for (wider, narrower) in [
            (good.clone(), term(Some(late), Some(&wide))),
            (term(Some(late), None), term(Some(soon), None)),
            (term(None, Some(&wide)), term(None, Some(&narrow))),
            (term(Some(late), Some(&wide)), term(Some(soon), Some(&narrow))),
        ] {
            assert!(
                wider.covers(&narrower) && !narrower.covers(&wider),
                "{wider:?} {narrower:?}"
            );
        }
        let (a, b) = (term(Some(late), Some(&narrow)), term(Some(soon), Some(&wide)));
        assert!(!a.covers(&b) && !b.covers(&a));
    }
}
