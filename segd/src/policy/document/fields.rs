//! The fields of a policy, with what each is for: read by the decoder, which refuses every other, and shown by
//! `segd policy schema`, so that an editor knows what segd knows.

/// The fields of one kind of mapping, and what each is for.
pub type Fields = [(&'static str, &'static str)];

/// A document.
pub const DOCUMENT: &Fields = &[
    ("apiVersion", "Always `segd.dev/v1`."),
    ("kind", "Always `SegmentPolicy`."),
    ("metadata", "The document's name."),
    (
        "spec",
        "What the document says. All documents of a policy path together are one policy.",
    ),
];
/// `metadata`.
pub const METADATA: &Fields = &[(
    "name",
    "The document's name, unique in the policy. Rules are labelled after it: `shop/allow[0]`.",
)];
/// `spec`.
pub const SPEC: &Fields = &[
    (
        "mode",
        "The mode of the segments that this document defines: `enforce` (default) drops what is denied, `audit` counts it and lets it pass.",
    ),
    (
        "segments",
        "Named sets of workloads and addresses. A name is a letter `a` to `z`, then at most 62 of `a` to `z`, `0` to `9`, `-`.",
    ),
    (
        "allow",
        "Rules that open. Between segments everything is denied until a rule allows it.",
    ),
    (
        "deny",
        "Guardrails: what they forbid, no `allow` can open, wherever it stands.",
    ),
    (
        "tests",
        "What the policy is meant to do. A policy that fails its own tests is refused.",
    ),
    ("defaults", "What holds where no rule is asked."),
    (
        "release",
        "Names of segments that left the policy and whose living workloads are given up.",
    ),
];
/// `spec.defaults`.
pub const DEFAULTS: &Fields = &[(
    "host",
    "`enforce`: `host` to `host`, and `host` to and from `world`, need rules, too. Write one for SSH before you load it.",
)];
/// A segment.
pub const SEGMENT: &Fields = &[
    ("labels", "Words by word, for rules about labels."),
    (
        "match",
        "Who belongs to the segment: whoever any of the matchers matches.",
    ),
    (
        "intra",
        "Whether members may talk to each other without a rule: `allow` (default) or `deny`.",
    ),
    ("mode", "`enforce` or `audit`; overrides `spec.mode`."),
];
/// An entry of `match`.
pub const MATCHER: &Fields = &[
    (
        "cgroup",
        "A cgroup and all below it, by its path from the cgroup root. `*` stands for anything within a component, `**` for any number of components.",
    ),
    (
        "systemd",
        "A unit's cgroup, wherever it is, and its `.socket` unit. The name has its suffix; `*` stands for anything.",
    ),
    (
        "user",
        "A user's slice: a login name, looked up on each host, or a number.",
    ),
    (
        "cidr",
        "Addresses on the network: a prefix without bits beyond its length. The longest prefix wins.",
    ),
    (
        "except",
        "Prefixes inside `cidr` that do not belong to the segment.",
    ),
];
/// An entry of `allow` or `deny`.
pub const RULE: &Fields = &[
    (
        "from",
        "Who may start to talk: a name, a list of names, or labels that a segment has to have, all of them. `host`, `world` and `any` are built in.",
    ),
    ("to", "Towards whom. Replies pass by themselves."),
    (
        "ports",
        "Ports of the side that is started towards. Required in `allow`; in `deny`, leaving them out means every port.",
    ),
    ("reason", "A text for people; `segd policy explain` shows it."),
    (
        "until",
        "Only in `allow`: from this moment on the rule opens nothing, and what it alone allowed is ended. RFC 3339.",
    ),
    (
        "when",
        "Only in `allow`: weekly windows; outside of them the rule opens nothing, and what it alone allowed is ended.",
    ),
];
/// An entry of `when`.
pub const WINDOW: &Fields = &[
    (
        "days",
        "Days on which it begins: `mon`, or `mon-fri`. `[mon-sun]` is every day.",
    ),
    (
        "hours",
        "From, and until before, by the clocks of `zone`: `08:00-18:00`. `22:00-06:00` goes on into the next day, `00:00-24:00` is all day.",
    ),
    (
        "zone",
        "Whose clocks: a name of the IANA database, as `Europe/Berlin`, or `UTC`. Daylight saving is followed.",
    ),
];
/// An entry of `tests`.
pub const TEST: &Fields = &[
    ("from", "Who starts: as in a rule, and single addresses."),
    ("to", "Towards whom: as in a rule, and single addresses."),
    ("port", "A port as in a rule, or a list of them."),
    (
        "expect",
        "What every answer has to be: `allow` or `deny`. What only audit mode lets pass is denied.",
    ),
    ("reason", "A text for people."),
];

/// The names alone.
pub fn names(fields: &'static Fields) -> impl Iterator<Item = &'static str> {
    fields.iter().map(|(name, _)| *name)
}
