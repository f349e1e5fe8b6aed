//! Whose an address is, by the model: for who looks at traffic, and asks seldom.
//!
//! Nothing is indexed for this while nobody asks: one walk over the objects answers all
//! that is asked at once. This module must not know what the names are for.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use datapath::abi::PolicyDenial;
use tokio::sync::oneshot;

use crate::{
    cni::attachment::Attachment,
    inspect::pod_addresses,
    model::{
        Model,
        objects::{Node, Service},
    },
};

/// An address, port and IP protocol that may be a Service's.
pub type Place = (IpAddr, u16, u8);

/// What names are asked for, and where they are told.
#[derive(Debug)]
pub struct Question {
    /// Of pods and nodes.
    pub addresses: BTreeSet<IpAddr>,
    /// Of Services.
    pub places: BTreeSet<Place>,
    /// Of rules and policies.
    pub rules: BTreeSet<PolicyDenial>,
    /// Whoever asked may have gone.
    pub reply: oneshot::Sender<Names>,
}

/// Names, as far as there are any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Pods, `namespace/name`.
    pub pods: HashMap<IpAddr, String>,
    /// Nodes.
    pub nodes: HashMap<IpAddr, String>,
    /// Services, `namespace/name`.
    pub services: HashMap<Place, String>,
    /// What allows or denies, as people know it.
    pub rules: HashMap<PolicyDenial, String>,
}

/// What the model, and pods that are wired but may not have told their addresses yet, say.
pub fn find<'a>(
    model: &'a Model,
    wired: impl Iterator<Item = &'a Attachment>,
    addresses: &BTreeSet<IpAddr>,
    places: &BTreeSet<Place>,
) -> Names {
    let mut names = Names::default();
    for node in model.nodes() {
        for address in node.addresses.iter().filter(|address| addresses.contains(address)) {
            names.nodes.insert(*address, node.key.name.to_string());
        }
    }
    for (address, key) in pod_addresses(model.pods(), wired).filter(|(address, _)| addresses.contains(address)) {
        names.pods.insert(address, key.to_string());
    }
    if !places.is_empty() {
        let of_node: BTreeSet<IpAddr> = model.own_node().map(own_addresses).unwrap_or_default();
        for service in model.services().filter(|service| !service.foreign) {
            for place in places.iter().filter(|place| serves(service, place, &of_node)) {
                names.services.insert(*place, service.key.to_string());
            }
        }
    }
    names
}

fn own_addresses(node: &Node) -> BTreeSet<IpAddr> {
    node.addresses.iter().copied().collect()
}

/// Whether a place is a Service's, though none of its ports may be.
fn serves(service: &Service, &(address, port, protocol): &Place, of_node: &BTreeSet<IpAddr>) -> bool {
    if service.cluster_ips.contains(&address) {
        return true;
    }
    let mut ports = service.ports.iter().filter(|candidate| candidate.protocol.number() == protocol);
    let has_address =
        service.external_ips.contains(&address) || service.load_balancer.iter().any(|ingress| ingress.ip == address);
    let at_node = of_node.contains(&address) || address.is_loopback();
    ports.any(|candidate| has_address && candidate.port == port || at_node && candidate.node_port == port && port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        change::{Change, ChangeBatch},
        objects::{Kind, ObjectKey, Pod, Protocol, ServicePort},
    };

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn pod(name: &str, address: &str, finished: bool, host_network: bool) -> Pod {
        Pod {
            key: ObjectKey::new("x", name),
            node: "a".into(),
            ips: vec![ip(address)],
            host_network,
            finished,
            labels: Vec::new(),
            named_ports: Vec::new(),
        }
    }

    #[test]
    fn whose_an_address_is() {
        let node = Node {
            key: ObjectKey::new("", "a"),
            created: 0,
            pod_cidrs: Vec::new(),
            addresses: vec![ip("192.0.2.1")],
            zone: "".into(),
            deleting: false,
        };
        let port =
            |number, node_port| ServicePort { name: "".into(), protocol: Protocol::Tcp, port: number, node_port };
        let service = Service {
            key: ObjectKey::new("x", "s"),
            created: 0,
            service_type: Default::default(),
            foreign: false,
            cluster_ips: vec![ip("10.96.0.1")],
            external_ips: vec![ip("198.51.100.1")],
            load_balancer: Vec::new(),
            source_ranges: Vec::new(),
            unread_source_ranges: false,
            ports: vec![port(80, 30080)],
            affinity_seconds: None,
            internal_policy: Default::default(),
            external_policy: Default::default(),
            health_check_node_port: 0,
            annotations: Vec::new(),
        };
        let pods = [
            pod("old", "10.0.0.2", true, false),
            pod("p", "10.0.0.2", false, false),
            pod("h", "192.0.2.1", false, true),
        ];
        let mut model = Model::new("a");
        model.apply(ChangeBatch {
            changes: vec![
                Change::Replace(Kind::Node, vec![node.into()]),
                Change::Replace(Kind::Pod, pods.into_iter().map(Into::into).collect()),
                Change::Replace(Kind::Service, vec![service.into()]),
            ],
            ..ChangeBatch::default()
        });
        let addresses = ["10.0.0.2", "192.0.2.1", "203.0.113.1"].map(ip).into();
        let tcp = Protocol::Tcp.number();
        let udp = Protocol::Udp.number();
        let table = [
            ("10.96.0.1", 80, tcp, true),
            // Of a port that it doesn't have, too: that is why it is refused.
            ("10.96.0.1", 81, udp, true),
            ("198.51.100.1", 80, tcp, true),
            ("198.51.100.1", 81, tcp, false),
            ("198.51.100.1", 80, udp, false),
            ("192.0.2.1", 30080, tcp, true),
            ("192.0.2.1", 0, tcp, false),
            ("203.0.113.1", 30080, tcp, false),
        ];
        let places = table.map(|(address, port, protocol, _)| (ip(address), port, protocol)).into();
        let names = find(&model, std::iter::empty(), &addresses, &places);
        assert_eq!(names.pods, HashMap::from([(ip("10.0.0.2"), "x/p".into())]));
        assert_eq!(names.nodes, HashMap::from([(ip("192.0.2.1"), "a".into())]));
        for (address, port, protocol, named) in table {
            let found = names.services.get(&(ip(address), port, protocol)).map(String::as_str);
            assert_eq!(found, named.then_some("x/s"), "{address} {port} {protocol}");
        }
    }
}
