//! kube-proxy's own truth table, as pure compilation: objects become tables in
//! memory, and a packet is asked where it would go.
//!
//! Packets to anything but a ClusterIP are left out, each for a reason that is
//! printed and counted; a packet without such a reason fails the test. Whether a
//! source is masqueraded is the datapath's to decide and tested there.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
};

use datapath::abi::{Addr, Be16, FrontendKey, FrontendValue, protocol};
use node_agent::{
    compile::{CompiledService, NodeContext, service as compile},
    model::objects::{ObjectKey, Protocol, Service, ServiceType},
    plan::{Capacities, ServicePlan},
};
use serde_norway::Value;

use crate::{
    manifests::{self, list, number, text},
    tables::MemoryTables,
};

const ROOM: Capacities = Capacities { frontends: 200, backends: 200, blocks: 400 };

/// Where a packet goes.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// To any of these, `address:port`.
    Dnat(BTreeSet<String>),
    Reject,
    Drop,
    /// It is for no Service.
    None,
}

/// Why a packet isn't judged here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum LeftOut {
    NodePort,
    LoadBalancer,
    ExternalIp,
    HealthCheckNodePort,
    /// It is for no Service's address: it finds no frontend, and what becomes of it
    /// then is up to the table of networks.
    NoService,
    /// A headless Service has no address: the packet finds no frontend on its way to a pod.
    Direct,
}

fn cases() -> Value {
    let workspace = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let shared = std::env::var_os("FAIRLEAD_SHARED").map(PathBuf::from);
    let path = shared.unwrap_or_else(|| workspace.join("../shared/conformance")).join("proxy-cases.yaml");
    let yaml = std::fs::read_to_string(&path).unwrap_or_else(|error| {
        panic!(
            "{}: {error}; the cases stand in shared/conformance beside the project, or in the directory that \
             FAIRLEAD_SHARED names",
            path.display()
        )
    });
    serde_norway::from_str(&yaml).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_packet_to_a_cluster_ip_goes_where_kube_proxy_sends_it() {
    let cases = cases();
    let mut judged = 0;
    let mut left_out: BTreeMap<LeftOut, BTreeMap<String, usize>> = BTreeMap::new();
    let mut wrong = vec![];
    for case in list(&cases["cases"]) {
        let id = text(&case["id"]);
        let mut tables = MemoryTables::new(ROOM);
        let mut plan = ServicePlan::new(ROOM);
        let mut known = BTreeSet::new();
        for step in list(&case["steps"]) {
            let services = services(step, &node(case, &cases));
            apply(&mut plan, &mut tables, &mut known, &services);
            for packet in list(&step["packets"]) {
                if let Some(reason) = reason(packet, step) {
                    if matches!(reason, LeftOut::NoService | LeftOut::Direct) {
                        assert_eq!(fate(packet, &tables), Fate::None, "{id}");
                    }
                    *left_out.entry(reason).or_default().entry(id.to_string()).or_default() += 1;
                    continue;
                }
                judged += 1;
                let (got, expect) = (fate(packet, &tables), &packet["expect"]);
                if !agrees(&got, expect) {
                    let (step, packet) = (text(&step["name"]), text(&packet["name"]));
                    wrong.push(format!("{id}, step {step}, {packet}: {got:?}, but kube-proxy: {expect:?}"));
                }
            }
        }
    }
    println!("{judged} packets judged");
    for (reason, cases) in &left_out {
        println!("{} left out, {reason:?}: {cases:?}", cases.values().sum::<usize>());
    }
    assert!(wrong.is_empty(), "{} of {judged} packets are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(judged >= 153, "only {judged} packets were judged; does the file lack some?");
}

fn node(case: &Value, cases: &Value) -> NodeContext {
    let own = &case["config"]["node"];
    let node = if own.is_null() { &cases["defaults"]["config"]["node"] } else { own };
    NodeContext { name: text(&node["name"]), zone: text(&node["zone"]) }
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

fn reason(packet: &Value, step: &Value) -> Option<LeftOut> {
    let (ip, port) = (text(&packet["dst"]["ip"]), number(&packet["dst"]["port"]));
    let manifests = || list(&step["objects"]).iter().filter(|o| o["kind"] == "Service");
    let services: Vec<Service> = manifests().map(manifests::service).collect();
    let address = manifests::address(&ip);
    if services.iter().any(|s| s.service_type != ServiceType::ExternalName && s.cluster_ips.contains(&address)) {
        return None;
    }
    let named = |value: &Value| !value.is_null() && manifests::address(&text(value)) == address;
    let ingress = |service: &Value| list(&service["status"]["loadBalancer"]["ingress"]).iter().any(|i| named(&i["ip"]));
    let external = |service: &Value| list(&service["spec"]["externalIPs"]).iter().any(named);
    if port.is_some_and(|port| services.iter().any(|s| s.ports.iter().any(|p| p.node_port == port))) {
        Some(LeftOut::NodePort)
    } else if port.is_some_and(|port| services.iter().any(|s| s.health_check_node_port == port)) {
        Some(LeftOut::HealthCheckNodePort)
    } else if manifests().any(ingress) {
        Some(LeftOut::LoadBalancer)
    } else if manifests().any(external) {
        Some(LeftOut::ExternalIp)
    } else if services.iter().any(|s| s.cluster_ips.is_empty()) {
        Some(LeftOut::Direct)
    } else {
        Some(LeftOut::NoService)
    }
}

fn fate(packet: &Value, tables: &MemoryTables) -> Fate {
    let dst = manifests::address(&text(&packet["dst"]["ip"]));
    let protocol = match manifests::protocol(&packet["protocol"]) {
        Protocol::Tcp => protocol::TCP,
        Protocol::Udp => protocol::UDP,
        Protocol::Sctp => protocol::SCTP,
    };
    let port = Be16::new(number(&packet["dst"]["port"]).expect("a packet's port"));
    let addr = Addr::from(dst);
    let exact = tables.frontends.get(&FrontendKey::new(addr, port, protocol));
    let Some(value) = exact.or_else(|| tables.frontends.get(&FrontendKey::whole_address(addr))) else {
        return Fate::None;
    };
    let outside = packet["src"]["kind"] == "external";
    let (block, drops) = match outside {
        true => (value.external, FrontendValue::DROP_EXTERNAL),
        false => (value.internal, FrontendValue::DROP_INTERNAL),
    };
    let backends: Vec<_> = tables.endpoints(block).collect();
    if backends.is_empty() {
        return if value.flags & drops != 0 { Fate::Drop } else { Fate::Reject };
    }
    let show = |ip: IpAddr, port: u16| if ip.is_ipv6() { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") };
    let names: BTreeSet<_> = backends.iter().map(|b| show(b.addr.into(), b.port.get())).collect();
    assert_eq!(names.len(), backends.len(), "an endpoint stands twice in a block");
    Fate::Dnat(names)
}

/// Whether it is what kube-proxy does.
fn agrees(got: &Fate, expect: &Value) -> bool {
    match expect["action"].as_str() {
        Some("dnat") => *got == Fate::Dnat(list(&expect["backends"]).iter().map(|b| text(b).to_string()).collect()),
        Some("reject") => *got == Fate::Reject,
        Some("drop") => *got == Fate::Drop,
        Some("none") => *got == Fate::None,
        Some("unreachable") => !matches!(got, Fate::Dnat(_)),
        other => panic!("unknown action {other:?} for a ClusterIP"),
    }
}
