//! As much of an API server as a list-and-watch sees, and whatever can go wrong with it.
//!
//! It keeps objects and their history as a real one does: a watch resumes at a
//! version, a version that is too old is gone, a list is paged.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{Response, StatusCode, Uri},
};
use futures::stream;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

pub const SERVICES: &str = "/api/v1/services";
pub const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
pub const PODS: &str = "/api/v1/pods";
pub const NODES: &str = "/api/v1/nodes";
pub const SERVICE_CIDRS: &str = "/apis/networking.k8s.io/v1/servicecidrs";
pub const CLUSTER_POLICIES: &str = "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies";

/// What goes wrong with one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is answered with this status.
    Status(u16),
    /// A watch: an ERROR event with this code.
    ErrorEvent(u16),
    /// A watch: the next event is cut in its middle, and the connection with it.
    CutMidLine,
    /// A watch: the connection is cut after the next event.
    CutAfterEvent,
    /// A watch: it ends in an orderly way before anything came.
    EndAtOnce,
    /// A watch: the next event comes byte by byte.
    Trickle,
    /// A watch: the next event is no JSON.
    Garbage,
}

#[derive(Debug, Default)]
struct Resource {
    objects: BTreeMap<String, Value>,
    /// Versions and the lines that a watch sends for them.
    history: Vec<(u64, String)>,
    /// Up to this version the history is forgotten.
    compacted: u64,
    unknown: bool,
    list_faults: VecDeque<Fault>,
    watch_faults: VecDeque<Fault>,
    /// The queries of all requests.
    requests: Vec<String>,
    watching: usize,
    cuts: usize,
    expired_pages: usize,
}

#[derive(Debug, Default)]
struct Store {
    version: u64,
    resources: HashMap<String, Resource>,
}

impl Store {
    fn resource(&mut self, path: &str) -> &mut Resource {
        self.resources.entry(path.to_owned()).or_default()
    }
}

/// The server's memory, which outlives its being down.
#[derive(Clone, Debug)]
pub struct ApiServer {
    store: Arc<Mutex<Store>>,
    /// The newest version, for watches to wait on.
    news: watch::Sender<u64>,
}

/// A listening server; dropped, it is down.
pub struct Listening {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ApiServer {
    pub fn new() -> Self {
        Self { store: Arc::default(), news: watch::channel(0).0 }
    }

    pub async fn listen(&self) -> Listening {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.serve(listener)
    }

    pub fn serve(&self, listener: TcpListener) -> Listening {
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(self.clone());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Listening { address, task }
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap()
    }

    fn record(&self, path: &str, event: &str, mut object: Value, change: impl FnOnce(&mut Resource, Value)) -> u64 {
        let mut store = self.store();
        store.version += 1;
        let version = store.version;
        object["metadata"]["resourceVersion"] = version.to_string().into();
        let resource = store.resource(path);
        resource.history.push((version, json!({"type": event, "object": object}).to_string()));
        change(resource, object);
        drop(store);
        self.news.send_replace(version);
        version
    }

    /// Creates or replaces an object, and gives its new version.
    pub fn put(&self, path: &str, object: Value) -> u64 {
        let name = key(&object);
        let known = self.store().resource(path).objects.contains_key(&name);
        self.record(path, if known { "MODIFIED" } else { "ADDED" }, object, |resource, object| {
            resource.objects.insert(name, object);
        })
    }

    /// Deletes an object, and gives the version of its going.
    pub fn delete(&self, path: &str, name: &str) -> u64 {
        let object = self.store().resource(path).objects[name].clone();
        self.record(path, "DELETED", object, |resource, _| drop(resource.objects.remove(name)))
    }

    /// Tells watches that time has passed.
    pub fn bookmark(&self, path: &str) -> u64 {
        let object = json!({"apiVersion": "v1", "kind": "Whatever", "metadata": {"creationTimestamp": null}});
        self.record(path, "BOOKMARK", object, |_, _| {})
    }

    /// Forgets the history, as etcd's compaction does.
    pub fn compact(&self, path: &str) {
        let mut store = self.store();
        let version = store.version;
        store.resource(path).compacted = version;
    }

    /// Whether it has never heard of the resource.
    pub fn set_unknown(&self, path: &str, unknown: bool) {
        self.store().resource(path).unknown = unknown;
    }

    /// The next lists go wrong so.
    pub fn spoil_lists(&self, path: &str, faults: &[Fault]) {
        self.store().resource(path).list_faults.extend(faults);
    }

    /// The next watches go wrong so.
    pub fn spoil_watches(&self, path: &str, faults: &[Fault]) {
        self.store().resource(path).watch_faults.extend(faults);
    }

    /// Cuts the connections of the watches that run.
    pub fn cut_watches(&self, path: &str) {
        self.store().resource(path).cuts += 1;
        // Wakes them up.
        self.news.send_modify(|_| {});
    }

    /// The next page that isn't a list's first is too late.
    pub fn expire_next_page(&self, path: &str) {
        self.store().resource(path).expired_pages += 1;
    }

    pub fn faults_left(&self, path: &str) -> usize {
        let mut store = self.store();
        let resource = store.resource(path);
        resource.list_faults.len() + resource.watch_faults.len()
    }

    pub fn requests(&self, path: &str) -> Vec<String> {
        self.store().resource(path).requests.clone()
    }

    /// How many watches are open, of all resources.
    pub fn watching(&self) -> usize {
        self.store().resources.values().map(|resource| resource.watching).sum()
    }

    fn list(&self, path: &str, query: &HashMap<&str, &str>) -> Response<Body> {
        let mut store = self.store();
        let now = store.version;
        let resource = store.resource(path);
        match resource.list_faults.pop_front() {
            None => {}
            Some(Fault::Status(code)) => return status(code),
            Some(other) => panic!("{other:?} is for watches"),
        }
        let (offset, version) = match query.get("continue").map(|token| token.split_once('-').unwrap()) {
            None => (0, now),
            Some((offset, version)) => (offset.parse().unwrap(), version.parse().unwrap()),
        };
        if offset > 0 && resource.expired_pages > 0 {
            resource.expired_pages -= 1;
            return status(410);
        }
        let limit: usize = query.get("limit").map_or(usize::MAX, |limit| limit.parse().unwrap());
        let items: Vec<&Value> = resource.objects.values().skip(offset).take(limit).collect();
        let mut metadata = json!({"resourceVersion": version.to_string()});
        let end = offset + items.len();
        if end < resource.objects.len() {
            metadata["continue"] = format!("{end}-{version}").into();
        }
        let list = json!({"apiVersion": "v1", "kind": "List", "metadata": metadata, "items": items});
        Response::new(Body::from(list.to_string()))
    }

    fn watch(&self, path: &str, query: &HashMap<&str, &str>) -> Response<Body> {
        let since: u64 = query["resourceVersion"].parse().unwrap();
        let mut store = self.store();
        let resource = store.resource(path);
        let fault = resource.watch_faults.pop_front();
        if let Some(Fault::Status(code)) = fault {
            return status(code);
        }
        resource.watching += 1;
        let gone = since < resource.compacted;
        let cuts = resource.cuts;
        drop(store);
        let stream = Watch {
            server: self.clone(),
            path: path.to_owned(),
            since,
            news: self.news.subscribe(),
            fault: if gone { Some(Fault::ErrorEvent(410)) } else { fault },
            cuts,
            waiting: VecDeque::new(),
        };
        Response::new(Body::from_stream(stream::unfold(stream, |mut watch| async {
            watch.next().await.map(|chunk| (chunk, watch))
        })))
    }
}

async fn answer(State(server): State<ApiServer>, uri: Uri) -> Response<Body> {
    let query: HashMap<&str, &str> =
        uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('=')).collect();
    {
        let mut store = server.store();
        let resource = store.resource(uri.path());
        resource.requests.push(uri.query().unwrap_or_default().to_owned());
        if resource.unknown {
            return status(404);
        }
    }
    if query.get("watch") == Some(&"true") { server.watch(uri.path(), &query) } else { server.list(uri.path(), &query) }
}

/// An open watch.
struct Watch {
    server: ApiServer,
    path: String,
    since: u64,
    news: watch::Receiver<u64>,
    fault: Option<Fault>,
    /// How often watches had been cut when it began.
    cuts: usize,
    waiting: VecDeque<io::Result<Bytes>>,
}

impl Watch {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        match self.fault {
            Some(Fault::EndAtOnce) => return None,
            Some(Fault::ErrorEvent(code)) => {
                self.fault = Some(Fault::EndAtOnce);
                return Some(Ok(format!("{}\n", json!({"type": "ERROR", "object": status_object(code)})).into()));
            }
            _ => {}
        }
        loop {
            if let Some(chunk) = self.waiting.pop_front() {
                // So that chunks are not put together on their way.
                tokio::task::yield_now().await;
                return Some(chunk);
            }
            self.news.borrow_and_update();
            if self.server.store().resource(&self.path).cuts != self.cuts {
                return Some(Err(io::ErrorKind::ConnectionReset.into()));
            }
            if let Some(line) = self.take_event() {
                self.chunks(line);
            } else if self.news.changed().await.is_err() {
                return None;
            }
        }
    }

    fn take_event(&mut self) -> Option<String> {
        let mut store = self.server.store();
        let (version, line) = store.resource(&self.path).history.iter().find(|(version, _)| *version > self.since)?;
        self.since = *version;
        Some(format!("{line}\n"))
    }

    fn chunks(&mut self, line: String) {
        let cut = || Err(io::Error::from(io::ErrorKind::ConnectionReset));
        match self.fault.take() {
            None => self.waiting.push_back(Ok(line.into())),
            Some(Fault::CutMidLine) => {
                let middle = line.len() / 2;
                self.waiting.extend([Ok(line[..middle].to_owned().into()), cut()]);
            }
            Some(Fault::CutAfterEvent) => self.waiting.extend([Ok(line.into()), cut()]),
            Some(Fault::Trickle) => {
                self.waiting.extend(line.into_bytes().into_iter().map(|byte| Ok(Bytes::from(vec![byte]))));
            }
            Some(Fault::Garbage) => {
                self.waiting.extend([Ok("{\"type\": \"ADDED\", \"object\": }\n".into())]);
                self.fault = Some(Fault::EndAtOnce);
            }
            Some(other) => panic!("{other:?} has been dealt with"),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.server.store().resource(&self.path).watching -= 1;
    }
}

fn status(code: u16) -> Response<Body> {
    let mut response = Response::new(Body::from(status_object(code).to_string()));
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response
}

fn status_object(code: u16) -> Value {
    let reason = match code {
        404 => "NotFound",
        410 => "Expired",
        403 => "Forbidden",
        503 => "ServiceUnavailable",
        _ => "InternalError",
    };
    json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
        "message": format!("the test says {code}"), "reason": reason, "code": code,
    })
}

/// `namespace/name`, or the name.
fn key(object: &Value) -> String {
    let name = object["metadata"]["name"].as_str().unwrap();
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    }
}
