//! The agent: one loop that owns all state and ties the stages together.

pub mod config_file;
pub mod flags;
pub mod http;
pub mod install;
pub mod lock;
pub mod logging;
pub mod metrics;
pub mod paths;
pub mod vitals;
