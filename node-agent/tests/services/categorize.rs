//! Categorisation against a second, plain evaluation of what the Kubernetes API
//! documents, set by set and endpoint by endpoint.

use node_agent::{
    compile::{Because, Membership, NodeContext, any_usable, because, categorize},
    model::objects::Endpoint,
};
use proptest::prelude::*;

use crate::cluster::{endpoint, leaving, names, node};

/// "Cluster": all ready endpoints; those hinted for this node if all ready ones
/// have node hints and one has this node's, else likewise by zone. Without any
/// ready endpoint: the serving, terminating ones.
fn cluster_set(endpoints: &[Endpoint], node: &NodeContext) -> Vec<bool> {
    let mut ready = vec![];
    for e in endpoints {
        if e.ready {
            ready.push(e.clone());
        }
    }
    if ready.is_empty() {
        return endpoints.iter().map(|e| e.serving && e.terminating).collect();
    }
    let for_this_node = ready.iter().filter(|e| e.node_hints.contains(&node.name)).count();
    let without_node = ready.iter().filter(|e| e.node_hints.is_empty()).count();
    let for_this_zone = ready.iter().filter(|e| e.zone_hints.contains(&node.zone)).count();
    let without_zone = ready.iter().filter(|e| e.zone_hints.is_empty()).count();
    let mut set = vec![];
    for e in endpoints {
        set.push(if !e.ready {
            false
        } else if without_node == 0 && for_this_node > 0 {
            e.node_hints.contains(&node.name)
        } else if without_zone == 0 && for_this_zone > 0 {
            e.zone_hints.contains(&node.zone)
        } else {
            true
        });
    }
    set
}

/// "Local": the node's ready endpoints, or if it has none of them, its serving,
/// terminating ones.
fn local_set(endpoints: &[Endpoint], node: &NodeContext) -> Vec<bool> {
    let mine: Vec<_> = endpoints.iter().map(|e| e.node == node.name).collect();
    let ready: Vec<_> = endpoints.iter().zip(&mine).map(|(e, mine)| *mine && e.ready).collect();
    if ready.contains(&true) {
        return ready;
    }
    endpoints.iter().zip(&mine).map(|(e, mine)| *mine && e.serving && e.terminating).collect()
}

fn any_endpoint() -> impl Strategy<Value = Endpoint> {
    let hints = |of: &'static [&'static str]| prop::sample::subsequence(of, 0..=of.len());
    let conditions = prop::sample::select(vec![
        (true, true, false),
        (true, true, true),
        (true, false, true),
        (false, true, true),
        (false, false, true),
        (false, false, false),
    ]);
    // Hints that every endpoint has are what makes topology count, so they're likely.
    let zones = prop_oneof![1 => Just(vec![]), 4 => hints(&["zone-a", "zone-b", "zone-c"])];
    let nodes = prop_oneof![1 => Just(vec![]), 4 => hints(&["here", "there"])];
    (conditions, any::<bool>(), zones, nodes).prop_map(|((ready, serving, terminating), here, zones, nodes)| Endpoint {
        ready,
        serving,
        terminating,
        node: if here { "here".into() } else { "there".into() },
        zone_hints: names(&zones),
        node_hints: names(&nodes),
        ..endpoint("10.0.0.1")
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn both_sets_are_as_documented(
        endpoints in prop::collection::vec(any_endpoint(), 0..7),
        zone in prop::sample::select(vec!["", "zone-a", "zone-b", "zone-d"]),
    ) {
        let node = NodeContext { zone: zone.into(), ..node() };
        let got = categorize(&endpoints.iter().collect::<Vec<_>>(), &node);
        let pairs = cluster_set(&endpoints, &node).into_iter().zip(local_set(&endpoints, &node));
        let expected: Vec<_> = pairs.map(|(cluster, local)| Membership { cluster, local }).collect();
        prop_assert_eq!(got, expected);
        let usable = endpoints.iter().any(|e| e.ready || (e.serving && e.terminating));
        prop_assert_eq!(any_usable(&endpoints.iter().collect::<Vec<_>>()), usable);
    }
}

#[test]
fn each_set_falls_back_on_its_own() {
    let here = |e: Endpoint| Endpoint { node: node().name, ..e };
    let endpoints = [here(leaving("10.0.0.1", true)), here(leaving("10.0.0.2", false)), endpoint("10.0.0.3")];
    let got = categorize(&endpoints.iter().collect::<Vec<_>>(), &node());
    let expected = [(false, true), (false, false), (true, false)];
    assert_eq!(got, expected.map(|(cluster, local)| Membership { cluster, local }));
}

#[test]
fn a_node_without_a_name_has_nothing_local() {
    let nameless = NodeContext::default();
    let unscheduled = Endpoint { node: "".into(), zone_hints: names(&[""]), ..endpoint("10.0.0.1") };
    let other = Endpoint { zone_hints: names(&["zone-a"]), ..endpoint("10.0.0.2") };
    let got = categorize(&[&unscheduled, &other], &nameless);
    assert_eq!(got, [Membership { cluster: true, local: false }; 2]);
}

/// The reason for a set, by what is in it.
fn reason(endpoints: &[Endpoint], set: &[bool], hinted: Option<Because>) -> Because {
    let chosen: Vec<_> = endpoints.iter().zip(set).filter(|(_, is_in)| **is_in).map(|(e, _)| e).collect();
    match chosen.first() {
        None => Because::NoEndpoint,
        Some(first) if !first.ready => Because::ServingTerminating,
        Some(_) => hinted.unwrap_or(Because::Ready),
    }
}

proptest! {
    #[test]
    fn the_reason_is_that_of_the_set(endpoints in prop::collection::vec(any_endpoint(), 0..6)) {
        let node = node();
        let given: Vec<_> = endpoints.iter().collect();
        let [cluster, local] = because(&given, &node);
        prop_assert_eq!(local, reason(&endpoints, &local_set(&endpoints, &node), None));
        let ready = || endpoints.iter().filter(|e| e.ready);
        let by_node = ready().all(|e| !e.node_hints.is_empty()) && ready().any(|e| e.node_hints.contains(&node.name));
        let by_zone = ready().all(|e| !e.zone_hints.is_empty()) && ready().any(|e| e.zone_hints.contains(&node.zone));
        let hinted = if by_node { Some(Because::NodeHints) } else { by_zone.then_some(Because::ZoneHints) };
        prop_assert_eq!(cluster, reason(&endpoints, &cluster_set(&endpoints, &node), hinted));
    }
}
