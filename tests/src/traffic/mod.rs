//! Real sockets in pods, on nodes and outside: servers that say who they are, clients that say what
//! became of each request.
//!
//! The sockets live in the program `traffic`, since a thread can't be in another cgroup than its
//! process, and the cgroup is what the socket hooks go by. The rest of this module starts it.

mod answer;
mod client;
mod crowd;
mod dial;
mod forge;
mod load;
mod program;
mod sctp;
mod server;
mod socket;

pub use answer::{Answer, Attempt, LoadReport, Outcome};
pub use client::{Attempts, Dial, Load, Session, forge};
pub use crowd::Crowd;
pub use program::main;
pub use server::Server;

use std::{fmt, process::Command, str::FromStr};

use crate::sandbox;

/// Somewhere that a process can run: a pod, a node, the outside.
pub trait Place {
    /// What it is called; servers answer with it.
    fn name(&self) -> &str;

    /// A command that runs a program there, in the right network namespace and cgroup.
    fn command(&self, program: &str) -> Command;
}

/// A transport that has sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP, as far as the traffic program speaks it.
    Sctp,
}

impl Transport {
    /// As manifests write it.
    pub fn manifest_name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

impl FromStr for Transport {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "sctp" => Ok(Self::Sctp),
            _ => Err(format!("{text} is neither tcp nor udp")),
        }
    }
}

/// Client and server on this transport, as they run in a pod, are told apart by what they do with
/// their socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// A new socket for each request.
    #[default]
    Fresh,
    /// One connected socket for all requests.
    Kept,
    /// One UDP socket that is never connected: each datagram is addressed.
    Addressed,
}

impl fmt::Display for Style {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fresh => "fresh",
            Self::Kept => "kept",
            Self::Addressed => "addressed",
        })
    }
}

impl FromStr for Style {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "fresh" => Ok(Self::Fresh),
            "kept" => Ok(Self::Kept),
            "addressed" => Ok(Self::Addressed),
            _ => Err(format!("{text} is neither fresh, kept nor addressed")),
        }
    }
}

/// The program's path, as text for a command line.
pub(crate) fn program_path() -> String {
    sandbox::program("traffic").display().to_string()
}
