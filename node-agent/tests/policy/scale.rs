//! What the size that is asked for costs: 1,000 policies over 200 local pods, and
//! 20,000 pods elsewhere.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use datapath::abi::Addr;
use node_agent::{
    model::objects::{Object, ObjectKey, Pod},
    policy::{PodFacts, PolicyEngine},
    source::convert::{Interner, trim_kind},
};
use serde_json::{Value, json};

use crate::{naming, world::identity};

const POLICIES: usize = 1000;
const LOCAL: usize = 200;
const REMOTE: usize = 20_000;
const NAMESPACES: usize = 50;
const APPS: usize = 40;

fn pods() -> Vec<Value> {
    let place = |n: usize| {
        (format!("ns-{}/pod-{n}", n % NAMESPACES), format!("10.{}.{}.{}", n / 62_500, n / 250 % 250, n % 250))
    };
    (0..LOCAL + REMOTE)
        .map(|n| {
            let (name, ip) = place(n);
            let node = if n < LOCAL { "own" } else { "other" };
            let app = format!("app-{}", n / NAMESPACES % APPS);
            naming::pod(&name, node, &ip, json!({"app": app, "pod": format!("pod-{n}"), "tier": format!("t{}", n % 3)}))
        })
        .collect()
}

fn policies() -> Vec<Value> {
    (0..POLICIES)
        .map(|n| {
            let selects = json!({"matchLabels": {"app": format!("app-{}", n / NAMESPACES % 4)}});
            let friend = json!({"podSelector": {"matchLabels": {"app": format!("app-{}", n % APPS)}}});
            let other = json!({
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": format!("ns-{}", n * 7 % NAMESPACES)}},
                "podSelector": {"matchExpressions": [{"key": "tier", "operator": "In", "values": [format!("t{}", n % 3)]}]},
            });
            let block = json!({"ipBlock": {"cidr": format!("10.{}.0.0/16", n % 4), "except": [format!("10.{}.{}.0/24", n % 4, n % 250)]}});
            naming::policy(&format!("ns-{}/policy-{n}", n % NAMESPACES), json!({
                "podSelector": selects, "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"from": [friend, other.clone()], "ports": [{"port": 80}, {"port": 8000 + n % 100, "endPort": 8200}]}],
                "egress": [{"to": [block], "ports": [{"port": 443}]}, {"to": [other], "ports": [{"port": "http"}]}, {"ports": [{"port": 53, "protocol": "UDP"}]}],
            }))
        })
        .collect()
}

fn facts(pod: &Arc<Pod>) -> PodFacts {
    let addresses = pod.ips.iter().map(|ip| Addr::from(*ip)).collect();
    PodFacts { pod: Arc::clone(pod), addresses, local: &*pod.node == "own" }
}

fn set(engine: &mut PolicyEngine, object: &Object) {
    match object {
        Object::Pod(pod) => engine.set_pod(&pod.key, Some(facts(pod))),
        Object::NetworkPolicy(policy) => engine.set_policy(&policy.key, Some(Arc::clone(policy))),
        other => panic!("{other:?}"),
    }
}

fn median(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() - 1])
}

/// Only an optimised build says what the product costs; any says how many writes there are.
#[test]
fn a_thousand_policies_and_twenty_thousand_pods() {
    let mut interner = Interner::default();
    let mut read = |object: Value| {
        let mut object = trim_kind(identity(&object).0, object).object.unwrap();
        interner.compact(&mut object);
        object
    };
    let objects: Vec<Object> = pods().into_iter().chain(policies()).map(&mut read).collect();
    let mut engine = PolicyEngine::new(1);
    let began = Instant::now();
    objects.iter().for_each(|object| set(&mut engine, object));
    let writes = engine.commit().len();
    let cold = began.elapsed();
    println!("cold: {cold:?}, {writes} writes, {:?}", engine.sizes());
    let relabel = |engine: &mut PolicyEngine, n: usize, app: &str| {
        let Object::Pod(pod) = &objects[n] else { panic!() };
        let mut pod = Pod::clone(pod);
        pod.labels.iter_mut().filter(|(name, _)| &**name == "app").for_each(|(_, value)| *value = app.into());
        let began = Instant::now();
        engine.set_pod(&pod.key.clone(), Some(facts(&Arc::new(pod))));
        let writes = engine.commit().len();
        (began.elapsed(), writes)
    };
    for (what, numbers) in [("remote", LOCAL..LOCAL + 100), ("local", 0..100)] {
        let relabelled: Vec<(Duration, usize)> =
            numbers.map(|n| relabel(&mut engine, n, &format!("app-{}", n % APPS))).collect();
        let most = relabelled.iter().map(|(_, writes)| *writes).max();
        let (usual, longest) = median(relabelled.into_iter().map(|(time, _)| time).collect());
        println!("a {what} pod relabelled: {usual:?}, at most {longest:?} and {most:?} writes");
        assert!(cfg!(debug_assertions) || longest < Duration::from_millis(5), "{longest:?}");
    }
    let changed: Vec<Duration> = (0..50)
        .map(|n| {
            let object = read(naming::policy(&format!("ns-{}/policy-{n}", n % NAMESPACES), json!({
                "podSelector": {}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"pod": format!("pod-{n}")}}}]}],
            })));
            let began = Instant::now();
            set(&mut engine, &object);
            engine.commit();
            began.elapsed()
        })
        .collect();
    let (usual, longest) = median(changed);
    println!("a policy changed: {usual:?}, at most {longest:?}");
    let began = Instant::now();
    let mut calls = 0;
    while !engine.reclaim().is_empty() {
        calls += 1;
    }
    println!("reclaimed in {:?}, {calls} calls, {:?}", began.elapsed(), engine.sizes());
    engine.set_policy(&ObjectKey::new("ns-0", "policy-0"), None);
    assert!(cfg!(debug_assertions) || cold < Duration::from_secs(2), "{cold:?}");
}
