//! Fairlead as a whole: clusters in network namespaces, real programs, real sockets, and benchmarks.

pub mod bench;
