//! Metrics and health.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use edgeway_base::{accept, metrics::Exposition};

use super::{AdminState, Route, extract::PathPart, off_thread};
use crate::{
    actions::ActionError,
    snapshot::{NotReady, Readiness},
};

/// Paths that report the health of the process and nothing of what it serves. Open to any client
/// that can connect.
pub(super) const HEALTH: [&str; 2] = ["/healthz", "/readyz"];
/// Beginning of the paths that report whether one upstream is ready, open like [`HEALTH`].
const UPSTREAM_READY: &str = "/readyz/upstreams/";
/// Path of the metrics, open to all users of this machine unless there is a token.
pub(super) const METRICS: &str = "/metrics";

pub(super) fn routes() -> Vec<Route> {
    routes! {
        GET METRICS => metrics,
        GET HEALTH[0] => || async { "ok\n" },
        GET HEALTH[1] => ready,
        GET "/readyz/upstreams/{upstream}" => upstream_ready,
    }
}

/// Returns true for paths that are open to any client that can connect.
pub(super) fn is_open(path: &str) -> bool {
    HEALTH.contains(&path) || path.starts_with(UPSTREAM_READY)
}

/// Responds with all metrics: with many routes they take milliseconds.
async fn metrics(
    State(served): State<AdminState>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, ActionError> {
    let offers = ["application/openmetrics-text", "text/plain"];
    let wants_open_metrics = headers
        .get_all(header::ACCEPT)
        .iter()
        .any(|value| accept::preferred(value.as_bytes(), &offers) == Some(0));
    let format = if wants_open_metrics {
        Exposition::OpenMetrics
    } else {
        Exposition::Text
    };
    let source = Arc::clone(&served.source);
    let text = off_thread(move || source.metrics(format)).await?;
    let headers = [
        (header::CONTENT_TYPE, format.media_type()),
        (header::VARY, "Accept"),
    ];
    Ok((headers, text))
}

async fn ready(State(served): State<AdminState>) -> Response {
    let mut reasons = served.source.ready().err().unwrap_or_default();
    reasons.dedup_by_key(|reason| reason.public());
    let reasons = reasons.iter().map(NotReady::public).map(str::to_owned);
    readiness(reasons.collect())
}

async fn upstream_ready(
    State(served): State<AdminState>,
    PathPart(upstream): PathPart<String>,
) -> Response {
    match served.source.upstream_ready(&upstream) {
        Some(true) => readiness(Vec::new()),
        Some(false) => readiness(vec!["not ready".to_owned()]),
        None => {
            let message = "there is no upstream of this name here";
            ActionError::new(404, "no_such_upstream", message).into_response()
        }
    }
}

fn readiness(reasons: Vec<String>) -> Response {
    let ready = reasons.is_empty();
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(Readiness { ready, reasons })).into_response()
}
