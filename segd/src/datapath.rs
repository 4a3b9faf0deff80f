//! (skeleton; the lead replaces this file)

use std::path::Path;

/// What `segd unload` removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnloadReport {
    /// One line each: a pin, a link, an attachment.
    pub removed: Vec<String>,
}

/// Detaches everything and removes every pin.
///
/// # Errors
/// If the kernel refuses.
pub fn unload(_pin_dir: &Path) -> anyhow::Result<UnloadReport> {
    anyhow::bail!("not built yet")
}
