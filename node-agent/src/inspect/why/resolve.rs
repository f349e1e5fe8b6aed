//! Who is meant by a name or an address.

use std::net::IpAddr;

use datapath::{
    abi::{Addr, Family, NetworkValue, PodValue},
    tables::Tables,
};

use crate::{
    api::{
        protocol::{Failure, FailureReason},
        why::{Host, NamedKind, Probe, Target},
    },
    inspect::{ServiceFacts, Snapshot, not_found},
    model::objects::{Pod, Protocol},
};

/// Who dials.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub addr: Addr,
    pub kind: ClientKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientKind {
    /// A pod of this node, its entry, and its network namespace's cookie if that is known.
    Pod(PodValue, Option<u64>),
    /// A process of the node.
    Node,
    /// A pod of another node.
    RemotePod,
    /// Another node.
    Peer,
    /// Anybody else.
    Outside,
}

/// Whom it dials.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dialled {
    pub addr: Addr,
    pub port: u16,
}

fn bad(message: impl std::fmt::Display) -> Failure {
    Failure::new(FailureReason::BadRequest, message)
}

fn family_name(family: Family) -> &'static str {
    if family == Family::V4 { "IPv4" } else { "IPv6" }
}

/// The addresses by which a client may be known, in the order of preference.
pub(super) fn client_addresses<T: Tables>(
    snapshot: &Snapshot,
    tables: &T,
    from: Option<&Target>,
    namespace: &str,
) -> Result<Vec<Addr>, Failure> {
    let Some(target) = from else {
        let node = tables.node().copied().unwrap_or_default();
        return Ok([node.v4, node.v6].into_iter().filter(|addr| !addr.is_unspecified()).collect());
    };
    match &target.host {
        Host::Address(ip) => Ok(vec![Addr::from(*ip)]),
        Host::Named { kind: Some(NamedKind::Service), name, .. } => {
            Err(bad(format!("--from {name}: a Service dials nobody; name a Pod or an address")))
        }
        Host::Named { namespace: given, name, .. } => {
            let namespace = given.as_deref().unwrap_or(namespace);
            pod_addresses(snapshot, namespace, name)?.ok_or_else(|| not_found("Pod", Some(namespace), name))
        }
    }
}

/// A pod's addresses; `None`: there is no such Pod.
fn pod_addresses(snapshot: &Snapshot, namespace: &str, name: &str) -> Result<Option<Vec<Addr>>, Failure> {
    let wired = snapshot
        .wired
        .iter()
        .find(|attachment| attachment.pod.as_ref().is_some_and(|pod| pod.namespace == namespace && pod.name == name));
    if let Some(attachment) = wired {
        return Ok(Some(attachment.addresses.iter().map(|ip| Addr::from(*ip)).collect()));
    }
    let is_it = |pod: &&std::sync::Arc<Pod>| *pod.key.namespace == *namespace && *pod.key.name == *name;
    let Some(pod) = snapshot.pods.iter().find(is_it) else { return Ok(None) };
    if pod.ips.is_empty() {
        let place =
            if pod.node.is_empty() { "it isn't scheduled".into() } else { format!("it is on node {}", pod.node) };
        return Err(Failure::new(
            FailureReason::TryAgain,
            format!("Pod {} has no address yet ({place}); ask again when it runs", pod.key),
        ));
    }
    Ok(Some(pod.ips.iter().map(|ip| Addr::from(*ip)).collect()))
}

/// Who the client with an address is.
pub(super) fn client<T: Tables>(snapshot: &Snapshot, tables: &T, addr: Addr) -> Client {
    let kind = if let Some(pod) = tables.pod(&addr) {
        let has_it = |ip: &IpAddr| Addr::from(*ip) == addr;
        let attachment = snapshot.wired.iter().find(|attachment| attachment.addresses.iter().any(has_it));
        ClientKind::Pod(*pod, attachment.map(|attachment| attachment.netns_cookie))
    } else if addr.is_loopback() {
        ClientKind::Node
    } else {
        match tables.network_kind(&addr) {
            NetworkValue::NODE => ClientKind::Node,
            NetworkValue::PODS => ClientKind::RemotePod,
            NetworkValue::PEER => ClientKind::Peer,
            _ => ClientKind::Outside,
        }
    };
    Client { addr, kind }
}

/// Whom a client in one of these families dials.
pub(super) fn dialled(
    snapshot: &Snapshot,
    to: &Target,
    probe: Probe,
    namespace: &str,
    families: &[Family],
) -> Result<Dialled, Failure> {
    let (addresses, service): (Vec<Addr>, Option<&ServiceFacts>) = match &to.host {
        Host::Address(ip) => (vec![Addr::from(*ip)], None),
        Host::Named { kind, namespace: given, name } => {
            let namespace = given.as_deref().unwrap_or(namespace);
            let is_it = |facts: &&ServiceFacts| {
                let key = &facts.service.key;
                *key.namespace == *namespace && *key.name == **name
            };
            let service = match kind {
                Some(NamedKind::Pod) => None,
                _ => snapshot.services.iter().find(is_it),
            };
            let pod = match (kind, service) {
                (Some(NamedKind::Service), _) | (_, Some(_)) => None,
                _ => pod_addresses(snapshot, namespace, name)?,
            };
            match (service, pod) {
                (Some(facts), _) => {
                    let addresses: Vec<Addr> = facts.service.cluster_ips.iter().map(|ip| Addr::from(*ip)).collect();
                    if addresses.is_empty() {
                        return Err(bad(format!(
                            "Service {} has no ClusterIP: its clients dial its Pods, so ask about one of these",
                            facts.service.key
                        )));
                    }
                    (addresses, Some(facts))
                }
                (None, Some(addresses)) => (addresses, None),
                (None, None) => {
                    let what = match kind {
                        Some(NamedKind::Service) => "Service",
                        Some(NamedKind::Pod) => "Pod",
                        None => "Service or Pod",
                    };
                    return Err(not_found(what, Some(namespace), name));
                }
            }
        }
    };
    let addr = addresses.iter().find(|addr| families.contains(&addr.family()));
    let Some(addr) = addr.copied() else {
        let have: Vec<_> = families.iter().map(|family| family_name(*family)).collect();
        return Err(bad(format!("{to} has no address of the client's family ({})", have.join(", "))));
    };
    Ok(Dialled { addr, port: port(to, service, probe)? })
}

fn port(to: &Target, service: Option<&ServiceFacts>, probe: Probe) -> Result<u16, Failure> {
    if !probe.has_ports() {
        return Ok(0);
    }
    let protocol = match probe {
        Probe::Udp => Protocol::Udp,
        Probe::Sctp => Protocol::Sctp,
        Probe::Tcp | Probe::Icmp => Protocol::Tcp,
    };
    let ports = || service.iter().flat_map(|facts| &facts.service.ports).filter(|port| port.protocol == protocol);
    let known = || {
        let all: Vec<_> = ports().map(|port| format!("{} {}", port.port, port.name).trim_end().to_owned()).collect();
        if all.is_empty() { format!("it has none of {}", probe.name()) } else { format!("it has {}", all.join(", ")) }
    };
    match (&to.port, service) {
        (Some(text), _) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            text.parse().map_err(|_| bad(format!("{text} is no port")))
        }
        (Some(name), Some(facts)) => {
            let found = ports().find(|port| *port.name == **name).map(|port| port.port);
            let key = &facts.service.key;
            found.ok_or_else(|| {
                Failure::new(
                    FailureReason::NotFound,
                    format!("Service {key} has no {} port named {name}: {}", probe.name(), known()),
                )
            })
        }
        (Some(name), None) => Err(bad(format!("--to {to}: only a Service's ports have names; give {name}'s number"))),
        (None, Some(facts)) => match (ports().next(), ports().nth(1)) {
            (Some(only), None) => Ok(only.port),
            _ => {
                Err(bad(format!("say which port of Service {} is meant, as {to}:PORT: {}", facts.service.key, known())))
            }
        },
        (None, None) => Err(bad(format!("say which port is meant, as {to}:PORT"))),
    }
}
