//! Responses that prove control of a name to a CA, kept for as long as it may request them.

use std::{collections::HashMap, sync::Arc};

use ahash::RandomState;
use arc_swap::ArcSwap;
use bytes::Bytes;

use super::managed::ManagedName;

/// HTTP-01 responses by token (RFC 8555, 8.3). Every request reads this, so a lookup is a single
/// load while nothing is pending.
#[derive(Debug, Default)]
pub(super) struct Tokens(ArcSwap<HashMap<Box<str>, Bytes, RandomState>>);

impl Tokens {
    pub(super) fn is_empty(&self) -> bool {
        self.0.load().is_empty()
    }

    pub(super) fn get(&self, token: &str) -> Option<Bytes> {
        self.0.load().get(token).cloned()
    }

    /// Serves `key_authorization` for `token` until the returned guard is dropped.
    pub(super) fn show(self: &Arc<Self>, token: &str, key_authorization: &str) -> ChallengeGuard {
        let key_authorization = Bytes::copy_from_slice(key_authorization.as_bytes());
        self.0.rcu(|tokens| {
            let mut tokens = HashMap::clone(tokens);
            tokens.insert(token.into(), key_authorization.clone());
            tokens
        });
        ChallengeGuard::Token {
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

/// Guard of a challenge response that is being served. Dropping it removes the response.
#[derive(Debug)]
pub(super) enum ChallengeGuard {
    Token {
        tokens: Arc<Tokens>,
        token: Box<str>,
    },
    Certificate {
        managed: Arc<ManagedName>,
    },
}

impl Drop for ChallengeGuard {
    fn drop(&mut self) {
        match self {
            Self::Token { tokens, token } => tokens.take(token),
            Self::Certificate { managed } => managed.show_challenge(None),
        }
    }
}

/// Returns true if this can be a token: base64url, and no longer than those of any CA.
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
    fn a_token_is_found_while_it_is_shown() {
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
