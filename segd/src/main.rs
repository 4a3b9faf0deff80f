//! The `segd` binary.

fn main() -> std::process::ExitCode {
    segd::cli::main()
}
