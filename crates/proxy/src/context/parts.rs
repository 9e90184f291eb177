//! Parts of a request's state that one step leaves for another.

use bytes::Bytes;
use edgeway_core::limits::flood::InFlightGuard;
use http::{HeaderMap, HeaderName, HeaderValue};

pub(crate) const X_ACCEL_REDIRECT: HeaderName = HeaderName::from_static("x-accel-redirect");

/// Order of an app to send a file in place of its response.
#[derive(Debug)]
pub(crate) struct AccelRedirect {
    /// Path of the file as the app wrote it.
    pub(crate) to: HeaderValue,
    pub(crate) kept: HeaderMap,
}

/// Result of reading a body before its request is forwarded.
#[derive(Debug, Default)]
pub(crate) struct EarlyBody {
    /// Beginning of the body that was read. It is among the bytes that are sent later.
    pub(crate) beginning: Option<Bytes>,
    /// Set once the client got `100 Continue`: no other backend is asked for one.
    pub(crate) has_continued: bool,
    /// Body that the backend gets in place of the client's, empty for none.
    pub(crate) replacement: Option<Box<Bytes>>,
}

/// Request as the flood guard counts it, until the request is over.
#[derive(Debug, Default)]
pub(crate) struct GuardedRequest {
    pub(crate) in_flight: Option<InFlightGuard>,
    pub(crate) is_suspicious: bool,
}

impl GuardedRequest {
    /// Stops counting a request that became a tunnel. The connection limits of the listener bound
    /// tunnels.
    pub(crate) fn is_tunnel(&mut self) {
        self.in_flight = None;
    }
}
