//! Effects of a hook in `edgeway plugin run`, as text.

use std::fmt::Write as _;

use edgeway_script::{
    ConsoleLine, HeaderChange, Hook, HookResult, ManualResult, Output, header_changes,
};
use http::{HeaderValue, header};

use super::{
    millis,
    run::{SimulatedResponse, own},
    trace,
};

/// Limit of the printed part of a body.
const MAX_PRINTED: usize = 4 << 10;

pub(super) fn printed(hook: Hook, ran: &ManualResult) -> String {
    let text = match &ran.outcome {
        Err(failure) => format!("failed ({})", failure.kind.word()),
        Ok(output) => match &output.result {
            HookResult::Nothing => "goes on".to_owned(),
            HookResult::Response(response) => format!("responds {}", response.status),
            HookResult::Rewrite(url) => format!("goes on to {url}"),
            HookResult::Text(text) | HookResult::Json(text) => format!("returns `{text}`"),
        },
    };
    let mut text = format!(
        "{:<20}{text}  ({} CPU, {} in total)\n",
        hook.name(),
        millis(ran.cpu),
        millis(ran.wall),
    );
    match &ran.outcome {
        Err(failure) => text.push_str(&trace(failure, "  ")),
        Ok(output) => put_output(&mut text, output),
    }
    for ConsoleLine { level, text: line } in &ran.lines {
        let level = level.as_str().to_ascii_lowercase();
        put(&mut text, "console", &format!("{level:<6}{line}"));
    }
    text
}

fn put_output(text: &mut String, output: &Output) {
    for (key, changes) in [("request", &output.request), ("response", &output.response)] {
        for change in changes {
            let is_passed_over = header_changes::is_ours(change.name())
                || (key == "request" && *change.name() == header::HOST);
            let key = if is_passed_over { "passed" } else { key };
            let over = if is_passed_over { "over: " } else { "" };
            put(text, key, &format!("{over}{}", change_of(change)));
        }
    }
    if let Some(status) = output.status {
        put(text, "response", &format!("status {status}"));
    }
    if let HookResult::Response(response) = &output.result {
        let SimulatedResponse { headers, body, .. } = own((**response).clone());
        let body = body.unwrap_or_default();
        for (name, value) in &headers {
            put(text, "header", &format!("{name}: {}", shown(value)));
        }
        match std::str::from_utf8(&body) {
            Ok("") => {}
            Ok(body) => {
                let end = body.floor_char_boundary(MAX_PRINTED);
                put(text, "body", body[..end].trim_end());
                if end < body.len() {
                    put(text, "", &format!("… {} bytes in total", body.len()));
                }
            }
            Err(_) => put(text, "body", &format!("{} bytes, not text", body.len())),
        }
    }
}

fn change_of(change: &HeaderChange) -> String {
    match change {
        HeaderChange::Set(name, value) => format!("set {name}: {}", shown(value)),
        HeaderChange::Append(name, value) => format!("append {name}: {}", shown(value)),
        HeaderChange::Delete(name) => format!("delete {name}"),
    }
}

pub(super) fn shown(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

/// Appends the lines of `value` after `key`, indented.
fn put(text: &mut String, key: &str, value: &str) {
    for (index, line) in value.lines().enumerate() {
        let key = if index == 0 { key } else { "" };
        // Writing to a string cannot fail.
        let _infallible = writeln!(text, "  {key:<10}{line}");
    }
}
