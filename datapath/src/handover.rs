//! Taking over from a proxy that translates by netfilter's conntrack, as kube-proxy does: which
//! packets stay netfilter's, and how flows go on here that netfilter has begun.
//!
//! Invariant: a connection that netfilter has begun keeps its backend and its ports, whoever
//! translates it. This module must not know how netfilter is asked.

use crate::{
    abi::{Addr, Be16, FlowKey, FlowValue, NodeConfig, protocol},
    destination::{self, Destination},
    masquerade::Sender,
    packet::{
        headers::{Headers, Transport},
        rewrite::Ends,
    },
    select::Scope,
    tables::Tables,
    track::{self, NewFlow},
};

/// Whether a packet that belongs to no flow of ours may belong to a connection that netfilter
/// knows: it opens none itself, and is for a Service's address. What the node sends has passed
/// netfilter when we meet it.
#[inline(never)]
pub fn is_left<T: Tables>(headers: &Headers, tables: &T, sender: Sender) -> bool {
    let goes_on = matches!(headers.transport, Transport::Tcp(_) | Transport::Sctp) && !headers.opens;
    goes_on
        && sender != Sender::Node
        && tables.node().is_some_and(|node| node.flags & NodeConfig::HANDOVER != 0)
        && destination::find(tables, headers.dst, headers.dst_port, headers.protocol) != Destination::Foreign
}

/// What becomes of a flow that netfilter translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inheritance {
    /// It goes on here.
    Flow(NewFlow),
    /// It stays netfilter's until its end.
    Stays,
    /// It is a process' of the node itself: netfilter translates it where nothing of ours sees it before.
    Nodes,
    /// It is for no Service of ours.
    Foreign,
}

/// What becomes of a flow whose packets with `key` netfilter has given these `ends`. `backend_of`
/// finds the id and generation of a service port's backend by its address and port.
///
/// Pods that we wired and backends of the node's own need notes that only the programs write, so
/// netfilter keeps their flows.
pub fn inherit<T: Tables>(
    tables: &T,
    key: &FlowKey,
    becomes: &Ends,
    backend_of: impl FnOnce(u32, &Addr, Be16) -> Option<(u32, u32)>,
) -> Inheritance {
    let has_ports = [protocol::TCP, protocol::UDP, protocol::SCTP].map(u32::from).contains(&key.protocol);
    let frontend = match destination::find(tables, key.dst, key.dst_port, key.protocol as u8) {
        _ if !has_ports => return Inheritance::Foreign,
        Destination::Foreign => return Inheritance::Foreign,
        Destination::Frontend(frontend) => Some(frontend),
        Destination::Unused => None,
    };
    if destination::is_own(tables, &key.src) {
        return Inheritance::Nodes;
    }
    let leads_out = |addr| destination::leads_out(tables, addr);
    let Some(frontend) = frontend.filter(|_| leads_out(&key.src) && leads_out(&becomes.dst)) else {
        return Inheritance::Stays;
    };
    let found = backend_of(frontend.service, &becomes.dst, becomes.dst_port);
    // A datagram whose backend is gone finds another, as one that we have begun.
    let Some((backend, generation)) = found.or_else(|| (key.protocol != u32::from(protocol::UDP)).then_some(NONE))
    else {
        return Inheritance::Stays;
    };
    let client = Sender::Network.client(tables, &key.src);
    let external = if client.scope(&frontend) == Scope::External { FlowValue::EXTERNAL } else { 0 };
    let mut forward = FlowValue {
        src: becomes.src,
        dst: becomes.dst,
        src_port: becomes.src_port,
        dst_port: becomes.dst_port,
        service: frontend.service,
        backend,
        generation,
        flags: external | FlowValue::OUT | FlowValue::ESTABLISHED,
        ..FlowValue::EMPTY
    };
    forward.last_seen = track::seconds(tables);
    Inheritance::Flow(NewFlow::begun(key, forward, FlowValue::OUT | FlowValue::ESTABLISHED))
}

/// The id and generation of no backend.
const NONE: (u32, u32) = (0, u32::MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        abi::{FrontendKey, FrontendValue, NetworkKey, NetworkValue, PodValue},
        memory::MemoryTables,
    };

    const NODE: Addr = v4(192, 0, 2, 11);
    const OUTSIDE: Addr = v4(192, 0, 2, 1);
    const CLUSTER_IP: Addr = v4(10, 96, 0, 1);
    const POD: Addr = v4(10, 244, 1, 2);
    const BACKEND: Addr = v4(10, 244, 1, 3);
    const GONE: Addr = v4(10, 244, 1, 4);
    const OURS: Addr = v4(10, 244, 1, 5);
    const SERVICE: u32 = 7;

    const fn v4(a: u8, b: u8, c: u8, d: u8) -> Addr {
        Addr::v4(u32::from_ne_bytes([a, b, c, d]))
    }

    /// A Service of TCP and UDP port 80 and NodePort 30080, at whose node another plugin wires pods but one.
    fn tables() -> MemoryTables {
        let mut tables = MemoryTables::default();
        let whole = |flags| FrontendValue { flags, ..FrontendValue::default() };
        let passes = FrontendValue::NODE_PORTS | FrontendValue::PASS_UNUSED;
        tables.frontends.insert(FrontendKey::whole_address(CLUSTER_IP), whole(0));
        tables.frontends.insert(FrontendKey::whole_address(NODE), whole(passes));
        for protocol in [protocol::TCP, protocol::UDP] {
            let port = |flags| FrontendValue { service: SERVICE, flags, ..FrontendValue::default() };
            tables.frontends.insert(FrontendKey::new(CLUSTER_IP, Be16::new(80), protocol), port(0));
            let node_port = FrontendKey::node_port(NODE.family(), Be16::new(30080), protocol);
            tables.frontends.insert(node_port, port(FrontendValue::EXTERNAL));
        }
        tables.networks = [(32, NODE, NetworkValue::NODE), (16, v4(10, 244, 0, 0), NetworkValue::PODS)]
            .map(|(bits, addr, kind)| (NetworkKey { prefix_len: 96 + bits, addr }, NetworkValue::of_kind(kind)))
            .into();
        tables.pods.insert(OURS, PodValue::default());
        tables
    }

    fn inherited(
        protocol: u8,
        (client, dialled, port): (Addr, Addr, u16),
        (seen, backend): (Addr, Addr),
    ) -> Inheritance {
        let key = FlowKey {
            src: client,
            dst: dialled,
            src_port: Be16::new(4000),
            dst_port: Be16::new(port),
            protocol: protocol.into(),
        };
        let becomes = Ends { src: seen, dst: backend, src_port: Be16::new(5000), dst_port: Be16::new(8080) };
        inherit(&tables(), &key, &becomes, |service, addr, port| {
            ((service, *addr, port) == (SERVICE, BACKEND, Be16::new(8080))).then_some((1, 3))
        })
    }

    #[test]
    fn who_goes_on_where() {
        use protocol::{ICMP, TCP, UDP};
        let (cluster_ip, node_port) = ((CLUSTER_IP, 80), (NODE, 30080));
        let ours = |flags, backend| Some((flags | FlowValue::OUT | FlowValue::ESTABLISHED, backend));
        for (what, protocol, client, (dialled, port), (seen, backend), expected) in [
            ("a pod's", TCP, POD, cluster_ip, (POD, BACKEND), Ok(ours(0, (1, 3)))),
            ("the same, datagrams", UDP, POD, cluster_ip, (POD, BACKEND), Ok(ours(0, (1, 3)))),
            ("masqueraded", TCP, OUTSIDE, node_port, (NODE, BACKEND), Ok(ours(FlowValue::EXTERNAL, (1, 3)))),
            ("the backend is gone", TCP, POD, cluster_ip, (POD, GONE), Ok(ours(0, NONE))),
            ("the same, datagrams", UDP, POD, cluster_ip, (POD, GONE), Err(Inheritance::Stays)),
            ("the port is gone", TCP, POD, (CLUSTER_IP, 81), (POD, BACKEND), Err(Inheritance::Stays)),
            ("a process'", TCP, NODE, cluster_ip, (NODE, BACKEND), Err(Inheritance::Nodes)),
            ("to a process", TCP, OUTSIDE, node_port, (OUTSIDE, NODE), Err(Inheritance::Stays)),
            ("a pod's of ours", TCP, OURS, cluster_ip, (OURS, BACKEND), Err(Inheritance::Stays)),
            ("somebody's port of the node", TCP, OUTSIDE, (NODE, 30081), (OUTSIDE, POD), Err(Inheritance::Foreign)),
            ("no Service's", TCP, POD, (OUTSIDE, 80), (NODE, OUTSIDE), Err(Inheritance::Foreign)),
            ("no ports", ICMP, POD, cluster_ip, (POD, BACKEND), Err(Inheritance::Foreign)),
        ] {
            let found = inherited(protocol, (client, dialled, port), (seen, backend));
            let found = match found {
                Inheritance::Flow(NewFlow { forward, reverse }) => {
                    assert_eq!((forward.src, forward.dst, forward.service), (seen, backend, SERVICE), "{what}");
                    assert_eq!((forward.src_port.get(), forward.dst_port.get()), (5000, 8080), "{what}");
                    assert_eq!((reverse.src, reverse.dst), (dialled, client), "{what}");
                    assert_eq!((reverse.src_port.get(), reverse.dst_port.get()), (port, 4000), "{what}");
                    assert_eq!(reverse.flags, forward.flags | FlowValue::REVERSE, "{what}");
                    Ok(Some((forward.flags, (forward.backend, forward.generation))))
                }
                other => Err(other),
            };
            assert_eq!(found, expected, "{what}");
        }
    }
}
