//! Objects that are broken, contradict each other or are absurdly large: reported, and everything
//! else goes on.

use std::time::Duration;

use serde_json::json;
use tests::{
    cluster::{Balancing, Cluster, LogOnFailure, Pod, shared},
    manifest::Endpoint,
    traffic::{Dial, Outcome, Place, Transport},
};

const TCP: [(Transport, u16); 1] = [(Transport::Tcp, 8080)];

fn cluster() -> (&'static Cluster, LogOnFailure<'static>) {
    let cluster = shared(Balancing::AtSockets);
    (cluster, LogOnFailure(cluster))
}

/// Asserts that `status` reports a problem whose text has all of these words.
#[track_caller]
fn assert_reported(cluster: &Cluster, words: &[&str]) {
    let status = cluster.node().cli_json(&["status"]);
    let problems = status["problems"].as_array().expect("status lists problems");
    let found = problems.iter().any(|problem| words.iter().all(|word| problem.to_string().contains(word)));
    assert!(found, "no problem says {words:?}: {problems:#?}");
}

/// Asserts that no problem has this word, as it has been mended.
#[track_caller]
fn assert_unreported(cluster: &Cluster, word: &str) {
    let status = cluster.node().cli_json(&["status"]);
    assert!(!status["problems"].to_string().contains(word), "{word} is still reported: {}", status["problems"]);
}

#[test]
fn a_file_that_turns_bad_keeps_its_last_good_version() {
    let (cluster, _log) = cluster();
    let pods = cluster.node().pods("backend", 2);
    let _servers: Vec<_> = pods.iter().map(|pod| pod.serve(&TCP)).collect();
    let client = cluster.node().pod("client");
    let service = cluster.service("bad").tcp(80, 8080);
    let ask = || Dial::new(&client, Transport::Tcp, service.v4(80)).times(4).only_server();
    let file = |pod: &Pod| {
        let manifests = service.clone().backends([pod.endpoint()]).manifests();
        json!({ "apiVersion": "v1", "kind": "List", "items": manifests }).to_string()
    };
    let name = format!("{}.json", service.name);
    cluster.directory().write(&name, &file(&pods[0]));
    cluster.wait_for_sync();
    assert_eq!(ask(), pods[0].name());
    let good = file(&pods[1]);
    for bad in ["{", "kind: [Service", "\u{0}", &good[..good.len() / 2]] {
        cluster.directory().write(&name, bad);
        cluster.wait_for_sync();
        assert_eq!(ask(), pods[0].name());
        assert_reported(cluster, &[&name]);
    }
    cluster.directory().write(&name, &good);
    cluster.wait_for_sync();
    assert_eq!(ask(), pods[1].name());
    assert_unreported(cluster, &name);
    cluster.directory().remove(&name);
    cluster.wait_for_sync();
}

#[test]
fn impossible_objects_are_left_out() {
    let (cluster, _log) = cluster();
    let pod = cluster.node().pod("backend");
    let _server = pod.serve(&TCP);
    let client = cluster.node().pod("client");
    let good = cluster.service("good").tcp(80, 8080).backends([pod.endpoint(), pod.endpoint(), pod.endpoint()]);

    let mut no_port = cluster.service("portless").tcp(80, 8080).manifest();
    no_port["spec"]["ports"][0]["port"] = json!(0);
    let mut no_address = cluster.service("addressless").tcp(80, 8080).manifest();
    no_address["spec"]["clusterIPs"] = json!(["10.96.0.300"]);
    no_address["spec"]["clusterIP"] = json!("10.96.0.300");
    let orphan = cluster.service("orphan").tcp(80, 8080).backends([pod.endpoint()]);
    let [orphan, ..] = &orphan.manifests()[..] else { panic!("a Service has slices") };
    let mut wrong_endpoint = cluster.service("wrong").tcp(80, 8080).backends([pod.endpoint()]).manifests();
    wrong_endpoint[0]["endpoints"][0]["addresses"] = json!(["not-an-address"]);
    wrong_endpoint[0]["ports"][0]["port"] = json!(70000);
    for manifest in [&no_port, &no_address, orphan].into_iter().chain(&wrong_endpoint) {
        cluster.directory().put(manifest);
    }
    cluster.apply(&good);

    let servers = Dial::new(&client, Transport::Tcp, good.v4(80)).times(20).only_server();
    assert_eq!(servers, pod.name());
    for name in ["portless", "addressless", "wrong"] {
        assert_reported(cluster, &[name]);
    }
    for manifest in [&no_port, &no_address, orphan].into_iter().chain(&wrong_endpoint) {
        cluster.directory().delete(manifest);
    }
    cluster.delete(&good);
    assert_unreported(cluster, "portless");
}

#[test]
fn of_two_services_with_one_address_the_older_has_it() {
    let (cluster, _log) = cluster();
    let pods = cluster.node().pods("backend", 2);
    let _servers: Vec<_> = pods.iter().map(|pod| pod.serve(&TCP)).collect();
    let client = cluster.node().pod("client");
    let older = cluster.service("older").tcp(80, 8080).created("2025-01-01T00:00:00Z").backends([pods[0].endpoint()]);
    let mut newer =
        cluster.service("newer").tcp(80, 8080).created("2026-01-01T00:00:00Z").backends([pods[1].endpoint()]);
    newer.addresses = older.addresses.clone();
    // Whichever comes first.
    for [first, second] in [[&older, &newer], [&newer, &older]] {
        cluster.apply(first);
        cluster.apply(second);
        for address in older.both(80) {
            assert_eq!(Dial::new(&client, Transport::Tcp, address).times(10).only_server(), pods[0].name());
        }
        assert_reported(cluster, &[&newer.name]);
        cluster.delete(&older);
        for address in older.both(80) {
            assert_eq!(Dial::new(&client, Transport::Tcp, address).times(10).only_server(), pods[1].name());
        }
        assert_unreported(cluster, &newer.name);
        cluster.delete(&newer);
    }
}

#[test]
fn ten_thousand_endpoints_in_one_service() {
    let (cluster, _log) = cluster();
    let pod = cluster.node().pod("backend");
    let _server = pod.serve(&TCP);
    let client = cluster.node().pod("client");
    let stable = cluster.service("stable").tcp(80, 8080).backends([pod.endpoint()]);
    cluster.apply(&stable);
    let load = Dial::new(&client, Transport::Tcp, stable.v4(80)).load();

    let many = (0..10_000u32).map(|i| {
        let [_, _, high, low] = i.to_be_bytes();
        Endpoint::new(&[[10, 245, high, low].into()]).on("another-node")
    });
    let mut big = cluster.service("big").tcp(80, 8080).only(false).backends(many);
    cluster.apply(&big);
    // Nobody is there: what matters is that it is tried, and not refused.
    let attempt = Dial::new(&client, Transport::Tcp, big.v4(80)).timeout(Duration::from_millis(200)).once();
    assert_ne!(attempt.outcome, Outcome::Refused);

    big.set_backends([pod.endpoint()]);
    cluster.apply(&big);
    assert_eq!(Dial::new(&client, Transport::Tcp, big.v4(80)).times(10).only_server(), pod.name());
    load.stop().assert_lossless();
    cluster.delete(&big);
    cluster.delete(&stable);
}
