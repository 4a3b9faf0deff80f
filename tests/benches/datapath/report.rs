//! The report: tables of figures, the goals, a chart for each table; as Markdown, JSON and SVG.

pub mod chart;

use std::{fmt::Write as _, fs, io, path::Path};

use serde::Serialize;

use super::{machine::Machine, statistics::Estimate};

/// One row: a name and its figures, one for each column.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// The figures; `None`: not measured.
    pub cells: Vec<Option<Estimate>>,
}

/// One table.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    /// A word for files.
    pub id: String,
    /// The heading.
    pub title: String,
    /// What a reader must know to read it.
    pub note: String,
    /// What the figures are.
    pub columns: Vec<String>,
    /// The rows.
    pub rows: Vec<Row>,
    /// Which column the chart shows.
    pub charted: usize,
}

impl Table {
    /// An empty one.
    pub fn new(
        id: &str,
        title: impl Into<String>,
        note: impl Into<String>,
        columns: &[&str],
        charted: usize,
    ) -> Table {
        Table {
            id: id.to_owned(),
            title: title.into(),
            note: note.into(),
            columns: columns.iter().map(|&column| column.to_owned()).collect(),
            rows: Vec::new(),
            charted,
        }
    }

    /// One more row.
    pub fn row(&mut self, name: impl Into<String>, cells: &[Option<Estimate>]) {
        self.rows.push(Row {
            name: name.into(),
            cells: cells.to_vec(),
        });
    }
}

/// What a goal asks.
#[derive(Clone, Copy, Debug, Serialize)]
pub enum Bound {
    /// The interval's upper bound must not exceed it.
    AtMost(f64),
    /// The interval's lower bound must reach it.
    AtLeast(f64),
}

/// A goal and what was reached.
#[derive(Clone, Debug, Serialize)]
pub struct Goal {
    /// What.
    pub figure: String,
    /// How much.
    pub bound: Bound,
    /// What was reached; `None`: not measured.
    pub reached: Option<Estimate>,
    /// Why it was not measured, or of what the figure is.
    pub note: String,
    /// The goal is about more rules than segd takes: it can be missed with fewer, and not met.
    pub short: bool,
}

impl Goal {
    /// `met`, `missed`, or `not measured`; that too where it would be met with fewer rules than the goal is about.
    pub fn verdict(&self) -> &'static str {
        let Some(reached) = self.reached.filter(|reached| reached.value.is_finite()) else {
            return "not measured";
        };
        let met = match self.bound {
            Bound::AtMost(bound) => reached.high <= bound,
            Bound::AtLeast(bound) => reached.low >= bound,
        };
        match (met, self.short) {
            (true, false) => "met",
            (true, true) => "not measured",
            (false, _) => "missed",
        }
    }

    fn asks(&self) -> String {
        match self.bound {
            Bound::AtMost(bound) => format!("≤ {bound}"),
            Bound::AtLeast(bound) => format!("≥ {bound}"),
        }
    }
}

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// When it began.
    pub date: String,
    /// The seed of every order and resample.
    pub seed: u64,
    /// What it was told.
    pub options: String,
    /// Of which segd.
    pub segd: String,
    /// The machine.
    pub machine: Machine,
    /// The goals.
    pub goals: Vec<Goal>,
    /// The tables.
    pub tables: Vec<Table>,
    /// What could not be done, or did not hold.
    pub remarks: Vec<String>,
}

impl Report {
    /// Writes `report.md`, `report.json` and the charts into a directory.
    pub fn write(&self, directory: &Path) -> io::Result<()> {
        fs::create_dir_all(directory)?;
        for table in &self.tables {
            fs::write(directory.join(format!("{}.svg", table.id)), chart::bars(table))?;
        }
        fs::write(directory.join("report.md"), self.markdown())?;
        let json = serde_json::to_string_pretty(self).map_err(io::Error::other)?;
        fs::write(directory.join("report.json"), json + "\n")
    }

    /// The text.
    pub fn markdown(&self) -> String {
        let mut out = format!(
            "# What segd costs\n\n{}, seed {}, `{}`, {}\n\n\
             Ratios between arms that ran within one round, medians with bootstrap 95 % intervals. \
             Times are CPU time of the arm's process; they are this machine's and carry over as ratios only.\n\n\
             ## Machine\n\n| | |\n|---|---|\n",
            self.date, self.seed, self.options, self.segd
        );
        for (name, value) in self.machine.lines() {
            let _ = writeln!(out, "| {name} | {value} |");
        }
        out += "\n## Goals\n\n| figure | goal | reached | | |\n|---|---|---|---|---|\n";
        for goal in &self.goals {
            let reached = goal
                .reached
                .map_or_else(|| "–".to_owned(), |reached| reached.to_string());
            let (asks, verdict) = (goal.asks(), goal.verdict());
            let _ = writeln!(
                out,
                "| {} | {asks} | {reached} | **{verdict}** | {} |",
                goal.figure, goal.note
            );
        }
        for table in &self.tables {
            let _ = write!(out, "\n## {}\n\n{}\n\n| |", table.title, table.note);
            for column in &table.columns {
                let _ = write!(out, " {column} |");
            }
            let _ = write!(out, "\n|---|{}\n", "---|".repeat(table.columns.len()));
            for row in &table.rows {
                let _ = write!(out, "| {} |", row.name);
                for cell in &row.cells {
                    let cell = cell.map_or_else(|| "–".to_owned(), |cell| cell.to_string());
                    let _ = write!(out, " {cell} |");
                }
                out.push('\n');
            }
            let _ = writeln!(out, "\n![{}]({}.svg)", table.title, table.id);
        }
        if !self.remarks.is_empty() {
            out += "\n## Remarks\n\n";
            for remark in &self.remarks {
                let _ = writeln!(out, "- {remark}");
            }
        }
        out
    }
}
