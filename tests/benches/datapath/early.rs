//! L3, early drop: how fast frames that nobody here may get are dropped where a device hands them over.
//!
//! Every arm has a cable of its own. The kernel makes the frames at one end; what is compared is attached to the other.

use std::{io, net::Ipv4Addr, time::Duration};

use segd_tests::Lab;

use super::{
    Run, assembler,
    bpf::{self, XDP},
    policy,
    race::{self, Arm, Length},
    report::{Bound, Table},
    rivals,
    runner::{Runner, Work, wire},
    stage::{self, Governed, Place, Way},
};

/// How many frames a slice has.
const FRAMES: u32 = 16_384;
/// A port of the server's that is open to nobody out there.
const PORT: u16 = policy::SHUT;
/// An address of another machine that no rule speaks of (RFC 5737).
const STRANGER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

const WAY: Way = Way {
    beside: true,
    six: false,
};

const EMPTY: &str = "empty program that drops";
const AGAIN: &str = "empty again";
const SEGD: &str = "segd";
const NFTABLES: &str = "nftables ingress";
const STACK: &str = "nobody, until no socket is found";

/// What is sent to a place's server, and who drops it.
fn spec(place: &Place, program: Option<u32>, dropped: bool, port: u16) -> Work {
    let std::net::IpAddr::V4(server) = place.server(WAY) else {
        unreachable!("the way is IPv4's");
    };
    Work::Wire(wire::Spec {
        frame: policy::on_the_wire(STRANGER, server, 20_000, port),
        port: PORT,
        frames: FRAMES,
        program,
        dropped,
    })
}

/// Measures.
pub fn run(run: &mut Run, lab: &Lab) -> io::Result<()> {
    let names = [EMPTY, AGAIN, SEGD, NFTABLES, STACK];
    let empty = assembler::empty(XDP)?;
    let empty = bpf::program(&empty).map(|program| (program.id, empty))?;
    let mut places: Vec<Place> = Vec::new();
    for (name, number) in names.iter().zip(80_u8..) {
        places.push(Place::new(lab, number, &format!("early{number}-{}", name.len())));
    }
    let mut runners: Vec<Runner> = places
        .iter()
        .map(|place| Runner::start(&place.home(WAY)))
        .collect();
    // Whom nobody stops arrives: the frame is a good one.
    for (name, (place, runner)) in names.iter().zip(places.iter().zip(&mut runners)) {
        let named = |error| {
            io::Error::other(format!(
                "early drop, `{name}`, before anything hangs there: {error}"
            ))
        };
        runner
            .prepare("open", spec(place, None, false, PORT))
            .map_err(named)?;
        runner.forget("open");
    }
    let governed = Governed::start(lab, places.remove(2), 1000);
    let _dweller = governed.place.dweller(lab);
    rivals::nftables_ingress(&places[2]).map_err(io::Error::other)?;
    let works = [
        spec(&places[0], Some(empty.0), true, PORT),
        spec(&places[1], Some(empty.0), true, PORT),
        spec(
            &governed.place,
            Some(governed.program_for_interfaces()?),
            true,
            PORT,
        ),
        spec(&places[2], None, true, PORT),
        spec(&places[3], None, true, PORT + 1),
    ];
    for (name, (runner, work)) in names.iter().zip(runners.iter_mut().zip(works)) {
        let named = |error| io::Error::other(format!("early drop, `{name}`: {error}"));
        runner.prepare("flood", work).map_err(named)?;
    }
    let arms: Vec<Arm<'_>> = names
        .iter()
        .enumerate()
        .map(|(runner, name)| Arm {
            name: (*name).to_owned(),
            runner,
            work: "flood",
        })
        .collect();
    let denied = |governed: &Governed| {
        let labels = [("verdict", "denied"), ("from", "world")];
        governed.segd.metric("segd_packets_total", &labels).unwrap_or(0.0)
    };
    let before = denied(&governed);
    let length = Length {
        time: Duration::from_secs(run.seconds),
        rounds: 30,
    };
    let race = race::run(&mut runners, &arms, stage::cpu(), length, run.seed);
    run.note_race("L3 early drop", &race);
    if race.failed.is_none() && denied(&governed) - before < f64::from(FRAMES) * 30.0 {
        return Err(io::Error::other("segd did not count what it dropped"));
    }
    let mut table = Table::new(
        "early-drop",
        "L3: early drop of what no rule allows",
        "One frame of 64 bytes after another by a veth cable, the sender's half and the wire included, by the clock. `rate` is how many \
         are dropped in the time of one that an empty program drops. segd counts each by reason and tells of some.",
        &["rate to the empty program", "rate to nftables", "ns"],
        0,
    );
    for name in names {
        table.row(
            name,
            &[
                Some(race.inverse_ratio(name, EMPTY)),
                Some(race.inverse_ratio(name, NFTABLES)),
                Some(race.time(name)),
            ],
        );
    }
    run.tables.push(table);
    let measured = |base| race.has(SEGD).then(|| race.inverse_ratio(SEGD, base));
    run.goal(
        "XDP drop rate ÷ an empty XDP drop",
        Bound::AtLeast(0.8),
        measured(EMPTY),
        "both with the sender's half",
    );
    run.goal(
        "XDP drop rate ÷ nftables ingress",
        Bound::AtLeast(4.0),
        measured(NFTABLES),
        "as above; nftables asks one set of 1000",
    );
    Ok(())
}
