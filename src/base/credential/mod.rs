//! Credentials at rest: hashes of passwords and of API keys. What was hashed is never kept.

mod api_key;
mod password;

pub use self::{
    api_key::{ApiKeyHash, new_api_key},
    password::{PasswordHash, hash_password},
};

/// Why a hash cannot be used; the text is the user's message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct BadHash {
    why: String,
    /// What to write instead.
    pub help: &'static str,
}
