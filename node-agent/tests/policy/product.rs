//! The product under test: manifests go in, tables come out, and the datapath's own
//! decision is asked.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use datapath::{
    abi::{Addr, Be16, PodPolicy, PolicyDenial, direction, protocol},
    memory::MemoryPolicy,
    policy::{Question, is_allowed, judge},
};
use node_agent::{
    model::objects::{Kind, Object, ObjectKey},
    policy::{PodFacts, PolicyEngine, PolicyOp},
    source::convert::trim_kind,
};
use serde_json::Value;

use crate::{
    oracle::Packet,
    world::{Event, identity},
};

/// One node's engine and tables.
pub struct Product {
    node: String,
    pub engine: PolicyEngine,
    pub tables: MemoryPolicy,
    pub pods: HashMap<Addr, PodPolicy>,
    pub denials: HashSet<PolicyDenial>,
}

impl Product {
    pub fn new(node: &str) -> Self {
        Self {
            node: node.into(),
            engine: PolicyEngine::new(1),
            tables: MemoryPolicy::default(),
            pods: HashMap::new(),
            denials: HashSet::new(),
        }
    }

    /// Takes an event in; what is wrong with its object is said.
    pub fn take_in(&mut self, event: &Event) -> String {
        match event {
            Event::Apply(object) => {
                let (kind, _) = identity(object);
                let trimmed = trim_kind(kind, object.clone());
                self.set(kind, &trimmed.key, trimmed.object);
                trimmed.message
            }
            Event::Delete(kind, (namespace, name)) => {
                self.set(*kind, &ObjectKey::new(namespace.as_str(), name.as_str()), None);
                String::new()
            }
        }
    }

    fn set(&mut self, kind: Kind, key: &ObjectKey, object: Option<Object>) {
        match (kind, object) {
            (Kind::NetworkPolicy, Some(Object::NetworkPolicy(policy))) => self.engine.set_policy(key, Some(policy)),
            (Kind::NetworkPolicy, _) => self.engine.set_policy(key, None),
            (Kind::ClusterNetworkPolicy, Some(Object::ClusterNetworkPolicy(policy))) => {
                self.engine.set_cluster_policy(key, Some(policy));
            }
            (Kind::ClusterNetworkPolicy, _) => self.engine.set_cluster_policy(key, None),
            (Kind::Namespace, Some(Object::Namespace(namespace))) => {
                self.engine.set_namespace(&key.name, Some(namespace));
            }
            (Kind::Namespace, _) => self.engine.set_namespace(&key.name, None),
            (Kind::Pod, Some(Object::Pod(pod))) => {
                let addresses = pod.ips.iter().map(|ip| Addr::from(*ip)).collect();
                let local = *pod.node == *self.node;
                self.engine.set_pod(key, Some(PodFacts { pod: Arc::clone(&pod), addresses, local }));
            }
            (Kind::Pod, _) => self.engine.set_pod(key, None),
            (kind, _) => panic!("{kind}"),
        }
    }

    pub fn write(&mut self, op: PolicyOp) {
        fn put<K: std::hash::Hash + Eq, V>(table: &mut HashMap<K, V>, key: K, value: Option<V>) {
            match value {
                Some(value) => _ = table.insert(key, value),
                None => _ = table.remove(&key),
            }
        }
        match op {
            PolicyOp::Port(key, rule) => put(&mut self.tables.ports, key, rule),
            PolicyOp::Verdict(key, verdict) => put(&mut self.tables.verdicts, key, verdict),
            PolicyOp::Network(key, class) => put(&mut self.tables.networks, key, class),
            PolicyOp::Peer(key, class) => put(&mut self.tables.peers, key, class),
            PolicyOp::Pod(addr, policy) => put(&mut self.pods, addr, Some(policy)),
            PolicyOp::Uncount(denial) => _ = self.denials.remove(&denial),
        }
    }

    pub fn commit(&mut self) -> usize {
        let ops = self.engine.commit();
        let count = ops.len();
        ops.into_iter().for_each(|op| self.write(op));
        count
    }

    /// Takes back all that can be.
    pub fn settle(&mut self) {
        loop {
            let ops = self.engine.reclaim();
            if ops.is_empty() {
                return;
            }
            ops.into_iter().for_each(|op| self.write(op));
        }
    }

    /// An object from a manifest, and all that is to be done for it.
    pub fn apply(&mut self, object: Value) -> String {
        let message = self.take_in(&Event::Apply(object));
        self.commit();
        message
    }

    /// The rule that allows a packet to leave the pod that sends it; `None`: nothing isolates that pod so.
    pub fn egress(&self, packet: Packet<'_>) -> Option<u32> {
        self.ask(packet.src, direction::EGRESS, packet.dst, packet)
    }

    /// The rule that allows a packet into the pod that gets it.
    pub fn ingress(&self, packet: Packet<'_>) -> Option<u32> {
        self.ask(packet.dst, direction::INGRESS, packet.src, packet)
    }

    pub fn lets_out(&self, packet: Packet<'_>) -> bool {
        self.egress(packet).is_none_or(is_allowed)
    }

    pub fn lets_in(&self, packet: Packet<'_>) -> bool {
        self.ingress(packet).is_none_or(is_allowed)
    }

    fn ask(&self, pod: IpAddr, direction: u32, peer: IpAddr, packet: Packet<'_>) -> Option<u32> {
        let policy = self.pods.get(&pod.into()).copied().unwrap_or(PodPolicy::NONE);
        if !policy.isolates(direction) {
            return None;
        }
        let protocol = match packet.protocol {
            "TCP" => protocol::TCP,
            "UDP" => protocol::UDP,
            "SCTP" => protocol::SCTP,
            "ICMP" => protocol::ICMP,
            other => panic!("{other}"),
        };
        let port = Be16::new(packet.port);
        Some(judge(&self.tables, &Question { set: policy.set, direction, peer: peer.into(), protocol, port }))
    }
}
