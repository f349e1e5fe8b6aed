//! The clock by which the programs note when something happened.

use nix::time::{ClockId, clock_gettime};

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Monotonic nanoseconds, as the programs read them.
pub fn nanos() -> u64 {
    // The clock is always there, and never negative.
    clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE)
        .map_or(0, |time| time.tv_sec() as u64 * NANOS_PER_SECOND + time.tv_nsec() as u64)
}

/// Monotonic seconds, likewise.
pub fn seconds() -> u32 {
    (nanos() / NANOS_PER_SECOND) as u32
}
