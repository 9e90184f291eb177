//! Headers of requests and responses that a log repeats.

use edgeway_base::secret;
use edgeway_config::tree::Spanned;
use edgeway_core::chain::{CompileContext, Exchange};
use http::{HeaderMap, HeaderName, header};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    escape::{put_compat, put_json},
    redact::Redactor,
};

/// Maximum length of a logged value.
const MAX_VALUE_LEN: usize = 512;

/// Headers whose values are never written, besides those whose names mark them as secrets.
const SECRETS: [HeaderName; 4] = [
    header::AUTHORIZATION,
    header::PROXY_AUTHORIZATION,
    header::COOKIE,
    header::SET_COOKIE,
];

/// Headers to log.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LoggedHeadersConfig {
    /// Names of request headers, as the client sent them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    request: Vec<Spanned<String>>,
    /// Names of response headers, as the client gets them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    response: Vec<Spanned<String>>,
}

/// Headers to log, checked.
#[derive(Debug, Default)]
pub(super) struct LoggedHeaders {
    pub(super) request: Box<[LoggedHeader]>,
    pub(super) response: Box<[LoggedHeader]>,
}

/// Headers whose values are URLs, with queries that may hold secrets.
const URLS: [HeaderName; 5] = [
    header::LOCATION,
    header::CONTENT_LOCATION,
    header::REFERER,
    header::LINK,
    header::REFRESH,
];

#[derive(Debug)]
pub(super) struct LoggedHeader {
    name: HeaderName,
    is_secret: bool,
    has_url: bool,
}

/// Values of a response, in the order of the configuration.
pub(super) struct ResponseValues(Box<[Option<Box<[u8]>>]>);

impl LoggedHeadersConfig {
    pub(super) fn is_empty(&self) -> bool {
        self.request.is_empty() && self.response.is_empty()
    }

    pub(super) fn compile(&self, cx: &mut CompileContext<'_>) -> LoggedHeaders {
        LoggedHeaders {
            request: compile(&self.request, cx),
            response: compile(&self.response, cx),
        }
    }
}

fn compile(names: &[Spanned<String>], cx: &mut CompileContext<'_>) -> Box<[LoggedHeader]> {
    let compiled = names.iter().filter_map(|written| {
        let Ok(name) = written.value.parse::<HeaderName>() else {
            return cx.at(written.place, "edgeway::access_log::headers").refuse(
                format!("invalid header name `{}`", written.value),
                "write a name such as `content-type`",
            );
        };
        let mut read = cx.secret_names.iter();
        let is_secret = SECRETS.contains(&name)
            || secret::shown(name.as_str(), "") == secret::REDACTED
            || read.any(|own| own.eq_ignore_ascii_case(name.as_str()));
        Some(LoggedHeader {
            is_secret,
            has_url: URLS.contains(&name),
            name,
        })
    });
    compiled.collect()
}

impl LoggedHeader {
    /// Returns the value to write; several values are joined as HTTP joins them.
    fn value(&self, headers: &HeaderMap, redact: &Redactor) -> Option<Box<[u8]>> {
        let mut values = headers.get_all(&self.name).iter().peekable();
        values.peek()?;
        if self.is_secret {
            return Some(secret::REDACTED.as_bytes().into());
        }
        let mut joined = Vec::new();
        for (index, value) in values.enumerate() {
            if index > 0 {
                joined.extend_from_slice(b", ");
            }
            joined.extend_from_slice(value.as_bytes());
        }
        if self.has_url {
            // Before it is truncated: the `@` behind a password marks it.
            joined = redact.of_urls(&joined);
        }
        joined.truncate(MAX_VALUE_LEN);
        Some(joined.into())
    }
}

impl LoggedHeaders {
    pub(super) fn of_response(&self, headers: &HeaderMap, redact: &Redactor) -> ResponseValues {
        let values = self
            .response
            .iter()
            .map(|header| header.value(headers, redact));
        ResponseValues(values.collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.request.is_empty() && self.response.is_empty()
    }

    /// Adds `,"request_headers":{…},"response_headers":{…}`.
    pub(super) fn put_json(&self, out: &mut Vec<u8>, ex: &Exchange<'_>, redact: &Redactor) {
        self.for_each(
            (ex, redact),
            |out, kind, index, name, value| {
                let before: &[u8] = match (index, kind) {
                    (0, Side::Request) => b",\"request_headers\":{\"",
                    (0, Side::Response) => b",\"response_headers\":{\"",
                    _ => b",\"",
                };
                out.extend_from_slice(before);
                out.extend_from_slice(name.as_str().as_bytes());
                out.extend_from_slice(b"\":");
                match value {
                    Some(value) => {
                        out.push(b'"');
                        put_json(out, value);
                        out.push(b'"');
                    }
                    None => out.extend_from_slice(b"null"),
                }
                let count = match kind {
                    Side::Request => self.request.len(),
                    Side::Response => self.response.len(),
                };
                if index + 1 == count {
                    out.push(b'}');
                }
            },
            out,
        );
    }

    /// Adds ` request_header.NAME="…" response_header.NAME="…"`.
    pub(super) fn put_compat(&self, out: &mut Vec<u8>, ex: &Exchange<'_>, redact: &Redactor) {
        self.for_each(
            (ex, redact),
            |out, kind, _, name, value| {
                let before: &[u8] = match kind {
                    Side::Request => b" request_header.",
                    Side::Response => b" response_header.",
                };
                out.extend_from_slice(before);
                out.extend_from_slice(name.as_str().as_bytes());
                out.extend_from_slice(b"=\"");
                put_compat(out, value.unwrap_or(b"-"));
                out.push(b'"');
            },
            out,
        );
    }

    fn for_each(
        &self,
        (ex, redact): (&Exchange<'_>, &Redactor),
        mut put: impl FnMut(&mut Vec<u8>, Side, usize, &HeaderName, Option<&[u8]>),
        out: &mut Vec<u8>,
    ) {
        for (index, header) in self.request.iter().enumerate() {
            let value = header.value(&ex.head.headers, redact);
            put(out, Side::Request, index, &header.name, value.as_deref());
        }
        // A response that never began has none.
        let values = ex.facts.slot::<ResponseValues>();
        for (index, header) in self.response.iter().enumerate() {
            let value = values.and_then(|values| values.0.get(index)?.as_deref());
            put(out, Side::Response, index, &header.name, value);
        }
    }
}

/// Side that sent a header.
#[derive(Clone, Copy)]
enum Side {
    Request,
    Response,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Generates a URL with parameters in its query and its fragment.
    fn url() -> impl Strategy<Value = String> {
        let pair = "(token|page|code|[a-z]{1,6})=[A-Z0-9]{8}";
        let pairs = || proptest::collection::vec(pair, 0..4).prop_map(|pairs| pairs.join("&"));
        (pairs(), pairs()).prop_map(|(query, fragment)| format!("/cb?{query}#{fragment}"))
    }

    proptest! {
        /// Invariant: a logged URL is the one that was sent, with the values of secret parameters
        /// replaced, wherever they stand.
        #[test]
        fn a_logged_url_has_no_secrets(url in url()) {
            let redact = Redactor::new(["token", "=code"]);
            let mut headers = HeaderMap::new();
            headers.insert(header::LOCATION, url.parse().unwrap());
            let header = LoggedHeader {
                name: header::LOCATION,
                is_secret: false,
                has_url: true,
            };
            let value = header.value(&headers, &redact).unwrap();
            let mut expected = String::new();
            for part in url.split_inclusive(['?', '#', '&']) {
                let pair = part.trim_end_matches(['?', '#', '&']);
                match pair.split_once('=') {
                    Some((name, value)) if name == "code" || name.ends_with("token") => {
                        let end = &part[pair.len()..];
                        prop_assert!(!value.is_empty());
                        expected.extend([name, "=[redacted]", end]);
                    }
                    _ => expected.push_str(part),
                }
            }
            prop_assert_eq!(String::from_utf8(value.into_vec()).unwrap(), expected);
        }
    }
}
