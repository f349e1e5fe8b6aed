//! Policies that say what is impossible, or what is for nobody: what can't be read allows nothing and is named by
//! `fairlead status`; the rest of the same policy, and all others, are in force.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tests::{
    cluster::{Balancing, Cluster, LogOnFailure, Pod, shared},
    policed::{
        LISTEN, Probe, Request, apply, assert_all, block, delete, label_namespace, pod, policy_file, write_policy,
    },
    traffic::{Dial, Place, Transport},
};

fn cluster() -> (&'static Cluster, LogOnFailure<'static>) {
    let cluster = shared(Balancing::AtSockets);
    (cluster, LogOnFailure(cluster))
}

/// The problems that are about a policy.
fn problems_of(cluster: &Cluster, namespace: &str, name: &str) -> Vec<String> {
    let policy = format!("NetworkPolicy {namespace}/{name}: ");
    cluster.node().problems().into_iter().filter(|problem| problem.contains(&policy)).collect()
}

/// A client at a TCP port of a server, over both families.
fn probes<'a>(client: &'a Pod, server: &Pod, port: u16, expected: bool, why: &str) -> Vec<Probe<'a>> {
    let probe = |ip| Probe {
        what: format!("{why}: {} to {}", client.name(), server.name()),
        client,
        request: Request::To(Transport::Tcp, SocketAddr::new(ip, port)),
        expected,
    };
    server.addresses().iter().copied().map(probe).collect()
}

/// A part of a rule.
enum Part {
    /// The only peer of a rule for one port.
    Peer(Value),
    /// The first port of a rule for friends; given the port that it might open.
    Port(fn(u16) -> Value),
    /// A field of a rule for one port, in place of its peers.
    Peers(Value),
}

use Part::{Peer, Peers, Port};

impl Part {
    /// The rules of one direction: the second port is for friends, by a rule of its own or by the same.
    fn rules(&self, peers: &str, first: u16, second: u16) -> Value {
        let friends = json!([{"podSelector": {"matchLabels": {"role": "friend"}}}]);
        let good = json!({peers: friends, "ports": [{"port": second}]});
        match self {
            Peer(peer) => json!([{peers: [peer], "ports": [{"port": first}]}, good]),
            Peers(all) => json!([{peers: all, "ports": [{"port": first}]}, good]),
            Port(port) => json!([{peers: friends, "ports": [port(first), {"port": second}]}]),
        }
    }

    /// Its field, in one of the two directions.
    fn field(&self, direction: &str, peers: &str) -> String {
        match self {
            Peer(_) => format!("spec.{direction}[0].{peers}[0]"),
            Peers(_) => format!("spec.{direction}[0].{peers}"),
            Port(_) => format!("spec.{direction}[0].ports[0]"),
        }
    }
}

/// Parts of which nobody is allowed what they might be taken for: what `status` says is wrong, behind their own
/// field; `None`: nothing is.
fn parts() -> Vec<(Part, Option<&'static str>)> {
    let cidr = |cidr: &str| Peer(json!({"ipBlock": {"cidr": cidr}}));
    let except = |cidr: &str, except: &str| Peer(json!({"ipBlock": {"cidr": cidr, "except": [except]}}));
    let pods = |operator: &str, values: Value| {
        Peer(json!({"podSelector": {"matchExpressions": [{"key": "role", "operator": operator, "values": values}]}}))
    };
    let anybody = json!({});
    vec![
        (cidr("0.0.0.0/33"), Some(".ipBlock.cidr: \"0.0.0.0/33\" is not a CIDR")),
        (cidr("::/129"), Some(".ipBlock.cidr: \"::/129\" is not a CIDR")),
        (cidr("10.244.0.0"), Some(".ipBlock.cidr: \"10.244.0.0\" is not a CIDR")),
        (cidr("everybody"), Some(".ipBlock.cidr: \"everybody\" is not a CIDR")),
        (cidr(""), Some(".ipBlock.cidr: \"\" is not a CIDR")),
        (except("0.0.0.0/0", "10.244.0.0/160"), Some(".ipBlock.except[0]: \"10.244.0.0/160\" is not a CIDR")),
        (except("10.244.0.0/16", "10.0.0.0/8"), Some(".ipBlock.except[0]: 10.0.0.0/8 leaves nothing")),
        (except("192.0.2.128/25", "10.244.1.0/24"), Some(".ipBlock.except[0]: 10.244.1.0/24 is not within")),
        (Peer(json!({})), Some(": has none of podSelector, namespaceSelector and ipBlock")),
        (Peer(json!({"podSelector": anybody, "ipBlock": {"cidr": "0.0.0.0/0"}})), Some(": has an ipBlock and")),
        (Peer(json!({"podSelector": "friend"})), Some(".podSelector: invalid type")),
        (Peer(json!({"podSelector": anybody, "namespaceSelector": 7})), Some(".namespaceSelector: invalid type")),
        (pods("Like", json!(["friend"])), Some(".podSelector.matchExpressions[0].operator: \"Like\"")),
        (pods("NotIn", json!([])), Some(".podSelector.matchExpressions[0].values: NotIn without values")),
        (pods("Exists", json!(["friend"])), Some(".podSelector.matchExpressions[0].values: Exists with values")),
        (Peers(json!("everybody")), Some(": invalid type")),
        (Peers(json!({"podSelector": {}})), Some(": invalid type")),
        (pods("In", json!(["nobody"])), None),
        (Peer(json!({"namespaceSelector": {"matchLabels": {"team": "nobodys"}}})), None),
        (Peer(json!({"namespaceSelector": {"matchLabels": {"team": "nobodys"}}, "podSelector": anybody})), None),
        (Port(|port| json!({"port": port, "protocol": "tcp"})), Some(".protocol: protocol \"tcp\" is none of")),
        (Port(|port| json!({"port": port, "protocol": "QUIC"})), Some(".protocol: protocol \"QUIC\" is none of")),
        (Port(|port| json!({"port": port, "endPort": port - 1})), Some(".endPort: ")),
        (Port(|port| json!({"endPort": port})), Some(".endPort: ")),
        (Port(|port| json!({"port": "serve-80-tcp", "endPort": port})), Some(".endPort: ")),
        (Port(|_| json!({"port": 0})), Some(".port: 0 is not between")),
        (Port(|port| json!({"port": u32::from(port) + 0x1_0000})), Some(".port: ")),
        (Port(|port| json!({"port": -i32::from(port)})), Some(".port: ")),
        (Port(|_| json!({"port": true})), Some(".port: ")),
        (Port(|port| json!({"port": port.to_string()})), None),
        (Port(|_| json!({"port": "nobody-has-it"})), None),
    ]
}

#[test]
fn a_bad_part_is_named_and_allows_nothing_and_the_rest_is_in_force() {
    let (cluster, _log) = cluster();
    let node = cluster.node();
    let made = |name, role| pod(cluster, node, "parts", name, &json!({"role": role}));
    let [server, friend, stranger] = [made("server", "server"), made("friend", "friend"), made("stranger", "stranger")];
    let parts = parts();
    let name = |number: usize| format!("bad-{number}");
    let ports: Vec<(u16, u16)> = (0..parts.len() as u16).map(|number| (1000 + 2 * number, 1001 + 2 * number)).collect();
    let listen: Vec<_> = ports.iter().flat_map(|(a, b)| [(Transport::Tcp, *a), (Transport::Tcp, *b)]).collect();
    cluster.wait_for_sync();
    let _serving = [server.serve(&listen), friend.serve(&listen), stranger.serve(&listen)];
    // Whether anybody reaches the first of each part's ports, friends the second, and strangers it.
    let reached = |first: bool, strangers: bool| {
        let of = |(number, (first_port, second)): (usize, &(u16, u16))| {
            let why = name(number);
            [
                probes(&friend, &server, *first_port, first, &why),
                probes(&server, &friend, *first_port, first, &why),
                probes(&friend, &server, *second, true, &why),
                probes(&server, &friend, *second, true, &why),
                probes(&stranger, &server, *first_port, strangers, &why),
                probes(&server, &stranger, *second, strangers, &why),
            ]
        };
        assert_all(ports.iter().enumerate().flat_map(of).flatten());
    };
    reached(true, true);
    for (number, (part, _)) in parts.iter().enumerate() {
        let (first, second) = ports[number];
        let spec = json!({
            "podSelector": {"matchLabels": {"role": "server"}}, "policyTypes": ["Ingress", "Egress"],
            "ingress": part.rules("from", first, second), "egress": part.rules("to", first, second),
        });
        write_policy(cluster, "parts", &name(number), &spec);
    }
    cluster.wait_for_sync();
    reached(false, false);
    for (number, (part, said)) in parts.iter().enumerate() {
        let problems = problems_of(cluster, "parts", &name(number));
        let Some(said) = said else {
            assert_eq!(problems, Vec::<String>::new());
            continue;
        };
        let [problem] = &problems[..] else { panic!("{}: {problems:?}", name(number)) };
        for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
            let words = format!("{}{said}", part.field(direction, peers));
            assert!(problem.contains(&words), "{problem} doesn't say {words}");
        }
    }
    // Bad ones are mended.
    for number in 0..parts.len() {
        write_policy(cluster, "parts", &name(number), &json!({"podSelector": {}, "ingress": [{}]}));
    }
    cluster.wait_for_sync();
    for number in 0..parts.len() {
        assert_eq!(problems_of(cluster, "parts", &name(number)), Vec::<String>::new());
    }
    reached(true, true);
    (0..parts.len()).for_each(|number| cluster.directory().remove(&policy_file("parts", &name(number))));
    cluster.wait_for_sync();
}

#[test]
fn a_policy_of_which_it_is_unknown_whom_it_selects_isolates_the_namespace() {
    let (cluster, _log) = cluster();
    let made = |name, role| pod(cluster, cluster.node(), "whole", name, &json!({"role": role}));
    let [open, kept, friend] = [made("open", "open"), made("kept", "kept"), made("friend", "friend")];
    // Whom the namespace's policies are nothing to.
    let aside = pod(cluster, cluster.node(), "beside", "aside", &json!({}));
    cluster.wait_for_sync();
    let _serving = [open.serve(&LISTEN), kept.serve(&LISTEN), aside.serve(&LISTEN)];
    let reached = |why: &str, open_in: bool, friend_out: bool| {
        let all = [
            probes(&aside, &open, 80, open_in, why),
            probes(&friend, &kept, 80, friend_out, why),
            probes(&aside, &kept, 80, false, why),
            probes(&friend, &kept, 81, false, why),
            probes(&friend, &aside, 80, friend_out, why),
        ];
        assert_all(all.into_iter().flatten());
    };
    assert_all(probes(&aside, &kept, 80, true, "no policy").into_iter().chain(probes(&friend, &kept, 81, true, "")));
    let friends = json!([{"podSelector": {"matchLabels": {"role": "friend"}}}]);
    let good = json!({
        "podSelector": {"matchLabels": {"role": "kept"}}, "ingress": [{"from": friends, "ports": [{"port": 80}]}],
    });
    apply(cluster, "whole", "good", &good);
    reached("another policy alone", true, true);
    let unreadable = json!({"matchExpressions": [{"key": "role", "operator": "Like", "values": ["kept"]}]});
    let both = json!(["Ingress", "Egress"]);
    for (spec, field, friend_out) in [
        (json!({"podSelector": unreadable, "ingress": [{}]}), "spec.podSelector.matchExpressions[0].operator", true),
        (json!({"podSelector": unreadable, "policyTypes": both, "egress": [{}]}), "spec.podSelector", false),
        (json!({"podSelector": "everybody", "ingress": [{}]}), "spec.podSelector: invalid type", true),
        (json!("deny"), "spec: invalid type", false),
        (json!({"podSelector": {}, "policyTypes": ["Both"]}), "spec.policyTypes[0]: \"Both\"", false),
        (json!({"podSelector": {}, "policyTypes": "Ingress"}), "spec.policyTypes: invalid type", false),
        (json!({"podSelector": {}, "ingress": "all"}), "spec.ingress: invalid type", true),
    ] {
        apply(cluster, "whole", "bad", &spec);
        let problems = problems_of(cluster, "whole", "bad");
        assert!(problems.len() == 1 && problems[0].contains(field), "{spec}: {problems:?}");
        reached(&spec.to_string(), false, friend_out);
    }
    // A file that is no manifest any more stays what it was.
    cluster.directory().write(&policy_file("whole", "bad"), "{\"kind\": \"NetworkPolicy\", ");
    cluster.wait_for_sync();
    let problems = cluster.node().problems().join("\n");
    assert!(problems.contains(&policy_file("whole", "bad")), "{problems}");
    reached("half a file", false, true);
    delete(cluster, "whole", "bad");
    assert_eq!(problems_of(cluster, "whole", "bad"), Vec::<String>::new());
    reached("the bad policy is gone", true, true);
    delete(cluster, "whole", "good");
}

#[test]
fn ten_thousand_peers_in_one_policy() {
    const PEERS: usize = 10_000;
    let (cluster, _log) = cluster();
    let node = cluster.node();
    label_namespace(cluster, "crowd", &json!({}));
    let made = |name, role: String| pod(cluster, node, "crowd", name, &json!({"role": role}));
    let last = PEERS - 1;
    let [server, stranger] = [made("server", "server".into()), made("stranger", "stranger".into())];
    let [by_role, by_address] = [made("by-role", format!("role-{last}")), made("by-address", "other".into())];
    let beside = made("beside", "beside".into());
    cluster.wait_for_sync();
    let _serving = [server.serve(&LISTEN), beside.serve(&LISTEN)];
    let reached = |why: &str, who: [bool; 3]| {
        let clients = [&by_role, &by_address, &stranger].into_iter().zip(who);
        assert_all(clients.flat_map(|(client, expected)| probes(client, &server, 80, expected, why)));
    };
    reached("no policy", [true; 3]);
    // Another policy's client, which is to notice nothing.
    let is = |role: &str| json!({"podSelector": {"matchLabels": {"role": role}}});
    let beside_spec =
        json!({"podSelector": {"matchLabels": {"role": "beside"}}, "ingress": [{"from": [is("stranger")]}]});
    apply(cluster, "crowd", "beside", &beside_spec);
    let load = Dial::new(&stranger, Transport::Udp, SocketAddr::new(beside.v4(), 80)).load();
    let isolate = |peers: Vec<Value>| {
        assert_eq!(peers.len(), PEERS);
        let spec = json!({"podSelector": {"matchLabels": {"role": "server"}}, "ingress": [{"from": peers}]});
        apply(cluster, "crowd", "many", &spec);
        assert_eq!(problems_of(cluster, "crowd", "many"), Vec::<String>::new());
    };
    isolate((0..PEERS).map(|number| is(&format!("role-{number}"))).collect());
    reached("by labels", [true, false, false]);
    let others = (0..PEERS - 2).map(|number| {
        let address = [10, 250, (number / 250) as u8, (number % 250) as u8];
        block(&address.into())
    });
    isolate(others.chain(by_address.addresses().iter().map(block)).collect());
    reached("by addresses", [false, true, false]);
    delete(cluster, "crowd", "many");
    reached("no policy again", [true; 3]);
    load.wait_for_more(20);
    load.stop().assert_lossless();
    delete(cluster, "crowd", "beside");
}
