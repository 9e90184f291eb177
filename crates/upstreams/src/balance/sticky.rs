//! Cookie that keeps a browser on its backend.
//!
//! The value is a hash of upstream and address: it reveals nothing useful to a reader, and is the
//! same after a restart and at every gateway. It is no secret: a client that forges one merely
//! picks a backend.

use std::{fmt::Write as _, time::Duration};

use http::HeaderValue;
use pingora::http::RequestHeader;

use super::hash64;
use crate::{
    backend::StickyValue,
    base::{http::is_token_byte, query::cookies},
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sticky {
    cookie: String,
    max_age: Option<Duration>,
}

impl Sticky {
    /// Creates a sticky cookie; `None` if `cookie` is not a cookie name (RFC 6265, 4.1.1: a token).
    pub(crate) fn new(cookie: &str, max_age: Option<Duration>) -> Option<Self> {
        let is_token = !cookie.is_empty() && cookie.bytes().all(is_token_byte);
        is_token.then(|| Self {
            cookie: cookie.to_owned(),
            max_age,
        })
    }

    /// Returns the cookie that keeps a browser on `address` of `upstream`.
    pub(crate) fn value(&self, upstream: &str, address: &str) -> StickyValue {
        let value = hash64(format!("{upstream}\n{address}").as_bytes());
        let mut text = format!(
            "{}={value:016x}; Path=/; HttpOnly; SameSite=Lax",
            self.cookie
        );
        if let Some(age) = self.max_age {
            write!(text, "; Max-Age={}", age.as_secs().max(1))
                .expect("writing to a String cannot fail");
        }
        StickyValue {
            value,
            set_cookie: HeaderValue::from_str(&text).expect("a token, digits and fixed text"),
        }
    }

    /// Returns the valid values that the browser sent. A cookie of this name that an app has set for a
    /// longer path comes first.
    pub(crate) fn sent<'a>(&'a self, request: &'a RequestHeader) -> impl Iterator<Item = u64> + 'a {
        cookies(&request.headers, self.cookie.as_bytes())
            .filter(|text| text.len() == 16)
            .filter_map(|text| u64::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(cookies: &[&str]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for line in cookies {
            request.append_header("cookie", *line).unwrap();
        }
        request
    }

    #[test]
    fn what_was_handed_out_is_read_back() {
        let sticky = Sticky::new("stick", Some(Duration::from_hours(1))).unwrap();
        let value = sticky.value("web", "10.0.0.1:3000");
        let line = value.set_cookie.to_str().unwrap();
        assert!(!line.contains("10.0.0.1"), "{line}");
        assert!(
            line.ends_with("; Path=/; HttpOnly; SameSite=Lax; Max-Age=3600"),
            "{line}"
        );
        let pair = line.split(';').next().unwrap();
        let sent = |cookies: &[&str]| sticky.sent(&request(cookies)).collect::<Vec<_>>();
        assert_eq!(sent(&[pair]), [value.value]);
        assert_eq!(sent(&["stick=; stick=app", pair]), [value.value]);
        assert_ne!(value.value, sticky.value("api", "10.0.0.1:3000").value);
    }

    #[test]
    fn what_was_not_handed_out_is_ignored() {
        let sticky = Sticky::new("stick", None).unwrap();
        for bad in [
            "stick=",
            "stick=zzzzzzzzzzzzzzzz",
            "stick=12",
            "other=0123456789abcdef",
        ] {
            assert_eq!(sticky.sent(&request(&[bad])).next(), None, "{bad}");
        }
        assert_eq!(Sticky::new("a b", None), None);
        assert_eq!(Sticky::new("", None), None);
        assert_eq!(Sticky::new("a=b", None), None);
    }
}
