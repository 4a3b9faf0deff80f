//! What to write instead, where a field is missing, misspelt or of another form.
//!
//! INVARIANT: what is proposed is what would be taken.

use super::shape::shortened;
use crate::policy::{
    document::fields::{Fields as Known, names},
    port,
    resolve::{name, prefix, selector},
};

/// What other tools call it, and what it is called here.
const ELSEWHERE: [(&str, &str); 17] = [
    ("source", "`from` says who starts to talk"),
    ("src", "`from` says who starts to talk"),
    ("destination", "`to` says towards whom"),
    ("dest", "`to` says towards whom"),
    ("dst", "`to` says towards whom"),
    ("port", "`ports` is a list, as in `ports: [tcp/443]`"),
    (
        "protocol",
        "the protocol stands before the port, as in `ports: [tcp/443]`",
    ),
    ("services", "`ports` is a list, as in `ports: [tcp/443]`"),
    ("action", "rules under `allow` open, rules under `deny` forbid"),
    (
        "rules",
        "rules that open stand under `allow`, guardrails under `deny`",
    ),
    (
        "ingress",
        "rules stand under `allow` and `deny`; `to` is the side that is started towards",
    ),
    (
        "egress",
        "rules stand under `allow` and `deny`; `from` is the side that starts",
    ),
    ("description", "`reason` is the text for people"),
    ("comment", "`reason` is the text for people"),
    (
        "priority",
        "there are no priorities: a `deny` beats every `allow`",
    ),
    ("selector", "`match` is the list of who belongs to a segment"),
    ("groups", "`segments` are the groups"),
];

/// How something is written that no number, boolean or nothing can be, in quotes or not.
pub(super) fn form_of(what: &str) -> Option<&'static str> {
    Some(match what {
        "a time" => "write it like `2026-12-01T18:00:00Z`",
        "an address prefix" => "write it like `198.51.100.0/24` or `2001:db8::/32`",
        "a port" => "write it like `tcp/443`",
        "a cgroup path" => "write it from the cgroup root, like `/shop/web`",
        "a unit name" => "write it like `nginx.service`",
        "a day" => "write it like `mon` or `mon-fri`",
        "a pair of hours" => "write it like `\"08:00-18:00\"`",
        "a time zone" => "write it like `Europe/Berlin`",
        _ => return None,
    })
}

/// How a required field is written.
pub(super) fn example(name: &str) -> Option<&'static str> {
    Some(match name {
        "metadata" => "write `metadata: {name: shop}`, with a name of its own for each document",
        "name" => "write `name: shop`, another for each document",
        "spec" => "write `spec:`, and below it `segments`, `allow`, `deny`",
        "from" => "say who starts to talk, as in `from: web`",
        "to" => "say towards whom, as in `to: db`",
        "port" => "say on what, as in `port: tcp/443`",
        "expect" => "write `expect: allow` or `expect: deny`",
        "host" => "write `host: enforce`, or take `defaults` out",
        "days" => "write `days: [mon-fri]`; `[mon-sun]` is every day",
        "hours" => "write `hours: \"08:00-18:00\"`; `\"00:00-24:00\"` is all day",
        "zone" => "say whose clocks, as in `zone: Europe/Berlin`",
        _ => return None,
    })
}

/// How a list is written of which only one entry stands there; `None` if the entry will do in brackets.
pub(super) fn listed(what: &str, entry: &str) -> Option<String> {
    Some(match what {
        "a list of rules" => "write each rule as in `- {from: web, to: db, ports: [tcp/443]}`".to_owned(),
        "a list of tests" => {
            "write each test as in `- {from: web, to: db, port: tcp/443, expect: allow}`".to_owned()
        }
        "a list of matchers" if selector::cgroup(entry).is_ok() => format!("write `[{{cgroup: {entry}}}]`"),
        "a list of matchers" if selector::unit(entry).is_ok() => format!("write `[{{systemd: {entry}}}]`"),
        "a list of matchers" => {
            "write each matcher as in `- systemd: nginx.service` or `- cgroup: /shop/web`".to_owned()
        }
        "a list of ports" if port::parse(entry).is_err() => {
            let tcp = format!("tcp/{entry}");
            match port::parse(&tcp) {
                Ok(_) => format!("write `[{tcp}]` or `[udp/{entry}]`"),
                Err(_) => "write it like `[tcp/443, udp/53]`".to_owned(),
            }
        }
        "a list of segment names" if name::segment(entry).is_err() => {
            "write the names in brackets, as in `[web, db]`".to_owned()
        }
        "a list of address prefixes" if prefix::parse(entry).is_err() => {
            "write it like `[198.51.100.0/24]`".to_owned()
        }
        "a list of days" if entry.bytes().any(|byte| byte.is_ascii_digit()) => {
            "write it like `[mon-fri]`".to_owned()
        }
        _ => return None,
    })
}

/// What to do about a field that does not exist.
pub(super) fn remedy(name: &str, known: &'static Known) -> Option<String> {
    if let Some((field, value)) = name.split_once(':')
        && names(known).any(|known| known == field)
    {
        return Some(format!(
            "put a space after the colon: `{field}: {}`",
            shortened(value)
        ));
    }
    let elsewhere = ELSEWHERE.iter().find(|(word, _)| *word == name);
    elsewhere.map(|(_, help)| (*help).to_owned())
}
