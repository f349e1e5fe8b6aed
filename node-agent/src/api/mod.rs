//! The agent's Unix socket: how the CNI plugin and the CLI talk to the agent.
//!
//! One request and one response a line, each a JSON object with the protocol's
//! version. This module must not know what the requests do.

pub mod client;
pub mod cni;
pub mod flows;
pub mod monitor;
pub mod policy;
pub mod protocol;
pub mod server;
pub mod services;
pub mod status;
pub mod why;

use std::path::{Path, PathBuf};

/// Where the agent that owns a run directory listens.
pub fn socket_path(run_dir: &Path) -> PathBuf {
    run_dir.join("agent.sock")
}
