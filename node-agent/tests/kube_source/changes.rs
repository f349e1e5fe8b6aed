//! What there is, and what becomes of it, while the server does as it should.

use node_agent::{
    model::{
        Model,
        change::Change,
        objects::{Kind, Object},
    },
    source::Message,
};
use serde_json::json;

use crate::{
    agent::{Agent, PATIENCE, node, server, service, services, slice},
    api_server::{CLUSTER_POLICIES, Fault, NODES, PODS, SERVICE_CIDRS, SERVICES, SLICES},
};

#[tokio::test]
async fn a_cluster_is_seen_as_it_is_and_as_it_changes() {
    let (api, listening) = server().await;
    api.put(SERVICES, service("web", 80));
    api.put(SLICES, slice("web-1", "web", "10.0.0.1"));
    api.put(NODES, node("own"));
    api.put(SERVICE_CIDRS, json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/16"]}}));
    let pod = json!({"metadata": {"namespace": "shop", "name": "p"}, "spec": {"nodeName": "own", "containers": []}});
    api.put(PODS, pod);

    let mut agent = Agent::in_sync(listening.address).await;
    assert_eq!(services(&agent.model), ["web:80"]);
    let web = agent.model.services().next().unwrap().key.clone();
    assert_eq!(agent.model.slices_of(&web).count(), 1);
    assert!(agent.model.own_node().is_some());
    assert_eq!(agent.model.service_cidrs().count(), 1);
    assert_eq!(agent.model.local_pods().count(), 1);

    api.put(SERVICES, service("api", 443));
    agent.until_services(&["api:443", "web:80"]).await;
    api.put(SERVICES, service("web", 81));
    agent.until_services(&["api:443", "web:81"]).await;
    let version = api.delete(SERVICES, "shop/api");
    agent.until_services(&["web:81"]).await;
    agent.until_version(Kind::Service, version).await;
    api.delete(SLICES, "shop/web-1");
    agent.until("the slice is gone", |model| model.slices_of(&web).count() == 0).await;
    assert!(agent.model.problems().is_empty());
    assert_eq!(api.requests(SERVICES).len(), 2, "one list and one watch: {:?}", api.requests(SERVICES));
}

#[tokio::test]
async fn a_long_list_comes_in_pages_and_is_said_as_one() {
    let (api, listening) = server().await;
    for number in 0..1203 {
        api.put(NODES, node(&format!("n{number:04}")));
    }
    let agent = Agent::in_sync(listening.address).await;
    assert_eq!(agent.model.nodes().count(), 1203);
    let lists: Vec<Vec<Object>> = agent
        .batches
        .into_iter()
        .flat_map(|batch| batch.changes)
        .filter_map(|change| match change {
            Change::Replace(Kind::Node, objects) => Some(objects),
            _ => None,
        })
        .collect();
    assert_eq!(lists.iter().map(Vec::len).collect::<Vec<_>>(), [1203]);
    let pages = api.requests(NODES).into_iter().filter(|query| query.contains("limit=500")).count();
    assert_eq!(pages, 3);
}

#[tokio::test]
async fn the_version_in_force_follows_lists_events_and_bookmarks() {
    let (api, listening) = server().await;
    api.put(SERVICES, service("web", 80));
    api.delete(SERVICES, "shop/web");
    let deleted = api.put(NODES, node("own"));
    let mut agent = Agent::in_sync(listening.address).await;
    for kind in Kind::ALL {
        // Of a list even where it is empty: who deleted the last object waits for that.
        agent.until_version(kind, deleted).await;
    }
    let version = api.bookmark(SERVICES);
    agent.until_version(Kind::Service, version).await;
    // Not ours to serve, but somebody may wait for it to be in force.
    let mut foreign = service("foreign", 80);
    foreign["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "other"});
    let version = api.put(SERVICES, foreign);
    agent.until_version(Kind::Service, version).await;
    let mut headless = slice("db-1", "db", "10.0.0.1");
    headless["metadata"]["labels"]["service.kubernetes.io/headless"] = "".into();
    let version = api.put(SLICES, headless);
    agent.until_version(Kind::EndpointSlice, version).await;
    assert_eq!(agent.model.slices().count(), 0);
}

#[tokio::test]
async fn a_slice_that_becomes_headless_goes() {
    let (api, listening) = server().await;
    api.put(SLICES, slice("web-1", "web", "10.0.0.1"));
    let mut agent = Agent::in_sync(listening.address).await;
    assert_eq!(agent.model.slices().count(), 1);
    let mut headless = slice("web-1", "web", "10.0.0.1");
    headless["metadata"]["labels"]["service.kubernetes.io/headless"] = "".into();
    api.put(SLICES, headless);
    agent.until("the slice is gone", |model| model.slices().count() == 0).await;
}

#[tokio::test]
async fn a_custom_resource_may_be_defined_later_and_no_more() {
    let (api, listening) = server().await;
    api.set_unknown(CLUSTER_POLICIES, true);
    let mut agent = Agent::in_sync(listening.address).await;
    assert_eq!(agent.model.cluster_policies().count(), 0);
    assert!(agent.model.problems().is_empty());
    api.set_unknown(CLUSTER_POLICIES, false);
    api.put(
        CLUSTER_POLICIES,
        json!({
            "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
            "metadata": {"name": "first"},
            "spec": {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}},
        }),
    );
    // A minute later, or when the API server answers again after it hadn't.
    api.spoil_watches(NODES, &[Fault::Status(500)]);
    api.cut_watches(NODES);
    agent.until("it is there", |model| model.cluster_policies().count() == 1).await;
    api.set_unknown(CLUSTER_POLICIES, true);
    api.cut_watches(CLUSTER_POLICIES);
    agent.until("it is gone", |model| model.cluster_policies().count() == 0).await;
    assert!(agent.model.in_sync());
    agent.until_good().await;
}

#[tokio::test]
async fn a_bad_object_is_left_out_alone_and_named() {
    let (api, listening) = server().await;
    let mut unreadable = service("bad", 80);
    unreadable["spec"]["ports"] = json!("eighty");
    api.put(SERVICES, unreadable.clone());
    api.put(SERVICES, service("good", 80));
    api.put(SERVICES, service("port", 0));
    let mut agent = Agent::in_sync(listening.address).await;
    assert_eq!(services(&agent.model), ["good:80", "port"]);
    let problems = |model: &Model| model.problems().clone().into_iter().collect::<Vec<_>>();
    let found = problems(&agent.model);
    assert_eq!(found.iter().map(|(subject, _)| subject).collect::<Vec<_>>(), ["Service shop/bad", "Service shop/port"]);
    assert!(found[0].1.starts_with("spec.ports: "), "{found:?}");
    assert!(found[1].1.starts_with("spec.ports[0].port: 0 "), "{found:?}");

    // Made good, deleted, and made bad, by events.
    api.put(SERVICES, service("bad", 81));
    api.delete(SERVICES, "shop/port");
    agent.until_good().await;
    agent.until_services(&["bad:81", "good:80"]).await;
    api.put(SERVICES, unreadable);
    agent.until_services(&["good:80"]).await;
    agent.until("it is named", |model| model.problems().contains_key("Service shop/bad")).await;

    // Deleted while nobody watched.
    api.spoil_watches(SERVICES, &[Fault::Status(410)]);
    api.cut_watches(SERVICES);
    api.delete(SERVICES, "shop/bad");
    api.compact(SERVICES);
    agent.until_good().await;
}

#[tokio::test]
async fn a_rescan_is_answered_at_once() {
    let (_api, listening) = server().await;
    let mut agent = Agent::in_sync(listening.address).await;
    agent.source.control.rescan(7);
    agent.source.control.clone().rescan(8);
    let mut answers = Vec::new();
    while answers.len() < 2 {
        if let Message::Rescanned(token) = agent.message("the rescans are answered").await {
            answers.push(token);
        }
    }
    assert_eq!(answers, [7, 8]);
}

#[tokio::test]
async fn watches_end_with_the_source() {
    let (api, listening) = server().await;
    let agent = Agent::in_sync(listening.address).await;
    let all = async {
        while api.watching() != Kind::ALL.len() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, all).await.expect("not all are watched");
    drop(agent);
    let none = async {
        while api.watching() != 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, none).await.expect("somebody still watches");
}
