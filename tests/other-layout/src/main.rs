//! `segd`, with other layouts of its maps.

fn main() -> std::process::ExitCode {
    segd::cli::main()
}
