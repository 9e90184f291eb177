//! Host functions of `ctx.log`, `ctx.metrics` and `ctx.waitUntil`.

use std::{fmt::Write as _, sync::Arc};

use log::Level;
use rquickjs::{Array, Ctx, Exception, Object, Result, Value, function::Opt};

use super::{
    capabilities::SharedCapabilities,
    error::Failure,
    host::{MAX_LINE_LEN, State, add, bounded, level},
    usv_string::UsvString,
};
use crate::base::{
    known_secrets::KnownSecrets, out::printable, secret::shown, user_metrics::UserKind,
};

/// Most fields of a line of `ctx.log`.
const MAX_FIELDS: usize = 16;
const MAX_NAME_LEN: usize = 64;
/// Most promises that a hook may leave behind.
const MAX_PROMISES: u32 = 16;

/// Line that a plugin logs about a request.
#[derive(Debug)]
pub(super) struct PluginLogLine<'a> {
    pub(super) level: Level,
    pub(super) request_id: &'a str,
    pub(super) text: &'a str,
    /// Fields in a form that can be written as `name=value`.
    pub(super) fields: &'a [(String, String)],
}

impl PluginLogLine<'_> {
    /// Formats one line without the request ID.
    pub(super) fn line(&self) -> String {
        let mut line = self.text.to_owned();
        for (name, value) in self.fields {
            // Writing to a String cannot fail.
            let _infallible = write!(line, " {name}={value}");
        }
        line
    }
}

/// Adds these functions to `host`.
pub(super) fn functions<'js>(
    host: &Object<'js>,
    state: &Arc<State>,
    capabilities: &SharedCapabilities,
) -> Result<()> {
    let s = Arc::clone(state);
    let log_line =
        move |ctx: Ctx<'js>, call: u32, at: u8, UsvString(text): UsvString, flat: Array<'js>| {
            s.charge(&ctx, text.len())?;
            let secrets = s.secrets();
            let fields = fields(&ctx, s.texts(&ctx, &flat)?, &secrets)?;
            let id = s.with(&ctx, call, |call| Ok(call.input.request_id.clone()))?;
            s.log.request_line(&PluginLogLine {
                level: level(at),
                request_id: &id,
                text: &one_line(&secrets.hidden_in(bounded(&text))),
                fields: &fields,
            });
            Result::Ok(())
        };
    add(host, "logLine", log_line)?;
    let (s, metrics) = (Arc::clone(state), Arc::clone(capabilities));
    let count = move |ctx: Ctx<'js>,
                      kind: u8,
                      UsvString(name): UsvString,
                      labels: Array<'js>,
                      value: f64| {
        s.charge(&ctx, name.len())?;
        let labels = s.texts(&ctx, &labels)?;
        let kind = match kind {
            0 => UserKind::Counter,
            _ => UserKind::Histogram,
        };
        let counted = metrics.metrics.count(kind, &name, pairs(labels), value);
        counted.map_err(|why| Exception::throw_type(&ctx, &why))
    };
    add(host, "countMetric", count)?;
    promises(host, state)
}

fn promises<'js>(host: &Object<'js>, state: &Arc<State>) -> Result<()> {
    let s = Arc::clone(state);
    add(host, "addPromise", move |ctx: Ctx<'js>, call: u32| {
        s.with(&ctx, call, |call| {
            if call.promises >= MAX_PROMISES {
                let why =
                    format!("a hook can pass at most {MAX_PROMISES} promises to `ctx.waitUntil`");
                return Err(Exception::throw_range(&ctx, &why));
            }
            call.promises += 1;
            Ok(())
        })
    })?;
    let s = Arc::clone(state);
    add(host, "promiseFulfilled", move |ctx: Ctx<'js>, call: u32| {
        s.with(&ctx, call, |call| {
            call.promises = call.promises.saturating_sub(1);
            Ok(())
        })
    })?;
    let s = Arc::clone(state);
    let rejected = move |ctx: Ctx<'js>, call: u32, thrown: Opt<Value<'js>>| {
        // Only one failure is reported, and each may be as long as its heap.
        let is_first = s.with(&ctx, call, |call| Ok(call.rejection.is_none()))?;
        let failure = is_first.then(|| match thrown.0 {
            Some(thrown) => Failure::thrown(thrown, &s),
            None => Failure::script("it was rejected"),
        });
        s.with(&ctx, call, |call| {
            call.promises = call.promises.saturating_sub(1);
            call.rejection = call.rejection.take().or(failure);
            Ok(())
        })
    };
    add(host, "promiseRejected", rejected)
}

fn pairs(flat: Vec<String>) -> Vec<(String, String)> {
    let mut flat = flat.into_iter();
    std::iter::from_fn(|| flat.next().zip(flat.next())).collect()
}

fn fields(
    ctx: &Ctx<'_>,
    flat: Vec<String>,
    secrets: &KnownSecrets,
) -> Result<Vec<(String, String)>> {
    let mut left = MAX_LINE_LEN;
    let mut fields = pairs(flat);
    if fields.len() > MAX_FIELDS {
        let why = format!("a log line can have at most {MAX_FIELDS} fields");
        return Err(Exception::throw_range(ctx, &why));
    }
    for (name, value) in &mut fields {
        let is_name = !name.is_empty()
            && name.len() <= MAX_NAME_LEN
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
        // Fields that the gateway sets itself.
        if !is_name || ["plugin", "request_id"].contains(&&**name) {
            let why = format!("invalid field name `{name}`");
            return Err(Exception::throw_type(ctx, &why));
        }
        *value = secrets.hidden_in(shown(name, bounded(value)));
        value.truncate(value.floor_char_boundary(left));
        left -= value.len();
        let is_word = |b: u8| b.is_ascii_graphic() && !b"\"=\\".contains(&b);
        if value.is_empty() || !value.bytes().all(is_word) {
            *value = format!("{value:?}");
        }
    }
    Ok(fields)
}

/// Escapes what a terminal obeys: client input in the text must not look like lines of its own.
pub(super) fn one_line(text: &str) -> String {
    printable(&text[..text.floor_char_boundary(MAX_LINE_LEN)])
}
