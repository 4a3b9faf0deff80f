//! What a start has in its hands before anything is attached: the policy, and the addresses that it answers on.

use std::sync::Arc;

use tokio::net::TcpListener;

use super::{
    Options, engine::Engine, error::ApplyError, failure::Failure, gate::read_followed, last_good,
    start::style, trial::Found,
};
use crate::{
    control::server::Server,
    policy::{
        model::{Policy, Source},
        resolve::{Doubts, ReadFiles},
    },
    report::chain,
    source::{LoadError, Loaded, resolve_read_doubting},
    telemetry::http,
};

/// What can be had before anything is attached.
pub(super) struct Readied {
    pub found: Found,
    /// What the policy of the files probably does not mean, or why it is not enforced.
    pub doubts: Result<Doubts, Broken>,
    /// What is doubted.
    pub doubted: (Arc<Policy>, Vec<Source>),
    pub read_files: ReadFiles,
    pub control: Server,
    pub metrics: Option<TcpListener>,
}

/// Reads the policy, and takes the addresses. `enforced`: some policy is in force already.
pub(super) async fn ready(options: &Options, group: Option<u32>, enforced: bool) -> Result<Readied, Failure> {
    let mut read_files = ReadFiles::default();
    let (loaded, doubts) = policy(options, enforced, &mut read_files)?;
    let doubted = (Arc::clone(&loaded.policy), loaded.sources.clone());
    crate::output::draw(&loaded.render_warnings(style()));
    let control = Server::bind(&options.control, group)
        .await
        .map_err(|error| Failure::host(chain(&error), Some("--control takes another path")))?;
    let metrics = match options.metrics {
        Some(address) => Some(http::bind(address).await.map_err(|error| {
            Failure::host(chain(&error), Some("--metrics takes another address, or `none`"))
        })?),
        None => None,
    };
    let found = match doubts {
        Err(_) => Found::LastGood(loaded),
        Ok(_) => Found::Files(loaded),
    };
    Ok(Readied {
        found,
        doubts,
        doubted,
        read_files,
        control,
        metrics,
    })
}

/// Why the policy of the files is not enforced: in a line, and drawn.
pub(super) struct Broken {
    pub line: String,
    pub drawn: String,
}

/// The policy to enforce. If it has a mistake, or may not come into force, and nothing is in force: the last good one, and
/// what is wrong.
fn policy(
    options: &Options,
    enforced: bool,
    files: &mut ReadFiles,
) -> Result<(Loaded, Result<Doubts, Broken>), Failure> {
    let read = read_followed(&options.policy, &options.trust, options.gate.as_ref());
    let loaded = read
        .map_err(LoadError::Unreadable)
        .and_then(|read| resolve_read_doubting(read, options.allow_empty, files))
        .and_then(|(loaded, doubts)| Ok((loaded.tested()?, doubts)));
    let (broken, failure) = match loaded {
        Ok((loaded, doubts)) => {
            let gate = options.gate.as_ref().filter(|_| !enforced);
            let Some(Err(error)) = gate.map(|gate| gate.judge(&loaded)) else {
                return Ok((loaded, Ok(doubts)));
            };
            let line = error.to_string();
            let drawn = format!("error: {line}\nhelp: {}\n", error.help());
            (Broken { line, drawn }, ApplyError::Gate(error).into())
        }
        Err(error) => {
            let (line, drawn) = (error.to_string(), error.render(style()));
            (Broken { line, drawn }, Failure::from(error))
        }
    };
    let loaded = fall_back(options, enforced, failure)?;
    Ok((loaded, Err(broken)))
}

/// Puts what was found in force. What kept the files' policy out although it is right (it does not fit into the tables, say) is told beside
/// what is enforced in its place: the last good one, if nothing is in force.
pub(super) fn take_over(
    engine: &mut Engine,
    found: Found,
    enforced: bool,
) -> Result<(Found, Option<Broken>), Failure> {
    let Err(error) = engine.take_over(&found) else {
        return Ok((found, None));
    };
    if matches!(found, Found::LastGood(_)) {
        return Err(error.into());
    }
    let line = chain(&error);
    tracing::error!("the policy cannot be put in force: {line}");
    let drawn = format!("error: {line}\n");
    let kept = Found::LastGood(fall_back(&engine.options, enforced, error.into())?);
    engine.take_over(&kept)?;
    Ok((kept, Some(Broken { line, drawn })))
}

/// The last good policy, if nothing is in force; else why the one of the files is not.
fn fall_back(options: &Options, enforced: bool, failure: Failure) -> Result<Loaded, Failure> {
    let Some(path) = options.last_good.as_ref().filter(|_| !enforced) else {
        return Err(failure);
    };
    match last_good::read(path, options.allow_empty) {
        Ok(loaded) => {
            tracing::error!(
                "the policy was not loaded: the last good one is, from `{}`",
                path.display()
            );
            Ok(loaded)
        }
        Err(why) => {
            tracing::warn!("there is no last good policy to enforce: {}", chain(&why));
            Err(failure)
        }
    }
}
