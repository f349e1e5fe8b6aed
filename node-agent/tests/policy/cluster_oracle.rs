//! What the text of ClusterNetworkPolicy says, evaluated anew for each question over manifests.

use std::net::IpAddr;

use k8s_openapi::{api::core::v1 as core, apimachinery::pkg::apis::meta::v1::LabelSelector};
use serde_json::Value;

use crate::{
    oracle::{Packet, is_in, labels, namespace_labels, number_of, pod_at, selects},
    world::World,
};

/// How a direction's lists are called.
#[derive(Clone, Copy)]
pub struct Way {
    rules: &'static str,
    peers: &'static str,
}

impl Way {
    pub const INGRESS: Self = Self { rules: "ingress", peers: "from" };
    pub const EGRESS: Self = Self { rules: "egress", peers: "to" };
}

/// "Admin tier, NetworkPolicy tier, Baseline tier"; if none decides, all pods can communicate.
pub fn judge(
    world: &World,
    subject: (&str, &core::Pod),
    packet: Packet<'_>,
    peer: IpAddr,
    way: Way,
    by_network: impl FnOnce() -> Option<bool>,
) -> bool {
    let tier = |tier: &str| by_tier(world, subject, packet, peer, way, tier);
    tier("Admin").or_else(by_network).or_else(|| tier("Baseline")).unwrap_or(true)
}

fn by_tier(
    world: &World,
    subject: (&str, &core::Pod),
    packet: Packet<'_>,
    peer: IpAddr,
    way: Way,
    tier: &str,
) -> Option<bool> {
    let of_tier = world.cluster_policies.iter().filter(|(_, policy)| policy["spec"]["tier"] == tier);
    let mut policies: Vec<_> =
        of_tier.map(|(name, policy)| (policy["spec"]["priority"].as_i64(), name, policy)).collect();
    // Which of two of one priority comes first is not said; ours is the one whose name does.
    policies.sort_by_key(|(priority, name, _)| (*priority, *name));
    let receiver = pod_at(world, packet.dst).map(|(_, pod)| pod);
    for (_, _, policy) in policies {
        let spec = &policy["spec"];
        if !is_pod(world, &spec["subject"], subject) {
            continue;
        }
        for rule in spec[way.rules].as_array().into_iter().flatten() {
            let is_peer = rule[way.peers].as_array().unwrap().iter().any(|one| is_peer(world, one, peer));
            let protocols = rule["protocols"].as_array();
            let is_port = protocols.is_none_or(|all| all.iter().any(|one| is_protocol(one, receiver, packet)));
            if is_peer && is_port {
                match rule["action"].as_str().unwrap() {
                    "Accept" => return Some(true),
                    "Deny" => return Some(false),
                    _ => return None,
                }
            }
        }
    }
    None
}

fn is_pod(world: &World, by: &Value, (namespace, pod): (&str, &core::Pod)) -> bool {
    let selector = |value: &Value| serde_json::from_value::<LabelSelector>(value.clone()).unwrap();
    let of_namespace = namespace_labels(world, namespace);
    match (by.get("namespaces"), by.get("pods")) {
        (Some(namespaces), None) => selects(&selector(namespaces), &of_namespace),
        (None, Some(pods)) => {
            selects(&selector(&pods["namespaceSelector"]), &of_namespace)
                && selects(&selector(&pods["podSelector"]), &labels(pod))
        }
        _ => panic!("{by}"),
    }
}

fn is_peer(world: &World, peer: &Value, ip: IpAddr) -> bool {
    match peer.get("networks") {
        Some(networks) => networks.as_array().unwrap().iter().any(|cidr| is_in(ip, cidr.as_str().unwrap())),
        None => pod_at(world, ip).is_some_and(|pod| is_pod(world, peer, pod)),
    }
}

fn is_protocol(one: &Value, receiver: Option<&core::Pod>, packet: Packet<'_>) -> bool {
    let (kind, value) = one.as_object().unwrap().iter().next().unwrap();
    if kind == "destinationNamedPort" {
        let number = receiver.and_then(|pod| number_of(pod, value.as_str().unwrap(), packet.protocol));
        return number == Some(i32::from(packet.port));
    }
    let port = &value["destinationPort"];
    let wanted = match port.get("range") {
        Some(range) => range["start"].as_u64().unwrap()..=range["end"].as_u64().unwrap(),
        None => port["number"].as_u64().unwrap()..=port["number"].as_u64().unwrap(),
    };
    kind.to_uppercase() == packet.protocol && wanted.contains(&u64::from(packet.port))
}
