//! Explains the route, filters and action of a request, with the same engine that serves.

use std::{
    collections::BTreeSet,
    iter,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use askama::Template;
use edgeway_base::{
    clock::Clock, http::asks_for_websocket, known_secrets::KnownSecrets, out, secret, units,
};
use edgeway_core::chain::{Chain, CompiledFilter, Exchange, Phase, RequestFacts, Scheme};
use edgeway_routes::{
    self as routes, Action, GuardSearchResult, HostHeader, Params, RouteReason, Target,
    UpstreamRequest,
};
use http::{HeaderName, HeaderValue, Method, header};
use pingora::http::RequestHeader;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

pub use super::explain_cache::{ExplainedCache, StoredEntry, StoredLookup};
pub use super::explain_rules::{action, listener, upstream};
use super::{Gateway, Route, explain_app::AppRequest, explain_cache, explain_rules};

/// Request to explain.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    pub method: String,
    /// Path or complete URL.
    pub url: String,
    /// Headers as `Name: value`.
    #[serde(default)]
    pub headers: Vec<String>,
    #[serde(default = "localhost")]
    pub client: IpAddr,
    /// Listener that the request arrives on; if absent, the one of the URL's port or scheme, or the
    /// first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
}

impl ExplainRequest {
    /// Returns the header section as a client of HTTP/1.1 would send it; `None` if it would be no
    /// request at all.
    pub fn header_section(&self) -> Option<Vec<u8>> {
        let (authority, target) = split(&self.url)?;
        Method::from_bytes(self.method.as_bytes()).ok()?;
        let mut lines = vec![format!("{} {target} HTTP/1.1", self.method)];
        let mut has_host = false;
        for line in &self.headers {
            let (name, _) = line.split_once(':')?;
            has_host |= name.trim().eq_ignore_ascii_case(header::HOST.as_str());
            lines.push(line.clone());
        }
        lines.extend((!has_host).then(|| format!("Host: {authority}")));
        if lines.iter().any(|line| line.contains(['\r', '\n'])) {
            return None;
        }
        Some((lines.join("\r\n") + "\r\n\r\n").into_bytes())
    }
}

const fn localhost() -> IpAddr {
    IpAddr::V4(Ipv4Addr::LOCALHOST)
}

/// Scope of an explanation: with or without the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExplainScope {
    /// Includes the store of a gateway that serves.
    IntoTheStore,
    /// Only the rules, because the caller's own store is empty.
    AtTheRules,
}

/// Output of `edgeway explain`. Its text is that of the template.
#[derive(Debug, Serialize, Deserialize, Template)]
#[template(path = "explain.txt")]
pub struct Explanation {
    pub host: String,
    /// Path and query as routes see them.
    pub target: String,
    /// Path as requested, if it was normalised.
    pub rewritten_from: Option<String>,
    pub class: String,
    pub route: Option<String>,
    /// Path as the route guards it, if the requested spelling differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spelling: Option<String>,
    /// Other routes whose guards also apply.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also_guarded_by: Vec<String>,
    /// Status of the response if no route takes the request.
    pub without_route: Option<u16>,
    pub action: Option<String>,
    /// Target that the backend gets, if the route rewrites it.
    pub upstream_target: Option<String>,
    /// `Host` that the backend gets, if it is not the client's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream_host: Option<String>,
    /// Method and body that the backend gets, if they are not the client's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream_request: Option<String>,
    /// Release of the app that the request belongs to, if several can run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// Place where an image of the app is made, and why, with `images: edge`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    #[serde(serialize_with = "as_map", deserialize_with = "from_map")]
    pub parameters: Vec<(String, String)>,
    pub filters: Vec<ExplainedFilter>,
    /// Cache of the route, if it has one.
    pub cache: Option<ExplainedCache>,
    /// Every route in the order of evaluation, and why it won or lost.
    pub considered: Vec<ConsideredRoute>,
}

/// Route, and why it won or lost.
#[derive(Debug, Serialize, Deserialize)]
pub struct ConsideredRoute {
    pub route: String,
    pub why: String,
}

fn as_map<S: Serializer>(pairs: &[(String, String)], s: S) -> Result<S::Ok, S::Error> {
    s.collect_map(pairs.iter().map(|(name, value)| (name, value)))
}

fn from_map<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<(String, String)>, D::Error> {
    let map = Map::deserialize(d)?;
    let text = |value: Value| value.as_str().unwrap_or_default().to_owned();
    Ok(map
        .into_iter()
        .map(|(name, value)| (name, text(value)))
        .collect())
}

impl Explanation {
    /// Hides the credentials of the request, by the names that the log of its route hides.
    fn without_secrets(
        mut self,
        gateway: &Gateway,
        route: Option<&Route>,
        head: &RequestHeader,
        query: Option<&[u8]>,
    ) -> Self {
        let redactor = route.and_then(|route| route.redactor.as_ref());
        let redactor = redactor.unwrap_or(&gateway.fallback.redactor);
        let mut secrets = KnownSecrets::default();
        secrets.add_query(query.unwrap_or_default(), |name| redactor.hides(name));
        secrets.add_headers(&head.headers, |name| redactor.hides(name));
        let key = self.cache.as_mut().and_then(|cache| cache.key.as_mut());
        let of_key = key
            .into_iter()
            .flat_map(|key| iter::once(&mut key.url).chain(&mut key.and));
        let of_filters = self.filters.iter_mut().flat_map(|filter| &mut filter.notes);
        let others = [
            &mut self.rewritten_from,
            &mut self.spelling,
            &mut self.action,
            &mut self.upstream_target,
        ];
        let texts = iter::once(&mut self.target).chain(others.into_iter().flatten());
        for text in texts.chain(of_filters).chain(of_key) {
            let urls = redactor.of_urls(text.as_bytes());
            *text = secrets.hidden_in(&String::from_utf8_lossy(&urls));
        }
        self
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub struct ExplainedFilter {
    pub name: String,
    pub phases: Vec<String>,
    /// Parts of this request that the filter would check.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// Reason why a request cannot be explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    #[error("invalid method `{0}`")]
    Method(String),
    #[error("invalid header `{0}`: write `Name: value`")]
    Header(String),
    #[error("`{0}` is neither a path nor an http URL")]
    Url(String),
    #[error("there is no listener `{0}`")]
    Listener(String),
    /// The edge refuses the request.
    #[error("this request gets {status} `{reason}`: {detail}")]
    Edge {
        status: u16,
        reason: &'static str,
        detail: &'static str,
    },
    #[error("this request gets 400: {0}")]
    Refused(#[from] routes::InvalidTarget),
    #[error("this request gets 400: `Connection` names what is no header, or one that it may not")]
    Connection,
}

impl ExplainError {
    /// Returns the error for a URL, without its query, which may have a credential.
    fn url(url: &str) -> Self {
        let shown = url.split(['?', '#']).next().unwrap_or_default();
        Self::Url(secret::without_shapes(shown).into_owned())
    }
}

/// Explains a request.
pub fn explain(
    gateway: &Gateway,
    question: &ExplainRequest,
    look: ExplainScope,
) -> Result<Explanation, ExplainError> {
    let (mut head, raw) = request(&question.method, &question.url, &question.headers)?;
    let normal = routes::normalise(raw.as_bytes(), gateway.slashes)?;
    let has_spellings = normal.has_spellings;
    let normal = normal
        .rewritten()
        .unwrap_or_else(|| raw.as_bytes().to_vec());
    // Normalised as in the gateway, so that filters and cache see the same.
    head.set_raw_path(&normal)
        .map_err(|_| ExplainError::url(&question.url))?;
    let named = head.headers.get(header::HOST);
    let host = routes::host_of(named.map_or(&b""[..], HeaderValue::as_bytes))?.into_owned();
    let mut facts = RequestFacts::new(Clock::default().now());
    facts.client.ip = question.client.to_canonical();
    facts.client.peer = facts.client.ip;
    if question.url.starts_with("https://") {
        facts.client.scheme = Scheme::Https;
    }
    let listener = listener(gateway, question)?;
    let listener = listener.map_or_else(Arc::default, |one| Arc::clone(&one.name));
    facts.client.listener = Arc::clone(&listener);
    edgeway_core::chain::host::normalise_host(&mut head, &facts.client);
    explain_rules::settle(&mut head, gateway, &facts)?;
    let target = Target {
        listener: &listener,
        ..Target::new(&host, &normal)
    };
    let mut params = Params::default();
    let literal = gateway.table.find(&target, &head, &mut params);
    let guarded = literal
        .as_ref()
        .and_then(|literal| gateway.guarded((&target, &head, has_spellings), literal, &mut params));
    let (matched, also) = match (&guarded, literal) {
        (Some(guarded), _) => (Some(guarded.route), guarded.also.clone()),
        (None, Some(literal)) => (Some(literal.route), literal.also),
        (None, None) => (None, Vec::new()),
    };
    let name_of = |route: &usize| gateway.route(*route).map(|route| route.name.to_string());
    let route = matched.and_then(|index| gateway.route(index));
    facts.route = route.map(|route| Arc::clone(&route.name));
    facts.class = routes::classify(target.path, &head);
    let app = route.and_then(|route| {
        AppRequest::new(gateway, route, (&target, &params), &head, facts.client.ip)
    });
    let release = app.as_ref().and_then(AppRequest::own_release);
    facts.release = release.map(|(release, _)| release.into());
    let file = app.as_ref().and_then(AppRequest::file);
    let is_file = file.is_some();
    let action = route.map(|route| {
        let plain = file.unwrap_or_else(|| action_text(route, &target, &params, &head));
        explain_rules::with_rules(gateway, route, &head, &mut facts, plain)
    });
    let without_route = match matched {
        Some(_) => None,
        None if gateway.table.serves_host(&host) => Some(404),
        None => Some(421),
    };
    let before = explain_rules::before_routes(gateway, &facts.client, target.path, without_route);
    let (action, ruled) = action.unzip();
    let action = before.or(action);
    let mut ex = Exchange::new(&head, &mut facts);
    let explained = filters(gateway, route, &also, &ex);
    let cache = route.filter(|_| !is_file).and_then(|route| {
        let now = match look {
            ExplainScope::IntoTheStore => explain_cache::now(gateway),
            ExplainScope::AtTheRules => None,
        };
        let rewritten = sent_on(route, &target, &params);
        explain_cache::explain(
            route,
            &mut ex,
            (&target, &params),
            (rewritten.as_deref(), ruled.flatten().as_deref()),
            now,
        )
    });
    let explanation = Explanation {
        host: host.clone(),
        target: String::from_utf8_lossy(&normal).into_owned(),
        rewritten_from: (normal != raw.as_bytes()).then(|| raw.to_owned()),
        class: routes::classify(target.path, &head).name().to_owned(),
        route: route.map(|route| route.name.to_string()),
        spelling: guarded
            .as_ref()
            .map(|guarded| String::from_utf8_lossy(&guarded.reading).into_owned()),
        also_guarded_by: also.iter().filter_map(name_of).collect(),
        without_route,
        action,
        upstream_target: route.and_then(|route| sent_on(route, &target, &params)),
        upstream_host: route.and_then(|route| sent_host(route, &head)),
        upstream_request: route.and_then(sent_as),
        release: app.as_ref().and_then(AppRequest::release),
        image: app.as_ref().and_then(AppRequest::image),
        parameters: matched
            .map(|index| parameters(gateway, index, &target, &params))
            .unwrap_or_default(),
        filters: explained,
        cache,
        considered: considered(gateway, &target, &head, guarded.as_ref()),
    };
    Ok(explanation.without_secrets(gateway, route, &head, target.query))
}

/// Explains the filters of a request: guards of other routes, then those of its own.
fn filters(
    gateway: &Gateway,
    route: Option<&Route>,
    also: &[usize],
    ex: &Exchange<'_>,
) -> Vec<ExplainedFilter> {
    let mut covered = route.map_or_else(BTreeSet::new, |route| route.guarding.guards.clone());
    let mut explained = Vec::new();
    for other in also.iter().filter_map(|index| gateway.route(*index)) {
        for mut guard in of_chain(&other.guards_beside(&mut covered), ex) {
            guard.name = format!("{} of {}", guard.name, other.name);
            explained.push(guard);
        }
    }
    let chain = route.map_or(&gateway.fallback.chain, |route| &route.chain);
    explained.extend(of_chain(chain, ex));
    explained
}

/// Explains the filters of a chain.
fn of_chain(chain: &Chain, ex: &Exchange<'_>) -> Vec<ExplainedFilter> {
    let alternatives = chain.alternatives();
    chain
        .filters()
        .iter()
        .map(|named| {
            let mut explained = ExplainedFilter::new(named, ex);
            if alternatives.contains(&named.name) {
                let note = format!("one of {} is enough", alternatives.join(", "));
                explained.notes.push(note);
            }
            explained
        })
        .collect()
}

/// Builds the request as a client would send it, and returns its target.
fn request<'u>(
    method: &str,
    url: &'u str,
    headers: &[String],
) -> Result<(RequestHeader, &'u str), ExplainError> {
    let method = Method::from_bytes(method.as_bytes())
        .map_err(|_| ExplainError::Method(method.to_owned()))?;
    let bad_url = || ExplainError::url(url);
    let (authority, raw) = split(url).ok_or_else(bad_url)?;
    let mut head = RequestHeader::build(method, raw.as_bytes(), None).map_err(|_| bad_url())?;
    let host = HeaderValue::from_str(authority).map_err(|_| bad_url())?;
    head.insert_header(header::HOST, host)
        .map_err(|_| bad_url())?;
    for text in headers {
        let bad = || ExplainError::Header(text.clone());
        let (name, value) = text.split_once(':').ok_or_else(bad)?;
        let name: HeaderName = name.trim().parse().map_err(|_| bad())?;
        let value = HeaderValue::from_str(value.trim()).map_err(|_| bad())?;
        if name == header::HOST {
            head.insert_header(name, value).map_err(|_| bad())?;
        } else {
            head.append_header(name, value).map_err(|_| bad())?;
        }
    }
    Ok((head, raw))
}

impl ExplainedFilter {
    fn new(named: &CompiledFilter, ex: &Exchange<'_>) -> Self {
        let phases = named.traits.phases;
        Self {
            name: named.name.to_owned(),
            phases: Phase::ALL
                .into_iter()
                .filter(|phase| phases.wants(*phase))
                .map(|phase| phase.name().to_owned())
                .collect(),
            notes: named.filter.explain(ex),
        }
    }
}

fn considered(
    gateway: &Gateway,
    target: &Target<'_>,
    request: &RequestHeader,
    guarded: Option<&GuardSearchResult>,
) -> Vec<ConsideredRoute> {
    let name = |index: usize| {
        gateway
            .route(index)
            .map_or_else(String::new, |route| route.name.to_string())
    };
    let why = |why| match why {
        RouteReason::Matched => "matched".to_owned(),
        RouteReason::LessSpecific(winner) => format!("less specific than {}", name(winner)),
        RouteReason::Predicate(predicate) => format!("path fits, but {predicate}"),
        RouteReason::Path => "another path".to_owned(),
        RouteReason::Host => "another host".to_owned(),
    };
    let by_spelling = guarded.map(|guarded| ConsideredRoute {
        route: name(guarded.by),
        why: format!(
            "guards this path as another spelling of {}",
            String::from_utf8_lossy(&guarded.reading)
        ),
    });
    let literal = gateway
        .table
        .explain(target, request)
        .into_iter()
        .map(|considered| ConsideredRoute {
            route: name(considered.route),
            why: why(considered.why),
        });
    by_spelling.into_iter().chain(literal).collect()
}

fn parameters(
    gateway: &Gateway,
    index: usize,
    target: &Target<'_>,
    params: &Params,
) -> Vec<(String, String)> {
    let value = |slot| String::from_utf8_lossy(params.get(slot, target.path)).into_owned();
    gateway
        .table
        .params_of(index)
        .iter()
        .map(|(name, slot)| (name.to_owned(), value(slot)))
        .collect()
}

/// Returns the target that the backend gets, if the route rewrites it.
pub(super) fn sent_on(route: &Route, target: &Target<'_>, params: &Params) -> Option<String> {
    let path = route
        .action
        .forward()?
        .rewrite
        .as_ref()?
        .apply(target, params)
        .ok()??;
    Some(String::from_utf8_lossy(&path).into_owned())
}

/// Returns the target that the backend gets.
pub(super) fn sent_target(
    route: &Route,
    target: &Target<'_>,
    params: &Params,
    head: &RequestHeader,
) -> Vec<u8> {
    let rewritten = sent_on(route, target, params).map(String::into_bytes);
    rewritten.unwrap_or_else(|| head.raw_path().to_vec())
}

/// Returns the `Host` that the backend gets, if the route has one for it.
fn sent_host(route: &Route, head: &RequestHeader) -> Option<String> {
    match route.action.forward()?.host.as_ref()? {
        HostHeader::Backend => Some("the address of the backend".to_owned()),
        HostHeader::Template(_) => Some("a text with placeholders".to_owned()),
        host => {
            let value = host.value_without(head.headers.get(header::HOST), None)?;
            Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
        }
    }
}

/// Describes method and body that the backend gets, if the route has its own.
fn sent_as(route: &Route) -> Option<String> {
    let request = route.action.forward()?.request.as_deref();
    request.map(UpstreamRequest::describe)
}

/// Describes the action, with the target of a redirect and the path of a file.
fn action_text(
    route: &Route,
    target: &Target<'_>,
    params: &Params,
    head: &RequestHeader,
) -> String {
    match &route.action {
        Action::Forward(forward)
            if forward.websocket.is_none()
                && !forward.ignores_upgrades
                && asks_for_websocket(&head.headers) =>
        {
            "refused with 400 websocket_off: the route lacks `websocket: true`".to_owned()
        }
        Action::Redirect(redirect) => match redirect.location(target, params) {
            Some(location) => format!(
                "redirect {} to {}",
                redirect.status.as_u16(),
                String::from_utf8_lossy(location.as_bytes())
            ),
            None => plain_action(route),
        },
        Action::Files(serve) => {
            let rewritten = serve.rewrite.as_ref();
            let rewritten = rewritten.and_then(|rewrite| rewrite.apply(target, params).ok()?);
            match rewritten {
                Some(path) => {
                    format!(
                        "{} at {}",
                        plain_action(route),
                        String::from_utf8_lossy(&path)
                    )
                }
                None => plain_action(route),
            }
        }
        Action::Forward(_) | Action::Respond(_) => plain_action(route),
    }
}

pub(super) fn plain_action(route: &Route) -> String {
    match &route.action {
        Action::Forward(forward) => {
            let first = match &forward.files {
                Some(files) => format!("files {}, else ", files.root().display()),
                None => String::new(),
            };
            let only = forward.websocket.as_ref().map_or("", |_| " (websocket)");
            format!("{first}upstream {}{only}", forward.upstream)
        }
        Action::Redirect(redirect) => format!("redirect {}", redirect.status.as_u16()),
        Action::Respond(respond) => match respond.status.as_u16() {
            444 => "close without a response (444)".to_owned(),
            status => format!("respond {status}"),
        },
        Action::Files(serve) => {
            let only = if serve.internal.is_some() {
                " (internal)"
            } else {
                ""
            };
            format!("files {}{only}", serve.files.root().display())
        }
    }
}

/// Splits a URL or path into authority and request target.
fn split(url: &str) -> Option<(&str, &str)> {
    if url.starts_with('/') || url == "*" {
        return Some(("localhost", url));
    }
    let rest = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"))?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(end);
    if authority.is_empty() {
        return None;
    }
    Some((authority, if target.is_empty() { "/" } else { target }))
}
