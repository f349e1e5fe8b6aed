//! hostPorts: ports of the node that lead to one pod each, as frontends of a Service of
//! that pod's own.
//!
//! Of two pods that want one port at one address, the older has it; of two attachments
//! of one Pod, the newer is the Pod's. This module must not know who wired the pods,
//! nor what becomes of the frontends.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use datapath::abi::{Addr, Be16, Family, FrontendKey, FrontendValue, protocol};

use crate::{
    cni::attachment::{Attachment, HostPort},
    compile::{CompiledAddress, CompiledEndpoint, CompiledFrontend, CompiledPort, CompiledService, EndpointSet},
    inspect::HOST_PORT,
    model::{Model, change::Problem, objects::ObjectKey},
};

/// How the subjects of their problems begin.
pub const HOST_PORTS: &str = "hostPorts of ";

/// What the attachments want.
#[derive(Debug, Default, PartialEq)]
pub struct HostPorts {
    /// A Service for each pod that has hostPorts.
    pub services: BTreeMap<ObjectKey, CompiledService>,
    /// Ports that are another's, by the attachment that wants them.
    pub problems: BTreeMap<String, String>,
    /// All ports, to be compared with NodePorts.
    ports: BTreeMap<(u16, u8), String>,
}

impl HostPorts {
    /// What these attachments want on a node with these addresses.
    pub fn of<'a>(attachments: impl Iterator<Item = &'a Attachment>, own: &BTreeSet<IpAddr>) -> Self {
        let mut newest: BTreeMap<ObjectKey, &Attachment> = BTreeMap::new();
        for attachment in attachments.filter(|attachment| !attachment.host_ports.is_empty()) {
            let owner = newest.entry(key(attachment)).or_insert(attachment);
            if owner.since < attachment.since {
                *owner = attachment;
            }
        }
        let mut by_age: Vec<(ObjectKey, &Attachment)> = newest.into_iter().collect();
        by_age.sort_by_key(|(_, attachment)| attachment.since);
        let served: Vec<IpAddr> = own.iter().copied().filter(is_served).collect();
        let (mut wanted, mut taken) = (Self::default(), BTreeMap::new());
        for (key, attachment) in by_age {
            wanted.add(&key, attachment, &served, &mut taken);
        }
        wanted
    }

    /// NodePorts that pods have as hostPorts too.
    pub fn conflicts<'a>(&'a self, model: &'a Model) -> impl Iterator<Item = Problem> + 'a {
        let services = model.services().filter(|_| !self.ports.is_empty());
        let node_ports = services.flat_map(|service| service.ports.iter().map(move |port| (service, port)));
        node_ports.filter(|(_, port)| port.node_port != 0).filter_map(|(service, port)| {
            let pod = self.ports.get(&(port.node_port, port.protocol.number()))?;
            let message = format!(
                "NodePort {} is a hostPort of {pod} too, which comes first at the node's addresses; use another port",
                port.node_port
            );
            Some(Problem { subject: format!("Service {}", service.key), message })
        })
    }

    fn add(
        &mut self,
        key: &ObjectKey,
        attachment: &Attachment,
        served: &[IpAddr],
        taken: &mut BTreeMap<FrontendKey, String>,
    ) {
        let owner = describe(attachment);
        let mut services: Vec<CompiledService> = Vec::new();
        for host_port in &attachment.host_ports {
            self.ports.entry((host_port.port, host_port.protocol)).or_insert_with(|| owner.clone());
            for family in [Family::V4, Family::V6] {
                let Some(pod) = attachment.addresses.iter().map(|ip| Addr::from(*ip)).find(|a| a.family() == family)
                else {
                    continue;
                };
                let addresses = addresses(host_port, served).filter(|ip| Addr::from(*ip).family() == family);
                let mut frontends = Vec::new();
                for ip in addresses {
                    let key = FrontendKey::new(Addr::from(ip), Be16::new(host_port.port), host_port.protocol);
                    match taken.get(&key) {
                        Some(holder) if *holder != owner => self.refuse(&owner, holder, ip, host_port),
                        Some(_) => {}
                        None => {
                            taken.insert(key, owner.clone());
                            frontends.push(key);
                        }
                    }
                }
                if !frontends.is_empty() {
                    add_port(&mut services, family, host_port, frontends, pod);
                }
            }
        }
        for (number, mut service) in services.into_iter().enumerate() {
            // Unix seconds, as a Service's.
            service.created = attachment.since / 1000;
            let name = if number == 0 { key.name.to_string() } else { format!("{}/{number}", key.name) };
            self.services.insert(ObjectKey::new(&*key.namespace, name.as_str()), service);
        }
    }

    fn refuse(&mut self, owner: &str, holder: &str, ip: IpAddr, host_port: &HostPort) {
        let place = SocketAddr::new(ip, host_port.port);
        let protocol = match host_port.protocol {
            protocol::TCP => "TCP",
            protocol::UDP => "UDP",
            _ => "SCTP",
        };
        let what = format!("{place} {protocol} belongs to {holder}, which was first");
        let problem = self.problems.entry(format!("{HOST_PORTS}{owner}")).or_default();
        problem.push_str(if problem.is_empty() { "" } else { "; " });
        problem.push_str(&what);
    }
}

/// Puts a port into the first Service that has none of its number, or the same: one
/// Service can't have one port twice with different targets.
fn add_port(
    services: &mut Vec<CompiledService>,
    family: Family,
    host_port: &HostPort,
    keys: Vec<FrontendKey>,
    pod: Addr,
) {
    let endpoint = CompiledEndpoint {
        addr: pod,
        port: Be16::new(host_port.container_port),
        cluster: true,
        local: true,
        on_node: true,
    };
    let identity = (family, host_port.protocol, host_port.port);
    let fits = |service: &CompiledService| {
        service.ports.iter().all(|port| port.identity() != identity || port.endpoints == [endpoint])
    };
    let at = services.iter().position(fits).unwrap_or_else(|| {
        services.push(CompiledService::default());
        services.len() - 1
    });
    let service = &mut services[at];
    for addr in keys.iter().map(|key| key.addr) {
        if !service.addresses.iter().any(|address| address.addr == addr) {
            service.addresses.push(CompiledAddress { addr, rejects: false });
        }
    }
    let frontends = keys.into_iter().map(|key| CompiledFrontend {
        key,
        flags: FrontendValue::EXTERNAL | FrontendValue::KEEP_CLIENT,
        internal: EndpointSet::Cluster,
        external: EndpointSet::Cluster,
    });
    match service.ports.iter_mut().find(|port| port.identity() == identity) {
        Some(port) => port.frontends.extend(frontends),
        None => service.ports.push(CompiledPort {
            family,
            protocol: host_port.protocol,
            port: host_port.port,
            frontends: frontends.collect(),
            endpoints: vec![endpoint],
            usable: true,
            affinity_seconds: 0,
            source_ranges: vec![],
        }),
    }
}

/// Where a hostPort is.
fn addresses<'a>(host_port: &'a HostPort, served: &'a [IpAddr]) -> impl Iterator<Item = IpAddr> + 'a {
    let exact = host_port.ip.filter(|ip| !ip.is_unspecified());
    let is_meant = move |ip: &&IpAddr| exact.is_none() && host_port.ip.is_none_or(|any| any.is_ipv6() == ip.is_ipv6());
    exact.into_iter().chain(served.iter().filter(is_meant).copied())
}

/// Whether a hostPort without an address is at this one of the node's. Loopback's is
/// for the node's own processes.
fn is_served(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => !v4.is_loopback() || *v4 == Ipv4Addr::LOCALHOST,
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    }
}

fn key(attachment: &Attachment) -> ObjectKey {
    let ifname = &attachment.id.ifname;
    let (namespace, mut name) = match &attachment.pod {
        Some(pod) => (&*pod.namespace, pod.name.clone()),
        None => ("", attachment.id.container_id.clone()),
    };
    if ifname != "eth0" {
        name = format!("{name}/{ifname}");
    }
    ObjectKey::new(format!("{HOST_PORT}{namespace}").as_str(), name.as_str())
}

fn describe(attachment: &Attachment) -> String {
    match &attachment.pod {
        Some(pod) => format!("Pod {}", pod.key()),
        None => format!("interface {}", attachment.id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::attachment::{AttachmentId, PodName};

    fn attachment(pod: &str, container: &str, since: i64, host_ports: &[(&str, u16, u16)]) -> Attachment {
        let id = AttachmentId { container_id: container.to_owned(), ifname: "eth0".to_owned() };
        let host_port = |(ip, port, container_port): &(&str, u16, u16)| HostPort {
            ip: ip.parse().ok(),
            port: *port,
            container_port: *container_port,
            protocol: protocol::TCP,
        };
        Attachment {
            network: "net".to_owned(),
            pod: Some(PodName { namespace: "n".to_owned(), name: pod.to_owned() }),
            addresses: vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
            delegated: None,
            host_ports: host_ports.iter().map(host_port).collect(),
            since,
            host_ifname: id.host_ifname(),
            host_ifindex: 7,
            pod_mac: id.pod_mac(),
            mtu: 1500,
            netns: "/run/netns/x".into(),
            netns_cookie: 2,
            held: false,
            id,
        }
    }

    /// Service, frontend, and port of the pod.
    fn all(attachments: &[Attachment]) -> (Vec<(String, String, u16)>, HostPorts) {
        let own = ["127.0.0.1", "192.0.2.1", "10.9.9.9", "::1", "fe80::1", "2001:db8::1"];
        let own = own.into_iter().map(|ip| ip.parse().unwrap()).collect();
        let wanted = HostPorts::of(attachments.iter(), &own);
        let mut frontends = Vec::new();
        for (key, service) in &wanted.services {
            for port in &service.ports {
                for frontend in &port.frontends {
                    let place = SocketAddr::new(frontend.key.addr.into(), frontend.key.port.get());
                    frontends.push((key.to_string(), place.to_string(), port.endpoints[0].port.get()));
                    assert!(service.addresses.iter().any(|a| a.addr == frontend.key.addr && !a.rejects));
                }
            }
        }
        (frontends, wanted)
    }

    #[test]
    fn a_port_is_where_its_address_says() {
        let everywhere = ["10.9.9.9:80", "127.0.0.1:80", "192.0.2.1:80", "[2001:db8::1]:80"];
        for (ip, expected) in [
            ("", &everywhere[..]),
            ("0.0.0.0", &everywhere[..3]),
            ("::", &everywhere[3..]),
            ("192.0.2.1", &["192.0.2.1:80"]),
            ("127.0.0.1", &["127.0.0.1:80"]),
            ("2001:db8::1", &["[2001:db8::1]:80"]),
        ] {
            let (frontends, wanted) = all(&[attachment("p", "c", 1000, &[(ip, 80, 8080)])]);
            let mut places: Vec<_> = frontends.iter().map(|(_, place, _)| place.as_str()).collect();
            places.sort_unstable();
            assert_eq!(places, expected, "{ip}");
            assert!(frontends.iter().all(|(key, _, port)| key == "hostport/n/p" && *port == 8080));
            assert!(wanted.problems.is_empty());
        }
    }

    #[test]
    fn the_first_pod_has_the_port() {
        let first = attachment("b", "c1", 1000, &[("", 80, 8080)]);
        let second = attachment("a", "c2", 1001, &[("192.0.2.1", 80, 8081), ("192.0.2.1", 81, 8081)]);
        let (frontends, wanted) = all(&[second.clone(), first]);
        let of_second: Vec<_> = frontends.iter().filter(|(key, ..)| key == "hostport/n/a").collect();
        assert_eq!(of_second, [&("hostport/n/a".to_owned(), "192.0.2.1:81".to_owned(), 8081)]);
        let problem = &wanted.problems["hostPorts of Pod n/a"];
        assert_eq!(problem, "192.0.2.1:80 TCP belongs to Pod n/b, which was first");
        assert_eq!(all(&[second]).0.len(), 2, "once the other is gone it has the port");
    }

    #[test]
    fn of_a_pods_attachments_the_newest_counts() {
        let before = attachment("p", "c1", 1000, &[("192.0.2.1", 80, 8080)]);
        let after = attachment("p", "c2", 2000, &[("192.0.2.1", 80, 9090)]);
        let (frontends, wanted) = all(&[after, before]);
        assert_eq!(frontends, [("hostport/n/p".to_owned(), "192.0.2.1:80".to_owned(), 9090)]);
        assert!(wanted.problems.is_empty());
    }

    #[test]
    fn one_number_at_two_addresses_may_lead_to_two_ports() {
        let pod =
            attachment("p", "c", 1000, &[("192.0.2.1", 80, 8080), ("10.9.9.9", 80, 8081), ("127.0.0.1", 80, 8080)]);
        let (frontends, wanted) = all(&[pod]);
        let expected = [
            ("hostport/n/p", "192.0.2.1:80", 8080),
            ("hostport/n/p", "127.0.0.1:80", 8080),
            ("hostport/n/p/1", "10.9.9.9:80", 8081),
        ];
        let expected = expected.map(|(key, place, port)| (key.to_owned(), place.to_owned(), port));
        assert_eq!(frontends, expected);
        assert!(wanted.services.values().all(|service| service.ports.len() == 1));
    }
}
