//! kube-proxy's HTTP endpoints: `/healthz` and `/livez`, `/metrics`.
//!
//! Invariant: a server that can't listen is reported and tried again; the agent
//! goes on without it. This module must not know how what it serves comes about.

use std::{io, net::SocketAddr, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use jiff::Timestamp;
use serde::Serialize;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    time::Instant,
};

use super::{counted::Question, metrics::Metrics, vitals::Vitals};

const RETRY: Duration = Duration::from_secs(1);

/// What a server says of itself: listening, or why not.
#[derive(Debug)]
pub struct Listening {
    /// The flag that gave its address.
    pub flag: &'static str,
    /// The address.
    pub address: SocketAddr,
    /// Why it can't listen there; none: it does.
    pub error: Option<io::Error>,
}

/// Serves `/healthz` and `/livez`.
pub fn health(vitals: watch::Receiver<Vitals>, metrics: Metrics) -> Router {
    let live = |State((vitals, metrics)): State<(watch::Receiver<Vitals>, Metrics)>| async move {
        let vitals = *vitals.borrow();
        let (code, answer) = answer(&vitals, vitals.is_alive(Instant::now()), None);
        metrics.livez(code.as_u16());
        (code, answer)
    };
    let healthy = |State((vitals, metrics)): State<(watch::Receiver<Vitals>, Metrics)>| async move {
        let vitals = *vitals.borrow();
        let well = vitals.is_up_to_date(Instant::now());
        let (code, answer) = answer(&vitals, well, Some(vitals.node_eligible));
        metrics.healthz(code.as_u16());
        (code, answer)
    };
    Router::new().route("/livez", get(live)).route("/healthz", get(healthy)).with_state((vitals, metrics))
}

/// What kube-proxy answers: `well` is the proxy, `node_eligible` the node if that counts.
fn answer(vitals: &Vitals, well: bool, node_eligible: Option<bool>) -> (StatusCode, impl IntoResponse + use<>) {
    let current_time = Timestamp::now();
    let is_fine = well && node_eligible != Some(false);
    // kube-proxy tells the present as long as all is well, and for "never" Go's first moment.
    let updated = vitals.applied_at.unwrap_or_else(|| Timestamp::constant(-62_135_596_800, 0));
    let last_updated = if is_fine { current_time } else { updated };
    // Both families go through one plan.
    let family = |_| FamilyHealth { last_updated: updated, healthy: well };
    let status = vitals.applied_at.map(family).map(|family| Families { v4: family, v6: family });
    let body = Health { last_updated, current_time, node_eligible, healthy: well, status };
    let code = if is_fine { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, ([(header::X_CONTENT_TYPE_OPTIONS, "nosniff")], Json(body)))
}

/// The body that kube-proxy gives.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Health {
    last_updated: Timestamp,
    current_time: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Families>,
}

#[derive(Serialize)]
struct Families {
    #[serde(rename = "IPv4")]
    v4: FamilyHealth,
    #[serde(rename = "IPv6")]
    v6: FamilyHealth,
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyHealth {
    last_updated: Timestamp,
    healthy: bool,
}

/// Serves `/metrics`. Whose counters are is asked of `ask`.
pub fn metrics(metrics: Metrics, ask: mpsc::Sender<Question>) -> Router {
    let scrape = |State((metrics, ask)): State<(Metrics, mpsc::Sender<Question>)>| async move {
        match metrics.scrape(&ask).await {
            Ok(text) => {
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                ([(header::CONTENT_TYPE, kind)], text).into_response()
            }
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        }
    };
    Router::new().route("/metrics", get(scrape)).with_state((metrics, ask))
}

/// Listens and serves until the process ends, trying again for as long as the address
/// is taken. `said` is told why it can't listen, once, and then that it does.
pub async fn serve(address: SocketAddr, router: Router, mut said: impl FnMut(Option<io::Error>)) {
    let mut failed = false;
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) => {
                if !failed {
                    said(Some(error));
                }
                failed = true;
                tokio::time::sleep(RETRY).await;
            }
        }
    };
    said(None);
    // It ends only with an error that axum itself has no name for.
    if let Err(error) = axum::serve(listener, router).await {
        said(Some(error));
    }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use serde_json::{Value, json};

    use super::*;

    async fn ask(vitals: &Vitals, well: bool, node_eligible: Option<bool>) -> (u16, Value) {
        let response = answer(vitals, well, node_eligible).into_response();
        for (name, value) in [("content-type", "application/json"), ("x-content-type-options", "nosniff")] {
            assert_eq!(response.headers()[name], value);
        }
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), 4096).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn the_answers_are_kube_proxys() {
        let applied = "2026-11-25T01:02:03Z";
        let begun = Vitals::new();
        let running = Vitals { applied_at: Some(applied.parse().unwrap()), ..begun };
        for (vitals, well, eligible, status, updated) in [
            (running, true, None, 200, None),
            (running, true, Some(true), 200, None),
            (running, true, Some(false), 503, Some(applied)),
            (running, false, None, 503, Some(applied)),
            (running, false, Some(true), 503, Some(applied)),
            (begun, true, None, 200, None),
            (begun, false, Some(true), 503, Some("0001-01-01T00:00:00Z")),
        ] {
            let (got, body) = ask(&vitals, well, eligible).await;
            assert_eq!(got, status, "{body}");
            assert_eq!(body["lastUpdated"], updated.map_or(body["currentTime"].clone(), Value::from), "{body}");
            assert_eq!(body["nodeEligible"], eligible.map_or(Value::Null, Value::from), "{body}");
            assert_eq!(body["healthy"], well, "{body}");
            let family = json!({ "lastUpdated": applied, "healthy": well });
            let families = json!({ "IPv4": family, "IPv6": family });
            assert_eq!(body["status"], if vitals.applied_at.is_some() { families } else { Value::Null });
        }
    }
}
