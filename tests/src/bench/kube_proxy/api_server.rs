//! As much of an API server as kube-proxy needs to start: the objects of a
//! directory of manifests, listed, and watches on which nothing ever happens.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs::File,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, mpsc},
    thread,
};

use anyhow::{Context, Result, anyhow};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderValue, Response, StatusCode, Uri, header::CONTENT_TYPE},
};
use futures::stream;
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};
use tokio::{net::TcpListener, runtime, sync::oneshot};

use crate::sandbox::Namespace;

/// The kinds that are served: where, and as which version.
const KINDS: [(&str, &str, &str); 4] = [
    ("Service", "/api/v1/services", "v1"),
    ("EndpointSlice", "/apis/discovery.k8s.io/v1/endpointslices", "discovery.k8s.io/v1"),
    ("Node", "/api/v1/nodes", "v1"),
    ("ServiceCIDR", "/apis/networking.k8s.io/v1/servicecidrs", "networking.k8s.io/v1"),
];

/// What each path answers with.
type Lists = Arc<BTreeMap<&'static str, Bytes>>;

/// A server on the loopback address of a network namespace; dropping it ends it.
pub(super) struct ApiServer {
    address: SocketAddr,
    end: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<Result<()>>>,
}

impl ApiServer {
    /// Serves these objects, and those in a `List` among them, inside `node`.
    ///
    /// # Errors
    /// The namespace can't be entered, or there is no port left.
    pub(super) fn start(node: &Namespace, objects: Vec<Value>) -> Result<Self> {
        let lists = lists(objects);
        let netns = node.path();
        let (end, ended) = oneshot::channel();
        let (started, address) = mpsc::channel();
        // A thread of its own: it can't come back from the namespace.
        let thread = thread::spawn(move || serve(netns, lists, &started, ended));
        match address.recv() {
            Ok(address) => Ok(Self { address, end: Some(end), thread: Some(thread) }),
            Err(mpsc::RecvError) => Err(match thread.join() {
                Ok(Err(error)) => error,
                _ => anyhow!("the API server's thread ended"),
            }),
        }
    }

    /// As `--master` takes it.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        // Dropping the sender is the sign to end.
        self.end = None;
        if let Some(thread) = self.thread.take() {
            // What it could fail with has no reader any more.
            let _ = thread.join();
        }
    }
}

fn serve(netns: PathBuf, lists: Lists, started: &mpsc::Sender<SocketAddr>, ended: oneshot::Receiver<()>) -> Result<()> {
    let file = File::open(&netns).with_context(|| format!("can't open {}", netns.display()))?;
    setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("can't enter {}", netns.display()))?;
    // What is still open when it goes, watches, goes with it.
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        // Nobody waits for it if the test panicked.
        let _ = started.send(listener.local_addr()?);
        let router = Router::new().fallback(answer).with_state(lists);
        tokio::select! {
            result = axum::serve(listener, router) => Ok(result?),
            _ = ended => Ok(()),
        }
    })
}

/// Every kind's objects, as the answer to a request for all of them.
fn lists(objects: Vec<Value>) -> Lists {
    let mut items: BTreeMap<&str, Vec<Value>> = KINDS.iter().map(|(kind, ..)| (*kind, Vec::new())).collect();
    let mut pending = objects;
    while let Some(mut object) = pending.pop() {
        if let Some(inner) = object["items"].as_array_mut() {
            pending.append(inner);
        } else if let Some(items) = object["kind"].as_str().and_then(|kind| items.get_mut(kind)) {
            items.push(object);
        }
    }
    let list = |(kind, path, version): &(&'static str, &'static str, &str)| {
        let list = json!({
            "apiVersion": version, "kind": format!("{kind}List"),
            "metadata": {"resourceVersion": "1"}, "items": items[kind],
        });
        (*path, Bytes::from(list.to_string()))
    };
    Arc::new(KINDS.iter().map(list).collect())
}

async fn answer(State(lists): State<Lists>, uri: Uri) -> Response<Body> {
    let query = uri.query().unwrap_or_default();
    let asks = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
    let Some(list) = lists.get(uri.path()) else {
        // Events, mostly.
        return status(StatusCode::NOT_FOUND, "NotFound");
    };
    if asks("sendInitialEvents") {
        // As a server without them says; the client lists then.
        return status(StatusCode::UNPROCESSABLE_ENTITY, "Invalid");
    }
    let body = if asks("watch") {
        Body::from_stream(stream::pending::<Result<Bytes, Infallible>>())
    } else {
        Body::from(list.clone())
    };
    json_response(StatusCode::OK, body)
}

fn status(code: StatusCode, reason: &str) -> Response<Body> {
    let status = json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
        "message": reason, "reason": reason, "code": code.as_u16(),
    });
    json_response(code, Body::from(status.to_string()))
}

fn json_response(code: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_listed_by_kind() {
        let service = |name: &str| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}});
        let lists = lists(vec![
            service("a"),
            json!({"apiVersion": "v1", "kind": "List", "items": [service("b"), {"kind": "Pod"}]}),
        ]);
        let list: Value = serde_json::from_slice(&lists["/api/v1/services"]).unwrap();
        let names: Vec<&Value> = list["items"].as_array().unwrap().iter().map(|s| &s["metadata"]["name"]).collect();
        assert_eq!(list["kind"], "ServiceList");
        assert_eq!(names, ["b", "a"]);
        let nodes: Value = serde_json::from_slice(&lists["/api/v1/nodes"]).unwrap();
        assert_eq!(nodes["items"], json!([]));
    }
}
