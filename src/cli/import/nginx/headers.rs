//! Headers of a location: those that it adds, and those that backends get.

use serde_json::{Map, Value, json};

use super::{
    filters::Filters,
    parse::Directive,
    report::Fates,
    scope::Scope,
    servers::{Server, Servers},
    tables::{header, mark},
    words::{milliseconds, plain},
};
use crate::filters::security_headers::is_security_header;

/// Statuses to which nginx adds headers without `always`.
const USUAL: [u16; 10] = [200, 201, 204, 206, 301, 302, 303, 304, 307, 308];

/// Translates changes of headers.
pub(super) fn of(
    scope: &Scope<'_>,
    (passes, is_files): (bool, bool),
    filters: &mut Filters,
    fates: &mut Fates,
) {
    let (mut add, mut usual) = (Map::new(), Map::new());
    let (mut set, mut usual_set) = (Map::new(), Map::new());
    for directive in scope.nearest("add_header") {
        let (name, value) = (directive.arg(0), directive.arg(1));
        let always = directive.args.iter().any(|arg| arg == "always");
        if value == "$upstream_cache_status" {
            fates.changed(directive, "the gateway's own header is `X-Cache-Status`");
            continue;
        }
        let Some(value) = header(value, scope) else {
            fates.lost(directive, "a variable of its value has no counterpart");
            continue;
        };
        mark(directive, &value, scope, fates);
        if value.is_empty() {
            continue;
        }
        // One line in place of the one of `security_headers`.
        let lower = name.to_ascii_lowercase();
        let is_only = is_files && lower == "cache-control" && scope.one("expires").is_none();
        let replaces = is_only || is_security_header(&lower);
        let to = match (always, replaces) {
            (true, false) => &mut add,
            (true, true) => &mut set,
            (false, false) => &mut usual,
            (false, true) => &mut usual_set,
        };
        if let Some(known) = to.insert(name.to_owned(), value.clone().into()) {
            to.insert(name.to_owned(), known);
            fates.lost(
                directive,
                format!("`{name}` is there twice; the first one counts"),
            );
        }
    }
    let expires = scope
        .one("expires")
        .and_then(|expires| expiry(expires, fates));
    let mut response = Map::new();
    let mut remove = Vec::new();
    if passes {
        for hidden in scope.nearest("proxy_hide_header") {
            fates.carried(hidden, "");
            remove.push(hidden.arg(0).to_owned());
        }
    }
    if !remove.is_empty() {
        response.insert("remove".to_owned(), remove.into());
    }
    for (key, changes) in [("set", set), ("add", add)] {
        if !changes.is_empty() {
            response.insert(key.to_owned(), changes.into());
        }
    }
    if !usual.is_empty() || !usual_set.is_empty() || expires.is_some() {
        let mut statuses = USUAL.to_vec();
        if is_files {
            // nginx finds that a range is not in the file once the headers are there.
            statuses.push(416);
        }
        let mut value = json!({ "status": statuses });
        if !usual.is_empty() {
            value["add"] = usual.into();
        }
        if let Some([control, date]) = expires {
            usual_set.insert("Cache-Control".to_owned(), control.into());
            usual_set.insert("Expires".to_owned(), date.into());
        }
        if !usual_set.is_empty() {
            value["set"] = usual_set.into();
        }
        response.insert("by_status".to_owned(), json!([value]));
    }
    let mut all = Map::new();
    if passes {
        let request = request_headers(scope, filters, fates);
        if !request.is_empty() {
            all.insert("request".to_owned(), request.into());
        }
    }
    if !response.is_empty() {
        all.insert("response".to_owned(), response.into());
    }
    if !all.is_empty() {
        filters.keys.insert("headers".to_owned(), all.into());
    }
}

/// Returns the headers of errors that all servers have: those of a request that is refused before
/// its server is known.
pub(super) fn common(servers: &Servers<'_>) -> Option<Value> {
    let ids = |server: &Server<'_>| -> Vec<usize> {
        let all = server.scope.nearest("add_header").into_iter();
        all.map(|directive| directive.id).collect()
    };
    let (first, others) = servers.list.split_first()?;
    let own = ids(first);
    if !others.iter().all(|other| ids(other) == own) {
        return None;
    }
    let (mut add, mut set) = (Map::new(), Map::new());
    for directive in first.scope.nearest("add_header") {
        let name = directive.arg(0);
        let always = directive.args.iter().any(|arg| arg == "always");
        // Nothing is known yet that a variable may stand for.
        let value = plain(directive.arg(1)).filter(|value| !value.is_empty());
        let Some(value) = value.filter(|_| always) else {
            continue;
        };
        let is_security = is_security_header(&name.to_ascii_lowercase());
        let to = if is_security { &mut set } else { &mut add };
        to.entry(name).or_insert(value.into());
    }
    let mut response = Map::new();
    for (key, changes) in [("set", set), ("add", add)] {
        if !changes.is_empty() {
            response.insert(key.to_owned(), changes.into());
        }
    }
    (!response.is_empty()).then(|| json!({ "response": response }))
}

/// Returns `Cache-Control` and `Expires` for `expires`.
fn expiry(expires: &Directive, fates: &mut Fates) -> Option<[String; 2]> {
    const EPOCH: &str = "Thu, 01 Jan 1970 00:00:01 GMT";
    let pair = |control: &str, date: &str| Some([control.to_owned(), date.to_owned()]);
    let found = match expires.arg(0) {
        "off" => {
            fates.carried(expires, "");
            return None;
        }
        "max" => pair("max-age=315360000", "Thu, 31 Dec 2037 23:55:55 GMT"),
        "epoch" => pair("no-cache", EPOCH),
        text if text.starts_with('-') => {
            fates.changed(expires, "`Expires` is 1970");
            return pair("no-cache", EPOCH);
        }
        text if expires.args.len() == 1 => milliseconds(text.trim_start_matches('+')).map(|ms| {
            let seconds = ms / 1_000;
            [format!("max-age={seconds}"), format!("{{date+{seconds}s}}")]
        }),
        _ => None,
    };
    match found {
        Some(_) => fates.carried(expires, ""),
        None => fates.lost(expires, "this time has no counterpart"),
    }
    found
}

/// Headers that the gateway sends to every backend, with the values that they may be set to.
const SENT: [(&str, &[&str]); 6] = [
    ("x-real-ip", &["$remote_addr"]),
    (
        "x-forwarded-for",
        &["$proxy_add_x_forwarded_for", "$remote_addr"],
    ),
    ("x-forwarded-proto", &["$scheme"]),
    ("x-forwarded-host", &["$host", "$http_host"]),
    ("x-forwarded-port", &["$server_port"]),
    ("x-request-id", &["$request_id"]),
];

/// Headers by which the two ends of a connection understand each other.
const FRAMING: [&str; 5] = [
    "content-length",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
];

fn request_headers(
    scope: &Scope<'_>,
    filters: &mut Filters,
    fates: &mut Fates,
) -> Map<String, Value> {
    let (mut set, mut remove) = (Map::new(), Vec::new());
    let copied: Vec<String> = scope
        .nearest("auth_request_set")
        .iter()
        .filter_map(|set| set.arg(1).strip_prefix("$upstream_http_"))
        .map(|name| name.replace('_', "-"))
        .collect();
    for directive in scope.nearest("proxy_set_header") {
        let (name, value) = (directive.arg(0), directive.arg(1));
        let lower = name.to_ascii_lowercase();
        if ["host", "connection", "upgrade"].contains(&&*lower) {
            continue;
        }
        if let Some((_, values)) = SENT.iter().find(|(sent, _)| *sent == lower) {
            match value {
                value if values.contains(&value) => fates.carried(directive, "sent in any case"),
                _ => fates.lost(directive, "the gateway sets this header itself"),
            }
            continue;
        }
        let sends_none = || {
            let body = scope.one("proxy_pass_request_body");
            body.is_some_and(|body| body.arg(0) == "off")
        };
        if lower == "content-length" && value.is_empty() && sends_none() {
            fates.carried(directive, "");
            continue;
        }
        if FRAMING.contains(&&*lower) {
            fates.lost(directive, "a header of the connection cannot be changed");
            continue;
        }
        if value == "$remote_user"
            && let Some(login) = filters.keys.get_mut("basic_auth")
        {
            fates.carried(directive, "");
            login["forward"] = name.into();
            continue;
        }
        match header(value, scope) {
            Some(value) if value.is_empty() => {
                fates.carried(directive, "");
                remove.push(name.to_owned());
            }
            Some(value) => {
                mark(directive, &value, scope, fates);
                set.insert(name.to_owned(), value.into());
            }
            // What nginx would have overwritten must not come from a client.
            None if !copied.contains(&lower) => {
                let note = "a variable of its value has no counterpart: the header is removed";
                fates.lost(directive, note);
                remove.push(name.to_owned());
            }
            None => fates.lost(
                directive,
                "the header has the name that the service gives it",
            ),
        }
    }
    let mut request = Map::new();
    if !remove.is_empty() {
        request.insert("remove".to_owned(), remove.into());
    }
    if !set.is_empty() {
        request.insert("set".to_owned(), set.into());
    }
    request
}
