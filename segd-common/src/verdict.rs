//! What was decided for a packet, and its numbered cause.

use crate::reason::Reason;

/// The index of the rule that decided, in the tables' own numbering; [`Verdict::NO_RULE`] if none did.
pub type RuleIndex = u32;

/// The outcome of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Its cause; allowed or denied follows from it.
    pub reason: Reason,
    /// The rule that decided, or [`Verdict::NO_RULE`].
    pub rule: RuleIndex,
}

impl Verdict {
    /// No rule decided.
    pub const NO_RULE: RuleIndex = u32::MAX;

    /// A verdict that no rule made.
    #[must_use]
    pub const fn of(reason: Reason) -> Verdict {
        Verdict {
            reason,
            rule: Verdict::NO_RULE,
        }
    }

    /// Whether the packet may pass.
    #[must_use]
    pub const fn allows(self) -> bool {
        self.reason.allows()
    }
}

/// What became of a packet, as metrics and flows say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Outcome {
    /// Dropped, or refused at its system call.
    Denied = 0,
    /// Passed by right.
    Allowed = 1,
    /// Denied by policy, passed by audit mode.
    Audited = 2,
}

impl Outcome {
    /// The word used in metrics and flows.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Outcome::Denied => "denied",
            Outcome::Allowed => "allowed",
            Outcome::Audited => "audited",
        }
    }

    /// The outcome with this number; anything unknown is `Denied`.
    #[must_use]
    pub const fn from_number(number: u8) -> Outcome {
        match number {
            1 => Outcome::Allowed,
            2 => Outcome::Audited,
            _ => Outcome::Denied,
        }
    }
}
