//! `ssh-keygen -Y`: who signed a text, and signing one.
//!
//! INVARIANT: the program reads what it verifies from memory that it was lent, never from a file that may have changed.

use std::{
    fs::File,
    io::Write as _,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use super::{SIGN, SignatureError, Signers};
use crate::source::child;

/// What signatures are made for, so that one for something else is none for a policy.
pub const NAMESPACE: &str = "segd-policy";
/// How long `ssh-keygen` may take for one policy: who waits for two of them is answered before he gives up.
const LIMIT: Duration = Duration::from_secs(4);

/// The allowed signer whose signature this is.
pub(super) fn signer(
    path: &Path,
    text: &str,
    signature: &str,
    signers: &Signers,
) -> Result<String, SignatureError> {
    let list = signers.path.display();
    let refused = |why: &str| {
        let why = why.trim().lines().last().unwrap_or_default();
        let why = format!("is not signed for `{NAMESPACE}` by a signer that `{list}` allows now: {why}");
        SignatureError::new(path, why, SIGN)
    };
    let unverified = |why: String| SignatureError::unverified(path, &why);
    let lent = |text: &str| lent(text).map_err(|error| unverified(format!("no memory: {error}")));
    let (allowed, made) = (lent(&signers.text)?, lent(signature)?);
    let deadline = Instant::now() + LIMIT;
    let ask = |what: &str, options: &[&str], input: &str| {
        let mut command = Command::new("ssh-keygen");
        command
            .args(["-Y", what, "-f", &number(&allowed), "-s", &number(&made)])
            .args(options)
            .env("LC_ALL", "C");
        let left = deadline.saturating_duration_since(Instant::now());
        let lent = [&allowed, &made];
        child::ask(&mut command, input.as_bytes().to_vec(), &lent, 1 << 16, left).map_err(unverified)
    };
    let found = ask("find-principals", &[], "")?;
    let mut why = found.stderr;
    if found.status.success() {
        let names = String::from_utf8_lossy(&found.stdout).into_owned();
        let names = names.split(['\n', ',']);
        for name in names.filter(|name| !name.is_empty() && !name.starts_with('!')) {
            let verified = ask("verify", &["-n", NAMESPACE, "-I", name], text)?;
            if verified.status.success() {
                return Ok(name.to_owned());
            }
            why = verified.stderr;
        }
    }
    Err(refused(&why))
}

/// A text in memory that only a child is given.
fn lent(text: &str) -> std::io::Result<OwnedFd> {
    // SAFETY: a live C string; the result is checked.
    let fd = unsafe { libc::memfd_create(c"segd".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
    let mut file = unsafe { File::from_raw_fd(fd) };
    file.write_all(text.as_bytes())?;
    Ok(file.into())
}

/// Under what name a child opens it.
fn number(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Signs a text; ssh-keygen may ask on the terminal, and an agent.
///
/// # Errors
///
/// What ssh-keygen says.
pub fn sign(text: &str, key: &Path) -> Result<String, String> {
    let mut child = Command::new("ssh-keygen")
        .args(["-q", "-Y", "sign", "-n", NAMESPACE, "-f"])
        .arg(key)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot run `ssh-keygen`: {error}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // It reads all of it before it prints; if it does not, it says why.
        let _ = stdin.write_all(text.as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("ssh-keygen did not sign with `{}`", key.display()));
    }
    String::from_utf8(output.stdout).map_err(|_| "ssh-keygen printed no signature".to_owned())
}
