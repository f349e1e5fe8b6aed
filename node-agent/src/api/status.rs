//! How the agent is doing, as `fairlead status` shows it.
//!
//! This module must not know where any of it comes from.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The agent's account of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusReport {
    /// The agent's version.
    pub version: String,
    /// `uname -r`.
    pub kernel: String,
    /// The layout of its tables: agents of the same one take over each other's.
    #[serde(default)]
    pub table_layout: String,
    /// What the kernel and the flags give, by name: `yes`, or `no` and why.
    #[serde(default)]
    pub features: BTreeMap<String, String>,
    /// The Node that it runs.
    pub node: String,
    /// Where objects come from: `kube`, or `dir:PATH`.
    pub source: String,
    /// `--load-balancer-mode`: `snat` or `dsr`.
    #[serde(default)]
    pub load_balancer_mode: String,
    /// Whether everything the source says is in force.
    pub in_sync: bool,
    /// Why not, if it isn't.
    pub waiting_for: Vec<String>,
    /// The newest resourceVersion in force of each watched kind; empty for a
    /// source without such.
    pub applied: BTreeMap<String, String>,
    /// How many there are of each thing, by name: `services`, `pods`.
    pub counts: BTreeMap<String, u64>,
    /// How full each table is.
    pub tables: Vec<TableReport>,
    /// Packets dropped since the tables were made, by reason; those that never happened too.
    pub drops: BTreeMap<String, u64>,
    /// Flows that made room for later ones since the tables were made, because nobody had opened them.
    #[serde(default)]
    pub unopened_flows: u64,
    /// Where programs of ours are: `cgroup-connect4`, `tcx-7-ingress`.
    pub hooks: Vec<String>,
    /// XDP on each uplink.
    pub xdp: Vec<XdpReport>,
    /// What was taken over from kube-proxy, if there was or is one.
    #[serde(default)]
    pub handover: Option<HandoverReport>,
    /// What is wrong at the moment; at most [`MAX_PROBLEMS`].
    pub problems: Vec<StatusProblem>,
    /// How many more problems there are.
    pub more_problems: u64,
}

/// What was taken over from kube-proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HandoverReport {
    /// Its rules are on the node.
    pub rules: bool,
    /// Connections that it had begun and that go on as flows of ours, since the agent was started.
    pub taken: u64,
    /// Connections that netfilter translates until they end.
    pub left: u64,
}

/// XDP on an uplink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct XdpReport {
    /// The interface.
    pub interface: String,
    /// `native`, `generic` or `off`.
    pub mode: String,
    /// Why it is off or does not do all that it could; else empty.
    pub reason: String,
}

/// How many problems a report carries.
pub const MAX_PROBLEMS: usize = 1000;

/// How full a table is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TableReport {
    /// Its name.
    pub name: String,
    /// Entries in it.
    pub entries: u64,
    /// Entries that it can hold.
    pub capacity: u64,
}

/// Something that is wrong though the agent goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusProblem {
    /// A file, an object, a table.
    pub subject: String,
    /// What is wrong with it.
    pub message: String,
}
