//! Credentials at rest: hashes of passwords and of API keys. The plain text is never stored.

mod api_key;
mod apr1;
mod password;

pub use self::{
    api_key::{ApiKeyHash, new_api_key},
    password::{PasswordHash, hash_password},
};

/// Reason why a hash cannot be used; the text is the user's message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct InvalidHash {
    why: String,
    /// Correct form to write instead.
    pub help: &'static str,
}
