//! Check of one backend: a connection, or an HTTP response whose status and possibly JSON body are
//! checked, under one deadline for the whole check.
//!
//! It goes over the connections of requests: Pingora's checks allow neither an upstream's own trust
//! nor a look at the response.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use edgeway_net::fetch::{FetchError, collect, drain, exchange_over};
use http::{
    Request, Uri, Version,
    header::{ACCEPT, HOST, USER_AGENT},
    uri::PathAndQuery,
};
use pingora::{Error, ErrorType, Result};

use crate::{
    Protocol,
    backend::Backend,
    client_tls::BackendTls,
    config::model::StatusSet,
    connection::{Transport, connect},
    node::{NodeReport, REPORT_HEADER},
    tls,
};

/// Longest body of a JSON health response.
const MAX_BODY_LEN: usize = 64 * 1024;

/// Result of a check, and its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProbeReport {
    pub(crate) passed: bool,
    /// Result as text: `ok`, `degraded`, `connection refused`.
    pub(crate) text: String,
    pub(crate) took: Duration,
    /// End of the check, in nanoseconds of the upstream's epoch.
    pub(crate) at: u64,
}

/// Text of a check that passed although the app reports a problem.
const DEGRADED: &str = "degraded";

impl ProbeReport {
    /// Returns true if the backend reports that it serves with less than everything.
    pub(crate) fn is_degraded(&self) -> bool {
        self.passed && self.text == DEGRADED
    }
}

/// Report of an app that uses `edgeway-node`, in the response to a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FoundReport {
    /// There was no response, or its report is invalid.
    Unknown,
    /// There was a response without a report.
    Absent,
    Valid(NodeReport),
}

/// Checks of one backend so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProbeLog {
    /// Number of checks that have ended.
    pub(crate) count: u64,
    /// Number of checks that passed since the last failure.
    pub(crate) passed_in_a_row: u64,
    /// True once a check has passed.
    pub(crate) has_passed: bool,
    /// Set while a check is running.
    pub(crate) is_running: bool,
    pub(crate) last: Option<ProbeReport>,
}

impl ProbeLog {
    pub(crate) fn begin(&mut self) {
        self.is_running = true;
    }

    pub(crate) fn end(&mut self, report: ProbeReport) {
        self.is_running = false;
        self.count += 1;
        self.has_passed |= report.passed;
        self.passed_in_a_row = if report.passed {
            self.passed_in_a_row + 1
        } else {
            0
        };
        self.last = Some(report);
    }
}

/// Method of checking the backends of one upstream.
#[derive(Clone, Debug)]
pub(crate) struct ProbePlan {
    pub(super) how: ProbeMethod,
    /// Deadline of one whole check.
    pub(crate) timeout: Duration,
}

#[derive(Clone, Debug)]
pub(super) enum ProbeMethod {
    /// Passes if the backend accepts a connection.
    Tcp,
    Http(Arc<HttpPlan>),
}

#[derive(Debug)]
pub(super) struct HttpPlan {
    pub(super) path: PathAndQuery,
    /// Value of `Host`; the backend's address if absent.
    pub(super) host: Option<String>,
    pub(super) expect: StatusSet,
    /// True if the body's `status` is checked too.
    pub(super) json: bool,
}

/// Checks a backend once. Returns the report of its app, true if it passes, and a text on the result;
/// nothing if the plan makes no request.
pub(crate) async fn probe(
    plan: &ProbePlan,
    protocol: Protocol,
    backend: &Backend,
) -> Option<(FoundReport, bool, String)> {
    let http = match &plan.how {
        ProbeMethod::Tcp => None,
        ProbeMethod::Http(plan) => Some((plan, request(plan, protocol, backend)?)),
    };
    // As the upstream's requests use it, on connections of its own.
    let tls = backend.tls.as_ref().map(BackendTls::for_checks);
    let mut report = FoundReport::Unknown;
    let check = async {
        // With TLS this includes the handshake.
        let transport = connect(&backend.target, tls.as_ref(), plan.timeout).await?;
        match http {
            Some((plan, request)) => plan.ask(request, transport, &mut report).await,
            None => Ok(HealthWord::Ok),
        }
    };
    let (passed, text) = match tokio::time::timeout(plan.timeout, check).await {
        Ok(Ok(HealthWord::Degraded)) => (true, DEGRADED.to_owned()),
        Ok(Ok(HealthWord::Ok)) => (true, "ok".to_owned()),
        Ok(Err(error)) => (false, words(&error)),
        Err(_) => (
            false,
            format!("no complete response within {:?}", plan.timeout),
        ),
    };
    Some((report, passed, text))
}

/// Builds the request of a check.
fn request(plan: &HttpPlan, protocol: Protocol, backend: &Backend) -> Option<Request<Bytes>> {
    // With TLS a backend may serve several names; the check uses the one that its certificate is for.
    let host = plan
        .host
        .as_deref()
        .or_else(|| backend.tls_name())
        .unwrap_or(&backend.authority);
    let request = Request::get(plan.path.as_str())
        .header(
            USER_AGENT,
            concat!("edgeway/", env!("CARGO_PKG_VERSION"), " (health)"),
        )
        .header(ACCEPT, "*/*");
    let request = match protocol {
        Protocol::Http1 => request.header(HOST, host),
        Protocol::H2 => {
            let scheme = if backend.tls.is_some() {
                "https"
            } else {
                "http"
            };
            let uri = Uri::builder()
                .scheme(scheme)
                .authority(host)
                .path_and_query(plan.path.clone());
            request.uri(uri.build().ok()?).version(Version::HTTP_2)
        }
    };
    request.body(Bytes::new()).ok()
}

impl HttpPlan {
    async fn ask(
        &self,
        request: Request<Bytes>,
        transport: Transport,
        report: &mut FoundReport,
    ) -> Result<HealthWord> {
        let is_h2 = request.version() == Version::HTTP_2;
        if is_h2 && !transport.may_speak_h2() {
            return Error::e_explain(ErrorType::H2Error, "not negotiated by TLS");
        }
        let response = exchange_over(transport, request, None, async |response, body| {
            *report = match response.headers.get(REPORT_HEADER) {
                None => FoundReport::Absent,
                Some(value) => NodeReport::parse(value.as_bytes())
                    .map_or(FoundReport::Unknown, FoundReport::Valid),
            };
            if !self.expect.contains(response.status.as_u16()) {
                return Ok(None);
            }
            if self.json {
                return collect(body, MAX_BODY_LEN).await.map(Some);
            }
            drain(body).await?;
            Ok(Some(Bytes::new()))
        });
        let (response, body) = match response.await {
            Ok(response) => response.into_parts(),
            Err(FetchError::TooLong(_)) => {
                return Error::e_explain(BODY, "it is longer than 64 KiB");
            }
            Err(error) => {
                let etype = match &error {
                    _ if is_h2 => ErrorType::H2Error,
                    FetchError::Http(error) if error.is_parse() => ErrorType::InvalidHTTPHeader,
                    _ => ErrorType::ConnectionClosed,
                };
                return Error::e_explain(etype, error.to_string());
            }
        };
        match body {
            None => Error::e_explain(ErrorType::HTTPStatus(response.status.as_u16()), ""),
            Some(body) if self.json => status_of(&body),
            Some(_) => Ok(HealthWord::Ok),
        }
    }
}

/// Describes why a check failed.
fn words(error: &Error) -> String {
    if let Some(why) = tls::why(error) {
        return format!("TLS: {why}");
    }
    let text = match error.root_etype() {
        ErrorType::HTTPStatus(status) => return format!("status {status}"),
        ErrorType::Custom(word) => match &error.context {
            Some(more) => return format!("{word}: {more}"),
            None => word,
        },
        ErrorType::ConnectRefused => REFUSED,
        ErrorType::SocketError => NO_SOCKET,
        ErrorType::ConnectNoRoute => "no route",
        ErrorType::ConnectTimedout => "connection timed out",
        ErrorType::ConnectionClosed => "closed without a whole response",
        ErrorType::InvalidHTTPHeader => "the response is not HTTP",
        ErrorType::H2Error => "no HTTP/2",
        other => other.as_str(),
    };
    text.to_owned()
}

/// Result of a check that nobody accepted.
pub(crate) const REFUSED: &str = "connection refused";
/// Text of a check that the gateway had no descriptor for.
pub(crate) const NO_SOCKET: &str = "no file descriptor left for a check";

const BODY: ErrorType = ErrorType::Custom("health body");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HealthWord {
    Ok,
    Degraded,
}

fn status_of(body: &[u8]) -> Result<HealthWord> {
    let json: serde_json::Value = match serde_json::from_slice(body) {
        Ok(json) => json,
        Err(_) => return Error::e_explain(BODY, "it is not JSON"),
    };
    match json.get("status").and_then(serde_json::Value::as_str) {
        Some("ok") => Ok(HealthWord::Ok),
        Some("degraded") => Ok(HealthWord::Degraded),
        Some(other) => {
            let shown: String = other.chars().take(40).collect();
            Error::e_explain(BODY, format!("status is `{}`", shown.escape_debug()))
        }
        None => Error::e_explain(BODY, "it has no `status`"),
    }
}
