//! Runs JavaScript on requests and answers: see `plugins` for what it may do and how it is
//! kept in bounds.
//!
//! What a plugin changes of a request reaches the plugins behind it and the backend; what it
//! changes of an answer reaches the client. A hook that fails changes nothing.

mod config;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, response};

use crate::{
    chain::{
        BoxFuture, CompileCx, Exchange, Filter, FilterKind, Phases, Reply, ReplyBody, Verdict,
        host::public_host,
    },
    plugins::{Answer, Change, Failure, Hook, Input, Output, Plugin, Response},
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
    /// A request goes on without it if it fails.
    continues: bool,
}

/// What the plugins of a request have done to it so far.
#[derive(Default)]
struct Done {
    changes: Vec<Change>,
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
            if each.plugin.has(Hook::Request) {
                phases = phases
                    | Phases::UPSTREAM
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
            for change in &done.changes {
                change.clone().apply(headers);
            }
        }
    }

    fn on_upstream_async<'a>(
        &'a self,
        ex: &'a mut Exchange<'_>,
        headers: &'a mut HeaderMap,
    ) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            self.on_upstream(ex, headers);
            for each in self.with(Hook::UpstreamRequest) {
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
        Box::pin(self.answered(ex, head, Hook::Response))
    }
}

impl Plugins {
    fn with(&self, hook: Hook) -> impl DoubleEndedIterator<Item = &Use> {
        self.0.iter().filter(move |each| each.plugin.has(hook))
    }

    async fn request(&self, ex: &mut Exchange<'_>, after_auth: bool) -> Verdict {
        for each in self.with(Hook::Request) {
            if each.after_auth != after_auth {
                continue;
            }
            let mut headers = ex.head.headers.clone();
            if let Some(done) = ex.facts.slot::<Done>() {
                apply(done.changes.clone(), &mut headers);
            }
            let output = match each
                .plugin
                .call(Hook::Request, input(ex, headers, None))
                .await
            {
                Ok(output) => output,
                Err(failure) => match each.failed(ex, Hook::Request, &failure) {
                    Some(reply) => return reply.into(),
                    None => continue,
                },
            };
            let Output {
                answer, request, ..
            } = output;
            match answer {
                Answer::Response(response) => return reply(*response).into(),
                _ => match ex.facts.slot_mut::<Done>() {
                    Some(done) => done.changes.extend(request),
                    None if request.is_empty() => {}
                    None => ex.facts.put(Done { changes: request }),
                },
            }
        }
        Verdict::Next
    }

    async fn answered(&self, ex: &mut Exchange<'_>, head: &mut response::Parts, hook: Hook) {
        // Answers pass in the reverse order of requests.
        for each in self.with(hook).rev() {
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
    /// Runs a hook that can only go on if it fails.
    async fn run(&self, ex: &mut Exchange<'_>, hook: Hook, input: Input) -> Option<Output> {
        match self.plugin.call(hook, input).await {
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
