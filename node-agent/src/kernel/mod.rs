//! The only place that touches the kernel: eBPF programs and tables, their pins
//! and attachments, network devices, namespaces, settings.
//!
//! Invariant: whatever outlives the agent can be recognised as ours by the next
//! one; each module says how. It must not know Kubernetes, nor decide anything.

mod attributes;
mod mapped;
mod plain;
mod raw_map;
mod readers;
mod sys;

pub mod bpffs;
pub mod cgroup;
pub mod clock;
pub mod connections;
pub mod counters;
pub mod event_tables;
pub mod flow_table;
pub mod heritage;
pub mod links;
pub mod live_tables;
pub mod map;
pub mod memory;
pub mod netdev;
pub mod netfilter;
pub mod netlink;
pub mod netns;
pub mod node_tables;
pub mod pod_tables;
pub mod policy_tables;
pub mod programs;
pub mod service_tables;
pub mod socket_memory;
pub mod sysctl;
pub mod table_stats;
