//! A text through the whole of `policy`: answered with diagnostics, or compiled to what the oracle says too.
//!
//! The folder is built in by its path and not as the crate `segd`, whose build script would build the kernel programs.
#![no_main]
#![allow(dead_code, reason = "the folder has more than a fuzz target uses")]
#![allow(clippy::expect_used, clippy::panic, reason = "a fuzz target says what must hold")]

#[path = "../../src"]
mod src {
    pub mod policy;
}
#[path = "../../tests/fuzzed/agree.rs"]
mod agree;

use src::policy;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        agree::agree(text);
    }
});
