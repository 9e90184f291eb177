//! Headers of a location: those that it adds, and those that backends get.

use serde_json::{Map, Value, json};

use super::{
    directives::is_listed,
    filters::Filters,
    media,
    output::{add_to, put},
    parse::Directive,
    scope::Scope,
    servers::{Server, Servers},
    tables::{self, mark},
    variables::{self, At},
    words::{duration, milliseconds, plain},
};

/// Statuses to which nginx adds headers without `always`.
const USUAL: [u16; 10] = [200, 201, 204, 206, 301, 302, 303, 304, 307, 308];

/// Translates changes of headers.
pub(super) fn convert(scope: &Scope<'_>, (passes, is_files): (bool, bool), filters: &mut Filters) {
    let (mut add, mut usual) = (Map::new(), Map::new());
    let (mut set, mut usual_set) = (Map::new(), Map::new());
    let (mut remove, mut usual_remove) = (Vec::new(), Vec::new());
    for directive in scope.nearest("add_header") {
        let (name, value) = (directive.arg(0), directive.arg(1));
        let always = directive.args.iter().any(|arg| arg == "always");
        let lower = name.to_ascii_lowercase();
        if is_listed("framing", &lower) || ["connection", "upgrade", "host"].contains(&&*lower) {
            directive.changed("a header of the connection is the gateway's own");
            continue;
        }
        // nginx replaces these two, and with an empty value removes them.
        let is_own = matches!(&*lower, "etag" | "last-modified");
        let removed = if always {
            &mut remove
        } else {
            &mut usual_remove
        };
        let value = variables::value(value, At::response(scope).lenient());
        match &value {
            Some(value) => mark(directive, value, scope),
            None => directive.lost("a variable of its value has no counterpart"),
        }
        let Some(value) = value.filter(|value| !value.is_empty()) else {
            removed.extend(is_own.then(|| name.to_owned()));
            continue;
        };
        let to = match (always, is_own) {
            (true, false) => &mut add,
            (true, true) => &mut set,
            (false, false) => &mut usual,
            (false, true) => &mut usual_set,
        };
        match to.get_mut(name) {
            None => drop(to.insert(name.to_owned(), value.into())),
            Some(Value::Array(all)) => all.push(value.into()),
            Some(known) => *known = json!([known.clone(), value]),
        }
    }
    if let Some(etag) = scope.one("etag").filter(|etag| is_files && !etag.is_on()) {
        etag.carried("");
        remove.push("ETag".to_owned());
    }
    more_headers(scope, &mut set, &mut remove);
    if passes && let Some(kind) = media::of_backend(scope) {
        set.entry("Content-Type").or_insert(kind.into());
    }
    let expires = scope
        .one("expires")
        .and_then(|expires| expiry(expires, scope));
    let mut response = Map::new();
    if passes {
        for hidden in scope.nearest("proxy_hide_header") {
            hidden.carried("");
            remove.push(hidden.arg(0).to_owned());
        }
    }
    if filters.keys.contains_key("cache") {
        // Before the lines of `add_header` with these names.
        remove.extend(["Cache-Status", "X-Cache-Status"].map(str::to_owned));
    }
    put(&mut response, "remove", remove);
    put(&mut response, "set", set);
    put(&mut response, "add", add);
    if let Some(expires) = expires {
        response.insert("expires".to_owned(), expires.into());
    }
    if !usual.is_empty() || !usual_set.is_empty() || !usual_remove.is_empty() {
        let mut statuses = USUAL.to_vec();
        if is_files {
            // nginx finds that a range is not in the file once the headers are there.
            statuses.push(416);
        }
        let mut value = json!({ "status": statuses });
        add_to(&mut value, "remove", usual_remove);
        add_to(&mut value, "add", usual);
        add_to(&mut value, "set", usual_set);
        response.insert("by_status".to_owned(), json!([value]));
    }
    let mut all = Map::new();
    if passes {
        let request = request_headers(scope, filters);
        put(&mut all, "request", request);
    }
    put(&mut all, "response", response);
    put(&mut filters.keys, "headers", all);
}

/// Translates the module that sets and clears headers of any response; those around a block hold in
/// it as well.
fn more_headers(scope: &Scope<'_>, set: &mut Map<String, Value>, remove: &mut Vec<String>) {
    for directive in scope.all_of(&["more_set_headers", "more_clear_headers"]) {
        if directive.args.iter().any(|arg| arg.starts_with('-')) {
            directive.lost("only headers of all responses have a counterpart");
            continue;
        }
        for arg in &directive.args {
            let (name, text) = arg.split_once(':').unwrap_or((arg, ""));
            let name = name.trim();
            let value = variables::value(text.trim(), At::response(scope).lenient());
            set.retain(|known, _| !known.eq_ignore_ascii_case(name));
            match value {
                _ if name.eq_ignore_ascii_case("server") => {
                    directive.changed("no response has `Server`");
                }
                _ if name.contains(['*', ' ']) => {
                    directive.lost("names with `*` or a blank have no counterpart");
                }
                Some(value) if value.is_empty() => {
                    directive.carried("");
                    remove.push(name.to_owned());
                }
                Some(value) => {
                    mark(directive, &value, scope);
                    set.insert(name.to_owned(), value.into());
                }
                None => directive.lost("a variable of its value has no counterpart"),
            }
        }
    }
}

/// Returns the directives of these names that apply to a scope.
pub(super) fn ids(scope: &Scope<'_>, names: &[&str]) -> Vec<usize> {
    let all = names.iter().flat_map(|name| scope.nearest(name));
    all.map(|directive| directive.id).collect()
}

/// Returns the headers of a request that is refused before its server is known: what all default
/// servers with TLS add, and what all others add.
pub(super) fn common(servers: &Servers<'_>, http: &Scope<'_>) -> Option<Value> {
    let place = servers.list.first()?.directive.place();
    let [tls, clear] = [true, false].map(|is_tls| shared(servers.defaults(is_tls)));
    let tls_or_not = [
        tls.as_ref().or(clear.as_ref())?,
        clear.as_ref().or(tls.as_ref())?,
    ];
    let mut add = Map::new();
    for name in tls_or_not.iter().flat_map(|all| all.keys()) {
        let [one, other] = tls_or_not.map(|all| all.get(name));
        let by_scheme = || {
            let both = [("https", one), ("http", other)].into_iter();
            let known =
                both.filter_map(|(scheme, value)| Some((scheme.to_owned(), value?.clone())));
            let values: Map<_, _> = known.collect();
            let table = format!("refused.{}", name.to_ascii_lowercase());
            let value = json!({ "from": "{scheme}", "values": values });
            variables::add(&table, place.clone(), value, http).into()
        };
        let value = one.filter(|_| one == other).cloned();
        add.insert(name.clone(), value.unwrap_or_else(by_scheme));
    }
    (!add.is_empty()).then(|| json!({ "response": { "add": add } }))
}

/// Returns the headers that servers add to all responses, if they have them from the same lines.
fn shared<'s, 'a: 's>(
    mut servers: impl Iterator<Item = &'s Server<'a>>,
) -> Option<Map<String, Value>> {
    let ids = |server: &Server<'_>| ids(&server.scope, &["add_header"]);
    let first = servers.next()?;
    let lines = ids(first);
    let mut add = Map::new();
    if !servers.all(|other| ids(other) == lines) {
        return Some(add);
    }
    for directive in first.scope.nearest("add_header") {
        let always = directive.args.iter().any(|arg| arg == "always");
        // Nothing is known yet that a variable may stand for.
        let value = plain(directive.arg(1)).filter(|value| !value.is_empty());
        if let Some(value) = value.filter(|_| always) {
            add.entry(directive.arg(0)).or_insert(value.into());
        }
    }
    Some(add)
}

/// Settles headers of a route all of whose responses are redirects, which with nginx are HTML.
pub(super) fn settle_redirects(keys: &mut Map<String, Value>, scope: &Scope<'_>) {
    let response = keys.get_mut("headers").map(|all| &mut all["response"]);
    let expires = response.and_then(|response| response.get_mut("expires"));
    if let Some(expires) = expires
        && let Some(text) = expires.as_str()
        && let Some(settled) = tables::of_html(text, scope)
    {
        *expires = settled.into();
    }
}

/// Returns the text of `expires`; `None` if there is nothing to send.
fn expiry(expires: &Directive, scope: &Scope<'_>) -> Option<String> {
    let text = expires.args.join(" ");
    let value = match text.strip_prefix('$') {
        Some(variable) => expiry_by_table(variable, expires, scope),
        None => time(&text),
    };
    match &value {
        Some(_) if text.starts_with('@') => {
            expires.changed("the time of the day is that of UTC");
        }
        Some(value) if tables::is_by_media_type(value, scope) => {
            expires.changed(tables::REDIRECTS);
        }
        Some(_) => expires.carried(""),
        None => expires.lost("this time has no counterpart"),
    }
    value.filter(|value| value != "off")
}

/// Returns a time of `expires` in the gateway's units.
fn time(text: &str) -> Option<String> {
    if matches!(text, "off" | "epoch" | "max" | "") {
        return Some(text.to_owned());
    }
    let modified = text.strip_prefix("modified ");
    let (begin, rest) = modified.map_or(("", text), |rest| ("modified ", rest.trim()));
    let (sign, rest) = ["@", "-", "+"]
        .into_iter()
        .find_map(|sign| Some((sign, rest.strip_prefix(sign)?)))
        .unwrap_or(("", rest));
    let span = duration(milliseconds(rest)?);
    Some(format!("{begin}{sign}{span}"))
}

/// Returns a table of times for one whose results `expires` takes.
fn expiry_by_table(variable: &str, expires: &Directive, scope: &Scope<'_>) -> Option<String> {
    let results = tables::results_or_empty(variable, scope)?;
    let mut values = Map::new();
    for result in results {
        // What is no time says nothing, as with nginx.
        let time = time(&result).unwrap_or_default();
        values.insert(result, time.into());
    }
    let value = json!({ "from": format!("{{map.{variable}}}"), "values": values });
    let name = format!("expires.{}", expires.line);
    Some(variables::add(&name, expires.place(), value, scope))
}

/// Headers that the gateway sends to every backend, with the values that they may be set to.
const SENT: [(&str, &[&str]); 6] = [
    ("x-real-ip", &["$remote_addr"]),
    (
        "x-forwarded-for",
        &["$proxy_add_x_forwarded_for", "$remote_addr"],
    ),
    ("x-forwarded-proto", &["$scheme"]),
    ("x-forwarded-host", &[]),
    // The port of the listener, which the gateway does not take if `Host` has another one.
    ("x-forwarded-port", &[]),
    ("x-request-id", &["$request_id"]),
];

fn request_headers(scope: &Scope<'_>, filters: &mut Filters) -> Map<String, Value> {
    let (mut set, mut remove) = (Map::new(), Vec::new());
    let asks = scope
        .one("auth_request")
        .is_some_and(|asks| asks.arg(0) != "off");
    let copied = scope.nearest("auth_request_set").into_iter();
    let copied = copied.filter(|set| asks && set.arg(1).starts_with("$upstream_http_"));
    let copied: Vec<&str> = copied.map(|set| set.arg(0)).collect();
    for directive in scope.nearest("proxy_set_header") {
        let (name, value) = (directive.arg(0), directive.arg(1));
        let lower = name.to_ascii_lowercase();
        // The headers that a service gives are those of `forward_auth`.
        if ["host", "connection", "upgrade"].contains(&&*lower) || copied.contains(&value) {
            continue;
        }
        if let Some((_, values)) = SENT.iter().find(|(sent, _)| *sent == lower) {
            match value {
                "$http_host" if lower == "x-forwarded-host" => {
                    directive.changed("in lower case");
                    continue;
                }
                value if values.contains(&value) => {
                    directive.carried("sent in any case");
                    continue;
                }
                _ => {}
            }
        }
        if lower == "range" && value == "$slice_range" {
            directive.carried("");
            continue;
        }
        let sends_none = || {
            let body = scope.one("proxy_pass_request_body");
            body.is_some_and(|body| body.arg(0) == "off")
        };
        if lower == "content-length" && value.is_empty() && sends_none() {
            directive.carried("");
            continue;
        }
        if is_listed("framing", &lower) {
            directive.lost("a header of the connection cannot be changed");
            continue;
        }
        if value == "$remote_user"
            && let Some(login) = filters.keys.get_mut("basic_auth")
        {
            directive.carried("");
            login["forward"] = name.into();
            continue;
        }
        match variables::value(value, At::request(scope).lenient()) {
            Some(value) if value.is_empty() && SENT.iter().any(|(sent, _)| *sent == lower) => {
                directive.lost("the gateway sends this header in any case");
            }
            Some(value) if value.is_empty() => {
                directive.carried("");
                remove.push(name.to_owned());
            }
            Some(value) => {
                mark(directive, &value, scope);
                set.insert(name.to_owned(), value.into());
            }
            // What nginx would have overwritten must not come from a client.
            None => {
                let note = "a variable of its value has no counterpart: the header is removed";
                directive.lost(note);
                remove.push(name.to_owned());
            }
        }
    }
    let mut request = Map::new();
    put(&mut request, "remove", remove);
    put(&mut request, "set", set);
    request
}
