//! The variants that are compared, by name.

use clap::ValueEnum;

/// A way for clients to reach pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Variant {
    /// Clients dial pods directly, the kernel routes, there is no netfilter rule.
    Direct,
    /// Clients dial Services of kube-proxy's iptables rules.
    Iptables,
    /// Clients dial Services of kube-proxy's nftables rules.
    Nftables,
    /// Clients dial Services of Fairlead.
    Fairlead,
}

impl Variant {
    /// As in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
            Self::Fairlead => "fairlead",
        }
    }
}

/// Where the client of a measurement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It is a pod of the node, and dials ClusterIPs.
    Pod,
    /// It is a host on the node's uplink, and dials NodePorts.
    Outside,
}

/// Where the two ends of a measurement run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Cores {
    /// Both on one core: the figure is the whole cost of a request, and no
    /// waking of an idle core, dear in a virtual machine, is part of it.
    Shared,
    /// The client on one, the server on another.
    Split,
}

impl Cores {
    /// The client's core.
    pub fn client(self) -> usize {
        0
    }

    /// The server's core.
    pub fn server(self) -> usize {
        match self {
            Self::Shared => 0,
            Self::Split => 1,
        }
    }
}
