//! A rule: a policy may have a million of them, so each keeps only what is its own.

use std::{collections::BTreeSet, fmt, sync::Arc};

use jiff::Timestamp;

use super::{Action, Location, Peer, RuleLabel, Written};
use crate::policy::{port::Interval, term::Term};

/// One entry of `allow` or `deny`.
#[derive(Clone)]
pub struct Rule {
    home: Arc<Home>,
    spot: Spot,
    /// Opens or forbids.
    pub action: Action,
    /// Who may initiate. `any` is resolved to every segment, `world` and `host`. May be empty: matches nothing.
    /// Rules that name the same peers in the same way share the set.
    pub from: Arc<BTreeSet<Peer>>,
    /// Towards whom.
    pub to: Arc<BTreeSet<Peer>>,
    /// Inclusive intervals of services, sorted, disjoint and not adjacent. Shared like the ends.
    pub services: Arc<[Interval]>,
    /// `until:` and `when:`, of an `allow`: when it opens anything.
    pub term: Arc<Term>,
    /// What few rules have.
    more: Option<Box<More>>,
}

/// What the rules of a document in a file have in common.
#[derive(Debug)]
pub struct Home {
    /// The name of the file.
    pub file: Arc<str>,
    /// The name of the document.
    pub document: Arc<str>,
    /// The text of the file.
    pub text: Arc<str>,
}

/// Where in its home a rule stands.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spot {
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
    /// Its number in its list, from 0.
    pub number: u32,
    /// What is written, as bytes of the text.
    pub start: u32,
    /// Where that ends.
    pub end: u32,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct More {
    reason: Option<Box<str>>,
    resting: Option<Resting>,
}

/// What a rule would open at another time.
#[derive(Clone, Debug, PartialEq)]
pub struct Resting {
    /// As `services`.
    pub services: Arc<[Interval]>,
    /// When it opens next; `None`: never again.
    pub opens: Option<Timestamp>,
}

// INVARIANT: a million of them are 80 MB; see docs/performance.md.
const _: () = assert!(size_of::<Rule>() <= 80);

impl Rule {
    /// A rule, with a `reason:` if it has one, and for how long it holds.
    #[must_use]
    pub fn new(
        (home, spot): (Arc<Home>, Spot),
        action: Action,
        [from, to]: [Arc<BTreeSet<Peer>>; 2],
        services: Arc<[Interval]>,
        (reason, term): (Option<Box<str>>, Arc<Term>),
    ) -> Rule {
        Rule {
            home,
            spot,
            action,
            from,
            to,
            services,
            term,
            more: reason.map(|reason| {
                Box::new(More {
                    reason: Some(reason),
                    resting: None,
                })
            }),
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn location(&self) -> Location {
        Location {
            file: Arc::clone(&self.home.file),
            line: self.spot.line,
            column: self.spot.column,
        }
    }

    /// The label in metrics.
    #[must_use]
    pub fn label(&self) -> RuleLabel {
        RuleLabel::new(Arc::clone(&self.home.document), self.action, self.spot.number)
    }

    /// What the user wrote.
    #[must_use]
    pub fn text(&self) -> Written {
        Written::new(
            Arc::clone(&self.home.text),
            self.spot.start as usize,
            self.spot.end as usize,
        )
    }

    /// `reason:`, for people.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.more.as_ref()?.reason.as_deref()
    }

    /// Not asked at the time that [`super::Policy::at`] was given; then `services` is empty.
    #[must_use]
    pub fn resting(&self) -> Option<&Resting> {
        self.more.as_ref()?.resting.as_ref()
    }

    /// It is not asked now.
    pub fn rest(&mut self, resting: Resting) {
        self.more.get_or_insert_default().resting = Some(resting);
    }

    /// Whether both are of one list, as far as that is seen without reading the names of documents.
    #[must_use]
    pub fn is_of_list_of(&self, other: &Rule) -> bool {
        Arc::ptr_eq(&self.home.document, &other.home.document) && self.action == other.action
    }
}

impl PartialEq for Rule {
    fn eq(&self, other: &Rule) -> bool {
        self.location() == other.location()
            && self.label() == other.label()
            && (&self.from, &self.to) == (&other.from, &other.to)
            && (&self.services, &self.term) == (&other.services, &other.term)
            && self.text() == other.text()
            && (self.reason(), self.resting()) == (other.reason(), other.resting())
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rule")
            .field("location", &self.location())
            .field("label", &self.label())
            .field("action", &self.action)
            .field("from", &self.from)
            .field("to", &self.to)
            .field("services", &self.services)
            .field("text", &self.text())
            .field("reason", &self.reason())
            .field("term", &self.term)
            .field("resting", &self.resting())
            .finish()
    }
}
