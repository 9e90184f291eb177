//! One check of one backend: a connection, or an HTTP answer whose status and perhaps whose
//! JSON body count, each under a deadline for the whole of it.

use std::{sync::OnceLock, time::Duration};

use ::http::header::{CONNECTION, HOST};
use pingora::{
    Error, ErrorType, Result,
    connectors::{TransportConnector, http::Connector},
    http::{RequestHeader, ResponseHeader},
    upstreams::peer::HttpPeer,
};

use crate::{
    config::model::StatusSet,
    upstreams::{backend::Backend, system::connector_options, tls},
};

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

/// Checks one backend.
pub(in crate::upstreams) struct Prober {
    check: Check,
    /// With the trust of the upstream's requests, on connections of its own.
    peer: HttpPeer,
    timeout: Duration,
}

enum Check {
    Connect(&'static TransportConnector),
    Http(Box<HttpCheck>),
}

struct HttpCheck {
    connector: &'static Connector,
    head: RequestHeader,
    expect: StatusSet,
    reads_body: bool,
}

impl Prober {
    pub(in crate::upstreams) fn new(plan: &Plan, backend: &Backend) -> Option<Self> {
        let check = match &plan.how {
            How::Tcp => Check::Connect(transport()),
            How::Http(http) => {
                let mut head = http.head.clone();
                // With TLS a backend may serve several names; it is asked by the one that
                // its certificate is for.
                let host = http
                    .host
                    .as_deref()
                    .unwrap_or(match backend.peer.tls_name() {
                        "" => &backend.authority,
                        name => name,
                    });
                head.insert_header(HOST, host).ok()?;
                if backend.peer.is_h2() {
                    // RFC 9113, 8.2.2: connections are no header's matter any more.
                    head.remove_header(&CONNECTION);
                }
                Check::Http(Box::new(HttpCheck {
                    connector: connector(),
                    head,
                    expect: http.expect.clone(),
                    reads_body: http.json,
                }))
            }
        };
        let mut peer = backend.peer.bare();
        let options = &mut peer.options;
        options.connection_timeout = Some(plan.timeout);
        options.total_connection_timeout = Some(plan.timeout);
        Some(Self {
            check,
            peer,
            timeout: plan.timeout,
        })
    }

    /// Whether the backend passes, and a word on it.
    pub(in crate::upstreams) async fn probe(&self) -> (bool, String) {
        // Pingora bounds single reads only: an answer that drips would last for ever.
        match tokio::time::timeout(self.timeout, self.check()).await {
            Ok(Ok(word)) => (true, word.text().to_owned()),
            Ok(Err(error)) => (false, words(&error)),
            Err(_) => (false, format!("no whole answer within {:?}", self.timeout)),
        }
    }

    async fn check(&self) -> Result<Word> {
        match &self.check {
            Check::Connect(transport) => {
                // With TLS the handshake is part of it. What has passed is closed at once.
                drop(transport.new_stream(&self.peer).await?);
                Ok(Word::Ok)
            }
            Check::Http(check) => check.ask(&self.peer).await,
        }
    }
}

impl HttpCheck {
    async fn ask(&self, peer: &HttpPeer) -> Result<Word> {
        // Never given back, so each check makes a connection of its own.
        let (mut session, _) = self.connector.get_http_session(peer).await?;
        if peer.options.alpn.get_min_http_version() == 2 && session.as_http2().is_none() {
            return Error::e_explain(ErrorType::H2Error, "TLS did not settle on it");
        }
        let head = Box::new(self.head.clone());
        session.write_request_header(head).await?;
        session.finish_request_body().await?;
        session.read_response_header().await?;
        let answer = session
            .response_header()
            .ok_or_else(|| Error::new(ErrorType::ConnectionClosed))?;
        expected(&self.expect, answer)?;
        let mut body = Vec::new();
        while let Some(chunk) = session.read_response_body().await? {
            if !self.reads_body {
                continue;
            }
            body.extend_from_slice(&chunk);
            if body.len() > LONGEST_BODY {
                return Error::e_explain(BODY, "it is longer than 64 KiB");
            }
        }
        if self.reads_body {
            status_of(&body)
        } else {
            Ok(Word::Ok)
        }
    }
}

fn expected(expect: &StatusSet, answer: &ResponseHeader) -> Result<()> {
    let status = answer.status.as_u16();
    if expect.contains(status) {
        return Ok(());
    }
    Err(Error::new(ErrorType::HTTPStatus(status)))
}

/// Why a check failed, in few words.
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
        ErrorType::ConnectRefused => "connection refused",
        ErrorType::ConnectNoRoute => "no route",
        ErrorType::ConnectTimedout => "no connection in time",
        ErrorType::ReadTimedout => "no answer in time",
        ErrorType::ConnectionClosed => "closed without an answer",
        ErrorType::H2Error | ErrorType::InvalidH2 => "no HTTP/2",
        other => other.as_str(),
    };
    text.to_owned()
}

/// One for all: a connector reads the system's certificates when it is made.
fn connector() -> &'static Connector {
    static CONNECTOR: OnceLock<Connector> = OnceLock::new();
    CONNECTOR.get_or_init(|| Connector::new(Some(connector_options())))
}

fn transport() -> &'static TransportConnector {
    static TRANSPORT: OnceLock<TransportConnector> = OnceLock::new();
    TRANSPORT.get_or_init(|| TransportConnector::new(Some(connector_options())))
}

const BODY: ErrorType = ErrorType::Custom("health body");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Ok,
    Degraded,
}

impl Word {
    fn text(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
        }
    }
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
