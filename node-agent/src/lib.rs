//! Fairlead's agent, CNI plugin and CLI.

pub mod agent;
pub mod api;
pub mod cli;
pub mod cni;
pub mod compile;
pub mod inspect;
pub mod kernel;
pub mod model;
pub mod plan;
pub mod policy;
pub mod routing;
pub mod source;
pub mod upgrade;
