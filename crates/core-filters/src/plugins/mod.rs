//! Runs JavaScript on requests and responses: see `plugins` for its capabilities and limits.
//!
//! Changes that a plugin makes to a request reach the plugins behind it and the backend; changes to
//! a response reach the client. A failing hook changes nothing; if the plugin is required
//! (`on_error: refuse`), its failure ends the request.

mod body;
mod breaker;
mod call;
mod client_request;
mod config;
mod effects;
mod entry;
mod failure;
mod kv_owners;
mod loaded;
pub mod manual;
mod metrics;
mod recent;
mod reports;
mod responses;
mod settings;
#[cfg(test)]
mod tests;

use std::{
    borrow::Cow,
    future::ready,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use edgeway_base::{
    breaker::Breaker,
    clock::Clock,
    geo::{ClientLocation, Geo},
    target::Slashes,
};
use edgeway_core::chain::{
    AsyncFilter, BoxFuture, Exchange, Filter, Guard, HeaderUse, KeyBuilder, LateFields, Leniency,
    LoggedRequest, OpenRefusals, Phase, Phases, Reply, ReplyBody, RequestTrace, Traits, Verdict,
    host::public_host,
};
use edgeway_net::tasks::Tasks;
use edgeway_script::{
    ContextFacts, Failure, Hook, HookResult, Input, Plugin, Response,
    call::{is_of_url, rewritten},
    header_changes::{apply, apply_to_request},
    matcher::Matcher,
    wait_until::WorkPermits,
};
use http::{HeaderMap, HeaderName, StatusCode, header, response};

pub use self::{effects::has_returned_key, responses::FailedResponseHook};
use self::{
    effects::{PluginEffects, changed, done, sent},
    metrics::PluginMetrics,
    recent::RecentFailures,
};

/// The compiled filter: a route's plugins in their order.
#[derive(Debug)]
pub struct Plugins {
    uses: Arc<[RoutePlugin]>,
    whose: PluginSelection,
    /// Headers that plugins write for backends, and that no client may send.
    own: Arc<[HeaderName]>,
}

/// Selection of plugins whose hooks run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PluginSelection {
    All,
    /// Plugins that decide who may pass.
    Guards,
}

/// A plugin on a route.
#[derive(Debug)]
struct RoutePlugin {
    plugin: Arc<Plugin>,
    /// File as the configuration writes it.
    file: Arc<str>,
    /// True if the hooks run after limits and authentication, not before.
    after_auth: bool,
    matcher: Matcher,
    /// True if a plain path may be another spelling of a path that the plugin handles.
    has_odd_paths: bool,
    /// Breaker of a plugin with `on_error: continue`. A plugin that guards something has none: it
    /// is never skipped.
    breaker: Option<Breaker>,
    /// Names that `onRoute` may return.
    upstreams: Arc<[String]>,
    metrics: Arc<PluginMetrics>,
    recent: Arc<RecentFailures>,
    clock: Clock,
    slashes: Slashes,
    /// True if the plugin decides who may pass (`role: auth`).
    is_guard: bool,
    geo: Option<Arc<Geo>>,
    /// Maximum size of a body that the plugin gets, if it gets any.
    body: Option<usize>,
    /// Tasks that run `onLog`, and the number of requests at a time.
    log_tasks: Tasks,
    logs: WorkPermits,
}

filter_kind!(Plugins: config::PluginsConfig = "plugins");

impl Filter for Plugins {
    fn traits(self: Arc<Self>) -> Traits {
        let (mut phases, mut waiting) = (Phases::NONE, Phases::NONE);
        for each in self.uses.iter() {
            phases = phases | each.phases();
            waiting = waiting | each.phases_of_waiting();
        }
        let responds = |each: &RoutePlugin| each.plugin.has(Hook::Request);
        let guard = if self.uses.iter().any(|each| each.is_guard) {
            Guard::Access
        } else if self.uses.iter().any(responds) {
            Guard::Open(OpenRefusals::ByCode)
        } else {
            Guard::Nothing
        };
        let guards = Self {
            uses: Arc::clone(&self.uses),
            whose: PluginSelection::Guards,
            own: Arc::clone(&self.own),
        };
        let chooses = |each: &RoutePlugin| !each.matcher.is_for_all() || each.plugin.has_matcher();
        // Headers that a plugin adds to the response, such as a policy with a nonce, replace those that
        // other filters would add.
        let adds =
            |each: &RoutePlugin| each.plugin.has(Hook::Request) || each.plugin.has(Hook::Response);
        // Changes of `onRequest` are part of the key. Of later ones the plugin itself says what
        // matters.
        let says_key = |each: &RoutePlugin| {
            !each.plugin.has(Hook::UpstreamRequest) || each.plugin.has(Hook::CacheKey)
        };
        Traits {
            leniency: Leniency::ByCode.when(self.hides_why()),
            guard_alone: Some(Arc::new(guards)),
            is_selective: self.uses.iter().all(chooses),
            response_headers: if self.uses.iter().any(adds) {
                HeaderUse::Others
            } else {
                HeaderUse::OwnOnly
            },
            own_headers: self.own.to_vec(),
            is_keyed_without: self.uses.iter().all(says_key),
            extension: Some(Arc::new(self.reports())),
            ..Traits::new(phases, guard)
        }
        .waiting(waiting, self)
    }

    fn is_for(&self, ex: &Exchange<'_>, phase: Phase) -> bool {
        if phase == Phase::Response {
            let adds = |done: &PluginEffects| !done.response.is_empty();
            return ex.facts.slot::<PluginEffects>().is_some_and(adds)
                || self.first(Hook::Response, ex).is_some();
        }
        self.uses.iter().any(|each| each.is_for(ex))
    }

    fn on_upstream(&self, ex: &mut Exchange<'_>, headers: &mut HeaderMap) {
        apply_to_request(sent(ex), headers);
    }

    fn on_response(&self, ex: &mut Exchange<'_>, head: &mut response::Parts) {
        // They stay, for a response that replaces this one.
        if let Some(done) = ex.facts.slot::<PluginEffects>() {
            apply(&done.response, &mut head.headers);
        }
    }

    fn on_route(&self, ex: &Exchange<'_>) -> Option<Arc<str>> {
        ex.facts.slot::<PluginEffects>()?.upstream.clone()
    }

    fn on_cache_key(&self, ex: &Exchange<'_>, key: &mut KeyBuilder) {
        if let Some(target) = &ex.facts.rewritten {
            key.part("rewritten", target);
        }
        effects::put_keys(ex, key);
    }

    fn on_log(
        &self,
        ex: &Exchange<'_>,
        _logged: &LoggedRequest<'_>,
        late: &mut Option<LateFields>,
    ) {
        self.logged(ex, late);
    }
}

impl AsyncFilter for Plugins {
    fn wants_body(&self, ex: &Exchange<'_>, phase: Phase) -> Option<usize> {
        let after_auth = phase == Phase::Authorized;
        let is_meant =
            |each: &&RoutePlugin| each.body.is_some() && self.runs(each) && each.is_for(ex);
        let mut now = self
            .uses
            .iter()
            .filter(|each| each.after_auth == after_auth);
        if !now.any(|each| is_meant(&each)) || !body::is_read(ex.head) {
            return None;
        }
        // The body is read once, also for plugins that run later.
        let all = self.uses.iter().filter(is_meant);
        all.filter_map(|each| each.body).max()
    }

    fn knows_request_changes(&self, ex: &Exchange<'_>) -> bool {
        self.first(Hook::UpstreamRequest, ex).is_none()
    }

    fn on_request_async<'a>(&'a self, ex: &'a mut Exchange<'_>) -> BoxFuture<'a, Verdict> {
        self.begin(ex, false)
    }

    fn on_authorized_async<'a>(&'a self, ex: &'a mut Exchange<'_>) -> BoxFuture<'a, Verdict> {
        self.begin(ex, true)
    }

    fn on_upstream_async<'a>(
        &'a self,
        ex: &'a mut Exchange<'_>,
        headers: &'a mut HeaderMap,
    ) -> BoxFuture<'a, ()> {
        self.on_upstream(ex, headers);
        if self.first(Hook::UpstreamRequest, ex).is_none() {
            return Box::pin(ready(()));
        }
        Box::pin(async move {
            for each in self.with(Hook::UpstreamRequest, ex) {
                let input = each.input(ex, headers.clone(), None);
                match each.call(Hook::UpstreamRequest, input).await {
                    Ok(output) => apply_to_request(&output.request, headers),
                    Err(failure) => {
                        // Headers that a guard would have removed or written are still the client's
                        // own.
                        let refusal = each.failed(ex, Hook::UpstreamRequest, &failure);
                        if let Some(reply) = refusal {
                            ex.facts.refused = Some(Box::new(reply));
                            return;
                        }
                    }
                }
            }
        })
    }

    fn on_upstream_response_async<'a>(
        &'a self,
        ex: &'a mut Exchange<'_>,
        head: &'a mut response::Parts,
    ) -> BoxFuture<'a, ()> {
        Box::pin(self.run_on_response(ex, head, Hook::UpstreamResponse))
    }

    fn on_response_async<'a>(
        &'a self,
        ex: &'a mut Exchange<'_>,
        head: &'a mut response::Parts,
    ) -> BoxFuture<'a, ()> {
        self.on_response(ex, head);
        if self.first(Hook::Response, ex).is_none() {
            return Box::pin(ready(()));
        }
        Box::pin(self.run_on_response(ex, head, Hook::Response))
    }

    fn on_error_async<'a>(
        &'a self,
        ex: &'a mut Exchange<'_>,
        reply: &'a mut Reply,
    ) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if reply.reason.is_none() {
                // The action of the route, and no failure.
                return;
            }
            for each in self.with(Hook::Error, ex) {
                let response = Some((reply.status, HeaderMap::new()));
                let headers = changed(ex);
                let mut input = each.input(ex, headers, response);
                input.reason = reply.reason.map(Cow::Borrowed);
                let Some(output) = each.run(ex, Hook::Error, input).await else {
                    continue;
                };
                if let HookResult::Response(response) = output.result {
                    let page = self::reply(*response);
                    reply.status = page.status;
                    reply.body = page.body;
                    // Most of these have one value only (RFC 9110, 5.3).
                    let is_kept = |name: &HeaderName| {
                        [header::SET_COOKIE, header::WWW_AUTHENTICATE].contains(name)
                            || page.headers.iter().all(|(known, _)| known != name)
                    };
                    reply.headers.retain(|(name, _)| is_kept(name));
                    reply.headers.extend(page.headers);
                    return;
                }
            }
        })
    }
}

impl Plugins {
    /// Returns the plugins that have a hook, and handle this request.
    fn with(&self, hook: Hook, ex: &Exchange<'_>) -> Vec<&RoutePlugin> {
        let uses = self.uses.iter();
        uses.filter(|each| each.plugin.has(hook) && each.is_for(ex))
            .collect()
    }

    fn runs(&self, each: &RoutePlugin) -> bool {
        self.whose == PluginSelection::All || each.is_guard
    }

    /// Returns the first of these plugins.
    fn first(&self, hook: Hook, ex: &Exchange<'_>) -> Option<&RoutePlugin> {
        let mut uses = self.uses.iter();
        uses.find(|each| each.plugin.has(hook) && each.is_for(ex))
    }

    /// Runs the hooks of a request; returns a future without size if no plugin handles it.
    fn begin<'a>(&'a self, ex: &'a mut Exchange<'_>, after_auth: bool) -> BoxFuture<'a, Verdict> {
        let mut uses = self.uses.iter();
        let first = uses
            .position(|each| each.after_auth == after_auth && self.runs(each) && each.is_for(ex));
        match first {
            Some(first) => Box::pin(self.request(ex, after_auth, first)),
            // A type without size needs no allocation.
            None => Box::pin(PassFuture),
        }
    }

    /// Runs the hooks from `first` on, which is known to handle the request.
    async fn request(&self, ex: &mut Exchange<'_>, after_auth: bool, first: usize) -> Verdict {
        for (place, each) in self.uses.iter().enumerate().skip(first) {
            let is_meant = || place == first || (self.runs(each) && each.is_for(ex));
            if each.after_auth != after_auth || !is_meant() {
                continue;
            }
            let before = ex.facts.rewritten.clone();
            if let Some(reply) = each.begin(place, ex).await {
                return reply.into();
            }
            if ex.facts.rewritten != before {
                for (place, guard) in self.skipped_guards(place, before, ex) {
                    if let Some(reply) = guard.begin(place, ex).await {
                        return reply.into();
                    }
                }
            }
        }
        Verdict::Next
    }
}

/// A future that lets the request pass.
struct PassFuture;

impl Future for PassFuture {
    type Output = Verdict;

    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Verdict> {
        Poll::Ready(Verdict::Next)
    }
}

impl RoutePlugin {
    /// Returns the phases in which the gateway's own part of the plugin runs.
    fn phases(&self) -> Phases {
        let has = |hook| self.plugin.has(hook);
        let asks = has(Hook::Request) || has(Hook::CacheKey) || has(Hook::Route);
        (Phases::UPSTREAM | Phases::CACHE_KEY | Phases::RESPONSE).when(asks)
            | Phases::ROUTE.when(has(Hook::Route))
            | Phases::LOG.when(has(Hook::Log))
    }

    /// Returns the phases in which JavaScript may run, for which a request waits.
    fn phases_of_waiting(&self) -> Phases {
        let has = |hook| self.plugin.has(hook);
        let asks = has(Hook::Request) || has(Hook::CacheKey) || has(Hook::Route);
        let begin = if self.after_auth {
            Phases::AUTHORIZED
        } else {
            Phases::REQUEST
        };
        begin.when(asks || self.body.is_some())
            | Phases::UPSTREAM.when(has(Hook::UpstreamRequest))
            | Phases::UPSTREAM_RESPONSE.when(has(Hook::UpstreamResponse))
            | Phases::ERROR.when(has(Hook::Error))
            | Phases::RESPONSE.when(has(Hook::Response))
    }

    /// Calls the hooks before a backend is chosen.
    async fn begin(&self, place: usize, ex: &mut Exchange<'_>) -> Option<Reply> {
        if self.plugin.has(Hook::Request)
            && let Some(reply) = self.request(ex).await
        {
            return Some(reply);
        }
        if self.plugin.has(Hook::CacheKey) {
            let returned = self.text(ex, Hook::CacheKey).await;
            effects::differ(ex, place, returned);
        }
        if self.plugin.has(Hook::Route) {
            return self.route(ex).await;
        }
        None
    }

    async fn request(&self, ex: &mut Exchange<'_>) -> Option<Reply> {
        let headers = changed(ex);
        let input = self.input(ex, headers, None);
        let client = input.ip;
        let outcome = self.call(Hook::Request, input).await;
        let outcome = outcome.and_then(|output| {
            let rewritten = match &output.result {
                HookResult::Rewrite(url) => {
                    let target = rewritten(&origin(ex), url, self.slashes);
                    Some(target.inspect_err(|failure| self.count(client, failure))?)
                }
                _ => None,
            };
            Ok((output, rewritten))
        });
        let (output, rewritten) = match outcome {
            Ok(output) => output,
            Err(failure) => return self.failed(ex, Hook::Request, &failure),
        };
        if let HookResult::Response(response) = output.result {
            return Some(reply(*response));
        }
        effects::send(ex, output.request, !self.plugin.has(Hook::CacheKey));
        if !output.response.is_empty() {
            done(ex).response.extend(output.response);
        }
        if rewritten.is_some() {
            ex.facts.rewritten = rewritten;
        }
        None
    }

    /// Calls `onRoute`; the first upstream chosen by a plugin is kept.
    async fn route(&self, ex: &mut Exchange<'_>) -> Option<Reply> {
        let headers = changed(ex);
        let input = self.input(ex, headers, None);
        let client = input.ip;
        let outcome = self.call(Hook::Route, input).await;
        let outcome = outcome.and_then(|output| match output.result {
            HookResult::Text(name) if self.upstreams.contains(&name) => Ok(Some(name)),
            HookResult::Text(name) => {
                let why = format!("unknown upstream `{name}`");
                let failure = Failure::script(why);
                self.count(client, &failure);
                Err(failure)
            }
            _ => Ok(None),
        });
        match outcome {
            Ok(Some(name)) => {
                done(ex).upstream.get_or_insert(name.into());
                None
            }
            Ok(None) => None,
            Err(failure) => self.failed(ex, Hook::Route, &failure),
        }
    }

    /// Calls a hook that returns a text.
    async fn text(&self, ex: &mut Exchange<'_>, hook: Hook) -> Result<Option<String>, ()> {
        let headers = changed(ex);
        let input = self.input(ex, headers, None);
        let output = self.run(ex, hook, input).await.ok_or(())?;
        Ok(match output.result {
            HookResult::Text(text) => Some(text),
            _ => None,
        })
    }

    fn input(
        &self,
        ex: &mut Exchange<'_>,
        headers: HeaderMap,
        response: Option<(StatusCode, HeaderMap)>,
    ) -> Input {
        if let Some(geo) = &self.geo
            && ex.facts.slot::<ClientLocation>().is_none()
        {
            let address = ex.facts.client.ip;
            ex.facts.put(ClientLocation::new(Arc::clone(geo), address));
        }
        self.input_of(ex, headers, response)
    }

    /// Returns the input for a request that can no longer be changed.
    fn input_of(
        &self,
        ex: &Exchange<'_>,
        headers: HeaderMap,
        response: Option<(StatusCode, HeaderMap)>,
    ) -> Input {
        let facts = &*ex.facts;
        let location = facts.slot::<ClientLocation>().cloned();
        let unread = || {
            Some(ClientLocation::new(
                Arc::clone(self.geo.as_ref()?),
                facts.client.ip,
            ))
        };
        let mut url = origin(ex);
        let target = ex.head.raw_path();
        match str::from_utf8(target) {
            Ok(target) => url.push_str(target),
            Err(_) => url.push_str(&String::from_utf8_lossy(target)),
        }
        let identity = facts.identity.as_ref();
        let claims = identity.and_then(|identity| identity.claims.as_ref());
        Input {
            method: ex.head.method.clone(),
            url,
            headers,
            body: body::given(ex.head, &facts.body, self.body),
            ip: Some(facts.client.ip),
            request_id: facts.request_id.as_str().to_owned(),
            route: facts.route.as_deref().unwrap_or_default().to_owned(),
            known: ContextFacts {
                claims: claims.map(|claims| Arc::clone(&claims.0)),
                location: location.or_else(unread),
            },
            response,
            reason: None,
            entry: None,
            trace: facts
                .trace
                .as_ref()
                .filter(|trace| trace.is_passed_on)
                .map(RequestTrace::context),
        }
    }
}

/// Returns the path of a target. A path that is not UTF-8 is compared too: a route may have matched
/// it.
fn path_of(raw: &[u8]) -> Cow<'_, str> {
    let path = memchr::memchr(b'?', raw).map_or(raw, |end| &raw[..end]);
    str::from_utf8(path).map_or_else(|_| String::from_utf8_lossy(path), Cow::Borrowed)
}

/// Returns the origin as the client sees it. An HTTP/1.0 client may have sent no host, and any
/// client one that no URL can have, such as `a.1`.
fn origin(ex: &Exchange<'_>) -> String {
    let host = Some(public_host(ex.head, &ex.facts.client));
    let host = host.filter(|host| is_of_url(host)).unwrap_or("localhost");
    let scheme = ex.facts.client.scheme.as_str();
    // Capacity for most targets as well.
    let mut origin = String::with_capacity(128);
    origin.push_str(scheme);
    origin.push_str("://");
    origin.push_str(host);
    origin
}

fn reply(response: Response) -> Reply {
    let response = response.sent();
    let mut reply = Reply::empty(response.status);
    if !response.body.is_empty() {
        // Its type is among the headers.
        reply.body = ReplyBody::Bytes {
            content_type: None,
            body: response.body,
        };
    }
    let headers = response.headers.iter();
    let headers = headers.map(|(name, value)| (name.clone(), value.clone()));
    reply.headers.extend(headers);
    reply
}
