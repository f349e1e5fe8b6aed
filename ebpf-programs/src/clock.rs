//! The time, for which the kernel is asked once a tick: to ask costs as much as a look-up.
//!
//! Invariant: what is returned was the coarse monotonic clock's time when this tick was
//! first met, so it is late by no more than that clock already is.

use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_coarse_ns};

use crate::maps;

/// When a CPU last asked.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Asked {
    /// The kernel's tick then.
    tick: u64,
    /// Monotonic nanoseconds then.
    nanos: u64,
}

/// The number of the kernel's tick.
#[inline(always)]
pub fn tick() -> u64 {
    // SAFETY: the helper takes nothing and touches no memory. The kernel replaces the call by a load.
    unsafe { bpf_jiffies64() }
}

/// Monotonic nanoseconds.
#[inline(always)]
pub fn now() -> u64 {
    let tick = tick();
    let Some(asked) = maps::CLOCK.get_ptr_mut(0) else { return ask() };
    // SAFETY: the map gave a valid pointer to memory of this CPU's own. A program that interrupts
    // this one leaves a time of the same tick or of a later one; if the tick's number is then
    // that of an earlier one, the next call asks again.
    let asked = unsafe { &mut *asked };
    if asked.tick != tick {
        asked.nanos = ask();
        asked.tick = tick;
    }
    asked.nanos
}

#[inline(always)]
fn ask() -> u64 {
    // SAFETY: the helper takes nothing and touches no memory.
    unsafe { bpf_ktime_get_coarse_ns() }
}
