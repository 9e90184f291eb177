//! Cookie that proves that a client has passed a challenge: an end and a signature over that and
//! the client's address, made by an issuer that holds the key.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::hmac;

use crate::base::secret::Secret;

/// Prefix of a cookie: the version of its format, which is signed too.
const VERSION: &str = "v1";

/// Maximum length of a cookie in this format.
const MAX_COOKIE_LEN: usize = 80;

/// Verifier of cookies, with the key.
#[derive(Debug)]
pub struct Clearance {
    key: hmac::Key,
    /// Maximum time left: a cookie that would last longer was not issued by the same rules.
    longest: Duration,
}

impl Clearance {
    pub fn new(key: &Secret, longest: Duration) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key.reveal().as_bytes());
        Self { key, longest }
    }

    /// Returns true if `cookie` clears this client at `now`.
    pub fn clears(&self, cookie: &str, client: IpAddr, now: SystemTime) -> bool {
        self.end(cookie, client).is_some_and(|end| {
            let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
            let left = end.checked_sub(now);
            left.is_some_and(|left| !left.is_zero() && left <= self.longest)
        })
    }

    /// Returns the end of a cookie, if it is valid for this client.
    fn end(&self, cookie: &str, client: IpAddr) -> Option<Duration> {
        if cookie.len() > MAX_COOKIE_LEN {
            return None;
        }
        let (signed, signature) = cookie.rsplit_once('.')?;
        let (version, end) = signed.split_once('.')?;
        let is_plain = !end.is_empty() && end.bytes().all(|b| b.is_ascii_digit());
        if version != VERSION || !is_plain {
            return None;
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        let text = text(end, client);
        // In constant time.
        hmac::verify(&self.key, text.as_bytes(), &signature).ok()?;
        end.parse().ok().map(Duration::from_secs)
    }
}

/// Returns the signed text.
fn text(end: &str, client: IpAddr) -> String {
    format!("{VERSION}.{end}.{}", client.to_canonical())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn key() -> Secret {
        Secret::new("0123456789abcdef0123456789abcdef")
    }

    fn cookie(end: u64, client: &str) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key().reveal().as_bytes());
        let text = text(&end.to_string(), client.parse().unwrap());
        let signature = hmac::sign(&key, text.as_bytes());
        format!("v1.{end}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    #[track_caller]
    fn check(cookie: &str, client: &str, now: u64, clears: bool) {
        let now = UNIX_EPOCH + Duration::from_secs(now);
        let clearance = Clearance::new(&key(), HOUR);
        let client = client.parse().unwrap();
        assert_eq!(clearance.clears(cookie, client, now), clears, "{cookie}");
    }

    #[test]
    fn a_cookie_clears_its_own_client_until_its_end() {
        let good = cookie(10_000, "192.0.2.1");
        check(&good, "192.0.2.1", 9_999, true);
        check(&good, "::ffff:192.0.2.1", 9_999, true);
        check(&good, "192.0.2.1", 6_400, true);
        check(&good, "192.0.2.1", 10_000, false);
        check(&good, "192.0.2.2", 9_999, false);
        let v6 = cookie(10_000, "2001:db8::1");
        check(&v6, "2001:db8::1", 9_999, true);
        check(&v6, "2001:db8::2", 9_999, false);
    }

    #[test]
    fn a_clearance_longer_than_allowed_is_refused() {
        check(&cookie(10_000, "192.0.2.1"), "192.0.2.1", 6_399, false);
        check(&cookie(u64::MAX, "192.0.2.1"), "192.0.2.1", 6_400, false);
    }

    #[test]
    fn a_changed_or_malformed_clearance_is_refused() {
        let good = cookie(10_000, "192.0.2.1");
        for wrong in [
            good.replace("v1.", "v2."),
            good.replace("10000", "10001"),
            good.replace("10000", "+10000"),
            format!("{good}A"),
            format!("{good}="),
            good[..good.len() - 1].to_owned(),
            good.rsplit_once('.').unwrap().0.to_owned(),
            format!("{}.", good.rsplit_once('.').unwrap().0),
            String::new(),
            "v1..".to_owned(),
        ] {
            check(&wrong, "192.0.2.1", 9_999, false);
        }
        check(&good, "192.0.2.1", 9_999, true);
    }

    /// Cookie of the documentation, for testing other issuers.
    #[test]
    fn the_example_of_the_docs_is_true() {
        let page = include_str!("../../../../docs/flood-guard.md");
        let example = cookie(1_900_000_000, "192.0.2.1");
        assert!(page.contains(&example), "{example}");
    }

    proptest! {
        #[test]
        fn no_text_of_a_stranger_clears(text in "(v1\\.)?[0-9]{0,12}(\\.[A-Za-z0-9_-]{0,50})?") {
            let clearance = Clearance::new(&key(), HOUR);
            let client = "192.0.2.1".parse().unwrap();
            prop_assert!(!clearance.clears(&text, client, UNIX_EPOCH));
        }
    }
}
