//! Which calls are decided at the socket, and which are left to their packets.

use std::net::IpAddr;

use datapath::{
    abi::{
        Addr, Backend, Be16, BlockRef, Family, FrontendKey, FrontendValue, NodeConfig, PodNetns, SourceRangeKey,
        protocol::{SCTP, TCP, UDP},
    },
    memory::{MemorySocket, MemoryTables},
    socket::{self, Call, SocketVerdict},
};

const NODE: u64 = 1;
const POD: u64 = 2;
const STRANGER: u64 = 3;

const CLUSTER_IP: &str = "10.96.0.1";
const VIP: &str = "203.0.113.1";
const NODE_IP: &str = "192.0.2.1";
const NODE_PORT: u16 = 30080;

fn addr(ip: &str) -> Addr {
    ip.parse::<IpAddr>().expect("an address").into()
}

/// A Service of port 80 and a NodePort, with one backend, 10.1.0.9:8080. `flags` are those
/// of its external frontends.
fn tables(flags: u32) -> MemoryTables {
    let value = |flags| FrontendValue {
        service: 7,
        flags,
        internal: BlockRef { base: 0, len: 1 },
        external: BlockRef { base: 0, len: 1 },
        ..FrontendValue::default()
    };
    let whole = |flags| FrontendValue { flags, ..FrontendValue::default() };
    let node = FrontendValue::PASS_UNUSED | FrontendValue::NODE_PORTS;
    let mut tables = MemoryTables {
        node: NodeConfig { netns_cookie: NODE, v4: addr(NODE_IP), ..NodeConfig::default() },
        blocks: vec![1],
        backends: vec![
            Backend::default(),
            Backend {
                addr: addr("10.1.0.9"),
                port: Be16::new(8080),
                flags: Backend::ALIVE | Backend::IN_CLUSTER | Backend::IN_LOCAL,
                service: 7,
                generation: 1,
                pad: 0,
            },
        ],
        ..MemoryTables::default()
    };
    for (ip, whole_flags) in [(CLUSTER_IP, 0), (VIP, FrontendValue::PASS_UNUSED), (NODE_IP, node), ("127.0.0.1", node)]
    {
        tables.frontends.insert(FrontendKey::whole_address(addr(ip)), whole(whole_flags));
    }
    for protocol in [TCP, UDP, SCTP] {
        let at = |ip| FrontendKey::new(addr(ip), Be16::new(80), protocol);
        tables.frontends.insert(at(CLUSTER_IP), value(0));
        tables.frontends.insert(at(VIP), value(FrontendValue::EXTERNAL | flags));
        let node_port = FrontendKey::node_port(Family::V4, Be16::new(NODE_PORT), protocol);
        tables.frontends.insert(node_port, value(FrontendValue::EXTERNAL | flags & !FrontendValue::SOURCE_RANGES));
    }
    tables.pod_netns.insert(POD, PodNetns { v4: addr("10.1.0.2"), v6: Addr::UNSPECIFIED });
    tables
}

/// A socket's call.
type Made = (MemorySocket, Call);

fn call(netns: u64, ip: &str, port: u16, protocol: u8) -> Made {
    let socket = MemorySocket { cookie: 5, netns, dialled: None };
    (socket, Call { addr: addr(ip), port: Be16::new(port), protocol })
}

fn backend() -> SocketVerdict {
    SocketVerdict::Divert(addr("10.1.0.9"), Be16::new(8080))
}

fn connect(tables: &mut MemoryTables, (mut socket, call): Made) -> SocketVerdict {
    counted(tables, &call, |tables| socket::connect(tables, &mut socket, &call))
}

fn send(tables: &mut MemoryTables, (socket, call): Made) -> SocketVerdict {
    counted(tables, &call, |tables| socket::send(tables, &socket, &call))
}

/// What becomes of a call; that it is among its Service's connections if it gets a backend, and only then.
fn counted(
    tables: &mut MemoryTables,
    call: &Call,
    decide: impl FnOnce(&mut MemoryTables) -> SocketVerdict,
) -> SocketVerdict {
    let mut expected = tables.service_connections.clone();
    let verdict = decide(tables);
    if verdict == backend() {
        *expected.entry(7).or_default() += 1;
    }
    assert_eq!(tables.service_connections, expected, "{call:?} {verdict:?}");
    verdict
}

const LEFT: SocketVerdict = SocketVerdict::Unchanged;
const LOCAL: u32 = FrontendValue::KEEP_CLIENT;
const RANGES: u32 = FrontendValue::SOURCE_RANGES;

#[test]
fn tcp_is_decided_where_the_backend_may_see_the_sockets_own_address() {
    // Flags of the external frontends, who calls, where, and what becomes of it.
    let table = [
        (0, NODE, CLUSTER_IP, 80, backend()),
        (0, POD, CLUSTER_IP, 80, backend()),
        (0, STRANGER, CLUSTER_IP, 80, backend()),
        (0, POD, CLUSTER_IP, 81, SocketVerdict::Refuse),
        (0, NODE, VIP, 80, backend()),
        (0, NODE, VIP, 81, LEFT),
        (0, NODE, NODE_IP, NODE_PORT, backend()),
        (0, NODE, NODE_IP, 22, LEFT),
        (0, NODE, "127.0.0.1", NODE_PORT, backend()),
        (0, NODE, "127.8.8.8", NODE_PORT, backend()),
        (0, NODE, "::ffff:127.0.0.1", NODE_PORT, backend()),
        (0, NODE, "127.0.0.1", 22, LEFT),
        (0, NODE, "::1", NODE_PORT, LEFT),
        (0, POD, "127.0.0.1", NODE_PORT, LEFT),
        (0, STRANGER, "127.0.0.1", NODE_PORT, LEFT),
        // kube-proxy masquerades these.
        (0, POD, VIP, 80, LEFT),
        (0, POD, NODE_IP, NODE_PORT, LEFT),
        (0, STRANGER, VIP, 80, LEFT),
        // And not these.
        (LOCAL, POD, VIP, 80, backend()),
        (LOCAL, POD, NODE_IP, NODE_PORT, backend()),
        (LOCAL, NODE, VIP, 80, backend()),
        (LOCAL, STRANGER, VIP, 80, LEFT),
        // Nobody is in a source range: the packets are dropped where it is counted.
        (RANGES, NODE, VIP, 80, LEFT),
        (RANGES | LOCAL, POD, VIP, 80, LEFT),
        (RANGES, NODE, NODE_IP, NODE_PORT, backend()),
    ];
    for (flags, netns, ip, port, expected) in table {
        let got = connect(&mut tables(flags), call(netns, ip, port, TCP));
        assert_eq!(got, expected, "{netns} to {ip}:{port}, {flags:#b}");
    }
}

#[test]
fn source_ranges_are_asked_for_the_callers_own_address() {
    let mut tables = tables(RANGES | LOCAL);
    let range = |prefix_len: u32, ip| SourceRangeKey { prefix_len: 32 + 96 + prefix_len, service: 7, addr: addr(ip) };
    tables.source_ranges = vec![range(24, "192.0.2.0")];
    assert_eq!(connect(&mut tables, call(NODE, VIP, 80, TCP)), backend());
    assert_eq!(connect(&mut tables, call(POD, VIP, 80, TCP)), LEFT);
    tables.source_ranges = vec![range(32, "10.1.0.2"), SourceRangeKey { service: 8, ..range(0, "0.0.0.0") }];
    assert_eq!(connect(&mut tables, call(NODE, VIP, 80, TCP)), LEFT);
    assert_eq!(connect(&mut tables, call(POD, VIP, 80, TCP)), backend());
}

#[test]
fn what_must_be_masqueraded_is_left_to_its_packets() {
    let mut tables = tables(0);
    tables.backends[1].addr = addr("10.1.0.2");
    assert_eq!(connect(&mut tables, call(POD, CLUSTER_IP, 80, TCP)), LEFT, "a pod that reaches itself");
    tables.backends[1].addr = addr("10.1.0.9");
    tables.node.flags = NodeConfig::MASQUERADE_ALL;
    assert_eq!(connect(&mut tables, call(POD, CLUSTER_IP, 80, TCP)), LEFT);
    assert_eq!(connect(&mut tables, call(NODE, CLUSTER_IP, 80, TCP)), backend());
}

#[test]
fn datagrams_of_the_node_are_decided_one_by_one() {
    let table = [
        (NODE, VIP, 80, backend()),
        (NODE, NODE_IP, NODE_PORT, backend()),
        (NODE, "127.0.0.1", NODE_PORT, backend()),
        (POD, VIP, 80, LEFT),
        (POD, "127.0.0.1", NODE_PORT, LEFT),
    ];
    for (netns, ip, port, expected) in table {
        let mut tables = tables(0);
        assert_eq!(send(&mut tables, call(netns, ip, port, UDP)), expected, "{netns} to {ip}:{port}");
        if expected == backend() {
            let asked = SocketVerdict::Divert(addr(ip), Be16::new(port));
            let (socket, answer) = call(netns, "10.1.0.9", 8080, UDP);
            assert_eq!(socket::receive(&tables, &socket, &answer), asked, "who answers");
            // Its next datagram keeps to the backend, and is no new connection.
            assert_eq!(socket::send(&mut tables, &socket, &call(netns, ip, port, UDP).1), expected);
            assert_eq!(tables.service_connections[&7], 1);
        }
    }
}

#[test]
fn a_connected_datagram_socket_is_judged_by_its_packets_also_from_loopback() {
    let node_port = SocketVerdict::Divert(addr(NODE_IP), Be16::new(NODE_PORT));
    let table = [
        (NODE, VIP, 80, LEFT),
        (NODE, NODE_IP, NODE_PORT, LEFT),
        (NODE, "127.0.0.1", NODE_PORT, node_port),
        (NODE, "127.0.0.1", 53, LEFT),
        (POD, "127.0.0.1", NODE_PORT, LEFT),
    ];
    for (netns, ip, port, expected) in table {
        assert_eq!(connect(&mut tables(0), call(netns, ip, port, UDP)), expected, "{netns} to {ip}:{port}");
    }
    // The node's own address has no NodePorts: straight to a backend.
    let mut tables = tables(0);
    tables.frontends.remove(&FrontendKey::whole_address(addr(NODE_IP)));
    assert_eq!(connect(&mut tables, call(NODE, "127.0.0.1", NODE_PORT, UDP)), backend());
}

#[test]
fn sctp_is_never_decided_here() {
    assert_eq!(connect(&mut tables(0), call(NODE, VIP, 80, SCTP)), LEFT);
}
