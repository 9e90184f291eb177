//! Log line of one request: JSON, nginx' `combined` with additional fields, or a short one.

use edgeway_core::chain::{CacheOutcome, LogFields, LoggedRequest, Text};
use edgeway_net::log_file::TimestampCache;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    escape::{put_address, put_compat, put_json, put_millis, put_number, put_quoted},
    fields::USUAL,
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
pub(super) enum LineFormat {
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
        put_quoted(out, |out| put_json(out, plugin.as_bytes()));
        out.extend_from_slice(b":{");
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
        put_quoted(out, |out| put(out, text.as_bytes()));
    } else {
        out.extend_from_slice(value.to_string().as_bytes());
    }
}

impl Line<'_> {
    /// Adds a JSON line with the usual fields.
    pub fn put_json(&self, out: &mut Vec<u8>, stamp: &mut TimestampCache) {
        USUAL.put(out, stamp, self);
    }

    pub(super) fn put_compat(&self, out: &mut Vec<u8>, stamp: &mut TimestampCache) {
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
    pub(super) fn put_short(&self, out: &mut Vec<u8>, stamp: &mut TimestampCache) {
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

fn or_dash(text: &[u8]) -> &[u8] {
    if text.is_empty() { b"-" } else { text }
}
