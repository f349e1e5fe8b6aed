//! The node of the cases, what is around it, and what is in force there.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde_json::{Value, json};

use super::cases::{Case, Config, Expect, From, Packet, Step};
use crate::{
    cluster::{Cluster, Node, Plan, Pod},
    manifest::{self, NAMESPACE},
    sandbox::Namespace,
    traffic::{Place, Server},
    wait,
};

/// What the node is called.
pub(super) const NODE: &str = "test-node";
/// The node's addresses besides its primary ones.
const SECONDARY: [&str; 3] = ["192.168.1.2", "192.168.99.11", "2001:db8:1::2"];
/// The file's one of IPv6 is narrower, and has not all of its pods.
const POD_CIDRS: [&str; 2] = ["10.0.0.0/8", "fd00:10::/32"];
const SERVICE_CIDRS: [&str; 2] = ["172.30.0.0/16", "fd00:172:30::/112"];
/// The file in which a step's objects are.
const FILE: &str = "step.json";
/// How long the agent may take to follow what isn't an object.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who wires the pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pods {
    /// Fairlead.
    Own,
    /// Debian's ptp plugin, `--cni=false`.
    Foreign,
}

/// Everything.
pub struct Stage {
    cluster: Cluster,
    mode: Pods,
    flags: Vec<String>,
    /// By each of their addresses.
    pods: BTreeMap<IpAddr, usize>,
    all_pods: Vec<Pod>,
    /// Addresses of endpoints that aren't on the node.
    elsewhere: BTreeSet<IpAddr>,
    /// Addresses of clients outside, but for those that are destinations, too.
    visitors: BTreeSet<IpAddr>,
    servers: Vec<Server>,
}

impl Stage {
    /// Brings up what the cases need, with those flags for every agent.
    #[track_caller]
    pub fn new(cases: &[Case], mode: Pods, flags: &[&str]) -> Self {
        let cluster = Plan::default().node(NODE).node("elsewhere").without_agents();
        cluster.directory().put(&manifest::service_cidr("kubernetes", &SERVICE_CIDRS));
        let mut flags: Vec<String> = flags.iter().map(ToString::to_string).collect();
        flags.push(format!("--cluster-cidr={}", POD_CIDRS.join(",")));
        if mode == Pods::Foreign {
            flags.push("--cni=false".to_owned());
        }
        let mut stage = Self {
            cluster,
            mode,
            flags,
            pods: BTreeMap::new(),
            all_pods: vec![],
            elsewhere: BTreeSet::new(),
            visitors: BTreeSet::new(),
            servers: vec![],
        };
        let steps = || cases.iter().flat_map(|case| &case.steps);
        let packets = || steps().flat_map(|step| &step.packets);
        let endpoints: BTreeSet<_> = steps().flat_map(Step::endpoints).collect();
        let here = endpoints.iter().filter(|(.., is_here)| *is_here).map(|(at, ..)| at.ip());
        let clients = packets().filter(|packet| packet.from() == From::Pod).map(|packet| packet.src.ip);
        let pods: BTreeSet<_> = here.chain(clients).collect();
        stage.elsewhere = endpoints.iter().map(|(at, ..)| at.ip()).filter(|ip| !pods.contains(ip)).collect();

        let destinations: BTreeSet<_> = packets().map(|packet| packet.to().ip()).collect();
        let sources = packets().filter(|packet| packet.from() == From::External).map(|packet| packet.src.ip);
        stage.visitors = sources.filter(|ip| !destinations.contains(ip)).collect();
        stage.lay_out_network(destinations);
        stage.start_agent(&cases[0].config);
        stage.make_pods(&pods);
        // Some packets go straight to an endpoint.
        let direct = packets().filter(|packet| matches!(packet.expect, Expect::None));
        let direct = direct.map(|packet| (packet.to(), packet.protocol.clone()));
        let listen: BTreeSet<_> = endpoints.into_iter().map(|(at, protocol, _)| (at, protocol)).chain(direct).collect();
        stage.start_servers(&listen);
        stage
    }

    /// Addresses and routes outside the node.
    fn lay_out_network(&self, destinations: BTreeSet<IpAddr>) {
        let [node, elsewhere] = [self.node(), self.host()].map(|node| node.addresses());
        let via =
            |gateways: &[IpAddr], to: &str, ipv6: bool| format!("route replace {to} via {}\n", of(gateways, ipv6));
        let (mut outside, mut at_node, mut at_host) = (String::new(), String::new(), String::new());
        for secondary in SECONDARY {
            at_node += &format!("address add {secondary}/{} dev eth0\n", if secondary.contains(':') { 64 } else { 24 });
        }
        for visitor in &self.visitors {
            outside += &format!("address replace {} dev lo\n", host(*visitor));
        }
        for ip in destinations.into_iter().filter(|ip| !ip.is_loopback() && !node.contains(ip)) {
            outside += &via(&node, &host(ip), ip.is_ipv6());
        }
        for cidr in POD_CIDRS.into_iter().chain(SERVICE_CIDRS) {
            outside += &via(&node, cidr, cidr.contains(':'));
            at_host += &via(&node, cidr, cidr.contains(':'));
        }
        for ip in &self.elsewhere {
            at_host += &format!("address replace {} dev lo\n", host(*ip));
            at_node += &via(&elsewhere, &host(*ip), ip.is_ipv6());
        }
        self.cluster.outside().namespace().ip(&outside);
        self.node().namespace().ip(&at_node);
        self.host().namespace().ip(&at_host);
    }

    fn make_pods(&mut self, addresses: &BTreeSet<IpAddr>) {
        let plugins = if self.mode == Pods::Own { vec!["static"] } else { vec!["static", "ptp"] };
        plugins.into_iter().for_each(|plugin| self.node().add_plugin(plugin));
        for (number, ip) in addresses.iter().enumerate() {
            self.node().use_conflist(&self.conflist(*ip));
            let mut manifest = manifest::pod(&format!("pod-{number}"), NODE);
            manifest["metadata"]["namespace"] = json!(NAMESPACE);
            manifest["status"]["podIPs"] = json!([{ "ip": ip }]);
            self.cluster.directory().put(&manifest);
            let pod = self.node().pod_of(manifest);
            self.pods.insert(*ip, self.all_pods.len());
            self.all_pods.push(pod);
        }
        self.cluster.wait_for_sync();
        if self.mode == Pods::Foreign {
            wait::until("programs at the pods' interfaces", PATIENCE, || {
                let status = self.node().cli_json(&["status"]);
                let hooks = status["hooks"].as_array().expect("status has hooks").iter();
                let ingress = hooks.filter(|hook| hook.as_str().is_some_and(|hook| hook.ends_with("-ingress")));
                // The uplink has one too.
                (ingress.count() > addresses.len()).then_some(())
            });
        }
    }

    /// One that gives the next pod that address.
    fn conflist(&self, ip: IpAddr) -> Value {
        let (length, everywhere) = if ip.is_ipv4() { (8, "0.0.0.0/0") } else { (32, "::/0") };
        let address = json!({ "address": format!("{ip}/{length}"), "gateway": gateway(ip) });
        let ipam = json!({ "type": "static", "addresses": [address], "routes": [{ "dst": everywhere }] });
        let plugin = match self.mode {
            Pods::Own => json!({ "type": "fairlead", "runDir": self.node().run_dir(), "ipam": ipam }),
            Pods::Foreign => json!({ "type": "ptp", "ipMasq": false, "ipam": ipam }),
        };
        json!({ "cniVersion": "1.0.0", "name": "cases", "plugins": [plugin] })
    }

    fn start_servers(&mut self, listen: &BTreeSet<(SocketAddr, String)>) {
        let mut by_place: BTreeMap<Option<usize>, Vec<String>> = BTreeMap::new();
        for (at, protocol) in listen {
            let pod = self.pods.get(&at.ip()).copied();
            if protocol != "SCTP" && (pod.is_some() || self.elsewhere.contains(&at.ip())) {
                by_place.entry(pod).or_default().push(format!("{}:{at}", protocol.to_lowercase()));
            }
        }
        for (pod, listen) in by_place {
            let place: &dyn Place = pod.map_or(self.host() as &dyn Place, |pod| &self.all_pods[pod]);
            self.servers.push(Server::start_at(place, &listen));
        }
    }

    /// The node.
    pub fn node(&self) -> &Node {
        self.cluster.node()
    }

    /// The host that has all endpoints which aren't on the node.
    pub(super) fn host(&self) -> &Node {
        &self.cluster.nodes()[1]
    }

    /// The cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Whether somebody serves at this address whatever the packet.
    pub(super) fn has_server(&self, ip: IpAddr) -> bool {
        self.pods.contains_key(&ip) || self.elsewhere.contains(&ip)
    }

    /// Whether the packet's client has its address only for the packet.
    pub(super) fn is_passing(&self, packet: &Packet) -> bool {
        match packet.from() {
            From::LbIp => true,
            From::External => !self.visitors.contains(&packet.src.ip),
            From::Pod | From::Node | From::Localhost => false,
        }
    }

    /// Whether it is an address of the node.
    pub(super) fn is_nodes(&self, ip: IpAddr) -> bool {
        let is_gateway = self.mode == Pods::Foreign && ip == gateway(ip);
        is_gateway || self.node().addresses().contains(&ip) || SECONDARY.iter().any(|text| text.parse() == Ok(ip))
    }

    /// Where a packet's client is.
    pub(super) fn client(&self, packet: &Packet) -> &dyn Place {
        match packet.from() {
            From::Pod => &self.all_pods[self.pods[&packet.src.ip]],
            From::External => self.cluster.outside(),
            From::Node | From::Localhost | From::LbIp => self.node(),
        }
    }

    /// The namespace of the packet's client.
    pub(super) fn client_namespace(&self, packet: &Packet) -> &Namespace {
        match packet.from() {
            From::External => self.cluster.outside().namespace(),
            _ => self.node().namespace(),
        }
    }

    /// The flags that the case asks for.
    pub fn flags(case: &Case) -> Vec<String> {
        let config = &case.config;
        let all = || vec!["0.0.0.0/0".to_owned(), "::/0".to_owned()];
        vec![
            format!("--nodeport-addresses={}", config.node_port_addresses.clone().unwrap_or_else(all).join(",")),
            format!("--localhost-nodeports={}", config.localhost_node_ports.unwrap_or(true)),
            format!("--masquerade-all={}", config.masquerade_all.unwrap_or(false)),
        ]
    }

    fn start_agent(&self, config: &Config) {
        let case = Case { id: String::new(), config: config.clone(), steps: vec![] };
        self.node().start_agent(&[Self::flags(&case), self.flags.clone()].concat());
    }

    /// Starts the agent anew with the case's flags.
    #[track_caller]
    pub fn restart_for(&self, case: &Case) {
        self.node().kill_agent();
        self.start_agent(&case.config);
    }

    /// Puts a step's objects in force, in place of all before.
    #[track_caller]
    pub fn put(&self, case: &Case, step: &Step) {
        let mut node = self.node().manifest();
        match &case.config.node.zone {
            Some(zone) => node["metadata"]["labels"] = json!({ "topology.kubernetes.io/zone": zone }),
            None => node["metadata"]["labels"] = json!({}),
        }
        self.cluster.directory().put(&node);
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": step.objects });
        self.cluster.directory().write(FILE, &list.to_string());
        self.cluster.wait_for_sync();
    }
}

/// A pod's gateway, in its network. ptp makes it an address of the node.
fn gateway(pod: IpAddr) -> IpAddr {
    match pod {
        IpAddr::V4(v4) => IpAddr::from([v4.octets()[0], 255, 255, 1]),
        IpAddr::V6(_) => IpAddr::from([0xfd00, 0x10, 0, 0, 0, 0, 0, 0xffff]),
    }
}

/// The address of a family.
fn of(addresses: &[IpAddr], ipv6: bool) -> IpAddr {
    *addresses.iter().find(|address| address.is_ipv6() == ipv6).expect("nodes have both families")
}

/// An address as a network of its own.
pub(super) fn host(ip: IpAddr) -> String {
    format!("{ip}/{}", if ip.is_ipv6() { 128 } else { 32 })
}
