//! What authorities are shown to prove that a name is ours, for as long as they may ask.

use std::{collections::HashMap, sync::Arc};

use ahash::RandomState;
use arc_swap::ArcSwap;
use bytes::Bytes;

use super::managed::Managed;

/// Answers to HTTP-01 by token (RFC 8555, 8.3). Read on the way of every request, so
/// looking is one load while nothing is pending.
#[derive(Debug, Default)]
pub(super) struct Tokens(ArcSwap<HashMap<Box<str>, Bytes, RandomState>>);

impl Tokens {
    pub(super) fn is_empty(&self) -> bool {
        self.0.load().is_empty()
    }

    pub(super) fn get(&self, token: &str) -> Option<Bytes> {
        self.0.load().get(token).cloned()
    }

    /// Answers `token` until what is returned is dropped.
    pub(super) fn show(self: &Arc<Self>, token: &str, answer: &str) -> Shown {
        let answer = Bytes::copy_from_slice(answer.as_bytes());
        self.0.rcu(|tokens| {
            let mut tokens = HashMap::clone(tokens);
            tokens.insert(token.into(), answer.clone());
            tokens
        });
        Shown::Token {
            tokens: Arc::clone(self),
            token: token.into(),
        }
    }

    fn take(&self, token: &str) {
        self.0.rcu(|tokens| {
            let mut tokens = HashMap::clone(tokens);
            tokens.remove(token);
            tokens
        });
    }
}

/// An answer that is being shown; dropping it takes it away.
#[derive(Debug)]
pub(super) enum Shown {
    Token {
        tokens: Arc<Tokens>,
        token: Box<str>,
    },
    Certificate {
        managed: Arc<Managed>,
    },
}

impl Drop for Shown {
    fn drop(&mut self) {
        match self {
            Self::Token { tokens, token } => tokens.take(token),
            Self::Certificate { managed } => managed.show_challenge(None),
        }
    }
}

/// Whether this can be a token: base64url, and not longer than any authority's.
pub(super) fn is_token(text: &str) -> bool {
    (1..=256).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_answered_while_it_is_shown() {
        let tokens = Arc::new(Tokens::default());
        assert!(tokens.is_empty());
        let shown = tokens.show("abc", "abc.thumb");
        let other = tokens.show("def", "def.thumb");
        assert_eq!(tokens.get("abc").as_deref(), Some(&b"abc.thumb"[..]));
        assert_eq!(tokens.get("ghi"), None);
        drop(shown);
        assert_eq!(tokens.get("abc"), None);
        assert!(tokens.get("def").is_some());
        drop(other);
        assert!(tokens.is_empty());
    }

    #[test]
    fn tokens_are_base64url() {
        assert!(is_token("evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"));
        for bad in ["", "a/b", "..", "a%20", "a b", "ä", &"a".repeat(257)] {
            assert!(!is_token(bad), "{bad}");
        }
    }
}
