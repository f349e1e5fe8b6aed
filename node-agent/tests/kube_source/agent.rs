//! An agent's view of a server, and the objects that tests put there.

use std::{net::SocketAddr, path::Path, time::Duration};

use node_agent::{
    model::{
        Model,
        change::{Change, ChangeBatch},
        objects::Kind,
    },
    source::{Message, Source, SourceSpec, start},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::api_server::{ApiServer, Listening};

/// Long enough for the slowest machine and some back-off; nothing waits that long if all is well.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn service(name: &str, port: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": name},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": port}]},
    })
}

pub fn slice(name: &str, service: &str, address: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": "shop", "name": name, "labels": {"kubernetes.io/service-name": service}},
        "endpoints": [{"addresses": [address]}], "ports": [{"port": 8080}],
    })
}

pub fn node(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
}

pub fn kubeconfig(directory: &Path, server: SocketAddr) -> SourceSpec {
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
pub struct Agent {
    pub source: Source,
    pub model: Model,
    pub batches: Vec<ChangeBatch>,
    _directory: TempDir,
}

impl Agent {
    pub async fn start(server: SocketAddr) -> Self {
        let directory = TempDir::new().unwrap();
        let source = start(&kubeconfig(directory.path(), server)).await.unwrap();
        Self { source, model: Model::new("own"), batches: Vec::new(), _directory: directory }
    }

    pub async fn in_sync(server: SocketAddr) -> Self {
        let mut agent = Self::start(server).await;
        agent.until("it is in sync", Model::in_sync).await;
        agent
    }

    pub async fn message(&mut self, what: &str) -> Message {
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

    pub async fn until(&mut self, what: &str, condition: impl Fn(&Model) -> bool) {
        while !condition(&self.model) {
            self.message(what).await;
        }
    }

    pub async fn until_services(&mut self, expected: &[&str]) {
        self.until(&format!("the Services are {expected:?}"), |model| services(model) == expected).await;
    }

    pub async fn until_version(&mut self, kind: Kind, version: u64) {
        let what = format!("{kind} is at {version}");
        self.until(&what, |model| model.versions().get(&kind) == Some(&version.to_string())).await;
    }

    pub async fn until_good(&mut self) {
        self.until("no problem is left", |model| model.problems().is_empty()).await;
    }
}

/// Services as `name:port`, `name` if none of its ports can be used.
pub fn services(model: &Model) -> Vec<String> {
    model
        .services()
        .map(|service| match service.ports.first() {
            Some(port) => format!("{}:{}", service.key.name, port.port),
            None => service.key.name.to_string(),
        })
        .collect()
}

/// Whether anyone was ever told that the Service isn't there.
pub fn ever_missing(batches: &[ChangeBatch], name: &str) -> bool {
    batches.iter().flat_map(|batch| &batch.changes).any(|change| match change {
        Change::Delete(Kind::Service, key) => &*key.name == name,
        Change::Replace(Kind::Service, objects) => !objects.iter().any(|object| &*object.key().name == name),
        _ => false,
    })
}

pub async fn server() -> (ApiServer, Listening) {
    let api = ApiServer::new();
    let listening = api.listen().await;
    (api, listening)
}
