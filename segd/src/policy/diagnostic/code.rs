//! The closed list of what can be wrong with a policy. docs/diagnostics.md has a line for each.

macro_rules! codes {
    (
        errors { $($(#[$edoc:meta])* $error:ident = $elabel:literal;)* }
        warnings { $($(#[$wdoc:meta])* $warning:ident = $wlabel:literal;)* }
    ) => {
        /// The class of a diagnostic. Labels are stable: people search for them and tools match on them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Code { $($(#[$edoc])* $error,)* $($(#[$wdoc])* $warning,)* }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Code] = &[$(Code::$error,)* $(Code::$warning),*];
            /// Those that do not refuse a policy.
            pub const WARNINGS: &'static [Code] = &[$(Code::$warning),*];

            /// The word in brackets.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Code::$error => $elabel,)* $(Code::$warning => $wlabel,)* }
            }
        }
    };
}

codes! {
    errors {
        /// Not YAML, or YAML beyond the limits (depth, size, aliases, merge keys, tags).
        Syntax = "syntax";
        /// There is no document at all, or a file in which nothing stands.
        Empty = "empty";
        /// `apiVersion` or `kind` is not this one.
        Kind = "kind";
        /// A field that does not exist.
        UnknownField = "unknown-field";
        /// A key stands twice in one mapping.
        DuplicateKey = "duplicate-key";
        /// A required field is not there.
        MissingField = "missing-field";
        /// A list where a name belongs, or the like.
        WrongType = "wrong-type";
        /// A scalar that YAML readers disagree about, unquoted.
        AmbiguousScalar = "ambiguous-scalar";
        /// A word that is none of the choices.
        InvalidValue = "invalid-value";
        /// A name of a segment, document or label that cannot be one.
        InvalidName = "invalid-name";
        /// `host`, `world` or `any` as a segment.
        ReservedName = "reserved-name";
        /// A segment or document defined twice.
        DuplicateName = "duplicate-name";
        /// Two segment names have one identifier.
        IdentifierCollision = "identifier-collision";
        /// A peer that no document declares.
        UndeclaredPeer = "undeclared-peer";
        /// Not a port, range, ICMP type or protocol.
        InvalidPort = "invalid-port";
        /// Not an address prefix.
        InvalidPrefix = "invalid-prefix";
        /// Not a cgroup path.
        InvalidCgroup = "invalid-cgroup";
        /// Not a systemd unit with a cgroup.
        InvalidUnit = "invalid-unit";
        /// Not a user.
        InvalidUser = "invalid-user";
        /// Not a moment.
        InvalidTime = "invalid-time";
        /// Not a weekly window.
        InvalidWindow = "invalid-window";
        /// Two segments claim the same with equal right.
        Conflict = "conflict";
        /// More than the kernel tables hold, or than the tests may take.
        Capacity = "capacity";
        /// The policy's own test expects another answer.
        TestFailed = "test-failed";
    }
    warnings {
        /// A rule that matches nothing.
        MatchesNothing = "matches-nothing";
        /// An `allow` rule that guardrails forbid entirely.
        Shadowed = "shadowed";
        /// An `allow` rule that a guardrail forbids in part.
        Contradicted = "contradicted";
        /// A rule only about `host` and `world`, which this policy does not enforce.
        NotEnforced = "not-enforced";
        /// A segment that no rule names.
        UnusedSegment = "unused-segment";
        /// A segment without members.
        EmptySegment = "empty-segment";
        /// The same thing said twice in one place.
        Redundant = "redundant";
        /// A selector the kernel cannot match at birth.
        SlowSelector = "slow-selector";
        /// A rule that another rule makes superfluous.
        Implied = "implied";
        /// A rule or matcher that means nearly everybody or nearly everything.
        Broad = "broad";
        /// Two segments claim the same addresses or could claim the same workload.
        Overlap = "overlap";
        /// A segment that rules lead to and guardrails close again.
        UnreachableSegment = "unreachable-segment";
        /// A matcher that nothing on this host fits now (`check --live`).
        NoMember = "no-member";
        /// A rule under which nothing has begun for a long time (`check --live --unused-for`).
        UnusedRule = "unused-rule";
        /// A rule whose time is over (`check`).
        Expired = "expired";
        /// A segment of a name that metrics and flows give to something else.
        SharedLabel = "shared-label";
        /// A `# segd: allow(…)` that names no warning.
        UnknownAllowance = "unknown-allowance";
        /// A `# segd: allow(…)` of a warning that there is not.
        UnneededAllowance = "unneeded-allowance";
    }
}

impl Code {
    /// The code of a word in brackets.
    #[must_use]
    pub fn of_label(label: &str) -> Option<Code> {
        Code::ALL.iter().copied().find(|code| code.label() == label)
    }

    /// What to do about an error of which nothing better is known.
    #[must_use]
    pub const fn remedy(self) -> Option<&'static str> {
        Some(match self {
            Code::Syntax => "look at quotes, brackets and indentation, here and on the line before",
            Code::UnknownField => "take it out; docs/policy.md lists the fields",
            Code::DuplicateKey => "keep one of the two",
            Code::MissingField => "write it; docs/policy.md shows how",
            Code::WrongType => "docs/policy.md shows the form of every field",
            Code::ReservedName => "take it out: `host`, `world` and `any` are always there",
            Code::DuplicateName | Code::IdentifierCollision => "give one of the two another name",
            Code::InvalidPrefix => "name a part of the prefix, or take it out",
            Code::InvalidWindow => "name each day once",
            Code::Conflict => "leave it to one of them",
            Code::Capacity => "take out what this host does not need; docs/policy.md has the limits",
            _ => return None,
        })
    }

    /// Whether a comment in the file can allow it: every warning but those about such comments.
    #[must_use]
    pub fn can_be_allowed(self) -> bool {
        Code::WARNINGS.contains(&self) && !matches!(self, Code::UnknownAllowance | Code::UnneededAllowance)
    }

    /// Whether more than the text tells of it, the host or the time: its allowance may be needed elsewhere, or later.
    #[must_use]
    pub fn is_beyond_the_text(self) -> bool {
        matches!(self, Code::NoMember | Code::UnusedRule | Code::Expired)
    }
}
