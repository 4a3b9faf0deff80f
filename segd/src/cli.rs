//! The command line (skeleton).
/// The entry point.
#[must_use]
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(4)
}
