//! Sessions that are open while the policy changes under them.

use std::{
    io::Write as _,
    process::{ChildStdin, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{
    service::{DOWNLOAD, DOWNLOAD_BYTES},
    stage,
};
use crate::{
    command::command,
    fixture::{
        interrupt::wait_for,
        process::{Place, Process, lines},
    },
};

/// How long an answer may take before it counts as none.
const PATIENCE: Duration = Duration::from_secs(2);

/// A `redis-cli` that stays connected.
pub struct RedisSession {
    _process: Process,
    commands: ChildStdin,
    answers: Receiver<String>,
}

impl RedisSession {
    /// Connects to the `db` of the stage.
    pub fn open(place: &Place) -> Result<RedisSession> {
        let mut client = command("redis-cli", &["-h", stage::DB[0], "-p", "6379"]);
        client
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut process = Process::spawn(&mut client, place)?;
        let commands = process.child.stdin.take().context("no stdin")?;
        let answers = lines(&mut process.child)?;
        Ok(RedisSession {
            _process: process,
            commands,
            answers,
        })
    }

    /// Sends a command; what redis answers, or `None` if nothing comes back.
    pub fn say(&mut self, words: &str) -> Result<Option<String>> {
        if writeln!(self.commands, "{words}")
            .and_then(|()| self.commands.flush())
            .is_err()
        {
            return Ok(None);
        }
        loop {
            match self.answers.recv_timeout(PATIENCE) {
                Ok(line) if line.is_empty() => {}
                Ok(line) => return Ok(Some(line)),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return Ok(None),
            }
        }
    }
}

/// A `curl` in the middle of a download.
pub struct Download {
    process: Process,
}

impl Download {
    /// Starts to fetch the slow file from the `web` of the stage.
    pub fn start(place: &Place) -> Result<Download> {
        let url = format!("http://{}/{DOWNLOAD}", stage::WEB[0]);
        let write = ["--write-out", "%{http_code} %{size_download}", "--max-time", "60"];
        let mut client = command(
            "curl",
            &[&["--silent", "--output", "/dev/null"], &write[..], &[&url]].concat(),
        );
        client.stdin(Stdio::null()).stdout(Stdio::piped());
        Ok(Download {
            process: Process::spawn(&mut client, place)?,
        })
    }

    /// Fails if it is over already: then it would show nothing.
    pub fn must_be_running(&mut self) -> Result<()> {
        match self.process.ended()? {
            None => Ok(()),
            Some(status) => bail!("the download was over too early: {status}"),
        }
    }

    /// Waits for its end: whether every byte came.
    pub fn finish(&mut self) -> Result<bool> {
        wait_for("the download ends", Duration::from_secs(60), || {
            self.process.ended()
        })?;
        let said = lines(&mut self.process.child)?
            .recv_timeout(PATIENCE)
            .context("curl does not tell")?;
        Ok(said.trim() == format!("200 {DOWNLOAD_BYTES}"))
    }
}
