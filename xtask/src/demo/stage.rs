//! The stage: who lives where, in namespaces of their own and on the host's loopback.

use std::{fs, net::IpAddr};

use anyhow::{Context as _, Result};

use super::service::Service;
use crate::fixture::{
    cgroup::CgroupTree, daemon::free_port, network::Network, process::Place, scratch::Scratch,
};

/// The name of the cgroup and of the namespaces.
const NAME: &str = "segd-demo";

/// Everything the demo runs on. Fields are dropped in this order: processes before what they live in.
pub struct Stage {
    services: Vec<(&'static str, Service)>,
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
    /// curl's, in a namespace of its own.
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
const BRIDGE: [&str; 2] = ["10.213.77.1/24", "fd6d:5e9d:77::1/64"];
const SHOPPER: [&str; 2] = ["10.213.77.30", "fd6d:5e9d:77::30"];
const ROGUE: [&str; 2] = ["10.213.77.66", "fd6d:5e9d:77::66"];

impl Stage {
    /// Lays the networks, makes the cgroups, starts the services and waits until each answers.
    pub fn new(scratch: &Scratch) -> Result<Stage> {
        let cgroups = CgroupTree::new(NAME)?;
        let mut network = Network::new(NAME, &BRIDGE)?;
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
        let places = Places {
            shopper,
            web,
            db,
            rogue,
            api,
            vault,
        };

        let loopback6 = fs::read_to_string("/proc/net/if_inet6")
            .unwrap_or_default()
            .contains(" lo\n");
        let (api_port, vault_port) = (free_port()?, free_port()?);
        // 8081 is open in nginx and in no rule.
        let listen_web = "listen 80; listen [::]:80; listen 8081; listen [::]:8081;";
        let listen6 = if loopback6 {
            format!("listen [::1]:{api_port};")
        } else {
            String::new()
        };
        let listen_api = format!("listen 127.0.0.1:{api_port}; {listen6}");
        let services = vec![
            ("web", Service::nginx(scratch, "web", &places.web, listen_web)?),
            ("api", Service::nginx(scratch, "api", &places.api, &listen_api)?),
            ("db", Service::redis(scratch, "db", &places.db, 6379, "* -::*")?),
            (
                "vault",
                Service::redis(scratch, "vault", &places.vault, vault_port, "127.0.0.1 -::1")?,
            ),
        ];
        Ok(Stage {
            services,
            _network: network,
            _cgroups: cgroups,
            places,
            api_port,
            vault_port,
            loopback6,
        })
    }

    /// The service of a segment.
    pub fn service(&self, name: &str) -> Result<&Service> {
        let found = self.services.iter().find(|(known, _)| *known == name);
        found
            .map(|(_, service)| service)
            .with_context(|| format!("no service `{name}`"))
    }

    /// Tells who is who.
    pub fn describe(&self) -> String {
        let [web, db] = [WEB, DB].map(|[v4, v6]| format!("{v4} {v6}"));
        let loopback = if self.loopback6 {
            "127.0.0.1 ::1"
        } else {
            "127.0.0.1 (this host has no ::1: not tried)"
        };
        format!(
            "web      nginx                  {web}  (its own network namespace)\n\
             db       redis-server           {db}  (its own network namespace)\n\
             api      nginx                  {loopback} port {}  (the host)\n\
             vault    redis-server           {loopback} port {}  (the host)\n\
             shopper  curl, redis-cli, ping  in its own network namespace, and on the host\n\
             rogue    the same programs      in its own network namespace, in web's, and on the host\n",
            self.api_port, self.vault_port
        )
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
