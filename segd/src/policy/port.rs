//! Ports as people write them: `tcp/443`, `udp/1000-1999`, `icmp/echo-request`, `ip/47`, `any`.
//!
//! INVARIANT: one spelling for one number: no sign, no leading zero, no hexadecimal, no space.

pub mod list;

use segd_common::service::{self, Service};

use super::diagnostic::{Problem, nearest};

/// An inclusive interval of services.
pub type Interval = (Service, Service);

/// ICMP types by name (RFC 792, 950, 1256).
pub const ICMP_TYPES: [(&str, u8); 11] = [
    ("echo-reply", 0),
    ("destination-unreachable", 3),
    ("redirect", 5),
    ("echo-request", 8),
    ("router-advertisement", 9),
    ("router-solicitation", 10),
    ("time-exceeded", 11),
    ("parameter-problem", 12),
    ("timestamp-request", 13),
    ("timestamp-reply", 14),
    ("address-mask-request", 17),
];

/// ICMPv6 types by name (RFC 4443, 4861, 2710).
pub const ICMPV6_TYPES: [(&str, u8); 10] = [
    ("destination-unreachable", 1),
    ("packet-too-big", 2),
    ("time-exceeded", 3),
    ("parameter-problem", 4),
    ("echo-request", 128),
    ("echo-reply", 129),
    ("router-solicitation", 133),
    ("router-advertisement", 134),
    ("neighbour-solicitation", 135),
    ("neighbour-advertisement", 136),
];

/// The protocols that have words of their own.
const PROTOCOLS: [&str; 7] = ["tcp", "udp", "sctp", "icmp", "icmpv6", "ip", "any"];

/// The services that a port stands for.
///
/// # Errors
///
/// What is wrong and what to write instead.
pub fn parse(text: &str) -> Result<Interval, Problem> {
    let (word, rest) = match text.split_once('/') {
        Some((word, rest)) => (word, Some(rest)),
        None => (text, None),
    };
    match (word, rest) {
        ("any", None) => Ok((0, service::MAX)),
        ("any", Some(_)) => Err(Problem::new(
            format!("`{text}` is not a port"),
            "`any` stands alone",
        )),
        ("tcp", Some(rest)) => range(text, service::TCP, rest),
        ("udp", Some(rest)) => range(text, service::UDP, rest),
        ("sctp", Some(rest)) => range(text, service::SCTP, rest),
        ("tcp" | "udp" | "sctp", None) => {
            let help = format!("write `{word}/443`, or `{word}/1-65535` for every port");
            Err(Problem::new(format!("`{text}` names no port"), help))
        }
        ("icmp", rest) => icmp(text, service::ICMP, &ICMP_TYPES, rest),
        ("icmpv6", rest) => icmp(text, service::ICMPV6, &ICMPV6_TYPES, rest),
        ("ip", Some(rest)) => bare(text, rest),
        ("ip", None) => Err(Problem::new(
            "`ip` names no protocol",
            "write its number, as in `ip/47`, or `any` for every protocol and port",
        )),
        ("udplite", _) => Err(no_udplite(text)),
        _ => Err(unknown(text, word, rest)),
    }
}

/// The one service that a question is about.
///
/// # Errors
///
/// What is wrong, or that the port stands for more than one service.
pub fn parse_one(text: &str) -> Result<Service, Problem> {
    let (low, high) = parse(text)?;
    // A type without a code is asked about with code 0, which is what a ping carries.
    let one_type = matches!(service::protocol(low), service::ICMP | service::ICMPV6)
        && text.contains('/')
        && low >> 8 == high >> 8;
    if low == high || one_type {
        return Ok(low);
    }
    let help = match text {
        "any" => "ask about one port, as in `tcp/443`".to_owned(),
        "icmp" | "icmpv6" => format!("ask about one type, as in `{text}/echo-request`"),
        _ => format!("ask about one of them, as in `{}`", display(low)),
    };
    Err(Problem::new(format!("`{text}` is more than one port"), help))
}

/// A service the way [`parse`] reads it.
#[must_use]
pub fn display(service: Service) -> String {
    let (protocol, port) = (service::protocol(service), service & 0xffff);
    match protocol {
        service::TCP => format!("tcp/{port}"),
        service::UDP => format!("udp/{port}"),
        service::SCTP => format!("sctp/{port}"),
        service::UDPLITE => format!("udplite/{port}"),
        service::ICMP => display_icmp("icmp", &ICMP_TYPES, service),
        service::ICMPV6 => display_icmp("icmpv6", &ICMPV6_TYPES, service),
        _ => format!("ip/{protocol}"),
    }
}

fn display_icmp(word: &str, names: &[(&str, u8)], service: Service) -> String {
    let (kind, code) = (service >> 8 & 0xff, service & 0xff);
    match names.iter().find(|(_, number)| u32::from(*number) == kind) {
        Some((name, _)) if code == 0 => format!("{word}/{name}"),
        _ => format!("{word}/{kind}/{code}"),
    }
}

/// `443` or `1000-1999`.
fn range(text: &str, protocol: u8, rest: &str) -> Result<Interval, Problem> {
    let (low, high) = match rest.split_once('-') {
        Some((low, high)) => (number(text, low)?, number(text, high)?),
        None => {
            let port = number(text, rest)?;
            (port, port)
        }
    };
    let port = |value: u32| match u16::try_from(value) {
        Ok(0) | Err(_) => Err(Problem::new(
            format!("`{text}` is not a port"),
            "ports are 1 to 65535",
        )),
        Ok(port) => Ok(service::port(protocol, port)),
    };
    if low > high {
        let word = text.split('/').next().unwrap_or_default();
        let help = format!("write `{word}/{high}-{low}`");
        return Err(Problem::new(format!("`{text}` runs backwards"), help));
    }
    Ok((port(low)?, port(high)?))
}

/// Nothing, `echo-request`, `3` or `3/4`.
fn icmp(text: &str, protocol: u8, names: &[(&str, u8)], rest: Option<&str>) -> Result<Interval, Problem> {
    let Some(rest) = rest else {
        return Ok((
            service::icmp(protocol, 0, 0),
            service::icmp(protocol, u8::MAX, u8::MAX),
        ));
    };
    let (kind, code) = match rest.split_once('/') {
        Some((kind, code)) => (kind, Some(code)),
        None => (rest, None),
    };
    let byte = |text: &str, digits: &str, what: &str| {
        let value = number(text, digits)?;
        u8::try_from(value).map_err(|_| {
            let message = format!("`{text}`: {value} is not an ICMP {what}");
            Problem::new(message, format!("an ICMP {what} is 0 to 255"))
        })
    };
    let kind = match names.iter().find(|(name, _)| *name == kind) {
        Some((_, number)) => *number,
        None if kind.starts_with(|first: char| first.is_ascii_alphabetic()) => {
            let message = format!("`{text}`: no ICMP type is called `{kind}`");
            let help = match nearest(kind, names.iter().map(|(name, _)| *name)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "write its number, as in `icmp/3` or `icmp/3/4`".to_owned(),
            };
            return Err(Problem::new(message, help));
        }
        None => byte(text, kind, "type")?,
    };
    Ok(match code {
        None => (
            service::icmp(protocol, kind, 0),
            service::icmp(protocol, kind, u8::MAX),
        ),
        Some(code) => {
            let service = service::icmp(protocol, kind, byte(text, code, "code")?);
            (service, service)
        }
    })
}

/// IPsec's authentication header (RFC 4302).
const AUTHENTICATION: u8 = 51;

/// `ip/47`: a protocol that has no ports.
fn bare(text: &str, rest: &str) -> Result<Interval, Problem> {
    let value = number(text, rest)?;
    let protocol = u8::try_from(value).map_err(|_| {
        Problem::new(
            format!("`{text}`: {value} is not an IP protocol"),
            "IP protocols are 0 to 255",
        )
    })?;
    let instead = match protocol {
        service::ICMP => "`icmp` or `icmp/echo-request`",
        service::ICMPV6 => "`icmpv6` or `icmpv6/echo-request`",
        service::TCP => "`tcp/443`, or `tcp/1-65535` for every port",
        service::UDP => "`udp/53`, or `udp/1-65535` for every port",
        service::SCTP => "`sctp/3868`, or `sctp/1-65535` for every port",
        service::UDPLITE => return Err(no_udplite(text)),
        // Hop-by-hop, routing, fragment, destination options, mobility, HIP, shim6.
        0 | 43 | 44 | 60 | 135 | 139 | 140 => {
            let message = format!("`{text}` is an IPv6 extension header, not a protocol");
            return Err(Problem::new(message, "name the protocol that follows it"));
        }
        // Over IPv6 the walk goes on behind it; over IPv4 alone it would mean something.
        AUTHENTICATION => {
            let message =
                format!("`{text}` is the authentication header (AH), which is not judged by itself");
            return Err(Problem::new(
                message,
                "name the protocol that follows it; only `any` covers AH over IPv4",
            ));
        }
        _ => return Ok((service::bare(protocol), service::bare(protocol))),
    };
    Err(Problem::new(
        format!("`{text}` has a word of its own"),
        format!("write {instead}"),
    ))
}

fn no_udplite(text: &str) -> Problem {
    Problem::new(
        format!("`{text}`: UDP-Lite is not supported yet"),
        "only `any` covers it",
    )
}

/// A number in its one spelling.
fn number(text: &str, digits: &str) -> Result<u32, Problem> {
    if digits.is_empty() {
        return Err(Problem::new(
            format!("`{text}`: a number is missing"),
            "write it like `tcp/443` or `tcp/1-1023`",
        ));
    }
    let decimal = digits.bytes().all(|byte| byte.is_ascii_digit());
    if !decimal {
        let message = format!("`{text}`: `{digits}` is not a number");
        return Err(Problem::new(
            message,
            "write plain decimal digits, without sign or space",
        ));
    }
    if digits.len() > 1 && digits.starts_with('0') {
        let short = digits.trim_start_matches('0');
        let short = if short.is_empty() { "0" } else { short };
        let message = format!("`{text}`: `{digits}` has a leading zero");
        return Err(Problem::new(
            message,
            format!("write `{short}`; other programs read it as octal"),
        ));
    }
    // Everything a port, type, code or protocol can be is far below; a longer number stays too large.
    Ok(digits.parse().unwrap_or(u32::MAX))
}

/// The best guess at what was meant by a word that is no protocol.
fn unknown(text: &str, word: &str, rest: Option<&str>) -> Problem {
    let trimmed = text.trim();
    if trimmed != text && parse(trimmed).is_ok() {
        let help = format!("write `{trimmed}`, without spaces around it");
        return Problem::new(format!("`{text}` is not a port"), help);
    }
    let lower = word.to_ascii_lowercase();
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let help = match (lower.as_str(), rest) {
        (protocol, Some(rest)) if protocol != word && PROTOCOLS.contains(&protocol) => {
            format!("write `{protocol}/{rest}`")
        }
        (protocol, None) if protocol != word && PROTOCOLS.contains(&protocol) => {
            format!("write `{protocol}`")
        }
        (port, Some(rest)) if digits(port) && PROTOCOLS.contains(&rest) => format!("write `{rest}/{port}`"),
        (port, None) if digits(port) => format!("write `tcp/{port}` or `udp/{port}`"),
        ("*" | "all", None) => "write `any`".to_owned(),
        (word, _) => match nearest(word, PROTOCOLS) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("a port begins with one of {}", PROTOCOLS.join(", ")),
        },
    };
    Problem::new(format!("`{text}` is not a port"), help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(text: &str) -> String {
        let problem = parse(text).expect_err("must be refused");
        format!("{} / {}", problem.message, problem.help.unwrap_or_default())
    }

    #[test]
    fn reads_every_documented_form() {
        let tcp = |port| service::port(service::TCP, port);
        let udp = |port| service::port(service::UDP, port);
        assert_eq!(parse("any"), Ok((0, service::MAX)));
        assert_eq!(parse("tcp/443"), Ok((tcp(443), tcp(443))));
        assert_eq!(parse("udp/1000-1999"), Ok((udp(1000), udp(1999))));
        assert_eq!(parse("tcp/1-65535"), Ok((tcp(1), tcp(65535))));
        assert_eq!(parse("icmp"), Ok((0x01_0000, 0x01_ffff)));
        assert_eq!(parse("icmp/echo-request"), Ok((0x01_0800, 0x01_08ff)));
        assert_eq!(parse("icmp/3"), Ok((0x01_0300, 0x01_03ff)));
        assert_eq!(parse("icmp/3/4"), Ok((0x01_0304, 0x01_0304)));
        assert_eq!(parse("icmpv6/echo-request"), Ok((0x3a_8000, 0x3a_80ff)));
        assert_eq!(parse("ip/47"), Ok((0x2f_0000, 0x2f_0000)));
    }

    #[test]
    fn refuses_every_other_spelling_of_a_number() {
        for text in [
            "tcp/0",
            "tcp/65536",
            "tcp/-1",
            "tcp/+1",
            "tcp/ 1",
            "tcp/0x16",
            "tcp/022",
            "tcp/1e3",
            "tcp/1_0",
        ] {
            refused(text);
        }
        for text in [
            "tcp/",
            "tcp/-",
            "tcp/1-",
            "tcp/-1-2",
            "tcp/1-2-3",
            "udp/0-5",
            "tcp/99999999999999999999",
        ] {
            refused(text);
        }
        for text in [
            "icmp/256",
            "icmp/3/256",
            "icmp/",
            "icmp/3/",
            "icmp/3/4/5",
            "ip/256",
            "ip/",
            "tcp/٤٤",
        ] {
            refused(text);
        }
    }

    #[test]
    fn says_what_to_write_instead() {
        assert!(refused("tcp/2000-1000").contains("`tcp/1000-2000`"));
        assert!(refused("ip/6").contains("tcp/443"));
        assert!(refused("TCP/443").contains("`tcp/443`"));
        assert!(refused("443").contains("`tcp/443`"));
        assert!(refused("443/tcp").contains("`tcp/443`"));
        assert!(refused("tpc/443").contains("`tcp`"));
        assert!(refused("icmp/echo-requets").contains("`echo-request`"));
        for number in [0, 43, 44, 60, 135, 139, 140] {
            assert!(refused(&format!("ip/{number}")).contains("extension header"));
        }
        assert!(refused("ip/51").contains("authentication header"));
        assert!(parse("ip/50").is_ok(), "ESP is what is judged");
        assert!(refused("udplite/53").contains("not supported"));
    }

    #[test]
    fn a_question_is_about_one_service() {
        assert_eq!(parse_one("tcp/443"), Ok(service::port(service::TCP, 443)));
        assert_eq!(parse_one("icmp/echo-request"), Ok(0x01_0800));
        for text in ["any", "icmp", "tcp/1-2"] {
            assert!(parse_one(text).is_err(), "{text} is more than one service");
        }
    }

    #[test]
    fn displays_what_it_reads() {
        for text in [
            "tcp/443",
            "udp/53",
            "sctp/1",
            "icmp/echo-request",
            "icmp/3/4",
            "icmpv6/echo-reply",
            "ip/47",
        ] {
            assert_eq!(display(parse_one(text).expect("valid")), text);
        }
    }
}
