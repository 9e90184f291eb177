//! Credentials at rest: hashes of passwords and of API keys. The plain text is never stored.

mod api_key;
mod apr1;
mod password;

pub use self::{
    api_key::{ApiKeyHash, new_api_key},
    password::{PasswordHash, hash_password},
};
