//! The Kubernetes API as a source, against a server that speaks HTTP and misbehaves.
//!
//! Each test says what a user would see of the cluster: the agent's model, what it
//! reports as wrong, and that nothing which exists is ever taken away.

#[path = "kube_source/api_server.rs"]
mod api_server;

use std::{
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use api_server::{ApiServer, CLUSTER_POLICIES, Fault, Listening, NODES, PODS, SERVICE_CIDRS, SERVICES, SLICES};
use node_agent::{
    model::{
        Model,
        change::{Change, ChangeBatch},
        objects::{Kind, Object},
    },
    source::{Message, Source, SourceError, SourceSpec, start},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpSocket};

/// Long enough for the slowest machine and some back-off; nothing waits that long if all is well.
const PATIENCE: Duration = Duration::from_secs(60);

fn service(name: &str, port: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": name},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": port}]},
    })
}

fn slice(name: &str, service: &str, address: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": "shop", "name": name, "labels": {"kubernetes.io/service-name": service}},
        "endpoints": [{"addresses": [address]}], "ports": [{"port": 8080}],
    })
}

fn node(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
}

fn kubeconfig(directory: &Path, server: SocketAddr) -> SourceSpec {
    let path = directory.join("kubeconfig");
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": format!("http://{server}")}}],
        "users": [{"name": "test", "user": {"token": "secret"}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    });
    std::fs::write(&path, text.to_string()).unwrap();
    SourceSpec::Kube { kubeconfig: Some(path) }
}

/// An agent's view of a server.
struct Agent {
    source: Source,
    model: Model,
    batches: Vec<ChangeBatch>,
    _directory: TempDir,
}

impl Agent {
    async fn start(server: SocketAddr) -> Self {
        let directory = TempDir::new().unwrap();
        let source = start(&kubeconfig(directory.path(), server)).await.unwrap();
        Self { source, model: Model::new("own"), batches: Vec::new(), _directory: directory }
    }

    async fn in_sync(server: SocketAddr) -> Self {
        let mut agent = Self::start(server).await;
        agent.until("it is in sync", Model::in_sync).await;
        agent
    }

    async fn message(&mut self, what: &str) -> Message {
        let message = tokio::time::timeout(PATIENCE, self.source.messages.recv()).await;
        let Ok(message) = message else {
            panic!("waited in vain until {what}; problems: {:?}", self.model.problems());
        };
        let message = message.expect("the source ended");
        if let Message::Batch(batch) = &message {
            self.model.apply(batch.clone());
            self.batches.push(batch.clone());
        }
        message
    }

    async fn until(&mut self, what: &str, condition: impl Fn(&Model) -> bool) {
        while !condition(&self.model) {
            self.message(what).await;
        }
    }

    async fn until_services(&mut self, expected: &[&str]) {
        self.until(&format!("the Services are {expected:?}"), |model| services(model) == expected).await;
    }

    async fn until_version(&mut self, kind: Kind, version: u64) {
        let what = format!("{kind} is at {version}");
        self.until(&what, |model| model.versions().get(&kind) == Some(&version.to_string())).await;
    }

    async fn until_good(&mut self) {
        self.until("no problem is left", |model| model.problems().is_empty()).await;
    }
}

/// Services as `name:port`, `name` if none of its ports can be used.
fn services(model: &Model) -> Vec<String> {
    model
        .services()
        .map(|service| match service.ports.first() {
            Some(port) => format!("{}:{}", service.key.name, port.port),
            None => service.key.name.to_string(),
        })
        .collect()
}

/// Whether anyone was ever told that the Service isn't there.
fn ever_missing(batches: &[ChangeBatch], name: &str) -> bool {
    batches.iter().flat_map(|batch| &batch.changes).any(|change| match change {
        Change::Delete(Kind::Service, key) => &*key.name == name,
        Change::Replace(Kind::Service, objects) => !objects.iter().any(|object| &*object.key().name == name),
        _ => false,
    })
}

async fn server() -> (ApiServer, Listening) {
    let api = ApiServer::new();
    let listening = api.listen().await;
    (api, listening)
}

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

/// Whatever happens to lists and watches, in the end the agent sees what there is, what
/// stays is never taken away, and no problem is left.
async fn check_survives(lists: &[Fault], watches: &[Fault], forgotten: bool) {
    let (api, listening) = server().await;
    api.put(SERVICES, service("stays", 80));
    api.put(SERVICES, service("goes", 80));
    // The first watch ends with the first change; the faults hit what comes then.
    api.spoil_watches(SERVICES, &[Fault::CutAfterEvent]);
    let mut agent = Agent::in_sync(listening.address).await;
    agent.batches.clear();

    api.spoil_watches(SERVICES, watches);
    api.spoil_lists(SERVICES, lists);
    api.put(SERVICES, service("comes", 1));
    api.delete(SERVICES, "shop/goes");
    api.put(SERVICES, service("comes", 2));
    if forgotten {
        api.compact(SERVICES);
    }
    let what = format!("{lists:?} {watches:?} {forgotten}");
    agent.until(&what, |model| services(model) == ["comes:2", "stays:80"]).await;
    // Each fault needs something to hit.
    let mut port = 2;
    while api.faults_left(SERVICES) > 0 {
        port += 1;
        api.put(SERVICES, service("comes", port));
        agent.until(&what, |model| services(model) == [format!("comes:{port}"), "stays:80".to_owned()]).await;
    }
    let version = api.bookmark(SERVICES);
    agent.until_version(Kind::Service, version).await;
    agent.until_good().await;
    assert!(!ever_missing(&agent.batches, "stays"), "{what}");
}

macro_rules! survives {
    ($($name:ident: lists $lists:expr, watches $watches:expr, forgotten $forgotten:expr;)*) => {$(
        #[tokio::test]
        async fn $name() {
            check_survives(&$lists, &$watches, $forgotten).await;
        }
    )*};
}

survives! {
    survives_a_cut_connection: lists [], watches [], forgotten false;
    survives_a_cut_in_mid_line: lists [], watches [Fault::CutMidLine, Fault::CutMidLine], forgotten false;
    survives_cuts_between_events: lists [], watches [Fault::CutAfterEvent, Fault::CutAfterEvent], forgotten false;
    survives_a_slow_stream: lists [], watches [Fault::Trickle], forgotten false;
    survives_garbage: lists [], watches [Fault::Garbage], forgotten false;
    survives_a_watch_that_ends_at_once: lists [], watches [Fault::EndAtOnce, Fault::EndAtOnce], forgotten false;
    survives_failing_watches: lists [], watches [Fault::Status(500), Fault::Status(503)], forgotten false;
    survives_an_error_event: lists [], watches [Fault::ErrorEvent(500)], forgotten false;
    survives_a_forgotten_version: lists [], watches [], forgotten true;
    survives_410_as_status: lists [], watches [Fault::Status(410)], forgotten true;
    survives_410_as_event_again_and_again: lists [], watches [Fault::ErrorEvent(410), Fault::ErrorEvent(410)], forgotten true;
    survives_failing_lists: lists [Fault::Status(500), Fault::Status(410)], watches [Fault::Status(410)], forgotten false;
    survives_lost_rights: lists [Fault::Status(403)], watches [Fault::Status(403), Fault::Status(410)], forgotten false;
    survives_all_of_it: lists [Fault::Status(503)], watches [Fault::Status(410), Fault::CutMidLine, Fault::EndAtOnce, Fault::ErrorEvent(410), Fault::Trickle],
        forgotten true;
}

#[tokio::test]
async fn a_page_that_expired_begins_the_list_anew() {
    let (api, listening) = server().await;
    for number in 0..700 {
        api.put(NODES, node(&format!("n{number:04}")));
    }
    api.expire_next_page(NODES);
    let mut agent = Agent::start(listening.address).await;
    agent.until("all Nodes are listed", |model| model.nodes().count() == 700).await;
    agent.until_good().await;
    let firsts =
        api.requests(NODES).iter().filter(|query| query.contains("limit") && !query.contains("continue")).count();
    assert_eq!(firsts, 2);
}

#[tokio::test]
async fn nothing_is_in_sync_before_every_kind_is_and_the_trouble_is_named() {
    let (api, listening) = server().await;
    api.put(SERVICES, service("web", 80));
    api.spoil_lists(PODS, &[Fault::Status(500)]);
    let mut agent = Agent::start(listening.address).await;
    agent.until("the trouble is named", |model| model.problems().contains_key("watch Pod")).await;
    let message = &agent.model.problems()["watch Pod"];
    assert_eq!(message, "can't list: the test says 500 (500)");
    agent.until("only Pods are missing", |model| model.missing() == [Kind::Pod]).await;
    agent.until("it is in sync", Model::in_sync).await;
    agent.until_good().await;
}

#[tokio::test]
async fn a_watch_that_works_again_is_said_although_nothing_changed() {
    let (api, listening) = server().await;
    api.spoil_watches(SLICES, &[Fault::Status(403)]);
    let mut agent = Agent::in_sync(listening.address).await;
    agent.until("the trouble is named", |model| model.problems().contains_key("watch EndpointSlice")).await;
    assert!(agent.model.in_sync());
    agent.until_good().await;
}

#[tokio::test]
async fn an_api_server_without_service_cidrs_will_do() {
    let (api, listening) = server().await;
    api.set_unknown(SERVICE_CIDRS, true);
    let agent = Agent::in_sync(listening.address).await;
    assert_eq!(agent.model.service_cidrs().count(), 0);
    assert!(agent.model.problems().is_empty());
    // It isn't asked again and again.
    assert_eq!(api.requests(SERVICE_CIDRS).len(), 1);
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
async fn an_api_server_without_services_will_not() {
    let (api, listening) = server().await;
    api.set_unknown(SERVICES, true);
    let mut agent = Agent::start(listening.address).await;
    agent.until("the trouble is named", |model| model.problems().contains_key("watch Service")).await;
    agent.until("all others are there", |model| model.missing() == [Kind::Service]).await;
    api.set_unknown(SERVICES, false);
    agent.until("it is in sync", Model::in_sync).await;
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
async fn a_server_that_is_down_is_waited_for() {
    // Bound, so that nobody else takes the port, but not listening.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let mut agent = Agent::start(address).await;
    agent.until("the trouble is named", |model| model.problems().len() == Kind::ALL.len()).await;
    for message in agent.model.problems().values() {
        assert!(message.contains("onnection refused"), "{message}");
    }
    let api = ApiServer::new();
    api.put(SERVICES, service("web", 80));
    let _listening = api.serve(socket.listen(16).unwrap());
    agent.until("it is in sync", Model::in_sync).await;
    agent.until_good().await;
    assert_eq!(services(&agent.model), ["web:80"]);
}

#[tokio::test]
async fn what_one_kind_finds_out_the_others_know() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut agent = Agent::start(socket.local_addr().unwrap()).await;
    agent.until("the trouble is named", |model| model.problems().len() == Kind::ALL.len()).await;
    // By then they wait for seconds, each for another time.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let _listening = ApiServer::new().serve(socket.listen(16).unwrap());
    agent.until("one kind is listed", |model| model.missing().len() < Kind::ALL.len()).await;
    let first = Instant::now();
    agent.until("it is in sync", Model::in_sync).await;
    assert!(first.elapsed() < Duration::from_secs(1), "the last kind came {:?} after the first", first.elapsed());
}

#[tokio::test]
async fn a_server_that_restarts_is_taken_up_where_it_was() {
    let (api, listening) = server().await;
    api.put(SERVICES, service("stays", 80));
    let mut agent = Agent::in_sync(listening.address).await;
    agent.batches.clear();
    let address = listening.address;
    api.cut_watches(SERVICES);
    drop(listening);
    api.put(SERVICES, service("comes", 80));
    let listener = loop {
        // The old one may not have let go of the port yet.
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let _listening = api.serve(listener);
    agent.until_services(&["comes:80", "stays:80"]).await;
    agent.until_good().await;
    assert!(!ever_missing(&agent.batches, "stays"));
    assert!(!agent.batches.iter().flat_map(|batch| &batch.changes).any(|change| matches!(change, Change::Replace(..))));
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

#[tokio::test]
async fn an_unusable_kubeconfig_is_named() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("kubeconfig");
    for text in
        [None, Some(""), Some("apiVersion: ["), Some("{apiVersion: v1, kind: Config, current-context: nowhere}")]
    {
        if let Some(text) = text {
            std::fs::write(&path, text).unwrap();
        }
        let error = start(&SourceSpec::Kube { kubeconfig: Some(path.clone()) }).await.unwrap_err();
        assert!(matches!(error, SourceError::Kubeconfig { .. }), "{text:?}: {error}");
        assert!(error.to_string().contains(&path.display().to_string()), "{text:?}: {error}");
    }
}
