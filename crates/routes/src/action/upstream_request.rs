//! Method and body that a backend gets in place of the client's.

use bytes::Bytes;
use edgeway_config::{
    diagnostic::Place,
    model::{RouteConfig, UpstreamRequestConfig},
};
use edgeway_core::chain::{CompileContext, Exchange};
use http::Method;

use crate::values::{Destination, Encoding, Template};

const CODE: &str = "edgeway::route::upstream_request";

/// Maximum length of a body as it is written.
const MAX_BODY: usize = 64 * 1024;

/// Changed method, changed body, or both.
#[derive(Debug)]
pub struct UpstreamRequest {
    /// Method in place of the client's.
    pub method: Option<Method>,
    /// `None` to pass the client's body on.
    body: Option<Body>,
}

#[derive(Debug)]
enum Body {
    Fixed(Bytes),
    Text(Template),
}

impl UpstreamRequest {
    /// Compiles the key of a route with an upstream. `None` means that a problem was reported.
    pub(super) fn compile(
        config: &UpstreamRequestConfig,
        place: Place,
        route: &RouteConfig,
        cx: &mut CompileContext<'_>,
    ) -> Option<Self> {
        let mut problem = None;
        if config.method.is_none() && config.body.is_none() {
            problem = Some((
                "`upstream_request` changes nothing".to_owned(),
                "write `method: GET`, or `body: \"\"` for requests without a body",
            ));
        }
        let websocket = route.websocket.as_ref();
        if websocket.is_some_and(|websocket| websocket.value.enabled) {
            problem = Some((
                "a request for a WebSocket is always a `GET` without a body".to_owned(),
                "give WebSockets a route of their own, without `upstream_request`",
            ));
        }
        let method = config.method.as_deref();
        let compiled = method.map(|text| method_of(text).ok_or(text)).transpose();
        if let Err(text) = &compiled {
            problem = Some((
                format!("`{text}` is no method for every request to a backend"),
                "write one in capital letters such as `GET` or `POST`, other than `HEAD`, \
                 `CONNECT` and `TRACE`",
            ));
        }
        let text = config.body.as_deref();
        if text.is_some_and(|text| text.len() > MAX_BODY) {
            problem = Some((
                "the body has more than 64 KiB".to_owned(),
                "write a shorter one",
            ));
        }
        if let Some((message, help)) = problem {
            return cx.at(place, CODE).refuse(message, help);
        }
        let body = match text {
            None => None,
            Some(text) => Some(body_of(text, place, cx)?),
        };
        Some(Self {
            method: compiled.ok()?,
            body,
        })
    }

    /// Returns true if the backend never gets the client's body.
    pub fn replaces_body(&self) -> bool {
        self.body.is_some()
    }

    /// Returns true if the backend gets a body of its own.
    pub fn has_text(&self) -> bool {
        match &self.body {
            Some(Body::Fixed(text)) => !text.is_empty(),
            Some(Body::Text(_)) => true,
            None => false,
        }
    }

    /// Returns the body in place of the client's, empty for none.
    pub fn body(&self, ex: &Exchange<'_>) -> Option<Bytes> {
        Some(match self.body.as_ref()? {
            Body::Fixed(text) => text.clone(),
            Body::Text(template) => {
                let mut text = String::new();
                let _undecided = template.write(ex, &mut text);
                text.into()
            }
        })
    }

    /// Describes the change in a few words.
    pub fn describe(&self) -> String {
        let method = self.method.as_ref().map(Method::as_str);
        let body = match &self.body {
            None => None,
            Some(_) if self.has_text() => Some("with a body of the configuration"),
            Some(_) => Some("without a body"),
        };
        let words: Vec<&str> = method.into_iter().chain(body).collect();
        words.join(" ")
    }
}

/// Returns the method. The response to `HEAD` or `CONNECT` has no body that a client could get, and
/// `TRACE` would return what only backends may see.
fn method_of(text: &str) -> Option<Method> {
    let is_known = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_uppercase());
    let method = Method::from_bytes(text.as_bytes()).ok()?;
    let is_usable = !matches!(method, Method::HEAD | Method::CONNECT | Method::TRACE);
    (is_known && is_usable).then_some(method)
}

fn body_of(text: &str, place: Place, cx: &mut CompileContext<'_>) -> Option<Body> {
    let destination = Destination::Body(Encoding::of_text(text));
    let template = Template::compile(text, place, destination, CODE, cx)?;
    Some(match template.plain_text() {
        Some(text) => Body::Fixed(text.to_owned().into()),
        None => Body::Text(template),
    })
}
