//! What XDP needs of the nodes' links, and when it runs.

use std::time::Duration;

use super::{Cluster, Node};
use crate::{sandbox::run, traffic::Place, wait};

/// How long the agent may take to follow what happens to an interface.
const PATIENCE: Duration = Duration::from_secs(5);

impl Cluster {
    /// XDP can send by the uplinks, since the other ends poll, and takes on what comes from outside, since
    /// its checksums are finished.
    ///
    /// # Panics
    /// If ethtool can't switch that.
    #[track_caller]
    pub fn let_xdp_send(&self) {
        for number in 1..=self.nodes().len() {
            let port = format!("uplink-{number}");
            run(self.outside().namespace().command("ethtool").args(["-K", &port, "gro", "on", "tx", "off"]), "");
        }
    }
}

impl Node {
    /// Waits until XDP runs on the uplink.
    ///
    /// # Panics
    /// If it doesn't, after some seconds.
    #[track_caller]
    pub fn wait_for_xdp(&self) {
        wait::until(&format!("XDP runs on {}", self.name()), PATIENCE, || {
            (self.cli_json(&["status"])["xdp"][0]["mode"] == "native").then_some(())
        });
    }
}
