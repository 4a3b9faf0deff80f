//! The real servers, each with a unix socket beside the network on which it tells what reached it.

use std::{
    cell::Cell,
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{
    command::{command, read},
    fixture::{
        interrupt::wait_for,
        process::{Place, Process},
        scratch::Scratch,
    },
};

/// The file nginx serves slowly, and how slowly it does.
pub const DOWNLOAD: &str = "download";
/// Its length.
pub const DOWNLOAD_BYTES: usize = 1 << 20;
const DOWNLOAD_RATE: &str = "128k";

/// How long a server may take until it answers.
const START: Duration = Duration::from_secs(15);

/// A server, and how many of the connections it counts were ours.
pub struct Service {
    _process: Process,
    kind: Kind,
    socket: PathBuf,
    asked: Cell<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Nginx,
    Redis,
}

impl Service {
    /// nginx with these `listen` directives.
    pub fn nginx(scratch: &Scratch, name: &str, place: &Place, listen: &str) -> Result<Service> {
        let command = nginx(scratch, name, listen)?;
        Service::start(scratch, name, place, command, Kind::Nginx)
    }

    /// redis on this port of these addresses.
    pub fn redis(scratch: &Scratch, name: &str, place: &Place, port: u16, bind: &str) -> Result<Service> {
        let command = redis(scratch, name, port, bind)?;
        Service::start(scratch, name, place, command, Kind::Redis)
    }

    fn start(
        scratch: &Scratch,
        name: &str,
        place: &Place,
        mut command: Command,
        kind: Kind,
    ) -> Result<Service> {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let process = Process::spawn(&mut command, place)?;
        let socket = scratch.join(&format!("{name}.sock"));
        let service = Service {
            _process: process,
            kind,
            socket,
            asked: Cell::new(0),
        };
        let log = scratch.join(&format!("{name}.log"));
        wait_for(&format!("`{name}` answers"), START, || {
            Ok(service.read_status().ok())
        })
        .with_context(|| format!("its log says:\n{}", fs::read_to_string(log).unwrap_or_default()))?;
        Ok(service)
    }

    /// How many connections it has accepted on the network so far.
    pub fn connections(&self) -> Result<u64> {
        let status = self.read_status()?;
        let all = match self.kind {
            // A head line, then ` 12 12 31`: accepts, handled, requests.
            Kind::Nginx => number(status.lines().nth(2).unwrap_or_default().trim_start()),
            Kind::Redis => field(&status, "total_connections_received:"),
        };
        Ok(all.with_context(|| format!("no count of connections in {status}"))? - self.asked.get())
    }

    /// How many times redis was sent `command`.
    pub fn calls(&self, command: &str) -> Result<u64> {
        Ok(field(&self.read_status()?, &format!("cmdstat_{command}:calls=")).unwrap_or(0))
    }

    /// Asks over the unix socket, which is no network. The server counts that connection too.
    fn read_status(&self) -> Result<String> {
        let socket = self.socket.to_string_lossy();
        let status = match self.kind {
            Kind::Nginx => read(&mut command(
                "curl",
                &["--silent", "--fail", "--unix-socket", &socket, "http://status/"],
            ))?,
            Kind::Redis => read(&mut command("redis-cli", &["-s", &socket, "info", "everything"]))?,
        };
        self.asked.set(self.asked.get() + 1);
        Ok(status)
    }
}

fn field(status: &str, key: &str) -> Option<u64> {
    number(status.lines().find_map(|line| line.strip_prefix(key))?)
}

fn number(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

fn nginx(scratch: &Scratch, name: &str, listen: &str) -> Result<Command> {
    let dir = scratch.path().display();
    let pages = scratch.join("www");
    if !pages.exists() {
        fs::create_dir(&pages).with_context(|| format!("cannot create {}", pages.display()))?;
        scratch.write(&format!("www/{DOWNLOAD}"), &"segd".repeat(DOWNLOAD_BYTES / 4))?;
        scratch.write("www/index.html", "hello\n")?;
    }
    // `user root`: only root may enter the scratch folder.
    let config = format!(
        "user root; worker_processes 1; daemon off; pid {dir}/{name}.pid; error_log {dir}/{name}.log;\n\
         events {{}}\n\
         http {{\n\
           access_log off;\n\
           client_body_temp_path {dir}/{name}-1; proxy_temp_path {dir}/{name}-2; fastcgi_temp_path {dir}/{name}-3;\n\
           uwsgi_temp_path {dir}/{name}-4; scgi_temp_path {dir}/{name}-5;\n\
           server {{ {listen} root {dir}/www; location /{DOWNLOAD} {{ limit_rate {DOWNLOAD_RATE}; }} }}\n\
           server {{ listen unix:{dir}/{name}.sock; location / {{ stub_status; }} }}\n\
         }}\n"
    );
    let config = scratch.write(&format!("{name}.conf"), &config)?;
    let log = scratch.join(&format!("{name}.log"));
    Ok(command(
        "nginx",
        &["-c", &config.to_string_lossy(), "-e", &log.to_string_lossy()],
    ))
}

fn redis(scratch: &Scratch, name: &str, port: u16, bind: &str) -> Result<Command> {
    let dir = scratch.path().display();
    let config = format!(
        "port {port}\nbind {bind}\nprotected-mode no\nsave \"\"\nappendonly no\ndir {dir}\n\
         unixsocket {dir}/{name}.sock\nlogfile {dir}/{name}.log\ndaemonize no\n"
    );
    let config = scratch.write(&format!("{name}.conf"), &config)?;
    Ok(command("redis-server", &[&config.to_string_lossy()]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_numbers_servers_tell() {
        assert_eq!(number("12 12 31 "), Some(12));
        assert_eq!(number("x"), None);
        assert_eq!(
            field(
                "# Stats\r\ntotal_connections_received:7\r\n",
                "total_connections_received:"
            ),
            Some(7)
        );
        assert_eq!(field("cmdstat_get:calls=3,usec=1", "cmdstat_get:calls="), Some(3));
    }
}
