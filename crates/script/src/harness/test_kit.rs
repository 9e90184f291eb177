//! Test API beside the Web API: `test`, `assert`, and the plugins under test.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use log::Level;
use parking_lot::Mutex;
use rquickjs::{Ctx, Exception, Function, Object, Result, context::EvalOptions, function::Opt};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Event, TestResult, fixtures};
use crate::{
    base::{clock::Clock, geo::ClientLocation},
    body::Body,
    budget::HookLimits,
    call::{HeaderChange, Hook, HookResult, Input, Output},
    conditions::latin,
    context_facts::ContextFacts,
    error::{Failure, FailureKind},
    host::{Log, State, add, latin_bytes},
    manual_call::{ConsoleLine, ManualPlugin, ManualResult},
    source::Source,
};

/// State of one file's tests outside the engine.
pub(super) struct TestKit {
    shown: String,
    folder: PathBuf,
    report: Arc<dyn Fn(Event) + Send + Sync>,
    clock: Clock,
    progress: Arc<Mutex<Progress>>,
    plugins: Arc<Mutex<Vec<Arc<ManualPlugin>>>>,
}

#[derive(Default)]
struct Progress {
    /// Tests that have not begun.
    ahead: VecDeque<String>,
    /// Running test, and its start.
    running: Option<(String, Instant)>,
}

impl TestKit {
    pub(super) fn new(
        shown: &str,
        folder: &Path,
        report: Arc<dyn Fn(Event) + Send + Sync>,
    ) -> Self {
        Self {
            shown: shown.to_owned(),
            folder: folder.to_owned(),
            report,
            clock: Clock::machine(),
            progress: Arc::default(),
            plugins: Arc::default(),
        }
    }

    /// Reports the running test and all later ones as failed: the engine was stopped midway.
    pub(super) fn stopped(&self, failure: &Failure) {
        let mut progress = self.progress.lock();
        if let Some((name, start)) = progress.running.take() {
            (self.report)(Event::Tested(TestResult {
                name,
                outcome: Err(failure.clone()),
                took: self.clock.now().duration_since(start),
            }));
        }
        for name in progress.ahead.drain(..) {
            let why = "not run: an earlier test had to be stopped";
            (self.report)(Event::Tested(TestResult {
                name,
                outcome: Err(Failure::script(why)),
                took: Duration::ZERO,
            }));
        }
    }

    fn progress(&self, host: &Object<'_>) -> Result<()> {
        let progress = Arc::clone(&self.progress);
        let named = move |name: String| progress.lock().ahead.push_back(name);
        add(host, "testNamed", named)?;
        let (progress, clock) = (Arc::clone(&self.progress), self.clock.clone());
        add(host, "testBegun", move || {
            let mut progress = progress.lock();
            let next = progress.ahead.pop_front();
            progress.running = next.map(|name| (name, clock.now()));
        })?;
        let (progress, clock) = (Arc::clone(&self.progress), self.clock.clone());
        let report = Arc::clone(&self.report);
        let ended = move |message: Opt<Option<String>>, stack: Opt<Option<String>>| {
            let Some((name, start)) = progress.lock().running.take() else {
                return;
            };
            let outcome = match message.0.flatten() {
                None => Ok(()),
                Some(message) => Err(Failure {
                    kind: FailureKind::Script,
                    message,
                    stack: own_lines(&stack.0.flatten().unwrap_or_default()),
                }),
            };
            let took = clock.now().duration_since(start);
            report(Event::Tested(TestResult {
                name,
                outcome,
                took,
            }));
        };
        add(host, "testEnded", ended)
    }

    fn plugins<'js>(&self, host: &Object<'js>, state: &Arc<State>) -> Result<()> {
        let (shown, folder) = (self.shown.clone(), self.folder.clone());
        let plugins = Arc::clone(&self.plugins);
        let load = move |ctx: Ctx<'js>,
                         file: String,
                         config: String,
                         env: String,
                         fetch: Opt<Option<String>>|
              -> Result<Vec<String>> {
            let name = file.trim_start_matches("./");
            let reach = fetch.0.flatten().map(|fetch| fixtures::read(&fetch));
            let reach = reach
                .transpose()
                .map_err(|why| Exception::throw_type(&ctx, &why))?;
            let loaded = Source::read(&shown, &folder.join(name)).and_then(|source| {
                ManualPlugin::load_within(source, config, env, reach, HookLimits::default())
            });
            let plugin = loaded.map_err(|failure| {
                // Its own stack trace is more precise than the test's.
                let text = format!("{}\n{}", failure.message, failure.stack);
                Exception::throw_message(&ctx, text.trim_end())
            })?;
            let hooks = Hook::ALL.into_iter().filter(|hook| plugin.has(*hook));
            let hooks: Vec<String> = hooks.map(|hook| hook.name().to_owned()).collect();
            let mut plugins = plugins.lock();
            plugins.push(Arc::new(plugin));
            // Its number, and the hooks that it exports.
            let number = (plugins.len() - 1).to_string();
            Ok([vec![number], hooks].concat())
        };
        add(host, "pluginLoad", load)?;
        let (plugins, state) = (Arc::clone(&self.plugins), Arc::clone(state));
        let call = move |ctx: Ctx<'js>, number: usize, call: String| {
            let plugin = plugins.lock().get(number).cloned();
            let Some(plugin) = plugin else {
                return Err(Exception::throw_message(&ctx, "unknown plugin number"));
            };
            let (hook, input) = read(&call).map_err(|why| Exception::throw_type(&ctx, &why))?;
            state.wait(&ctx, async move {
                let ran = plugin.run(hook, input.clone()).await;
                Ok(result_of(&input, ran).to_string())
            })
        };
        add(host, "pluginCall", call)
    }
}

impl Log for TestKit {
    fn line(&self, level: Level, text: &str) {
        (self.report)(Event::Line(level, text.to_owned()));
    }

    fn extend<'js>(
        &self,
        ctx: &Ctx<'js>,
        host: &Object<'js>,
        web: &Object<'js>,
        state: &Arc<State>,
    ) -> Result<()> {
        self.progress(host)?;
        self.plugins(host, state)?;
        let mut options = EvalOptions::default();
        options.filename = Some("edgeway/testing.js".to_owned());
        let part: Function<'js> = ctx.eval_with_options(include_str!("testing.js"), options)?;
        part.call((host.clone(), web.clone()))
    }
}

/// Removes stack trace lines of code that the gateway puts under tests.
fn own_lines(stack: &str) -> String {
    let lines = stack.lines();
    let lines = lines.filter(|line| !line.contains("(edgeway/") && !line.contains("(native)"));
    lines.collect::<Vec<_>>().join("\n").trim_end().to_owned()
}

/// Hook call that a test makes.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HookCall {
    hook: String,
    method: String,
    url: String,
    headers: Vec<(String, String)>,
    body: Option<String>,
    ip: String,
    request_id: String,
    route: String,
    jwt: Option<Map<String, Value>>,
    geo: Option<Map<String, Value>>,
    /// Status of the response, for hooks that have one.
    status: Option<u16>,
    response_headers: Vec<(String, String)>,
    reason: Option<String>,
    entry: Option<String>,
}

fn read(json: &str) -> std::result::Result<(Hook, Input), String> {
    let call: HookCall = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let hook = Hook::ALL.into_iter().find(|hook| hook.name() == call.hook);
    let response = match call.status {
        Some(status) => {
            let status = StatusCode::from_u16(status)
                .map_err(|_| format!("invalid response status {status}"))?;
            Some((status, headers(call.response_headers)?))
        }
        None => None,
    };
    let method = Method::from_bytes(call.method.as_bytes())
        .map_err(|_| format!("invalid method `{}`", call.method))?;
    let input = Input {
        method,
        url: call.url,
        headers: headers(call.headers)?,
        body: call
            .body
            .map_or(Body::None, |body| Body::Whole(body.into())),
        ip: call.ip.parse().ok(),
        request_id: call.request_id,
        route: call.route,
        known: ContextFacts {
            claims: call.jwt.map(Arc::new),
            location: call
                .geo
                .map(|geo| ClientLocation::from_json(Value::Object(geo).to_string())),
        },
        response,
        reason: call.reason.map(Into::into),
        entry: call.entry,
        trace: None,
    };
    let hook = hook.ok_or_else(|| format!("unknown hook `{}`", call.hook))?;
    Ok((hook, input))
}

/// Maps each character to one byte, as the Fetch standard defines for header values.
pub(super) fn headers(pairs: Vec<(String, String)>) -> std::result::Result<HeaderMap, String> {
    let mut headers = HeaderMap::with_capacity(pairs.len());
    for (name, value) in pairs {
        let value = latin_bytes(&value).and_then(|bytes| HeaderValue::from_bytes(&bytes).ok());
        let name_of_it = HeaderName::from_bytes(name.as_bytes()).ok();
        let (Some(name), Some(value)) = (name_of_it, value) else {
            return Err(format!("invalid header `{name}`"));
        };
        headers.append(name, value);
    }
    Ok(headers)
}

/// Result of a hook as the test reads it.
fn result_of(input: &Input, ran: ManualResult) -> Value {
    let lines = ran.lines.into_iter().map(|ConsoleLine { level, text }| {
        json!({ "level": level.as_str().to_ascii_lowercase(), "text": text })
    });
    let lines: Vec<Value> = lines.collect();
    let mut result = match ran.outcome {
        Ok(output) => output_of(input, output),
        Err(failure) => json!({
            "failure": {
                "kind": failure.kind.word(),
                "message": failure.message,
                "stack": failure.stack,
            },
        }),
    };
    result["console"] = lines.into();
    result["cpu"] = (ran.cpu.as_secs_f64() * 1000.0).into();
    result["wall"] = (ran.wall.as_secs_f64() * 1000.0).into();
    result
}

fn output_of(input: &Input, output: Output) -> Value {
    let (status, headers) = match &input.response {
        Some((status, headers)) => (Some(*status), headers.clone()),
        None => (None, HeaderMap::new()),
    };
    let status = output.status.or(status);
    let mut result = json!({
        "request": changed(input.headers.clone(), output.request),
        "status": status.map(|status| status.as_u16()),
        "responseHeaders": changed(headers, output.response),
    });
    match output.result {
        HookResult::Nothing => {}
        HookResult::Response(response) => {
            result["response"] = json!({
                "status": response.status.as_u16(),
                "headers": pairs(&response.headers),
                "body": STANDARD.encode(&response.body),
            });
        }
        HookResult::Rewrite(url) => result["rewrite"] = url.into(),
        HookResult::Text(text) => result["value"] = text.into(),
        HookResult::Json(text) => result["value"] = serde_json::from_str(&text).unwrap_or_default(),
    }
    result
}

fn changed(mut headers: HeaderMap, changes: Vec<HeaderChange>) -> Vec<[String; 2]> {
    for change in changes {
        change.apply(&mut headers);
    }
    pairs(&headers)
}

fn pairs(headers: &HeaderMap) -> Vec<[String; 2]> {
    let pair = |(name, value): (&HeaderName, &HeaderValue)| {
        [
            name.as_str().to_owned(),
            latin(value.as_bytes()).into_owned(),
        ]
    };
    headers.iter().map(pair).collect()
}
