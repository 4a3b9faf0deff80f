//! Address prefixes as people write them, in exactly one spelling each.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::policy::diagnostic::Problem;

/// The prefix of `198.51.100.0/24` or `2001:db8::/32`.
///
/// # Errors
///
/// What is wrong, and the prefix that was probably meant.
pub fn parse(text: &str) -> Result<IpNet, Problem> {
    let Some((address, length)) = text.split_once('/') else {
        return Err(match text.parse::<IpAddr>() {
            Ok(address) => {
                let full = if address.is_ipv4() { 32 } else { 128 };
                Problem::new(
                    format!("`{text}` has no prefix length"),
                    format!("write `{text}/{full}`"),
                )
            }
            Err(_) => Problem::new(format!("`{text}` is not an address prefix"), EXAMPLE),
        });
    };
    let address = parse_address(text, address)?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    let bits = match length.parse::<u8>() {
        Ok(bits) if digits && bits <= most && (length == "0" || !length.starts_with('0')) => bits,
        _ => {
            let message = format!("`{text}`: `{length}` is not a prefix length");
            return Err(Problem::new(message, format!("write a number from 0 to {most}")));
        }
    };
    let net = IpNet::new(address, bits)
        .map_err(|_| Problem::new(format!("`{text}` is not an address prefix"), EXAMPLE))?;
    if let IpAddr::V6(v6) = address
        && v6.to_ipv4_mapped().is_some()
        && bits >= 96
    {
        let v4 = v6.to_ipv4_mapped().unwrap_or(Ipv4Addr::UNSPECIFIED);
        let meant = IpNet::new(IpAddr::V4(v4), bits - 96).map_or(net, |net| net.trunc());
        let message = format!("`{text}` is an IPv4 prefix in IPv6 spelling");
        return Err(Problem::new(message, format!("write `{meant}`")));
    }
    if net.addr() != net.network() {
        let message = format!("`{text}` has bits set beyond its prefix length");
        return Err(Problem::new(
            message,
            format!(
                "write `{}`, or `{address}/{most}` for the one address",
                net.trunc()
            ),
        ));
    }
    Ok(net)
}

const EXAMPLE: &str = "write it like `198.51.100.0/24` or `2001:db8::/32`";

fn parse_address(text: &str, address: &str) -> Result<IpAddr, Problem> {
    if let Ok(address) = address.parse::<IpAddr>() {
        return Ok(address);
    }
    if let Some((bare, _)) = address.split_once('%')
        && bare.parse::<Ipv6Addr>().is_ok()
    {
        let message = format!("`{text}` names an interface; a segment has addresses, wherever they are");
        return Err(Problem::new(message, "leave out the part from `%` on"));
    }
    let parts: Vec<&str> = address.split('.').collect();
    let digits = |part: &&str| part.bytes().all(|byte| byte.is_ascii_digit());
    let zeros = parts.len() == 4
        && parts.iter().all(digits)
        && parts.iter().any(|part| part.len() > 1 && part.starts_with('0'));
    if zeros {
        let short: Vec<&str> = parts
            .iter()
            .map(|part| match part.trim_start_matches('0') {
                "" => "0",
                short => short,
            })
            .collect();
        let message = format!("`{text}` has a leading zero, which some programs read as octal");
        let short = short.join(".");
        let help = match short.parse::<Ipv4Addr>() {
            Ok(short) => format!("write `{short}` if it is decimal"),
            Err(_) => EXAMPLE.to_owned(),
        };
        return Err(Problem::new(message, help));
    }
    Err(Problem::new(
        format!("`{text}` is not an address prefix"),
        EXAMPLE,
    ))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[track_caller]
    fn help(text: &str) -> String {
        parse(text).expect_err("must be refused").help.unwrap_or_default()
    }

    #[test]
    fn takes_prefixes_in_their_one_spelling() {
        for text in [
            "0.0.0.0/0",
            "198.51.100.0/24",
            "198.51.100.7/32",
            "::/0",
            "2001:db8::/32",
            "::1/128",
        ] {
            assert_eq!(parse(text).map(|net| net.to_string()).as_deref(), Ok(text));
        }
    }

    #[test]
    fn says_what_was_probably_meant() {
        assert!(help("10.1.2.3/8").contains("`10.0.0.0/8`"));
        assert!(help("10.1.2.3").contains("`10.1.2.3/32`"));
        assert!(help("010.0.0.1/32").contains("`10.0.0.1`"));
        assert!(help("::ffff:10.0.0.0/104").contains("`10.0.0.0/8`"));
        assert!(help("fe80::1%eth0/128").contains('%'));
        assert!(help("10.0.0.0/33").contains("0 to 32"));
        assert!(help("2001:db8::1/32").contains("`2001:db8::/32`"));
    }

    #[test]
    fn refuses_what_is_no_prefix() {
        for text in [
            "",
            "/",
            "10/8",
            "10.0.0.0/",
            "10.0.0.0/08",
            "10.0.0.0/+8",
            "10.0.0.0/255.0.0.0",
            "web",
            "0x0a.0.0.0/8",
            "::/129",
            " 10.0.0.0/8",
        ] {
            assert!(parse(text).is_err(), "{text} must be refused");
        }
    }
}
