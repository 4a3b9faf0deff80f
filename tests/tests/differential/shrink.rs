//! A disagreement made small: what can be left out of policy and cast without the judges coming to agree.

use super::{
    calendar::Term,
    model::Ruling,
    round::{Round, Shown, Tally, compare},
    spec::{End, Spec},
    stage::{Cast, Theatre},
};

/// The smallest round found that still shows it, and the story it tells.
pub fn shrink(theatre: &mut Theatre, round: Round, shown: &Shown, story: String) -> (Round, String) {
    let mut best = (round, story);
    loop {
        let found = smaller(&best.0).into_iter().find_map(|candidate| {
            let story = disagrees(theatre, &candidate, shown)?;
            Some((candidate, story))
        });
        match found {
            Some(found) => best = found,
            None => return best,
        }
    }
}

fn disagrees(theatre: &mut Theatre, round: &Round, shown: &Shown) -> Option<String> {
    let forms = round.forms();
    theatre.set(&forms, &round.scenery);
    let shown = std::slice::from_ref(shown);
    compare(theatre, round, &forms, shown, &mut Tally::default()).map(|found| found.story)
}

/// What the author says of the packet in the end.
pub fn last(rulings: [Option<Ruling>; 2]) -> Ruling {
    let [egress, ingress] = rulings;
    ingress.or(egress).expect("a hook ran")
}

/// Rounds with one thing less. Segments stay: indexes would move.
fn smaller(round: &Round) -> Vec<Round> {
    let mut all = Vec::new();
    let mut with = |change: &dyn Fn(&mut Spec)| {
        let mut smaller = round.clone();
        change(&mut smaller.spec);
        all.push(smaller);
    };
    for at in 0..round.spec.allow.len() {
        with(&|spec| {
            spec.allow.remove(at);
        });
    }
    for at in 0..round.spec.deny.len() {
        with(&|spec| {
            spec.deny.remove(at);
        });
    }
    for (at, rule) in round.spec.allow.iter().enumerate() {
        if !rule.term.is_lasting() {
            with(&|spec| spec.allow[at].term = Term::default());
        }
        for port in (0..rule.ports.len()).filter(|_| rule.ports.len() > 1) {
            with(&|spec| {
                spec.allow[at].ports.remove(port);
            });
        }
        for (side, end) in [&rule.from, &rule.to].into_iter().enumerate() {
            let End::Names(names) = end else { continue };
            for name in (0..names.len()).filter(|_| names.len() > 1) {
                with(&|spec| {
                    let rule = &mut spec.allow[at];
                    let end = if side == 0 { &mut rule.from } else { &mut rule.to };
                    if let End::Names(names) = end {
                        names.remove(name);
                    }
                });
            }
        }
    }
    for (at, segment) in round.spec.segments.iter().enumerate() {
        for cidr in 0..segment.cidrs.len() {
            with(&|spec| {
                spec.segments[at].cidrs.remove(cidr);
            });
            for except in 0..segment.cidrs[cidr].except.len() {
                with(&|spec| {
                    spec.segments[at].cidrs[cidr].except.remove(except);
                });
            }
        }
        if !segment.labels.is_empty() {
            with(&|spec| {
                spec.segments[at].labels.pop();
            });
        }
        if segment.audit.is_some() {
            with(&|spec| spec.segments[at].audit = None);
        }
        if !segment.intra {
            with(&|spec| spec.segments[at].intra = true);
        }
    }
    if round.spec.audit {
        with(&|spec| spec.audit = false);
    }
    if round.spec.mode.is_some() {
        with(&|spec| spec.mode = None);
    }
    if round.spec.enforce_host {
        with(&|spec| spec.enforce_host = false);
    }
    for cast in [round.scenery.sender, round.scenery.receiver] {
        if let Cast::Below(identity) = cast {
            let mut smaller = round.clone();
            for cast in [&mut smaller.scenery.sender, &mut smaller.scenery.receiver] {
                if *cast == Cast::Below(identity) {
                    *cast = Cast::Tagged(identity);
                }
            }
            all.push(smaller);
        }
    }
    all
}
