//! A process of a test, in the cgroup and network namespace it is told to live in.

fn main() -> std::process::ExitCode {
    segd_tests::agent::main()
}
