//! kube-proxy's cases as real traffic: each case's objects are put in force by a real agent, and each
//! of its packets is sent by a real client.
//!
//! The file's addresses are kept but for the node's primary ones, which are those of a node of the
//! harness. What is local to the node is a pod there; all other endpoints are addresses of a host
//! that the node has routes to.

mod cases;
mod probe;
mod stage;

pub use cases::{Case, Expect, From, Packet, Step, read};
pub use probe::probe;
pub use stage::{Pods, Stage};
