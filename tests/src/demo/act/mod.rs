//! What the demo shows, one act after the other, each on the same cluster.
//!
//! An act sends real traffic, and gives what it saw and whether it is as it should be. It panics, as
//! the harness does, where it can't go on. A new act is a new entry of [`ACTS`].

mod affinity;
mod balance;
mod families;
mod leaving;
mod load;
mod outside;
mod refusal;
mod throughput;

use super::{screen::Screen, stage::Stage};

/// One part of the demo.
pub struct Act {
    /// What it does, for those who wait.
    pub about: &'static str,
    /// Does it.
    pub play: fn(&mut Stage, &Screen) -> Scene,
}

/// All of them, in the order in which they are played.
pub const ACTS: &[Act] = &[
    Act { about: "connections and queries through Services", play: balance::play },
    Act { about: "session affinity", play: affinity::play },
    Act { about: "both families", play: families::play },
    Act { about: "clients outside the cluster", play: outside::play },
    Act { about: "pods that dial the world", play: leaving::play },
    Act { about: "iperf3 on a node and between nodes", play: throughput::play },
    Act { about: "what must be refused", play: refusal::play },
    Act { about: "changes and a killed agent under load", play: load::play },
];

/// What an act saw.
#[derive(Debug, Default)]
pub struct Scene {
    /// The lines that show it.
    pub lines: Vec<String>,
    /// Whether it is as it should be.
    pub checks: Vec<Check>,
}

impl Scene {
    /// One more check, and what it found.
    fn check(&mut self, name: &'static str, passed: bool, found: impl Into<String>) {
        self.checks.push(Check { name, passed, found: found.into() });
    }
}

/// Something that must be so.
#[derive(Debug)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// Whether it is.
    pub passed: bool,
    /// What was found, in a few words; all that is known if it isn't.
    pub found: String,
}
