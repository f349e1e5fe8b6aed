use std::net::IpAddr;

use datapath::abi::Addr;
use proptest::prelude::*;

use super::*;

fn network(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("", name)
}

fn node(name: &str, cidrs: &[&str], addresses: &[&str]) -> Arc<Node> {
    Arc::new(Node {
        key: key(name),
        created: 0,
        pod_cidrs: cidrs.iter().map(|text| network(text)).collect(),
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        zone: "".into(),
        deleting: false,
    })
}

fn underlay(own: &[&str]) -> Underlay {
    let own: Vec<IpAddr> = own.iter().map(|text| text.parse().unwrap()).collect();
    let on_link = ["192.0.2.0/24", "2001:db8::/64"].map(|text| OnLink { network: network(text), ifindex: 2 });
    Underlay {
        on_link: on_link.to_vec(),
        sources: NodeAddresses::first_of(own.iter().copied()),
        own: own.into_iter().collect(),
        mtu: 1500,
    }
}

fn settings(mode: RoutingMode) -> Settings {
    Settings { mode, wires_pods: true, cluster_cidrs: Vec::new() }
}

fn routing(settings: Settings) -> Routing {
    let mut routing = Routing::new("own", settings);
    routing.set_underlay(underlay(&["192.0.2.1", "2001:db8::1"]));
    routing
}

fn set(routing: &mut Routing, node: &Arc<Node>) {
    routing.set_node(&node.key.clone(), Some(node));
}

/// What is in force, in words.
fn told(routing: &Routing) -> Vec<String> {
    let routes = routing.destinations().map(|(destination, node)| {
        let route = routing.route(destination).unwrap();
        let via = match route.via {
            Via::Gateway { gateway, .. } => format!("via {gateway}"),
            Via::Overlay => "in VXLAN".to_owned(),
        };
        format!("{destination} {via} to {node}")
    });
    routes.collect()
}

fn kinds(routing: &Routing) -> Vec<(String, u32, String)> {
    let all = routing.networks().all();
    let told = |addr: Addr| if addr == Addr::UNSPECIFIED { String::new() } else { addr.to_string() };
    all.iter().map(|(network, value)| (network.to_string(), value.kind, told(value.tunnel))).collect()
}

fn problems(routing: &Routing) -> Vec<String> {
    routing.problems().map(|(node, problem)| format!("{node}: {problem}")).collect()
}

#[test]
fn nodes_come_change_and_go() {
    let mut routing = routing(settings(RoutingMode::Auto));
    routing.set_services(&[network("10.96.0.0/16")]);
    set(&mut routing, &node("own", &["10.1.0.0/24"], &["192.0.2.1"]));
    set(&mut routing, &node("near", &["10.2.0.0/24", "fd00:2::/64"], &["192.0.2.2"]));
    assert_eq!(told(&routing), ["10.2.0.0/24 via 192.0.2.2 to near", "fd00:2::/64 in VXLAN to near"]);
    let (pods, peer) = (NetworkValue::PODS, NetworkValue::PEER);
    let kind = |network: &str, kind, tunnel: &str| (network.to_owned(), kind, tunnel.to_owned());
    assert_eq!(
        kinds(&routing),
        [
            kind("10.1.0.0/24", pods, ""),
            kind("10.2.0.0/24", pods, ""),
            kind("10.96.0.0/16", NetworkValue::SERVICE, ""),
            kind("192.0.2.1/32", NetworkValue::NODE, ""),
            kind("192.0.2.2/32", peer, ""),
            kind("2001:db8::1/128", NetworkValue::NODE, ""),
            kind("fd00:2::/64", pods, "192.0.2.2"),
        ]
    );
    assert!(problems(&routing).is_empty());
    routing.take_changed_networks();
    routing.take_changed_routes();

    set(&mut routing, &node("far", &["10.3.0.0/24"], &["203.0.113.3"]));
    assert_eq!(routing.take_changed_routes(), BTreeSet::from([network("10.3.0.0/24")]));
    let changed = BTreeSet::from(["10.3.0.0/24", "203.0.113.3/32"].map(network));
    assert_eq!(routing.take_changed_networks(), changed, "a Node costs its own entries");
    let end = Addr::from("203.0.113.3".parse::<IpAddr>().unwrap());
    assert_eq!(
        routing.networks().get(&network("203.0.113.3/32")),
        Some(NetworkValue { kind: peer, tunnel: end }),
        "pods reach a node as its pods"
    );

    set(&mut routing, &node("near", &["10.2.0.0/24", "fd00:2::/64"], &["192.0.2.2", "2001:db8::2"]));
    assert_eq!(routing.take_changed_routes(), BTreeSet::from([network("fd00:2::/64")]));
    routing.set_node(&key("near"), None);
    assert_eq!(told(&routing), ["10.3.0.0/24 in VXLAN to far"]);
    assert!(routing.needs_overlay());
    set(&mut routing, &node("far", &["10.3.0.0/24"], &["192.0.2.3"]));
    assert!(!routing.needs_overlay());
    routing.set_node(&key("far"), None);
    routing.set_node(&key("own"), None);
    routing.set_services(&[]);
    routing.set_underlay(Underlay::default());
    assert!(routing.networks().all().is_empty() && told(&routing).is_empty());
}

#[test]
fn what_is_wrong_with_a_node_is_told_and_heals() {
    let good = node("good", &["10.2.0.0/24"], &["192.0.2.2"]);
    let cases = [
        (node("bad", &["10.3.0.0/24"], &[]), "bad: podCIDR 10.3.0.0/24 is not reached: it has no InternalIP"),
        (node("bad", &[], &["192.0.2.3"]), "bad: it has no spec.podCIDRs"),
        (node("bad", &["10.3.0.0/24"], &["192.0.2.1"]), "bad: podCIDR 10.3.0.0/24 is not reached: all its addresses"),
        (
            node("x", &["10.0.0.0/8"], &["192.0.2.3"]),
            "x: podCIDR 10.0.0.0/8 is left out: it overlaps 10.2.0.0/24 of Node good",
        ),
        (
            node("x", &["10.2.0.0/24"], &["192.0.2.3"]),
            "x: podCIDR 10.2.0.0/24 is left out: it overlaps 10.2.0.0/24 of Node good",
        ),
        (
            node("x", &["192.0.0.0/8"], &["192.0.2.3"]),
            "x: podCIDR 192.0.0.0/8 is left out: it overlaps the node network",
        ),
        (
            node("x", &["::ffff:10.2.0.0/120"], &["192.0.2.3"]),
            "x: podCIDR ::ffff:10.2.0.0/120 is left out: it is no network for pods",
        ),
        (node("x", &["0.0.0.0/0"], &["192.0.2.3"]), "x: podCIDR 0.0.0.0/0 is left out: it is no network for pods"),
    ];
    for (bad, expected) in cases {
        let mut routing = routing(settings(RoutingMode::Auto));
        set(&mut routing, &bad);
        set(&mut routing, &good);
        let found = problems(&routing);
        assert!(found.len() == 1 && found[0].starts_with(expected), "{found:?} where {expected}");
        assert_eq!(told(&routing), ["10.2.0.0/24 via 192.0.2.2 to good"], "the rest goes on");
        set(&mut routing, &node(&bad.key.name, &["10.4.0.0/24"], &["192.0.2.3"]));
        assert!(problems(&routing).is_empty());
        assert_eq!(told(&routing).len(), 2, "it heals by itself");
    }
}

#[test]
fn age_decides_over_overlapping_networks() {
    let mut routing = routing(settings(RoutingMode::Native));
    let aged = |name: &str, created, address: &str| {
        Arc::new(Node { created, ..(*node(name, &["10.2.0.0/24"], &[address])).clone() })
    };
    set(&mut routing, &aged("a", 2, "192.0.2.2"));
    set(&mut routing, &aged("b", 1, "192.0.2.3"));
    assert_eq!(told(&routing), ["10.2.0.0/24 via 192.0.2.3 to b"]);
    routing.take_changed_routes();
    routing.set_node(&key("b"), None);
    assert_eq!(told(&routing), ["10.2.0.0/24 via 192.0.2.2 to a"]);
    assert_eq!(routing.take_changed_routes().len(), 1);
    set(&mut routing, &node("own", &["10.2.0.0/24"], &["192.0.2.1"]));
    assert!(told(&routing).is_empty(), "a node never gives its own pods away");
}

#[test]
fn flags_decide_who_is_a_pod_and_who_is_routed() {
    let near = node("near", &["10.2.0.0/24", "172.16.0.0/24"], &["192.0.2.2"]);
    let of = |mode, wires_pods| {
        let cluster_cidrs = vec![network("10.0.0.0/8")];
        let mut routing = routing(Settings { mode, wires_pods, cluster_cidrs });
        set(&mut routing, &near);
        let kinds =
            kinds(&routing).into_iter().filter(|(network, ..)| network.starts_with("1") && !network.starts_with("19"));
        (told(&routing).len(), kinds.map(|(network, kind, _)| (network, kind)).collect::<Vec<_>>())
    };
    let (pods, peer) = (NetworkValue::PODS, NetworkValue::PEER);
    let cluster = ("10.0.0.0/8".to_owned(), pods);
    let own = ("10.2.0.0/24".to_owned(), pods);
    assert_eq!(of(RoutingMode::Native, true), (2, vec![cluster.clone(), own.clone()]));
    assert_eq!(of(RoutingMode::Native, false), (0, vec![cluster.clone(), own.clone()]));
    let outside = ("172.16.0.0/24".to_owned(), peer);
    assert_eq!(of(RoutingMode::Vxlan, true), (2, vec![cluster, own, outside]), "a tunnel end is needed all the same");
}

#[test]
fn another_plugins_gateway_is_no_reason_to_leave_the_nodes_pods_out() {
    for (wires_pods, name, is_told) in [(false, "own", false), (true, "own", true), (false, "near", true)] {
        let mut routing = routing(Settings { wires_pods, ..settings(RoutingMode::Native) });
        routing.set_underlay(underlay(&["192.0.2.1", "10.2.0.1"]));
        set(&mut routing, &node(name, &["10.2.0.0/24"], &["192.0.2.2"]));
        assert_eq!(!problems(&routing).is_empty(), is_told, "{name}, wires pods: {wires_pods}");
        let is_known = kinds(&routing)
            .iter()
            .any(|(network, kind, _)| (network.as_str(), *kind) == ("10.2.0.0/24", NetworkValue::PODS));
        assert_eq!(is_known, !is_told, "{name}, wires pods: {wires_pods}");
    }
}

#[test]
fn a_tunnel_over_ipv6_takes_smaller_packets() {
    let mut routing = routing(settings(RoutingMode::Vxlan));
    set(&mut routing, &node("six", &["10.2.0.0/24"], &["2001:db8::2"]));
    set(&mut routing, &node("four", &["10.3.0.0/24"], &["192.0.2.2"]));
    let mtu = |text| routing.route(&network(text)).unwrap().mtu;
    assert_eq!((mtu("10.2.0.0/24"), mtu("10.3.0.0/24"), routing.underlay().overlay_mtu()), (Some(1430), None, 1450));
}

#[test]
fn a_node_that_joins_a_thousand_touches_what_is_its_own() {
    let nodes: Vec<_> = (0..1000u32)
        .map(|i| {
            let (high, low) = (i / 250, i % 250);
            let cidrs = [format!("10.{high}.{low}.0/24"), format!("fd00:{i:x}::/64")];
            let addresses = [format!("198.51.{high}.{low}"), format!("2001:db8:1::{i:x}")];
            node(&format!("node-{i}"), &[&cidrs[0], &cidrs[1]], &[&addresses[0], &addresses[1]])
        })
        .collect();
    for mode in [RoutingMode::Auto, RoutingMode::Native, RoutingMode::Vxlan] {
        let mut joining = routing(settings(mode));
        nodes.iter().for_each(|node| set(&mut joining, node));
        joining.take_changed_networks();
        joining.take_changed_routes();
        set(&mut joining, &node("late", &["10.99.0.0/24"], &["198.51.99.9"]));
        assert!(joining.take_changed_networks().len() == 2 && joining.take_changed_routes().len() <= 1);
    }
}

/// A few Nodes that get in each other's way.
fn any_node() -> impl Strategy<Value = Arc<Node>> {
    let cidrs = ["10.1.0.0/24", "10.1.0.0/16", "10.2.0.0/24", "fd00:1::/64", "192.0.2.0/25", "0.0.0.0/0"];
    let addresses = ["192.0.2.2", "192.0.2.1", "203.0.113.3", "2001:db8::2"];
    let names = prop::sample::select(vec!["own", "a", "b", "c"]);
    let cidrs = prop::sample::subsequence(cidrs.to_vec(), 0..3);
    let addresses = prop::sample::subsequence(addresses.to_vec(), 0..3);
    (names, cidrs, addresses, 0..3i64).prop_map(|(name, cidrs, addresses, created)| {
        Arc::new(Node { created, ..(*node(name, &cidrs, &addresses)).clone() })
    })
}

proptest! {
    #[test]
    fn what_came_before_does_not_matter(
        steps in prop::collection::vec((any_node(), any::<bool>(), any::<bool>()), 1..20),
        mode in prop::sample::select(vec![RoutingMode::Auto, RoutingMode::Native, RoutingMode::Vxlan]),
    ) {
        let mut routing = routing(settings(mode));
        let mut present: BTreeMap<ObjectKey, Arc<Node>> = BTreeMap::new();
        // What a diligent writer of changes has.
        let mut written: BTreeMap<IpNetwork, NetworkValue> = BTreeMap::new();
        let mut routes: BTreeMap<IpNetwork, PeerRoute> = BTreeMap::new();
        let mut own = ["192.0.2.1", "2001:db8::1"];
        for (node, stays, moves) in steps {
            if moves {
                own.rotate_left(1);
                routing.set_underlay(underlay(&own[..1]));
            }
            routing.set_node(&node.key, stays.then_some(&node));
            match stays {
                true => present.insert(node.key.clone(), node),
                false => present.remove(&node.key),
            };
            for network in routing.take_changed_networks() {
                match routing.networks().get(&network) {
                    Some(value) => written.insert(network, value),
                    None => written.remove(&network),
                };
            }
            for destination in routing.take_changed_routes() {
                match routing.route(&destination) {
                    Some(route) => routes.insert(destination, *route),
                    None => routes.remove(&destination),
                };
            }
        }
        let mut anew = Routing::new("own", settings(mode));
        anew.set_underlay(routing.underlay().clone());
        present.iter().rev().for_each(|(key, node)| anew.set_node(key, Some(node)));
        prop_assert_eq!(told(&routing), told(&anew));
        prop_assert_eq!(problems(&routing), problems(&anew));
        prop_assert_eq!(routing.needs_overlay(), anew.needs_overlay());
        prop_assert_eq!(written, anew.networks().all());
        let wanted: BTreeMap<_, _> = anew.routes.iter().map(|(to, (_, route))| (*to, *route)).collect();
        prop_assert_eq!(routes, wanted);
    }
}
