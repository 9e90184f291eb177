//! The body of a request as a filter has it before the request goes on.

use bytes::Bytes;

/// What has been read of the body for filters that asked for it ([`super::Filter::wants_body`]).
/// It goes to the backend all the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Body {
    /// Nobody has asked for it.
    #[default]
    NotRead,
    /// All of it; a request without a body has an empty one.
    Whole(Bytes),
    /// It is longer than what was asked for.
    TooLong,
}
