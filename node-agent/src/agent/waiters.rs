//! Status requests that wait until the agent is in sync.
//!
//! Invariant: each is answered once: when everything that the source held at the
//! time of the request is in force, or when its time is up. This module must not
//! know how an answer is made.

use tokio::{sync::oneshot, time::Instant};

use crate::api::protocol::Response;

/// Where an answer goes.
pub type Reply = oneshot::Sender<Response>;

#[derive(Debug)]
struct Waiter {
    token: u64,
    rescanned: bool,
    deadline: Instant,
    reply: Reply,
}

/// Those who wait.
#[derive(Debug, Default)]
pub struct Waiters {
    waiting: Vec<Waiter>,
    last_token: u64,
}

impl Waiters {
    /// Adds one and gives the token with which the source is to be asked for a rescan.
    pub fn add(&mut self, deadline: Instant, reply: Reply) -> u64 {
        self.last_token += 1;
        self.waiting.push(Waiter { token: self.last_token, rescanned: false, deadline, reply });
        self.last_token
    }

    /// All that the source held when it was asked with this token has been taken in.
    pub fn rescanned(&mut self, token: u64) {
        self.waiting.iter_mut().filter(|waiter| waiter.token <= token).for_each(|waiter| waiter.rescanned = true);
    }

    /// When the next one's time is up.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.waiting.iter().map(|waiter| waiter.deadline).min()
    }

    /// Takes out those to answer now.
    pub fn due(&mut self, in_sync: bool, now: Instant) -> Vec<Reply> {
        // Whoever has hung up needs no answer.
        self.waiting.retain(|waiter| !waiter.reply.is_closed());
        let is_due = |waiter: &mut Waiter| (in_sync && waiter.rescanned) || waiter.deadline <= now;
        self.waiting.extract_if(.., is_due).map(|waiter| waiter.reply).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn answered_once_when_in_sync_or_too_late() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut waiters = Waiters::default();
        let (reply, _first) = oneshot::channel();
        let first = waiters.add(later, reply);
        let (reply, _second) = oneshot::channel();
        let second = waiters.add(later + Duration::from_secs(1), reply);
        let (reply, gone) = oneshot::channel();
        waiters.add(now, reply);
        drop(gone);

        assert_eq!(waiters.due(true, now).len(), 0, "in sync with what was before, perhaps not with what is");
        waiters.rescanned(first);
        assert_eq!(waiters.due(false, now).len(), 0);
        assert_eq!(waiters.due(true, now).len(), 1);
        assert_eq!(waiters.due(true, now).len(), 0);
        assert!(second > first);
        assert_eq!(waiters.due(false, waiters.next_deadline().unwrap()).len(), 1);
        assert_eq!(waiters.next_deadline(), None);
    }
}
