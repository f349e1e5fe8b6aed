//! What the cluster says now.

pub mod change;
pub mod objects;
