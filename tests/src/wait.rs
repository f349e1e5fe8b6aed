//! Waiting for a condition, rather than for a time.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How often a condition is looked at.
const PAUSE: Duration = Duration::from_millis(5);

/// Waits until `condition` gives something; nothing if it doesn't within `limit`.
pub fn poll<T>(limit: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        let found = condition();
        if found.is_some() || Instant::now() > end {
            return found;
        }
        thread::sleep(PAUSE);
    }
}

/// Waits until `condition` gives something.
///
/// # Panics
/// If it doesn't within `limit`; the message says what was waited for.
#[track_caller]
pub fn until<T>(what: &str, limit: Duration, condition: impl FnMut() -> Option<T>) -> T {
    poll(limit, condition).unwrap_or_else(|| panic!("{what}: not within {limit:?}"))
}
