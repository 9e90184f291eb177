//! Headers of requests and responses that a log repeats.

use http::{HeaderMap, HeaderName, header};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::escape::{put_compat, put_json};
use crate::{
    base::secret,
    chain::{CompileContext, Exchange},
    config::tree::Spanned,
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

#[derive(Debug)]
pub(super) struct LoggedHeader {
    name: HeaderName,
    is_secret: bool,
}

/// Values of a response, in the order of the configuration.
pub(super) struct ResponseValues(Box<[Option<Box<[u8]>>]>);

impl LoggedHeadersConfig {
    pub(super) fn is_empty(&self) -> bool {
        self.request.is_empty() && self.response.is_empty()
    }

    pub(super) fn compile(&self, cx: &mut CompileContext<'_>) -> Option<LoggedHeaders> {
        let request = compile(&self.request, cx);
        let response = compile(&self.response, cx);
        Some(LoggedHeaders {
            request: request?,
            response: response?,
        })
    }
}

fn compile(names: &[Spanned<String>], cx: &mut CompileContext<'_>) -> Option<Box<[LoggedHeader]>> {
    let mut compiled = Vec::new();
    for written in names {
        let Ok(name) = written.value.parse::<HeaderName>() else {
            cx.report_at(
                written.place,
                "edgeway::access_log::headers",
                format!("invalid header name `{}`", written.value),
                "write a name such as `content-type`",
            );
            return None;
        };
        let is_secret =
            SECRETS.contains(&name) || secret::shown(name.as_str(), "") == secret::REDACTED;
        compiled.push(LoggedHeader { name, is_secret });
    }
    Some(compiled.into())
}

impl LoggedHeader {
    /// Returns the value to write; several values are joined as HTTP joins them.
    fn value(&self, headers: &HeaderMap) -> Option<Box<[u8]>> {
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
        joined.truncate(MAX_VALUE_LEN);
        Some(joined.into())
    }
}

impl LoggedHeaders {
    pub(super) fn of_response(&self, headers: &HeaderMap) -> ResponseValues {
        let values = self.response.iter().map(|header| header.value(headers));
        ResponseValues(values.collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.request.is_empty() && self.response.is_empty()
    }

    /// Adds `,"request_headers":{…},"response_headers":{…}`.
    pub(super) fn put_json(&self, out: &mut Vec<u8>, ex: &Exchange<'_>) {
        self.for_each(
            ex,
            |out, kind, index, name, value| {
                let before: &[u8] = match (index, kind) {
                    (0, Kind::Request) => b",\"request_headers\":{\"",
                    (0, Kind::Response) => b",\"response_headers\":{\"",
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
                    Kind::Request => self.request.len(),
                    Kind::Response => self.response.len(),
                };
                if index + 1 == count {
                    out.push(b'}');
                }
            },
            out,
        );
    }

    /// Adds ` request_header.NAME="…" response_header.NAME="…"`.
    pub(super) fn put_compat(&self, out: &mut Vec<u8>, ex: &Exchange<'_>) {
        self.for_each(
            ex,
            |out, kind, _, name, value| {
                let before: &[u8] = match kind {
                    Kind::Request => b" request_header.",
                    Kind::Response => b" response_header.",
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
        ex: &Exchange<'_>,
        mut put: impl FnMut(&mut Vec<u8>, Kind, usize, &HeaderName, Option<&[u8]>),
        out: &mut Vec<u8>,
    ) {
        for (index, header) in self.request.iter().enumerate() {
            let value = header.value(&ex.head.headers);
            put(out, Kind::Request, index, &header.name, value.as_deref());
        }
        // A response that never began has none.
        let values = ex.facts.slot::<ResponseValues>();
        for (index, header) in self.response.iter().enumerate() {
            let value = values.and_then(|values| values.0.get(index)?.as_deref());
            put(out, Kind::Response, index, &header.name, value);
        }
    }
}

/// Side that sent a header.
#[derive(Clone, Copy)]
enum Kind {
    Request,
    Response,
}
