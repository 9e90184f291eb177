//! Runs JavaScript on requests and answers: see `plugins` for what it may do and how it is
//! kept in bounds.
//!
//! What a plugin changes of a request reaches the plugins behind it and the backend; what it
//! changes of an answer reaches the client. A hook that fails changes nothing.

mod config;
mod loaded;
mod metrics;
#[cfg(test)]
mod tests;

use std::{borrow::Cow, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, response};

use self::metrics::{Breaker, PluginMetrics};
use crate::{
    base::clock::Clock,
    chain::{
        BoxFuture, CompileCx, Exchange, Filter, FilterKind, KeyBuilder, Phases, Reply, ReplyBody,
        Verdict, host::public_host,
    },
    plugins::{Answer, Change, Failure, Hook, Input, Output, Plugin, Response, matcher::Matcher},
};

/// The fixed word of requests that a plugin's failure ends.
const FAILED: &str = "plugin_failed";

/// The compiled filter: a route's plugins in their order.
#[derive(Debug)]
pub struct Plugins(Box<[Use]>);

/// A plugin on a route.
#[derive(Debug)]
struct Use {
    plugin: Arc<Plugin>,
    /// Once it is known who asks, and not before limits.
    after_auth: bool,
    matcher: Matcher,
    /// A request goes on without it if it fails.
    continues: bool,
    breaker: Breaker,
    metrics: Arc<PluginMetrics>,
    clock: Clock,
}

/// What the plugins of a request have done to it so far.
#[derive(Default)]
struct Done {
    /// To the head that goes on.
    request: Vec<Change>,
    /// To the head of the answer, whoever gives it.
    response: Vec<Change>,
    /// What its answers differ by.
    keys: Vec<String>,
    upstream: Option<Arc<str>>,
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
        for each in &self.0 {
            let asks = [Hook::Request, Hook::CacheKey, Hook::Route];
            if asks.iter().any(|hook| each.plugin.has(*hook)) {
                phases = phases
                    | Phases::UPSTREAM
                    | Phases::CACHE_KEY
                    | Phases::ROUTE
                    | Phases::RESPONSE.asynchronous()
                    | if each.after_auth {
                        Phases::AUTHORIZED.asynchronous()
                    } else {
                        Phases::REQUEST.asynchronous()
                    };
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
                | has(Hook::Response, Phases::RESPONSE);
        }
        phases
    }

    fn needs_every_header(&self) -> bool {
        self.0.iter().any(|each| each.plugin.has(Hook::Response))
    }

    fn on_request_async<'a>(&'a self, ex: &'a mut Exchange<'_>) -> BoxFuture<'a, Verdict> {
        Box::pin(self.request(ex, false))
    }

    fn on_authorized_async<'a>(&'a self, ex: &'a mut Exchange<'_>) -> BoxFuture<'a, Verdict> {
        Box::pin(self.request(ex, true))
    }

    fn on_upstream(&self, ex: &mut Exchange<'_>, headers: &mut HeaderMap) {
        if let Some(done) = ex.facts.slot::<Done>() {
            apply(done.request.clone(), headers);
        }
    }

    fn on_upstream_async<'a>(
        &'a self,
        ex: &'a mut Exchange<'_>,
        headers: &'a mut HeaderMap,
    ) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            self.on_upstream(ex, headers);
            for each in self.with(Hook::UpstreamRequest, ex) {
                let input = input(ex, headers.clone(), None);
                if let Some(output) = each.run(ex, Hook::UpstreamRequest, input).await {
                    apply(output.request, headers);
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

    fn on_response_async<'a>(
        &'a self,
        ex: &'a mut Exchange<'_>,
        head: &'a mut response::Parts,
    ) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if let Some(done) = ex.facts.slot_mut::<Done>() {
                apply(std::mem::take(&mut done.response), &mut head.headers);
            }
            self.answered(ex, head, Hook::Response).await;
        })
    }

    fn on_error_async<'a>(
        &'a self,
        ex: &'a mut Exchange<'_>,
        reply: &'a mut Reply,
    ) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            for each in self.with(Hook::Error, ex) {
                let answer = Some((reply.status, HeaderMap::new()));
                let mut input = input(ex, changed(ex), answer);
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
        if let Some(done) = ex.facts.slot::<Done>() {
            for part in &done.keys {
                key.part("plugin", part.as_bytes());
            }
        }
    }
}

impl Plugins {
    /// Those that have a hook, and are for this request.
    fn with(&self, hook: Hook, ex: &Exchange<'_>) -> Vec<&Use> {
        let uses = self.0.iter();
        uses.filter(|each| each.plugin.has(hook) && each.is_for(ex))
            .collect()
    }

    async fn request(&self, ex: &mut Exchange<'_>, after_auth: bool) -> Verdict {
        let uses = self.0.iter();
        for each in uses.filter(|each| each.after_auth == after_auth) {
            if !each.is_for(ex) {
                continue;
            }
            if each.plugin.has(Hook::Request)
                && let Some(reply) = each.request(ex).await
            {
                return reply.into();
            }
            if each.plugin.has(Hook::CacheKey) {
                each.key(ex).await;
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
            let input = input(ex, ex.head.headers.clone(), answer);
            if let Some(output) = each.run(ex, hook, input).await {
                apply(output.response, &mut head.headers);
                if let Some(status) = output.status {
                    head.status = status;
                }
            }
        }
    }
}

impl Use {
    /// Told without JavaScript.
    fn is_for(&self, ex: &Exchange<'_>) -> bool {
        let raw = ex.head.raw_path();
        let path = raw.split(|byte| *byte == b'?').next().unwrap_or_default();
        let path = std::str::from_utf8(path).unwrap_or_default();
        let host = if self.matcher.asks_for_host() {
            public_host(ex.head, &ex.facts.client).to_ascii_lowercase()
        } else {
            String::new()
        };
        let name = host.rsplit_once(':').map_or(&*host, |(name, port)| {
            let is_port = port.bytes().all(|byte| byte.is_ascii_digit());
            if is_port { name } else { &*host }
        });
        self.matcher.is_for(&ex.head.method, name, path) && self.plugin.is_for(path)
    }

    async fn request(&self, ex: &mut Exchange<'_>) -> Option<Reply> {
        let input = input(ex, changed(ex), None);
        let outcome = self.call(Hook::Request, input).await;
        let outcome = outcome.and_then(|output| {
            let rewritten = match &output.answer {
                Answer::Rewrite(url) => Some(target(ex, url)?),
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
        if !self.plugin.has(Hook::CacheKey) && !output.request.is_empty() {
            // Whatever the backend is told may be what its answer goes by.
            let key = format!("{:?}", output.request);
            done(ex).keys.push(key);
        }
        if !output.request.is_empty() || !output.response.is_empty() {
            let done = done(ex);
            done.request.extend(output.request);
            done.response.extend(output.response);
        }
        if rewritten.is_some() {
            ex.facts.rewritten = rewritten;
        }
        None
    }

    /// What the answers of a request differ by, as the plugin says. If it cannot say, by all
    /// that plugins have changed: nobody gets what was made for somebody else.
    async fn key(&self, ex: &mut Exchange<'_>) {
        let key = match self.text(ex, Hook::CacheKey).await {
            Ok(key) => key,
            Err(()) => Some(format!("{:?}", done(ex).request)),
        };
        if let Some(key) = key {
            done(ex).keys.push(key);
        }
    }

    /// What a hook gives back that names something.
    async fn text(&self, ex: &mut Exchange<'_>, hook: Hook) -> Result<Option<String>, ()> {
        let input = input(ex, changed(ex), None);
        let output = self.run(ex, hook, input).await.ok_or(())?;
        Ok(match output.answer {
            Answer::Text(text) => Some(text),
            _ => None,
        })
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
        let now = self.clock.now();
        self.metrics.called(hook, now - begun);
        match &outcome {
            Ok(_) if self.breaker.passed() => {
                self.metrics.breaker(false);
                log::info!(plugin = &**self.plugin.name(); "a plugin that was left out is called again");
            }
            Ok(_) => {}
            Err(failure) => {
                self.metrics.failed(failure);
                if self.breaker.failed(now) {
                    self.metrics.breaker(true);
                    log::warn!(plugin = &**self.plugin.name(); "a plugin failed too often, and is left out for a while");
                }
            }
        }
        outcome
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

    fn tell(&self, ex: &mut Exchange<'_>, hook: Hook, failure: &Failure) {
        ex.facts.degraded = Some(FAILED);
        log::warn!(
            plugin = &**self.plugin.name(), hook = hook.name(), kind = failure.kind.word(),
            request_id = ex.facts.request_id.as_str(), error:% = failure;
            "a plugin failed"
        );
    }
}

fn done<'e>(ex: &'e mut Exchange<'_>) -> &'e mut Done {
    if ex.facts.slot::<Done>().is_none() {
        ex.facts.put(Done::default());
    }
    ex.facts.slot_mut().expect("it was put there")
}

/// The head as the plugins before have left it.
fn changed(ex: &Exchange<'_>) -> HeaderMap {
    let mut headers = ex.head.headers.clone();
    if let Some(done) = ex.facts.slot::<Done>() {
        apply(done.request.clone(), &mut headers);
    }
    headers
}

/// Path and query of a URL that a request is rewritten to: on its own host.
fn target(ex: &Exchange<'_>, url: &str) -> Result<Box<[u8]>, Failure> {
    let host = public_host(ex.head, &ex.facts.client);
    let own = format!("{}://{host}/", ex.facts.client.scheme.as_str());
    match url.strip_prefix(&own) {
        Some(rest) => {
            let rest = rest.split('#').next().unwrap_or_default();
            Ok(format!("/{rest}").into_bytes().into())
        }
        None => Err(Failure::script(format!(
            "a request can be rewritten to another path of {own}, and not to {url}: onRoute chooses another upstream"
        ))),
    }
}

fn apply(changes: Vec<Change>, headers: &mut HeaderMap) {
    for change in changes {
        change.apply(headers);
    }
}

fn input(
    ex: &Exchange<'_>,
    headers: HeaderMap,
    response: Option<(StatusCode, HeaderMap)>,
) -> Input {
    let facts = &*ex.facts;
    let host = public_host(ex.head, &facts.client);
    let target = String::from_utf8_lossy(ex.head.raw_path());
    Input {
        method: ex.head.method.clone(),
        url: format!("{}://{host}{target}", facts.client.scheme.as_str()),
        headers,
        body: None,
        ip: facts.client.ip.to_string(),
        request_id: facts.request_id.as_str().to_owned(),
        route: facts.route.as_deref().unwrap_or_default().to_owned(),
        response,
        reason: None,
    }
}

/// What belongs to the connection and to the framing is the gateway's own.
const OURS: [HeaderName; 4] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::DATE,
];

fn reply(response: Response) -> Reply {
    let Response {
        status,
        mut headers,
        body,
    } = response;
    let content_type = headers.remove(header::CONTENT_TYPE);
    for name in &OURS {
        headers.remove(name);
    }
    let mut reply = Reply::empty(status);
    if !body.is_empty() {
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        reply.body = ReplyBody::Bytes {
            content_type: content_type.unwrap_or(text),
            body,
        };
    }
    let headers = headers
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()));
    reply.headers.extend(headers);
    reply
}
