//! Debian's bandwidth plugin behind ours, and what runtimes ask of it.

use serde_json::{Value, json};

use super::Node;

impl Node {
    /// Has runtimes call the bandwidth plugin after ours.
    ///
    /// # Panics
    /// If it isn't there, or can't be configured.
    #[track_caller]
    pub fn chain_bandwidth(&self) {
        self.add_plugin("bandwidth");
        self.use_conflist(&json!({
            // The newest version that Debian's plugin speaks.
            "cniVersion": "1.0.0",
            "name": "chained",
            "plugins": [
                { "type": "fairlead", "runDir": self.run_dir(), "capabilities": { "portMappings": true } },
                { "type": "bandwidth", "capabilities": { "bandwidth": true } },
            ],
        }));
    }
}

/// What a runtime asks for with a pod whose traffic is shaped, but not slowed down.
pub fn ample_bandwidth() -> (&'static str, Value) {
    let [rate, burst] = [1_000_000_000, 100_000_000];
    ("bandwidth", json!({"ingressRate": rate, "ingressBurst": burst, "egressRate": rate, "egressBurst": burst}))
}
