//! How `segd doctor` answers.

use serde::Serialize;

use super::{Table, clean, columns};
use crate::doctor::{Finding, State, worst};

/// The answer: `segd doctor -o json`.
#[derive(Clone, Debug, Serialize)]
pub struct Diagnosis {
    /// The worst state of all checks.
    pub state: &'static str,
    /// The checks.
    pub checks: Vec<Check>,
}

/// One check.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// Its name.
    pub name: String,
    /// `ok`, `unknown`, `degraded` or `missing`.
    pub state: &'static str,
    /// What was found.
    pub found: String,
    /// What that costs.
    pub cost: Option<String>,
    /// What to do about it.
    pub help: Option<String>,
}

impl From<&[Finding]> for Diagnosis {
    fn from(findings: &[Finding]) -> Diagnosis {
        Diagnosis {
            state: worst(findings).label(),
            checks: findings
                .iter()
                .map(|finding| Check {
                    name: finding.name.clone(),
                    state: finding.state.label(),
                    found: finding.found.clone(),
                    cost: finding.cost.clone(),
                    help: finding.help.clone(),
                })
                .collect(),
        }
    }
}

impl Table for Diagnosis {
    fn table(&self) -> String {
        let rows: Vec<_> = self
            .checks
            .iter()
            .map(|check| {
                let state = match check.state {
                    "missing" => "MISSING",
                    other => other,
                };
                vec![check.name.clone(), state.to_owned(), check.found.clone()]
            })
            .collect();
        let mut text = columns(&["CHECK", "STATE", "FOUND"], &rows);
        for check in &self.checks {
            if let Some(cost) = &check.cost {
                text.push_str(&format!("\n{} costs: {}\n", check.name, clean(cost)));
            }
            if let Some(help) = &check.help {
                text.push_str(&format!("help: {}\n", clean(help)));
            }
        }
        if self
            .checks
            .iter()
            .any(|check| check.state == State::Unknown.label())
        {
            text.push_str("\nhelp: run `segd doctor` as root to know all\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_price_below_the_table() {
        let findings = [
            Finding::ok("bpffs", "it is there"),
            Finding::degraded("jit", "it is off", "it is slow").help("turn it on"),
        ];
        let diagnosis = Diagnosis::from(&findings[..]);
        assert_eq!(
            diagnosis.table(),
            "CHECK  STATE     FOUND\nbpffs  ok        it is there\njit    degraded  it is off\n\n\
             jit costs: it is slow\nhelp: turn it on\n"
        );
        assert_eq!(
            serde_json::to_value(&diagnosis).unwrap()["checks"][0],
            serde_json::json!({"name": "bpffs", "state": "ok", "found": "it is there", "cost": null, "help": null})
        );
    }
}
