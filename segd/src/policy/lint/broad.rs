//! Rules and matchers that mean nearly everybody or nearly everything.

use ipnet::IpNet;

use super::{Bits, Looked, bits::WORLD};
use crate::policy::{
    diagnostic::{Code, Diagnostic, Span},
    model::{Action, SelectorKind},
};
use segd_common::service;

impl Looked<'_> {
    /// Of who, towards whom and on what, one may be left open; two are too many.
    pub(super) fn broad(&self, everybody: &Bits) -> Option<Diagnostic> {
        if self.rule.action == Action::Deny {
            return None;
        }
        let from = open(&self.from, everybody);
        let to = open(&self.to, everybody);
        let ports = self.rule.services.first() == Some(&(0, service::MAX));
        let message = match (from, to, ports) {
            (Some(_), Some(_), true) => {
                "the rule opens nearly everything: every port, from nearly everybody to nearly everybody"
                    .to_owned()
            }
            (Some(from), Some(to), false) => {
                format!("the rule is about nearly everybody on both sides: {from} towards {to}")
            }
            (Some(from), None, true) => format!("the rule opens every port to {from}"),
            (None, Some(to), true) => format!("the rule opens every port towards {to}"),
            _ => return None,
        };
        let help = "name the segments and the ports that are needed; if it is meant, write `# segd: allow(broad)` above it";
        Some(Diagnostic::warning(Code::Broad, self.span, message).help(help))
    }
}

/// What to call a side that is nearly everybody.
fn open(bits: &Bits, everybody: &Bits) -> Option<&'static str> {
    // With few segments, a list of all of them is a list, not `any`: it also has to hold `host` and `world`.
    if everybody.within(bits) {
        Some("everybody")
    } else if bits.has(WORLD) {
        Some("the whole network")
    } else {
        None
    }
}

/// Segments that claim every address there is.
pub fn matchers(matchers: &[(&str, &SelectorKind, Span)], out: &mut Vec<Diagnostic>) {
    for (name, kind, span) in matchers {
        let SelectorKind::Cidr { prefix, except } = kind else {
            continue;
        };
        let whole = match prefix {
            IpNet::V4(net) if net.prefix_len() == 0 => "every IPv4 address",
            IpNet::V6(net) if net.prefix_len() == 0 => "every IPv6 address",
            // 2000::/3 is all that is routed (RFC 4291, 2.4).
            IpNet::V6(net) if net.prefix_len() <= 3 && net.network().octets()[0] >> 5 == 1 => {
                "every IPv6 address that is routed"
            }
            _ => continue,
        };
        if !except.is_empty() {
            continue;
        }
        let message = format!("`{prefix}` is {whole}: nothing of it is left to `world`");
        let help = format!(
            "a rule can say `world` for it; if `{name}` is meant to be all of it, write `# segd: allow(broad)` above it"
        );
        out.push(Diagnostic::warning(Code::Broad, *span, message).help(help));
    }
}
