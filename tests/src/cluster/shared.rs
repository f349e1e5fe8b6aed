//! Clusters of one node that the tests of a binary share: bringing one up costs more than most tests.
//!
//! They live in statics, so the reaper removes them. Tests on them must not disturb one another: each
//! has pods and Services of its own.

use std::{sync::LazyLock, thread};

use super::Cluster;
use crate::traffic::Place;

/// How Services are balanced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balancing {
    /// Where the socket hooks can: at connect().
    AtSockets,
    /// Everything per packet, `--socket-lb=false`.
    PerPacket,
}

/// The cluster that this binary's tests share.
#[track_caller]
pub fn shared(balancing: Balancing) -> &'static Cluster {
    static AT_SOCKETS: LazyLock<Cluster> = LazyLock::new(|| Cluster::of_one(&[]));
    static PER_PACKET: LazyLock<Cluster> = LazyLock::new(|| Cluster::of_one(&["--socket-lb=false"]));
    match balancing {
        Balancing::AtSockets => &AT_SOCKETS,
        Balancing::PerPacket => &PER_PACKET,
    }
}

/// Prints each node's status and its agent's log if the thread that has it panics.
#[derive(Debug)]
pub struct LogOnFailure<'a>(pub &'a Cluster);

impl Drop for LogOnFailure<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            for node in self.0.nodes() {
                let status = node.cli(&["status"]);
                eprintln!("--- {}'s status:\n{}", node.name(), String::from_utf8_lossy(&status.stdout));
                eprintln!("--- its agent's log:\n{}", node.log());
            }
        }
    }
}

/// Makes each of the functions, which take a `&Cluster`, into two tests: on a cluster that balances
/// at the sockets, and on one that balances every packet.
#[macro_export]
macro_rules! on_both_paths {
    ($($name:ident),+ $(,)?) => {$(
        mod $name {
            use $crate::cluster::{Balancing, LogOnFailure, shared};

            #[test]
            fn at_sockets() {
                let cluster = shared(Balancing::AtSockets);
                let _log = LogOnFailure(cluster);
                super::$name(cluster);
            }

            #[test]
            fn per_packet() {
                let cluster = shared(Balancing::PerPacket);
                let _log = LogOnFailure(cluster);
                super::$name(cluster);
            }
        }
    )+};
}
