//! Pages for reading: metrics, health, and the state as JSON and as HTML.

use super::{AdminState, Route, page};
use crate::{base::accept, status::snapshot::Readiness};
use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::get,
};

/// Paths that report the health of the process and nothing of what it serves. Open to any client
/// that can connect.
pub(super) const HEALTH: [&str; 2] = ["/healthz", "/readyz"];
/// Path of the metrics, open to all users of this machine unless there is a token.
pub(super) const METRICS: &str = "/metrics";

pub(super) fn routes() -> Vec<Route> {
    vec![
        (&["GET"], METRICS, get(metrics)),
        (&["GET"], HEALTH[0], get(|| async { "ok\n" })),
        (&["GET"], HEALTH[1], get(ready)),
        (&["GET"], "/status", get(status)),
    ]
}

async fn metrics(State(served): State<AdminState>) -> Response {
    const TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, TYPE)], served.source.metrics_text()).into_response()
}

async fn ready(State(served): State<AdminState>) -> Response {
    let (ready, reasons) = match served.source.ready() {
        Ok(()) => (true, Vec::new()),
        Err(reasons) => (false, reasons),
    };
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(Readiness { ready, reasons })).into_response()
}

async fn status(State(served): State<AdminState>, headers: HeaderMap) -> Response {
    let wants_html = headers.get(header::ACCEPT).is_some_and(|value| {
        accept::preferred(value.as_bytes(), &["application/json", "text/html"]) == Some(1)
    });
    let snapshot = served.source.snapshot();
    let mut response = if wants_html {
        Html(page::status(&snapshot).into_string()).into_response()
    } else {
        Json(snapshot).into_response()
    };
    response
        .headers_mut()
        .insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}
