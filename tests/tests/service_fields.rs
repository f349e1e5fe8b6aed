//! Every field of a Service changes, back and forth and under load: the tables always end as a fresh
//! start leaves them, and flows to other Services notice nothing. Services that share a backend, and
//! addresses that move from one to another, don't get into each other's way.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use datapath::abi::{Backend, BlockRef, FrontendKey, FrontendValue};
use node_agent::{
    kernel::{bpffs::Bpffs, service_tables::KernelServiceTables},
    plan::Snapshot,
};
use serde_json::json;
use tests::{
    cluster::{Cluster, LogOnFailure, Node, Pod},
    manifest::{Endpoint, Service},
    traffic::{Dial, Load, Place, Server, Session, Style, Transport},
    wait,
};

const LISTEN: [(Transport, u16); 2] = [(Transport::Tcp, 8080), (Transport::Udp, 5353)];
/// NodePorts of the Service that doesn't change.
const STEADY: [u16; 2] = [30_080, 30_053];
const PATIENCE: Duration = Duration::from_secs(5);

fn serve(pods: &[Pod]) -> Vec<Server> {
    pods.iter().map(|pod| pod.serve(&LISTEN)).collect()
}

/// What the tables say of Services, in words that don't depend on the ids that were given.
fn dump(node: &Node) -> BTreeSet<String> {
    let maps = Bpffs::existing(&node.bpffs()).expect("the agent has pinned its tables").maps();
    let snapshot = KernelServiceTables::open(&maps).and_then(|mut tables| tables.snapshot());
    let snapshot = snapshot.expect("the tables can be read");
    let backends: BTreeMap<u32, Backend> = snapshot.backends.iter().copied().collect();
    let frontend = |(key, value): &(FrontendKey, FrontendValue)| {
        let FrontendValue { flags, affinity_seconds, internal, external, service, .. } = *value;
        let blocks = [internal, external].map(|block| show_block(&snapshot, &backends, block, flags));
        let ranges = snapshot.source_ranges.iter().filter(|range| range.service == service);
        let ranges: BTreeSet<_> = ranges.map(|range| format!("{:?}/{}", range.addr, range.prefix_len)).collect();
        let at = format!("{} port {} protocol {}", IpAddr::from(key.addr), key.port.get(), key.protocol);
        format!("{at}: flags {flags:#x}, affinity {affinity_seconds}, backends {blocks:?}, ranges {ranges:?}")
    };
    let alive = snapshot.backends.iter().filter(|(_, backend)| backend.flags != 0);
    let of_nobody = alive.filter(|(_, backend)| snapshot.frontends.iter().all(|(_, v)| v.service != backend.service));
    let of_nobody = of_nobody.map(|(_, backend)| format!("left behind: {}", show(backend)));
    snapshot.frontends.iter().map(frontend).chain(of_nobody).collect()
}

fn show(backend: &Backend) -> String {
    format!("{}:{} flags {:#x}", IpAddr::from(backend.addr), backend.port.get(), backend.flags)
}

/// A block's backends; a Maglev table's order counts.
fn show_block(snapshot: &Snapshot, backends: &BTreeMap<u32, Backend>, block: BlockRef, flags: u32) -> Vec<String> {
    let ids = snapshot.blocks.get(&(block.base, block.len)).map_or(&[][..], Vec::as_slice);
    let mut shown: Vec<_> = ids.iter().map(|id| backends.get(id).map_or("nobody".to_owned(), show)).collect();
    if flags & FrontendValue::MAGLEV == 0 {
        shown.sort();
    }
    shown
}

/// What a Service can be.
fn states(cluster: &Cluster, base: &Service, pods: &[Pod]) -> Vec<(&'static str, Service)> {
    let other = cluster.service("other").addresses;
    let remote = Endpoint::new(&["10.244.2.99".parse().unwrap(), "fd00:10:244:2::99".parse().unwrap()]).on("elsewhere");
    let here = || pods.iter().map(Pod::endpoint);
    let balanced =
        base.clone().node_ports(&[31_080, 31_053]).load_balancer(&addresses(["203.0.113.10", "2001:db8:5::10"]));
    let with_annotation = |value: &str| base.clone().annotation("fairlead.io/load-balancer-algorithm", value);
    let port = |number: u16| json!({ "name": "tcp-80", "protocol": "TCP", "port": number, "targetPort": "tcp-80" });
    let mut retargeted = base.clone();
    retargeted.slices[0].ports[0].2 = 9090;
    let mut moved = base.clone();
    moved.addresses = other;
    let mut reversed = base.clone();
    reversed.addresses.reverse();
    let headless = base.clone().field("clusterIP", json!("None")).field("clusterIPs", json!(["None"]));
    let local = balanced.clone().field("externalTrafficPolicy", json!("Local"));
    let ending = [pods[0].endpoint().terminating(true), pods[1].endpoint(), pods[2].endpoint().not_ready()];
    vec![
        ("ClusterIP", base.clone()),
        ("NodePort", base.clone().node_ports(&[31_080, 31_053])),
        ("with affinity", base.clone().affinity(60)),
        ("LoadBalancer", balanced.clone()),
        ("other NodePorts", base.clone().node_ports(&[31_053, 31_080])),
        ("externalTrafficPolicy Local", local.clone().backends(here().chain([remote.clone()]))),
        ("Maglev", with_annotation("maglev").node_ports(&[31_080, 31_053])),
        ("one port", base.clone().field("ports", json!([port(80)]))),
        ("another ClusterIP", moved),
        ("internalTrafficPolicy Local", base.clone().internal_local().backends(here().chain([remote.clone()]))),
        ("another port", base.clone().field("ports", json!([port(81)]))),
        ("no endpoints", base.clone().backends([])),
        ("source ranges", balanced.clone().field("loadBalancerSourceRanges", json!(["192.0.2.0/25", "2001:db8::/64"]))),
        ("headless", headless),
        ("external IPs", base.clone().field("externalIPs", json!(["203.0.113.20", "2001:db8:5::20"]))),
        ("least connections", with_annotation("least-connections").node_ports(&[31_080])),
        ("another target port", retargeted),
        ("health check", local.clone().field("healthCheckNodePort", json!(31_999)).backends([remote])),
        ("IPv4 only", base.clone().only(false)),
        ("ExternalName", base.clone().field("type", json!("ExternalName")).field("externalName", json!("example.net"))),
        ("endpoints that end", base.clone().backends(ending)),
        ("IPv6 first", reversed),
        ("other source ranges", balanced.field("loadBalancerSourceRanges", json!(["198.51.100.0/24"]))),
    ]
}

fn addresses<const N: usize>(texts: [&str; N]) -> [IpAddr; N] {
    texts.map(|text| text.parse().expect("an address"))
}

/// Requests of every kind to a Service that nobody changes.
fn loads(cluster: &Cluster, steady: &Service, client: &Pod) -> Vec<Load> {
    let node = cluster.node();
    let outside = |i: usize| SocketAddr::new(node.addresses()[i], STEADY[i]);
    let dials = [
        Dial::new(client, Transport::Tcp, steady.v4(80)),
        Dial::new(client, Transport::Tcp, steady.v6(80)).style(Style::Kept),
        Dial::new(client, Transport::Udp, steady.v4(53)).style(Style::Kept),
        Dial::new(node, Transport::Tcp, steady.v6(80)),
        Dial::new(node, Transport::Udp, steady.v4(53)).style(Style::Addressed),
        Dial::new(cluster.outside(), Transport::Tcp, outside(0)),
        Dial::new(cluster.outside(), Transport::Udp, outside(1)).style(Style::Kept),
    ];
    dials.map(|dial| dial.pause(Duration::from_millis(2)).load()).into()
}

#[test]
fn whatever_changes_the_tables_end_as_a_fresh_start_leaves_them() {
    let cluster = Cluster::of_one(&[]);
    let _log = LogOnFailure(&cluster);
    let node = cluster.node();
    let pods = node.pods("backend", 3);
    let _servers = serve(&pods);
    let client = node.pod("client");
    let service = |name| cluster.service(name).tcp(80, 8080).udp(53, 5353).backends(pods.iter().map(Pod::endpoint));
    let steady = service("steady").node_ports(&STEADY);
    cluster.apply(&steady);
    let loads = loads(&cluster, &steady, &client);
    let states = states(&cluster, &service("changing"), &pods);

    // Each state from three others.
    let mut seen: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let mut before = "nothing";
    for step in [1, 5, states.len() - 1] {
        for i in 0..states.len() {
            let (name, service) = &states[i * step % states.len()];
            cluster.apply(service);
            let first = seen.entry(name).or_insert_with(|| dump(node));
            let same = wait::poll(PATIENCE, || (dump(node) == *first).then_some(()));
            assert!(same.is_some(), "{name} after {before}: {:#?}\nthan at first: {first:#?}", dump(node));
            before = name;
        }
    }
    for load in loads {
        load.wait_for_more(5);
        load.stop().assert_lossless();
    }

    // All differ, but that what is headless and what is a name elsewhere are nothing here, and that
    // it doesn't matter which family is the first.
    assert_eq!(seen.values().collect::<BTreeSet<_>>().len(), states.len() - 2);

    for (name, service) in states.iter().step_by(6) {
        node.kill_agent();
        let cleaned = node.cli(&["cleanup"]);
        assert!(cleaned.status.success(), "{}", String::from_utf8_lossy(&cleaned.stderr));
        for manifest in service.manifests() {
            cluster.directory().put(&manifest);
        }
        node.spawn_agent();
        node.wait_for_sync();
        assert_eq!(dump(node), seen[name], "{name} after a fresh start");
    }
}

#[test]
fn an_address_that_moves_to_another_service_is_always_served() {
    let cluster = Cluster::of_one(&["--socket-lb=false"]);
    let _log = LogOnFailure(&cluster);
    let pods = cluster.node().pods("backend", 2);
    let _servers = serve(&pods);
    let client = cluster.node().pod("client");
    let mut services: Vec<_> =
        (0..2).map(|i| cluster.service("mover").tcp(80, 8080).udp(53, 5353).backends([pods[i].endpoint()])).collect();
    let addresses = [services[0].clone(), services[1].clone()];
    // Both in one file: the API server gives an address to one Service at a time.
    let put = |services: &[Service]| {
        let items: Vec<_> = services.iter().flat_map(Service::manifests).collect();
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
        cluster.directory().write("movers.json", &list.to_string());
        cluster.wait_for_sync();
    };
    put(&services);
    let loads: Vec<_> = addresses
        .iter()
        .flat_map(|service| [(Transport::Tcp, service.v4(80)), (Transport::Udp, service.v6(53))])
        .map(|(transport, address)| Dial::new(&client, transport, address).load())
        .collect();
    let mut sessions: Vec<_> =
        addresses.iter().map(|service| Dial::new(&client, Transport::Tcp, service.v4(80)).open()).collect();
    let mut talk = Dial::new(&client, Transport::Udp, addresses[0].v4(53)).open();
    for round in 0..20_u16 {
        let [a, b] = &mut services[..] else { panic!("there are two") };
        std::mem::swap(&mut a.addresses, &mut b.addresses);
        put(&services);
        for (number, service) in addresses.iter().enumerate() {
            let owner = pods[(number + usize::from(round) + 1) % 2].name();
            let tcp = Dial::new(&client, Transport::Tcp, service.v6(80)).times(4).only_server();
            assert_eq!(tcp, owner, "round {round}");
            // From a port of the round's own: what a port has talked to is remembered for a second.
            let udp = Dial::new(&client, Transport::Udp, service.v4(53)).port(20_000 + round).times(4).only_server();
            assert_eq!(udp, owner, "round {round}");
            // Who was connected before stays.
            assert_eq!(sessions[number].ask().server(), pods[number].name(), "round {round}");
        }
        let owner = pods[usize::from(round + 1) % 2].name();
        let follows = wait::poll(PATIENCE, || (talk.ask().server() == owner).then_some(()));
        assert!(follows.is_some(), "a client of UDP that keeps its socket still isn't at {owner}, round {round}");
    }
    for load in loads {
        load.wait_for_more(5);
        load.stop().assert_lossless();
    }
}

#[test]
fn two_services_before_one_backend_are_told_apart() {
    let cluster = Cluster::of_one(&["--socket-lb=false"]);
    let _log = LogOnFailure(&cluster);
    let node = cluster.node();
    let pod = node.pod("backend");
    let _server = pod.serve(&LISTEN);
    let client = node.pod("client");
    let service = |ports: [u16; 2]| {
        let service = cluster.service("sharing").tcp(80, 8080).udp(53, 5353).node_ports(&ports);
        service.backends([pod.endpoint()])
    };
    let services = [service([31_080, 31_053]), service([32_080, 32_053])];
    services.iter().for_each(|service| cluster.apply(service));
    let outside = |port| SocketAddr::new(node.addresses()[0], port);
    // From one port of the client, at the same time: the backend can't tell them by address and port.
    let groups: [(&dyn Place, Transport, [SocketAddr; 2]); 4] = [
        (&client, Transport::Tcp, [services[0].v4(80), services[1].v4(80)]),
        (&client, Transport::Tcp, [services[0].v6(80), services[1].v6(80)]),
        (cluster.outside(), Transport::Tcp, [outside(31_080), outside(32_080)]),
        (node, Transport::Tcp, [services[0].v4(80), services[1].v4(80)]),
    ];
    for (place, transport, addresses) in groups {
        let open = |address| Dial::new(place, transport, address).port(20_000).open();
        let mut sessions: Vec<Session> = addresses.into_iter().map(open).collect();
        for _ in 0..5 {
            for (session, address) in sessions.iter_mut().zip(addresses) {
                let attempt = session.ask();
                assert_eq!((attempt.server(), attempt.peer), (pod.name(), Some(address)), "{}", place.name());
            }
        }
    }
    // One after the other, while the first flow is still remembered.
    for address in [services[0].v4(53), services[1].v4(53), services[0].v4(53), services[1].v4(53)] {
        let attempt = Dial::new(&client, Transport::Udp, address).port(20_000).once();
        assert_eq!((attempt.server(), attempt.peer), (pod.name(), Some(address)));
    }
    // The one goes, the other's connections stay.
    let mut session = Dial::new(&client, Transport::Tcp, services[1].v4(80)).open();
    session.ask().answer();
    cluster.delete(&services[0]);
    session.ask().answer();
    Dial::new(&client, Transport::Tcp, services[1].v6(80)).times(5).only_server();
}
