//! What fuzzing the policy kept (`cargo xtask fuzz policy`), replayed; and what people write, by the same standard.
#![allow(clippy::expect_used, clippy::panic, reason = "a test says what must hold")]

#[path = "fuzzed/agree.rs"]
mod agree;

use std::{fs, path::Path};

use segd::policy;

/// Every file of a folder that is text, and how many of them are policies.
fn replay(folder: &str) -> (usize, usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let (mut all, mut policies) = (0, 0);
    for entry in fs::read_dir(&folder).expect("the folder") {
        let path = entry.expect("the folder").path();
        let Ok(bytes) = fs::read(&path) else { continue };
        if let Ok(text) = String::from_utf8(bytes) {
            all += 1;
            policies += usize::from(agree::agree(&text));
        }
    }
    (all, policies)
}

#[test]
fn whatever_fuzzing_kept_is_refused_or_judged_alike() {
    let (all, policies) = replay("fuzz/corpus/policy");
    assert!(all > 20, "{all} texts");
    assert!(
        policies > 2,
        "{policies} of {all} are policies: fuzzing never got past the parser"
    );
}

#[test]
fn samples_are_judged_alike_and_broken_policies_refused() {
    let (all, policies) = replay("../policies");
    assert!(all >= 5 && policies == all, "{policies} of {all} samples");
    let (all, policies) = replay("../tests/broken");
    assert!(all > 40 && policies == 0, "{policies} of {all} broken policies");
}
