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
const FRAMES: u32 = 131_072;
/// A port of the server's that is open to nobody out there.
const PORT: u16 = policy::SHUT;
/// An address of another machine that no segment claims: whether it may ask is known once there is a socket (RFC 5737).
const STRANGER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// One of a segment that may ask nobody and whom nobody may ask: there is nothing more to know.
const RIGHTLESS: Ipv4Addr = {
    let [a, b, c, _] = policy::RIGHTLESS.octets();
    Ipv4Addr::new(a, b, c, 7)
};

const WAY: Way = Way {
    beside: true,
    six: false,
};

const EMPTY: &str = "empty program that drops";
const AGAIN: &str = "empty again";
const SEGD: &str = "segd, of an address without a right";
const LATE: &str = "segd, of an address that nobody knows: at the socket";
const NFTABLES: &str = "nftables ingress";
const STACK: &str = "nobody, until no socket is found";

/// What is sent to a place's server, and who drops it. `socket`: the server's.
fn spec(
    sender: Ipv4Addr,
    place: &Place,
    program: Option<u32>,
    dropped: bool,
    (port, socket): (u16, u16),
) -> Work {
    let std::net::IpAddr::V4(server) = place.server(WAY) else {
        unreachable!("the way is IPv4's");
    };
    Work::Wire(wire::Spec {
        frame: policy::on_the_wire(sender, server, 20_000, port),
        port: socket,
        frames: FRAMES,
        program,
        dropped,
    })
}

/// Measures.
pub fn run(run: &mut Run, lab: &Lab) -> io::Result<()> {
    // Each has a cable, and `LATE` uses that of `SEGD`.
    let names = [EMPTY, AGAIN, SEGD, NFTABLES, STACK];
    let heard = (PORT, PORT);
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
            .prepare("open", spec(RIGHTLESS, place, None, false, heard))
            .map_err(named)?;
        runner.forget("open");
    }
    let governed = Governed::start(lab, places.remove(2), 1000);
    let _dweller = governed.place.dweller(lab);
    rivals::nftables_ingress(&places[2]).map_err(io::Error::other)?;
    let segd = governed.program_for_interfaces()?;
    let works = [
        spec(RIGHTLESS, &places[0], Some(empty.0), true, heard),
        spec(RIGHTLESS, &places[1], Some(empty.0), true, heard),
        spec(RIGHTLESS, &governed.place, Some(segd), true, heard),
        spec(RIGHTLESS, &places[2], None, true, heard),
        spec(RIGHTLESS, &places[3], None, true, (PORT + 1, PORT)),
    ];
    for (name, (runner, work)) in names.iter().zip(runners.iter_mut().zip(works)) {
        let named = |error| io::Error::other(format!("early drop, `{name}`: {error}"));
        runner.prepare("flood", work).map_err(named)?;
    }
    let late = spec(STRANGER, &governed.place, None, true, (PORT + 2, PORT + 2));
    runners[2]
        .prepare("late", late)
        .map_err(|error| io::Error::other(format!("early drop, `{LATE}`: {error}")))?;
    let mut arms: Vec<Arm<'_>> = names
        .iter()
        .enumerate()
        .map(|(runner, name)| Arm {
            name: (*name).to_owned(),
            runner,
            work: "flood",
        })
        .collect();
    arms.push(Arm {
        name: LATE.to_owned(),
        runner: 2,
        work: "late",
    });
    let denied = |governed: &Governed| {
        let of = |from| {
            let labels = [("verdict", "denied"), ("from", from)];
            governed.segd.metric("segd_packets_total", &labels).unwrap_or(0.0)
        };
        of("rightless").min(of("world"))
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
    for name in names.into_iter().chain([LATE]) {
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
