//! Ports of a rule: exactly those that were seen, neighbours written as a range.

use std::collections::BTreeSet;

use segd_common::service::{self, Service};

use crate::policy::port;

/// One service as a rule writes it, if a rule can name it and nothing beside it.
pub fn written(service: Service) -> Option<String> {
    let text = spelled(service);
    let (low, high) = port::parse(&text).ok()?;
    let exact = low == service && high == service;
    (exact || is_echo(service) && low <= service && service <= high).then_some(text)
}

/// An echo has one code; everybody writes it by its name.
fn is_echo(service: Service) -> bool {
    let kind = service >> 8 & 0xff;
    let code = service & 0xff;
    match service::protocol(service) {
        service::ICMP => code == 0 && matches!(kind, 0 | 8),
        service::ICMPV6 => code == 0 && matches!(kind, 128 | 129),
        _ => false,
    }
}

fn spelled(service: Service) -> String {
    let word = match service::protocol(service) {
        service::ICMP => "icmp",
        service::ICMPV6 => "icmpv6",
        _ => return port::display(service),
    };
    if is_echo(service) {
        return port::display(service);
    }
    format!("{word}/{}/{}", service >> 8 & 0xff, service & 0xff)
}

/// The ports of a rule. A range stands only where every port of it was seen.
pub fn merged(services: &BTreeSet<Service>) -> Vec<String> {
    let mut ports = Vec::new();
    let mut run: Option<(Service, Service)> = None;
    let mut end = |run: Option<(Service, Service)>| {
        if let Some((low, high)) = run {
            match written(low) {
                Some(text) if low == high => ports.push(text),
                Some(text) => ports.push(format!("{text}-{}", high & 0xffff)),
                None => {}
            }
        }
    };
    for service in services {
        let ranges = service::has_ports(service::protocol(*service));
        match run {
            Some((low, high)) if ranges && high + 1 == *service && high >> 16 == *service >> 16 => {
                run = Some((low, *service));
            }
            _ => {
                end(run);
                run = Some((*service, *service));
            }
        }
    }
    end(run);
    ports
}

/// Where Linux begins to choose ports by itself (`ip_local_port_range`).
const CHOSEN_FROM: u32 = 32_768;
/// So many of them are no accident.
const MANY: usize = 8;

/// What to know about these ports.
pub fn remarks(services: &BTreeSet<Service>) -> Vec<String> {
    let chosen = services
        .iter()
        .filter(|service| service::has_ports(service::protocol(**service)))
        .filter(|service| **service & 0xffff >= CHOSEN_FROM)
        .count();
    if chosen < MANY {
        return Vec::new();
    }
    vec![format!(
        "{chosen} ports from {CHOSEN_FROM} on: they look chosen anew each time (FTP, RPC). Only those seen are listed; fix the server's range, then open that"
    )]
}
