//! The tables' layout and every per-packet decision of Fairlead.
//!
//! What is decided here is decided once: the kernel programs instantiate this
//! crate over BPF maps, the tests and `fairlead why` over tables in memory.
//!
//! It must not know: BPF, aya, system calls, clocks, randomness, Kubernetes.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(any(test, feature = "memory"))]
extern crate std;

pub mod abi;
pub mod destination;
pub mod event;
pub mod handover;
pub mod masquerade;
#[cfg(any(test, feature = "memory"))]
pub mod memory;
pub mod met;
pub mod packet;
pub mod paths;
pub mod policy;
pub mod select;
pub mod socket;
pub mod tables;
pub mod track;
