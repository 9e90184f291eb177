//! Check of one backend: a connection, or an HTTP response whose status and possibly JSON body are
//! checked, under one deadline for the whole check.
//!
//! Uses Pingora's trait for checks with implementations of its own: each of Pingora's creates a
//! connector, which reads the system's CA certificates and allows no other trust.

use std::{
    mem,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ::http::header::{CONNECTION, HOST};
use async_trait::async_trait;
use parking_lot::Mutex;
use pingora::{
    Error, ErrorType, Result,
    connectors::{TransportConnector, http::Connector},
    http::{RequestHeader, ResponseHeader},
    upstreams::peer::{HttpPeer, Peer},
};
use pingora_load_balancing::{Backend as Probed, Extensions, health_check::HealthCheck};

use crate::{
    backend::Backend,
    config::model::StatusSet,
    node::{NodeReport, REPORT_HEADER},
    system::connector_options,
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
    Http(Box<HttpPlan>),
}

#[derive(Clone, Debug)]
pub(super) struct HttpPlan {
    /// Request headers without `Host`.
    pub(super) head: RequestHeader,
    /// Value of `Host`; the backend's address if absent.
    pub(super) host: Option<String>,
    pub(super) expect: StatusSet,
    /// True if the body's `status` is checked too.
    pub(super) json: bool,
}

/// Checker of one backend.
pub(crate) struct Prober {
    check: Box<dyn HealthCheck + Send + Sync>,
    probed: Probed,
    timeout: Duration,
    /// Set by a check that passes as degraded.
    degraded: Arc<AtomicBool>,
    /// Report in the last response.
    report: Arc<Mutex<FoundReport>>,
}

/// Check that connects, with TLS if the upstream uses it.
struct ConnectCheck {
    connector: &'static TransportConnector,
    /// Peer with the trust of the upstream's requests, on connections of its own.
    peer: HttpPeer,
}

struct HttpCheck {
    connector: &'static Connector,
    /// As above.
    peer: HttpPeer,
    degraded: Arc<AtomicBool>,
    report: Arc<Mutex<FoundReport>>,
    head: RequestHeader,
    expect: StatusSet,
    reads_body: bool,
}

impl Prober {
    pub(crate) fn new(plan: &ProbePlan, backend: &Backend) -> Option<Self> {
        let mut peer = backend.peer.bare();
        let options = &mut peer.options;
        options.connection_timeout = Some(plan.timeout);
        options.total_connection_timeout = Some(plan.timeout);
        let probed = Probed {
            addr: peer.address().clone(),
            weight: 1,
            ext: Extensions::new(),
        };
        let degraded = Arc::new(AtomicBool::new(false));
        let report = Arc::default();
        let check: Box<dyn HealthCheck + Send + Sync> = match &plan.how {
            ProbeMethod::Tcp => Box::new(ConnectCheck {
                connector: transport(),
                peer,
            }),
            ProbeMethod::Http(http) => {
                let mut head = http.head.clone();
                // With TLS a backend may serve several names; the check uses the one that its
                // certificate is for.
                let host = http
                    .host
                    .as_deref()
                    .unwrap_or(match backend.peer.tls_name() {
                        "" => &backend.authority,
                        name => name,
                    });
                head.insert_header(HOST, host).ok()?;
                if backend.peer.is_h2() {
                    // RFC 9113, 8.2.2: HTTP/2 has no connection-specific headers.
                    head.remove_header(&CONNECTION);
                }
                Box::new(HttpCheck {
                    connector: connector(),
                    peer,
                    degraded: Arc::clone(&degraded),
                    report: Arc::clone(&report),
                    head,
                    expect: http.expect.clone(),
                    reads_body: http.json,
                })
            }
        };
        Some(Self {
            check,
            probed,
            timeout: plan.timeout,
            degraded,
            report,
        })
    }

    /// Takes what the last check has found.
    pub(crate) fn take_report(&self) -> FoundReport {
        mem::take(&mut *self.report.lock())
    }

    /// Runs the check; returns true if the backend passes, and a text on the result.
    pub(crate) async fn probe(&self) -> (bool, String) {
        // Pingora limits single reads only: a slowly sent response would last for ever.
        match tokio::time::timeout(self.timeout, self.check.check(&self.probed)).await {
            Ok(Ok(())) if self.degraded.load(Ordering::Relaxed) => (true, DEGRADED.to_owned()),
            Ok(Ok(())) => (true, "ok".to_owned()),
            Ok(Err(error)) => (false, words(&error)),
            Err(_) => (
                false,
                format!("no complete response within {:?}", self.timeout),
            ),
        }
    }
}

/// Returns the upstream's peer with the address of the checked backend.
fn peer_at(template: &HttpPeer, target: &Probed) -> HttpPeer {
    let mut peer = template.clone();
    peer._address = target.addr.clone();
    peer
}

#[async_trait]
impl HealthCheck for ConnectCheck {
    async fn check(&self, target: &Probed) -> Result<()> {
        // With TLS this includes the handshake. The connection is closed at once.
        let peer = peer_at(&self.peer, target);
        drop(self.connector.new_stream(&peer).await?);
        Ok(())
    }

    /// Results are counted in [`super::state`].
    fn health_threshold(&self, _success: bool) -> usize {
        1
    }
}

#[async_trait]
impl HealthCheck for HttpCheck {
    async fn check(&self, target: &Probed) -> Result<()> {
        let word = self.ask(&peer_at(&self.peer, target)).await?;
        let is_degraded = word == HealthWord::Degraded;
        self.degraded.store(is_degraded, Ordering::Relaxed);
        Ok(())
    }

    /// As above.
    fn health_threshold(&self, _success: bool) -> usize {
        1
    }
}

impl HttpCheck {
    async fn ask(&self, peer: &HttpPeer) -> Result<HealthWord> {
        // Never returned to the pool, so each check makes a connection of its own.
        let (mut session, _) = self.connector.get_http_session(peer).await?;
        if peer.options.alpn.get_min_http_version() == 2 && session.as_http2().is_none() {
            return Error::e_explain(ErrorType::H2Error, "not negotiated by TLS");
        }
        let head = Box::new(self.head.clone());
        session.write_request_header(head).await?;
        session.finish_request_body().await?;
        session.read_response_header().await?;
        let response = session
            .response_header()
            .ok_or_else(|| Error::new(ErrorType::ConnectionClosed))?;
        *self.report.lock() = match response.headers.get(REPORT_HEADER) {
            None => FoundReport::Absent,
            Some(value) => {
                NodeReport::parse(value.as_bytes()).map_or(FoundReport::Unknown, FoundReport::Valid)
            }
        };
        expected(&self.expect, response)?;
        let mut body = Vec::new();
        while let Some(chunk) = session.read_response_body().await? {
            if !self.reads_body {
                continue;
            }
            body.extend_from_slice(&chunk);
            if body.len() > MAX_BODY_LEN {
                return Error::e_explain(BODY, "it is longer than 64 KiB");
            }
        }
        if self.reads_body {
            status_of(&body)
        } else {
            Ok(HealthWord::Ok)
        }
    }
}

fn expected(expect: &StatusSet, response: &ResponseHeader) -> Result<()> {
    let status = response.status.as_u16();
    if expect.contains(status) {
        return Ok(());
    }
    Err(Error::new(ErrorType::HTTPStatus(status)))
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
        ErrorType::ConnectNoRoute => "no route",
        ErrorType::ConnectTimedout => "connection timed out",
        ErrorType::ReadTimedout => "no response in time",
        ErrorType::ConnectionClosed => "closed without a response",
        ErrorType::H2Error | ErrorType::InvalidH2 => "no HTTP/2",
        other => other.as_str(),
    };
    text.to_owned()
}

/// Returns the shared connector: creating one reads the system's CA certificates.
fn connector() -> &'static Connector {
    static CONNECTOR: OnceLock<Connector> = OnceLock::new();
    CONNECTOR.get_or_init(|| Connector::new(Some(connector_options())))
}

fn transport() -> &'static TransportConnector {
    static TRANSPORT: OnceLock<TransportConnector> = OnceLock::new();
    TRANSPORT.get_or_init(|| TransportConnector::new(Some(connector_options())))
}

/// Result of a check that nobody accepted.
pub(crate) const REFUSED: &str = "connection refused";

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
