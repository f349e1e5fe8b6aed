//! Whether the agent is well, as `/healthz` and `/livez` tell it.
//!
//! The rules are kube-proxy's: alive while no change has waited longer than
//! [`PATIENCE`] to be in force; healthy if moreover the node is there to stay. Unlike
//! kube-proxy, an agent whose first lists are not in force yet is not healthy either. This module must not know HTTP.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

/// How long a change may wait, or the main loop be busy, before the agent is called dead.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What the main loop last said of itself.
#[derive(Clone, Copy, Debug)]
pub struct Vitals {
    /// When the main loop last went round.
    pub beat: Instant,
    /// Since when something waits to be in force, if something does.
    pub pending_since: Option<Instant>,
    /// The first list of every kind is in force.
    pub in_sync: bool,
    /// When changes were last put in force.
    pub applied_at: Option<Timestamp>,
    /// The Node is there, and neither being deleted nor marked for that by the autoscaler.
    pub node_eligible: bool,
}

impl Vitals {
    /// Those of an agent that has just begun.
    pub fn new() -> Self {
        Self { beat: Instant::now(), pending_since: None, in_sync: false, applied_at: None, node_eligible: true }
    }

    /// Whether restarting the agent could not make things better.
    pub fn is_alive(&self, now: Instant) -> bool {
        let recent = |since: Instant| now.duration_since(since) < PATIENCE;
        recent(self.beat) && self.pending_since.is_none_or(recent)
    }

    /// Whether what is in force is what the cluster wants, to all that is known.
    pub fn is_up_to_date(&self, now: Instant) -> bool {
        self.is_alive(now) && self.in_sync
    }
}

impl Default for Vitals {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alive_and_up_to_date() {
        let began = Instant::now();
        let late = began + PATIENCE;
        let synced = Vitals { beat: began, in_sync: true, ..Vitals::new() };
        let check = |vitals: Vitals, now, alive, up_to_date| {
            assert_eq!((vitals.is_alive(now), vitals.is_up_to_date(now)), (alive, up_to_date), "{vitals:?}");
        };
        check(synced, began, true, true);
        check(synced, late, false, false);
        check(Vitals { in_sync: false, ..synced }, began, true, false);
        check(Vitals { beat: late, pending_since: Some(late), ..synced }, late, true, true);
        check(Vitals { beat: late, pending_since: Some(began), ..synced }, late, false, false);
    }
}
