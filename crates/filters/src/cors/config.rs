//! Configuration of `cors` as written, and its compilation.

use edgeway_base::{origin::OriginPattern, units::Span};
use edgeway_config::tree::Spanned;
use edgeway_core::chain::CompileContext;
use http::{HeaderValue, Method};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Cors, Origins, is_header_name, joined};

/// Origins whose pages may read responses of this route, and send requests that need a preflight.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CorsConfig {
    /// Allowed origins: `https://shop.example.com`, `http://localhost:3000`,
    /// `https://*.example.com` for all subdomains of a domain, `"null"`; or `["*"]` for any origin,
    /// which excludes `credentials`.
    origins: Vec<Spanned<String>>,
    /// Methods that a preflight allows; GET, HEAD, POST, PUT, PATCH and DELETE if absent.
    #[serde(default = "methods")]
    methods: Vec<Spanned<String>>,
    /// Request headers that a preflight allows; those that it requests if absent.
    headers: Option<Vec<Spanned<String>>>,
    /// Response headers that scripts may read, beyond the few that they always may; if absent, the
    /// app's own list applies.
    expose: Option<Vec<Spanned<String>>>,
    /// True to let requests carry cookies, and scripts read the responses to such requests.
    #[serde(default)]
    credentials: Spanned<bool>,
    /// Time for which browsers may cache the response to a preflight.
    #[serde(default = "max_age")]
    max_age: Span,
}

fn methods() -> Vec<Spanned<String>> {
    METHODS.map(|name| Spanned::nowhere(name.to_owned())).into()
}

fn max_age() -> Span {
    Span::secs(600)
}

const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];

impl CorsConfig {
    pub(super) fn compile(self, cx: &mut CompileContext<'_>) -> Option<Cors> {
        let allowed = self.allowed(cx);
        let methods = list_of_methods(&self.methods, cx);
        let headers = list_of_headers(self.headers.as_deref(), cx);
        let expose = list_of_headers(self.expose.as_deref(), cx);
        Some(Cors {
            allowed: allowed?,
            methods: methods?,
            headers,
            expose,
            allow_credentials: self.credentials.value,
            max_age: HeaderValue::from(self.max_age.0.as_secs()),
        })
    }

    fn allowed(&self, cx: &mut CompileContext<'_>) -> Option<Origins> {
        const CODE: &str = "edgeway::cors::origin";
        if self.origins.is_empty() {
            return cx.here(CODE).refuse(
                "`cors` lists no origin",
                "list the origins allowed to read, such as `https://shop.example.com`, or remove \
                 `cors`",
            );
        }
        if let Some(any) = self.origins.iter().find(|origin| origin.value == "*") {
            return self.anybody(any, cx);
        }
        let (mut origins, mut null) = (Vec::new(), false);
        for origin in &self.origins {
            if origin.value == "null" {
                null = true;
                continue;
            }
            let parsed = OriginPattern::parse(&origin.value);
            origins.extend(cx.at(origin.place, CODE).reported(parsed));
        }
        if null && self.credentials.value {
            cx.at(self.credentials.place, "edgeway::cors::credentials").error(
                "with `credentials`, the origin `null` would let any page read in a user's name, \
                 from a sandboxed frame",
                "remove `credentials`, or the origin `null`",
            );
        }
        Some(Origins::Listed {
            origins: origins.into(),
            null,
        })
    }

    fn anybody(&self, any: &Spanned<String>, cx: &mut CompileContext<'_>) -> Option<Origins> {
        if self.credentials.value {
            return cx.at(self.credentials.place, "edgeway::cors::credentials").refuse(
                "`credentials` cannot go with the origin `*`: any page could read in a user's name",
                "list the origins that you trust, or remove `credentials`",
            );
        }
        if self.origins.len() > 1 {
            return cx.at(any.place, "edgeway::cors::origin").refuse(
                "the origin `*` allows all, so the others have no effect",
                "keep `*` alone, or remove it",
            );
        }
        Some(Origins::Anybody)
    }
}

fn list_of_methods(
    methods: &[Spanned<String>],
    cx: &mut CompileContext<'_>,
) -> Option<HeaderValue> {
    for method in methods {
        let upper = method.value.to_ascii_uppercase();
        // Methods are case-sensitive, and browsers compare them so.
        if method.value != upper || Method::from_bytes(upper.as_bytes()).is_err() {
            cx.at(method.place, "edgeway::cors::method").error(
                format!("invalid method `{}`", method.value),
                "write it in upper case, such as `GET` or `POST`",
            );
        }
    }
    joined(methods.iter().map(|method| method.value.as_str()))
}

/// Parses header names.
fn list_of_headers(
    names: Option<&[Spanned<String>]>,
    cx: &mut CompileContext<'_>,
) -> Option<HeaderValue> {
    let names = names?;
    for name in names.iter().filter(|name| !is_header_name(&name.value)) {
        let help = if name.value == "*" {
            "list the names, or remove the key"
        } else {
            "write a name such as `X-Request-Id`"
        };
        cx.at(name.place, "edgeway::cors::header")
            .error(format!("invalid header name `{}`", name.value), help);
    }
    joined(names.iter().map(|name| name.value.as_str()))
}
