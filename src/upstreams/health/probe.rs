//! One check of one backend: Pingora's HTTP and TCP checks, or ours that reads a JSON
//! body, each under a deadline for the whole of it.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ::http::header::HOST;
use async_trait::async_trait;
use pingora::{
    Error, ErrorType, Result,
    connectors::http::Connector,
    http::{RequestHeader, ResponseHeader},
    upstreams::peer::HttpPeer,
};
use pingora_load_balancing::{
    Backend as Probed, Extensions,
    health_check::{HealthCheck, HttpHealthCheck, TcpHealthCheck},
};

use crate::{config::model::StatusSet, upstreams::target::Target};

/// Longest body of a JSON health answer.
const LONGEST_BODY: usize = 64 * 1024;

/// What a check found, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::upstreams) struct ProbeReport {
    pub(in crate::upstreams) passed: bool,
    /// For people: `ok`, `degraded`, `connection refused`.
    pub(in crate::upstreams) text: String,
    pub(in crate::upstreams) took: Duration,
    /// When it ended, in nanoseconds of the upstream's epoch.
    pub(in crate::upstreams) at: u64,
}

/// How the backends of one upstream are checked.
#[derive(Clone, Debug)]
pub(in crate::upstreams) struct Plan {
    pub(super) how: How,
    /// Of one whole check.
    pub(in crate::upstreams) timeout: Duration,
}

#[derive(Clone, Debug)]
pub(super) enum How {
    /// It accepts a connection.
    Tcp,
    Http(Box<HttpPlan>),
}

#[derive(Clone, Debug)]
pub(super) struct HttpPlan {
    /// All but `Host`.
    pub(super) head: RequestHeader,
    /// The backend's address if absent.
    pub(super) host: Option<String>,
    pub(super) expect: StatusSet,
    /// The body's `status` counts too.
    pub(super) json: bool,
}

impl StatusSet {
    fn has(&self, status: u16) -> bool {
        self.0
            .iter()
            .any(|(from, to)| (*from..=*to).contains(&status))
    }
}

/// Checks one backend.
pub(in crate::upstreams) struct Prober {
    check: Box<dyn HealthCheck + Send + Sync>,
    probed: Probed,
    timeout: Duration,
    /// Set by the check itself where a pass may be less than whole.
    degraded: Arc<AtomicBool>,
}

impl Prober {
    pub(in crate::upstreams) fn new(plan: &Plan, target: &Target, authority: &str) -> Option<Self> {
        let degraded = Arc::new(AtomicBool::new(false));
        let probed = Probed {
            addr: target.socket_address()?,
            weight: 1,
            ext: Extensions::new(),
        };
        let check: Box<dyn HealthCheck + Send + Sync> = match &plan.how {
            How::Tcp => {
                let mut check = TcpHealthCheck::new();
                let options = &mut check.peer_template.options;
                options.connection_timeout = Some(plan.timeout);
                options.total_connection_timeout = Some(plan.timeout);
                check
            }
            How::Http(http) => {
                let host = http.host.as_deref().unwrap_or(authority);
                let mut head = http.head.clone();
                head.insert_header(HOST, host).ok()?;
                if http.json {
                    Box::new(JsonCheck {
                        head,
                        expect: http.expect.clone(),
                        timeout: plan.timeout,
                        degraded: degraded.clone(),
                    })
                } else {
                    let mut check = HttpHealthCheck::new(host, false);
                    let expect = http.expect.clone();
                    check.req = head;
                    check.validator = Some(Box::new(move |answer| expected(&expect, answer)));
                    set_timeouts(&mut check.peer_template, plan.timeout);
                    Box::new(check)
                }
            }
        };
        Some(Self {
            check,
            probed,
            timeout: plan.timeout,
            degraded,
        })
    }

    /// Whether the backend passes, and a word on it.
    pub(in crate::upstreams) async fn probe(&self) -> (bool, String) {
        // Pingora bounds single reads only: an answer that drips would last for ever.
        match tokio::time::timeout(self.timeout, self.check.check(&self.probed)).await {
            Ok(Ok(())) if self.degraded.load(Ordering::Relaxed) => (true, "degraded".to_owned()),
            Ok(Ok(())) => (true, "ok".to_owned()),
            Ok(Err(error)) => (false, words(&error)),
            Err(_) => (false, format!("no whole answer within {:?}", self.timeout)),
        }
    }
}

fn set_timeouts(peer: &mut HttpPeer, timeout: Duration) {
    peer.options.connection_timeout = Some(timeout);
    peer.options.total_connection_timeout = Some(timeout);
    peer.options.read_timeout = Some(timeout);
    peer.options.write_timeout = Some(timeout);
}

fn expected(expect: &StatusSet, answer: &ResponseHeader) -> Result<()> {
    let status = answer.status.as_u16();
    if expect.has(status) {
        return Ok(());
    }
    Err(Error::new(ErrorType::HTTPStatus(status)))
}

/// Why a check failed, in few words.
fn words(error: &Error) -> String {
    let text = match error.root_etype() {
        ErrorType::HTTPStatus(status) => return format!("status {status}"),
        ErrorType::Custom(word) => match &error.context {
            Some(more) => return format!("{word}: {more}"),
            None => word,
        },
        ErrorType::ConnectRefused => "connection refused",
        ErrorType::ConnectNoRoute => "no route",
        ErrorType::ConnectTimedout => "no connection in time",
        ErrorType::ReadTimedout => "no answer in time",
        ErrorType::ConnectionClosed => "closed without an answer",
        other => other.as_str(),
    };
    text.to_owned()
}

/// An HTTP check that reads the body's `status`, which Pingora's own never sees:
/// `ok` and `degraded` pass.
struct JsonCheck {
    head: RequestHeader,
    expect: StatusSet,
    timeout: Duration,
    degraded: Arc<AtomicBool>,
}

/// One for all: a connector reads the system's certificates when it is made.
fn connector() -> &'static Connector {
    static CONNECTOR: OnceLock<Connector> = OnceLock::new();
    CONNECTOR.get_or_init(|| Connector::new(None))
}

#[async_trait]
impl HealthCheck for JsonCheck {
    async fn check(&self, target: &Probed) -> Result<()> {
        let mut peer = HttpPeer::new((Ipv4Addr::UNSPECIFIED, 1), false, String::new());
        peer._address = target.addr.clone();
        set_timeouts(&mut peer, self.timeout);
        let (mut session, _) = connector().get_http_session(&peer).await?;
        session.set_write_timeout(Some(self.timeout));
        session.set_read_timeout(Some(self.timeout));
        session
            .write_request_header(Box::new(self.head.clone()))
            .await?;
        session.finish_request_body().await?;
        session.read_response_header().await?;
        let answer = session
            .response_header()
            .ok_or_else(|| Error::new(ErrorType::ConnectionClosed))?;
        expected(&self.expect, answer)?;
        let mut body = Vec::new();
        while let Some(chunk) = session.read_response_body().await? {
            body.extend_from_slice(&chunk);
            if body.len() > LONGEST_BODY {
                return Error::e_explain(BODY, "it is longer than 64 KiB");
            }
        }
        let word = status_of(&body)?;
        self.degraded
            .store(word == Word::Degraded, Ordering::Relaxed);
        Ok(())
    }

    /// Not asked for: rise and fall are ours (`state.rs`).
    fn health_threshold(&self, _success: bool) -> usize {
        1
    }
}

const BODY: ErrorType = ErrorType::Custom("health body");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Ok,
    Degraded,
}

fn status_of(body: &[u8]) -> Result<Word> {
    let json: serde_json::Value = match serde_json::from_slice(body) {
        Ok(json) => json,
        Err(_) => return Error::e_explain(BODY, "it is no JSON"),
    };
    match json.get("status").and_then(serde_json::Value::as_str) {
        Some("ok") => Ok(Word::Ok),
        Some("degraded") => Ok(Word::Degraded),
        Some(other) => {
            let shown: String = other.chars().take(40).collect();
            Error::e_explain(BODY, format!("status is `{}`", shown.escape_debug()))
        }
        None => Error::e_explain(BODY, "it has no `status`"),
    }
}
