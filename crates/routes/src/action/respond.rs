//! Fixed responses: a body, a file read with the configuration, or the maintenance page.

use std::{io::Read, path::Path};

use bytes::Bytes;
use edgeway_base::{accept, named_file, units::whole_seconds};
use edgeway_config::{
    diagnostic::Place,
    model::{MaintenanceConfig, RespondConfig},
    tree::Spanned,
};
use edgeway_core::chain::{CompileContext, Reply, ReplyBody};
use http::{
    HeaderName, HeaderValue, StatusCode,
    header::{
        ACCEPT, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, DATE, RETRY_AFTER,
        TRANSFER_ENCODING, UPGRADE,
    },
};
use pingora::http::RequestHeader;

use crate::{
    InvalidValue,
    values::{Encoding, has_any_version},
};

/// A compiled fixed response.
#[derive(Debug)]
pub struct Respond {
    pub status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Body,
}

#[derive(Debug)]
enum Body {
    /// The built-in page for an error status, an empty body for any other.
    ByStatus,
    Fixed(ReplyBody),
    Maintenance {
        html: ReplyBody,
        json: ReplyBody,
    },
}

const CODE: &str = "edgeway::route::bad_respond";

/// Style of all built-in pages.
pub const PAGE_STYLE: &str = include_str!("page.css");
/// Media types of the maintenance page.
const MAINTENANCE_TYPES: [&str; 2] = ["text/html", "application/json"];
const MAX_FILE: u64 = 1 << 20;
static NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

impl Respond {
    pub(super) fn compile(
        config: &RespondConfig,
        place: Place,
        cx: &mut CompileContext<'_>,
    ) -> Option<Self> {
        let status = cx.at(place, CODE).reported(status(config));
        let headers = cx.at(place, CODE).reported(headers(config));
        let content_type = cx.at(place, CODE).reported(content_type(config)).flatten();
        let body = body(config, content_type, place, cx);
        let (status, mut headers, body) = (status?, headers?, body?);
        if let Some(maintenance) = &config.maintenance {
            headers.extend(maintenance_headers(maintenance, &headers));
        }
        Some(Self {
            status,
            headers,
            body,
        })
    }

    pub fn refuses(&self) -> bool {
        self.status.as_u16() >= 400
    }

    /// Returns the response to this request.
    pub fn reply(&self, request: &RequestHeader) -> Reply {
        if self.status == StatusCode::OK && has_any_version(request) {
            return Reply {
                headers: self.headers.clone(),
                ..Reply::empty(StatusCode::NOT_MODIFIED)
            };
        }
        let mut reason = None;
        let body = match &self.body {
            Body::ByStatus if self.status.as_u16() >= 400 => ReplyBody::Page { detail: None },
            Body::ByStatus => ReplyBody::Empty,
            Body::Fixed(body) => body.clone(),
            Body::Maintenance { html, json } => {
                reason = Some("maintenance");
                let accept = request.headers.get(ACCEPT).map(HeaderValue::as_bytes);
                // Without a preference, the reader is likely a person.
                match accept.and_then(|accept| accept::preferred(accept, &MAINTENANCE_TYPES)) {
                    Some(1) => json.clone(),
                    _ => html.clone(),
                }
            }
        };
        Reply {
            headers: self.headers.clone(),
            body,
            reason,
            ..Reply::empty(self.status)
        }
    }
}

fn status(config: &RespondConfig) -> Result<StatusCode, InvalidValue> {
    let number = match (&config.maintenance, config.status) {
        (_, Some(written)) => written,
        (Some(_), None) => 503,
        (None, None) => 200,
    };
    let status = StatusCode::from_u16(number)
        .ok()
        .filter(|status| (200..600).contains(&status.as_u16()))
        .ok_or_else(|| {
            InvalidValue::new(
                format!("invalid status {number}"),
                "write one from 200 to 599",
            )
        })?;
    let has_body = config.body.as_ref().is_some_and(|body| !body.is_empty())
        || config.file.is_some()
        || config.maintenance.is_some();
    // RFC 9110, 15.3.5, 15.3.6 and 15.4.5: these never have a body.
    if has_body && matches!(number, 204 | 205 | 304) {
        return Err(InvalidValue::new(
            format!("a response with status {number} has no body"),
            "leave the body out, or write another status",
        ));
    }
    if number == 444 && (has_body || !config.headers.is_empty()) {
        return Err(InvalidValue::new(
            "status 444 closes the connection without a response",
            "leave body and headers out, or write another status",
        ));
    }
    if config.maintenance.is_some() && number < 400 {
        return Err(InvalidValue::new(
            format!("status {number} would report success during maintenance"),
            "leave `status` out for 503",
        ));
    }
    Ok(status)
}

fn headers(config: &RespondConfig) -> Result<Vec<(HeaderName, HeaderValue)>, InvalidValue> {
    let mut headers = Vec::with_capacity(config.headers.len());
    for (name, value) in &config.headers {
        let Ok(parsed) = HeaderName::from_bytes(name.as_bytes()) else {
            return Err(InvalidValue::new(
                format!("invalid header name `{name}`"),
                "write a name such as `x-served-by`",
            ));
        };
        if parsed == CONTENT_TYPE {
            return Err(InvalidValue::new(
                "the content type is not written in `headers`",
                "write it in `content_type`",
            ));
        }
        if headers.iter().any(|(own, _)| *own == parsed) {
            return Err(InvalidValue::new(
                format!("`{name}` is written twice, in two spellings"),
                "remove one of the two",
            ));
        }
        if [CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION, UPGRADE, DATE].contains(&parsed) {
            return Err(InvalidValue::new(
                format!("`{name}` is set by the gateway itself"),
                "leave it out",
            ));
        }
        let Ok(value) = HeaderValue::from_str(value) else {
            return Err(InvalidValue::new(
                format!("the value of `{name}` has bytes that are not allowed in a header"),
                "write it in visible ASCII, on one line",
            ));
        };
        headers.push((parsed, value));
    }
    Ok(headers)
}

fn content_type(config: &RespondConfig) -> Result<Option<HeaderValue>, InvalidValue> {
    let Some(text) = &config.content_type else {
        return Ok(None);
    };
    if config.maintenance.is_some() || (config.body.is_none() && config.file.is_none()) {
        return Err(InvalidValue::new(
            "`content_type` has no effect without `body` or `file`",
            "leave it out",
        ));
    }
    HeaderValue::from_str(text)
        .ok()
        .filter(|_| text.contains('/'))
        .map(Some)
        .ok_or_else(|| {
            InvalidValue::new(
                format!("invalid media type `{text}`"),
                "write one such as `text/html; charset=utf-8`",
            )
        })
}

fn body(
    config: &RespondConfig,
    content_type: Option<HeaderValue>,
    place: Place,
    cx: &mut CompileContext<'_>,
) -> Option<Body> {
    match (&config.body, &config.file, &config.maintenance) {
        (None, None, None) => Some(Body::ByStatus),
        (Some(text), None, None) => {
            let body = Bytes::from(text.clone());
            Some(Body::Fixed(ReplyBody::Bytes {
                content_type: content_type.or_else(|| Some(guess(&body))),
                body,
            }))
        }
        (None, Some(file), None) => {
            let (path, body) = read(file, cx)?;
            Some(Body::Fixed(ReplyBody::Bytes {
                content_type: content_type
                    .or_else(|| by_ending(&path))
                    .or_else(|| Some(guess(&body))),
                body,
            }))
        }
        (None, None, Some(maintenance)) => Some(maintenance_page(maintenance)),
        _ => {
            cx.at(place, CODE).error(
                "a reply has one body",
                "write one of `body`, `file` and `maintenance`",
            );
            None
        }
    }
}

fn read(
    file: &Spanned<std::path::PathBuf>,
    cx: &mut CompileContext<'_>,
) -> Option<(std::path::PathBuf, Bytes)> {
    let path = cx.folder.join(&file.value);
    cx.referenced.missed(path.clone());
    let shown = path.display();
    let mut body = Vec::new();
    // A byte more than allowed distinguishes a file that is too large from one that just fits.
    let read =
        named_file::open(&path).and_then(|opened| opened.take(MAX_FILE + 1).read_to_end(&mut body));
    if let Err(error) = read {
        return cx.at(file.place, CODE).refuse(
            format!("cannot read `{shown}`: {error}"),
            "the path is relative to the folder of the configuration",
        );
    }
    if body.len() as u64 > MAX_FILE {
        return cx.at(file.place, CODE).refuse(
            format!("`{shown}` is larger than 1 MiB"),
            "let an upstream serve it: the gateway's own replies are kept in memory",
        );
    }
    Some((path, Bytes::from(body)))
}

fn by_ending(path: &Path) -> Option<HeaderValue> {
    let ending = path.extension()?.to_str()?.to_ascii_lowercase();
    let media = match ending.as_str() {
        "html" | "htm" => "text/html; charset=utf-8",
        "txt" => "text/plain; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "xml" => "application/xml",
        "json" => "application/json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "webp" => "image/webp",
        "ico" => "image/x-icon",
        "pdf" => "application/pdf",
        _ => return None,
    };
    Some(HeaderValue::from_static(media))
}

/// Guesses the content type: HTML, a JSON object or list, text, or bytes.
fn guess(body: &[u8]) -> HeaderValue {
    let Ok(text) = std::str::from_utf8(body) else {
        return HeaderValue::from_static("application/octet-stream");
    };
    let start = text.trim_start();
    let is_html = ["<!doctype html", "<html"].iter().any(|tag| {
        start
            .get(..tag.len())
            .is_some_and(|s| s.eq_ignore_ascii_case(tag))
    });
    let is_json = || {
        start.starts_with(['{', '[']) && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
    };
    HeaderValue::from_static(if is_html {
        "text/html; charset=utf-8"
    } else if is_json() {
        "application/json"
    } else {
        "text/plain; charset=utf-8"
    })
}

fn maintenance_headers(
    config: &MaintenanceConfig,
    written: &[(HeaderName, HeaderValue)],
) -> Vec<(HeaderName, HeaderValue)> {
    let seconds = whole_seconds(config.retry_after.0);
    [
        (RETRY_AFTER, HeaderValue::from(seconds)),
        (CACHE_CONTROL, NO_STORE.clone()),
    ]
    .into_iter()
    .filter(|(name, _)| written.iter().all(|(own, _)| own != name))
    .collect()
}

fn maintenance_page(config: &MaintenanceConfig) -> Body {
    let message = config.message.as_str();
    let html = include_str!("maintenance.html").replace("{{style}}", PAGE_STYLE);
    let html = html.replace("{{message}}", &escape(message));
    let error = serde_json::json!({ "reason": "maintenance", "message": message });
    let json = serde_json::json!({ "error": error }).to_string();
    Body::Maintenance {
        html: ReplyBody::Bytes {
            content_type: Some(HeaderValue::from_static("text/html; charset=utf-8")),
            body: html.into(),
        },
        json: ReplyBody::Bytes {
            content_type: Some(HeaderValue::from_static("application/json")),
            body: json.into(),
        },
    }
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    Encoding::Markup.write(text, &mut out);
    out
}
