//! Configuration of a JWK set behind a URL as written, and its compilation.

use std::{
    hash::{Hash as _, Hasher as _},
    path::PathBuf,
    sync::Arc,
};

use edgeway_base::{loopback::is_loopback_host, units::Span};
use edgeway_config::{
    diagnostic::Place,
    tree::{
        Spanned,
        short::{self, Short, short_form},
    },
};
use edgeway_core::chain::CompileContext;
use edgeway_net::fetch::Fetch;
use http::Uri;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use crate::jwt::{
    Keys,
    jwks::{Jwks, JwksSource},
};

const REFRESH: Span = Span::secs(300);
const STALE: Span = Span::secs(3600);
const DEADLINE: Span = Span::secs(5);
const MIN_REFRESH: Span = Span::secs(1);
const MAX_DEADLINE: Span = Span::secs(30);

/// A JWK set behind a URL.
#[derive(Debug, Deserialize, Serialize, JsonSchema, SmartDefault)]
#[serde(remote = "Self", deny_unknown_fields, default)]
#[schemars(transform = short::or_text)]
pub(super) struct JwksConfig {
    /// URL of the JWK set, such as `https://login.example.com/.well-known/jwks.json`.
    url: String,
    /// PEM file with the CA certificates for this URL, in place of the system's.
    ca: Option<Spanned<PathBuf>>,
    /// Maximum time between two fetches; `max-age` of the response may shorten it.
    #[default(Spanned::nowhere(REFRESH))]
    refresh: Spanned<Span>,
    /// Time for which the keys stay valid beyond that if the URL fails.
    #[default(STALE)]
    stale: Span,
    /// Timeout of one fetch.
    #[default(Spanned::nowhere(DEADLINE))]
    timeout: Spanned<Span>,
    /// True to accept a URL without TLS that is not on this machine: an attacker on the network
    /// path can then sign tokens.
    allow_http: bool,
}

impl Short for JwksConfig {
    const WHAT: &'static str = "a URL, or a mapping such as `{ url: https://…, refresh: 5min }`";

    const TEXT: Option<&'static str> = Some("url");
}

short_form!(JwksConfig);

impl JwksConfig {
    pub(super) fn compile(&self, place: Place, cx: &mut CompileContext<'_>) -> Option<Keys> {
        const CODE: &str = "edgeway::jwt::jwks";
        let url = self.url(place, cx);
        let errors = cx.diagnostics.errors();
        for (key, span, bounds) in [
            ("refresh", &self.refresh, MIN_REFRESH..=Span::secs(86_400)),
            ("timeout", &self.timeout, Span::millis(10)..=MAX_DEADLINE),
        ] {
            if !bounds.contains(&span.value) {
                let (min, max) = (bounds.start(), bounds.end());
                let message = format!("`{key}: {}` is not between {min} and {max}", span.value);
                let help = format!("write a time such as `{max}`");
                cx.at(span.place, CODE).error(message, help);
            }
        }
        let url = url?;
        let ca = self.ca.as_ref();
        let fetch = match Fetch::to(&url, cx.folder, ca.map(|ca| ca.value.as_path())) {
            Ok(fetch) => fetch,
            Err(error) => {
                let place = ca.filter(|_| error.is_file).map_or(place, |ca| ca.place);
                return cx.at(place, CODE).refuse(error.to_string(), error.help);
            }
        };
        if cx.diagnostics.errors() > errors {
            return None;
        }
        // With other CA certificates, the URL may return other keys.
        let (shown, query) = match self.url.split_once(['?', '#']) {
            // Logs show the names of zones and tasks, and a query may contain a key.
            Some((shown, query)) => {
                let mut hasher = std::hash::DefaultHasher::new();
                query.hash(&mut hasher);
                (shown, format!("?{:x}", hasher.finish()))
            }
            None => (self.url.as_str(), String::new()),
        };
        let zone = match &self.ca {
            Some(ca) => format!("jwks {shown}{query} by {}", ca.value.display()),
            None => format!("jwks {shown}{query}"),
        };
        let jwks = cx
            .zones
            .get_or_create(&zone, || Jwks::new(shown, cx.clock, cx.metrics));
        let source = Arc::new(JwksSource {
            url,
            fetch,
            refresh: self.refresh.value.0,
            deadline: self.timeout.value.0,
            stale: self.stale.0,
        });
        // Two filters that fetch one URL with different settings each run their own task.
        let task = format!(
            "{zone} each {} within {} stale {}",
            self.refresh.value, self.timeout.value, self.stale
        );
        let (supervised, endpoint) = (Arc::clone(&jwks), Arc::clone(&source));
        cx.work.add(task, move || {
            Arc::clone(&supervised).supervise(Arc::clone(&endpoint))
        });
        Some(Keys::Remote {
            jwks,
            stale: self.stale.0,
        })
    }

    fn url(&self, place: Place, cx: &mut CompileContext<'_>) -> Option<Uri> {
        const CODE: &str = "edgeway::jwt::jwks";
        const EXAMPLE: &str = "write one such as `https://login.example.com/.well-known/jwks.json`";
        let url = self.url.parse::<Uri>().ok().filter(|url| {
            let authority = url.authority().map_or("", |authority| authority.as_str());
            url.host().is_some_and(|host| !host.is_empty()) && !authority.contains('@')
        });
        let scheme = url.as_ref().and_then(Uri::scheme_str);
        let (message, help) = match scheme {
            Some("https") => return url,
            Some("http") => {
                let host = url.as_ref().and_then(Uri::host).unwrap_or_default();
                if self.allow_http || is_loopback_host(host) {
                    if self.ca.is_none() {
                        return url;
                    }
                    (
                        "`ca` is for HTTPS, and the URL has none".to_owned(),
                        "write `https:`",
                    )
                } else {
                    (
                        format!("`{}` is fetched without TLS", self.url),
                        "write `https:`, as anyone on the network path could forge keys; \
                         `allow_http: true` accepts that",
                    )
                }
            }
            // Messages go to logs and the status page.
            _ if self.url.contains('@') => (
                "the URL of a JWK set cannot have a user or a password".to_owned(),
                EXAMPLE,
            ),
            _ => (format!("invalid JWK set URL `{}`", self.url), EXAMPLE),
        };
        cx.at(place, CODE).refuse(message, help)
    }
}
