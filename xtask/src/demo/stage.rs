//! The stage: nginx and redis-server, each in a cgroup of its own, in namespaces and on the host's loopback.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{
    command::{command, read},
    fixture::{
        cgroup::CgroupTree,
        daemon::free_port,
        interrupt::wait_for,
        network::Network,
        process::{Place, Process},
        scratch::Scratch,
    },
};

/// The name of the cgroup and of the namespaces.
const NAME: &str = "segd-demo";

/// The file nginx serves slowly, and for how long it does.
pub const DOWNLOAD: &str = "download";
pub const DOWNLOAD_BYTES: usize = 1 << 20;
const DOWNLOAD_RATE: &str = "128k";

/// How long a program may take until it answers.
const START: Duration = Duration::from_secs(15);

/// Everything the demo runs on. Fields are dropped in this order: processes before what they live in.
pub struct Stage {
    _services: Vec<Process>,
    _network: Network,
    _cgroups: CgroupTree,
    /// The clients' places, and those of the services.
    pub places: Places,
    /// On both loopback addresses, where there are two.
    pub api_port: u16,
    /// On both loopback addresses, where there are two.
    pub vault_port: u16,
    /// Whether this host has `::1`.
    pub loopback6: bool,
}

/// Who lives where.
pub struct Places {
    /// curl's.
    pub shopper: Place,
    /// nginx's, in a namespace of its own.
    pub web: Place,
    /// redis's, in a namespace of its own.
    pub db: Place,
    /// Allowed nothing, in a namespace of its own.
    pub rogue: Place,
    /// An nginx on the host's loopback.
    pub api: Place,
    /// A redis on the host's loopback.
    pub vault: Place,
}

/// The addresses on the demo's bridge, IPv4 and IPv6.
pub const WEB: [&str; 2] = ["10.213.77.10", "fd6d:5e9d:77::10"];
pub const DB: [&str; 2] = ["10.213.77.20", "fd6d:5e9d:77::20"];
const SHOPPER: [&str; 2] = ["10.213.77.30", "fd6d:5e9d:77::30"];
const ROGUE: [&str; 2] = ["10.213.77.66", "fd6d:5e9d:77::66"];

impl Stage {
    /// Lays the networks, makes the cgroups, starts the services and waits until each answers.
    pub fn new(scratch: &Scratch) -> Result<Stage> {
        let cgroups = CgroupTree::new(NAME)?;
        let mut network = Network::new(NAME)?;
        let mut member = |name: &str, [v4, v6]: [&str; 2]| -> Result<Place> {
            let namespace = network.member(name, &[&format!("{v4}/24"), &format!("{v6}/64")])?;
            Ok(Place::cgroup(&cgroups.child(name)?).with_namespace(&namespace))
        };
        let (web, db) = (member("web", WEB)?, member("db", DB)?);
        let (shopper, rogue) = (member("shopper", SHOPPER)?, member("rogue", ROGUE)?);
        let (api, vault) = (
            Place::cgroup(&cgroups.child("api")?),
            Place::cgroup(&cgroups.child("vault")?),
        );
        let loopback6 = fs::read_to_string("/proc/net/if_inet6")
            .unwrap_or_default()
            .contains(" lo\n");
        let (api_port, vault_port) = (free_port()?, free_port()?);
        let mut stage = Stage {
            _services: Vec::new(),
            _network: network,
            _cgroups: cgroups,
            places: Places {
                shopper,
                web,
                db,
                rogue,
                api,
                vault,
            },
            api_port,
            vault_port,
            loopback6,
        };
        stage.start_services(scratch)?;
        Ok(stage)
    }

    fn start_services(&mut self, scratch: &Scratch) -> Result<()> {
        let Places {
            web, db, api, vault, ..
        } = &self.places;
        let on_loopback = |port: u16| {
            let v6 = if self.loopback6 {
                format!("listen [::1]:{port};")
            } else {
                String::new()
            };
            format!("listen 127.0.0.1:{port}; {v6}")
        };
        // 8081 is open in nginx and in no rule.
        let listen_web = "listen 80; listen [::]:80; listen 8081; listen [::]:8081;";
        let services = [
            Process::spawn(&mut nginx(scratch, "web", listen_web)?, web)?,
            Process::spawn(&mut nginx(scratch, "api", &on_loopback(self.api_port))?, api)?,
            Process::spawn(&mut redis(scratch, "db", 6379, "* -::*")?, db)?,
            Process::spawn(
                &mut redis(scratch, "vault", self.vault_port, "127.0.0.1 -::1")?,
                vault,
            )?,
        ];
        self._services.extend(services);
        for name in ["web", "api"] {
            let pid = scratch.join(&format!("{name}.pid"));
            wait_for(&format!("nginx `{name}` runs"), START, || {
                Ok(pid.exists().then_some(()))
            })
            .with_context(|| said(&scratch.join(&format!("{name}.log"))))?;
        }
        for name in ["db", "vault"] {
            wait_for(&format!("redis `{name}` runs"), START, || {
                Ok(redis_info(scratch, name).ok())
            })
            .with_context(|| said(&scratch.join(&format!("{name}.log"))))?;
        }
        Ok(())
    }
}

/// Writes `address` the way it stands before a port.
pub fn in_url(address: &str) -> String {
    let v6 = matches!(address.parse(), Ok(IpAddr::V6(_)));
    if v6 {
        format!("[{address}]")
    } else {
        address.to_owned()
    }
}

/// How many requests nginx `name` has answered.
pub fn nginx_requests(scratch: &Scratch, name: &str) -> Result<usize> {
    let log = scratch.join(&format!("{name}-access.log"));
    Ok(fs::read_to_string(&log)
        .with_context(|| format!("cannot read {}", log.display()))?
        .lines()
        .count())
}

/// How many connections redis `name` has accepted on the network so far.
pub fn redis_connections(scratch: &Scratch, name: &str) -> Result<u64> {
    let all = info_number(&redis_info(scratch, name)?, "total_connections_received:")?;
    // Every question of ours is one, over the unix socket; redis counts it before it answers.
    let marks = scratch.join(&format!("{name}.asked"));
    let asked = fs::read_to_string(&marks).unwrap_or_default().len() as u64;
    Ok(all - asked)
}

/// How many times redis `name` was sent `command`.
pub fn redis_calls(scratch: &Scratch, name: &str, command: &str) -> Result<u64> {
    let info = redis_info(scratch, name)?;
    info_number(&info, &format!("cmdstat_{command}:calls=")).or(Ok(0))
}

fn info_number(info: &str, key: &str) -> Result<u64> {
    let value = info
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .with_context(|| format!("no `{key}`"))?;
    let digits: String = value.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().with_context(|| format!("`{key}{value}`"))
}

/// Asks over the unix socket, which is no network.
fn redis_info(scratch: &Scratch, name: &str) -> Result<String> {
    let socket = scratch.join(&format!("{name}.sock"));
    let info = read(&mut command(
        "redis-cli",
        &["-s", &socket.to_string_lossy(), "info", "everything"],
    ))?;
    let marks = scratch.join(&format!("{name}.asked"));
    let asked = fs::read_to_string(&marks).unwrap_or_default();
    fs::write(&marks, asked + ".").with_context(|| format!("cannot write {}", marks.display()))?;
    Ok(info)
}

fn nginx(scratch: &Scratch, name: &str, listen: &str) -> Result<Command> {
    let dir = scratch.path().display();
    let page = scratch.join("www");
    if !page.exists() {
        fs::create_dir(&page).with_context(|| format!("cannot create {}", page.display()))?;
        scratch.write(&format!("www/{DOWNLOAD}"), &"segd".repeat(DOWNLOAD_BYTES / 4))?;
        scratch.write("www/index.html", "hello\n")?;
    }
    // `user root`: only root may enter the scratch folder.
    let config = format!(
        "user root; worker_processes 1; daemon off; pid {dir}/{name}.pid; error_log {dir}/{name}.log;\n\
         events {{}}\n\
         http {{\n\
           access_log {dir}/{name}-access.log;\n\
           client_body_temp_path {dir}/{name}-1; proxy_temp_path {dir}/{name}-2; fastcgi_temp_path {dir}/{name}-3;\n\
           uwsgi_temp_path {dir}/{name}-4; scgi_temp_path {dir}/{name}-5;\n\
           server {{ {listen} root {dir}/www; location /{DOWNLOAD} {{ limit_rate {DOWNLOAD_RATE}; }} }}\n\
         }}\n"
    );
    let config = scratch.write(&format!("{name}.conf"), &config)?;
    let log = scratch.join(&format!("{name}.log"));
    let mut nginx = command(
        "nginx",
        &["-c", &config.to_string_lossy(), "-e", &log.to_string_lossy()],
    );
    nginx.stdin(Stdio::null()).stdout(Stdio::null());
    Ok(nginx)
}

fn redis(scratch: &Scratch, name: &str, port: u16, bind: &str) -> Result<Command> {
    let dir = scratch.path().display();
    let config = format!(
        "port {port}\nbind {bind}\nprotected-mode no\nsave \"\"\nappendonly no\ndir {dir}\n\
         unixsocket {dir}/{name}.sock\nlogfile {dir}/{name}.log\ndaemonize no\n"
    );
    let config = scratch.write(&format!("{name}.conf"), &config)?;
    let mut redis = command("redis-server", &[&config.to_string_lossy()]);
    redis.stdin(Stdio::null()).stdout(Stdio::null());
    Ok(redis)
}

fn said(log: &Path) -> String {
    let log: PathBuf = log.to_owned();
    let text = fs::read_to_string(&log).unwrap_or_default();
    format!("{} says:\n{text}", log.display())
}
