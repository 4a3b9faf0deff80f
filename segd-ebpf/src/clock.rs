//! The time, where a tick of the kernel (1 to 10 ms) does not matter: the kernel's clock is read once a tick and CPU.
//!
//! Reading it costs more than all else that is done for a known datagram; the count of ticks is a load (the verifier puts its
//! address into the program where it compiles for the machine).

use aya_ebpf::helpers::{bpf_jiffies64, bpf_ktime_get_ns};

use crate::maps::CLOCK;

/// A moment, and the tick that it was read in.
#[repr(C)]
pub struct Tick {
    number: u64,
    time_ns: u64,
}

/// Nanoseconds of the monotonic clock, at most a tick old. Never less than before on the same CPU; another's may be ahead by a
/// tick.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: no arguments.
    let number = unsafe { bpf_jiffies64() };
    let Some(tick) = CLOCK.get_ptr_mut(0) else {
        return exact();
    };
    // SAFETY: this CPU's element; volatile, because an interrupt's program may write between two words. Whatever it interrupts,
    // the time is written before its tick, so with the tick that is now stands a time that is no older than it.
    unsafe {
        if (&raw const (*tick).number).read_volatile() == number {
            return (&raw const (*tick).time_ns).read_volatile();
        }
        let time_ns = exact();
        (&raw mut (*tick).time_ns).write_volatile(time_ns);
        (&raw mut (*tick).number).write_volatile(number);
        time_ns
    }
}

/// Nanoseconds of the monotonic clock.
#[inline(always)]
pub fn exact() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_ns() }
}
