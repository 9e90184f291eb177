//! Runs JavaScript on requests and answers: see `plugins` for what it may do and how it is
//! kept in bounds.
//!
//! What a plugin changes of a request reaches the plugins behind it and the backend; what it
//! changes of an answer reaches the client. A hook that fails changes nothing.

mod body;
mod config;
mod done;
mod entry;
mod loaded;
mod metrics;
mod reports;
#[cfg(test)]
mod tests;
mod written;

use std::{
    any::Any,
    borrow::Cow,
    future::ready,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderMap, HeaderValue, StatusCode, header, response};

use self::{
    done::{Done, apply, apply_to_request, changed, done, is_ours, sent},
    metrics::{Breaker, PluginMetrics},
};
use crate::{
    base::{
        clock::Clock,
        geo::{Geo, Whereabouts},
        tasks::Tasks,
    },
    chain::{
        BoxFuture, CompileCx, Exchange, Filter, FilterKind, KeyBuilder, LateFields, Phase, Phases,
        Reply, ReplyBody, Verdict, host::public_host,
    },
    plugins::{
        Answer, Asked, Failure, Hook, Input, Kind, Known, Output, Plugin, Response,
        call::rewritten,
        late::Rooms,
        matcher::{Matcher, host_name},
    },
};

/// The fixed word of requests that a plugin's failure ends.
const FAILED: &str = "plugin_failed";

/// The compiled filter: a route's plugins in their order.
#[derive(Debug)]
pub struct Plugins(Arc<[Use]>);

/// A plugin on a route.
#[derive(Debug)]
struct Use {
    plugin: Arc<Plugin>,
    /// As the configuration writes it.
    file: Arc<str>,
    /// Once it is known who asks, and not before limits.
    after_auth: bool,
    matcher: Matcher,
    /// A request goes on without it if it fails.
    continues: bool,
    breaker: Breaker,
    metrics: Arc<PluginMetrics>,
    clock: Clock,
    geo: Option<Arc<Geo>>,
    /// The longest body that it gets, if it gets any.
    body: Option<usize>,
    /// Where `onLog` runs, and for how many requests at a time.
    late: Tasks,
    logs: Rooms,
}

impl FilterKind for Plugins {
    const NAME: &'static str = "plugins";
    type Config = config::PluginsConfig;
    type Filter = Self;

    fn compile(config: config::PluginsConfig, cx: &mut CompileCx<'_>) -> Option<Self> {
        config.compile(cx)
    }
}

impl Filter for Plugins {
    fn phases(&self) -> Phases {
        let mut phases = Phases::NONE;
        for each in self.0.iter() {
            let asks = [Hook::Request, Hook::CacheKey, Hook::Route];
            if asks.iter().any(|hook| each.plugin.has(*hook)) {
                phases = phases | Phases::UPSTREAM | Phases::CACHE_KEY | Phases::RESPONSE;
            }
            if asks.iter().any(|hook| each.plugin.has(*hook)) || each.body.is_some() {
                phases = phases
                    | if each.after_auth {
                        Phases::AUTHORIZED.asynchronous()
                    } else {
                        Phases::REQUEST.asynchronous()
                    };
            }
            if each.plugin.has(Hook::Route) {
                phases = phases | Phases::ROUTE;
            }
            let has = |hook, phase: Phases| {
                if each.plugin.has(hook) {
                    phase.asynchronous()
                } else {
                    Phases::NONE
                }
            };
            phases = phases
                | has(Hook::UpstreamRequest, Phases::UPSTREAM)
                | has(Hook::UpstreamResponse, Phases::UPSTREAM_RESPONSE)
                | has(Hook::Error, Phases::ERROR)
                | has(Hook::Response, Phases::RESPONSE)
                | has(Hook::Log, Phases::LOG);
        }
        phases
    }

    fn is_selective(&self) -> bool {
        let chooses = |each: &Use| !each.matcher.is_for_all() || each.plugin.has_matcher();
        self.0.iter().all(chooses)
    }

    fn is_for(&self, ex: &Exchange<'_>) -> bool {
        self.0.iter().any(|each| each.is_for(ex))
    }

    fn needs_every_header(&self) -> bool {
        // What a proxy adds to the answer, such as a policy with a nonce, takes the place of
        // what others would.
        let adds = [Hook::Request, Hook::Response];
        let mut uses = self.0.iter();
        uses.any(|each| adds.iter().any(|hook| each.plugin.has(*hook)))
    }

    fn needs_every_header_now(&self, ex: &Exchange<'_>) -> bool {
        let adds = |done: &Done| !done.response.is_empty();
        ex.facts.slot::<Done>().is_some_and(adds) || self.first(Hook::Response, ex).is_some()
    }

    fn wants_body(&self, ex: &Exchange<'_>, phase: Phase) -> Option<usize> {
        let after_auth = phase == Phase::Authorized;
        let is_meant = |each: &&Use| each.body.is_some() && each.is_for(ex);
        let mut now = self.0.iter().filter(|each| each.after_auth == after_auth);
        if !now.any(|each| is_meant(&each)) || !body::is_read(ex.head) {
            return None;
        }
        // It is read once, for those as well whose turn is later.
        let all = self.0.iter().filter(is_meant);
        all.filter_map(|each| each.body).max()
    }

    fn extension(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        Some(Arc::new(self.reports()))
    }

    fn on_request_async<'a>(&'a self, ex: &'a mut Exchange<'_>) -> BoxFuture<'a, Verdict> {
        self.begin(ex, false)
    }

    fn on_authorized_async<'a>(&'a self, ex: &'a mut Exchange<'_>) -> BoxFuture<'a, Verdict> {
        self.begin(ex, true)
    }

    fn on_upstream(&self, ex: &mut Exchange<'_>, headers: &mut HeaderMap) {
        apply_to_request(sent(ex), headers);
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
                if let Some(output) = each.run(ex, Hook::UpstreamRequest, input).await {
                    apply_to_request(&output.request, headers);
                }
            }
        })
    }

    fn on_upstream_response_async<'a>(
        &'a self,
        ex: &'a mut Exchange<'_>,
        head: &'a mut response::Parts,
    ) -> BoxFuture<'a, ()> {
        Box::pin(self.answered(ex, head, Hook::UpstreamResponse))
    }

    fn on_response(&self, ex: &mut Exchange<'_>, head: &mut response::Parts) {
        if let Some(done) = ex.facts.slot_mut::<Done>() {
            apply(&std::mem::take(&mut done.response), &mut head.headers);
        }
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
        Box::pin(self.answered(ex, head, Hook::Response))
    }

    fn on_error_async<'a>(
        &'a self,
        ex: &'a mut Exchange<'_>,
        reply: &'a mut Reply,
    ) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            for each in self.with(Hook::Error, ex) {
                let answer = Some((reply.status, HeaderMap::new()));
                let headers = changed(ex);
                let mut input = each.input(ex, headers, answer);
                input.reason = reply.reason.map(Cow::Borrowed);
                let Some(output) = each.run(ex, Hook::Error, input).await else {
                    continue;
                };
                if let Answer::Response(response) = output.answer {
                    let own = self::reply(*response);
                    reply.status = own.status;
                    reply.body = own.body;
                    reply.headers.extend(own.headers);
                    return;
                }
            }
        })
    }

    fn on_route(&self, ex: &Exchange<'_>) -> Option<Arc<str>> {
        ex.facts.slot::<Done>()?.upstream.clone()
    }

    fn on_cache_key(&self, ex: &Exchange<'_>, key: &mut KeyBuilder) {
        if let Some(target) = &ex.facts.rewritten {
            key.part("rewritten", target);
        }
        done::put_keys(ex, key);
    }

    fn on_log(&self, ex: &Exchange<'_>, late: &mut Option<LateFields>) {
        self.logged(ex, late);
    }
}

impl Plugins {
    /// Those that have a hook, and are for this request.
    fn with(&self, hook: Hook, ex: &Exchange<'_>) -> Vec<&Use> {
        let uses = self.0.iter();
        uses.filter(|each| each.plugin.has(hook) && each.is_for(ex))
            .collect()
    }

    /// The first of them.
    fn first(&self, hook: Hook, ex: &Exchange<'_>) -> Option<&Use> {
        let mut uses = self.0.iter();
        uses.find(|each| each.plugin.has(hook) && each.is_for(ex))
    }

    /// The hooks of a request; a future that is hardly any if none is for it.
    fn begin<'a>(&'a self, ex: &'a mut Exchange<'_>, after_auth: bool) -> BoxFuture<'a, Verdict> {
        let mut uses = self.0.iter();
        let first = uses.position(|each| each.after_auth == after_auth && each.is_for(ex));
        match first {
            Some(first) => Box::pin(self.request(ex, after_auth, first)),
            // Nothing, which takes no room.
            None => Box::pin(Passes),
        }
    }

    /// `first` is known to be for it.
    async fn request(&self, ex: &mut Exchange<'_>, after_auth: bool, first: usize) -> Verdict {
        for (place, each) in self.0.iter().enumerate().skip(first) {
            if each.after_auth != after_auth || (place != first && !each.is_for(ex)) {
                continue;
            }
            if each.plugin.has(Hook::Request)
                && let Some(reply) = each.request(ex).await
            {
                return reply.into();
            }
            if each.plugin.has(Hook::CacheKey) {
                let said = each.text(ex, Hook::CacheKey).await;
                done::differ(ex, place, said);
            }
            if each.plugin.has(Hook::Route)
                && let Ok(Some(upstream)) = each.text(ex, Hook::Route).await
            {
                done(ex).upstream.get_or_insert(upstream.into());
            }
        }
        Verdict::Next
    }

    async fn answered(&self, ex: &mut Exchange<'_>, head: &mut response::Parts, hook: Hook) {
        // Answers pass in the reverse order of requests.
        for each in self.with(hook, ex).into_iter().rev() {
            let answer = Some((head.status, head.headers.clone()));
            let headers = ex.head.headers.clone();
            let input = each.input(ex, headers, answer);
            if let Some(output) = each.run(ex, hook, input).await {
                apply(&output.response, &mut head.headers);
                if let Some(status) = output.status {
                    if framing(status) == framing(head.status) {
                        head.status = status;
                    } else {
                        let why = format!(
                            "an answer of status {} cannot become one of {status}: one of them has no body",
                            head.status
                        );
                        each.tell(ex, hook, &Failure::script(why));
                    }
                }
            }
        }
    }
}

/// The verdict of nobody.
struct Passes;

impl Future for Passes {
    type Output = Verdict;

    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Verdict> {
        Poll::Ready(Verdict::Next)
    }
}

impl Use {
    /// Told without JavaScript.
    fn is_for(&self, ex: &Exchange<'_>) -> bool {
        let target = ex.head.raw_path();
        let path = &*path_of(target);
        let host = || host_name(public_host(ex.head, &ex.facts.client));
        let asked = || Asked {
            headers: &ex.head.headers,
            target,
            host: host(),
        };
        self.matcher.is_for(&ex.head.method, path, host) && self.plugin.is_for(path, asked)
    }

    async fn request(&self, ex: &mut Exchange<'_>) -> Option<Reply> {
        let headers = changed(ex);
        let input = self.input(ex, headers, None);
        let outcome = self.call(Hook::Request, input).await;
        let outcome = outcome.and_then(|output| {
            let rewritten = match &output.answer {
                Answer::Rewrite(url) => {
                    let target = rewritten(&origin(ex), url);
                    Some(target.inspect_err(|failure| self.count(failure))?)
                }
                _ => None,
            };
            Ok((output, rewritten))
        });
        let (output, rewritten) = match outcome {
            Ok(output) => output,
            Err(failure) => return self.failed(ex, Hook::Request, &failure),
        };
        if let Answer::Response(response) = output.answer {
            return Some(reply(*response));
        }
        done::send(ex, output.request, !self.plugin.has(Hook::CacheKey));
        if !output.response.is_empty() {
            done(ex).response.extend(output.response);
        }
        if rewritten.is_some() {
            ex.facts.rewritten = rewritten;
        }
        None
    }

    /// What a hook gives back that names something.
    async fn text(&self, ex: &mut Exchange<'_>, hook: Hook) -> Result<Option<String>, ()> {
        let headers = changed(ex);
        let input = self.input(ex, headers, None);
        let output = self.run(ex, hook, input).await.ok_or(())?;
        Ok(match output.answer {
            Answer::Text(text) => Some(text),
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
            && ex.facts.slot::<Whereabouts>().is_none()
        {
            let address = ex.facts.client.ip;
            ex.facts.put(Whereabouts::of(Arc::clone(geo), address));
        }
        self.input_of(ex, headers, response)
    }

    /// The same of a request that is not to be changed any more.
    fn input_of(
        &self,
        ex: &Exchange<'_>,
        headers: HeaderMap,
        response: Option<(StatusCode, HeaderMap)>,
    ) -> Input {
        let facts = &*ex.facts;
        let place = facts.slot::<Whereabouts>().cloned();
        let asked = || {
            Some(Whereabouts::of(
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
            known: Known {
                claims: claims.map(|claims| Arc::clone(&claims.0)),
                place: place.or_else(asked),
            },
            response,
            reason: None,
            entry: None,
        }
    }

    async fn call(&self, hook: Hook, input: Input) -> Result<Output, Failure> {
        if !self.breaker.allows(|| self.clock.now()) {
            self.metrics.left_out();
            return Err(Failure::script(
                "it failed too often, and is left out for a while",
            ));
        }
        let begun = self.clock.now();
        let outcome = self.plugin.call(hook, input).await;
        self.metrics.called(hook, self.clock.now() - begun);
        match &outcome {
            Ok(_) if self.breaker.passed() => {
                self.metrics.breaker(false);
                log::info!(plugin = &**self.plugin.name(); "a plugin that was left out is called again");
            }
            Ok(_) => {}
            Err(failure) => self.count(failure),
        }
        outcome
    }

    /// A hook has failed, or wants what cannot be.
    fn count(&self, failure: &Failure) {
        let now = self.clock.now();
        self.metrics.failed(failure);
        let is_full = failure.kind == Kind::Stuck && self.plugin.is_out_of_threads();
        if failure.kind == Kind::Stuck {
            self.metrics.stuck(&self.plugin);
        }
        if self.breaker.failed(now) || (is_full && self.breaker.open(now)) {
            self.metrics.breaker(true);
            log::warn!(plugin = &**self.plugin.name(); "a plugin failed too often, and is left out for a while");
        }
    }

    /// Runs a hook that can only go on if it fails.
    async fn run(&self, ex: &mut Exchange<'_>, hook: Hook, input: Input) -> Option<Output> {
        match self.call(hook, input).await {
            Ok(output) => Some(output),
            Err(failure) => {
                self.tell(ex, hook, &failure);
                None
            }
        }
    }

    /// What becomes of a request whose plugin failed: a reply if it is to end.
    fn failed(&self, ex: &mut Exchange<'_>, hook: Hook, failure: &Failure) -> Option<Reply> {
        self.tell(ex, hook, failure);
        if self.continues {
            return None;
        }
        Some(Reply::refuse(StatusCode::SERVICE_UNAVAILABLE, FAILED))
    }

    fn warn(&self, hook: Hook, request_id: &str, failure: &Failure) {
        log::warn!(
            plugin = &**self.plugin.name(), hook = hook.name(), kind = failure.kind.word(),
            request_id, error:% = failure;
            "a plugin failed"
        );
    }

    fn tell(&self, ex: &mut Exchange<'_>, hook: Hook, failure: &Failure) {
        ex.facts.degraded = Some(FAILED);
        self.warn(hook, ex.facts.request_id.as_str(), failure);
    }
}

/// What is no text is compared all the same: a route may have taken it.
fn path_of(raw: &[u8]) -> Cow<'_, str> {
    let path = memchr::memchr(b'?', raw).map_or(raw, |end| &raw[..end]);
    str::from_utf8(path).map_or_else(|_| String::from_utf8_lossy(path), Cow::Borrowed)
}

/// As the client sees it; a client of HTTP/1.0 may have named no host.
fn origin(ex: &Exchange<'_>) -> String {
    let host = match public_host(ex.head, &ex.facts.client) {
        "" => "localhost",
        host => host,
    };
    let scheme = ex.facts.client.scheme.as_str();
    // Room for most targets as well.
    let mut origin = String::with_capacity(128);
    origin.push_str(scheme);
    origin.push_str("://");
    origin.push_str(host);
    origin
}

/// How a client tells where such an answer ends: one kind cannot become another.
fn framing(status: StatusCode) -> u8 {
    match status {
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => 0,
        StatusCode::RESET_CONTENT => 1,
        _ => 2,
    }
}

fn reply(response: Response) -> Reply {
    let Response {
        status,
        mut headers,
        body,
    } = response;
    let content_type = headers.remove(header::CONTENT_TYPE);
    headers.remove(header::DATE);
    let mut reply = Reply::empty(status);
    if !body.is_empty() {
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        reply.body = ReplyBody::Bytes {
            content_type: content_type.unwrap_or(text),
            body,
        };
    }
    let headers = headers.iter().filter(|(name, _)| !is_ours(name));
    let headers = headers.map(|(name, value)| (name.clone(), value.clone()));
    reply.headers.extend(headers);
    reply
}
