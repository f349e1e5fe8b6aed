//! The cases: each measures one thing and says what is asked of it.

mod between_nodes;
mod change;
mod churn;
mod cold_start;
mod connections;
mod forwarding;
mod joining;
mod latency;
mod monitoring;
mod policies;
mod programs;
mod stream;
mod xdp;

use anyhow::Result;

use super::{Context, figure::Section};

/// A benchmark.
pub struct Case {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it measures.
    pub about: &'static str,
    /// Measures.
    pub run: fn(&mut Context) -> Result<Vec<Section>>,
}

impl Case {
    /// Whether a name on the command line means this case: its own, or that of its family.
    pub fn is(&self, name: &str) -> bool {
        self.name.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }
}

/// All cases, in the order in which they run: those of one number of Services together.
pub const CASES: &[Case] = &[
    Case {
        name: "connections-10",
        about: "a TCP connection per request at 10 Services",
        run: |context| connections::run(context, "connections-10", 10),
    },
    Case { name: "latency-tcp", about: "request-response over one TCP connection", run: latency::tcp },
    Case { name: "latency-udp", about: "request-response over one UDP socket", run: latency::udp },
    Case { name: "stream", about: "iperf3 TCP, one stream", run: stream::run },
    Case { name: "between-nodes", about: "connections and a stream to a pod of another node", run: between_nodes::run },
    Case {
        name: "policies",
        about: "connections and a stream of a pod that 1,000 policies select and allow",
        run: policies::run,
    },
    Case {
        name: "policies-scale",
        about: "1,000 policies over 200 pods of the node and 20,000 others",
        run: policies::run_at_scale,
    },
    Case { name: "joining", about: "1,000 other nodes, and one more that joins", run: joining::run },
    Case { name: "monitoring", about: "what it costs that somebody listens", run: monitoring::run },
    Case { name: "programs", about: "cost per packet and size of each eBPF program", run: programs::run },
    Case { name: "xdp", about: "cost per packet at XDP", run: xdp::run },
    Case {
        name: "nodeport-10",
        about: "a TCP connection per request from outside at 10 Services",
        run: |context| connections::run_outside(context, "nodeport-10", 10, 1.2),
    },
    Case {
        name: "nodeport-packets",
        about: "packets per second through a NodePort to a backend elsewhere",
        run: forwarding::run,
    },
    Case {
        name: "nodeport-10000",
        about: "a TCP connection per request from outside at 10,000 Services",
        run: |context| connections::run_outside(context, "nodeport-10000", 10_000, 3.0),
    },
    Case {
        name: "connections-10000",
        about: "a TCP connection per request at 10,000 Services",
        run: |context| connections::run(context, "connections-10000", 10_000),
    },
    Case { name: "churn", about: "1,000 endpoint changes a second under load at 10,000 Services", run: churn::run },
    Case {
        name: "cold-start",
        about: "10,000 Services from nothing to in force, and the agent's memory",
        run: cold_start::run,
    },
    Case { name: "change", about: "one endpoint change in force at 10,000 Services", run: change::run },
];
