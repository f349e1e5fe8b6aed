//! Every path by which a packet reaches a pod that policies select, or leaves one: whatever it is rewritten to
//! on its way, its true client and the chosen backend are judged.
//!
//! [`PATHS`] says for each path whom the policies should see. The same traffic runs in some [`ROUNDS`], in each of
//! which they allow a part of [`Who`]: nobody is allowed in all or in none, and who is seen as another is answered in
//! other rounds than the table says. The policies isolate the other direction, too, and allow nothing there: answers
//! pass as such or not at all.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use At::{A, B};
use Seen::{Always, As, AsDialled, Hidden, Never};
use Way::{Balancer, ClusterIp, Direct, Echo, HostPort, LocalBalancer, LocalNodePort, NodePort};
use Who::{Asker, Far, Near, NodeA, NodeB, OnHost, Outside, Server};
use serde_json::{Value, json};
use tests::{
    cluster::{self, Cluster, LogOnFailure, Node, Plan, Pod, ample_bandwidth},
    manifest::Service,
    policed::{self, LISTEN, Probe, Request, TRANSPORTS, assert_all, block},
    traffic::{self, Place, Transport},
};

/// Who asks, who is asked, and whom a policy may allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    /// The node whose pods are judged.
    NodeA,
    /// The other node.
    NodeB,
    /// A host outside the cluster.
    Outside,
    /// A pod on node a.
    Near,
    /// A pod on node b.
    Far,
    /// A pod on node a that a policy selects for what it gets.
    Server,
    /// A pod on node a that a policy selects for what it sends.
    Asker,
    /// A Pod on node b's own network: no selector finds it.
    OnHost,
}

/// A node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    A,
    B,
}

/// How somebody is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// At its own address.
    Direct,
    /// By ICMP, at its own address.
    Echo,
    /// At the address of a Service that has it alone.
    ClusterIp,
    /// At that Service's NodePort, at this node.
    NodePort(At),
    /// At an address of its load balancer, which leads outside clients to this node.
    Balancer(At),
    /// The same of a Service with `externalTrafficPolicy: Local`.
    LocalNodePort(At),
    LocalBalancer(At),
    /// At a port of its node.
    HostPort,
}

/// Whom the policy of the pod that is judged should see at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    As(Who),
    /// Node b, at the port that is dialled, not at the backend's.
    AsDialled,
    /// Node b, which hides the client; if backends answer directly, the client.
    Hidden,
    /// No policy is asked.
    Always,
    /// Nobody is served there.
    Never,
}

const PATHS: &[(Who, Who, &[Way], Seen)] = &[
    (Near, Server, &[Direct, Echo, ClusterIp, NodePort(A), Balancer(A), HostPort, LocalBalancer(A)], As(Near)),
    (Near, Server, &[NodePort(B)], As(NodeB)),
    (Far, Server, &[Direct, Echo, ClusterIp, NodePort(A), HostPort], As(Far)),
    (Far, Server, &[LocalNodePort(A), LocalNodePort(B), LocalBalancer(A)], As(Far)),
    (Far, Server, &[NodePort(B), Balancer(A)], As(NodeB)),
    (Outside, Server, &[NodePort(A), Balancer(A), LocalNodePort(A), LocalBalancer(A), HostPort], As(Outside)),
    (Outside, Server, &[NodePort(B), Balancer(B)], Hidden),
    (Outside, Server, &[LocalNodePort(B), LocalBalancer(B)], Never),
    (NodeB, Server, &[Direct, Echo, ClusterIp, NodePort(A), NodePort(B), Balancer(A), HostPort], As(NodeB)),
    (NodeB, Server, &[LocalNodePort(A), LocalNodePort(B), LocalBalancer(A)], As(NodeB)),
    // Probes of the kubelet, and whatever else the node does.
    (NodeA, Server, &[Direct, Echo, ClusterIp, NodePort(A), Balancer(A), HostPort, LocalNodePort(A)], Always),
    (NodeA, Server, &[NodePort(B)], As(NodeB)),
    // A hairpin.
    (Server, Server, &[Direct, Echo, ClusterIp, NodePort(A), Balancer(A), HostPort, LocalNodePort(A)], Always),
    (Asker, Near, &[Direct, Echo, ClusterIp, NodePort(A), Balancer(A), HostPort], As(Near)),
    (Asker, Far, &[Direct, Echo, ClusterIp, NodePort(A), Balancer(A)], As(Far)),
    // What another node makes of it, this one doesn't know.
    (Asker, Far, &[NodePort(B), HostPort], AsDialled),
    (Asker, Outside, &[Direct, Echo], As(Outside)),
    (Asker, NodeA, &[Direct, Echo], Always),
    (Asker, NodeB, &[Direct, Echo], As(NodeB)),
];

/// Who is allowed at a time: each in rounds that are nobody else's selection. Where node b is, outside is: now
/// and then a client that should be seen is hidden, because its port is taken.
const ROUNDS: [&[Who]; 3] = [&[Near, NodeA, OnHost], &[Far, Outside, OnHost], &[NodeB, Outside, NodeA]];
const EVERYBODY: &[Who] = &[NodeA, NodeB, Outside, Near, Far];

const NAMESPACE: &str = "default";
/// The first of as many numbers as there are Services.
const NODE_PORT: u16 = 30_080;
const HOST_PORT: u16 = 9080;

/// A pod, and the Services before it.
struct Host {
    pod: Pod,
    number: u16,
    cluster_ips: Vec<IpAddr>,
    _server: traffic::Server,
}

struct Bed {
    hosts: Vec<(Who, Host)>,
    _servers: Vec<traffic::Server>,
    cluster: Cluster,
    /// Backends answer outside clients past the node that these came to.
    is_direct: bool,
}

/// The address of a load balancer's that leads to a node, IPv4 first.
fn balancer(number: u16, at: At) -> [IpAddr; 2] {
    let [_, number] = (number * 2 + u16::from(at == B) + 10).to_be_bytes();
    let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0x1b, 0, 0, 0, 0, number.into());
    [Ipv4Addr::new(203, 0, 113, number).into(), v6.into()]
}

/// A Service that has this pod alone, at everything that outside clients may dial.
fn expose(cluster: &Cluster, pod: &Pod, policy: &str, number: u16) -> Service {
    for (node, at) in cluster.nodes().iter().zip([A, B]) {
        for (ip, via) in balancer(number, at).iter().zip(node.addresses()) {
            cluster.outside().namespace().ip(&format!("route add {ip} via {via}"));
        }
    }
    let service = cluster.service(pod.name()).tcp(80, 80).udp(80, 80).sctp(80, 80).backends([pod.endpoint()]);
    let service = service.node_ports(&[NODE_PORT + number; 3]);
    let service = service.load_balancer(&[balancer(number, A), balancer(number, B)].concat());
    let service = service.field("externalTrafficPolicy", json!(policy));
    service.manifests().iter().for_each(|manifest| cluster.directory().put(manifest));
    service
}

impl Bed {
    /// On a running cluster; `extra`: what the runtime asks for besides, for the pods that are judged.
    fn new(cluster: Cluster, is_direct: bool, extra: Option<(&str, Value)>) -> Self {
        let [a, b] = cluster.nodes() else { panic!("there are two nodes") };
        let judged = extra.as_slice();
        let places: [(_, _, &[_]); 4] = [(Near, a, &[]), (Far, b, &[]), (Server, a, judged), (Asker, a, judged)];
        let host = |number: u16, who: Who, node: &Node, extra: &[(&str, Value)]| {
            let mapped = TRANSPORTS.map(|transport| {
                let protocol = transport.to_string();
                json!({"hostPort": HOST_PORT + number, "containerPort": 80, "protocol": protocol})
            });
            let mut capabilities = extra.to_vec();
            capabilities.push(("portMappings", json!(mapped)));
            let pod = node.pod_with(&format!("{who:?}").to_lowercase(), &capabilities);
            // Other nodes know its addresses by its object alone.
            policed::rewrite_pod(&cluster, &pod, |_| ());
            let services = [("Cluster", 2 * number), ("Local", 2 * number + 1)];
            let [service, _] = services.map(|(policy, number)| expose(&cluster, &pod, policy, number));
            let server = pod.serve(&LISTEN);
            (who, Host { pod, number, cluster_ips: service.addresses, _server: server })
        };
        let hosts = (0..).zip(places).map(|(number, (who, node, extra))| host(number, who, node, extra)).collect();
        let on_host = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": NAMESPACE, "name": "on-host", "labels": {"app": "on-host"}},
            "spec": {"nodeName": b.name(), "hostNetwork": true, "containers": [{"name": "main"}]},
            "status": {"phase": "Running", "podIPs": b.addresses().iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>()},
        });
        cluster.directory().put(&on_host);
        cluster.wait_for_sync();
        let places: [&dyn Place; 3] = [cluster.outside(), a, b];
        let servers = places.map(|place| traffic::Server::start(place, &LISTEN)).into();
        Self { hosts, _servers: servers, cluster, is_direct }
    }

    fn node(&self, at: At) -> &Node {
        &self.cluster.nodes()[usize::from(at == B)]
    }

    fn host(&self, who: Who) -> &Host {
        let (_, host) = self.hosts.iter().find(|(one, _)| *one == who).expect("it is a pod");
        host
    }

    fn place(&self, who: Who) -> &(dyn Place + Sync) {
        match who {
            NodeA => self.node(A),
            NodeB | OnHost => self.node(B),
            Outside => self.cluster.outside(),
            pod => &self.host(pod).pod,
        }
    }

    fn addresses(&self, who: Who) -> Vec<IpAddr> {
        match who {
            NodeA => self.node(A).addresses(),
            NodeB | OnHost => self.node(B).addresses(),
            Outside => cluster::Outside::ADDRESSES.to_vec(),
            pod => self.host(pod).pod.addresses().to_vec(),
        }
    }

    /// Who is met there, at addresses of both families.
    fn ends(&self, whom: Who, way: Way) -> Vec<SocketAddr> {
        let number = |is_local: bool| 2 * self.host(whom).number + u16::from(is_local);
        let node_port = |at, is_local| (self.node(at).addresses(), NODE_PORT + number(is_local));
        let (addresses, port) = match way {
            Direct | Echo => (self.addresses(whom), 80),
            ClusterIp => (self.host(whom).cluster_ips.clone(), 80),
            NodePort(at) => node_port(at, false),
            LocalNodePort(at) => node_port(at, true),
            Balancer(at) => (balancer(number(false), at).to_vec(), 80),
            LocalBalancer(at) => (balancer(number(true), at).to_vec(), 80),
            HostPort => {
                let at = if whom == Far { B } else { A };
                (self.node(at).addresses(), HOST_PORT + self.host(whom).number)
            }
        };
        addresses.into_iter().map(|ip| SocketAddr::new(ip, port)).collect()
    }

    /// Them as peers of a rule.
    fn peers(&self, who: &[Who]) -> Vec<Value> {
        let app = |name: &str| vec![json!({"podSelector": {"matchLabels": {"app": name}}})];
        let of = |who: &Who| match who {
            OnHost => app("on-host"),
            NodeA | NodeB | Outside => self.addresses(*who).iter().map(block).collect(),
            pod => app(self.host(*pod).pod.name()),
        };
        who.iter().flat_map(of).collect()
    }

    /// Writes the policies: these are allowed, at these ports if some are named, at all otherwise.
    fn allow(&self, who: &[Who], ports: &[Value]) {
        for (pod, direction, peers) in [(Server, "ingress", "from"), (Asker, "egress", "to")] {
            let mut spec = json!({
                "podSelector": {"matchLabels": {"app": self.host(pod).pod.name()}},
                "policyTypes": ["Ingress", "Egress"],
            });
            // An empty list of peers would stand for all.
            if !who.is_empty() {
                spec[direction] = json!([{peers: self.peers(who), "ports": ports}]);
            }
            policed::write_policy(&self.cluster, NAMESPACE, direction, &spec);
        }
        self.cluster.wait_for_sync();
    }

    /// Tries every path. Whether it should lead anywhere is told by whom a policy sees there, and at which port,
    /// if it isn't an echo.
    fn assert_paths(&self, round: &str, is_allowed: impl Fn(Who, Option<u16>) -> bool) {
        let mut probes = Vec::new();
        for &(from, to, ways, seen) in PATHS {
            for &way in ways {
                for end in self.ends(to, way) {
                    let requests = match way {
                        Echo => vec![Request::Echo(end.ip())],
                        _ => TRANSPORTS.map(|transport| Request::To(transport, end)).to_vec(),
                    };
                    probes.extend(requests.into_iter().map(|request| {
                        let sees = |who| is_allowed(who, (way != Echo).then_some(80));
                        let expected = match seen {
                            Always => true,
                            Never => false,
                            As(who) => sees(who),
                            AsDialled => is_allowed(NodeB, Some(end.port())),
                            // SCTP isn't answered directly.
                            Hidden if self.is_direct && !is_sctp(request) => sees(Outside),
                            Hidden => sees(NodeB),
                        };
                        let what = format!("{round}: {from:?} to {to:?} by {way:?}");
                        Probe { what, client: self.place(from), request, expected }
                    }));
                }
            }
        }
        assert_all(probes);
    }

    /// Runs all rounds.
    fn judge(&self) {
        let _log = LogOnFailure(&self.cluster);
        for allowed in ROUNDS {
            self.allow(allowed, &[]);
            self.assert_paths(&format!("{allowed:?} allowed"), |who, _| allowed.contains(&who));
        }
        let ports = TRANSPORTS.map(|transport| json!({"port": 80, "protocol": transport.manifest_name()}));
        self.allow(EVERYBODY, &ports);
        self.assert_paths("everybody allowed at port 80", |_, port| port == Some(80));
        for node in self.cluster.nodes() {
            assert_eq!(node.problems(), Vec::<String>::new());
        }
    }
}

fn is_sctp(request: Request) -> bool {
    matches!(request, Request::To(Transport::Sctp, _))
}

fn two_nodes(flags: &[&str]) -> Cluster {
    flags.iter().fold(Plan::default().node("node-a").node("node-b"), |plan, flag| plan.flag(flag)).start()
}

fn judge(flags: &[&str]) {
    Bed::new(two_nodes(flags), false, None).judge();
}

#[test]
fn true_ends_are_judged_on_native_routes_and_at_sockets() {
    judge(&["--routing-mode=native", "--socket-lb=true"]);
}

#[test]
fn true_ends_are_judged_on_native_routes_packet_by_packet() {
    judge(&["--routing-mode=native", "--socket-lb=false"]);
}

#[test]
fn true_ends_are_judged_in_the_overlay_and_at_sockets() {
    judge(&["--routing-mode=vxlan", "--socket-lb=true"]);
}

#[test]
fn true_ends_are_judged_in_the_overlay_packet_by_packet() {
    judge(&["--routing-mode=vxlan", "--socket-lb=false"]);
}

#[test]
fn true_ends_are_judged_where_backends_answer_directly_and_xdp_forwards() {
    let bed = Bed::new(two_nodes(&["--load-balancer-mode=dsr"]), true, None);
    bed.cluster.let_xdp_send();
    bed.cluster.nodes().iter().for_each(Node::wait_for_xdp);
    bed.judge();
}

#[test]
fn true_ends_are_judged_where_pods_are_shaped() {
    let cluster = two_nodes(&["--socket-lb=false"]);
    cluster.node().chain_bandwidth();
    Bed::new(cluster, false, Some(ample_bandwidth())).judge();
}
