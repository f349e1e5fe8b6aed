//! The agent: one loop that owns all state and ties the stages together.
//!
//! Invariant: whatever changes state happens in [`run::run`]'s task, so nothing
//! here is locked and nothing is done twice at a time.

#[expect(clippy::module_inception, reason = "it is the agent itself; the other files are its parts")]
pub mod agent;
pub mod config_file;
mod counted;
pub mod dataplane;
mod due;
pub mod flags;
pub mod foreign_pods;
pub mod handover;
pub mod health_checks;
pub mod host_ports;
pub mod host_routes;
pub mod http;
mod inspect;
pub mod install;
pub mod lock;
pub mod logging;
pub mod metrics;
mod monitor;
mod names;
pub mod networks;
pub mod node;
pub mod nodeport_addresses;
pub mod own_pods;
pub mod paths;
pub mod peer_routes;
pub mod pods;
mod policies;
mod policy_report;
pub mod problems;
mod proxy_metrics;
pub mod report;
pub mod reserved;
pub mod retry;
pub mod run;
pub mod services;
pub mod settings;
pub mod snat_ports;
mod steps;
pub mod uplinks;
pub mod vitals;
pub mod waiters;
mod wiring;
pub mod xdp;
