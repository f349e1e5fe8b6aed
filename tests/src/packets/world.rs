//! A node's tables as the agent would write them: pods, Services, backends.
//!
//! Invariant: whatever is changed, frontends name only blocks of backends that
//! exist, and a block that has been named is never written again.

use datapath::{
    abi::{
        Addr, Backend, Be16, BlockRef, Family, FrontendKey, FrontendValue, NetworkKey, NetworkValue, NodeConfig,
        PodNetns, PodValue, SourceRangeKey,
    },
    memory::MemoryTables,
};

use super::place::{FAMILIES, Place};

/// The port that masquerading may use. One only, so that it's known beforehand.
pub const SNAT_PORT: u16 = 61_000;

/// The interface through which the node's own packets for Services are led.
pub const HOST_IFINDEX: u32 = 90;

/// The overlay's device.
pub const OVERLAY_IFINDEX: u32 = 91;

/// The pods on the node that every world has.
pub const PODS: [Place; 3] = [Place::Pod(1), Place::Pod(2), Place::Pod(3)];

/// The cookie of the node's network namespace.
pub const NODE_NETNS: u64 = 1;

/// The cookie of a pod's network namespace.
pub fn pod_netns(number: u8) -> u64 {
    100 + u64::from(number)
}

/// One service port, as a Service's manifest would name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServicePort {
    /// The ClusterIP.
    pub ip: Place,
    /// The port.
    pub port: u16,
    /// An IP protocol number.
    pub protocol: u8,
}

/// A node's tables, and how the agent changes them.
#[derive(Clone, Debug)]
pub struct World {
    /// The tables.
    pub tables: MemoryTables,
    services: u32,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// A node with three pods and no Service.
    pub fn new() -> Self {
        let [v4, v6] = FAMILIES;
        let tables = MemoryTables {
            node: NodeConfig {
                netns_cookie: NODE_NETNS,
                v4: Place::Node.addr(v4),
                v6: Place::Node.addr(v6),
                snat_port_first: SNAT_PORT,
                snat_port_last: SNAT_PORT,
                host_ifindex: HOST_IFINDEX,
                overlay_ifindex: OVERLAY_IFINDEX,
                flags: 0,
                held_until: 0,
            },
            backends: vec![Backend::default()],
            networks: FAMILIES.into_iter().flat_map(networks).collect(),
            now: 10_000 * NANOS_PER_SECOND,
            ..MemoryTables::default()
        };
        let mut world = Self { tables, services: 0 };
        for number in 1..=3 {
            world.add_pod(number);
        }
        world
    }

    fn add_pod(&mut self, number: u8) {
        for family in FAMILIES {
            let value =
                PodValue { ifindex: 100 + u32::from(number), mac: [2, 0, 0, 0, 0, number], ..PodValue::default() };
            self.tables.pods.insert(Place::Pod(number).addr(family), value);
        }
        let [v4, v6] = FAMILIES.map(|family| Place::Pod(number).addr(family));
        self.tables.pod_netns.insert(pod_netns(number), PodNetns { v4, v6 });
    }

    /// The pod is shut, or opened.
    pub fn hold(&mut self, pod: Place, held: bool) {
        for family in FAMILIES {
            let pod = self.tables.pods.get_mut(&pod.addr(family)).expect("the world has the pod");
            pod.flags = if held { PodValue::HELD } else { 0 };
        }
    }

    /// Adds a Service with one port, in both families.
    #[must_use]
    pub fn with(mut self, port: ServicePort, backends: &[(Place, u16)]) -> Self {
        self.add(port, backends);
        self
    }

    /// Changes the world before the case begins.
    #[must_use]
    pub fn and(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// As [`Self::with`].
    pub fn add(&mut self, port: ServicePort, backends: &[(Place, u16)]) {
        for family in FAMILIES {
            self.services += 1;
            let value = FrontendValue { service: self.services, ..FrontendValue::default() };
            self.tables.frontends.insert(key(port, family), value);
            self.tables.frontends.insert(FrontendKey::whole_address(port.ip.addr(family)), FrontendValue::default());
        }
        self.set_backends(port, backends);
    }

    /// Adds a Service's port at an address of another kind than a ClusterIP, in both families. Ports of
    /// [`Place::Node`] are NodePorts.
    #[must_use]
    pub fn with_external(mut self, port: ServicePort, flags: u32, backends: &[(Place, u16)]) -> Self {
        for family in FAMILIES {
            self.services += 1;
            let flags = FrontendValue::EXTERNAL | flags;
            let value = FrontendValue { service: self.services, flags, ..FrontendValue::default() };
            self.tables.frontends.insert(key(port, family), value);
            let whole = match port.ip {
                Place::Node => FrontendValue::PASS_UNUSED | FrontendValue::NODE_PORTS,
                _ => FrontendValue::PASS_UNUSED,
            };
            let whole = FrontendValue { flags: whole, ..FrontendValue::default() };
            self.tables.frontends.insert(FrontendKey::whole_address(port.ip.addr(family)), whole);
        }
        self.set_backends(port, backends);
        self
    }

    /// Gives the service port's clients outside these backends; [`Self::set_backends`] must have been given them
    /// too.
    #[must_use]
    pub fn serving_outside(mut self, port: ServicePort, backends: &[(Place, u16)]) -> Self {
        for family in FAMILIES {
            let mut frontend = self.tables.frontends[&key(port, family)];
            let all = frontend.internal;
            self.set_block_of(port, family, backends);
            let set = self.tables.frontends[&key(port, family)].external;
            (frontend.internal, frontend.external) = (all, set);
            frontend.flags |= FrontendValue::EXTERNAL_LOCAL;
            self.tables.frontends.insert(key(port, family), frontend);
        }
        self
    }

    /// Only this client may use the service port.
    #[must_use]
    pub fn only_for(mut self, port: ServicePort, client: Place) -> Self {
        for family in FAMILIES {
            let frontend = self.tables.frontends.get_mut(&key(port, family)).expect("the world has the Service");
            frontend.flags |= FrontendValue::SOURCE_RANGES;
            let range = SourceRangeKey { prefix_len: 160, service: frontend.service, addr: client.addr(family) };
            self.tables.source_ranges.push(range);
        }
        self
    }

    /// What pods send to outside is masqueraded.
    #[must_use]
    pub fn masquerading(mut self) -> Self {
        self.tables.node.flags |= NodeConfig::MASQUERADE_PODS;
        self
    }

    /// Gives the service port these backends and no others. Those that go are dead.
    pub fn set_backends(&mut self, port: ServicePort, backends: &[(Place, u16)]) {
        self.retire(port, backends, 0);
    }

    /// The same, but those that go are draining: serving though terminating, so that their flows go on.
    pub fn drain_to(&mut self, port: ServicePort, backends: &[(Place, u16)]) {
        self.retire(port, backends, Backend::ALIVE);
    }

    fn retire(&mut self, port: ServicePort, backends: &[(Place, u16)], flags: u16) {
        self.set_block(port, backends);
        for family in FAMILIES {
            let FrontendValue { service, internal, .. } = self.tables.frontends[&key(port, family)];
            let block = &self.tables.blocks[internal.base as usize..][..internal.len as usize];
            for (id, backend) in self.tables.backends.iter_mut().enumerate() {
                if backend.service == service && !block.contains(&(id as u32)) {
                    backend.flags &= flags;
                }
            }
        }
    }

    /// Writes the service port's new block, and nothing else yet: as between two of the agent's writes.
    pub fn set_block(&mut self, port: ServicePort, backends: &[(Place, u16)]) {
        for family in FAMILIES {
            self.set_block_of(port, family, backends);
        }
    }

    fn set_block_of(&mut self, port: ServicePort, family: Family, backends: &[(Place, u16)]) {
        let mut frontend = self.tables.frontends[&key(port, family)];
        let ids: Vec<u32> = backends
            .iter()
            .map(|(place, port)| self.backend_id(frontend.service, place.addr(family), Be16::new(*port)))
            .collect();
        let block = BlockRef { base: self.tables.blocks.len() as u32, len: ids.len() as u32 };
        self.tables.blocks.extend(ids);
        (frontend.internal, frontend.external) = (block, block);
        self.tables.frontends.insert(key(port, family), frontend);
    }

    /// A backend's id, a new one if it has none.
    fn backend_id(&mut self, service: u32, addr: Addr, port: Be16) -> u32 {
        let backends = &mut self.tables.backends;
        let same = |b: &Backend| {
            b.service == service && b.addr == addr && b.port == port && b.flags & Backend::IN_CLUSTER != 0
        };
        if let Some(id) = backends.iter().position(same) {
            return id as u32;
        }
        let flags = Backend::ALIVE | Backend::IN_CLUSTER | Backend::IN_LOCAL;
        backends.push(Backend { addr, port, flags, service, generation: 1, pad: 0 });
        backends.len() as u32 - 1
    }

    /// Gives the ids of the service port's backends to backends at another port,
    /// as when an id is freed and used again.
    pub fn reuse_ids(&mut self, port: ServicePort, for_port: u16) {
        for family in FAMILIES {
            let service = self.tables.frontends[&key(port, family)].service;
            for backend in self.tables.backends.iter_mut().filter(|b| b.service == service) {
                backend.port = Be16::new(for_port);
                backend.generation += 1;
            }
        }
    }

    /// Changes the frontends of a service port.
    pub fn frontend(&mut self, port: ServicePort, change: impl Fn(&mut FrontendValue)) {
        for family in FAMILIES {
            change(self.tables.frontends.get_mut(&key(port, family)).expect("the world has the Service"));
        }
    }

    /// The service port's address becomes that of another, with these backends; its own are served at a
    /// new address, as alive as before.
    pub fn pass_on(&mut self, port: ServicePort, backends: &[(Place, u16)]) {
        let moved = Place::ClusterIp(99);
        for family in FAMILIES {
            let value = self.tables.frontends.remove(&key(port, family)).expect("the world has the Service");
            self.tables.frontends.insert(key(ServicePort { ip: moved, ..port }, family), value);
            self.tables.frontends.insert(FrontendKey::whole_address(moved.addr(family)), FrontendValue::default());
        }
        self.add(port, backends);
    }

    /// Lets time pass.
    pub fn wait(&mut self, seconds: u64) {
        self.tables.now += seconds * NANOS_PER_SECOND;
    }
}

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// The service port's frontend in a family.
pub fn key(port: ServicePort, family: Family) -> FrontendKey {
    match port.ip {
        Place::Node => FrontendKey::node_port(family, Be16::new(port.port), port.protocol),
        ip => FrontendKey::new(ip.addr(family), Be16::new(port.port), port.protocol),
    }
}

/// The networks that a node knows: ClusterIPs, its own address, all pods, pods reached by the overlay, the node
/// that has these, and one on its own link (the router is one).
fn networks(family: Family) -> [(NetworkKey, NetworkValue); 6] {
    let network = |v4: u32, v6: u32, place: Place| {
        let prefix_len = match family {
            Family::V4 => 96 + v4,
            Family::V6 => v6,
        };
        NetworkKey { prefix_len, addr: place.addr(family) }
    };
    let kind = NetworkValue::of_kind;
    let reached = |kind| NetworkValue { kind, tunnel: Place::Peer.addr(family) };
    [
        (network(16, 32, Place::ClusterIp(0)), kind(NetworkValue::SERVICE)),
        (network(32, 128, Place::Node), kind(NetworkValue::NODE)),
        (network(16, 32, Place::Pod(1)), kind(NetworkValue::PODS)),
        (network(24, 48, Place::TunnelPod), reached(NetworkValue::PODS)),
        (network(32, 128, Place::Peer), reached(NetworkValue::PEER)),
        (network(32, 128, Place::Router), kind(NetworkValue::PEER)),
    ]
}
