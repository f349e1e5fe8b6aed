//! Thousands of random worlds that change at random, judged by the oracle after each change.

use std::net::IpAddr;

use datapath::abi::{PodPolicy, PolicyPeerKey, PolicyVerdict, PolicyVerdictKey};
use node_agent::model::objects::Kind;
use serde_json::{Map, Value, json};

use crate::{
    oracle::{self, Packet},
    product::Product,
    world::{Event, World},
};

/// SplitMix64.
pub struct Dice(pub u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    fn some<T>(&mut self, most: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(most + 1)).map(|_| make(self)).collect()
    }
}

const NAMESPACES: [&str; 3] = ["x", "y", "z"];
const PODS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
const KEYS: [&str; 3] = ["app", "tier", "kubernetes.io/metadata.name"];
const VALUES: [&str; 3] = ["x", "y", "z"];
const NAMES: [&str; 3] = ["http", "dns", "nobody"];
const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
const PORTS: [u16; 5] = [53, 80, 81, 8080, 65535];
const BLOCKS: [&str; 8] =
    ["0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/29", "10.0.0.2/31", "10.0.0.5/32", "::/0", "fd00::/64", "fd00::2/127"];
const EXCEPTS: [(&str, &[&str]); 4] = [
    ("0.0.0.0/0", &["10.0.0.0/30", "10.0.0.4/32", "192.0.2.0/24"]),
    ("10.0.0.0/8", &["10.0.0.0/29", "10.0.0.6/31"]),
    ("10.0.0.0/29", &["10.0.0.2/31", "10.0.0.3/32"]),
    ("::/0", &["fd00::/125", "fd00::7/128"]),
];

fn labels(dice: &mut Dice) -> Value {
    let mut labels = Map::new();
    for key in &KEYS[..2] {
        if !dice.one_in(3) {
            labels.insert((*key).into(), (*dice.of(&VALUES)).into());
        }
    }
    labels.into()
}

fn selector(dice: &mut Dice) -> Value {
    let mut selector = Map::new();
    if dice.one_in(2) {
        selector.insert("matchLabels".into(), json!({*dice.of(&KEYS): *dice.of(&VALUES)}));
    }
    if dice.one_in(3) {
        let expressions = dice.some(2, |dice| {
            let key = *dice.of(&KEYS);
            let mut values = vec![*dice.of(&VALUES)];
            values.extend(dice.some(1, |dice| *dice.of(&VALUES)));
            match dice.below(4) {
                0 => json!({"key": key, "operator": "In", "values": values}),
                1 => json!({"key": key, "operator": "NotIn", "values": values}),
                2 => json!({"key": key, "operator": "Exists"}),
                _ => json!({"key": key, "operator": "DoesNotExist"}),
            }
        });
        selector.insert("matchExpressions".into(), expressions.into());
    }
    selector.into()
}

fn peer(dice: &mut Dice) -> Value {
    match dice.below(5) {
        0 => json!({"podSelector": selector(dice)}),
        1 => json!({"namespaceSelector": selector(dice)}),
        2 => json!({"namespaceSelector": selector(dice), "podSelector": selector(dice)}),
        3 => json!({"ipBlock": {"cidr": *dice.of(&BLOCKS)}}),
        _ => {
            let (cidr, all) = *dice.of(&EXCEPTS);
            let mut except = vec![*dice.of(all)];
            except.extend(dice.some(1, |dice| *dice.of(all)));
            json!({"ipBlock": {"cidr": cidr, "except": except}})
        }
    }
}

fn port(dice: &mut Dice) -> Value {
    let mut port = Map::new();
    if !dice.one_in(3) {
        port.insert("protocol".into(), (*dice.of(&PROTOCOLS)).into());
    }
    let (a, b) = (*dice.of(&PORTS), *dice.of(&PORTS));
    match dice.below(5) {
        0 => {}
        1 => _ = port.insert("port".into(), (*dice.of(&NAMES)).into()),
        2 => {
            port.insert("port".into(), a.min(b).into());
            port.insert("endPort".into(), a.max(b).into());
        }
        _ => _ = port.insert("port".into(), a.into()),
    }
    port.into()
}

fn pods(dice: &mut Dice) -> Value {
    if dice.one_in(2) {
        return json!({"namespaces": selector(dice)});
    }
    json!({"pods": {"namespaceSelector": selector(dice), "podSelector": selector(dice)}})
}

fn protocol(dice: &mut Dice) -> Value {
    let (a, b) = (*dice.of(&PORTS), *dice.of(&PORTS));
    let port = match dice.below(4) {
        0 => return json!({"destinationNamedPort": *dice.of(&NAMES)}),
        1 => json!({"range": {"start": a.min(b), "end": a.max(b)}}),
        _ => json!({"number": a}),
    };
    json!({dice.of(&PROTOCOLS).to_lowercase(): {"destinationPort": port}})
}

fn cluster_policy(dice: &mut Dice) -> Value {
    let rules = |dice: &mut Dice, peers: &str| {
        dice.some(3, |dice| {
            let peer = |dice: &mut Dice| match peers {
                "to" if dice.one_in(2) => json!({"networks": [*dice.of(&BLOCKS), *dice.of(&BLOCKS)]}),
                _ => pods(dice),
            };
            let mut all = vec![peer(dice)];
            all.extend(dice.some(1, peer));
            let mut rule = json!({"action": *dice.of(&["Accept", "Deny", "Pass"]), peers: all});
            if dice.one_in(2) {
                let mut protocols = vec![protocol(dice)];
                protocols.extend(dice.some(1, protocol));
                rule["protocols"] = protocols.into();
            }
            rule
        })
    };
    let spec = json!({
        "tier": *dice.of(&["Admin", "Baseline"]), "priority": dice.below(3), "subject": pods(dice),
        "ingress": rules(dice, "from"), "egress": rules(dice, "to"),
    });
    let metadata = json!({"name": *dice.of(&PODS[..4])});
    let version = "policy.networking.k8s.io/v1alpha2";
    json!({"apiVersion": version, "kind": "ClusterNetworkPolicy", "metadata": metadata, "spec": spec})
}

/// Puts a list there, or an empty one, or none.
fn maybe(dice: &mut Dice, object: &mut Map<String, Value>, key: &str, item: impl FnMut(&mut Dice) -> Value) {
    if !dice.one_in(3) {
        object.insert(key.into(), dice.some(2, item).into());
    }
}

fn rule(dice: &mut Dice, peers: &str) -> Value {
    let mut rule = Map::new();
    maybe(dice, &mut rule, peers, peer);
    maybe(dice, &mut rule, "ports", port);
    rule.into()
}

fn policy(dice: &mut Dice) -> Value {
    let mut spec = Map::new();
    spec.insert("podSelector".into(), selector(dice));
    maybe(dice, &mut spec, "ingress", |dice| rule(dice, "from"));
    maybe(dice, &mut spec, "egress", |dice| rule(dice, "to"));
    match dice.below(5) {
        0 => spec.insert("policyTypes".into(), json!(["Ingress"])),
        1 => spec.insert("policyTypes".into(), json!(["Egress"])),
        2 => spec.insert("policyTypes".into(), json!(["Egress", "Ingress"])),
        _ => None,
    };
    let metadata = json!({"namespace": *dice.of(&NAMESPACES), "name": *dice.of(&PODS[..4])});
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec})
}

fn pod(dice: &mut Dice) -> Value {
    // The name says the address, so that no two pods have one, and the namespace goes with the name.
    let number = dice.below(PODS.len());
    let metadata = json!({"namespace": NAMESPACES[number % 3], "name": PODS[number], "labels": labels(dice)});
    let ports = dice.some(2, |dice| {
        let name = *dice.of(&NAMES[..2]);
        json!({"name": name, "containerPort": *dice.of(&PORTS), "protocol": *dice.of(&PROTOCOLS)})
    });
    let phase = if dice.one_in(12) { "Succeeded" } else { "Running" };
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": metadata,
        "spec": {
            "nodeName": if number < 5 { "own" } else { "other" },
            "hostNetwork": dice.one_in(12),
            "containers": [{"name": "c", "ports": ports}],
        },
        "status": {
            "phase": phase,
            "podIPs": [{"ip": format!("10.0.0.{number}")}, {"ip": format!("fd00::{number}")}],
        },
    })
}

/// Something happens; `of_cluster`: to ClusterNetworkPolicies, too.
fn event(dice: &mut Dice, of_cluster: bool) -> Event {
    let deletes = dice.one_in(4);
    let object = match dice.below(if of_cluster { 8 } else { 6 }) {
        0 => {
            let metadata = json!({"name": *dice.of(&NAMESPACES), "labels": labels(dice)});
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        }
        1 | 2 => pod(dice),
        6 | 7 => cluster_policy(dice),
        _ => policy(dice),
    };
    if deletes {
        let (kind, key) = crate::world::identity(&object);
        return Event::Delete(kind, key);
    }
    Event::Apply(object)
}

fn address(dice: &mut Dice) -> IpAddr {
    let number = dice.below(9);
    match dice.below(8) {
        0 => "192.0.2.1".parse().unwrap(),
        1 => "2001:db8::1".parse().unwrap(),
        2..5 => format!("fd00::{number}").parse().unwrap(),
        _ => format!("10.0.0.{number}").parse().unwrap(),
    }
}

fn packet(dice: &mut Dice) -> Packet<'static> {
    let protocol = if dice.one_in(6) { "ICMP" } else { *dice.of(&PROTOCOLS) };
    let port = match protocol {
        "ICMP" => 0,
        _ => dice.of(&PORTS).saturating_sub(u16::from(dice.one_in(4))),
    };
    Packet { src: address(dice), dst: address(dice), protocol, port }
}

/// Whether a pod of this node is judged at this address: what comes from or goes to those
/// of another is that node's concern.
fn is_local(world: &World, ip: IpAddr) -> bool {
    let found = oracle::pod_at(world, ip);
    found.is_some_and(|(_, pod)| pod.spec.as_ref().unwrap().node_name.as_deref() == Some("own"))
}

fn check(world: &World, product: &Product, packet: Packet<'_>, of: &str) {
    let is_local = |ip| is_local(world, ip);
    if is_local(packet.src) {
        assert_eq!(product.lets_out(packet), oracle::egress(world, packet), "{of}: egress: {packet:?}\n{world:#?}");
    }
    if is_local(packet.dst) {
        assert_eq!(product.lets_in(packet), oracle::ingress(world, packet), "{of}: ingress: {packet:?}\n{world:#?}");
    }
}

/// The tables without the numbers that are in them, which depend on history.
fn view(product: &Product) -> impl PartialEq + std::fmt::Debug {
    let engine = &product.engine;
    let name = |said: u32| {
        let rule = said & !PolicyVerdict::DENY;
        (said & PolicyVerdict::DENY != 0, engine.rule_name(rule).map_or(rule.to_string(), ToString::to_string))
    };
    let list = |ports: u32| {
        let keys = product.tables.ports.iter().filter(|(key, _)| key.ports == ports);
        let mut keys: Vec<_> = keys.map(|(key, rule)| (key.prefix_len, key.protocol, key.port, name(*rule))).collect();
        keys.sort();
        keys
    };
    let verdict = |key: PolicyVerdictKey| {
        product.tables.verdicts.get(&key).map(|verdict| (name(verdict.rule), list(verdict.ports)))
    };
    let mut pods: Vec<_> = product.pods.iter().filter(|(_, policy)| policy.set != 0).collect();
    pods.sort_by_key(|(addr, _)| **addr);
    let mut classes: Vec<(String, u32)> = Vec::new();
    classes.extend(product.tables.peers.iter().map(|(PolicyPeerKey { addr, .. }, class)| (addr.to_string(), *class)));
    classes.extend(
        product.tables.networks.iter().map(|(key, class)| (format!("{}/{}", key.addr, key.prefix_len), *class)),
    );
    classes.push(("everybody".to_owned(), 0));
    classes.sort();
    let of_pod = |set: u32| {
        let said = classes.iter().map(|(who, class)| {
            (who.clone(), [0, 1].map(|direction| verdict(PolicyVerdictKey { set, class: *class, direction })))
        });
        said.collect::<Vec<_>>()
    };
    let pods: Vec<_> =
        pods.iter().map(|(addr, policy)| (**addr, policy.set & PodPolicy::BOTH, of_pod(policy.set))).collect();
    let sizes = (product.tables.verdicts.len(), product.tables.ports.len());
    (pods, sizes, engine.sizes())
}

/// One history: events by some at a time; after each commit the oracle agrees, and meanwhile
/// everybody was judged as before or as after.
fn run(seed: u64) {
    let mut dice = Dice(seed);
    let mut world = World::default();
    let mut product = Product::new("own");
    for step in 0..12 {
        let of = format!("seed {seed}, step {step}");
        let before = world.clone();
        let several = if step == 0 { 14 } else { 1 + dice.below(3) };
        for _ in 0..several {
            // Half of the worlds have no ClusterNetworkPolicies.
            let event = event(&mut dice, seed % 2 == 1);
            world.happens(&event);
            assert_eq!(product.take_in(&event), "", "{of}");
        }
        let ops = product.engine.commit();
        let single = several == 1;
        for op in ops {
            product.write(op);
            if single {
                is_old_or_new(&before, &world, &product, packet(&mut dice), &of);
            }
        }
        for _ in 0..40 {
            check(&world, &product, packet(&mut dice), &of);
        }
        if dice.one_in(3) {
            let most = if dice.one_in(2) { 1 } else { 10 };
            for _ in 0..most {
                for op in product.engine.reclaim() {
                    product.write(op);
                    check(&world, &product, packet(&mut dice), &format!("{of}, reclaiming"));
                }
            }
        }
    }
    product.settle();
    for _ in 0..40 {
        check(&world, &product, packet(&mut dice), &format!("seed {seed}, settled"));
    }
    let mut fresh = Product::new("own");
    let objects = world.policies.values().map(serde_json::to_value);
    let objects = objects.chain(world.cluster_policies.values().map(|policy| Ok(policy.clone())));
    let objects = objects.chain(world.pods.values().map(serde_json::to_value));
    for object in objects.chain(world.namespaces.values().map(serde_json::to_value)) {
        fresh.take_in(&Event::Apply(object.unwrap()));
    }
    fresh.commit();
    fresh.settle();
    // Pods that are gone keep their entries until their interfaces go.
    product.pods.retain(|addr, _| is_local(&world, (*addr).into()));
    assert_eq!(view(&product), view(&fresh), "seed {seed}\n{world:#?}");
}

/// While the change of one object is written, a packet meets what was or what will be.
fn is_old_or_new(before: &World, after: &World, product: &Product, packet: Packet<'_>, of: &str) {
    let is_local = |ip| is_local(before, ip) && is_local(after, ip);
    for (is_judged, verdict, by) in [
        (is_local(packet.src), product.lets_out(packet), oracle::egress as fn(&World, Packet<'_>) -> bool),
        (is_local(packet.dst), product.lets_in(packet), oracle::ingress),
    ] {
        if is_judged {
            let verdicts = [by(before, packet), by(after, packet)];
            assert!(verdicts.contains(&verdict), "{of}: {packet:?} was {verdict} between {verdicts:?}\n{after:#?}");
        }
    }
}

#[test]
fn random_worlds_are_judged_as_the_text_says() {
    let worlds = std::env::var("FAIRLEAD_POLICY_WORLDS").ok().map_or(3000, |count| count.parse().unwrap());
    let seeds: Vec<u64> = (0..worlds).collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for part in seeds.chunks(seeds.len().div_ceil(threads)) {
            scope.spawn(move || part.iter().for_each(|seed| run(*seed)));
        }
    });
}

#[test]
fn deleting_everything_leaves_nothing() {
    let mut dice = Dice(7);
    let mut product = Product::new("own");
    let mut world = World::default();
    for _ in 0..200 {
        let event = event(&mut dice, true);
        world.happens(&event);
        product.take_in(&event);
        product.commit();
    }
    let keys = |kind, keys: Vec<_>| keys.into_iter().map(move |key| Event::Delete(kind, key));
    let policies = keys(Kind::NetworkPolicy, world.policies.keys().cloned().collect());
    let of_cluster = world.cluster_policies.keys().map(|name| (String::new(), name.clone())).collect();
    let policies = policies.chain(keys(Kind::ClusterNetworkPolicy, of_cluster));
    for event in policies.chain(keys(Kind::Pod, world.pods.keys().cloned().collect())) {
        product.take_in(&event);
        product.commit();
    }
    product.settle();
    assert_eq!(product.engine.sizes(), Default::default());
    assert_eq!(product.tables, Default::default());
}
