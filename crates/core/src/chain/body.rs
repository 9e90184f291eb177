//! Request body as a filter gets it before the request is sent on.

use bytes::Bytes;

/// Part of the body read for filters that need it ([`super::AsyncFilter::wants_body`]). The backend
/// still gets the whole body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Body {
    /// No filter needs the body.
    #[default]
    NotRead,
    /// The whole body; empty for a request without a body.
    Whole(Bytes),
    /// The body is longer than the filter's limit.
    TooLong,
}
