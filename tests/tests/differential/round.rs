//! One round: a policy, a cast, packets; four judges; and what they do not agree on.

use segd::{
    datapath::rehearsal::{Heard, Way},
    policy::model::Mode,
};
use segd_common::{
    reason::Reason,
    segment,
    verdict::Outcome,
    workload::{AMBIGUOUS, Identity, ORPHANED, PENDING},
};

use super::{
    calendar,
    dice::Dice,
    eyes::{Author, Forms, InMemory, Oracle},
    model::{Eyes, Lives, Ruling, World},
    packets::{self, Made},
    spec::Spec,
    stage::{Cast, Path, Said, Scenery, Theatre, bits},
};

const NETWORK: [&str; 34] = [
    "10.1.2.199",
    "10.1.2.200",
    "10.1.2.201",
    "10.1.2.127",
    "10.1.2.128",
    "10.1.1.255",
    "10.1.3.0",
    "10.0.255.255",
    "10.2.0.0",
    "9.255.255.255",
    "11.0.0.0",
    "128.0.0.0",
    "192.0.2.6",
    "192.0.2.7",
    "192.0.2.8",
    "192.0.3.1",
    "172.15.255.255",
    "172.16.5.77",
    "172.31.255.255",
    "172.32.0.0",
    "203.0.113.5",
    "0.0.0.1",
    "2001:db8:1::6",
    "2001:db8:1::7",
    "2001:db8:1::8",
    "2001:db8::1",
    "2001:db8:2::",
    "2001:db9::",
    "1fff:ffff::",
    "4000::",
    "fe80::1",
    "febf::1",
    "fec0::1",
    "2001:db8:5::77",
];
const GROUPS: [&str; 7] = [
    "224.0.0.1",
    "239.1.1.1",
    "239.1.1.2",
    "255.255.255.255",
    "ff02::1",
    "ff02::2",
    "ff0e::1",
];

/// A policy and everything around it.
#[derive(Clone, Debug)]
pub struct Round {
    pub spec: Spec,
    pub scenery: Scenery,
}

/// One packet on its path.
pub type Shown = (Path, Made, Way);

/// Who was asked and what was answered, where the answers differ.
#[derive(Clone, Debug)]
pub struct Disagreement {
    pub at: usize,
    pub story: String,
}

impl Round {
    /// A random one.
    pub fn random(dice: &mut Dice, on_host: bool) -> Round {
        let spec = Spec::random(dice);
        let count = spec.segments.len();
        // Indexes are dense and given in the order of names.
        let identity = |dice: &mut Dice| {
            let own = segment::FIRST_SEGMENT + dice.below(count) as u16;
            let flags = match dice.below(24) {
                0 => PENDING,
                1 => AMBIGUOUS,
                2 => ORPHANED,
                3 => ORPHANED | PENDING,
                _ => 0,
            };
            let segment = match dice.below(24) {
                0 => segment::PROBE,
                1 => segment::NONE,
                2 => 900,
                3..=7 => segment::HOST,
                _ => own,
            };
            Identity { segment, flags }
        };
        // One cgroup is above both actors: who has no entry of its own is what that one is, if it has one.
        let above = if dice.once_in(2) {
            Cast::Unseen
        } else {
            Cast::Below(identity(dice))
        };
        let cast = |dice: &mut Dice| {
            if dice.once_in(8) {
                above
            } else if dice.once_in(16) {
                Cast::Stale(identity(dice))
            } else {
                Cast::Tagged(identity(dice))
            }
        };
        let (sender, receiver) = (cast(dice), cast(dice));
        let lives = |dice: &mut Dice| Lives {
            owner: match dice.below(4) {
                0 | 1 => segment::HOST,
                2 => segment::FIRST_SEGMENT + dice.below(count) as u16,
                _ => *dice.pick(&[segment::NONE, segment::FIRST_SEGMENT]),
            },
            single: dice.once_in(2),
        };
        Round {
            scenery: Scenery {
                sender,
                receiver,
                lives: [lives(dice), lives(dice), lives(dice)],
                here: if on_host || dice.once_in(3) {
                    None
                } else {
                    Some(lives(dice))
                },
            },
            spec,
        }
    }

    /// The policy's forms.
    pub fn forms(&self) -> Forms {
        let mode = self
            .spec
            .mode
            .map(|audit| if audit { Mode::Audit } else { Mode::Enforce });
        Forms::of(&self.spec.yaml(), mode, calendar::stamp(self.spec.time))
    }
}

/// Random packets for a theatre. A sender without an entry of its own is what it was when it first sent a tuple, which is
/// another round's business: it shows nothing to the receiver.
pub fn packets(dice: &mut Dice, theatre: &Theatre, sender: Cast, count: usize) -> Vec<Shown> {
    let own = theatre.own_addresses();
    let silent: Vec<[u8; 16]> = theatre
        .other_addresses()
        .into_iter()
        .chain(["127.0.0.2"].map(bits))
        .collect();
    let network = NETWORK.map(bits);
    let groups = GROUPS.map(bits);
    let mut shown = Vec::with_capacity(count);
    while shown.len() < count {
        let path = match *dice.pick(&[Path::Leaves, Path::Arrives, Path::Between]) {
            Path::Between if sender.tag().is_none() => Path::Leaves,
            path => path,
        };
        let source = match path {
            Path::Arrives if dice.once_in(4) => *dice.pick(&silent),
            Path::Arrives => *dice.pick(&network),
            _ => *dice.pick(&own),
        };
        let destination = match dice.below(8) {
            0 => *dice.pick(&groups),
            1 | 2 => *dice.pick(&own),
            3 | 4 => *dice.pick(&silent),
            _ => *dice.pick(&network),
        };
        if packets::is_v4(&source) != packets::is_v4(&destination) {
            continue;
        }
        let way = if dice.once_in(5) { Way::Loopback } else { Way::Wire };
        shown.push((path, packets::random(dice, source, destination), way));
    }
    shown
}

/// What passes by the list of control traffic hands nobody over: who sent it shows only if the sender sent something
/// else of the same tuple before, so it is not shown to the receiver.
const CONTROL: &str = Reason::Control.label();

/// What an egress and an ingress hook must say of a packet.
pub fn expected(eyes: &dyn Eyes, world: &World, scenery: &Scenery, shown: &Shown) -> [Option<Ruling>; 2] {
    let (path, packet, way) = shown;
    let looped = *way == Way::Loopback;
    let (sender, receiver) = (scenery.sender.identity(), scenery.receiver.identity());
    let egress = (*path != Path::Arrives).then(|| world.departs(eyes, sender, packet, looped));
    let ingress = match (&egress, path) {
        (None, _) => Some(world.arrives(eyes, receiver, None, packet, looped)),
        (Some(egress), Path::Between) if egress.passes() && egress.reason != CONTROL => {
            Some(world.arrives(eyes, receiver, Some(sender), packet, looped))
        }
        _ => None,
    };
    [egress, ingress]
}

/// Plays packets under a round that is set, and compares.
pub fn compare(
    theatre: &Theatre,
    round: &Round,
    forms: &Forms,
    shown: &[Shown],
    tally: &mut Tally,
) -> Option<Disagreement> {
    let said = theatre.play(shown);
    let world = theatre.world(&round.scenery);
    let author = Author {
        spec: &round.spec,
        forms,
    };
    let (oracle, tables) = (Oracle(forms), InMemory(forms));
    for (at, (shown, said)) in shown.iter().zip(&said).enumerate() {
        let answers: [(&str, [Option<Ruling>; 2]); 3] = [
            ("the author", expected(&author, &world, &round.scenery, shown)),
            ("the oracle", expected(&oracle, &world, &round.scenery, shown)),
            ("the tables", expected(&tables, &world, &round.scenery, shown)),
        ];
        tally.cases += 1;
        let [first, rest @ ..] = &answers;
        let differs = rest.iter().any(|other| other.1 != first.1) || !agrees(forms, &first.1, said, tally);
        if differs {
            let mut story = format!("{:?} by {:?}: {:02x?}\n", shown.0, shown.2, shown.1);
            for (who, answer) in &answers {
                story += &format!("  {who}: {answer:?}\n");
            }
            story += &format!("  the kernel: {said:?}\n");
            return Some(Disagreement { at, story });
        }
    }
    None
}

fn agrees(forms: &Forms, expected: &[Option<Ruling>; 2], said: &Said, tally: &mut Tally) -> bool {
    let hooks = [said.egress, said.ingress];
    expected
        .iter()
        .zip(hooks)
        .all(|(expected, heard)| match (expected, heard) {
            (Some(expected), Some(heard)) => {
                tally.count(heard.told.reason, heard.told.outcome);
                if let Some(rule) = forms.rule(heard.told.rule) {
                    tally.ending += u64::from(!forms.policy.rules.get(rule).unwrap().term.is_lasting());
                    tally.together += u64::from(rule as u32 != heard.told.rule);
                }
                says(forms, expected, heard)
            }
            (None, None) => true,
            _ => false,
        })
}

/// Whether a hook said what was expected.
pub fn says(forms: &Forms, expected: &Ruling, heard: Heard) -> bool {
    let told = heard.told;
    let reason = Reason::from_number(told.reason).map_or("none", Reason::label);
    let rule = forms.rule(told.rule);
    let sides = expected
        .asked
        .is_none_or(|asked| asked == (told.from, told.to, told.service));
    heard.passes == expected.passes()
        && reason == expected.reason
        && Outcome::from_number(told.outcome).label() == expected.outcome
        && rule == expected.rule
        && sides
}

/// What was met.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub cases: u64,
    /// Rulings by a rule that ends.
    pub ending: u64,
    /// Rulings by several rules together.
    pub together: u64,
    /// Rulings by reason and outcome.
    pub rulings: std::collections::BTreeMap<(u8, u8), u64>,
}

impl Tally {
    fn count(&mut self, reason: u8, outcome: u8) {
        *self.rulings.entry((reason, outcome)).or_default() += 1;
    }

    /// Adds another's.
    pub fn add(&mut self, other: &Tally) {
        self.cases += other.cases;
        self.ending += other.ending;
        self.together += other.together;
        for (key, count) in &other.rulings {
            *self.rulings.entry(*key).or_default() += count;
        }
    }

    /// How often a reason was met.
    pub fn of(&self, reason: Reason) -> u64 {
        let here = self
            .rulings
            .iter()
            .filter(|((number, _), _)| *number == reason as u8);
        here.map(|(_, count)| count).sum()
    }
}
