//! Method and body towards the backend: `proxy_method`, `proxy_set_body` and
//! `proxy_pass_request_body`.

use serde_json::{Map, Value, json};

use super::{
    parse::Directive,
    scope::Scope,
    tables::header,
    words::{Piece, pieces},
};

/// Returns `upstream_request` of a location with `proxy_pass`, if it has one.
pub(super) fn upstream_request(scope: &Scope<'_>) -> Option<Value> {
    let upgrades = scope
        .nearest("proxy_set_header")
        .into_iter()
        .any(|one| one.arg(0).eq_ignore_ascii_case("upgrade"));
    let written = ["proxy_method", "proxy_set_body", "proxy_pass_request_body"];
    let caches = scope
        .one("proxy_cache")
        .filter(|cache| cache.arg(0) != "off");
    let mut sent = Map::new();
    for directive in written.iter().filter_map(|name| scope.one(name)) {
        let translated = if upgrades {
            Err("for a location that passes WebSockets on, the client's method and body stay")
        } else {
            translated(directive, scope, caches.is_some())
        };
        match translated {
            Ok(None) => directive.carried(""),
            Ok(Some((key, value))) => {
                // `proxy_set_body` counts whether or not the client's body is passed on.
                if !sent.contains_key(key) {
                    sent.insert(key.to_owned(), value);
                }
                match note(directive, scope) {
                    Some(note) => directive.changed(note),
                    None => directive.carried(""),
                }
            }
            Err(why) => directive.lost(why),
        }
    }
    (!sent.is_empty()).then(|| json!(sent))
}

/// Returns the key that stands for a directive, and its value; `None` if it changes nothing.
fn translated(
    directive: &Directive,
    scope: &Scope<'_>,
    caches: bool,
) -> Result<Option<(&'static str, Value)>, &'static str> {
    match (&*directive.name, directive.arg(0)) {
        ("proxy_method", method) => {
            let is_known = method.bytes().all(|byte| byte.is_ascii_uppercase());
            match method {
                "HEAD" | "CONNECT" | "TRACE" => Err("not for every request, so the client's stays"),
                _ if !is_known => Err("has variables or lower case, so the client's stays"),
                "GET" => Ok(Some(("method", method.into()))),
                _ if caches => Err("a cache would store other responses, so the client's stays"),
                _ => Ok(Some(("method", method.into()))),
            }
        }
        ("proxy_set_body", _) if caches => {
            Err("a cache would store responses to another body: the client's body stays")
        }
        ("proxy_set_body", text) => {
            let body = header(text, scope).filter(|_| !has_placeholder(text));
            body.map(|body| Some(("body", body.into())))
                .ok_or("a variable or a text in braces has no counterpart: the client's body stays")
        }
        (_, "off") => Ok(Some(("body", "".into()))),
        _ => Ok(None),
    }
}

/// Returns true if the gateway would take a part of the text for a placeholder that is none.
fn has_placeholder(text: &str) -> bool {
    let is_name = |name: &str| {
        let mut bytes = name.bytes();
        !name.is_empty()
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-+".contains(&byte))
    };
    pieces(text).iter().any(|piece| match piece {
        Piece::Text(text) => text
            .split('{')
            .skip(1)
            .filter_map(|rest| rest.split_once('}'))
            .any(|(name, _)| is_name(name)),
        Piece::Variable(_) => false,
    })
}

/// Returns what is different from nginx; `None` if nothing is.
fn note(directive: &Directive, scope: &Scope<'_>) -> Option<&'static str> {
    let mut headers = scope.nearest("proxy_set_header").into_iter();
    match &*directive.name {
        "proxy_set_body" => Some("the client's `content-encoding` is left out"),
        "proxy_pass_request_body"
            if !headers.any(|one| one.arg(0).eq_ignore_ascii_case("content-length")) =>
        {
            Some("`content-length` is left out: with nginx, the backend would wait for the body")
        }
        _ => None,
    }
}
