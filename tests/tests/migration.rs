//! From kube-proxy to Fairlead on a node that runs: what kube-proxy has begun goes on to its end.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tests::{
    bench::kube_proxy::{Mode, Rules},
    cluster::{Cluster, LogOnFailure, Node, Plan, Pod},
    manifest::Service,
    sandbox,
    traffic::{Dial, Load, Outcome, Place, Server, Session, Style, Transport},
    wait,
};

const TCP: (Transport, u16) = (Transport::Tcp, 8080);
const UDP: (Transport, u16) = (Transport::Udp, 5353);
const PATIENCE: Duration = Duration::from_secs(15);
/// Every pod's.
const POD_CIDR: &str = "10.244.0.0/16";

fn pod(node: &Node, name: &str) -> Pod {
    let pod = node.unknown_pod(name);
    pod.announce();
    pod
}

/// The node that migrates and another one, both without an agent, with pods of another plugin's; Services of
/// a backend on either and of a process of the node's own.
struct World {
    plugin: &'static str,
    _servers: Vec<Server>,
    services: Vec<(Service, u16)>,
    client: Pod,
    near: Pod,
    _far: Pod,
    cluster: Cluster,
}

impl World {
    fn new(plugin: &'static str) -> Self {
        let cluster = Plan::default().node("node-a").node("node-b").without_agents();
        let [node, other] = [0, 1].map(|i| &cluster.nodes()[i]);
        node.use_other_plugin(plugin);
        other.use_other_plugin("ptp");
        for (node, other) in [(node, other), (other, node)] {
            node.namespace().sysctl("net.ipv4.ip_forward", "1");
            let route = format!("route add {} via {}", other.pod_cidrs()[0], other.addresses()[0]);
            node.namespace().ip(&route);
        }
        let (client, near, far) = (pod(node, "client"), pod(node, "near"), pod(other, "far"));
        // One that answers datagrams at every address would choose another of the node's than was asked.
        let own_address = node.addresses()[0];
        let at_own = [TCP, UDP].map(|(transport, port)| format!("{transport}:{own_address}:{port}"));
        let servers = [near.serve(&[TCP, UDP]), far.serve(&[TCP, UDP]), Server::start_at(node, &at_own)];
        let own = tests::manifest::Endpoint::new(&node.addresses()).on(node.name());
        let services = [("near", near.endpoint(), 30080), ("far", far.endpoint(), 30081), ("own", own, 30082)];
        let services = services.map(|(name, endpoint, node_port)| {
            let service = cluster.service(name).tcp(80, TCP.1).udp(53, UDP.1).backends([endpoint]);
            let service = service.only(false).node_ports(&[node_port, node_port + 100]);
            service.manifests().iter().for_each(|manifest| cluster.directory().put(manifest));
            (service, node_port)
        });
        Self { plugin, client, near, _far: far, services: services.into(), _servers: servers.into(), cluster }
    }

    fn node(&self) -> &Node {
        self.cluster.node()
    }

    fn load_rules(&self, mode: Mode) {
        let std::net::IpAddr::V4(address) = self.node().addresses()[0] else { panic!("IPv4 comes first") };
        let rules = Rules {
            mode,
            manifests: self.cluster.directory().path(),
            address,
            pod_cidr: POD_CIDR,
            service_cidr: "10.96.0.0/16",
        };
        rules.load_generated(self.node().namespace()).expect("the rules can be loaded");
    }

    /// What an operator does, see `docs/migrate-from-kube-proxy.md`.
    fn remove_rules(&self, mode: Mode) {
        let script = match mode {
            Mode::Iptables => {
                "iptables -t nat -A OUTPUT -m conntrack --ctstate INVALID &&
                 iptables-save | grep -v KUBE- | iptables-restore"
            }
            Mode::Nftables => {
                "nft 'add table ip handover; add chain ip handover nat { type nat hook output priority 0; };
                      add rule ip handover nat ct state invalid counter' &&
                 nft delete table ip kube-proxy"
            }
        };
        sandbox::run(self.node().command("sh").args(["-ec", script]), "");
    }

    /// Everybody who dials, with the TCP and UDP addresses of each Service.
    fn dials(&self) -> Vec<(String, &dyn Place, Transport, SocketAddr)> {
        let address = self.node().addresses()[0];
        let mut dials: Vec<(String, &dyn Place, Transport, SocketAddr)> = Vec::new();
        for (service, node_port) in &self.services {
            let (web, dns) = (service.v4(80), service.v4(53));
            let (node_web, node_dns) = ((address, *node_port).into(), (address, node_port + 100).into());
            let ways: [(&dyn Place, SocketAddr, SocketAddr); 4] = [
                (&self.client, web, dns),
                (&self.client, node_web, node_dns),
                (self.node(), web, dns),
                (self.cluster.outside(), node_web, node_dns),
            ];
            for (place, tcp, udp) in ways {
                for (transport, to) in [(Transport::Tcp, tcp), (Transport::Udp, udp)] {
                    dials.push((
                        format!("{} to {} over {transport} at {to}", place.name(), service.name),
                        place,
                        transport,
                        to,
                    ));
                }
            }
        }
        // A bridge may not send back where a frame came from.
        if self.plugin == "ptp" {
            dials.push(("a hairpin".into(), &self.near, Transport::Tcp, self.services[0].0.v4(80)));
        }
        dials
    }
}

/// An open socket, and who answered it first.
struct Old {
    what: String,
    session: Session,
    /// The server, and whom it saw: of what the node's own processes send over UDP, others begin a flow anew.
    first: (String, Option<SocketAddr>),
    /// One answer may get lost from now on.
    may_lose_one: bool,
}

impl Old {
    fn open((what, place, transport, to): (String, &dyn Place, Transport, SocketAddr)) -> Self {
        let mut session = Dial::new(place, transport, to).style(Style::Kept).open();
        let attempt = session.ask();
        let Outcome::Ok(answer) = attempt.outcome else { panic!("{what} at first: {attempt:?}") };
        let begins_anew = transport == Transport::Udp && place.name().starts_with("node");
        Self { what, session, first: (answer.server, (!begins_anew).then_some(answer.client)), may_lose_one: false }
    }

    fn assert_goes_on(&mut self, when: &str) {
        let mut attempt = self.session.ask();
        if !matches!(attempt.outcome, Outcome::Ok(_)) && std::mem::take(&mut self.may_lose_one) {
            attempt = self.session.ask();
        }
        let Outcome::Ok(answer) = &attempt.outcome else { panic!("{} {when}: {attempt:?}", self.what) };
        let seen = self.first.1.map(|_| answer.client);
        assert_eq!((answer.server.clone(), seen), self.first, "{} {when}", self.what);
    }
}

/// What the node's conntrack knows of a connection from that port, as its file shows it.
fn in_conntrack(node: &Node, port: u16) -> bool {
    let known = sandbox::run(node.namespace().command("cat").arg("/proc/net/nf_conntrack"), "");
    known.lines().any(|line| line.contains(&format!("sport={port} ")))
}

fn handover(node: &Node) -> (bool, u64, u64) {
    let report = &node.cli_json(&["status"])["handover"];
    let number = |name: &str| report[name].as_u64().unwrap_or_default();
    (report["rules"] == true, number("taken"), number("left"))
}

/// Has the agent look at the node now: it looks when an address comes or goes.
fn look_now(node: &Node, what: &str) {
    node.namespace().ip(&format!("address {what} 203.0.113.99/32 dev lo"));
}

fn migrate(plugin: &'static str, mode: Mode, flag: &str) {
    let world = World::new(plugin);
    let _log = LogOnFailure(&world.cluster);
    let node = world.node();
    world.load_rules(mode);

    let mut old: Vec<Old> = world.dials().into_iter().map(Old::open).collect();
    // Packet by packet the node's own connections are netfilter's as long as its rules are there.
    let is_ours = |place: &dyn Place| flag == "--socket-lb=true" || !place.name().starts_with("node");
    let fresh = world.dials().into_iter().filter(|(_, _, transport, _)| *transport == Transport::Tcp);
    let fresh: Vec<_> = fresh.filter(|(_, place, ..)| is_ours(*place)).collect();
    let loads: Vec<(&String, Load)> = fresh
        .iter()
        .map(|(what, place, transport, to)| {
            (what, Dial::new(*place, *transport, *to).pause(Duration::from_millis(20)).load())
        })
        .collect();

    node.start_agent(&["--cni=false".to_owned(), flag.to_owned()]);
    old.iter_mut().for_each(|old| old.assert_goes_on("when Fairlead has started"));
    // Those of pods and from outside whose backend is a pod are ours now: the others are left.
    wait::until("connections are taken over", PATIENCE, || {
        look_now(node, "replace");
        look_now(node, "delete");
        let (rules, taken, left) = handover(node);
        (rules && taken >= 12 && left >= 3).then_some(())
    });
    old.iter_mut().for_each(|old| old.assert_goes_on("when it has been taken over"));
    assert_new_ones_are_ours(&world, 4100);

    // What is under way when netfilter is told to forget a flow that begins anew.
    old.iter_mut().for_each(|old| old.may_lose_one = old.first.1.is_none());
    world.remove_rules(mode);
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        old.iter_mut().for_each(|old| old.assert_goes_on("when the rules are gone"));
    }
    assert_new_ones_are_ours(&world, 4200);
    for (what, load) in loads {
        let report = load.stop();
        assert!(report.answered > 20, "{what}: {report:?}");
        assert_eq!(report.failed, 0, "{what}: {report:?}");
    }

    // What stayed with netfilter ends, and then nothing is left to it any more.
    drop(old);
    wait::until("nothing is left to netfilter", PATIENCE, || {
        look_now(node, "replace");
        look_now(node, "delete");
        let (rules, _, left) = handover(node);
        (!rules && left == 0).then_some(())
    });
}

/// New connections of pods and from outside pass none of netfilter's rules.
fn assert_new_ones_are_ours(world: &World, first_port: u16) {
    let node = world.node();
    let from_outside: SocketAddr = (node.addresses()[0], world.services[1].1).into();
    let ways: [(&dyn Place, SocketAddr); 2] =
        [(&world.client, world.services[0].0.v4(80)), (world.cluster.outside(), from_outside)];
    for (port, (place, to)) in (first_port..).zip(ways) {
        let mut session = Dial::new(place, Transport::Tcp, to).port(port).style(Style::Kept).open();
        session.ask().answer();
        let translated = in_conntrack(node, port) && place.name() == "outside";
        assert!(!translated, "netfilter knows {} to {to}", place.name());
        session.ask().answer();
    }
}

#[test]
fn from_iptables_with_a_bridge() {
    migrate("bridge", Mode::Iptables, "--socket-lb=true");
}

#[test]
fn from_nftables_with_ptp_per_packet() {
    migrate("ptp", Mode::Nftables, "--socket-lb=false");
}
