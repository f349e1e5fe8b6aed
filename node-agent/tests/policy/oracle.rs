//! What the API's text says, evaluated anew for each question over the API's own types.
//!
//! It shares no code with the product: no conversion, no selectors, no CIDRs. Of several
//! pods with one address it knows nothing; no world that it is asked about has such.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
};

use k8s_openapi::{
    api::{core::v1 as core, networking::v1 as networking},
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use crate::{
    cluster_oracle::{self, Way},
    world::World,
};

type Labels = BTreeMap<String, String>;

/// A packet that begins something.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    pub src: IpAddr,
    pub dst: IpAddr,
    /// "TCP", "UDP", "SCTP", or another that has no ports.
    pub protocol: &'a str,
    pub port: u16,
}

/// Whether the policies of the pod that sends it allow it.
pub fn egress(world: &World, packet: Packet<'_>) -> bool {
    let Some(subject) = pod_at(world, packet.src) else { return true };
    let by_network = || network_egress(world, subject, packet);
    cluster_oracle::judge(world, subject, packet, packet.dst, Way::EGRESS, by_network)
}

/// Whether the policies of the pod to which it is sent allow it.
pub fn ingress(world: &World, packet: Packet<'_>) -> bool {
    let Some(subject) = pod_at(world, packet.dst) else { return true };
    let by_network = || network_ingress(world, subject, packet);
    cluster_oracle::judge(world, subject, packet, packet.src, Way::INGRESS, by_network)
}

/// Whether NetworkPolicies allow it; `None`: none isolates the pod so.
fn network_egress(world: &World, (namespace, pod): (&str, &core::Pod), packet: Packet<'_>) -> Option<bool> {
    let policies: Vec<_> = selecting(world, namespace, pod).filter(|policy| has_type(policy, "Egress")).collect();
    (!policies.is_empty()).then(|| {
        policies.iter().any(|policy| {
            let rules = policy.spec.as_ref().unwrap().egress.as_deref().unwrap_or_default();
            rules.iter().any(|rule| {
                is_peer(world, namespace, rule.to.as_deref(), packet.dst)
                    && is_port(rule.ports.as_deref(), pod_at(world, packet.dst).map(|(_, pod)| pod), packet)
            })
        })
    })
}

fn network_ingress(world: &World, (namespace, pod): (&str, &core::Pod), packet: Packet<'_>) -> Option<bool> {
    let policies: Vec<_> = selecting(world, namespace, pod).filter(|policy| has_type(policy, "Ingress")).collect();
    (!policies.is_empty()).then(|| {
        policies.iter().any(|policy| {
            let rules = policy.spec.as_ref().unwrap().ingress.as_deref().unwrap_or_default();
            rules.iter().any(|rule| {
                is_peer(world, namespace, rule.from.as_deref(), packet.src)
                    && is_port(rule.ports.as_deref(), Some(pod), packet)
            })
        })
    })
}

/// The pod with this address, if it isn't its node's.
pub fn pod_at(world: &World, ip: IpAddr) -> Option<(&str, &core::Pod)> {
    let mut pods = world.pods.iter().filter(|(_, pod)| {
        let status = pod.status.as_ref().unwrap();
        let ips = status.pod_ips.iter().flatten();
        let is_host = pod.spec.as_ref().unwrap().host_network == Some(true);
        let is_over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        !is_host && !is_over && ips.map(|ip| ip.ip.parse::<IpAddr>().unwrap()).any(|other| other == ip)
    });
    pods.next().map(|((namespace, _), pod)| (namespace.as_str(), pod))
}

fn selecting<'a>(
    world: &'a World,
    namespace: &'a str,
    pod: &'a core::Pod,
) -> impl Iterator<Item = &'a networking::NetworkPolicy> {
    let own = world.policies.iter().filter(move |((of, _), _)| of == namespace).map(|(_, policy)| policy);
    own.filter(|policy| {
        let everything = LabelSelector::default();
        selects(policy.spec.as_ref().unwrap().pod_selector.as_ref().unwrap_or(&everything), &labels(pod))
    })
}

pub fn labels(pod: &core::Pod) -> Labels {
    pod.metadata.labels.clone().unwrap_or_default()
}

pub fn namespace_labels(world: &World, namespace: &str) -> Labels {
    let mut labels = world.namespaces.get(namespace).and_then(|n| n.metadata.labels.clone()).unwrap_or_default();
    labels.insert("kubernetes.io/metadata.name".to_owned(), namespace.to_owned());
    labels
}

/// "If no policyTypes are specified on a NetworkPolicy then by default Ingress will always
/// be set and Egress will be set if the NetworkPolicy has any egress rules."
fn has_type(policy: &networking::NetworkPolicy, wanted: &str) -> bool {
    let spec = policy.spec.as_ref().unwrap();
    match spec.policy_types.as_deref() {
        None | Some([]) => wanted == "Ingress" || !spec.egress.as_deref().unwrap_or_default().is_empty(),
        Some(types) => types.iter().any(|word| word == wanted),
    }
}

fn is_peer(world: &World, own: &str, peers: Option<&[networking::NetworkPolicyPeer]>, ip: IpAddr) -> bool {
    let Some(peers) = peers.filter(|peers| !peers.is_empty()) else { return true };
    peers.iter().any(|peer| {
        if let Some(block) = &peer.ip_block {
            return is_in(ip, &block.cidr) && !block.except.iter().flatten().any(|except| is_in(ip, except));
        }
        let Some((namespace, pod)) = pod_at(world, ip) else { return false };
        let namespace_is_right = match &peer.namespace_selector {
            None => namespace == own,
            Some(selector) => selects(selector, &namespace_labels(world, namespace)),
        };
        namespace_is_right && peer.pod_selector.as_ref().is_none_or(|selector| selects(selector, &labels(pod)))
    })
}

fn is_port(ports: Option<&[networking::NetworkPolicyPort]>, receiver: Option<&core::Pod>, packet: Packet<'_>) -> bool {
    let Some(ports) = ports.filter(|ports| !ports.is_empty()) else { return true };
    ports.iter().any(|port| {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        protocol == packet.protocol
            && match (&port.port, port.end_port) {
                (None, _) => true,
                (Some(IntOrString::Int(number)), None) => *number == i32::from(packet.port),
                (Some(IntOrString::Int(first)), Some(last)) => (*first..=last).contains(&i32::from(packet.port)),
                (Some(IntOrString::String(name)), _) => {
                    receiver.and_then(|pod| number_of(pod, name, protocol)) == Some(i32::from(packet.port))
                }
            }
    })
}

pub fn number_of(pod: &core::Pod, name: &str, protocol: &str) -> Option<i32> {
    let containers = &pod.spec.as_ref().unwrap().containers;
    let ports = containers.iter().flat_map(|container| container.ports.iter().flatten());
    let mut named = ports
        .filter(|port| port.name.as_deref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol);
    named.next().map(|port| port.container_port)
}

pub fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    let pairs = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    pairs
        && selector.match_expressions.iter().flatten().all(|expression| {
            let value = labels.get(&expression.key);
            let listed = value.is_some_and(|value| expression.values.iter().flatten().any(|one| one == value));
            match expression.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                other => panic!("no operator: {other}"),
            }
        })
}

pub fn is_in(ip: IpAddr, cidr: &str) -> bool {
    let (network, bits) = cidr.split_once('/').unwrap();
    let (network, bits): (IpAddr, u32) = (network.parse().unwrap(), bits.parse().unwrap());
    let number = |ip: Ipv6Addr| u128::from(ip);
    match (ip, network) {
        (IpAddr::V4(ip), IpAddr::V4(network)) => bits == 0 || (u32::from(ip) ^ u32::from(network)) >> (32 - bits) == 0,
        (IpAddr::V6(ip), IpAddr::V6(network)) => bits == 0 || (number(ip) ^ number(network)) >> (128 - bits) == 0,
        _ => false,
    }
}
