//! What becomes of a packet, by the tables in memory and the datapath's own decisions.

use std::collections::BTreeSet;

use datapath::{
    abi::{Addr, Be16, FrontendValue, NetworkKey, NetworkValue, NodeConfig, PodNetns},
    destination::{self, Destination},
    masquerade::{self, Sender, Server},
    memory::{self, MemorySocket},
    select::{self, Refusal},
    socket::{self, Call, SocketVerdict},
    tables::Tables as _,
};
use ipnetwork::IpNetwork;

use crate::tables::MemoryTables;

const NODE_NETNS: u64 = 1;
const POD_NETNS: u64 = 2;
/// So many choices among a handful of backends leave none out.
const TRIES: usize = 100;

/// Where a packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// A process of the node.
    Node,
    /// Anywhere else.
    Elsewhere,
}

/// Where a packet goes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// To any of these, each with whether it sees the client's own address.
    Dnat(BTreeSet<(Addr, u16, bool)>),
    Reject,
    Drop,
    /// It is for no Service.
    None,
}

/// The node on which packets are judged.
pub struct World {
    tables: memory::MemoryTables,
}

impl World {
    pub fn new(tables: &MemoryTables, own: &[Addr], pods: &[IpNetwork], services: &[IpNetwork], flags: u32) -> Self {
        let v4_bits = |network: &IpNetwork| if network.is_ipv4() { 96 } else { 0 };
        let key = |network: &IpNetwork| NetworkKey {
            prefix_len: u32::from(network.prefix()) + v4_bits(network),
            addr: network.network().into(),
        };
        let of_kind = |kind| move |network| (key(network), NetworkValue::of_kind(kind));
        let own = own
            .iter()
            .map(|addr| (NetworkKey { prefix_len: 128, addr: *addr }, NetworkValue::of_kind(NetworkValue::NODE)));
        let networks =
            pods.iter().map(of_kind(NetworkValue::PODS)).chain(services.iter().map(of_kind(NetworkValue::SERVICE)));
        let primary =
            |v4: bool| own.clone().map(|(key, _)| key.addr).find(|addr| std::net::IpAddr::from(*addr).is_ipv4() == v4);
        let node = NodeConfig {
            netns_cookie: NODE_NETNS,
            v4: primary(true).unwrap_or_default(),
            v6: primary(false).unwrap_or_default(),
            flags,
            ..NodeConfig::default()
        };
        Self {
            tables: memory::MemoryTables {
                node,
                networks: networks.chain(own.clone()).collect(),
                frontends: tables.frontends.iter().map(|(key, value)| (*key, *value)).collect(),
                blocks: tables.blocks.clone(),
                backends: tables.backends.clone(),
                source_ranges: tables.source_ranges.iter().copied().collect(),
                ..memory::MemoryTables::default()
            },
        }
    }

    fn is_pod(&self, addr: &Addr) -> bool {
        self.tables.network_kind(addr) == NetworkValue::PODS
    }

    /// Packet by packet.
    pub fn packet(&mut self, from: From, src: Addr, dst: Addr, port: u16, protocol: u8) -> Fate {
        let frontend = match destination::find(&self.tables, dst, Be16::new(port), protocol) {
            Destination::Frontend(frontend) => frontend,
            Destination::Unused => return Fate::Reject,
            Destination::Foreign if self.tables.network_kind(&dst) == NetworkValue::SERVICE => return Fate::Drop,
            Destination::Foreign => return Fate::None,
        };
        let is_restricted = frontend.flags & FrontendValue::SOURCE_RANGES != 0;
        if is_restricted && !self.tables.in_source_ranges(frontend.service, &src) {
            return Fate::Drop;
        }
        let sender = if from == From::Node { Sender::Node } else { Sender::Network };
        let client = sender.client(&self.tables, &src);
        let all = self.tables.node.flags & NodeConfig::MASQUERADE_ALL != 0;
        let mut backends = BTreeSet::new();
        for _ in 0..TRIES {
            match select::select(&mut self.tables, &frontend, client.scope(&frontend), None) {
                Ok(chosen) => {
                    let server = match chosen.addr {
                        backend if backend == src => Server::Client,
                        backend if destination::is_own(&self.tables, &backend) => Server::Node,
                        _ => Server::Other,
                    };
                    let hidden = masquerade::is_hidden(frontend.flags, all, client, server);
                    backends.insert((chosen.addr, chosen.port.get(), !hidden));
                }
                Err(Refusal::Reject) => return Fate::Reject,
                Err(Refusal::Drop(_)) => return Fate::Drop,
            }
        }
        Fate::Dnat(backends)
    }

    /// At `connect()`: `None`, the call is left alone and its packets are judged.
    pub fn connect(&mut self, from: From, src: Addr, dst: Addr, port: u16, protocol: u8) -> Option<Fate> {
        if self.is_pod(&src) {
            self.tables.pod_netns = [(POD_NETNS, PodNetns { v4: src, v6: src })].into();
        }
        let netns = if from == From::Node { NODE_NETNS } else { POD_NETNS };
        let mut socket = MemorySocket { netns, ..MemorySocket::default() };
        let call = Call { addr: dst, port: Be16::new(port), protocol };
        let mut backends = BTreeSet::new();
        for _ in 0..TRIES {
            match socket::connect(&mut self.tables, &mut socket, &call) {
                SocketVerdict::Divert(addr, port) => {
                    // The backend sees the socket's own address: that is what hides a
                    // process of the node.
                    backends.insert((addr, port.get(), from != From::Node));
                }
                SocketVerdict::Refuse => return Some(Fate::Reject),
                SocketVerdict::Unchanged => {}
            }
        }
        (!backends.is_empty()).then_some(Fate::Dnat(backends))
    }
}
