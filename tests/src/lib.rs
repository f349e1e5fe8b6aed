//! Clusters in network namespaces, the real agent in them, and real traffic through it.
//!
//! A test reads: this cluster, these pods, these objects, this traffic, this outcome. Whatever a
//! test makes carries the process's id in its name and is gone when the process is, however it ends.
//! The harness panics where it can't go on: its callers are tests.
//!
//! It must not know how Fairlead works inside: it drives the binary, as a cluster would. [`packets`]
//! alone knows the datapath: a table of packets for its host build and for the kernel programs.

pub mod bench;
pub mod cluster;
pub mod conformance;
pub mod demo;
pub mod manifest;
pub mod packets;
pub mod policed;
pub mod privilege;
pub mod sandbox;
pub mod statistics;
pub mod traffic;
pub mod wait;
