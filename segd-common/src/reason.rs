//! Why a packet was allowed or denied: a closed, numbered list. Numbers are never reused.

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $label:literal;)*) => {
        /// The numbered cause of a verdict. `0` is deliberately no cause: a zeroed verdict denies.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Reason { $($(#[$doc])* $name = $number,)* }

        impl Reason {
            /// Every reason, in the order of the numbers.
            pub const ALL: &'static [Reason] = &[$(Reason::$name),*];

            /// The word used in metrics, flows, docs.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Reason::$name => $label,)* }
            }

            /// The reason with this number.
            #[must_use]
            pub const fn from_number(number: u8) -> Option<Reason> {
                match number { $($number => Some(Reason::$name),)* _ => None }
            }
        }
    };
}

reasons! {
    /// An `allow` rule covers the service.
    Rule = 1, "rule";
    /// Both sides are in one segment whose `intra` is `allow`.
    Intra = 2, "intra";
    /// `host` to `host` or `host` to `world`, which the policy does not enforce.
    HostDefault = 3, "host-default";
    /// It answers what this workload sent under a right that still holds.
    Reply = 4, "reply";
    /// Control traffic the kernel itself needs: neighbour discovery, MLD, IGMP, errors, DHCP of the host, the reset of a revoked session.
    Control = 5, "control";

    /// No rule allows it.
    NoRule = 16, "no-rule";
    /// A `deny` rule forbids it, whatever allows it.
    Guardrail = 17, "guardrail";
    /// The identity of a side is not known: a local source that no socket of this host sent, a lost entry.
    Unknown = 18, "unknown";
    /// The workload could still be matched by a selector and is not classified yet.
    Pending = 19, "pending";
    /// Two segments claim the workload with equal right.
    Ambiguous = 20, "ambiguous";
    /// The workload's segment left the policy and nobody else claims it.
    Orphaned = 21, "orphaned";
    /// No policy is in force.
    NoPolicy = 22, "no-policy";
    /// An IP header that is none: another version than its carrier says, shorter than it can be, broken options.
    Malformed = 23, "malformed";
    /// A fragment where only whole datagrams belong.
    Fragment = 24, "fragment";
    /// An extension header chain that is misplaced or too long.
    ExtensionHeader = 25, "extension-header";
    /// An IPv6 routing header that still has segments left.
    RoutingHeader = 26, "routing-header";
    /// A source address that cannot be where the packet comes from.
    Spoofed = 27, "spoofed";
    /// segd's own probe, which must always be refused.
    Probe = 28, "probe";
    /// A socket's state could not be kept.
    NoState = 29, "no-state";
    /// A header is cut off by the end of the packet.
    Truncated = 30, "truncated";
    /// A length field lies: the IP total or payload length, a UDP length, a TCP data offset.
    Length = 31, "length";
    /// An IPv4 source route: the destination in the header is not where the packet goes.
    SourceRoute = 32, "source-route";
    /// A v4-mapped address in an IPv6 header.
    MappedAddress = 33, "mapped-address";
    /// ICMPv6 in an IPv4 packet, ICMP or IGMP in an IPv6 packet.
    WrongFamily = 34, "wrong-family";
    /// A first fragment without all of the headers.
    TinyFragment = 35, "tiny-fragment";
    /// A later fragment whose first one was not let in, or has not come.
    OrphanFragment = 36, "orphan-fragment";
    /// A later fragment that would overwrite the first.
    OverlappingFragment = 37, "overlapping-fragment";
    /// An ICMP error about a packet that no live flow of its receiver has sent.
    IcmpError = 38, "icmp-error";
    /// A frame whose IP packet stands behind more than two VLAN tags, or in an LLC/SNAP frame.
    Framing = 39, "framing";
    /// A frame that no socket hook has seen: from a packet socket, AF_XDP or a TUN device of a workload.
    Unjudged = 40, "unjudged";
    /// A packet socket that a workload wanted to make, bind or send by: no packet, and counted apart.
    PacketSocket = 41, "packet-socket";
    /// The same of an XDP socket.
    XdpSocket = 42, "xdp-socket";
}

impl Reason {
    /// Whether a verdict with this reason lets the packet pass.
    #[must_use]
    pub const fn allows(self) -> bool {
        (self as u8) < (Reason::NoRule as u8)
    }

    /// Whether audit mode may let a packet denied for this reason pass. What is malformed or forged
    /// is dropped in audit mode too: it carries no identity that a policy could speak about.
    #[must_use]
    pub const fn auditable(self) -> bool {
        matches!(
            self,
            Reason::NoRule
                | Reason::Guardrail
                | Reason::Unknown
                | Reason::Pending
                | Reason::Ambiguous
                | Reason::Orphaned
                | Reason::Unjudged
                | Reason::PacketSocket
                | Reason::XdpSocket
        )
    }
}
