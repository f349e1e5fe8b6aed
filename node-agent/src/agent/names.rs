//! Whose an address is, by the model: for who looks at traffic, and asks seldom.
//!
//! Nothing is indexed for this while nobody asks: one walk over the objects answers all
//! that is asked at once. This module must not know what the names are for.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use tokio::sync::oneshot;

use crate::{
    cni::attachment::Attachment,
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
}

/// What the model, and pods that are wired but may not have told their addresses yet, say.
pub fn find<'a>(
    model: &Model,
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
    for pod in model.pods().filter(|pod| !pod.host_network && !pod.finished) {
        for address in pod.ips.iter().filter(|address| addresses.contains(address)) {
            names.pods.insert(*address, pod.key.to_string());
        }
    }
    for attachment in wired {
        let Some(pod) = &attachment.pod else { continue };
        for address in attachment.addresses.iter().filter(|address| addresses.contains(address)) {
            names.pods.insert(*address, format!("{}/{}", pod.namespace, pod.name));
        }
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
