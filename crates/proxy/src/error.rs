//! The single table of failures. It maps each cause to a status, the side at fault and a reason
//! word.

use std::{fmt, time::Duration};

use edgeway_cache::store::FillEnd;
use edgeway_core::chain::{Reply, RequestFacts};
use edgeway_upstreams::is_alert;
use http::{HeaderValue, StatusCode, header};
use pingora::{Error, ErrorSource, ErrorType, ImmutStr};

use crate::connection::{CloseReason, deadline::Expired};

/// Text of an error for the log. Pingora repeats what a peer sent in errors about headers; no value
/// of a header may be logged.
pub(super) struct LogText<'a>(pub(super) &'a Error);

impl fmt::Display for LogText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = self.0;
        write!(f, "{} {}", error.esource.as_str(), error.etype.as_str())?;
        let is_shown = |text: &&ImmutStr| {
            error.etype != ErrorType::InvalidHTTPHeader || matches!(text, ImmutStr::Static(_))
        };
        if let Some(context) = error.context.as_ref().filter(is_shown) {
            write!(f, " context: {context}")?;
        }
        let Some(cause) = &error.cause else {
            return Ok(());
        };
        match cause.downcast_ref::<Box<Error>>() {
            Some(inner) => write!(f, " cause: {}", LogText(inner)),
            None => write!(f, " cause: {cause}"),
        }
    }
}

// Sentences that several failures share.
const BUSY: &str = "The site is busy right now. Please try again in a moment.";
const UNREACHABLE: &str = "The site could not be reached. Please try again in a moment.";
const SLOW: &str = "The site took too long to respond. Please try again in a moment.";
const FAULT: &str = "Something went wrong on this server.";

edgeway_base::enum_table! {
    /// Cause of a failed request.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Failure => row: (u16, &'static str, &'static str) {
        /// The client left before its response was complete.
        ClientGone = (499, "client_gone", "The client closed the connection."),
        /// The client sent something that is not valid HTTP, or that the gateway does not forward.
        BadRequest = (400, "bad_request", "This server does not understand the request."),
        /// The gateway does not support the request method.
        Method = (405, "method", "The methods TRACE and CONNECT are not supported."),
        /// The request line is too long.
        LongLine = (414, "long_line", "The address of the request is too long."),
        /// A header has an invalid name, or is repeated where it must not be.
        BadHeader =
            (400, "bad_header", "A header of the request has an invalid name or value, or occurs twice."),
        /// The client sent an expectation that the gateway does not support.
        Expectation = (417, "expectation", "Only the expectation `100-continue` is supported."),
        /// The client did not read its response for too long.
        SendTimeout =
            (408, CloseReason::SendTimeout.reason(), "The client did not read its response."),
        /// The request body arrived too slowly.
        BodyTimeout =
            (408, CloseReason::BodyTimeout.reason(), "The request took too long to arrive."),
        /// The gateway closed a WebSocket because it is going away.
        GoingAway = (503, CloseReason::GoingAway.reason(), "This server is shutting down."),
        /// The request path is ambiguous.
        BadPath = (400, "bad_path", "The address has characters that are not allowed."),
        /// The `Host` of the request is neither a valid name nor an address.
        BadHost = (400, "bad_host", "The request has no valid host."),
        /// The request names another host than its connection, or came on one from before the rules for
        /// client certificates changed. Both decided which certificate was requested.
        WrongName =
            (421, "wrong_name", "This request needs a new connection, for its host name."),
        /// The request headers are longer than the app accepts.
        LongHead = (431, "long_head", "The request's headers, including cookies, are too long."),
        /// No route matches.
        NoRoute = (404, "no_route", "There is nothing at this address."),
        /// The routes of the request lead to each other.
        RouteLoop = (500, "route_loop", "The routes of this address lead in a circle."),
        /// No route has the host of the request.
        UnknownHost = (421, "unknown_host", "There is no site of this name here."),
        /// The route lacks `websocket: true`.
        WebsocketOff =
            (400, "websocket_off",
            "This address does not accept WebSocket connections: its route lacks `websocket: true`."),
        /// The upstream that a filter chose cannot carry a WebSocket.
        Upgrade = (400, "upgrade", "This address does not accept WebSocket connections."),
        /// The WebSocket request is not a valid handshake (RFC 6455, 4.2.1).
        Handshake = (400, "websocket_handshake", "The WebSocket handshake is invalid."),
        /// The WebSocket version is not supported.
        WebsocketVersion = (426, "websocket_version", "Only WebSocket version 13 is supported."),
        /// No backend has an address yet.
        NoBackend = (503, "no_backend", BUSY),
        /// Every backend is at its limit, and the queue is full or the wait in it timed out. Or the
        /// gateway has no file descriptor left for a connection.
        Overload = (503, "overload", BUSY),
        /// The connection to a backend failed.
        Connect = (502, "upstream_connect", UNREACHABLE),
        /// The connection failed, and all backends are out of rotation, so there was no other to
        /// try.
        AllDown = (503, "upstream_down", UNREACHABLE),
        /// TLS with the backend failed.
        Tls = (502, "upstream_tls", UNREACHABLE),
        /// A backend closed its connection before its response was complete.
        Reset = (502, "upstream_reset", UNREACHABLE),
        /// The response of a backend is not valid HTTP.
        BadResponse = (502, "upstream_bad_answer", UNREACHABLE),
        /// The response of a backend did not begin in time.
        FirstByte = (504, "upstream_timeout", SLOW),
        /// The response of a backend stalled.
        Idle = (504, "upstream_idle", SLOW),
        /// The whole request took too long.
        Total = (504, "upstream_total_timeout", SLOW),
        /// A file was written or cut off while it was sent, or could not be read to its end.
        FileChanged = (500, FILE_CHANGED, FAULT),
        /// Internal fault of the gateway.
        Internal = (500, "internal", FAULT),
    }
}

/// Methods that the response to another one names.
pub(super) const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// Reason word of [`Failure::FileChanged`], and the type of the error that it is read from.
pub(super) const FILE_CHANGED: &str = "file_changed";

impl Failure {
    /// Returns the reason word used in log, metric and status page.
    pub fn reason(self) -> &'static str {
        self.row().1
    }

    /// Returns the status that is sent, or that is logged if nothing could be sent any more. A
    /// client that left is logged as 499, as nginx does.
    pub fn status(self) -> StatusCode {
        StatusCode::from_u16(self.row().0).expect("three digits")
    }

    /// Returns the reply for the client.
    pub fn reply(self) -> Reply {
        let reply = Reply::refuse(self.status(), self.reason()).detail(self.row().2);
        match self {
            Self::NoBackend | Self::Overload | Self::AllDown => {
                reply.retry_after(Duration::from_secs(1))
            }
            Self::Method => reply.header(header::ALLOW, HeaderValue::from_static(METHODS)),
            // RFC 6455, 4.4; RFC 9110, 15.5.22.
            Self::WebsocketVersion => reply
                .header(
                    header::SEC_WEBSOCKET_VERSION,
                    HeaderValue::from_static("13"),
                )
                .header(header::UPGRADE, HeaderValue::from_static("websocket")),
            Self::BadRequest
            | Self::BadPath
            | Self::BadHost
            | Self::BodyTimeout
            | Self::WebsocketOff
            | Self::Upgrade
            | Self::Handshake => reply.closing(),
            _ => reply,
        }
    }

    /// Logs that a request failed, and where.
    pub fn report(self, facts: &RequestFacts, error: &Error) {
        // A client that left is no fault of the gateway. A TLS failure has a log line of its own
        // for the backend. The request that stored the response has already logged why it broke
        // off.
        let is_clients = *error.esource() == ErrorSource::Downstream
            || matches!(self, Self::ClientGone | Self::SendTimeout);
        if is_clients || self == Self::Tls || died(error).is_some() {
            log::debug!(reason = self.reason(), error:% = LogText(error); "request ended early");
            return;
        }
        log::warn!(
            request_id = facts.request_id.as_str(),
            route = facts.route.as_deref().unwrap_or_default(),
            upstream = facts.upstream.name.as_deref().unwrap_or_default(),
            backend = facts.upstream.backend.as_deref().unwrap_or_default(),
            attempts = facts.upstream.attempts,
            reason = self.reason(),
            error:% = LogText(error);
            "request failed"
        );
    }

    /// Maps a Pingora error and an `expired` deadline to a failure. `close_reason` is present if the
    /// gateway itself closed the client's connection.
    pub fn new(error: &Error, expired: Option<Expired>, close_reason: Option<CloseReason>) -> Self {
        use ErrorType as E;
        match close_reason {
            Some(CloseReason::SendTimeout) => return Self::SendTimeout,
            Some(CloseReason::BodyTimeout) => return Self::BodyTimeout,
            Some(CloseReason::GoingAway) => return Self::GoingAway,
            _ => {}
        }
        match error.esource() {
            ErrorSource::Upstream => match (expired, error.etype()) {
                (Some(Expired::FirstByte), _) | (None, E::ReadTimedout | E::WriteTimedout) => {
                    Self::FirstByte
                }
                (Some(Expired::Idle), _) => Self::Idle,
                (Some(Expired::Total), _) => Self::Total,
                (Some(Expired::Body), _) => Self::BodyTimeout,
                (
                    None,
                    E::ConnectTimedout
                    | E::ConnectRefused
                    | E::ConnectNoRoute
                    | E::ConnectError
                    | E::BindError
                    // This one is HTTP/2's; TLS has its own errors.
                    | E::HandshakeError
                    | E::ConnectProxyFailure,
                ) => Self::Connect,
                (None, E::SocketError) => Self::Overload,
                (
                    None,
                    E::TLSHandshakeFailure
                    | E::TLSHandshakeTimedout
                    | E::InvalidCert
                    | E::TLSWantX509Lookup,
                ) => Self::Tls,
                (None, E::InvalidHTTPHeader | E::H1Error | E::InvalidH2 | E::H2Downgrade) => {
                    Self::BadResponse
                }
                (None, _) if is_alert(error) => Self::Tls,
                (None, E::H2Error) if is_no_h2(error) => Self::BadResponse,
                (None, _) => Self::Reset,
            },
            ErrorSource::Downstream => match error.etype() {
                E::WriteTimedout => Self::SendTimeout,
                // `H2Error` is a stream that the client has reset.
                E::ReadError
                | E::WriteError
                | E::ConnectionClosed
                | E::ReadTimedout
                | E::H2Error => Self::ClientGone,
                _ => Self::BadRequest,
            },
            ErrorSource::Internal if *error.etype() == ErrorType::Custom(FILE_CHANGED) => {
                Self::FileChanged
            }
            ErrorSource::Internal | ErrorSource::Unset => match died(error) {
                // The response that this request was reading from the cache broke off. The backend
                // is at fault.
                Some(FillEnd::Writer) => Self::Reset,
                Some(FillEnd::TooSlow) => Self::SendTimeout,
                None => Self::Internal,
            },
        }
    }
}

impl From<Failure> for Box<Reply> {
    fn from(failure: Failure) -> Self {
        Box::new(failure.reply())
    }
}

/// Returns the reason why a stored response that was read during its fill broke off.
fn died(error: &Error) -> Option<FillEnd> {
    error.root_cause().downcast_ref().copied()
}

/// Returns true if the bytes received are not HTTP/2 at all.
fn is_no_h2(error: &Error) -> bool {
    error
        .root_cause()
        .downcast_ref::<h2::Error>()
        .is_some_and(|error| error.is_go_away() && error.is_library())
}

/// Names the client as the source of an error in writing a response.
pub(super) fn of_client(mut error: Box<Error>) -> Box<Error> {
    let is_write = matches!(
        error.etype(),
        ErrorType::WriteError | ErrorType::WriteTimedout
    );
    if is_write && *error.esource() == ErrorSource::Unset {
        error.as_down();
    }
    error
}

#[cfg(test)]
mod tests {
    use ErrorSource::{Downstream, Internal, Upstream};

    use super::*;

    #[test]
    fn every_failure_has_its_own_word() {
        let mut reasons: Vec<_> = Failure::ALL.iter().map(|f| f.reason()).collect();
        reasons.sort_unstable();
        reasons.dedup();
        assert_eq!(reasons.len(), Failure::ALL.len());
    }

    #[test]
    fn reasons_of_failures_of_the_upstream_have_its_name() {
        let of_upstream = Failure::ALL
            .into_iter()
            .filter(|failure| failure.reason().starts_with("upstream_"));
        assert!(of_upstream.eq([
            Failure::Connect,
            Failure::AllDown,
            Failure::Tls,
            Failure::Reset,
            Failure::BadResponse,
            Failure::FirstByte,
            Failure::Idle,
            Failure::Total,
        ]));
    }

    #[test]
    fn whose_fault_it_is_decides_the_status() {
        let of = |etype, source, expired| {
            let mut error = Error::new(etype);
            error.esource = source;
            Failure::new(&error, expired, None).status().as_u16()
        };
        assert_eq!(of(ErrorType::ConnectRefused, Upstream, None), 502);
        assert_eq!(of(ErrorType::ConnectionClosed, Upstream, None), 502);
        assert_eq!(
            of(
                ErrorType::ConnectionClosed,
                Upstream,
                Some(Expired::FirstByte)
            ),
            504
        );
        assert_eq!(
            of(ErrorType::ConnectionClosed, Upstream, Some(Expired::Body)),
            408
        );
        assert_eq!(of(ErrorType::ReadError, Downstream, None), 499);
        assert_eq!(of(ErrorType::H2Error, Downstream, None), 499);
        assert_eq!(of(ErrorType::InvalidHTTPHeader, Downstream, None), 400);
        assert_eq!(of(ErrorType::InternalError, Internal, None), 500);
    }
}
