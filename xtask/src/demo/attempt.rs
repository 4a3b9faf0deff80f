//! One attempt of one real client, and what came of it at both ends.

use std::{
    process::Output,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::stage::{self, Stage, in_url};
use crate::{
    command::{command, line},
    fixture::process::Place,
};

/// How long a client waits for an answer, in seconds.
const PATIENCE: &str = "2";

/// What a client runs.
#[derive(Clone, Debug)]
pub enum Tool {
    /// `curl` on a page.
    Curl(String),
    /// `redis-cli ping`.
    Redis { host: String, port: u16 },
    /// `ping`, once.
    Ping(String),
}

/// Who tries what.
pub struct Attempt {
    /// The client's segment.
    pub from: &'static str,
    /// The service's segment, which is also the service's name.
    pub to: &'static str,
    /// As in a policy: `tcp/80`.
    pub port: String,
    /// Where the client runs.
    pub place: Place,
    /// What the client runs.
    pub tool: Tool,
    /// What is special about it.
    pub note: &'static str,
}

/// What came of an attempt.
pub struct Seen {
    /// Whether the client had its answer.
    pub answered: bool,
    /// Whether the service saw anything; `None` where the kernel itself answers.
    pub arrived: Option<bool>,
    /// For people.
    pub text: String,
}

impl Attempt {
    /// Every attempt, in the order in which they are told.
    pub fn all(stage: &Stage) -> Vec<Attempt> {
        let places = &stage.places;
        let mut all = Vec::new();
        let mut add = |from, to, port: &str, place: &Place, tool, note| {
            all.push(Attempt {
                from,
                to,
                port: port.to_owned(),
                place: place.clone(),
                tool,
                note,
            });
        };
        let page = |host: &str, port: u16| Tool::Curl(format!("http://{}:{port}/", in_url(host)));
        let redis = |host: &str, port| Tool::Redis {
            host: host.to_owned(),
            port,
        };
        let pings = ["icmp/echo-request", "icmpv6/echo-request"];
        for ((web, db), ping) in stage::WEB.into_iter().zip(stage::DB).zip(pings) {
            add("shopper", "web", "tcp/80", &places.shopper, page(web, 80), "");
            add(
                "shopper",
                "web",
                "tcp/8081",
                &places.shopper,
                page(web, 8081),
                "nginx listens; no rule has the port",
            );
            add(
                "shopper",
                "web",
                ping,
                &places.shopper,
                Tool::Ping(web.to_owned()),
                "",
            );
            add("shopper", "db", "tcp/6379", &places.shopper, redis(db, 6379), "");
            add("web", "db", "tcp/6379", &places.web, redis(db, 6379), "");
            add("rogue", "web", "tcp/80", &places.rogue, page(web, 80), "");
            add(
                "rogue",
                "web",
                ping,
                &places.rogue,
                Tool::Ping(web.to_owned()),
                "",
            );
            add("rogue", "db", "tcp/6379", &places.rogue, redis(db, 6379), "");
        }
        // The same address, another cgroup.
        let intruder = match &places.web.namespace {
            Some(namespace) => places.rogue.with_namespace(namespace),
            None => places.rogue.clone(),
        };
        for db in stage::DB {
            add(
                "rogue",
                "db",
                "tcp/6379",
                &intruder,
                redis(db, 6379),
                "from web's own address",
            );
        }
        // One address for everybody.
        let shopper = Place {
            namespace: None,
            ..places.shopper.clone()
        };
        let rogue = Place {
            namespace: None,
            ..places.rogue.clone()
        };
        let (api, vault) = (
            format!("tcp/{}", stage.api_port),
            format!("tcp/{}", stage.vault_port),
        );
        let loopbacks: &[&str] = if stage.loopback6 {
            &["127.0.0.1", "::1"]
        } else {
            &["127.0.0.1"]
        };
        for host in loopbacks {
            add("shopper", "api", &api, &shopper, page(host, stage.api_port), "");
            add(
                "shopper",
                "vault",
                &vault,
                &shopper,
                redis(host, stage.vault_port),
                "same address, other service",
            );
            add(
                "rogue",
                "api",
                &api,
                &rogue,
                page(host, stage.api_port),
                "same address, other client",
            );
        }
        all
    }

    /// How the client is called.
    pub fn shown(&self) -> String {
        match &self.tool {
            Tool::Curl(url) => format!("curl {url}"),
            Tool::Redis { host, port } => format!("redis-cli -h {host} -p {port} ping"),
            Tool::Ping(host) => format!("ping -c1 {host}"),
        }
    }

    /// Does it.
    pub fn run(&self, stage: &Stage) -> Result<Seen> {
        let before = self.arrivals(stage)?;
        let mut client = match &self.tool {
            Tool::Curl(url) => {
                let show = [
                    "--silent",
                    "--show-error",
                    "--output",
                    "/dev/null",
                    "--write-out",
                    "%{http_code}",
                ];
                command("curl", &[&show[..], &["--max-time", PATIENCE, url]].concat())
            }
            Tool::Redis { host, port } => command(
                "timeout",
                &[PATIENCE, "redis-cli", "-h", host, "-p", &port.to_string(), "ping"],
            ),
            Tool::Ping(host) => command("ping", &["-n", "-c1", "-W", PATIENCE, host]),
        };
        self.place.enter(&mut client)?;
        let start = Instant::now();
        let output = client
            .output()
            .with_context(|| format!("cannot start `{}`", line(&client)))?;
        let took = start.elapsed();
        let answered = output.status.success() && self.is_answer(&output);
        let arrived = match (before, self.arrivals(stage)?) {
            (Some(before), Some(after)) => Some(after > before),
            _ => None,
        };
        Ok(Seen {
            answered,
            arrived,
            text: self.tell(&output, answered, took),
        })
    }

    fn is_answer(&self, output: &Output) -> bool {
        let said = String::from_utf8_lossy(&output.stdout);
        match self.tool {
            Tool::Curl(_) => said == "200",
            Tool::Redis { .. } => said.trim() == "PONG",
            Tool::Ping(_) => said.contains(" 1 received"),
        }
    }

    fn tell(&self, output: &Output, answered: bool, took: Duration) -> String {
        let took = format!("{} ms", took.as_millis());
        let said = [&output.stdout[..], &output.stderr[..]].concat();
        let said = String::from_utf8_lossy(&said);
        if answered {
            let answer = match self.tool {
                Tool::Curl(_) => "200 OK",
                Tool::Redis { .. } => "PONG",
                Tool::Ping(_) => "echo reply",
            };
            return format!("{answer} in {took}");
        }
        if said.contains("not permitted") {
            return format!("EPERM at once ({took} with the program's start)");
        }
        match (&self.tool, output.status.code()) {
            (Tool::Curl(_), Some(28)) | (Tool::Redis { .. }, Some(124)) => {
                format!("no answer in {PATIENCE} s")
            }
            (Tool::Ping(_), Some(1)) => format!("no answer in {PATIENCE} s"),
            (Tool::Curl(_), Some(7)) => format!("connect refused ({took} with the program's start)"),
            _ => said.trim().lines().last().unwrap_or("failed").to_owned(),
        }
    }

    /// What the service has counted so far; `None` where the kernel itself answers.
    fn arrivals(&self, stage: &Stage) -> Result<Option<u64>> {
        match self.tool {
            Tool::Curl(_) | Tool::Redis { .. } => stage.service(self.to)?.connections().map(Some),
            Tool::Ping(_) => Ok(None),
        }
    }
}
