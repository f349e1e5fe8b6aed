//! kube-proxy's own truth table, as pure compilation: objects become tables in
//! memory, and each packet is judged by the datapath's decisions over them, as a
//! packet and, if it is TCP from a pod or the node, as a `connect()`.
//!
//! What can't be told without a kernel is left out, for a reason that is printed and
//! counted.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use datapath::abi::{Addr, NodeConfig, protocol};
use ipnetwork::IpNetwork;
use node_agent::{
    agent::{
        flags::{List, NodePortAddresses},
        nodeport_addresses,
    },
    compile::{CompiledService, NodeContext, service as compile},
    model::objects::ObjectKey,
    plan::{Capacities, ServicePlan},
    routing::NodeAddresses,
};
use serde_norway::Value;

use crate::{
    judge::{Fate, From, World},
    manifests::{self, list, number, text},
    tables::MemoryTables,
};

const ROOM: Capacities = Capacities { frontends: 200, backends: 200, blocks: 400, source_ranges: 20 };

/// What isn't judged of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum LeftOut {
    /// Whether its source is masqueraded at a ClusterIP: kube-proxy doesn't do that where
    /// it doesn't know who is a pod, which Fairlead always does.
    PodsAreAlwaysKnown,
    /// It is for a server of the node's own; that it listens is tested with a kernel.
    HealthCheckServer,
}

#[test]
fn every_packet_goes_where_kube_proxy_sends_it() {
    let cases: Value = conformance_cases::read(conformance_cases::PROXY_CASES, |yaml| yaml);
    let (mut judged, mut calls) = (0, 0);
    let mut left_out: BTreeMap<LeftOut, BTreeMap<String, usize>> = BTreeMap::new();
    let mut wrong = vec![];
    for case in list(&cases["cases"]) {
        let id = text(&case["id"]);
        let config = Config::of(case, &cases);
        let mut tables = MemoryTables::new(ROOM);
        let mut plan = ServicePlan::new(ROOM);
        plan.set_node_addresses(config.node_ports());
        let mut known = BTreeSet::new();
        for step in list(&case["steps"]) {
            let services = services(step, &config.context);
            apply(&mut plan, &mut tables, &mut known, &services);
            for packet in list(&step["packets"]) {
                let mut world = config.world(&tables);
                let (step, name) = (text(&step["name"]), text(&packet["name"]));
                let mut check = |how: &str, got: &Fate, left: &mut dyn FnMut(LeftOut)| {
                    if !agrees(got, packet, &services, &config, left) {
                        let expect = &packet["expect"];
                        wrong.push(format!("{id}, step {step}, {name}, {how}: {got:?}, but kube-proxy: {expect:?}"));
                    }
                };
                let mut left = |reason| {
                    *left_out.entry(reason).or_default().entry(id.to_string()).or_default() += 1;
                };
                let (from, src) = source(packet);
                let dst = Addr::from(manifests::address(&text(&packet["dst"]["ip"])));
                let port = number(&packet["dst"]["port"]).expect("a packet's port");
                let protocol = manifests::protocol(&packet["protocol"]).number();
                judged += 1;
                if packet["src"]["kind"] == "localhost" {
                    // Such packets never leave the loopback device: it's the call that counts.
                    let called = world.connect(from, src, dst, port, protocol).unwrap_or(Fate::None);
                    check("as a call", &called, &mut left);
                    continue;
                }
                check("as a packet", &world.packet(from, src, dst, port, protocol), &mut left);
                let is_call = protocol == protocol::TCP && packet["src"]["kind"] != "external";
                let called = is_call.then(|| world.connect(from, src, dst, port, protocol)).flatten();
                if let Some(called) = called {
                    calls += 1;
                    check("as a call", &called, &mut |_| ());
                }
            }
        }
    }
    println!("{judged} packets judged, {calls} also at the socket");
    for (reason, cases) in &left_out {
        println!("{} in part, {reason:?}: {cases:?}", cases.values().sum::<usize>());
    }
    assert!(wrong.is_empty(), "{} of {judged} packets are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(judged >= 292, "only {judged} packets were judged; does the file lack some?");
    assert!(calls >= 60, "only {calls} packets were judged as calls");
}

/// What a case says of the node and the flags.
struct Config {
    context: NodeContext,
    ips: Vec<IpAddr>,
    pods: Vec<IpNetwork>,
    services: Vec<IpNetwork>,
    node_port_addresses: Option<Vec<IpNetwork>>,
    localhost: bool,
    masquerade_all: bool,
}

impl Config {
    fn of(case: &Value, cases: &Value) -> Self {
        let (own, default) = (&case["config"], &cases["defaults"]["config"]);
        let get = |key: &str| if own[key].is_null() { &default[key] } else { &own[key] };
        let networks = |value: &Value| list(value).iter().map(|cidr| manifests::network(&text(cidr))).collect();
        let node_ips = if get("node")["ips"].is_null() { &default["node"]["ips"] } else { &get("node")["ips"] };
        let ips: Vec<IpAddr> = list(node_ips).iter().map(|ip| manifests::address(&text(ip))).collect();
        let given = get("nodePortAddresses");
        let detects = get("localDetector").as_bool() != Some(false);
        let v4 = ips.iter().find_map(|ip| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None });
        let v6 = ips.iter().find_map(|ip| if let IpAddr::V6(ip) = ip { Some(*ip) } else { None });
        let node = get("node");
        let (name, zone) = (text(&node["name"]), text(&node["zone"]));
        Self {
            context: NodeContext { name, zone, v4, v6, ..NodeContext::default() },
            ips,
            pods: if detects { networks(get("podCIDRs")) } else { vec![] },
            services: networks(get("serviceCIDRs")),
            node_port_addresses: given.is_sequence().then(|| networks(given)),
            localhost: get("localhostNodePorts").as_bool() != Some(false),
            masquerade_all: get("masqueradeAll").as_bool() == Some(true),
        }
    }

    fn node_ports(&self) -> BTreeSet<Addr> {
        let all = || vec!["0.0.0.0/0".parse().expect("a CIDR"), "::/0".parse().expect("a CIDR")];
        let flag = NodePortAddresses::Networks(List(self.node_port_addresses.clone().unwrap_or_else(all)));
        let primary = NodeAddresses { v4: self.context.v4, v6: self.context.v6 };
        let present = self.ips.iter().copied().collect();
        let selected = nodeport_addresses::select(&flag, self.localhost, primary, &present);
        selected.into_iter().map(Addr::from).collect()
    }

    fn world(&self, tables: &MemoryTables) -> World {
        let own: Vec<_> = self.ips.iter().map(|ip| Addr::from(*ip)).collect();
        let flags = if self.masquerade_all { NodeConfig::MASQUERADE_ALL } else { 0 };
        World::new(tables, &own, &self.pods, &self.services, flags)
    }
}

/// The step's Services, compiled.
fn services(step: &Value, node: &NodeContext) -> BTreeMap<ObjectKey, CompiledService> {
    let of_kind = |kind: &'static str| list(&step["objects"]).iter().filter(move |o| o["kind"] == kind);
    let slices: Vec<_> = of_kind("EndpointSlice").map(manifests::slice).collect();
    let compiled = of_kind("Service").map(manifests::service).map(|service| {
        let namespace = &service.key.namespace;
        let mut own = slices.iter().filter(|s| s.service == service.key.name && s.key.namespace == *namespace);
        (service.key.clone(), compile(&service, &mut own, node))
    });
    compiled.collect()
}

fn apply(
    plan: &mut ServicePlan,
    tables: &mut MemoryTables,
    known: &mut BTreeSet<ObjectKey>,
    services: &BTreeMap<ObjectKey, CompiledService>,
) {
    for gone in known.iter().filter(|key| !services.contains_key(*key)) {
        plan.set_service(gone, None);
    }
    *known = services.keys().cloned().collect();
    for (key, compiled) in services {
        plan.set_service(key, Some(compiled.clone()));
    }
    let outcome = plan.apply(tables);
    assert!(!outcome.retry, "{outcome:?}");
    assert_eq!(plan.problems(), vec![]);
}

fn source(packet: &Value) -> (From, Addr) {
    let from = match packet["src"]["kind"].as_str() {
        Some("node" | "localhost" | "lb-ip") => From::Node,
        Some("pod" | "external") => From::Elsewhere,
        other => panic!("unknown source {other:?}"),
    };
    (from, manifests::address(&text(&packet["src"]["ip"])).into())
}

/// Whether it is what kube-proxy does.
fn agrees(
    got: &Fate,
    packet: &Value,
    services: &BTreeMap<ObjectKey, CompiledService>,
    config: &Config,
    left: &mut dyn FnMut(LeftOut),
) -> bool {
    let expect = &packet["expect"];
    let health_check = || {
        let ports = services.values().filter_map(|service| service.health_check).map(|check| check.port);
        number(&packet["dst"]["port"]).is_some_and(|port| ports.into_iter().any(|check| check == port))
    };
    match expect["action"].as_str() {
        Some("dnat") => {
            let Fate::Dnat(backends) = got else { return false };
            let show =
                |ip: IpAddr, port: u16| if ip.is_ipv6() { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") };
            let names: BTreeSet<_> = backends.iter().map(|(addr, port, _)| show((*addr).into(), *port)).collect();
            let expected: BTreeSet<_> = list(&expect["backends"]).iter().map(|b| text(b).to_string()).collect();
            let is_cluster_ip =
                config.services.iter().any(|network| network.contains(manifests::address(&text(&packet["dst"]["ip"]))));
            let (_, src) = source(packet);
            let is_hairpin = |addr: &Addr| *addr == src;
            let masquerade = expect["masquerade"].as_bool().expect("whether it is masqueraded");
            if config.pods.is_empty() && is_cluster_ip && source(packet).0 == From::Elsewhere {
                left(LeftOut::PodsAreAlwaysKnown);
                return names == expected;
            }
            // A process of the node shows the node's address, hidden or not.
            let is_node = packet["src"]["kind"] == "node";
            let seen = backends.iter().all(|(addr, _, own)| is_node || *own != (masquerade || is_hairpin(addr)));
            names == expected && seen
        }
        Some("reject") => *got == Fate::Reject,
        Some("drop") => *got == Fate::Drop,
        Some("none") => *got == Fate::None && !health_check(),
        Some("accept") => {
            left(LeftOut::HealthCheckServer);
            *got == Fate::None && health_check()
        }
        Some("unreachable") => !matches!(got, Fate::Dnat(_)),
        other => panic!("unknown action {other:?}"),
    }
}
