//! The servers at `healthCheckNodePort`s, where load balancers ask whether a Service
//! has endpoints on this node.
//!
//! The answers are kube-proxy's: 200 if there are ready endpoints here and this
//! proxy is well, else 503. Invariant: a server stands for as long as a Service
//! wants it; a port that is taken is reported and tried again. This module must not
//! know how endpoints are counted.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderName, StatusCode, header},
    response::IntoResponse,
};
use serde::Serialize;
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tracing::warn;

use super::{http, vitals::Vitals};
use crate::{
    compile::HealthCheck,
    model::{change::Problem, objects::ObjectKey},
};

/// The number of endpoints, for load balancers that weigh nodes by it.
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// Why servers don't listen, by where they should.
type Failures = Arc<Mutex<BTreeMap<SocketAddr, String>>>;

/// What is answered at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    service: ObjectKey,
    endpoints: usize,
}

#[derive(Debug)]
struct Server {
    answer: watch::Sender<Answer>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// All servers.
#[derive(Debug)]
pub struct HealthChecks {
    vitals: watch::Receiver<Vitals>,
    servers: BTreeMap<SocketAddr, Server>,
    failures: Failures,
    conflicts: Vec<Problem>,
}

impl HealthChecks {
    /// None yet; `vitals` say whether the proxy is well.
    pub fn new(vitals: watch::Receiver<Vitals>) -> Self {
        Self { vitals, servers: BTreeMap::new(), failures: Failures::default(), conflicts: vec![] }
    }

    /// From now on these are served, at these of the node's addresses. `age` of a
    /// Service decides who of two has a port: the lesser one, then the first by name.
    ///
    /// Must be called within a tokio runtime.
    pub fn set(
        &mut self,
        checks: &BTreeMap<ObjectKey, HealthCheck>,
        addresses: &BTreeSet<IpAddr>,
        age: impl Fn(&ObjectKey) -> i64,
    ) {
        let mut by_port: BTreeMap<u16, (&ObjectKey, &HealthCheck)> = BTreeMap::new();
        let mut by_age: Vec<_> = checks.iter().collect();
        by_age.sort_by_key(|(key, _)| (age(key), *key));
        self.conflicts.clear();
        for (key, check) in by_age {
            match by_port.entry(check.port) {
                Entry::Vacant(free) => {
                    free.insert((key, check));
                }
                Entry::Occupied(taken) => self.conflicts.push(Problem {
                    subject: format!("Service {key}"),
                    message: format!(
                        "healthCheckNodePort {} belongs to Service {}, which is older or first by name",
                        check.port,
                        taken.get().0
                    ),
                }),
            }
        }
        let mut wanted = BTreeMap::new();
        for (key, check) in by_port.into_values() {
            for ip in addresses {
                let endpoints = if ip.is_ipv4() { check.v4 } else { check.v6 };
                if let Some(endpoints) = endpoints {
                    wanted.insert(SocketAddr::new(*ip, check.port), Answer { service: key.clone(), endpoints });
                }
            }
        }
        self.servers.retain(|at, _| wanted.contains_key(at));
        self.failures().retain(|at, _| wanted.contains_key(at));
        for (at, answer) in wanted {
            match self.servers.entry(at) {
                Entry::Occupied(server) => {
                    server.get().answer.send_if_modified(|old| std::mem::replace(old, answer.clone()) != answer);
                }
                Entry::Vacant(free) => {
                    free.insert(start(at, answer, self.vitals.clone(), Arc::clone(&self.failures)));
                }
            }
        }
    }

    /// What can't be served, for the users of the Services concerned.
    pub fn problems(&self) -> Vec<Problem> {
        let failures = self.failures();
        let failed = failures.iter().filter_map(|(at, error)| {
            let service = self.servers.get(at)?.answer.borrow().service.clone();
            let message = format!("cannot serve its healthCheckNodePort at {at}: {error}");
            Some(Problem { subject: format!("Service {service}"), message })
        });
        self.conflicts.iter().cloned().chain(failed).collect()
    }

    fn failures(&self) -> std::sync::MutexGuard<'_, BTreeMap<SocketAddr, String>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn start(at: SocketAddr, answer: Answer, vitals: watch::Receiver<Vitals>, failures: Failures) -> Server {
    let service = answer.service.clone();
    let (answer, watched) = watch::channel(answer);
    let router = Router::new().fallback(health_check).with_state((watched, vitals));
    let said = move |error: Option<std::io::Error>| {
        let mut failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
        match error {
            Some(error) => {
                warn!(%service, %at, %error, "cannot serve a healthCheckNodePort");
                failures.insert(at, error.to_string());
            }
            None => drop(failures.remove(&at)),
        }
    };
    Server { answer, task: tokio::spawn(http::serve(at, router, said)) }
}

type Watched = (watch::Receiver<Answer>, watch::Receiver<Vitals>);

async fn health_check(State((answer, vitals)): State<Watched>) -> impl IntoResponse {
    // Of a connection that outlived its Service.
    let is_wanted = answer.has_changed().is_ok();
    let Answer { service, endpoints } = answer.borrow().clone();
    let is_well = vitals.borrow().is_up_to_date(Instant::now());
    let code = if is_wanted && is_well && endpoints > 0 { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = Body {
        service: Named { namespace: service.namespace.to_string(), name: service.name.to_string() },
        local_endpoints: endpoints,
        service_proxy_healthy: is_well,
    };
    let headers = [(header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()), (WEIGHT, endpoints.to_string())];
    (code, headers, Json(body))
}

/// The body that kube-proxy gives.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    service: Named,
    local_endpoints: usize,
    service_proxy_healthy: bool,
}

#[derive(Serialize)]
struct Named {
    namespace: String,
    name: String,
}

#[cfg(test)]
#[path = "health_checks_tests.rs"]
mod tests;
