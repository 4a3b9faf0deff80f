//! What the packet hooks must rule, told once and slowly: who the two sides are, then one question to a judge.
//!
//! It follows docs/architecture.md, "The way of a packet", for a packet whose socket never asked before. Who reads the
//! packet, who owns an address and what a pair may do is somebody else's answer: an [`Eyes`].

use segd_common::{segment, workload::Identity};

use super::{packets::Made, parse::View};

/// Somebody who can read packets and knows a policy.
pub trait Eyes {
    /// The packet, or the word of the reason why it is none.
    fn read(&self, packet: &Made) -> Result<View, &'static str>;
    /// The segment an address on the network belongs to, by index.
    fn owner(&self, address: &[u8; 16]) -> u16;
    /// Reason, rule and outcome of an initiation.
    fn judge(&self, from: Identity, to: Identity, service: u32) -> Judged;
    /// The same for what no rule can be about.
    fn unruled(&self, from: Identity, to: Identity) -> Judged;
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    pub reason: &'static str,
    pub outcome: &'static str,
    pub rule: Option<usize>,
}

/// What a hook must say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruling {
    pub reason: &'static str,
    pub outcome: &'static str,
    pub rule: Option<usize>,
    /// Both sides and what was asked for, where they were found out.
    pub asked: Option<(Identity, Identity, u32)>,
}

/// Where an address of this host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local {
    /// In the namespace the packet is seen in.
    Here,
    /// The host's own, seen from another namespace.
    Host,
    /// In one of the other namespaces, by number.
    Beside(usize),
    /// In several.
    Twice,
}

/// Who lives in one of the other namespaces.
#[derive(Clone, Copy, Debug)]
pub struct Lives {
    pub owner: u16,
    pub single: bool,
}

/// The host around the packet.
#[derive(Clone, Debug)]
pub struct World {
    /// The packet is seen in the host's own namespace.
    pub on_host: bool,
    pub locals: Vec<([u8; 16], Local)>,
    pub lives: Vec<Lives>,
    /// Who lives here, if this is not the host's namespace.
    pub here: Option<Lives>,
    /// Ports that somebody listens on here, over TCP and UDP, and who that is, if its cgroup has an entry.
    pub listeners: Vec<(u16, Option<Identity>)>,
}

const NOBODY: Identity = Identity {
    segment: segment::NONE,
    flags: 0,
};

const HOST: Identity = Identity {
    segment: segment::HOST,
    flags: 0,
};

fn multicast(address: &[u8; 16]) -> bool {
    if super::packets::is_v4(address) {
        (224..=239).contains(&address[12]) || address[12..] == [255; 4]
    } else {
        address[0] == 0xff
    }
}

fn loopback(address: &[u8; 16]) -> bool {
    if super::packets::is_v4(address) {
        address[12] == 127
    } else {
        *address == std::net::Ipv6Addr::LOCALHOST.octets()
    }
}

fn is_echo_reply(packet: &View) -> bool {
    (packet.protocol == 1 && packet.kind == 0) || (packet.protocol == 58 && packet.kind == 129)
}

/// RFC 4861 7.1, RFC 3810 5.
fn is_link_control(packet: &View) -> bool {
    packet.protocol == 58
        && match packet.kind {
            133..=137 => packet.hop_limit == 255,
            130..=132 | 143 => packet.hop_limit == 1 && multicast(&packet.destination),
            _ => false,
        }
}

/// RFC 3376 4.
fn is_group_control(packet: &View) -> bool {
    packet.protocol == 2 && packet.hop_limit == 1 && multicast(&packet.destination)
}

/// RFC 792, RFC 4443. What one of these packets quotes, nobody has sent.
fn is_error(packet: &View) -> bool {
    (packet.protocol == 1 && [3, 4, 5, 11, 12].contains(&packet.kind))
        || (packet.protocol == 58 && packet.kind < 128)
}

impl World {
    fn local(&self, address: &[u8; 16]) -> Option<Local> {
        self.locals
            .iter()
            .find(|(known, _)| known == address)
            .map(|(_, local)| *local)
    }

    fn is_hosts(&self, address: &[u8; 16]) -> bool {
        match self.local(address) {
            Some(Local::Host) => true,
            Some(Local::Here) => self.on_host,
            _ => false,
        }
    }

    /// A process nobody claims is claimed by who claims its address, unless that is the host's.
    fn claimed(&self, eyes: &dyn Eyes, who: Identity, address: &[u8; 16]) -> Identity {
        if who != HOST || loopback(address) || self.is_hosts(address) {
            return who;
        }
        match eyes.owner(address) {
            owner if owner >= segment::FIRST_SEGMENT => Identity::of(owner),
            _ => who,
        }
    }

    /// What the egress hook must say of a packet that `own` sends. `looped`: by the loopback device.
    pub fn departs(&self, eyes: &dyn Eyes, own: Identity, packet: &Made, looped: bool) -> Ruling {
        let view = match eyes.read(packet) {
            Ok(view) => view,
            Err(reason) => return Ruling::unread(reason),
        };
        let process = own;
        let own = if self.on_host {
            own
        } else {
            self.claimed(eyes, own, &view.source)
        };
        if is_error(&view) && (loopback(&view.destination) || self.local(&view.destination).is_some()) {
            return Ruling::fixed("icmp-error", "denied");
        }
        let dhcp = matches!((view.source_port, view.destination_port), (68, 67) | (546, 547));
        let control = (is_link_control(&view) && (process == HOST || !matches!(view.kind, 134 | 137)))
            || is_group_control(&view)
            || (view.protocol == 17 && dhcp && process == HOST);
        if control {
            return Ruling::fixed("control", "allowed");
        }
        let to = &view.destination;
        let icmp = matches!(view.protocol, 1 | 58);
        // A bare protocol may be the kernel's own business, too: a tunnel's end.
        let bare = !icmp && !matches!(view.protocol, 6 | 17 | 132 | 136);
        let kernel_answers = (icmp && !is_echo_reply(&view)) || bare;
        let ask = |peer: Identity| Ruling::of(eyes, own, peer, view.service);
        let defer = Ruling {
            asked: Some((own, NOBODY, view.service)),
            ..Ruling::fixed("rule", "allowed")
        };
        let here = loopback(to) || (looped && !multicast(to)) || self.local(to) == Some(Local::Here);
        if multicast(to) || (!here && self.local(to).is_none()) {
            return ask(Identity::of(eyes.owner(to)));
        }
        if here {
            if matches!(view.protocol, 6 | 17) {
                let listener = self
                    .listeners
                    .iter()
                    .find(|(port, _)| *port == view.destination_port);
                match listener {
                    Some((_, Some(receiver))) => return ask(self.claimed(eyes, *receiver, to)),
                    // Its own hook walks its ancestors.
                    Some((_, None)) => return Ruling { asked: None, ..defer },
                    None => {}
                }
            } else if !icmp && !bare {
                return Ruling { asked: None, ..defer };
            }
            return ask(match (self.on_host, self.here) {
                (true, _) => HOST,
                (false, Some(lives)) => Identity::of(lives.owner),
                (false, None) => own,
            });
        }
        let (there, shared) = match self.local(to) {
            Some(Local::Beside(number)) => {
                let lives = self.lives[number];
                let owner = Identity::of(lives.owner);
                if lives.single {
                    (owner, false)
                } else if owner != HOST {
                    (owner, true)
                } else {
                    let claimed = eyes.owner(to);
                    let is_claimed = claimed >= segment::FIRST_SEGMENT;
                    (if is_claimed { Identity::of(claimed) } else { HOST }, !is_claimed)
                }
            }
            // Several say that it is theirs.
            Some(Local::Twice) => (NOBODY, true),
            _ => (HOST, true),
        };
        if shared && !kernel_answers {
            return Ruling { asked: None, ..defer };
        }
        ask(there)
    }

    /// What the ingress hook must say of a packet for a socket of `own`. `sender`: who sent it from this host.
    pub fn arrives(
        &self,
        eyes: &dyn Eyes,
        own: Identity,
        sender: Option<Identity>,
        packet: &Made,
        looped: bool,
    ) -> Ruling {
        let view = match eyes.read(packet) {
            Ok(view) => view,
            Err(reason) => return Ruling::unread(reason),
        };
        if loopback(&view.source) && !looped {
            return Ruling::fixed("spoofed", "denied");
        }
        if is_link_control(&view) {
            return Ruling::fixed("control", "allowed");
        }
        let own = if self.on_host {
            own
        } else {
            self.claimed(eyes, own, &view.destination)
        };
        let dhcp = matches!((view.source_port, view.destination_port), (67, 68) | (547, 546));
        // A server is no workload of this host.
        let is_strangers = sender.is_none_or(|sender| self.claimed(eyes, sender, &view.source) == HOST);
        if view.protocol == 17 && dhcp && own == HOST && is_strangers {
            return Ruling::fixed("control", "allowed");
        }
        if is_error(&view) && own.segment != segment::HOST {
            return Ruling::fixed("icmp-error", "denied");
        }
        let peer = match sender {
            Some(sender) => self.claimed(eyes, sender, &view.source),
            None if looped || loopback(&view.source) || self.local(&view.source).is_some() => NOBODY,
            None => Identity::of(eyes.owner(&view.source)),
        };
        if is_echo_reply(&view) && sender.is_none() {
            // A kernel's answer, and nobody here asked.
            let judged = eyes.unruled(peer, own);
            return Ruling {
                reason: judged.reason,
                outcome: judged.outcome,
                rule: judged.rule,
                asked: Some((peer, own, view.service)),
            };
        }
        Ruling::of(eyes, peer, own, view.service)
    }
}

impl Ruling {
    fn unread(reason: &'static str) -> Ruling {
        Ruling::fixed(reason, "denied")
    }

    fn fixed(reason: &'static str, outcome: &'static str) -> Ruling {
        Ruling {
            reason,
            outcome,
            rule: None,
            asked: None,
        }
    }

    fn of(eyes: &dyn Eyes, from: Identity, to: Identity, service: u32) -> Ruling {
        let judged = eyes.judge(from, to, service);
        Ruling {
            reason: judged.reason,
            outcome: judged.outcome,
            rule: judged.rule,
            asked: Some((from, to, service)),
        }
    }

    /// Whether the packet passes.
    pub fn passes(&self) -> bool {
        self.outcome != "denied"
    }
}
