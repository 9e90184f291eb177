//! Native functions that JavaScript calls and that the Web API is built on.
//!
//! Data of a request is addressed by the number of its call: if a plugin keeps an object of a
//! request that is over, using it is an error.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use log::Level;
use parking_lot::Mutex;
use rquickjs::{
    Array, ArrayBuffer, Ctx, Exception, Function, IntoJs, Object, Result, TypedArray, Value,
    function::{IntoJsFunc, Opt},
};
use serde_json::Value as Json;

use super::{
    body,
    budget::CpuBudget,
    call::{
        Call, DroppedPromises, HeaderChange, HookResult, OperationResult, PendingOperation,
        Response,
    },
    capabilities::SharedCapabilities,
    conditions::{self, latin},
    context_facts,
    error::Failure,
    fetch_loop, host_functions,
    log_line::{self, PluginLogLine},
    usv_string::{self, UsvString},
    values,
};
use crate::base::{
    known_secrets::KnownSecrets,
    query::query_of,
    secret::{is_secret_name, shown},
    trace_context::{TRACEPARENT, TRACESTATE},
};

/// Most headers that a plugin may add to a header section, and the longest header.
const MAX_HEADERS: usize = 128;
pub(super) const MAX_HEADER_LEN: usize = 8 << 10;
/// Longest logged part of a line of `console`.
pub(super) const MAX_LINE_LEN: usize = 4 << 10;
/// Longest body of a plugin's own response. It is held until its client has read it, outside the
/// plugin's memory.
const MAX_RESPONSE_LEN: usize = 1 << 20;
/// Longest text that a hook may return: a URL, a part of a key, a name.
const MAX_LOGGED_LEN: usize = 8 << 10;
/// Most operations that a hook may wait for at a time.
const MAX_PENDING: usize = 64;

/// State of an isolate beside the engine.
pub(super) struct State {
    /// Running call.
    pub(super) call: Mutex<Option<Box<Call>>>,
    waits: AtomicU32,
    /// Promises that nothing will settle any more.
    pub(super) forgotten: DroppedPromises,
    pub(super) log: Arc<dyn Log>,
    budget: Arc<CpuBudget>,
    capabilities: SharedCapabilities,
}

/// Environment of an isolate: receives lines of `console`, and may add functions.
pub(super) trait Log: Send + Sync {
    fn line(&self, level: Level, text: &str);

    /// Writes a line of `ctx.log`.
    fn request_line(&self, line: &PluginLogLine<'_>) {
        self.line(line.level, &line.line());
    }

    /// Reports failed `ctx.waitUntil` work.
    fn background_failed(&self, plugin: &str, request_id: &str, failure: &Failure) {
        log::warn!(
            plugin = plugin, hook = "waitUntil", kind = failure.kind.word(),
            request_id = request_id, error:% = failure;
            "plugin failed"
        );
    }

    /// Adds to the functions that every plugin has.
    fn extend<'js>(
        &self,
        _ctx: &Ctx<'js>,
        _host: &Object<'js>,
        _web: &Object<'js>,
        _state: &Arc<State>,
    ) -> Result<()> {
        Ok(())
    }
}

impl State {
    pub(super) fn new(
        log: Arc<dyn Log>,
        budget: &Arc<CpuBudget>,
        capabilities: &SharedCapabilities,
    ) -> Self {
        Self {
            call: Mutex::default(),
            waits: AtomicU32::new(0),
            forgotten: DroppedPromises::default(),
            log,
            budget: Arc::clone(budget),
            capabilities: Arc::clone(capabilities),
        }
    }

    /// Returns what no log may show: the secrets of the plugin, and the credentials of the running
    /// call's request.
    pub(super) fn secrets(&self) -> KnownSecrets {
        let mut secrets = self.capabilities.secrets.clone();
        if let Some(call) = self.call.lock().as_deref() {
            let query = query_of(call.input.url.as_bytes()).unwrap_or_default();
            let is_secret = |name: &[u8]| self.is_secret(name);
            secrets.add_query(query, is_secret);
            secrets.add_headers(&call.heads[0], is_secret);
            secrets.add_all(&call.replaced);
        }
        secrets
    }

    /// Returns the fields of `onLog` without secrets.
    fn fields_without_secrets(&self, json: &str) -> String {
        let Ok(Json::Object(mut fields)) = serde_json::from_str(json) else {
            return json.to_owned();
        };
        let secrets = self.secrets();
        for (name, value) in &mut fields {
            let text = match value {
                Json::String(text) => text.clone(),
                Json::Number(number) => number.to_string(),
                _ => continue,
            };
            let hidden = secrets.hidden_in(shown(name, &text));
            if hidden != text {
                *value = hidden.into();
            }
        }
        Json::Object(fields).to_string()
    }

    /// Returns true if the values of a header, a cookie or a parameter are credentials.
    fn is_secret(&self, name: &[u8]) -> bool {
        let Ok(name) = std::str::from_utf8(name) else {
            return false;
        };
        let mut read = self.capabilities.secret_names.iter();
        is_secret_name(name) || read.any(|own| own.eq_ignore_ascii_case(name))
    }

    /// Counts bytes that a host function processes, see [`CpuBudget::charge`].
    pub(super) fn charge(&self, ctx: &Ctx<'_>, bytes: usize) -> Result<()> {
        values::charge(ctx, &self.budget, bytes)
    }

    /// Writes the trace and the way of the running call into the headers of a `fetch`. Those of the
    /// client, which a plugin may copy whole, name the client's span, and W3C Trace Context (3.3) lets
    /// state go with its own parent only.
    pub(super) fn continue_request(&self, ctx: &Ctx<'_>, headers: &mut HeaderMap) -> Result<()> {
        let running = self.call.lock();
        let Some(call) = running.as_deref() else {
            return Ok(());
        };
        if let Some(trace) = call.input.trace {
            headers.insert(TRACEPARENT, trace.header_value());
            headers.remove(TRACESTATE);
        }
        fetch_loop::mark(&call.way, headers).map_err(|why| Exception::throw_type(ctx, &why))
    }

    /// Returns the strings of an array, within bounds.
    pub(super) fn texts(&self, ctx: &Ctx<'_>, array: &Array<'_>) -> Result<Vec<String>> {
        values::texts_of(ctx, &self.budget, array)
    }

    /// Makes the running hook wait for `work`; returns the number of its promise.
    pub(super) fn wait(
        &self,
        ctx: &Ctx<'_>,
        work: impl Future<Output = OperationResult> + Send + 'static,
    ) -> Result<u32> {
        self.charge(ctx, 0)?;
        let mut running = self.call.lock();
        let Some(call) = running.as_deref_mut() else {
            return Err(Exception::throw_type(
                ctx,
                "only a hook can wait, and the plugin is still loading",
            ));
        };
        if call.waiting.all.len() >= MAX_PENDING {
            let why = format!("a hook can wait for at most {MAX_PENDING} operations");
            return Err(Exception::throw_range(ctx, &why));
        }
        let id = self.waits.fetch_add(1, Ordering::Relaxed);
        let work = Box::pin(work);
        call.waiting.all.push(PendingOperation { id, work });
        Ok(id)
    }

    /// Runs `what` on the call of that number, if that call is running.
    pub(super) fn with<T>(
        &self,
        ctx: &Ctx<'_>,
        id: u32,
        what: impl FnOnce(&mut Call) -> Result<T>,
    ) -> Result<T> {
        self.charge(ctx, 0)?;
        let mut running = self.call.lock();
        match running.as_deref_mut() {
            Some(call) if call.id == id => what(call),
            _ => Err(Exception::throw_type(ctx, "this request has ended")),
        }
    }
}

impl Call {
    /// Refuses changes once the hook is over: changes would have no effect, though the hook's work
    /// goes on.
    fn can_change(&self, ctx: &Ctx<'_>) -> Result<()> {
        if self.is_background {
            return Err(Exception::throw_type(ctx, "this request has ended"));
        }
        Ok(())
    }
}

/// Returns an object with all host functions.
pub(super) fn functions<'js>(
    ctx: &Ctx<'js>,
    state: &Arc<State>,
    capabilities: &SharedCapabilities,
) -> Result<Object<'js>> {
    let host = Object::new(ctx.clone())?;
    headers(&host, state)?;
    facts(&host, state)?;
    context_facts::functions(&host, state)?;
    body::functions(&host, state)?;
    outcome(&host, state)?;
    let s = Arc::clone(state);
    let set_parsing = move |ctx: Ctx<'js>, is_parsing| s.budget.steps.set_parsing(&ctx, is_parsing);
    add(&host, "setParsing", set_parsing)?;
    values::functions(&host, &state.budget)?;
    host_functions::functions(&host, state, capabilities)?;
    log_line::functions(&host, state, capabilities)?;
    Ok(host)
}

/// Returns the part of a text in which secrets are looked for. One beyond the end of a line may
/// begin before it.
pub(super) fn bounded(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_LINE_LEN + 2 * MAX_HEADER_LEN)]
}

/// Adds a function to those that JavaScript can call.
pub(super) fn add<'js, P>(
    host: &Object<'js>,
    name: &str,
    function: impl IntoJsFunc<'js, P> + 'js,
) -> Result<()> {
    host.set(name, Function::new(host.ctx().clone(), function)?)
}

fn headers<'js>(host: &Object<'js>, state: &Arc<State>) -> Result<()> {
    let s = Arc::clone(state);
    let get = move |ctx: Ctx<'js>, head: u32, UsvString(name): UsvString| {
        let (call, which) = head_of(head);
        s.charge(&ctx, name.len())?;
        let joined = s.with(&ctx, call, |call| Ok(joined(&call.heads[which], &name)))?;
        match joined {
            Some(text) => {
                s.charge(&ctx, text.len())?;
                text.into_js(&ctx)
            }
            None => Ok(Value::new_null(ctx)),
        }
    };
    add(host, "headerGet", get)?;
    let s = Arc::clone(state);
    add(host, "headerAll", move |ctx: Ctx<'js>, head: u32| {
        let (call, which) = head_of(head);
        let all = s.with(&ctx, call, |call| Ok(flat(&call.heads[which])))?;
        s.charge(&ctx, all.iter().map(String::len).sum())?;
        Result::Ok(all)
    })?;
    let s = Arc::clone(state);
    let change = move |ctx: Ctx<'js>,
                       head: u32,
                       how: u8,
                       UsvString(name): UsvString,
                       value: Opt<UsvString>| {
        let (call, which) = head_of(head);
        s.charge(&ctx, name.len())?;
        let name = header_name(&ctx, &name)?;
        let change = match how {
            0 => HeaderChange::Delete(name),
            how => {
                let value = value.0.map(|value| value.0).unwrap_or_default();
                s.charge(&ctx, value.len())?;
                let value = header_value(&ctx, &value)?;
                if how == 1 {
                    HeaderChange::Set(name, value)
                } else {
                    HeaderChange::Append(name, value)
                }
            }
        };
        s.with(&ctx, call, |call| {
            call.can_change(&ctx)?;
            if call.changes[which].len() >= MAX_HEADERS {
                let why = format!("a hook can change at most {MAX_HEADERS} headers");
                return Err(Exception::throw_range(&ctx, &why));
            }
            if which == 0 {
                let old = call.heads[0].get_all(change.name()).iter();
                let old = old.map(|value| (change.name().clone(), value.clone()));
                let old: HeaderMap = old.collect();
                call.replaced.add_headers(&old, |name| s.is_secret(name));
            }
            change.clone().apply(&mut call.heads[which]);
            call.changes[which].push(change);
            Ok(())
        })
    };
    add(host, "headerChange", change)
}

/// Splits a number into the call and one of its header sections: 0 for the request, 1 for the
/// response.
fn head_of(head: u32) -> (u32, usize) {
    (head / 2, usize::from(head % 2 == 1))
}

fn joined(headers: &HeaderMap, name: &str) -> Option<String> {
    // RFC 9113, 8.2.3: cookies of several lines are one list.
    let is_cookie = name.eq_ignore_ascii_case("cookie");
    let mark = if is_cookie { "; " } else { ", " };
    conditions::header(headers, name, Some(mark)).map(Cow::into_owned)
}

pub(super) fn flat(headers: &HeaderMap) -> Vec<String> {
    let pairs = headers.iter();
    pairs
        .flat_map(|(name, value)| {
            [
                name.as_str().to_owned(),
                latin(value.as_bytes()).into_owned(),
            ]
        })
        .collect()
}

/// Maps each character to one byte; `None` if there are others than those of Latin-1.
pub(super) fn latin_bytes(text: &str) -> Option<Vec<u8>> {
    let letters = text.chars();
    letters.map(|letter| u8::try_from(letter).ok()).collect()
}

fn header_name(ctx: &Ctx<'_>, name: &str) -> Result<HeaderName> {
    HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| Exception::throw_type(ctx, &format!("invalid header name `{name}`")))
}

fn header_value(ctx: &Ctx<'_>, value: &str) -> Result<HeaderValue> {
    // A valid character has two bytes at most.
    let value = &value[..value.floor_char_boundary(2 * MAX_HEADER_LEN + 2)];
    // HTTP whitespace of the Fetch standard: another space is part of the value.
    let value = latin_bytes(value.trim_matches(['\t', '\n', '\r', ' ']))
        .filter(|bytes| bytes.len() <= MAX_HEADER_LEN)
        .and_then(|bytes| HeaderValue::from_bytes(&bytes).ok());
    value.ok_or_else(|| Exception::throw_type(ctx, "invalid header value"))
}

fn facts<'js>(host: &Object<'js>, state: &Arc<State>) -> Result<()> {
    let s = Arc::clone(state);
    add(host, "fact", move |ctx: Ctx<'js>, call: u32, which: u8| {
        s.with(&ctx, call, |call| {
            let input = &call.input;
            Ok(match which {
                0 => input.method.as_str().to_owned(),
                1 => input.url.clone(),
                2 => input.ip.map(|ip| ip.to_string()).unwrap_or_default(),
                3 => input.request_id.clone(),
                _ => input.route.clone(),
            })
        })
    })?;
    let s = Arc::clone(state);
    add(host, "sleep", move |ctx: Ctx<'js>, millis: f64| {
        let time = Duration::try_from_secs_f64(millis.max(0.0) / 1000.0);
        let time = time.unwrap_or(Duration::MAX);
        s.wait(&ctx, async move {
            tokio::time::sleep(time).await;
            Ok("null".to_owned())
        })
    })?;
    let s = Arc::clone(state);
    let log = move |ctx: Ctx<'js>, at: u8, UsvString(text): UsvString| {
        s.charge(&ctx, text.len())?;
        let text = s.secrets().hidden_in(bounded(&text));
        let end = text.floor_char_boundary(MAX_LINE_LEN);
        s.log.line(level(at), &text[..end]);
        Result::Ok(())
    };
    add(host, "consoleLine", log)
}

pub(super) fn level(number: u8) -> Level {
    match number {
        0 => Level::Error,
        1 => Level::Warn,
        2 => Level::Info,
        _ => Level::Debug,
    }
}

fn outcome<'js>(host: &Object<'js>, state: &Arc<State>) -> Result<()> {
    let s = Arc::clone(state);
    let status = move |ctx: Ctx<'js>, call: u32, status: u16| {
        let status = status_of(&ctx, status)?;
        s.with(&ctx, call, |call| {
            call.can_change(&ctx)?;
            call.status = Some(status);
            Ok(())
        })
    };
    add(host, "status", status)?;
    let s = Arc::clone(state);
    let finish = move |ctx: Ctx<'js>, call: u32, kind: u8, text: Opt<UsvString>| {
        let text = text.0.map(|text| text.0).unwrap_or_default();
        if text.len() > MAX_LOGGED_LEN {
            let what = if kind == 1 {
                "the URL of a rewrite"
            } else {
                "the return value of a hook"
            };
            let why = format!("{what} can have at most {MAX_LOGGED_LEN} bytes");
            return Err(Exception::throw_range(&ctx, &why));
        }
        let result = match kind {
            0 => HookResult::Nothing,
            1 => HookResult::Rewrite(text),
            2 => HookResult::Text(text),
            _ => HookResult::Json(s.fields_without_secrets(&text)),
        };
        s.with(&ctx, call, |call| {
            call.outcome.get_or_insert(Ok(result));
            Ok(())
        })
    };
    add(host, "finish", finish)?;
    let s = Arc::clone(state);
    let respond =
        move |ctx: Ctx<'js>, call: u32, status: u16, headers: Array<'js>, body: Value<'js>| {
            let body = bounded_bytes(&body, MAX_RESPONSE_LEN);
            // The body was processed even if it is too long.
            s.charge(&ctx, body.as_ref().map_or(MAX_RESPONSE_LEN, Bytes::len))?;
            let response = Response {
                status: status_of(&ctx, status)?,
                headers: map(&ctx, &s.texts(&ctx, &headers)?)?,
                body: body.map_err(|()| {
                    let why = format!(
                        "the body of a plugin's response can have at most {MAX_RESPONSE_LEN} bytes"
                    );
                    Exception::throw_range(&ctx, &why)
                })?,
            };
            s.with(&ctx, call, |call| {
                let result = HookResult::Response(Box::new(response));
                call.outcome.get_or_insert(Ok(result));
                Ok(())
            })
        };
    add(host, "respond", respond)?;
    let s = Arc::clone(state);
    let fail = move |ctx: Ctx<'js>, call: u32, thrown: Value<'js>| {
        let failure = Failure::thrown(thrown, &s);
        s.with(&ctx, call, |call| {
            call.outcome.get_or_insert(Err(failure));
            Ok(())
        })
    };
    add(host, "fail", fail)
}

fn status_of(ctx: &Ctx<'_>, status: u16) -> Result<StatusCode> {
    StatusCode::from_u16(status)
        .ok()
        .filter(|status| (200..600).contains(&status.as_u16()))
        .ok_or_else(|| Exception::throw_range(ctx, &format!("invalid response status {status}")))
}

pub(super) fn map(ctx: &Ctx<'_>, flat: &[String]) -> Result<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(flat.len() / 2);
    if flat.len() / 2 > MAX_HEADERS {
        let why = format!("a response can have at most {MAX_HEADERS} headers");
        return Err(Exception::throw_range(ctx, &why));
    }
    for pair in flat.chunks_exact(2) {
        let (name, value) = (header_name(ctx, &pair[0])?, header_value(ctx, &pair[1])?);
        HeaderChange::Append(name, value).apply(&mut headers);
    }
    Ok(headers)
}

/// Returns the bytes of a string, a buffer or a view of one; `Err` if there are more than `max`,
/// which are not copied.
pub(super) fn bounded_bytes(value: &Value<'_>, max: usize) -> std::result::Result<Bytes, ()> {
    if let Some(text) = value.as_string() {
        if usv_string::length(text) > max {
            return Err(());
        }
        return usv_string::read(text).map(Bytes::from).map_err(|_| ());
    }
    let Some(object) = value.as_object() else {
        return Ok(Bytes::new());
    };
    let buffer = ArrayBuffer::from_object(object.clone());
    let array = object.as_typed_array::<u8>();
    let length = read(array, buffer.as_ref(), <[u8]>::len);
    if length.is_some_and(|length| length > max) {
        return Err(());
    }
    Ok(copied(array, buffer.as_ref()).unwrap_or_default())
}

/// Returns the length of an array in bytes, even if a plugin has overridden its `length`. Reading
/// that property may run JavaScript, which may be interrupted.
pub(super) fn size(array: &TypedArray<'_, u8>) -> usize {
    read(Some(array), None, <[u8]>::len).unwrap_or(0)
}

pub(super) fn copied(
    array: Option<&TypedArray<'_, u8>>,
    buffer: Option<&ArrayBuffer<'_>>,
) -> Option<Bytes> {
    read(array, buffer, Bytes::copy_from_slice)
}

#[allow(unsafe_code, reason = "no JavaScript runs while the memory is read")]
fn read<T>(
    array: Option<&TypedArray<'_, u8>>,
    buffer: Option<&ArrayBuffer<'_>>,
    what: fn(&[u8]) -> T,
) -> Option<T> {
    // SAFETY: it is read at once, and the engine runs nothing until this returns.
    let bytes = unsafe {
        match (array, buffer) {
            (Some(array), _) => array.as_bytes(),
            (None, buffer) => buffer?.as_bytes(),
        }
    };
    bytes.map(what)
}
