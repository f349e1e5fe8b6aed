//! The Services that a benchmark runs against, and their manifests.
//!
//! Invariant: what a count of Services means is the same for every variant: all
//! of them read the very files that [`Workload::write_manifests`] leaves.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// The port of every Service and of every endpoint behind it.
pub const PORT: u16 = 8080;
/// Endpoints of every Service.
pub const ENDPOINTS: usize = 5;
/// The port of the stream's Service and of the endpoint behind it.
pub const STREAM_PORT: u16 = 5201;
/// How many Services there are where their number matters.
pub const SERVICES_AT_SCALE: usize = 10_000;
/// The node that every endpoint is on.
pub const NODE: &str = "node";
/// Services that real pods stand behind, if there are so many.
const MEASURED: usize = 10;
/// An endpoint on no node, on the link of the node's uplink.
pub const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 99);
/// Files in one folder.
const PER_FOLDER: usize = 500;
/// The namespace of all Services.
const NAMESPACE: &str = "bench";

/// A number of Services, each with [`ENDPOINTS`] endpoints. Those that are
/// dialled lie evenly among the others, so that a proxy which looks through
/// them one by one is met neither at its best nor at its worst. One more has a
/// single endpoint: iperf3's two connections must reach the same server. With
/// NodePorts there is a last one, whose endpoint is [`ELSEWHERE`].
#[derive(Clone, Debug)]
pub struct Workload {
    count: usize,
    backends: Vec<Ipv4Addr>,
    node_ports: bool,
}

impl Workload {
    /// So many Services; behind those measured are the given pods.
    pub fn new(count: usize, backends: Vec<Ipv4Addr>) -> Self {
        Self { count, backends, node_ports: false }
    }

    /// The same Services with a NodePort each.
    #[must_use]
    pub fn with_node_ports(self) -> Self {
        Self { node_ports: true, ..self }
    }

    /// So many Services; nobody dials them.
    pub fn without_pods(count: usize) -> Self {
        Self::new(count, (1..=ENDPOINTS as u8).map(|host| Ipv4Addr::new(10, 127, 0, host)).collect())
    }

    /// How many Services there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The pods behind the Services that are dialled.
    pub fn backends(&self) -> impl Iterator<Item = SocketAddr> {
        self.backends.iter().map(|backend| SocketAddr::from((*backend, PORT)))
    }

    /// The ClusterIPs and ports that are dialled.
    pub fn frontends(&self) -> Vec<SocketAddr> {
        self.measured().map(|index| self.frontend(index)).collect()
    }

    /// The same Services at a node's address.
    pub fn node_ports(&self, node: Ipv4Addr) -> Vec<SocketAddr> {
        self.measured().map(|index| SocketAddr::from((node, node_port(index)))).collect()
    }

    /// The Service whose endpoint is on no node, at a node's address.
    pub fn elsewhere_node_port(&self, node: Ipv4Addr) -> SocketAddr {
        SocketAddr::from((node, node_port(self.count + 1)))
    }

    /// The stream's Service at a node's address.
    pub fn stream_node_port(&self, node: Ipv4Addr) -> SocketAddr {
        SocketAddr::from((node, node_port(self.count)))
    }

    /// A Service's ClusterIP and TCP port.
    pub fn frontend(&self, index: usize) -> SocketAddr {
        SocketAddr::from((cluster_ip(index), PORT))
    }

    /// The ClusterIP and port of the Service that leads to the first pod only.
    pub fn stream_frontend(&self) -> SocketAddr {
        SocketAddr::from((cluster_ip(self.count), STREAM_PORT))
    }

    /// The Services, by index, that real pods stand behind.
    pub fn measured(&self) -> impl Iterator<Item = usize> {
        let step = self.count.div_ceil(MEASURED).max(1);
        (step / 2..self.count).step_by(step)
    }

    /// The endpoints' addresses of a Service as first written.
    pub fn endpoints(&self, index: usize) -> Vec<Ipv4Addr> {
        if index == self.count {
            return self.backends[..1].to_vec();
        }
        if index > self.count {
            return vec![ELSEWHERE];
        }
        if self.measured().any(|measured| measured == index) {
            return self.backends.clone();
        }
        let base = u32::from(Ipv4Addr::new(10, 128, 0, 0)) + (index * ENDPOINTS) as u32;
        (0..ENDPOINTS as u32).map(|i| Ipv4Addr::from(base + i)).collect()
    }

    /// A Service and its EndpointSlice with the given endpoints, as one `List`.
    pub fn manifest(&self, index: usize, endpoints: &[Ipv4Addr]) -> Value {
        let name = format!("service-{index}");
        // Those measured also speak UDP, for the request-response case.
        let udp = index > self.count || self.measured().any(|measured| measured == index);
        let number = if index == self.count { STREAM_PORT } else { PORT };
        let port = |name: &str, protocol: &str| json!({"name": name, "protocol": protocol, "port": number});
        let service_type = if self.node_ports { "NodePort" } else { "ClusterIP" };
        let mut ports = vec![port("tcp", "TCP")];
        ports.extend(udp.then(|| port("udp", "UDP")));
        let mut service_ports = ports.clone();
        if self.node_ports {
            service_ports.iter_mut().for_each(|port| port["nodePort"] = node_port(index).into());
        }
        let endpoints: Vec<Value> = endpoints
            .iter()
            .map(|address| json!({"addresses": [address], "conditions": {"ready": true}, "nodeName": NODE}))
            .collect();
        let ip = IpAddr::from(cluster_ip(index));
        json!({"apiVersion": "v1", "kind": "List", "items": [
            {
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"namespace": NAMESPACE, "name": name},
                "spec": {"type": service_type, "clusterIP": ip, "clusterIPs": [ip], "ports": service_ports},
            },
            {
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {
                    "namespace": NAMESPACE, "name": format!("{name}-a"),
                    "labels": {"kubernetes.io/service-name": name},
                },
                "ports": ports,
                "endpoints": endpoints,
            },
        ]})
    }

    /// Writes every Service below `directory`, a file each.
    ///
    /// # Errors
    /// A file that can't be written.
    pub fn write_manifests(&self, directory: &Path) -> Result<()> {
        let elsewhere = usize::from(self.node_ports);
        for index in 0..=self.count + elsewhere {
            self.write_manifest(directory, index, &self.endpoints(index))?;
        }
        Ok(())
    }

    /// Writes one Service with the given endpoints, by a rename over its file.
    ///
    /// # Errors
    /// A file that can't be written.
    pub fn write_manifest(&self, directory: &Path, index: usize, endpoints: &[Ipv4Addr]) -> Result<()> {
        let folder = directory.join(format!("{:03}", index / PER_FOLDER));
        let file = folder.join(format!("service-{index}.json"));
        let draft = folder.join(format!(".service-{index}.json"));
        let text = serde_json::to_string(&self.manifest(index, endpoints))?;
        fs::create_dir_all(&folder)
            .and_then(|()| fs::write(&draft, text))
            .and_then(|()| fs::rename(&draft, &file))
            .with_context(|| format!("can't write {}", file.display()))
    }
}

/// Below the ports that sockets are given.
fn node_port(index: usize) -> u16 {
    20_000 + u16::try_from(index).expect("so many ports there are")
}

fn cluster_ip(index: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 1, 0)) + index as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_measured_lie_evenly() {
        let check = |count: usize, expected: &[usize]| {
            let backends = vec![Ipv4Addr::LOCALHOST; ENDPOINTS];
            assert_eq!(Workload::new(count, backends).measured().collect::<Vec<_>>(), expected, "{count} Services");
        };
        check(1, &[0]);
        check(10, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        check(10_000, &[500, 1500, 2500, 3500, 4500, 5500, 6500, 7500, 8500, 9500]);
    }

    #[test]
    fn no_two_services_share_an_endpoint_unless_measured() {
        let workload = Workload::new(1000, vec![Ipv4Addr::LOCALHOST; ENDPOINTS]);
        let mut seen = std::collections::HashSet::new();
        for index in 0..1000 {
            for endpoint in workload.endpoints(index) {
                assert!(endpoint == Ipv4Addr::LOCALHOST || seen.insert(endpoint), "{endpoint} twice");
            }
        }
        assert_eq!(seen.len(), 990 * ENDPOINTS);
    }
}
