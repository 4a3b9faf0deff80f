//! Starting: everything that can fail fails before anything is attached.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{
    Event, Options, Running,
    cut::Cutter,
    doubts,
    engine::{Engine, InForce, Origin},
    expiry::Expiry,
    failure::Failure,
    foreign,
    given::{self, Given},
    handover::Handover,
    health::{Health, Repairs},
    listing,
    lives::Former,
    lock::{Lock, There},
    newborns, notify, privilege, queue,
    ready::{Broken, Readied, ready, take_over},
    shared::{Followed, Shared},
    trial::Found,
    users::{Users, names_of},
    watch::PolicyWatch,
};
use crate::{
    cli::log::ALWAYS,
    control::peer,
    datapath::{
        Datapath,
        census::Census,
        cgroups::Cgroups,
        counters::Counters,
        events::Events,
        kernel,
        links::{JUDGES, Links, TRACEPOINTS},
        pinned::PinnedMaps,
        pins::Pins,
        places::Places,
        tables::Tables,
    },
    doctor,
    policy::{compile::again::Compiler, compiled::SegmentIndexes, diagnostic::Style},
    source::{Known, Texts},
    telemetry::{clock::EventClock, flows::FlowLog},
    workload::{
        births::{Births, News},
        cgroupfs::CgroupRoot,
        namespaces::{self, Listener},
    },
};

/// How diagnostics are drawn on stderr.
pub fn style() -> Style {
    use std::io::IsTerminal as _;
    if std::io::stderr().is_terminal() {
        Style::Ansi
    } else {
        Style::Plain
    }
}

/// Starts everything, or nothing.
pub async fn start(options: Options) -> Result<Running, Failure> {
    privilege::prepare();
    let root = CgroupRoot::of(options.cgroup_root.as_deref());
    let opening = given::Opening::begin(root.as_ref().ok().cloned())?;
    let findings = examine(&options)?;
    let root = root?;
    let group = match &options.control_group {
        Some(name) => Some(peer::group_id(name).map_err(|error| {
            Failure::host(
                format!("--control-group {name}: {error}"),
                Some("`getent group` lists them"),
            )
        })?),
        None => None,
    };
    let given = opening.open(group)?;
    // Before anything is looked at: what another segd attached meanwhile is not this one's to take away.
    let (lock, there) = Lock::take_made(&options.pin_dir)?;
    let readied = ready(&options, group, there.enforces).await;
    let Readied {
        found,
        mut doubts,
        doubted,
        read_files,
        control,
        metrics,
    } = readied.inspect_err(|_| lock.leave())?;
    // What is begun now is finished, or taken back: whoever ends the daemon meanwhile waits for that.
    let signals = super::signals();
    let attached = attach(options, root, (found, there), degraded(&findings), given).await;
    if attached.is_err() && !there.links {
        lock.undo();
    }
    let (engine, (files, broken), events, queue, send, health) = attached?;
    doubts = broken.map_or(doubts, Err);
    let watch = PolicyWatch::start(&engine.options.followed(), send.clone());
    let revision = engine
        .in_force
        .as_ref()
        .map_or(0, |in_force| in_force.active.revision());
    let shared = Arc::new(Shared::new(
        engine,
        Followed {
            files,
            read: read_files,
        },
        health,
        lock,
        send.clone(),
        control,
        metrics,
    ));
    let doubts = doubts.map_err(|Broken { line, drawn }| shared.failed(line, &drawn));
    shared.first_look();
    tracing::info!(target: ALWAYS, "enforcing revision {revision}");
    notify::ready(revision);
    if let Ok(doubts) = doubts {
        shared.ask_git(true);
        doubts::tell(doubts, doubted);
    }
    Ok(Running {
        shared,
        events,
        queue,
        send,
        watch,
        signals,
    })
}

/// Refuses a host that lacks what segd cannot run without.
fn examine(options: &Options) -> Result<Vec<doctor::Finding>, Failure> {
    crate::datapath::kernel::check_privilege()?;
    let findings = doctor::examine(&doctor::Host {
        cgroup_root: options.cgroup_root.clone(),
        pin_dir: options.pin_dir.clone(),
        interfaces: options.interfaces.clone(),
    });
    for finding in &findings {
        match finding.state {
            doctor::State::Missing => {
                return Err(Failure::host(finding.found.clone(), finding.help.as_deref()));
            }
            doctor::State::Degraded | doctor::State::Ok | doctor::State::Unknown => {}
        }
    }
    Ok(findings)
}

/// Tells what this host cannot do, a line each.
fn degraded(findings: &[doctor::Finding]) -> Vec<String> {
    let degraded = findings
        .iter()
        .filter(|finding| finding.state == doctor::State::Degraded);
    let lines: Vec<String> = degraded.map(doctor::Finding::line).collect();
    for line in &lines {
        tracing::warn!("degraded: {line}");
    }
    lines
}

type Attached = (
    Engine,
    (Known, Option<Broken>),
    Events,
    queue::Queue,
    queue::Sender,
    Health,
);

async fn attach(
    options: Options,
    root: CgroupRoot,
    (found, there): (Found, There),
    mut degraded: Vec<String>,
    given: Given,
) -> Result<Attached, Failure> {
    let pins = Pins::new(&options.pin_dir);
    let handover = Handover::prepare(&pins)?;
    let subtree = !root.is_hierarchy_root();
    let datapath = Datapath::load(&options.pin_dir, subtree, handover.learns())?;
    handover.carry()?;
    log_from_kernel(&datapath);
    let ring = datapath.take_events()?;
    let events =
        Events::new(ring).map_err(|error| Failure::internal(format!("watching the event ring: {error}")))?;
    let mut tables = Tables::open(&pins)?;
    tables.begin_to_settle()?;
    if let Some(line) = handover.gives_up(tables.active()?, found.policy()) {
        tracing::error!("{line}");
        degraded.push(line);
    }
    let named = tables.names()?.into_iter().map(|(index, name)| (name, index));
    let indexes = SegmentIndexes {
        by_name: Arc::new(named.collect()),
        next: None,
    };
    let (send, queue) = queue::queue();
    let births = start_births(&root, &send);
    let own = kernel::own_namespace()?;
    let host = own.number();
    let cutter = Cutter::start(datapath.sessions()?, datapath.living()?, host)
        .map_err(|error| Failure::internal(format!("starting a thread: {error}")))?;
    let foreigners = datapath.foreigners()?.map(Arc::new);
    let flows = Arc::new(FlowLog::new(EventClock::Boot));
    if options.strict_sockets {
        foreign::start(foreigners.as_ref(), host, &flows)?;
    }
    let links = Links::new(&datapath, root.path(), handover.learns())?;
    let places = Places::open(&pins)?;
    let mut engine = Engine {
        cgroups: Cgroups::open(&pins)?,
        former: Former::of(&places.lives()?, own),
        places,
        cover: None,
        guard: None,
        counters: Counters::open(&pins)?,
        census: Arc::new(datapath.census()?),
        tables,
        links,
        maps: PinnedMaps::open(&pins)?,
        repairs: Repairs::default(),
        root: Arc::new(root),
        indexes,
        namespaces: Vec::new(),
        unwritten: None,
        ownerless: 0,
        in_force: None,
        trial: None,
        hits: super::usage::Hits::default(),
        compiler: Compiler::default(),
        users: Users::new(),
        expiry: Expiry::default(),
        kept_last: Arc::default(),
        flows,
        cutter,
        foreigners,
        probe: given.probe,
        births,
        paths: std::collections::BTreeMap::new(),
        degraded,
        options,
    };
    engine.links.attach(TRACEPOINTS)?;
    watch_namespaces(&engine.census, given.listener, &send)?;
    let list = namespaces::namespaces(&engine.census)?;
    listing::follow_first(&list, &send);
    engine.set_namespaces(list)?;
    if !names_of(&found.policy().policy).is_empty() {
        let carried = handover.numbers(engine.tables.active()?);
        engine.recall_users(carried, there.enforces);
    }
    let (found, broken) = take_over(&mut engine, found, there.enforces)?;
    let files = match &engine.in_force {
        Some(InForce {
            origin: Origin::Applied { files },
            ..
        }) if *files != found.policy().hash() => Known::Hash(*files),
        _ => Known::Texts(Texts::of(&found.policy().sources)),
    };
    engine.links.attach(JUDGES)?;
    handover.finish(&mut engine.links, subtree).await?;
    for interface in engine.options.interfaces.clone() {
        let note = engine.links.attach_interface(&interface)?;
        tracing::info!("{note}");
    }
    engine.links.detach_other_interfaces();
    engine.cover_links(&pins)?;
    // Before the others' programs end: there must be no moment in which none of them is asked.
    let lacks = engine.attach_modules();
    handover.retire();
    // Last: from here on only this process may remove pins.
    engine.arm(&datapath, lacks);
    // The engine holds links, programs and maps now; what the loader needed to make them is more than all the rest.
    drop(datapath);
    super::give_back_memory();
    Ok((engine, (files, broken), events, queue, send, Health::new()))
}

fn start_births(root: &CgroupRoot, send: &queue::Sender) -> Option<Births> {
    let news = Arc::new(News::default());
    tokio::spawn(newborns::ask(Arc::clone(&news), send.clone()));
    match Births::start(root, news) {
        Ok(births) => Some(births),
        Err(error) => {
            tracing::warn!("newborn cgroups that a glob could match stay denied until a reload: {error}");
            None
        }
    }
}

fn watch_namespaces(census: &Arc<Census>, listener: Listener, send: &queue::Sender) -> Result<(), Failure> {
    let (ticks, mut moved) = mpsc::channel(8);
    namespaces::watch(Arc::clone(census), listener, ticks)?;
    let send = send.clone();
    tokio::spawn(async move {
        while moved.recv().await.is_some() {
            if send.send(Event::NamespacesMoved).await.is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// The kernel programs' own diagnostics go to the log.
pub(super) fn log_from_kernel(datapath: &Datapath) {
    let Some(logger) = datapath.take_logger() else {
        return;
    };
    // SAFETY: the logger owns its ring's descriptor and keeps it open for as long as it lives.
    let watched =
        unsafe { tokio::io::unix::AsyncFd::register_with_interest(logger, tokio::io::Interest::READABLE) };
    match watched {
        Ok(mut logger) => {
            tokio::spawn(async move {
                while let Ok(mut ready) = logger.readable_mut().await {
                    if ready.get_inner_mut().flush() {
                        ready.clear_ready();
                    }
                    tokio::task::yield_now().await;
                }
            });
        }
        Err(error) => tracing::warn!("the kernel programs' own log cannot be watched: {error}"),
    }
}
