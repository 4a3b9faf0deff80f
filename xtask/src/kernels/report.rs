//! What became of each kernel, in a table and below it in full.

use std::process::ExitCode;

use super::{
    archive::Package,
    transcript::{Outcome, Run},
    uncovered::Uncovered,
};

/// One kernel.
#[derive(Debug)]
pub struct Row {
    /// Which.
    pub package: Package,
    /// What became of it.
    pub run: Run,
    /// What was not run there.
    pub uncovered: Vec<Uncovered>,
}

/// Prints the report; the exit code is 1 unless every kernel is green.
pub fn print(rows: &[Row]) -> ExitCode {
    println!();
    println!(
        "{:<28} {:>6} {:>6} {:>7} {:>11} {:>8}",
        "KERNEL", "BOOTS", "PASSED", "FAILED", "NOT COVERED", "SECONDS"
    );
    for row in rows {
        let (passed, failed) = row.run.counts();
        println!(
            "{:<28} {:>6} {passed:>6} {failed:>7} {:>11} {:>8}",
            row.package.release,
            if row.run.booted { "yes" } else { "NO" },
            row.uncovered.len(),
            row.run.took.as_secs(),
        );
    }
    for row in rows {
        print_details(row);
    }
    let red: Vec<&str> = rows
        .iter()
        .filter(|row| !row.run.is_green())
        .map(|row| row.package.kernel.name)
        .collect();
    if red.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("\nFAILED on {}", red.join(", "));
    ExitCode::FAILURE
}

fn print_details(row: &Row) {
    println!("\n{}", row.package.release);
    for gap in &row.run.gaps {
        println!("  lacks        {gap}");
    }
    for one in &row.uncovered {
        println!(
            "  not covered  {}::{}: {}",
            one.test.file, one.test.name, one.reason
        );
    }
    for (test, outcome) in &row.run.results {
        match outcome {
            Outcome::Passed => {}
            Outcome::Failed(why) => println!(
                "  FAILED       {}::{}: {}",
                test.file,
                test.name,
                why.lines().next().unwrap_or_default()
            ),
            Outcome::Missing => println!("  NOT RUN      {}::{}", test.file, test.name),
        }
    }
    for trouble in &row.run.troubles {
        println!("  TROUBLE      {trouble}");
    }
}
