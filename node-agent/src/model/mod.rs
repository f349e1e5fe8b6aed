//! What the cluster says now.
//!
//! Invariant: pure data and indexes. Nothing here does I/O or knows which source
//! speaks; the same objects in any order, split or repeated in any way, give the
//! same model.

pub mod change;
mod cluster;
pub mod cluster_network_policy;
mod dirty;
pub mod network_policy;
pub mod objects;
mod words;

pub use cluster::Model;
pub use dirty::Dirty;
