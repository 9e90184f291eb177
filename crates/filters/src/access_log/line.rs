//! Log line of one request: JSON, nginx' `combined` with additional fields, or a short one.

use std::time::Duration;

use edgeway_base::trace_context::write_hex;
use edgeway_core::chain::{CacheOutcome, LogFields, LoggedRequest, Text, TraceIds};
use edgeway_net::log_file::TimestampCache;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    escape::{
        put_address, put_compat, put_json, put_millis, put_millis_or_null, put_number, put_quoted,
        put_text_or_null,
    },
    redact::Redactor,
};

/// Inputs of a line.
#[derive(Clone, Copy)]
pub struct Line<'a> {
    pub request: &'a LoggedRequest<'a>,
    pub redact: &'a Redactor,
}

/// Format of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LineFormat {
    /// A JSON object.
    #[default]
    Json,
    /// nginx' `combined` line, then `X-Cache-Status:`, the request id and times.
    Compat,
    /// A line for a terminal.
    #[serde(skip)]
    Short,
}

impl LineFormat {
    pub fn put(self, out: &mut Vec<u8>, stamp: &mut TimestampCache, line: &Line<'_>) {
        match self {
            Self::Json => line.put_json(out, stamp),
            Self::Compat => line.put_compat(out, stamp),
            Self::Short => line.put_short(out, stamp),
        }
    }

    /// Returns the end of every line.
    pub(super) fn end(self) -> &'static [u8] {
        match self {
            Self::Json => b"}\n",
            Self::Compat | Self::Short => b"\n",
        }
    }

    /// Adds a line that was formatted before, with fields that became known later.
    pub(super) fn put_with(self, out: &mut Vec<u8>, line: &[u8], fields: &LogFields) {
        let end = self.end();
        out.extend_from_slice(line.strip_suffix(end).unwrap_or(line));
        match self {
            Self::Json => put_json_fields(out, fields),
            Self::Compat | Self::Short => put_compat_fields(out, fields),
        }
        out.extend_from_slice(end);
    }
}

fn put_json_fields(out: &mut Vec<u8>, fields: &LogFields) {
    let mut before = &b",\"plugins\":{"[..];
    for (plugin, fields) in fields {
        out.extend_from_slice(before);
        before = b",";
        out.push(b'"');
        put_json(out, plugin.as_bytes());
        out.extend_from_slice(b"\":{");
        for (index, (name, value)) in fields.iter().enumerate() {
            out.extend_from_slice(if index == 0 { b"\"" } else { b",\"" });
            put_json(out, name.as_bytes());
            out.extend_from_slice(b"\":");
            put_value(out, value, put_json);
        }
        out.push(b'}');
    }
    if !fields.is_empty() {
        out.push(b'}');
    }
}

fn put_compat_fields(out: &mut Vec<u8>, fields: &LogFields) {
    for (plugin, fields) in fields {
        for (name, value) in fields {
            out.extend_from_slice(b" plugin.");
            // Spaces would split the name into two columns.
            put_compat(out, plugin.replace([' ', '='], "_").as_bytes());
            out.push(b'.');
            put_compat(out, name.as_bytes());
            out.push(b'=');
            put_value(out, value, put_compat);
        }
    }
}

fn put_value(out: &mut Vec<u8>, value: &Value, put: fn(&mut Vec<u8>, &[u8])) {
    if let Value::String(text) = value {
        out.push(b'"');
        put(out, text.as_bytes());
        out.push(b'"');
    } else {
        out.extend_from_slice(value.to_string().as_bytes());
    }
}

impl Line<'_> {
    fn put_json(&self, out: &mut Vec<u8>, stamp: &mut TimestampCache) {
        let Self { request, redact } = *self;
        let fixed = &request.fixed;
        out.reserve(1024);
        out.extend_from_slice(b"{\"time\":\"");
        stamp.put_rfc3339(out, fixed.ended);
        out.extend_from_slice(b"\",\"id\":\"");
        out.extend_from_slice(request.plain(Text::Id));
        put_trace(out, fixed.trace);
        out.extend_from_slice(b"\",\"client\":\"");
        put_address(out, fixed.client);
        out.extend_from_slice(b"\",\"listener\":\"");
        put_json(out, request.plain(Text::Listener));
        out.extend_from_slice(b"\",\"method\":\"");
        out.extend_from_slice(request.plain(Text::Method));
        out.extend_from_slice(b"\",\"scheme\":\"");
        out.extend_from_slice(fixed.scheme.as_str().as_bytes());
        out.extend_from_slice(b"\",\"host\":\"");
        put_json(out, request.plain(Text::Host));
        out.extend_from_slice(b"\",\"path\":\"");
        put_json(out, request.plain(Text::Path));
        out.extend_from_slice(b"\",\"query\":");
        match request.text(Text::Query) {
            Some(query) => {
                out.push(b'"');
                redact.put(out, query, put_json);
                out.push(b'"');
            }
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\"protocol\":\"");
        out.extend_from_slice(fixed.protocol.as_str().as_bytes());
        out.extend_from_slice(b"\",\"status\":");
        put_number(out, fixed.status.into());
        out.extend_from_slice(b",\"bytes_in\":");
        put_number(out, fixed.bytes_in);
        out.extend_from_slice(b",\"bytes_out\":");
        put_number(out, fixed.bytes_out);
        put_optional(out, b",\"route\":", request.text(Text::Route));
        if let Some(page) = request.text(Text::PageRoute) {
            put_optional(out, b",\"page_route\":", Some(page));
        }
        out.extend_from_slice(b",\"class\":\"");
        out.extend_from_slice(fixed.class.name().as_bytes());
        out.push(b'"');
        put_json_upstream(out, request);
        out.extend_from_slice(b",\"total_ms\":");
        put_millis(out, fixed.total);
        put_optional_millis(out, b",\"first_byte_ms\":", fixed.first_byte);
        put_optional_millis(out, b",\"upstream_ms\":", fixed.upstream_first_byte);
        put_optional(out, b",\"reason\":", fixed.reason.map(str::as_bytes));
        put_optional(out, b",\"limit\":", request.text(Text::Limit));
        put_optional(out, b",\"user\":", request.text(Text::User));
        put_optional(out, b",\"user_agent\":", request.text(Text::UserAgent));
        put_optional(out, b",\"referer\":", request.text(Text::Referer));
        out.extend_from_slice(b"}\n");
    }

    fn put_compat(&self, out: &mut Vec<u8>, stamp: &mut TimestampCache) {
        let request = self.request;
        let fixed = &request.fixed;
        out.reserve(1024);
        put_address(out, fixed.client);
        out.extend_from_slice(b" - ");
        put_compat_user(out, request.text(Text::User));
        out.extend_from_slice(b" [");
        stamp.put_combined(out, fixed.ended);
        out.extend_from_slice(b"] \"");
        self.put_target(out);
        out.push(b' ');
        out.extend_from_slice(fixed.protocol.as_str().as_bytes());
        out.extend_from_slice(b"\" ");
        // nginx writes 499 for a client that disconnected before the response.
        put_number(
            out,
            if fixed.status == 0 { 499 } else { fixed.status }.into(),
        );
        out.push(b' ');
        put_number(out, fixed.bytes_out);
        for header in [Text::Referer, Text::UserAgent] {
            out.push(b' ');
            put_quoted(out, |out| {
                put_compat(out, request.text(header).unwrap_or(b"-"));
            });
        }
        out.extend_from_slice(b" X-Cache-Status: ");
        let cached = fixed.cache.map_or("-", CacheOutcome::name);
        out.extend_from_slice(cached.as_bytes());
        out.extend_from_slice(b" id=");
        out.extend_from_slice(or_dash(request.plain(Text::Id)));
        for (name, text) in [
            (&b" route=\""[..], Text::Route),
            (b"\" upstream=\"", Text::Upstream),
            (b"\" backend=\"", Text::Backend),
        ] {
            out.extend_from_slice(name);
            put_compat(out, request.text(text).unwrap_or(b"-"));
        }
        out.extend_from_slice(b"\" total_ms=");
        put_millis(out, fixed.total);
        for (name, span) in [
            (&b" first_byte_ms="[..], fixed.first_byte),
            (b" upstream_ms=", fixed.upstream_first_byte),
        ] {
            out.extend_from_slice(name);
            match span {
                Some(span) => put_millis(out, span),
                None => out.push(b'-'),
            }
        }
        out.extend_from_slice(b" reason=");
        out.extend_from_slice(fixed.reason.unwrap_or("-").as_bytes());
        out.extend_from_slice(b" limit=");
        out.extend_from_slice(request.text(Text::Limit).unwrap_or(b"-"));
        out.push(b'\n');
    }

    /// Adds the line as people read it.
    fn put_short(&self, out: &mut Vec<u8>, stamp: &mut TimestampCache) {
        let fixed = &self.request.fixed;
        let start = out.len();
        stamp.put_rfc3339(out, fixed.ended);
        // Of `2027-01-15T08:00:00.012Z` the time to the second.
        out.copy_within(start + 11..start + 19, start);
        out.truncate(start + 8);
        out.push(b' ');
        put_address(out, fixed.client);
        out.push(b' ');
        self.put_target(out);
        out.push(b' ');
        put_number(out, fixed.status.into());
        out.push(b' ');
        put_millis(out, fixed.total);
        // One decimal is enough.
        out.truncate(out.len() - 2);
        out.extend_from_slice(b" ms ");
        let cached = fixed.cache.map_or("-", CacheOutcome::name);
        out.extend_from_slice(cached.as_bytes());
        out.push(b' ');
        put_compat(out, self.request.text(Text::Upstream).unwrap_or(b"-"));
        if let Some(reason) = fixed.reason {
            out.push(b' ');
            out.extend_from_slice(reason.as_bytes());
        }
        out.push(b'\n');
    }

    /// Adds method, path and query.
    fn put_target(&self, out: &mut Vec<u8>) {
        let Self { request, redact } = *self;
        put_compat(out, request.plain(Text::Method));
        out.push(b' ');
        put_compat(out, request.plain(Text::Path));
        if let Some(query) = request.text(Text::Query) {
            out.push(b'?');
            redact.put(out, query, put_compat);
        }
    }
}

/// Adds the ids of the request's trace and span, where traces are exported.
fn put_trace(out: &mut Vec<u8>, ids: Option<TraceIds>) {
    let Some(ids) = ids else { return };
    let mut text =
        *b"\",\"trace_id\":\"00000000000000000000000000000000\",\"span_id\":\"0000000000000000";
    write_hex(&mut text[14..46], &ids.trace.to_be_bytes());
    write_hex(&mut text[59..], &ids.span.to_be_bytes());
    out.extend_from_slice(&text);
}

/// Adds nginx' `$remote_user`. Spaces would split it into two columns.
fn put_compat_user(out: &mut Vec<u8>, user: Option<&[u8]>) {
    let Some(user) = user.filter(|user| !user.is_empty()) else {
        out.push(b'-');
        return;
    };
    for (index, word) in user.split(|b| *b == b' ').enumerate() {
        if index > 0 {
            out.extend_from_slice(b"\\x20");
        }
        put_compat(out, word);
    }
}

fn put_json_upstream(out: &mut Vec<u8>, request: &LoggedRequest<'_>) {
    let fixed = &request.fixed;
    put_optional(out, b",\"upstream\":", request.text(Text::Upstream));
    put_optional(out, b",\"backend\":", request.text(Text::Backend));
    if let Some(failed) = request.text(Text::FailedBackend) {
        put_optional(out, b",\"failed_backend\":", Some(failed));
    }
    out.extend_from_slice(b",\"attempts\":");
    put_number(out, fixed.attempts.into());
    out.extend_from_slice(b",\"upstream_status\":");
    match fixed.upstream_status {
        0 => out.extend_from_slice(b"null"),
        status => put_number(out, status.into()),
    }
    let cached = fixed.cache.map(|cached| cached.name().as_bytes());
    put_optional(out, b",\"cache\":", cached);
    put_optional(out, b",\"cache_why\":", fixed.cache_why.map(str::as_bytes));
}

fn put_optional(out: &mut Vec<u8>, key: &[u8], text: Option<&[u8]>) {
    out.extend_from_slice(key);
    put_text_or_null(out, text);
}

fn put_optional_millis(out: &mut Vec<u8>, key: &[u8], span: Option<Duration>) {
    out.extend_from_slice(key);
    put_millis_or_null(out, span);
}

fn or_dash(text: &[u8]) -> &[u8] {
    if text.is_empty() { b"-" } else { text }
}
