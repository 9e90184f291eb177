//! Secrets by their values: hidden in any text, whatever stands beside them.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::HeaderMap;
use serde_json::Value;

use super::{
    query::{decoded, form_decoded, last_word, name_of, parted},
    secret::{REDACTED, is_secret_name, without_shapes},
};

/// Length of the shortest secret that is looked for; a shorter text may occur for other reasons.
const MIN_LEN: usize = 4;

/// Secrets that texts for other readers must not show.
#[derive(Clone, Default, derive_more::Debug)]
#[debug("{REDACTED}")]
pub struct KnownSecrets(Vec<String>);

impl KnownSecrets {
    pub fn add(&mut self, secret: impl Into<String>) {
        let secret = secret.into();
        if secret.len() >= MIN_LEN && !self.0.contains(&secret) {
            self.0.push(secret);
        }
    }

    pub fn add_all(&mut self, others: &Self) {
        others.0.iter().for_each(|secret| self.add(secret.clone()));
    }

    /// Adds the texts and numbers in plain data: all of them, or those whose names mark them as
    /// secret.
    pub fn add_data(&mut self, data: &Value, is_all: bool) {
        match data {
            Value::String(text) if is_all => self.add(text.clone()),
            Value::Number(number) if is_all => self.add(number.to_string()),
            Value::Array(items) => items.iter().for_each(|item| self.add_data(item, is_all)),
            Value::Object(map) => {
                for (name, value) in map {
                    self.add_data(value, is_all || is_secret_name(name));
                }
            }
            _ => {}
        }
    }

    /// Adds the secrets of a query: the values of names for which `is_secret` is true.
    pub fn add_query(&mut self, query: &[u8], is_secret: impl Fn(&[u8]) -> bool) {
        for pair in query.split(|byte| *byte == b'&') {
            let (name, value) = parted(pair);
            if is_secret(last_word(&name_of(name))) {
                self.add(latin(value));
                self.add(String::from_utf8_lossy(&form_decoded(value)));
            }
        }
    }

    /// Adds the secrets of headers: credentials of HTTP, cookies, and values of names for which
    /// `is_secret` is true.
    pub fn add_headers(&mut self, headers: &HeaderMap, is_secret: impl Fn(&[u8]) -> bool) {
        for (name, value) in headers {
            let (name, value) = (name.as_str(), value.as_bytes());
            if name == "cookie" {
                let pairs = value.split(|byte| *byte == b';');
                let pairs = pairs.map(|pair| parted(pair.trim_ascii()));
                for (_, value) in pairs.filter(|(name, _)| is_secret(name)) {
                    self.add(latin(value));
                    self.add(String::from_utf8_lossy(&decoded(value)));
                }
            } else if name.ends_with("authorization") {
                let text = latin(value);
                let credentials = text.split_once(' ').map_or(&*text, |(_, rest)| rest.trim());
                self.add(credentials);
                // A plugin finds the password of Basic in it.
                let decoded = STANDARD.decode(credentials).unwrap_or_default();
                if let Some((_, password)) = String::from_utf8_lossy(&decoded).split_once(':') {
                    self.add(password);
                }
            } else if is_secret(name.as_bytes()) {
                self.add(latin(value));
            }
        }
    }

    /// Returns a text without these secrets, and without what looks like one.
    pub fn hidden_in(&self, text: &str) -> String {
        let mut secrets: Vec<&String> = self.0.iter().collect();
        // Longest first: one may be part of another.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        let mut text = text.to_owned();
        for secret in secrets {
            if text.contains(secret.as_str()) {
                text = text.replace(secret.as_str(), REDACTED);
            }
        }
        without_shapes(&text).into_owned()
    }
}

/// Returns bytes as plugins see them, each as a character.
fn latin(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}
