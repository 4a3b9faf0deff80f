//! L4, traffic through real sockets: what each kind of it costs with nothing, with segd and with what people use instead.
//!
//! Every arm has its own cgroups and namespaces, so all of them stay attached and none is toggled: `none` runs with the static
//! keys of cgroup programs and netfilter hooks on, because the other arms need them. A cost of a few nanoseconds is made visible by
//! hanging the same program on the hook 32 times.

mod established;

use std::{io, time::Duration};

use segd_tests::Lab;

use super::{
    Run,
    policy::{OPEN, SHUT},
    race::{self, Arm, Length, Race},
    report::{Bound, Table},
    rivals::{self, Attached, Connections},
    runner::{
        Runner, Work,
        sockets::{Kind, Spec},
    },
    stage::{self, Governed, Place, Way},
};

const KINDS: [(Kind, &str, u64); 5] = [
    (Kind::RequestResponse, "TCP request-response", 200),
    (Kind::ConnectRequestResponse, "TCP connect-request-response", 40),
    (Kind::Stream, "TCP stream, 64 KiB", 64),
    (Kind::UdpConnected, "UDP 64 B, connected", 1024),
    (Kind::UdpUnconnected, "UDP 64 B, sendto", 1024),
];

const NONE: &str = "none";

/// One arm's place and what hangs on it.
struct Stand {
    name: String,
    place: Place,
    attached: Attached,
}

fn spec(place: &Place, way: Way, kind: Kind, operations: u64) -> Spec {
    let offset = KINDS.iter().position(|(other, ..)| *other == kind).unwrap_or(0) as u16;
    Spec {
        kind,
        server: place.server(way),
        port: OPEN.start() + offset,
        operations,
    }
}

/// Measures.
pub fn run(run: &mut Run, lab: &Lab) -> io::Result<()> {
    let stands = [
        (NONE, 1),
        ("none again", 2),
        ("empty program", 3),
        ("systemd's shape", 4),
        ("nftables", 5),
        ("nftables with conntrack", 6),
        ("iptables with ipset", 7),
    ];
    let mut stands: Vec<Stand> = stands
        .into_iter()
        .map(|(name, number)| Stand {
            name: name.to_owned(),
            place: Place::new(lab, 10 + number, &format!("arm{number}")),
            attached: Attached::default(),
        })
        .collect();
    stands[2].attached = rivals::empty(&stands[2].place, 1)?;
    stands[3].attached = rivals::systemd(&stands[3].place, 1)?;
    let mount = lab.cgroup_root();
    let made = [
        (4, rivals::nftables(&stands[4].place, mount, Connections::Unknown)),
        (5, rivals::nftables(&stands[5].place, mount, Connections::Tracked)),
        (6, rivals::iptables(&stands[6].place)),
    ];
    for (number, made) in made.into_iter().rev() {
        if let Err(error) = made {
            let stand = stands.remove(number);
            run.remarks
                .push(format!("arm `{}` is left out: {error}", stand.name));
        }
    }
    let mut sizes = vec![run.sizes[0], run.sizes[run.sizes.len() - 1]];
    sizes.dedup();
    let governed: Vec<Governed> = sizes
        .iter()
        .zip(30_u8..)
        .map(|(rules, number)| {
            let place = Place::new(lab, number, &format!("rules{rules}"));
            Governed::start(lab, place, *rules)
        })
        .collect();
    let ways: &[(bool, bool)] = if run.quick {
        &[(false, false)]
    } else {
        &[(false, false), (true, false), (false, true), (true, true)]
    };
    for (beside, six) in ways {
        race_way(
            run,
            &stands,
            &governed,
            Way {
                beside: *beside,
                six: *six,
            },
        )?;
    }
    for governed in &governed {
        governed.has_judged(1000)?;
    }
    drop(stands);
    established::established(run, lab, governed)
}

/// Every kind of traffic on one way.
fn race_way(run: &mut Run, stands: &[Stand], governed: &[Governed], way: Way) -> io::Result<()> {
    let mut names: Vec<String> = Vec::new();
    let mut places: Vec<&Place> = Vec::new();
    // systemd's shape is IPv4 alone here.
    for stand in stands
        .iter()
        .filter(|stand| !way.six || stand.name != "systemd's shape")
    {
        names.push(stand.name.clone());
        places.push(&stand.place);
    }
    for governed in governed {
        names.push(format!("segd, {} rules", governed.policy.rules()));
        places.push(&governed.place);
    }
    let mut runners: Vec<Runner> = places
        .iter()
        .map(|place| Runner::start(&place.home(way)))
        .collect();
    for (name, (runner, place)) in names.iter().zip(runners.iter_mut().zip(&places)) {
        if name.contains("segd") || name.contains("tables") {
            refuses(runner, place, way, name)?;
        }
    }
    for (kind, title, operations) in KINDS {
        for (name, (runner, place)) in names.iter().zip(runners.iter_mut().zip(&places)) {
            let work = Work::Sockets(spec(place, way, kind, operations));
            let named = |error| io::Error::other(format!("{title}, {}, arm `{name}`: {error}", way.name()));
            runner.prepare("work", work).map_err(named)?;
        }
        let arms: Vec<Arm<'_>> = names
            .iter()
            .enumerate()
            .map(|(runner, name)| Arm {
                name: name.clone(),
                runner,
                work: "work",
            })
            .collect();
        let length = Length {
            time: Duration::from_secs(run.seconds),
            rounds: 30,
        };
        let race = race::run(&mut runners, &arms, stage::cpu(), length, run.seed);
        for runner in &mut runners {
            runner.forget("work");
        }
        let title = format!("L4: {title}, {}", way.name());
        run.note_race(&title, &race);
        if race.failed.is_some() {
            continue;
        }
        let id = format!("sockets-{}-{kind:?}", way.name().replace(' ', "-")).to_lowercase();
        tell(run, &id, &title, &names, &race);
        if !way.beside && !way.six {
            goals(run, kind, &names, &race);
        }
    }
    Ok(())
}

/// Asserts that an arm that judges lets through what it should and nothing else.
fn refuses(runner: &mut Runner, place: &Place, way: Way, name: &str) -> io::Result<()> {
    let mut denied = spec(place, way, Kind::UdpUnconnected, 16);
    denied.port = SHUT;
    runner
        .prepare("denied", Work::Sockets(denied))
        .map_err(io::Error::other)?;
    let answer = runner.slice("denied");
    runner.forget("denied");
    if answer.is_ok() {
        return Err(io::Error::other(format!("arm `{name}` lets everything through")));
    }
    Ok(())
}

fn tell(run: &mut Run, id: &str, title: &str, names: &[String], race: &Race) {
    let columns = [
        "ratio to none",
        "ratio to empty",
        "ns each",
        "ratio to none, by the wall clock",
    ];
    let mut table = Table::new(
        id,
        title,
        format!("Both ends on CPU {}.", stage::cpu()),
        &columns,
        0,
    );
    for name in names {
        let wall = race.wall_ratio(name, NONE);
        let wall = super::statistics::Estimate {
            value: wall,
            low: f64::NAN,
            high: f64::NAN,
            rounds: 0,
        };
        let cells = [
            Some(race.ratio(name, NONE)),
            Some(race.ratio(name, "empty program")),
            Some(race.time(name)),
            Some(wall),
        ];
        table.row(name, &cells);
    }
    run.tables.push(table);
}

fn goals(run: &mut Run, kind: Kind, names: &[String], race: &Race) {
    let Some(segd) = names.last().filter(|segd| race.has(segd)) else {
        return;
    };
    let again = race.ratio("none again", NONE);
    let note = format!("{segd}; A/A {again}");
    let (none, empty) = (race.ratio(segd, NONE), race.ratio(segd, "empty program"));
    // How much goes through is the other way round of how long it takes.
    let rate = race.inverse_ratio(segd, NONE);
    match kind {
        Kind::RequestResponse => {
            run.goal(
                "TCP_RR time ÷ empty program",
                Bound::AtMost(1.02),
                Some(empty),
                &note,
            );
            run.goal("TCP_RR time ÷ none", Bound::AtMost(1.045), Some(none), &note);
            if race.has("nftables") {
                let share = race.in_units((segd, NONE), ("nftables", NONE));
                run.goal(
                    "TCP_RR, what segd adds ÷ what nftables adds",
                    Bound::AtMost(0.5),
                    Some(share),
                    &note,
                );
            }
        }
        Kind::ConnectRequestResponse => {
            run.goal(
                "TCP_CRR time ÷ empty program",
                Bound::AtMost(1.03),
                Some(empty),
                &note,
            );
            run.goal("TCP_CRR time ÷ none", Bound::AtMost(1.06), Some(none), &note);
        }
        Kind::Stream => run.goal("TCP stream rate ÷ none", Bound::AtLeast(0.99), Some(rate), &note),
        Kind::UdpConnected => {
            run.goal(
                "small UDP packets/s ÷ none, connected",
                Bound::AtLeast(0.95),
                Some(rate),
                &note,
            );
        }
        Kind::UdpUnconnected => {
            run.goal(
                "small UDP packets/s ÷ none, sendto",
                Bound::AtLeast(0.95),
                Some(rate),
                &note,
            );
        }
    }
}
