//! Where probes stand: short-lived cgroups below those of living workloads, whose segment they are born with.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use segd_common::segment::{FIRST_SEGMENT, HOST};

use crate::{
    control::{
        client::ask,
        protocol::{Request, Response},
        types::WorkloadRow,
    },
    policy::expectation::Party,
    workload::{cgroupfs::CgroupRoot, own::places},
};

/// What the name of a probe's cgroup begins with; its process follows.
const NAME: &str = "segd-test-";
/// How many workloads of one segment are tried.
const MOST_TRIES: usize = 8;
/// How long a newborn cgroup may take to be classified.
const CLASSIFIED: Duration = Duration::from_secs(2);

/// The cgroups of this run. They are left and removed when this is dropped.
#[derive(Debug)]
pub struct Ground {
    control: PathBuf,
    root: PathBuf,
    home: PathBuf,
    workloads: Vec<WorkloadRow>,
    made: RefCell<BTreeMap<String, Result<PathBuf, String>>>,
}

impl Ground {
    /// Asks who lives where.
    ///
    /// # Errors
    ///
    /// Why nothing can be probed.
    pub fn find(control: &Path) -> Result<Ground, String> {
        let root = CgroupRoot::find().map_err(|error| crate::report::chain(&error))?;
        let home = places(&root).into_iter().next();
        Ok(Ground {
            control: control.to_owned(),
            home: home.unwrap_or_else(|| root.path().to_owned()),
            root: root.path().to_owned(),
            workloads: workloads(control)?,
            made: RefCell::default(),
        })
    }

    /// A cgroup of somebody's segment for probes, made when it is first asked for.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub fn place(&self, party: &Party) -> Result<PathBuf, String> {
        if party.address.is_some() || (party.segment != HOST && party.segment < FIRST_SEGMENT) {
            return Err(format!(
                "`{}` is other machines: no probe leaves this host",
                party.name
            ));
        }
        let mut made = self.made.borrow_mut();
        let place = made.entry(party.name.clone());
        place.or_insert_with(|| self.make(party)).clone()
    }

    fn make(&self, party: &Party) -> Result<PathBuf, String> {
        let state = if party.segment == HOST { "host" } else { "tagged" };
        let lives = |row: &&WorkloadRow| row.segment == party.name && row.state == state;
        let mut homes: Vec<&WorkloadRow> = self.workloads.iter().filter(lives).collect();
        // A cgroup that holds processes, if there is one; those of a slice may be claimed by name.
        homes.sort_by_key(|row| (!self.holds_processes(row), row.cgroup.len()));
        let mut why = format!("no workload of `{}` lives on this host now", party.name);
        for row in homes.into_iter().take(MOST_TRIES) {
            match self.below(row, party, state) {
                Ok(place) => return Ok(place),
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    fn directory(&self, cgroup: &str) -> PathBuf {
        self.root.join(cgroup.trim_start_matches('/'))
    }

    fn holds_processes(&self, row: &WorkloadRow) -> bool {
        let path = self.directory(&row.cgroup).join("cgroup.procs");
        fs::read_to_string(path).is_ok_and(|text| !text.is_empty())
    }

    fn below(&self, row: &WorkloadRow, party: &Party, state: &str) -> Result<PathBuf, String> {
        let name = format!("{NAME}{}", std::process::id());
        let directory = self.directory(&row.cgroup).join(&name);
        let cannot = |error: io::Error| format!("no cgroup can be made below `{}`: {error}", row.cgroup);
        fs::create_dir(&directory).map_err(cannot)?;
        let path = format!("{}/{name}", row.cgroup.trim_end_matches('/'));
        let deadline = Instant::now() + CLASSIFIED;
        let found = loop {
            let rows = workloads(&self.control)?;
            let own = rows.into_iter().find(|own| own.cgroup == path);
            match own {
                Some(own) if own.segment == party.name && own.state == state => return Ok(directory),
                found if Instant::now() >= deadline => break found,
                _ => {}
            }
            // SLEEP: the daemon classifies newborn cgroups in its own time, and tells nobody when.
            std::thread::sleep(Duration::from_millis(20));
        };
        let _ = fs::remove_dir(&directory);
        let what = found.map_or("unknown to segd".to_owned(), |own| {
            format!("`{}` ({})", own.segment, own.state)
        });
        Err(format!(
            "a cgroup made below `{}` is {what}, not `{}`",
            row.cgroup, party.name
        ))
    }

    /// Moves this process into a cgroup.
    pub fn enter(&self, directory: &Path) -> io::Result<()> {
        fs::write(directory.join("cgroup.procs"), "0")
    }

    /// Moves this process back to where it was.
    pub fn go_home(&self) -> io::Result<()> {
        self.enter(&self.home)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = self.go_home();
        for place in self.made.borrow().values().flatten() {
            let _ = fs::remove_dir(place);
        }
    }
}

fn workloads(control: &Path) -> Result<Vec<WorkloadRow>, String> {
    match ask(control, &Request::Workloads) {
        Ok(Response::Workloads(rows)) => Ok(rows),
        Ok(_) => Err("the daemon answers another question".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
