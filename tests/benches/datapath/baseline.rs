//! Figures that do not depend on the machine's mood, compared with those the repository keeps: how many instructions the
//! kernel programs have. They depend on the kernel, so it keeps them by kernel.

use std::{collections::BTreeMap, fs, io, path::PathBuf};

use super::{Run, bpf::Program, machine::Machine};

/// A program may grow by so much, in percent and instructions, before the comparison fails.
const TOLERANCE_PERCENT: u32 = 3;
const TOLERANCE: u32 = 16;

type Kept = BTreeMap<String, Vec<Program>>;

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/datapath/baseline.json")
}

/// Compares, or keeps. `Ok(false)`: something grew.
pub fn compare(run: &mut Run, machine: &Machine, keep: bool) -> io::Result<bool> {
    let mut kept: Kept = match fs::read_to_string(path()) {
        Ok(text) => serde_json::from_str(&text).map_err(io::Error::other)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Kept::new(),
        Err(error) => return Err(error),
    };
    let kernel = machine.series();
    if keep {
        let programs = run
            .programs
            .iter()
            .cloned()
            .map(|program| Program { id: 0, ..program });
        kept.insert(kernel, programs.collect());
        fs::write(
            path(),
            serde_json::to_string_pretty(&kept).map_err(io::Error::other)? + "\n",
        )?;
        return Ok(true);
    }
    let Some(before) = kept.get(&kernel) else {
        let remark = format!("no instruction counts are kept for Linux {kernel}: `--keep` does that");
        run.remarks.push(remark);
        return Ok(true);
    };
    let grown = grown(before, &run.programs);
    run.remarks.extend(grown.iter().cloned());
    for line in &grown {
        eprintln!("grown: {line}");
    }
    Ok(grown.is_empty())
}

/// What grew beyond the tolerance, as lines.
fn grown(before: &[Program], now: &[Program]) -> Vec<String> {
    let mut lines = Vec::new();
    for program in now {
        let Some(before) = before.iter().find(|before| before.name == program.name) else {
            lines.push(format!(
                "`{}` is new: `--keep` keeps its instruction counts",
                program.name
            ));
            continue;
        };
        // Machine code depends on the processor and its mitigations, too: it is kept, and not compared.
        let counts = [
            ("instructions", before.translated, program.translated),
            ("instructions verified", before.verified, program.verified),
        ];
        for (what, before, now) in counts {
            if now > before + before * TOLERANCE_PERCENT / 100 + TOLERANCE {
                lines.push(format!("`{}`: {now} {what}, {before} before", program.name));
            }
        }
    }
    lines
}
