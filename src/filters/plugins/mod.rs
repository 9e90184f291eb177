//! Runs JavaScript on requests and answers: see `plugins` for what it may do and how it is
//! kept in bounds.
//!
//! What a plugin changes of a request reaches the plugins behind it and the backend; what it
//! changes of an answer reaches the client. A hook that fails changes nothing.

mod body;
mod config;
mod entry;
mod loaded;
mod metrics;
mod reports;
#[cfg(test)]
mod tests;
mod written;

use std::{any::Any, borrow::Cow, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, response};
use url::{Position, Url};

use self::metrics::{Breaker, PluginMetrics};
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
        Answer, Change, Failure, Hook, Input, Kind, Known, Output, Plugin, Response, late::Rooms,
        matcher::Matcher,
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

/// What the plugins of a request have done to the head that goes on. It is carried along to
/// requests that fetch the same answer anew.
struct Sent(Vec<Change>);

/// What the plugins of a request have done besides.
#[derive(Default)]
struct Done {
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
        for each in self.0.iter() {
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
                | has(Hook::Response, Phases::RESPONSE)
                | has(Hook::Log, Phases::LOG);
        }
        phases
    }

    fn needs_every_header(&self) -> bool {
        // What a proxy adds to the answer, such as a policy with a nonce, takes the place of
        // what others would.
        let adds = [Hook::Request, Hook::Response];
        let mut uses = self.0.iter();
        uses.any(|each| adds.iter().any(|hook| each.plugin.has(*hook)))
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
        Box::pin(self.request(ex, false))
    }

    fn on_authorized_async<'a>(&'a self, ex: &'a mut Exchange<'_>) -> BoxFuture<'a, Verdict> {
        Box::pin(self.request(ex, true))
    }

    fn on_upstream(&self, ex: &mut Exchange<'_>, headers: &mut HeaderMap) {
        apply_to_request(sent(ex), headers);
    }

    fn on_upstream_async<'a>(
        &'a self,
        ex: &'a mut Exchange<'_>,
        headers: &'a mut HeaderMap,
    ) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            self.on_upstream(ex, headers);
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

    fn on_response_async<'a>(
        &'a self,
        ex: &'a mut Exchange<'_>,
        head: &'a mut response::Parts,
    ) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if let Some(done) = ex.facts.slot_mut::<Done>() {
                apply(&std::mem::take(&mut done.response), &mut head.headers);
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
        if let Some(done) = ex.facts.slot::<Done>() {
            for part in &done.keys {
                key.part("plugin", part.as_bytes());
            }
        }
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
            let headers = ex.head.headers.clone();
            let input = each.input(ex, headers, answer);
            if let Some(output) = each.run(ex, hook, input).await {
                apply(&output.response, &mut head.headers);
                if let Some(status) = output.status {
                    if has_body(status) == has_body(head.status) {
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

impl Use {
    /// Told without JavaScript.
    fn is_for(&self, ex: &Exchange<'_>) -> bool {
        let path = &*path_of(ex.head.raw_path());
        let host = if self.matcher.asks_for_host() {
            public_host(ex.head, &ex.facts.client).to_ascii_lowercase()
        } else {
            String::new()
        };
        let name = host.rsplit_once(':').map_or(&*host, |(name, port)| {
            let is_port = port.bytes().all(|byte| byte.is_ascii_digit());
            if is_port { name } else { &*host }
        });
        let name = name.strip_suffix('.').unwrap_or(name);
        self.matcher.is_for(&ex.head.method, name, path) && self.plugin.is_for(path)
    }

    async fn request(&self, ex: &mut Exchange<'_>) -> Option<Reply> {
        let headers = changed(ex);
        let input = self.input(ex, headers, None);
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
        if !output.request.is_empty() {
            let all = [sent(ex), &output.request].concat();
            ex.facts.carried = Some(Arc::new(Sent(all)));
        }
        if !output.response.is_empty() {
            done(ex).response.extend(output.response);
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
            Err(()) => Some(format!("{:?}", sent(ex))),
        };
        if let Some(key) = key {
            done(ex).keys.push(key);
        }
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
        let target = String::from_utf8_lossy(ex.head.raw_path());
        let identity = facts.identity.as_ref();
        let claims = identity.and_then(|identity| identity.claims.as_ref());
        Input {
            method: ex.head.method.clone(),
            url: format!("{}{target}", origin(ex)),
            headers,
            body: body::given(ex.head, &facts.body, self.body),
            ip: facts.client.ip.to_string(),
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
                let is_full = failure.kind == Kind::Stuck && self.plugin.is_out_of_threads();
                if failure.kind == Kind::Stuck {
                    self.metrics.stuck(&self.plugin);
                }
                if self.breaker.failed(now) || (is_full && self.breaker.open(now)) {
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
    let path = raw.split(|byte| *byte == b'?').next().unwrap_or_default();
    String::from_utf8_lossy(path)
}

fn done<'e>(ex: &'e mut Exchange<'_>) -> &'e mut Done {
    if ex.facts.slot::<Done>().is_none() {
        ex.facts.put(Done::default());
    }
    ex.facts.slot_mut().expect("it was put there")
}

fn sent<'e>(ex: &'e Exchange<'_>) -> &'e [Change] {
    let carried = ex.facts.carried.as_ref();
    let sent = carried.and_then(|carried| carried.downcast_ref::<Sent>());
    sent.map_or(&[], |sent| &sent.0)
}

/// The head as the plugins before have left it.
fn changed(ex: &Exchange<'_>) -> HeaderMap {
    let mut headers = ex.head.headers.clone();
    apply_to_request(sent(ex), &mut headers);
    headers
}

/// As the client sees it; a client of HTTP/1.0 may have named no host.
fn origin(ex: &Exchange<'_>) -> String {
    let host = match public_host(ex.head, &ex.facts.client) {
        "" => "localhost",
        host => host,
    };
    format!("{}://{host}", ex.facts.client.scheme.as_str())
}

/// Path and query of a URL that a request is rewritten to: on its own host.
fn target(ex: &Exchange<'_>, url: &str) -> Result<Box<[u8]>, Failure> {
    let own = origin(ex);
    let parsed = Url::parse(&own).ok().zip(Url::parse(url).ok());
    match parsed {
        // Compared as the Web does it: the client may write its host in many ways.
        Some((own, to)) if own.origin() == to.origin() => Ok(to
            [Position::BeforePath..Position::AfterQuery]
            .as_bytes()
            .into()),
        _ => Err(Failure::script(format!(
            "a request can be rewritten to another path of {own}, and not to {url}: onRoute chooses another upstream"
        ))),
    }
}

fn has_body(status: StatusCode) -> bool {
    !matches!(
        status,
        StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED
    )
}

/// What belongs to the connection and to the framing is the gateway's own; a plugin's word
/// about it is passed over, as browsers do it with forbidden names.
fn is_ours(name: &HeaderName) -> bool {
    const OURS: [&str; 9] = [
        "connection",
        "content-length",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
    ];
    OURS.contains(&name.as_str())
}

fn apply(changes: &[Change], headers: &mut HeaderMap) {
    for change in changes.iter().filter(|change| !is_ours(change.name())) {
        change.clone().apply(headers);
    }
}

fn apply_to_request(changes: &[Change], headers: &mut HeaderMap) {
    let others = |change: &&Change| !is_ours(change.name()) && *change.name() != header::HOST;
    for change in changes.iter().filter(others) {
        change.clone().apply(headers);
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
