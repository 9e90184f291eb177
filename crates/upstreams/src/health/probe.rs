//! Check of one backend: a connection, or an HTTP response whose status and possibly JSON body are
//! checked, under one deadline for the whole check.
//!
//! Uses Pingora's trait for checks with an implementation of its own, over the connections of
//! requests: Pingora's checks allow neither an upstream's own trust nor a look at the response.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use edgeway_net::fetch::{FetchError, collect, drain, exchange_over};
use http::{
    Request, Uri, Version,
    header::{ACCEPT, HOST, USER_AGENT},
    uri::PathAndQuery,
};
use parking_lot::Mutex;
use pingora::{Error, ErrorType, Result};
use pingora_load_balancing::{Backend as Probed, Extensions, health_check::HealthCheck};

use crate::{
    Protocol,
    backend::Backend,
    client_tls::BackendTls,
    config::model::StatusSet,
    connection::{Transport, connect},
    node::{NodeReport, REPORT_HEADER},
    target::Target,
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum FoundReport {
    /// There was no response, or its report is invalid.
    #[default]
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

/// Checker of one backend.
pub(crate) struct Prober {
    probed: Probed,
    timeout: Duration,
    /// TLS as the upstream's requests use it, on connections of its own.
    tls: Option<BackendTls>,
    http: Option<HttpCheck>,
}

struct HttpCheck {
    plan: Arc<HttpPlan>,
    request: Request<Bytes>,
    /// Set by a check that passes as degraded.
    degraded: AtomicBool,
    /// Report in the last response.
    report: Mutex<FoundReport>,
}

impl Prober {
    pub(crate) fn new(plan: &ProbePlan, protocol: Protocol, backend: &Backend) -> Option<Self> {
        let http = match &plan.how {
            ProbeMethod::Tcp => None,
            ProbeMethod::Http(plan) => Some(HttpCheck {
                request: request(plan, protocol, backend)?,
                plan: Arc::clone(plan),
                degraded: AtomicBool::default(),
                report: Mutex::default(),
            }),
        };
        Some(Self {
            probed: Probed {
                addr: backend.target.socket_address()?,
                weight: 1,
                ext: Extensions::new(),
            },
            timeout: plan.timeout,
            tls: backend.tls.as_ref().map(BackendTls::for_checks),
            http,
        })
    }

    /// Takes what the last check has found.
    pub(crate) fn take_report(&self) -> FoundReport {
        let http = self.http.as_ref();
        http.map_or(FoundReport::Unknown, |http| {
            mem::take(&mut *http.report.lock())
        })
    }

    fn is_degraded(&self) -> bool {
        let http = self.http.as_ref();
        http.is_some_and(|http| http.degraded.load(Ordering::Relaxed))
    }

    /// Runs the check; returns true if the backend passes, and a text on the result.
    pub(crate) async fn probe(&self) -> (bool, String) {
        match tokio::time::timeout(self.timeout, self.check(&self.probed)).await {
            Ok(Ok(())) if self.is_degraded() => (true, DEGRADED.to_owned()),
            Ok(Ok(())) => (true, "ok".to_owned()),
            Ok(Err(error)) => (false, words(&error)),
            Err(_) => (
                false,
                format!("no complete response within {:?}", self.timeout),
            ),
        }
    }
}

#[async_trait]
impl HealthCheck for Prober {
    async fn check(&self, probed: &Probed) -> Result<()> {
        let target = Target::try_from(&probed.addr)?;
        // With TLS this includes the handshake.
        let transport = connect(&target, self.tls.as_ref(), self.timeout).await?;
        match &self.http {
            Some(http) => http.ask(transport).await,
            None => Ok(()),
        }
    }

    /// Results are counted in [`super::state`].
    fn health_threshold(&self, _success: bool) -> usize {
        1
    }
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

impl HttpCheck {
    async fn ask(&self, transport: Transport) -> Result<()> {
        if self.request.version() == Version::HTTP_2 && !transport.may_speak_h2() {
            return Error::e_explain(ErrorType::H2Error, "not negotiated by TLS");
        }
        let response = exchange_over(
            transport,
            self.request.clone(),
            None,
            async |response, body| {
                *self.report.lock() = match response.headers.get(REPORT_HEADER) {
                    None => FoundReport::Absent,
                    Some(value) => NodeReport::parse(value.as_bytes())
                        .map_or(FoundReport::Unknown, FoundReport::Valid),
                };
                if !self.plan.expect.contains(response.status.as_u16()) {
                    return Ok(None);
                }
                if self.plan.json {
                    return collect(body, MAX_BODY_LEN).await.map(Some);
                }
                drain(body).await?;
                Ok(Some(Bytes::new()))
            },
        );
        let (response, body) = match response.await {
            Ok(response) => response.into_parts(),
            Err(FetchError::TooLong(_)) => {
                return Error::e_explain(BODY, "it is longer than 64 KiB");
            }
            Err(error) => return Error::e_explain(self.etype(&error), error.to_string()),
        };
        let word = match body {
            None => return Error::e_explain(ErrorType::HTTPStatus(response.status.as_u16()), ""),
            Some(body) if self.plan.json => status_of(&body)?,
            Some(_) => HealthWord::Ok,
        };
        let is_degraded = word == HealthWord::Degraded;
        self.degraded.store(is_degraded, Ordering::Relaxed);
        Ok(())
    }

    /// Returns the type of the error of a check without a whole response.
    fn etype(&self, error: &FetchError) -> ErrorType {
        match error {
            _ if self.request.version() == Version::HTTP_2 => ErrorType::H2Error,
            FetchError::Http(error) if error.is_parse() => ErrorType::InvalidHTTPHeader,
            _ => ErrorType::ConnectionClosed,
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
