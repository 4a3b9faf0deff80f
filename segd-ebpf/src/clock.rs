//! The time, where a tick of the kernel (1 to 10 ms) does not matter: the kernel's clock is read once a tick and CPU.
//!
//! Reading it costs more than all else that is done for a known datagram; the count of ticks is a load (the verifier puts its
//! address into the program where it compiles for the machine).

use aya_ebpf::helpers::{bpf_jiffies64, bpf_ktime_get_ns};

use crate::maps::CLOCK;

/// The bits of a word that are the tick's: a CPU that asks again after a million ticks to the tick would find its old time new.
const TICK: u64 = (1 << 20) - 1;

/// Nanoseconds of the monotonic clock in steps of 2^20, as they were when this CPU first asked in the kernel's tick that is now: a tick
/// ago at most, but for a kernel whose ticks are late (a virtual machine that was not run).
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: no arguments.
    let tick = unsafe { bpf_jiffies64() } & TICK;
    let Some(kept) = CLOCK.get_ptr_mut(0) else {
        return exact();
    };
    // SAFETY: this CPU's element; volatile and one word, because another program may come between, whose time is as good.
    unsafe {
        let word = kept.read_volatile();
        if word & TICK == tick {
            return word ^ tick;
        }
        let time_ns = exact() & !TICK;
        kept.write_volatile(time_ns | tick);
        time_ns
    }
}

/// Nanoseconds of the monotonic clock.
#[inline(always)]
pub fn exact() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_ns() }
}
