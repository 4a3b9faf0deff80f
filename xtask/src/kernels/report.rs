//! What became of each kernel, in a table and below it in full.

use std::{fs, process::ExitCode};

use anyhow::{Context as _, Result};

use super::{
    archive::Package,
    transcript::{Outcome, Run},
    uncovered::Uncovered,
};
use crate::workspace;

/// Where people read what a kernel lacks.
const PAGE: &str = "docs/kernels.md";

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

/// Prints the report; the exit code is 1 unless every kernel is green, and lacks what people can read about.
pub fn print(rows: &mut [Row]) -> Result<ExitCode> {
    let page =
        fs::read_to_string(workspace::root().join(PAGE)).with_context(|| format!("cannot read {PAGE}"))?;
    for row in rows.iter_mut() {
        let unnamed = unnamed(&page, row.package.kernel.name, &row.run.gaps);
        row.run.troubles.extend(unnamed);
    }
    println!();
    println!(
        "{:<28} {:>6} {:>6} {:>7} {:>11} {:>8}",
        "KERNEL", "BOOTS", "PASSED", "FAILED", "NOT COVERED", "SECONDS"
    );
    for row in rows.iter() {
        let (passed, failed) = row.run.counts();
        println!(
            "{:<28} {:>6} {passed:>6} {failed:>7} {:>11} {:>8}",
            row.package.release,
            if row.run.booted { "yes" } else { "NO" },
            row.uncovered.len(),
            row.run.took.as_secs(),
        );
    }
    for row in rows.iter() {
        print_details(row);
    }
    let red: Vec<&str> = rows
        .iter()
        .filter(|row| !row.run.is_green())
        .map(|row| row.package.kernel.name)
        .collect();
    if red.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("\nFAILED on {}", red.join(", "));
    Ok(ExitCode::FAILURE)
}

/// What a kernel lacks and its row of the page does not name.
fn unnamed(page: &str, kernel: &str, gaps: &[String]) -> Vec<String> {
    let row = page
        .lines()
        .find(|line| line.starts_with(&format!("| {kernel} |")));
    let Some(row) = row else {
        return vec![format!("{PAGE} has no row for {kernel}")];
    };
    let names = gaps.iter().filter_map(|gap| gap.split(' ').next());
    names
        .filter(|name| !row.contains(&format!("`{name}`")))
        .map(|name| format!("{PAGE} does not say that {kernel} lacks `{name}`"))
        .collect()
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

#[cfg(test)]
mod tests {
    use super::unnamed;

    #[test]
    fn what_a_kernel_lacks_stands_in_its_row() {
        let page = "| kernel | lacks |\n|---|---|\n| 6.1 | `tcx` |\n| 6.12 | |\n";
        let gap = ["tcx (none)".to_owned()];
        assert!(unnamed(page, "6.1", &gap).is_empty());
        assert!(unnamed(page, "6.12", &[]).is_empty());
        assert_eq!(unnamed(page, "6.12", &gap).len(), 1);
        assert_eq!(unnamed(page, "7.3", &[]).len(), 1);
    }
}
