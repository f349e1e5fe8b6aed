//! Pods' interfaces by CNI: the plugin, and the agent's half of it.
//!
//! The agent decides ([`ipam`]), remembers ([`store`]) and connects
//! ([`service`]); the [`plugin`] is another process, started by the container
//! runtime, which makes the interface. This module must not know eBPF or the
//! Kubernetes API.

pub mod attachment;
pub mod ipam;
pub mod mac;
pub mod plugin;
pub mod service;
pub mod store;
