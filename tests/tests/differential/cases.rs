//! Cases as data: `tests/cases` for readers, `tests/corpus` for what random rounds once found.
//!
//! A case is a policy and packets with their verdicts. Each packet goes through the oracle, the tables and the kernel.

use std::{fmt::Write as _, fs, net::IpAddr, path::Path as FilePath};

use jiff::Timestamp;
use segd::{
    datapath::rehearsal::{Vantage, Way},
    policy::model::Mode,
};
use segd_common::{
    segment,
    workload::{AMBIGUOUS, Identity, ORPHANED, PENDING},
};
use serde::Deserialize;

use super::{
    calendar,
    eyes::{Forms, InMemory, Oracle},
    forms,
    model::{Eyes, Lives, Ruling},
    packets::Made,
    round::{Round, Shown, expected, says},
    stage::{Cast, Path, Scenery, Theatre, bits},
};

/// A file of `tests/cases` or `tests/corpus`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What a reader learns from it.
    pub description: String,
    /// The policy, as a text.
    pub policy: String,
    /// `--mode`.
    #[serde(default)]
    pub mode: Option<String>,
    /// When it is asked; left out: before any rule is over.
    #[serde(default)]
    pub at: Option<String>,
    /// The packets are seen in a container's namespace, not in the host's.
    #[serde(default)]
    pub container: bool,
    /// Who lives in the namespaces beside: `172.16.5.10`, `.11`, and `172.16.6.12`. By default nobody.
    #[serde(default)]
    pub neighbours: Vec<Neighbour>,
    /// Who lives in the container's namespace.
    #[serde(default)]
    pub here: Option<Neighbour>,
    pub packets: Vec<Packet>,
}

/// Who lives in a namespace.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Neighbour {
    owner: String,
    #[serde(default)]
    alone: bool,
}

/// A packet and what becomes of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Packet {
    /// The workload of this host that sends it; left out: somebody on the network.
    #[serde(default)]
    sender: Option<String>,
    /// The workload of this host that it is for; left out: it is seen when it leaves.
    #[serde(default)]
    receiver: Option<String>,
    #[serde(default)]
    from: Option<IpAddr>,
    #[serde(default)]
    to: Option<IpAddr>,
    /// What it asks for, as a policy names it.
    #[serde(default)]
    port: Option<String>,
    /// What is odd about it, see `forms.rs`.
    #[serde(default)]
    form: Vec<String>,
    /// The whole packet in hexadecimal, instead.
    #[serde(default)]
    bytes: Option<String>,
    /// By the loopback device.
    #[serde(default)]
    loopback: bool,
    verdict: String,
    reason: String,
    /// The rule's label.
    #[serde(default)]
    rule: Option<String>,
}

/// Every file of a folder, sorted.
pub fn read(folder: &str) -> Vec<(String, Case)> {
    let folder = FilePath::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut cases = Vec::new();
    for entry in fs::read_dir(&folder).expect("the folder") {
        let path = entry.expect("the folder").path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("a case");
        let case = serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        cases.push((name, case));
    }
    cases.sort_by(|a, b| a.0.cmp(&b.0));
    cases
}

impl Case {
    /// The theatre it is played in.
    pub fn vantage(&self) -> Vantage {
        if self.container {
            Vantage::Container
        } else {
            Vantage::Host
        }
    }

    fn mode(&self) -> Option<Mode> {
        match self.mode.as_deref() {
            None => None,
            Some("audit") => Some(Mode::Audit),
            Some("enforce") => Some(Mode::Enforce),
            Some(other) => panic!("mode `{other}`"),
        }
    }

    fn time(&self) -> Timestamp {
        let at = self.at.as_deref();
        at.map_or(Timestamp::MIN, |at| at.parse().expect("a time"))
    }

    /// Plays it; returns what is wrong, a line each, and the reasons it showed.
    pub fn play(&self, name: &str, theatre: &mut Theatre) -> (Vec<String>, Vec<&'static str>) {
        let forms = Forms::of(&self.policy, self.mode(), self.time());
        let mut wrong = Vec::new();
        let mut reasons = Vec::new();
        for (number, packet) in self.packets.iter().enumerate() {
            let scenery = self.scenery(&forms, packet);
            theatre.set(&forms, &scenery);
            let world = theatre.world(&scenery);
            let shown = packet.shown();
            let said = theatre.play(std::slice::from_ref(&shown)).remove(0);
            let heard = said.ingress.or(said.egress).expect("a hook ran");
            let judges: [(&str, &dyn Eyes); 2] = [("oracle", &Oracle(&forms)), ("tables", &InMemory(&forms))];
            let mut line = |what: String| wrong.push(format!("{name}, packet {}: {what}", number + 1));
            for (judge, eyes) in judges {
                let [egress, ingress] = expected(eyes, &world, &scenery, &shown);
                let ruling = ingress.or(egress).expect("a hook ran");
                if !packet.fits(&forms, &ruling) {
                    line(format!(
                        "{} for `{}` expected, the {judge} says {ruling:?}",
                        packet.verdict, packet.reason
                    ));
                }
                if !says(&forms, &ruling, heard) {
                    line(format!("the {judge} says {ruling:?}, the kernel {heard:?}"));
                }
                reasons.push(ruling.reason);
            }
        }
        (wrong, reasons)
    }

    fn scenery(&self, forms: &Forms, packet: &Packet) -> Scenery {
        let nobody = Lives {
            owner: segment::HOST,
            single: false,
        };
        let lives = |neighbour: &Neighbour| Lives {
            owner: number_or(forms, &neighbour.owner),
            single: neighbour.alone,
        };
        let mut all = [nobody; 3];
        for (to, from) in all.iter_mut().zip(&self.neighbours) {
            *to = lives(from);
        }
        let cast = |who: &Option<String>| cast(forms, who.as_deref().unwrap_or("host"));
        Scenery {
            sender: cast(&packet.sender),
            receiver: cast(&packet.receiver),
            lives: all,
            here: self.here.as_ref().map(lives),
        }
    }
}

/// A segment by its name, or `#900` by its index.
fn number_or(forms: &Forms, word: &str) -> u16 {
    match word.strip_prefix('#') {
        Some(number) => number.parse().expect("an index"),
        None if word == "nobody" => segment::NONE,
        None if word == "probe" => segment::PROBE,
        None => forms.index(word),
    }
}

/// `web`, `web orphaned`, `below web`, `stale web`, `unseen`.
fn cast(forms: &Forms, text: &str) -> Cast {
    let words: Vec<&str> = text.split(' ').collect();
    let (place, words) = match words.as_slice() {
        ["unseen"] => return Cast::Unseen,
        [first @ ("below" | "stale"), rest @ ..] => (*first, rest),
        all => ("here", all),
    };
    let [who, reservations @ ..] = words else {
        panic!("`{text}` is nobody")
    };
    let flags = reservations.iter().map(|word| match *word {
        "pending" => PENDING,
        "ambiguous" => AMBIGUOUS,
        "orphaned" => ORPHANED,
        other => panic!("`{other}` is no reservation"),
    });
    let identity = Identity {
        segment: number_or(forms, who),
        flags: flags.sum(),
    };
    match place {
        "below" => Cast::Below(identity),
        "stale" => Cast::Stale(identity),
        _ => Cast::Tagged(identity),
    }
}

/// A cast as it stands in a case.
fn cast_text(cast: Cast) -> String {
    let (below, identity) = match cast {
        Cast::Unseen => return "unseen".to_owned(),
        Cast::Below(identity) => ("below ", identity),
        Cast::Stale(identity) => ("stale ", identity),
        Cast::Tagged(identity) => ("", identity),
    };
    let mut text = format!("{below}#{}", identity.segment);
    for (flag, word) in [
        (PENDING, "pending"),
        (AMBIGUOUS, "ambiguous"),
        (ORPHANED, "orphaned"),
    ] {
        if identity.flags & flag != 0 {
            text += " ";
            text += word;
        }
    }
    text
}

impl Packet {
    fn shown(&self) -> Shown {
        let path = match (&self.sender, &self.receiver) {
            (Some(_), None) => Path::Leaves,
            (None, Some(_)) => Path::Arrives,
            (Some(_), Some(_)) => Path::Between,
            (None, None) => panic!("a packet has a sender or a receiver here"),
        };
        let way = if self.loopback { Way::Loopback } else { Way::Wire };
        let made = match &self.bytes {
            Some(text) => {
                let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
                let byte = |pair: &[u8]| {
                    let pair = std::str::from_utf8(pair).expect("digits");
                    u8::from_str_radix(pair, 16).expect("hexadecimal")
                };
                Made {
                    v6: text.starts_with("v6"),
                    bytes: digits[if text.starts_with('v') { 1 } else { 0 }..]
                        .chunks(2)
                        .map(byte)
                        .collect(),
                }
            }
            None => {
                let v6 = [self.from, self.to].iter().flatten().any(IpAddr::is_ipv6);
                let default = |four: &str, six: &str| bits(if v6 { six } else { four });
                let address = |given: Option<IpAddr>, default: [u8; 16]| match given {
                    Some(IpAddr::V4(v4)) => v4.to_ipv6_mapped().octets(),
                    Some(IpAddr::V6(v6)) => v6.octets(),
                    None => default,
                };
                let own = default("172.16.5.1", "2001:db8:5::1");
                let far = default("203.0.113.5", "2001:db8:ffff::5");
                let (source, destination) = match path {
                    Path::Leaves => (own, far),
                    Path::Arrives => (far, own),
                    // In a namespace that several segments share: the receiver's own hook judges.
                    Path::Between => (own, default("172.16.5.11", "2001:db8:5::11")),
                };
                let port = self.port.as_deref().expect("`port` or `bytes`");
                forms::packet(
                    address(self.from, source),
                    address(self.to, destination),
                    port,
                    &self.form,
                )
            }
        };
        (path, made, way)
    }

    fn fits(&self, forms: &Forms, ruling: &Ruling) -> bool {
        let rule = ruling.rule.and_then(|rule| forms.policy.rules.get(rule));
        self.verdict == ruling.outcome
            && self.reason == ruling.reason
            && self
                .rule
                .as_ref()
                .is_none_or(|label| rule.is_some_and(|rule| rule.label() == **label))
    }
}

/// A case that shows one packet, for `tests/corpus`.
pub fn written(story: &str, round: &Round, on_host: bool, shown: &Shown, ruling: &Ruling) -> String {
    let mut out = format!("description: {story:?}\n");
    let (spec, scenery) = (&round.spec, &round.scenery);
    if let Some(audit) = spec.mode {
        let _ = writeln!(out, "mode: {}", if audit { "audit" } else { "enforce" });
    }
    let _ = writeln!(out, "at: {}", calendar::text(spec.time));
    if !on_host {
        out += "container: true\n";
    }
    let lives = |who: &Lives| format!("{{owner: \"#{}\", alone: {}}}", who.owner, who.single);
    let all: Vec<String> = scenery.lives.iter().map(lives).collect();
    let _ = writeln!(out, "neighbours: [{}]", all.join(", "));
    if let Some(here) = &scenery.here {
        let _ = writeln!(out, "here: {}", lives(here));
    }
    let _ = writeln!(
        out,
        "policy: |\n  {}",
        spec.yaml().trim_end().replace('\n', "\n  ")
    );
    let (path, made, way) = shown;
    out += "packets:\n  - ";
    if *path != Path::Arrives {
        let _ = write!(out, "sender: \"{}\"\n    ", cast_text(scenery.sender));
    }
    if *path != Path::Leaves {
        let _ = write!(out, "receiver: \"{}\"\n    ", cast_text(scenery.receiver));
    }
    if *way == Way::Loopback {
        out += "loopback: true\n    ";
    }
    let hex: Vec<String> = made.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let family = if made.v6 { "v6" } else { "v4" };
    let _ = writeln!(out, "bytes: \"{family} {}\"", hex.join(" "));
    let _ = writeln!(
        out,
        "    verdict: {}\n    reason: {}",
        ruling.outcome, ruling.reason
    );
    out
}
