//! Servers that fail, lie, forget or go away.

use std::time::{Duration, Instant};

use node_agent::{
    model::{Model, change::Change, objects::Kind},
    source::{SourceError, SourceSpec, start},
};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpSocket};

use crate::{
    agent::{Agent, ever_missing, node, server, service, services},
    api_server::{ApiServer, Fault, NODES, PODS, SERVICE_CIDRS, SERVICES, SLICES},
};

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
