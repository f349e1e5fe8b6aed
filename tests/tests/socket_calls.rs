//! What becomes of a socket call, by whom it is made and what it names.

use std::{collections::HashMap, net::SocketAddr};

use datapath::{
    abi::{Be16, Family, FrontendValue, protocol},
    memory::MemorySocket,
    socket::{self, Call, SocketVerdict},
};
use tests::packets::{
    place::{FAMILIES, Place},
    world::{NODE_NETNS, ServicePort, World, pod_netns},
};

const CLUSTER_IP: Place = Place::ClusterIp(10);
const BACKEND: Place = Place::Pod(2);
const OTHER: Place = Place::Pod(3);
const SOCKET: u64 = 77;

/// Who makes the call.
#[derive(Clone, Copy, Debug)]
enum Who {
    Node,
    Pod,
    /// A pod that the agent doesn't know yet.
    Stranger,
}

impl Who {
    fn netns(self) -> u64 {
        match self {
            Self::Node => NODE_NETNS,
            Self::Pod => pod_netns(1),
            Self::Stranger => 4711,
        }
    }
}

/// Which call it is.
#[derive(Clone, Copy, Debug)]
enum Calls {
    Connect,
    Send,
    Receive,
    PeerName,
}

/// What shall become of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Unchanged,
    Refuse,
    To(SocketAddr),
}

use Calls::*;
use Expected::*;
use Who::*;

/// A world in which calls are made one after another.
struct Sockets {
    world: World,
    protocol: u8,
    /// The sockets, by cookie.
    sockets: HashMap<u64, MemorySocket>,
}

impl Sockets {
    fn new(protocol: u8, backends: &[(Place, u16)]) -> Self {
        Self { world: World::new().with(service(protocol), backends), protocol, sockets: HashMap::new() }
    }

    fn change(mut self, change: impl FnOnce(&mut World)) -> Self {
        change(&mut self.world);
        self
    }

    fn affinity(self, seconds: u32) -> Self {
        let service = service(self.protocol);
        self.change(|world| world.frontend(service, |frontend| frontend.affinity_seconds = seconds))
    }

    fn call(self, who: Who, calls: Calls, names: SocketAddr, expected: Expected) -> Self {
        self.call_by(SOCKET, who, calls, names, expected)
    }

    /// As [`Self::call`], by another socket.
    fn call_by(mut self, socket: u64, who: Who, calls: Calls, names: SocketAddr, expected: Expected) -> Self {
        let call = Call { addr: names.ip().into(), port: Be16::new(names.port()), protocol: self.protocol };
        let tables = &mut self.world.tables;
        let fresh = MemorySocket { cookie: socket, netns: who.netns(), dialled: None };
        let socket = self.sockets.entry(socket).or_insert(fresh);
        socket.netns = who.netns();
        let verdict = match calls {
            Connect => socket::connect(tables, socket, &call),
            Send => socket::send(tables, socket, &call),
            Receive => socket::receive(tables, socket, &call),
            PeerName => socket::peer_name(socket, &call),
        };
        let expected_verdict = match expected {
            Unchanged => SocketVerdict::Unchanged,
            Refuse => SocketVerdict::Refuse,
            To(to) => SocketVerdict::Divert(to.ip().into(), Be16::new(to.port())),
        };
        assert_eq!(verdict, expected_verdict, "{calls:?} of {names} by {who:?}, protocol {}", self.protocol);
        self
    }
}

fn service(protocol: u8) -> ServicePort {
    ServicePort { ip: CLUSTER_IP, port: 80, protocol }
}

/// Service, backend, other backend, an unused port of the Service.
fn ends(family: Family) -> (SocketAddr, SocketAddr, SocketAddr, SocketAddr) {
    (CLUSTER_IP.at(family, 80), BACKEND.at(family, 8080), OTHER.at(family, 8080), CLUSTER_IP.at(family, 81))
}

/// A socket counts once, whatever it does, and no more when it is closed.
#[test]
fn connections_are_counted_where_few_are_preferred() {
    for family in FAMILIES {
        let (service_at, backend, ..) = ends(family);
        let port = service(protocol::TCP);
        let count = |sockets: &Sockets| sockets.world.tables.connections.values().sum::<u32>();
        let mut sockets = Sockets::new(protocol::TCP, &[(BACKEND, 8080)])
            .call_by(1, Pod, Connect, service_at, To(backend))
            .change(|world| world.frontend(port, |frontend| frontend.flags |= FrontendValue::LEAST_CONNECTIONS));
        assert_eq!(count(&sockets), 0, "{family:?}: before it was wanted");
        for (socket, who, open) in [(2, Pod, 1), (3, Node, 2), (2, Pod, 2), (4, Stranger, 3)] {
            sockets = sockets.call_by(socket, who, Connect, service_at, To(backend));
            assert_eq!(count(&sockets), open, "{family:?}: socket {socket}");
        }
        for (socket, open) in [(1, 3), (2, 2), (2, 2), (77, 2), (3, 1), (4, 0)] {
            socket::release(&mut sockets.world.tables, || socket);
            assert_eq!(count(&sockets), open, "{family:?}: socket {socket} is closed");
        }
    }
}

#[test]
fn tcp_goes_straight_to_its_backend() {
    for family in FAMILIES {
        let (service, backend, _, unused) = ends(family);
        let outside = Place::Outside.at(family, 443);
        for who in [Node, Pod, Stranger] {
            Sockets::new(protocol::TCP, &[(BACKEND, 8080)])
                .call(who, PeerName, backend, Unchanged)
                .call(who, Connect, service, To(backend))
                .call(who, PeerName, backend, To(service))
                .call_by(78, who, PeerName, backend, Unchanged)
                .call(who, Connect, unused, Refuse)
                .call(who, Connect, outside, Unchanged)
                .call(who, Connect, backend, Unchanged)
                .call(who, Connect, Place::UnknownClusterIp.at(family, 80), Unchanged)
                .call(who, Send, service, Unchanged)
                .call(who, Receive, backend, Unchanged);
        }
    }
}

#[test]
fn nobody_to_serve_refuses_and_a_policy_leaves_it_to_the_packets() {
    for family in FAMILIES {
        let (service_at, backend, ..) = ends(family);
        for who in [Node, Pod, Stranger] {
            Sockets::new(protocol::TCP, &[]).call(who, Connect, service_at, Refuse);
            Sockets::new(protocol::TCP, &[])
                .change(|world| {
                    world.frontend(service(protocol::TCP), |frontend| frontend.flags = FrontendValue::DROP_INTERNAL);
                })
                .call(who, Connect, service_at, Unchanged);
            Sockets::new(protocol::TCP, &[(BACKEND, 8080)])
                .change(|world| world.tables.backends.iter_mut().for_each(|backend| backend.flags = 0))
                .call(who, Connect, service_at, Unchanged)
                .call(who, PeerName, backend, Unchanged);
        }
    }
}

#[test]
fn a_connection_stays_where_it_is_and_the_next_one_moves() {
    for family in FAMILIES {
        let (service_at, backend, other, _) = ends(family);
        Sockets::new(protocol::TCP, &[(BACKEND, 8080)])
            .call(Pod, Connect, service_at, To(backend))
            .change(|world| world.set_backends(service(protocol::TCP), &[(OTHER, 8080)]))
            .call(Pod, PeerName, backend, To(service_at))
            .call_by(78, Pod, Connect, service_at, To(other))
            .call_by(78, Pod, PeerName, other, To(service_at))
            .call(Pod, PeerName, backend, To(service_at));
    }
}

#[test]
fn affinity_is_of_the_address_that_the_packets_will_have() {
    for family in FAMILIES {
        let (service_at, backend, other, _) = ends(family);
        Sockets::new(protocol::TCP, &[(BACKEND, 8080)])
            .affinity(10)
            .call(Pod, Connect, service_at, To(backend))
            .change(|world| world.set_block(service(protocol::TCP), &[(OTHER, 8080)]))
            .call_by(78, Pod, Connect, service_at, To(backend))
            .call(Node, Connect, service_at, To(other))
            // Whose packets it will be isn't known: they are balanced one by one.
            .call(Stranger, Connect, service_at, Unchanged)
            .change(|world| world.wait(9))
            .call(Pod, Connect, service_at, To(backend))
            .change(|world| world.wait(11))
            .call(Pod, Connect, service_at, To(other));
        Sockets::new(protocol::TCP, &[(BACKEND, 8080)])
            .affinity(10)
            .change(|world| {
                let unknown = datapath::abi::Addr::UNSPECIFIED;
                (world.tables.node.v4, world.tables.node.v6) = (unknown, unknown);
            })
            .call(Node, Connect, service_at, Unchanged);
    }
}

/// A pod's TCP packets and its sockets' calls are one client's.
#[test]
fn affinity_is_one_on_every_path() {
    use tests::packets::{build, case::Frame, case::Program, host};
    for family in FAMILIES {
        let (service_at, backend, other, _) = ends(family);
        let mut sockets = Sockets::new(protocol::TCP, &[(BACKEND, 8080)])
            .affinity(10)
            .call(Pod, Connect, service_at, To(backend))
            .change(|world| world.set_block(service(protocol::TCP), &[(OTHER, 8080)]));
        let mut by_packet = |client: Place, to: SocketAddr| {
            let syn = build::tcp(client.at(family, 4000), service_at, build::SYN);
            let (_, packet) = host::judge(Program::FromPod, &mut sockets.world.tables, &Frame::from(&syn));
            assert_eq!(packet, syn.between(syn.src, to).bytes(), "{client:?}");
        };
        by_packet(Place::Pod(1), backend);
        by_packet(Place::Pod(2), other);
    }
}

#[test]
fn the_nodes_datagrams_keep_to_one_backend() {
    for family in FAMILIES {
        let (service_at, backend, other, unused) = ends(family);
        Sockets::new(protocol::UDP, &[(BACKEND, 8080)])
            .call(Node, Receive, backend, Unchanged)
            .call(Node, Send, service_at, To(backend))
            .call(Node, Receive, backend, To(service_at))
            .call_by(78, Node, Receive, backend, Unchanged)
            .change(|world| world.set_block(service(protocol::UDP), &[(OTHER, 8080)]))
            .call(Node, Send, service_at, To(backend))
            .call_by(78, Node, Send, service_at, To(other))
            // The kept backend is gone: chosen anew, and both are heard.
            .change(|world| world.set_backends(service(protocol::UDP), &[(OTHER, 8080)]))
            .call(Node, Send, service_at, To(other))
            .call(Node, Receive, other, To(service_at))
            .call(Node, Receive, backend, To(service_at))
            // What is refused is refused by packets, so that the socket hears of it.
            .call(Node, Send, unused, Unchanged)
            .change(|world| world.set_backends(service(protocol::UDP), &[]))
            .call(Node, Send, service_at, Unchanged)
            // Connected sockets are balanced by packets, which leave a dead backend at once.
            .call(Node, Connect, service_at, Unchanged)
            .call(Node, PeerName, other, Unchanged);
        Sockets::new(protocol::UDP, &[(BACKEND, 8080)])
            .call(Node, Send, service_at, To(backend))
            .change(|world| world.reuse_ids(service(protocol::UDP), 9090))
            .call(Node, Send, service_at, To(BACKEND.at(family, 9090)));
    }
}

#[test]
fn datagrams_of_pods_and_everything_else_are_left_to_the_packets() {
    for family in FAMILIES {
        let (service_at, backend, ..) = ends(family);
        for who in [Pod, Stranger] {
            Sockets::new(protocol::UDP, &[(BACKEND, 8080)])
                .call(who, Connect, service_at, Unchanged)
                .call(who, Send, service_at, Unchanged)
                .call(who, Receive, backend, Unchanged)
                .call(who, PeerName, backend, Unchanged);
        }
        for who in [Node, Pod, Stranger] {
            Sockets::new(protocol::SCTP, &[(BACKEND, 8080)])
                .call(who, Connect, service_at, Unchanged)
                .call(who, Send, service_at, Unchanged);
        }
    }
}

/// An IPv6 socket reaches IPv4 by mapped addresses, RFC 4291 section 2.5.5.2.
#[test]
fn mapped_addresses_are_ipv4() {
    let mapped = |at: SocketAddr| match at {
        SocketAddr::V4(v4) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
        SocketAddr::V6(_) => at,
    };
    let (service_at, backend, ..) = ends(Family::V4);
    Sockets::new(protocol::TCP, &[(BACKEND, 8080)])
        .affinity(10)
        .call(Pod, Connect, mapped(service_at), To(backend))
        .call(Pod, PeerName, mapped(backend), To(service_at));
    Sockets::new(protocol::UDP, &[(BACKEND, 8080)]).call(Node, Send, mapped(service_at), To(backend)).call(
        Node,
        Receive,
        mapped(backend),
        To(service_at),
    );
}
