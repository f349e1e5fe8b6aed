//! One copy of each string that objects repeat: namespaces, nodes, zones, port
//! names, labels. And no list with room to spare.
//!
//! Invariant: an object means the same before and after. The interner keeps
//! nothing alive for long that no object holds any more.

use std::{collections::HashSet, sync::Arc};

use crate::model::{
    network_policy::{NetworkPolicy, Operator, Peer, PeerNamespaces, PolicyRule, PortMatch, Requirement, Selector},
    objects::{ClusterNetworkPolicy, EndpointPort, EndpointSlice, Namespace, Object, ObjectKey, Pod, Service},
};

/// Below so many strings it isn't worth while to look for unused ones.
const MIN_SWEEP: usize = 1024;

/// The strings seen so far.
#[derive(Debug)]
pub struct Interner {
    strings: HashSet<Arc<str>>,
    sweep_at: usize,
}

impl Default for Interner {
    fn default() -> Self {
        Self { strings: HashSet::new(), sweep_at: MIN_SWEEP }
    }
}

impl Interner {
    /// Lets the object's repeated strings share memory with those of all objects before,
    /// and gives back what its lists don't use. To be called before the object is shared,
    /// else it is copied.
    pub fn compact(&mut self, object: &mut Object) {
        match object {
            Object::Service(service) => {
                let Service { key, ports, cluster_ips, .. } = Arc::make_mut(service);
                cluster_ips.shrink_to_fit();
                ports.shrink_to_fit();
                self.namespace(key);
                for port in ports {
                    self.string(&mut port.name);
                }
            }
            Object::EndpointSlice(slice) => {
                let EndpointSlice { key, ports, endpoints, .. } = Arc::make_mut(slice);
                ports.shrink_to_fit();
                endpoints.shrink_to_fit();
                self.namespace(key);
                self.ports(ports);
                for endpoint in endpoints {
                    self.string(&mut endpoint.node);
                    endpoint.zone_hints.iter_mut().for_each(|zone| self.string(zone));
                    endpoint.node_hints.iter_mut().for_each(|node| self.string(node));
                }
            }
            Object::Pod(pod) => {
                let Pod { key, node, ips, labels, named_ports, .. } = Arc::make_mut(pod);
                ips.shrink_to_fit();
                labels.shrink_to_fit();
                named_ports.shrink_to_fit();
                self.namespace(key);
                self.string(node);
                self.ports(named_ports);
                for (name, value) in labels {
                    self.string(name);
                    self.string(value);
                }
            }
            Object::Node(node) => self.string(&mut Arc::make_mut(node).zone),
            Object::ServiceCidr(_) => {}
            Object::Namespace(namespace) => {
                let Namespace { key, labels } = Arc::make_mut(namespace);
                labels.shrink_to_fit();
                // Of its objects' keys each is one.
                self.string(&mut key.name);
                for (name, value) in labels {
                    self.string(name);
                    self.string(value);
                }
            }
            Object::NetworkPolicy(policy) => {
                let NetworkPolicy { key, pods, ingress, egress } = Arc::make_mut(policy);
                self.namespace(key);
                self.selector(pods);
                for rules in [ingress, egress].into_iter().flatten() {
                    rules.shrink_to_fit();
                    rules.iter_mut().for_each(|rule| self.rule(rule));
                }
            }
            Object::ClusterNetworkPolicy(policy) => {
                let ClusterNetworkPolicy { namespaces, pods, ingress, egress, .. } = Arc::make_mut(policy);
                self.selector(namespaces);
                self.selector(pods);
                for rules in [ingress, egress] {
                    rules.iter_mut().for_each(|rule| self.rule(&mut rule.rule));
                }
            }
        }
    }

    fn namespace(&mut self, key: &mut ObjectKey) {
        self.string(&mut key.namespace);
    }

    fn rule(&mut self, rule: &mut PolicyRule) {
        for peer in rule.peers.iter_mut().flatten() {
            if let Peer::Pods { namespaces, pods } = peer {
                if let PeerNamespaces::Selected(namespaces) = namespaces {
                    self.selector(namespaces);
                }
                self.selector(pods);
            }
        }
        for port in rule.ports.iter_mut().flatten() {
            if let PortMatch::Named(name) = &mut port.port {
                self.string(name);
            }
        }
    }

    fn selector(&mut self, selector: &mut Selector) {
        for Requirement { label, operator } in selector.requirements_mut() {
            self.string(label);
            if let Operator::In(values) | Operator::NotIn(values) = operator {
                values.iter_mut().for_each(|value| self.string(value));
            }
        }
    }

    fn ports(&mut self, ports: &mut [EndpointPort]) {
        for port in ports {
            self.string(&mut port.name);
        }
    }

    fn string(&mut self, string: &mut Arc<str>) {
        if let Some(known) = self.strings.get(string) {
            *string = Arc::clone(known);
            return;
        }
        if self.strings.len() >= self.sweep_at {
            self.strings.retain(|string| Arc::strong_count(string) > 1);
            self.sweep_at = MIN_SWEEP.max(self.strings.len() * 2);
        }
        self.strings.insert(Arc::clone(string));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::objects::{Endpoint, Node};

    fn slice(zone: &str) -> Object {
        let endpoint = Endpoint {
            address: [10, 0, 0, 1].into(),
            ready: true,
            serving: true,
            terminating: false,
            node: "node-1".into(),
            zone_hints: [zone.into()].into(),
            node_hints: Box::default(),
        };
        EndpointSlice {
            key: ObjectKey::new("shop", "web-1"),
            service: "web".into(),
            ipv6: false,
            ports: Vec::new(),
            endpoints: vec![endpoint],
            triggered: 0,
        }
        .into()
    }

    fn endpoint(object: &Object) -> &Endpoint {
        match object {
            Object::EndpointSlice(slice) => &slice.endpoints[0],
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn equal_strings_become_one_and_the_object_stays_equal() {
        let mut interner = Interner::default();
        let (mut first, mut second) = (slice("a"), slice("a"));
        interner.compact(&mut first);
        interner.compact(&mut second);
        assert_eq!(first, slice("a"));
        assert_eq!(second, slice("a"));
        assert!(Arc::ptr_eq(&endpoint(&first).node, &endpoint(&second).node));
        assert!(Arc::ptr_eq(&endpoint(&first).zone_hints[0], &endpoint(&second).zone_hints[0]));
    }

    #[test]
    fn an_endpoint_is_small() {
        // With one hint; every string is shared.
        assert!(size_of::<Endpoint>() + size_of::<Arc<str>>() < 100);
    }

    #[test]
    fn strings_that_nothing_holds_are_let_go() {
        let mut interner = Interner::default();
        let mut kept = slice("kept");
        interner.compact(&mut kept);
        for number in 0..10 * MIN_SWEEP {
            interner.compact(
                &mut Node {
                    key: ObjectKey::new("", "n"),
                    created: 0,
                    pod_cidrs: Vec::new(),
                    addresses: Vec::new(),
                    zone: number.to_string().into(),
                    deleting: false,
                }
                .into(),
            );
        }
        assert!(interner.strings.len() <= 2 * MIN_SWEEP, "{} strings", interner.strings.len());
        assert!(interner.strings.contains("kept"));
    }
}
