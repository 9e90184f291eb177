//! The `routes:` section as written, without filters.

use std::{collections::BTreeMap, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::{
    FilesConfig, OneOrMany, RuleConfig,
    shorthand::{self, reply_status},
};
use crate::{
    base::{secret, units::Span},
    tree::{Spanned, short},
};

/// The keys of a route itself; its filters are kept separately.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    #[serde(rename = "match")]
    pub matches: Spanned<MatchConfig>,
    /// The name in metrics and logs; host and path if absent.
    pub name: Option<Spanned<String>>,
    /// Sends the request to this upstream.
    pub upstream: Option<Spanned<String>>,
    /// Responds with a redirect.
    pub redirect: Option<Spanned<RedirectConfig>>,
    /// Responds without a backend.
    pub respond: Option<Spanned<RespondConfig>>,
    /// Serves the files of a folder. Beside `upstream`, a request without a file goes to the
    /// upstream.
    pub files: Option<Spanned<FilesConfig>>,
    /// Changes the path before it goes upstream, or is looked up among the files.
    pub rewrite: Option<Spanned<RewriteConfig>>,
    /// Allows WebSocket upgrades.
    pub websocket: Option<Spanned<WebsocketConfig>>,
    /// Time limits of this route, in place of the upstream's own.
    pub timeouts: Option<Spanned<RouteTimeoutsConfig>>,
    /// Number of filters that must let a request pass, among `access`, `client_cert`, `api_key`,
    /// `basic_auth`, `jwt` and `forward_auth`: one of them (`any`) or `all`, the default.
    pub satisfy: Option<Spanned<SatisfyConfig>>,
    /// The `Host` that the backend gets: `sent` for the client's in its normal form (the default),
    /// `name` without any port, `backend` for the backend's own address, or any other text as it is
    /// written.
    pub host_header: Option<Spanned<String>>,
    /// Method and body that the backend gets in place of the client's.
    pub upstream_request: Option<Spanned<UpstreamRequestConfig>>,
    /// Headers that override a request for some apps, and reach the backend on this route only:
    /// `X-HTTP-Method-Override`, `X-HTTP-Method`, `X-Method-Override`, `X-Original-URL`,
    /// `X-Original-URI`, `X-Rewrite-URL`, `X-Host`, `X-HTTP-Host-Override`, `Proxy`. No rule of the
    /// gateway considers their values.
    #[serde(default, skip_serializing_if = "OneOrMany::is_empty")]
    pub pass_headers: OneOrMany<Spanned<String>>,
    /// Spellings of its paths that a guarded route takes: all that an app may treat as the same
    /// path (`folded`, the default), or the normal form only (`exact`).
    pub spelling: Option<Spanned<SpellingConfig>>,
    /// Conditions and rewrites, in their order, before the filters of the route.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Spanned<RuleConfig>>,
    /// Name of the site whose rules come before those of the route.
    pub site: Option<Spanned<String>>,
}

/// `folded` or `exact`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SpellingConfig {
    #[default]
    Folded,
    Exact,
}

/// `true`, `false`, `ignore`, or `{ idle: 1h }`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema, SmartDefault)]
#[serde(remote = "Self", deny_unknown_fields, default)]
#[schemars(transform = short::or_flag, transform = short::or_text)]
pub struct WebsocketConfig {
    /// Off with `enabled: false`.
    #[default(true)]
    pub enabled: bool,
    /// Refuses requests for a WebSocket with 400 if WebSockets are off. Otherwise they become
    /// ordinary requests without `Upgrade`, as with nginx; in short `websocket: ignore`.
    #[default(true)]
    pub refuse: bool,
    /// Longest silence of both sides; the upstream's `stream_idle` if absent.
    pub idle: Option<Span>,
}

/// `all` or `any`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SatisfyConfig {
    #[default]
    All,
    Any,
}

/// Time limits of a route. Absent ones are the upstream's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RouteTimeoutsConfig {
    /// TCP connect (and TLS handshake).
    pub connect: Option<Span>,
    /// Time from the last byte sent to the end of the response headers, without the time that the
    /// gateway waits for more of the client's body.
    pub first_byte: Option<Span>,
    /// Time between two chunks of a response. With `protocol: h2` the longer of this and
    /// `first_byte` limits both.
    pub idle: Option<Span>,
    /// Time between two messages of a WebSocket or of a gRPC call, or two events of an SSE feed.
    pub stream_idle: Option<Span>,
    /// Time limit of the whole request, retries included. Streams are not limited.
    pub total: Option<Span>,
}

/// Method and body that a backend gets in place of the client's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamRequestConfig {
    /// Method, such as `GET`; the client's if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Text in place of the client's body, with the placeholders of `headers`; empty for no body.
    /// The client's body if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

/// Conditions on the requests that a route takes. All of them must hold.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MatchConfig {
    /// `shop.example.com`, `*.example.com` (any depth below it), `www.example.*` (every ending), or
    /// `~` and a regular expression, whose named groups are parameters as those of paths; any host
    /// if absent.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub host: OneOrMany<Spanned<String>>,
    /// `/exact`, `/prefix/*`, `/users/{id}`, or a list of them.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub path: OneOrMany<Spanned<String>>,
    /// A regular expression over the whole path, as a last resort.
    pub path_regex: Option<Spanned<String>>,
    /// A location as nginx has them, in place of `path`: `/prefix`, `= /exact`, `^~ /prefix`,
    /// `~ regex` or `~* regex`. All routes of its host are then compared in nginx's order.
    pub location: Option<Spanned<String>>,
    /// The location around `location`, as its own route has it, or a list from the outermost to the
    /// innermost: `location` applies only if these are chosen.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub within: OneOrMany<Spanned<String>>,
    /// `GET`, or a list of methods.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub method: OneOrMany<Spanned<String>>,
    /// The name of a listener, or a list of them: requests that it accepted.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub listener: OneOrMany<Spanned<String>>,
    /// Header → value; `"*"` for any value, `~` before a regular expression.
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        serialize_with = "secret::by_name"
    )]
    pub header: BTreeMap<String, Spanned<String>>,
    /// Query name → value, as for headers.
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        serialize_with = "secret::by_name"
    )]
    pub query: BTreeMap<String, Spanned<String>>,
    /// Cookie → value, as for headers.
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        serialize_with = "secret::by_name"
    )]
    pub cookie: BTreeMap<String, Spanned<String>>,
    /// True for paths that clients cannot request: they get 404. Pages of errors, other routes and
    /// rewrites lead there.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub internal: bool,
    /// True for a route without a path: only its name leads there.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub named: bool,
}

impl MatchConfig {
    /// Returns true if requests for every path match.
    pub fn takes_every_path(&self) -> bool {
        if self.named {
            return false;
        }
        match (&self.path_regex, &self.location) {
            (None, Some(location)) => location.value.trim() == "/",
            (None, None) => {
                self.path.0.is_empty() || self.path.0.iter().any(|path| path.value == "/*")
            }
            (Some(_), _) => false,
        }
    }
}

/// `https`, a target such as `/new/{rest}` or `https://example.com/…`, or
/// `{ to: …, status: 308 }`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(with = "RedirectMapping", rename = "Redirect", transform = short::or_text)]
#[schemars(description = "A redirect as a mapping.")]
pub struct RedirectConfig {
    /// Target, which may use `{param}` of the path, `{path}`, `{query}`, `{host}`, `{rest}` (what
    /// `/*` matched).
    pub to: String,
    /// 301, 302, 303, 307 or 308. If absent: 308 to `https`, which is permanent; else 307, which
    /// browsers do not cache and which preserves method and body.
    pub status: u16,
}

/// A redirect as a mapping.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RedirectMapping {
    /// `https`, or a target, which may use `{param}` of the path, `{path}`, `{query}`,
    /// `{host}` and `{rest}` (what `/*` matched).
    pub(super) to: Spanned<String>,
    /// If absent: 308 to `https`, which is permanent; else 307, which browsers do not cache and
    /// which preserves method and body.
    #[serde(default, deserialize_with = "shorthand::redirect_status")]
    #[schemars(transform = shorthand::redirect_statuses)]
    pub(super) status: Option<u16>,
}

/// A fixed response: a mapping, the status alone, or the body alone.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
#[schemars(transform = short::or_number, transform = short::or_text)]
pub struct RespondConfig {
    /// 200 if absent; the maintenance page has 503.
    #[serde(default, deserialize_with = "reply_status")]
    #[schemars(range(min = 200, max = 599))]
    pub status: Option<u16>,
    /// The body as written.
    pub body: Option<String>,
    /// A file that contains the body, read together with the configuration.
    pub file: Option<Spanned<PathBuf>>,
    /// The built-in maintenance page with `Retry-After`.
    pub maintenance: Option<MaintenanceConfig>,
    /// Media type of the body; if absent, by the ending of `file`, or by the first character of
    /// `body`.
    pub content_type: Option<String>,
    /// Further headers, by name.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        serialize_with = "secret::by_name"
    )]
    pub headers: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, SmartDefault)]
#[serde(deny_unknown_fields, default)]
pub struct MaintenanceConfig {
    /// Time after which clients should retry, as `Retry-After`.
    #[default(Span::secs(60))]
    pub retry_after: Span,
    /// Message for the reader, one sentence.
    #[default("We are working on this site and will be back shortly.".to_owned())]
    pub message: String,
}

/// `{ prefix: /api, with: / }`, `{ regex: "^/old/(.*)$", with: "/new/$1" }`, or
/// `{ with: /index.html }` for the whole path.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RewriteConfig {
    /// Beginning of the path that `with` replaces.
    pub prefix: Option<Spanned<String>>,
    /// Regular expression whose match `with` replaces.
    pub regex: Option<Spanned<String>>,
    /// Replacement: the new beginning, the text for the match with `$1` and the like for groups, or
    /// the whole path. Without `prefix` it may have a query, to which the request's own is added,
    /// unless it ends in `?`.
    pub with: Spanned<String>,
}
