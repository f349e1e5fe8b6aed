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
use tokio::{net::TcpListener, sync::watch, time::Instant};

use super::{metrics::Metrics, vitals::Vitals};

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
        let code = status(vitals.is_alive(Instant::now()));
        metrics.livez(code.as_u16());
        (code, Json(Health::new(&vitals, None)))
    };
    let healthy = |State((vitals, metrics)): State<(watch::Receiver<Vitals>, Metrics)>| async move {
        let vitals = *vitals.borrow();
        let code = status(vitals.is_healthy(Instant::now()));
        metrics.healthz(code.as_u16());
        (code, Json(Health::new(&vitals, Some(!vitals.node_deleting))))
    };
    Router::new().route("/livez", get(live)).route("/healthz", get(healthy)).with_state((vitals, metrics))
}

fn status(well: bool) -> StatusCode {
    if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// The body that kube-proxy gives.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Health {
    last_updated: Option<Timestamp>,
    current_time: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
}

impl Health {
    fn new(vitals: &Vitals, node_eligible: Option<bool>) -> Self {
        Self { last_updated: vitals.applied_at, current_time: Timestamp::now(), node_eligible }
    }
}

/// Serves `/metrics`.
pub fn metrics(metrics: Metrics) -> Router {
    let scrape = |State(metrics): State<Metrics>| async move {
        // Counting the entries of large tables takes milliseconds of system calls.
        match tokio::task::spawn_blocking(move || metrics.encode()).await {
            Ok(Ok(text)) => {
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                ([(header::CONTENT_TYPE, kind)], text).into_response()
            }
            _ => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    };
    Router::new().route("/metrics", get(scrape)).with_state(metrics)
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
