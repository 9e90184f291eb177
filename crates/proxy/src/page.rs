//! Small built-in page of the gateway's own replies: HTML, JSON or a line of text, by `Accept`.
//!
//! Pure rendering. A page costs one allocation and a few copies: a flood of refusals must not cost
//! more than the requests that pass. `templates/page.html` is the page for browsers.

use std::fmt;

use askama::Template;
use bytes::Bytes;
use edgeway_base::accept;
use http::{HeaderValue, StatusCode};

/// Content of a page.
#[derive(Clone, Copy, Debug, Template)]
#[template(path = "page.html", escape = "none")]
pub struct Page<'a> {
    pub status: StatusCode,
    /// Reason word of the refusal; `null` in JSON if there is none.
    pub reason: Option<&'a str>,
    /// Sentence for the reader; the default one of the status if absent.
    pub detail: Option<&'a str>,
    /// Id of the request; empty if there is none.
    pub request_id: &'a str,
    /// App or site that the reader requested; empty for none.
    pub app: &'a str,
}

/// Format of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageFormat {
    Json,
    Html,
    Text,
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// `Content-Security-Policy` of an HTML page whose route has one: what fits an app blocks its style.
pub const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'sha256-6RKyKB3/LbmFEFH4Gb1SKiRnCTIgh4D+Z3cktg0gqOs='; frame-ancestors 'none'",
);

impl PageFormat {
    /// Returns the format that an `Accept` header prefers. Without a preference, as with curl's
    /// `*/*`, it is text: a person can read it in a terminal and a program need not parse it.
    pub fn negotiate(accept: Option<&HeaderValue>) -> Self {
        const OFFERS: &[&str] = &["application/json", "text/html", "text/plain"];
        match accept.and_then(|value| accept::preferred(value.as_bytes(), OFFERS)) {
            Some(0) => Self::Json,
            Some(1) => Self::Html,
            _ => Self::Text,
        }
    }
}

impl Page<'_> {
    /// Returns the page's content type and body, in the format that `accept` prefers.
    pub fn render(&self, accept: Option<&HeaderValue>) -> (HeaderValue, Bytes) {
        match PageFormat::negotiate(accept) {
            PageFormat::Json => (JSON, self.json()),
            PageFormat::Html => self.html(),
            PageFormat::Text => (TEXT, self.text()),
        }
    }

    fn message(&self) -> &str {
        self.detail.unwrap_or_else(|| sentence(self.status))
    }

    fn phrase(&self) -> &'static str {
        self.status.canonical_reason().unwrap_or("Unknown Status")
    }

    /// Returns the page's content type and body for a browser.
    pub fn html(&self) -> (HeaderValue, Bytes) {
        let mut page = String::with_capacity(2048);
        // Writing to a string cannot fail.
        let _infallible = self.render_into(&mut page);
        (HTML, page.into())
    }

    fn text(&self) -> Bytes {
        let mut out = String::with_capacity(160);
        out.push_str(self.status.as_str());
        out.push(' ');
        out.push_str(self.phrase());
        out.push_str("\n\n");
        out.push_str(self.message());
        out.push('\n');
        if !self.request_id.is_empty() {
            out.push_str("Request id: ");
            out.push_str(self.request_id);
            out.push('\n');
        }
        Bytes::from(out)
    }

    fn json(&self) -> Bytes {
        #[derive(serde::Serialize)]
        struct WholePage<'a> {
            error: Error<'a>,
        }
        #[derive(serde::Serialize)]
        struct Error<'a> {
            status: u16,
            reason: Option<&'a str>,
            message: &'a str,
            request_id: Option<&'a str>,
        }
        let page = WholePage {
            error: Error {
                status: self.status.as_u16(),
                reason: self.reason,
                message: self.message(),
                request_id: Some(self.request_id).filter(|id| !id.is_empty()),
            },
        };
        let mut out = Vec::with_capacity(192);
        serde_json::to_writer(&mut out, &page).expect("plain text and numbers always print");
        out.push(b'\n');
        Bytes::from(out)
    }
}

/// Returns a sentence about a status for a reader who is not an administrator.
fn sentence(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "The request could not be understood.",
        401 => "Please sign in first.",
        403 => "This request is not allowed.",
        404 => "There is nothing at this address.",
        405 => "This address does not accept this kind of request.",
        408 => "The request took too long to arrive.",
        413 => "The request is too large.",
        414 => "The address of this request is too long.",
        429 => "Too many requests. Please wait a moment and try again.",
        431 => "The request's headers are too large.",
        500 => "Something went wrong on our side.",
        501 => "This is not supported here.",
        502 => "The application sent an invalid response. Please try again in a moment.",
        503 => "The application is not available at the moment. Please try again soon.",
        504 => "The application took too long to respond. Please try again in a moment.",
        _ if status.is_server_error() => "This request could not be completed.",
        _ if status.is_client_error() => "This request was not accepted.",
        _ => "",
    }
}

/// A text with the characters escaped that have a meaning in HTML.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some(index) = rest.find(['&', '<', '>', '"', '\'']) {
            f.write_str(&rest[..index])?;
            f.write_str(match rest.as_bytes()[index] {
                b'&' => "&amp;",
                b'<' => "&lt;",
                b'>' => "&gt;",
                b'"' => "&quot;",
                _ => "&#39;",
            })?;
            rest = &rest[index + 1..];
        }
        f.write_str(rest)
    }
}

#[cfg(test)]
mod tests {
    use edgeway_routes::PAGE_STYLE;

    use super::*;

    const PAGE: Page<'static> = Page {
        status: StatusCode::BAD_GATEWAY,
        reason: Some("upstream_reset"),
        detail: None,
        request_id: "abc-1",
        app: "",
    };

    #[test]
    fn the_policy_allows_the_style_of_the_page() {
        use base64::{Engine as _, prelude::BASE64_STANDARD};
        let digest = ring::digest::digest(&ring::digest::SHA256, PAGE_STYLE.as_bytes());
        let hash = format!("'sha256-{}'", BASE64_STANDARD.encode(digest));
        assert!(POLICY.to_str().unwrap().contains(&hash), "{hash}");
        let (_, page) = PAGE.html();
        let style = format!("<style>{PAGE_STYLE}</style>");
        assert!(String::from_utf8_lossy(&page).contains(&style));
    }

    fn render(page: &Page<'_>, accept: &str) -> (String, String) {
        let value = HeaderValue::from_str(accept).unwrap();
        let (content_type, body) = page.render(Some(&value));
        (
            content_type.to_str().unwrap().to_owned(),
            String::from_utf8(body.to_vec()).unwrap(),
        )
    }

    #[test]
    fn a_browser_gets_a_complete_page_without_scripts_or_outside_files() {
        let (content_type, body) = render(&PAGE, "text/html,*/*;q=0.8");
        assert_eq!(content_type, "text/html; charset=utf-8");
        assert!(body.starts_with("<!doctype html>"), "{body}");
        assert!(body.contains("<h1>502 Bad Gateway</h1>"), "{body}");
        assert!(body.contains("Request id abc-1"), "{body}");
        for absent in ["<script", "http://", "https://", "url(", "{{"] {
            assert!(!body.contains(absent), "{absent} in {body}");
        }
    }

    #[test]
    fn text_from_outside_is_escaped() {
        let page = Page {
            detail: Some("<script>alert('1') & \"x\"</script>"),
            request_id: "a\"b",
            app: "<b>",
            ..PAGE
        };
        let (_, html) = render(&page, "text/html");
        assert!(
            html.contains("&lt;script&gt;alert(&#39;1&#39;) &amp; &quot;x&quot;&lt;/script&gt;"),
            "{html}"
        );
        assert!(html.contains("&lt;b&gt; · Request id a&quot;b"), "{html}");
        let (_, json) = render(&page, "application/json");
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(
            value["error"]["message"],
            "<script>alert('1') & \"x\"</script>"
        );
    }

    #[test]
    fn a_program_gets_json_of_one_shape() {
        let (content_type, body) = render(&PAGE, "application/json");
        assert_eq!(content_type, "application/json");
        assert_eq!(
            body,
            "{\"error\":{\"status\":502,\"reason\":\"upstream_reset\",\"message\":\"The \
             application sent an invalid response. Please try again in a \
             moment.\",\"request_id\":\"abc-1\"}}\n"
        );
        let bare = Page {
            reason: None,
            request_id: "",
            ..PAGE
        };
        let (_, body) = render(&bare, "application/json");
        assert!(body.contains("\"reason\":null"), "{body}");
        assert!(body.contains("\"request_id\":null"), "{body}");
    }

    #[test]
    fn curl_gets_a_few_lines_of_text() {
        let (content_type, body) = PAGE.render(None);
        assert_eq!(content_type, "text/plain; charset=utf-8");
        assert_eq!(
            body,
            "502 Bad Gateway\n\nThe application sent an invalid response. Please try again in a \
             moment.\nRequest id: abc-1\n"
        );
        assert_eq!(render(&PAGE, "*/*").1.as_bytes(), body);
    }

    #[test]
    fn each_status_has_a_text() {
        for code in 400..600 {
            let page = Page {
                status: StatusCode::from_u16(code).unwrap(),
                ..PAGE
            };
            assert!(!page.message().is_empty(), "{code}");
        }
    }
}
