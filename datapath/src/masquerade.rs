//! Whose address a backend sees: the client's own, or one to which its answers
//! come back here.
//!
//! Invariant: what is hidden and what isn't is as with kube-proxy's iptables rules.
//! This module must not know how ports are found or packets rewritten.

use crate::{
    abi::{Addr, FrontendValue, NetworkValue, NodeConfig},
    destination,
    packet::headers::Headers,
    select::Scope,
    tables::Tables,
};

/// Where a packet is met: who sends it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// A pod of this node.
    Pod,
    /// A process of the node itself.
    Node,
    /// The wire, or the overlay.
    Network,
}

impl Sender {
    /// Who the client is whose packet this sender sends on.
    #[inline(always)]
    pub fn client<T: Tables>(self, tables: &T, src: &Addr) -> Client {
        match self {
            Self::Pod => Client::Pod,
            Self::Node => Client::Node,
            Self::Network => match tables.network_kind(src) {
                NetworkValue::PODS => Client::Pod,
                NetworkValue::NODE => Client::Node,
                _ => Client::Outside,
            },
        }
    }
}

/// Who a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// A pod, of whatever node.
    Pod,
    /// This node itself.
    Node,
    /// Anybody else; other nodes too.
    Outside,
}

impl Client {
    /// Whose traffic policy counts. A ClusterIP knows no other than the internal one.
    #[inline(always)]
    pub const fn scope(self, frontend: &FrontendValue) -> Scope {
        match self {
            Self::Outside if frontend.flags & FrontendValue::EXTERNAL != 0 => Scope::External,
            _ => Scope::Internal,
        }
    }
}

/// Who a backend is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// This node itself.
    Node,
    /// Its own client.
    Client,
    /// Anybody else, on this node or not.
    Other,
}

impl Server {
    #[inline(always)]
    fn of<T: Tables>(tables: &T, client: &Addr, backend: &Addr) -> Self {
        if client == backend && tables.pod(backend).is_some() {
            Self::Client
        } else if destination::is_own(tables, backend) {
            Self::Node
        } else if client == backend {
            Self::Client
        } else {
            Self::Other
        }
    }
}

/// Whether a client's address is hidden from its backend. `flags` are the frontend's,
/// `all` says that whatever goes to a ClusterIP is masqueraded.
///
/// What is for the node itself doesn't pass POSTROUTING, where kube-proxy masquerades.
#[inline(always)]
pub const fn is_hidden(flags: u32, all: bool, client: Client, server: Server) -> bool {
    match server {
        Server::Node => false,
        Server::Client => true,
        Server::Other if flags & FrontendValue::EXTERNAL == 0 => all || matches!(client, Client::Outside),
        Server::Other if flags & FrontendValue::KEEP_CLIENT != 0 => matches!(client, Client::Node),
        Server::Other => true,
    }
}

/// The source address that the backend sees of a packet with these headers.
///
/// Where the node has no address of the family, the frontend's must do.
#[inline(always)]
pub fn source<T: Tables>(tables: &T, headers: &Headers, flags: u32, client: Client, backend: &Addr) -> Addr {
    let server = Server::of(tables, &headers.src, backend);
    if matches!((client, server), (Client::Node, Server::Node)) {
        // Answers to an own address pass the loopback device, where they are met. At
        // an address that isn't, the node must see it again in what it answers to: so
        // the answer is led through our device.
        return if destination::is_own(tables, &headers.dst) { headers.src } else { headers.dst };
    }
    let node = tables.node();
    let all = node.is_some_and(|node| node.flags & NodeConfig::MASQUERADE_ALL != 0);
    if !is_hidden(flags, all, client, server) {
        return headers.src;
    }
    match node.map_or(Addr::UNSPECIFIED, |node| node.address(headers.family)) {
        address if address.is_unspecified() => headers.dst,
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER_IP: u32 = 0;
    const EXTERNAL: u32 = FrontendValue::EXTERNAL;
    const LOCAL: u32 = FrontendValue::EXTERNAL | FrontendValue::KEEP_CLIENT;

    /// kube-proxy's rules: KUBE-SVC's and KUBE-EXT's jumps to KUBE-MARK-MASQ, and
    /// KUBE-SEP's for hairpins.
    #[test]
    fn as_kube_proxy_does() {
        use Client::{Node, Outside, Pod};
        // frontend, --masquerade-all, then for a pod, the node, somebody outside: hidden?
        let table = [
            (CLUSTER_IP, false, [(Pod, false), (Node, false), (Outside, true)]),
            (CLUSTER_IP, true, [(Pod, true), (Node, true), (Outside, true)]),
            (EXTERNAL, false, [(Pod, true), (Node, true), (Outside, true)]),
            (EXTERNAL, true, [(Pod, true), (Node, true), (Outside, true)]),
            (LOCAL, false, [(Pod, false), (Node, true), (Outside, false)]),
            (LOCAL, true, [(Pod, false), (Node, true), (Outside, false)]),
        ];
        for (flags, all, clients) in table {
            for (client, hidden) in clients {
                let what = (flags, all, client);
                assert_eq!(is_hidden(flags, all, client, Server::Other), hidden, "{what:?}");
                assert!(is_hidden(flags, all, client, Server::Client), "a hairpin always: {what:?}");
                assert!(!is_hidden(flags, all, client, Server::Node), "the node itself never: {what:?}");
            }
        }
    }

    #[test]
    fn only_who_is_outside_is_served_by_the_external_policy() {
        let value = |flags| FrontendValue { flags, ..FrontendValue::default() };
        for (flags, client, scope) in [
            (EXTERNAL, Client::Outside, Scope::External),
            (EXTERNAL, Client::Pod, Scope::Internal),
            (EXTERNAL, Client::Node, Scope::Internal),
            (CLUSTER_IP, Client::Outside, Scope::Internal),
            (CLUSTER_IP, Client::Pod, Scope::Internal),
        ] {
            assert_eq!(client.scope(&value(flags)), scope, "{flags}, {client:?}");
        }
    }
}
