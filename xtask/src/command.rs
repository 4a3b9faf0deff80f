//! Running other programs: every failure says which command it was.

use std::{
    io,
    process::{Command, Output},
};

use anyhow::{Context as _, Result, bail};

use crate::workspace;

/// A command with `PATH` extended by what `setup` installs, started at the top of the repository.
pub fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command
        .args(args)
        .env("PATH", workspace::path())
        .current_dir(workspace::root());
    command
}

/// This toolchain's cargo.
pub fn cargo(args: &[&str]) -> Command {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| String::from("cargo"));
    command(&cargo, args)
}

/// Runs it with the terminal's own output; an exit code other than 0 is an error.
pub fn run(command: &mut Command) -> Result<()> {
    let line = line(command);
    eprintln!("$ {line}");
    let status = command
        .status()
        .with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    Ok(())
}

/// Runs it; an exit code other than 0 is an error that quotes stderr.
pub fn run_quiet(command: &mut Command) -> Result<()> {
    read(command).map(drop)
}

/// Runs it and returns what it printed; an exit code other than 0 is an error that quotes stderr.
pub fn read(command: &mut Command) -> Result<String> {
    let line = line(command);
    let output = command
        .output()
        .with_context(|| format!("cannot start `{line}`"))?;
    if !output.status.success() {
        bail!(
            "`{line}` failed: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs it and returns everything, or `None` if there is no such program.
pub fn probe(command: &mut Command) -> Result<Option<Output>> {
    match command.output() {
        Ok(output) => Ok(Some(output)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot start `{}`", line(command))),
    }
}

/// How a person would type it.
pub fn line(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        let arg = arg.to_string_lossy();
        let plain = arg
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_=./:,@+".contains(c));
        line += &if plain {
            format!(" {arg}")
        } else {
            format!(" '{arg}'")
        };
    }
    line
}
