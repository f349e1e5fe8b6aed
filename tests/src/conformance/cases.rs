//! The file of cases.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use serde::Deserialize;
use serde_json::Value;

use super::stage::NODE;

/// Addresses of the file, and what stands for them here: the node's primary ones, and its network.
const RENAMED: [(&str, &str); 3] =
    [("192.168.0.2", "192.0.2.11"), ("192.168.0.", "192.0.2."), ("2001:db8::1", "2001:db8::11")];

#[derive(Deserialize)]
struct File {
    cases: Vec<Case>,
}

/// A case: steps with one node and one set of flags.
#[derive(Clone, Debug, Deserialize)]
pub struct Case {
    /// Its id.
    pub id: String,
    #[serde(default)]
    pub(super) config: Config,
    /// What happens, in order.
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Config {
    #[serde(default)]
    pub node: NodeConfig,
    pub node_port_addresses: Option<Vec<String>>,
    pub localhost_node_ports: Option<bool>,
    pub masquerade_all: Option<bool>,
    local_detector: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct NodeConfig {
    name: Option<String>,
    pub zone: Option<String>,
}

/// A step: what there is from now on, and what becomes of packets then.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Its name.
    pub name: String,
    pub(super) objects: Vec<Value>,
    /// The packets.
    pub packets: Vec<Packet>,
    #[serde(default)]
    pub(super) health_checks: Vec<HealthCheck>,
}

/// What a health check server answers.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HealthCheck {
    pub port: u16,
    pub status: u16,
    pub local_endpoints: u64,
}

/// A packet.
#[derive(Clone, Debug, Deserialize)]
pub struct Packet {
    /// Its name.
    pub name: String,
    pub(super) src: Source,
    dst: Destination,
    /// TCP, UDP or SCTP.
    pub protocol: String,
    /// What becomes of it.
    pub expect: Expect,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Source {
    pub kind: From,
    pub ip: IpAddr,
}

#[derive(Clone, Debug, Deserialize)]
struct Destination {
    ip: IpAddr,
    port: u16,
}

/// Where a packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum From {
    /// A pod of the node.
    Pod,
    /// Outside the cluster.
    External,
    /// A process of the node.
    Node,
    /// A process of the node, over the loopback device.
    Localhost,
    /// A process of the node, from a load balancer's address that the node has, too.
    LbIp,
}

/// What becomes of a packet.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "action", rename_all = "lowercase")]
pub enum Expect {
    /// One of these backends gets it.
    Dnat {
        /// They.
        backends: BTreeSet<SocketAddr>,
        /// Whether it sees an address of the node as the client's.
        masquerade: bool,
    },
    /// It is refused.
    Reject,
    /// Nothing.
    Drop,
    /// It goes where it says.
    None,
    /// A health check server of the node gets it.
    Accept,
    /// Anything, unless a backend gets it.
    Unreachable,
}

impl Packet {
    /// Its destination.
    pub fn to(&self) -> SocketAddr {
        SocketAddr::new(self.dst.ip, self.dst.port)
    }

    /// Where it comes from.
    pub fn from(&self) -> From {
        self.src.kind
    }
}

impl Case {
    /// Whether kube-proxy is told who is a pod.
    pub fn knows_pods(&self) -> bool {
        self.config.local_detector != Some(false)
    }

    /// Calls the case's node as the node here is called, and who has that name otherwise.
    fn rename_nodes(&mut self) {
        let own = self.config.node.name.clone().unwrap_or_else(|| NODE.to_owned());
        let rename = |name: &mut Value| {
            if *name == own {
                *name = NODE.into();
            } else if name == NODE {
                *name = "another".into();
            }
        };
        let objects = self.steps.iter_mut().flat_map(|step| &mut step.objects);
        let endpoints = objects.filter_map(|object| object["endpoints"].as_array_mut()).flatten();
        for endpoint in endpoints {
            rename(&mut endpoint["nodeName"]);
            if let Some(hints) = endpoint.pointer_mut("/hints/forNodes").and_then(Value::as_array_mut) {
                hints.iter_mut().for_each(|hint| rename(&mut hint["name"]));
            }
        }
    }
}

impl Step {
    /// Endpoints by address, with their ports and whether they are on the node.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = (SocketAddr, String, bool)> + '_ {
        let slices = self.objects.iter().filter(|object| object["kind"] == "EndpointSlice");
        slices.flat_map(|slice| {
            let ports: Vec<_> = list(&slice["ports"]).iter().filter_map(port).collect();
            list(&slice["endpoints"]).iter().flat_map(move |endpoint| {
                // Those written in a strange way are there in the usual one, too.
                let address = endpoint["addresses"][0].as_str().and_then(|text| text.parse::<IpAddr>().ok());
                let is_here = endpoint["nodeName"] == NODE;
                let of = move |(port, protocol)| address.map(|ip| (SocketAddr::new(ip, port), protocol, is_here));
                ports.clone().into_iter().filter_map(of)
            })
        })
    }

    /// Whether the Service that has this destination binds clients to backends.
    pub(super) fn has_affinity(&self, to: SocketAddr) -> bool {
        let services = self.objects.iter().filter(|object| object["spec"]["sessionAffinity"] == "ClientIP");
        let mut found = services.filter(|service| {
            let spec = &service["spec"];
            let ingress = list(&service["status"]["loadBalancer"]["ingress"]).iter().map(|ingress| &ingress["ip"]);
            let addresses = list(&spec["clusterIPs"]).iter().chain(list(&spec["externalIPs"])).chain(ingress);
            let ip = Value::from(to.ip().to_string());
            addresses.into_iter().any(|address| *address == ip)
                || list(&spec["ports"]).iter().any(|port| port["nodePort"] == to.port())
        });
        found.next().is_some()
    }
}

fn port(port: &Value) -> Option<(u16, String)> {
    let number = port["port"].as_u64()?.try_into().ok()?;
    Some((number, port["protocol"].as_str().unwrap_or("TCP").to_owned()))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Reads the cases.
///
/// # Panics
/// If they can't be read.
#[track_caller]
pub fn read() -> Vec<Case> {
    let rename = |text| RENAMED.iter().fold(text, |text: String, (theirs, ours)| text.replace(theirs, ours));
    let file: File = conformance_cases::read(conformance_cases::PROXY_CASES, rename);
    let mut cases = file.cases;
    cases.iter_mut().for_each(Case::rename_nodes);
    cases
}
