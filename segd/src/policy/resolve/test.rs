//! The policy's own tests: parties looked up, ports parsed. A test that asks about nobody is an error: it cannot fail.

use std::net::IpAddr;

use super::Resolver;
use crate::policy::{
    diagnostic::{Code, Diagnostic},
    document::{Document, Peers, PeersKind, Ports, TestEntry, Text},
    model::{Parties, TestCase},
};

impl Resolver<'_> {
    pub(super) fn tests(&mut self, documents: &[&Document]) {
        let mut tests = Vec::new();
        for document in documents {
            let name = document.name();
            for entry in &document.tests {
                if let Some(test) = self.test(name, entry) {
                    tests.push((entry.span, test));
                }
            }
        }
        (self.test_spans, self.policy.tests) = tests.into_iter().unzip();
    }

    fn test(&mut self, document: &str, entry: &TestEntry) -> Option<TestCase> {
        let from = self.parties(&entry.from);
        let to = self.parties(&entry.to);
        let services = match &entry.ports {
            Ports::Listed(ports) => self.services(ports),
            Ports::Unreadable(ports) => {
                let _ = self.services(ports);
                None
            }
            Ports::Every => None,
        };
        Some(TestCase {
            location: self.places.locate(entry.span),
            label: format!("{document}/tests[{}]", entry.index),
            text: self.written(entry.extent),
            from: from?,
            to: to?,
            services: services?,
            expect: entry.expect,
        })
    }

    /// Peers as in a rule, and single addresses.
    fn parties(&mut self, peers: &Peers) -> Option<Parties> {
        let mut addresses = Vec::new();
        let named: Vec<Text> = match &peers.kind {
            PeersKind::Labels(_) => Vec::new(),
            PeersKind::Names(names) => {
                let is_name = |text: &&Text| match text.value.parse::<IpAddr>() {
                    Ok(address) => {
                        addresses.push(address);
                        false
                    }
                    Err(_) => true,
                };
                names.iter().filter(is_name).cloned().collect()
            }
        };
        let kind = match &peers.kind {
            PeersKind::Names(_) => PeersKind::Names(named),
            labels => labels.clone(),
        };
        let span = peers.span;
        let parties = Parties {
            peers: self.peers(Some(&Peers { span, kind }))?,
            addresses,
        };
        if parties.peers.is_empty() && parties.addresses.is_empty() {
            let diagnostic = Diagnostic::error(Code::InvalidValue, span, "the test asks about nobody");
            self.report(
                diagnostic
                    .help("name a segment, `host`, `world`, `any`, an address, or labels that a segment has"),
            );
            return None;
        }
        Some(parties)
    }
}
