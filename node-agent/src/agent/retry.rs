//! When to try again what failed.
//!
//! Invariant: the pauses grow while something fails, whatever else happens
//! meanwhile. This module must not know what is tried.

use std::time::Duration;

use tokio::time::Instant;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The next attempt, if one is due.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    pause: Duration,
    at: Option<Instant>,
    since: Option<Instant>,
}

impl Retry {
    /// Nothing has failed.
    pub const fn new() -> Self {
        Self { pause: FIRST_PAUSE, at: None, since: None }
    }

    /// All has been done.
    pub fn succeeded(&mut self) {
        *self = Self::new();
    }

    /// Something is left to do after an attempt at `now`.
    pub fn failed(&mut self, now: Instant) {
        self.since.get_or_insert(now);
        // An attempt before its time, because something changed, puts nothing off.
        if self.at.is_none_or(|at| at <= now) {
            self.at = Some(now + self.pause);
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// When to try again.
    pub fn at(&self) -> Option<Instant> {
        self.at
    }

    /// Since when something has been failing.
    pub fn since(&self) -> Option<Instant> {
        self.since
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_until_something_succeeds() {
        let began = Instant::now();
        let mut now = began;
        let mut retry = Retry::new();
        let mut pauses = Vec::new();
        for _ in 0..10 {
            retry.failed(now);
            let at = retry.at().unwrap();
            pauses.push((at - now).as_millis());
            retry.failed(now + (at - now) / 2);
            assert_eq!(retry.at(), Some(at), "a change in between puts nothing off");
            now = at;
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000]);
        assert_eq!(retry.since(), Some(began));
        retry.succeeded();
        assert_eq!((retry.at(), retry.since()), (None, None));
        retry.failed(now);
        assert_eq!(retry.at(), Some(now + FIRST_PAUSE));
    }
}
