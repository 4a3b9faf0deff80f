//! The packet walk beside the slow one: the first byte chooses the family, the rest is the packet.
#![no_main]
#![allow(clippy::expect_used, clippy::panic, reason = "a fuzz target says what must hold")]

#[path = "../../tests/walk/compare.rs"]
mod compare;
#[path = "../../tests/walk/slow.rs"]
mod slow;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let [family, packet @ ..] = bytes {
        compare::agree(packet, family & 1 == 1);
    }
});
