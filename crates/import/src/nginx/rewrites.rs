//! Redirects and cookies of backends: `proxy_redirect`, `proxy_cookie_domain`, `proxy_cookie_path`
//! and `proxy_cookie_flags`.

use serde_json::{Map, Value, json};

use super::{
    output::put,
    parse::Directive,
    scope::Scope,
    tables::header,
    upstreams::Destination,
    words::{Piece, encoded, pieces, plain},
};

/// Returns the rules of a location that passes requests to `to`. `prefix`: its path, if it is no
/// regular expression.
pub(super) fn rules(
    (to, has_variables): (&Destination, bool),
    prefix: Option<&str>,
    scope: &Scope<'_>,
) -> Value {
    let mut rules = Map::new();
    rules.insert(
        "location".to_owned(),
        redirects((to, has_variables), prefix, scope).into(),
    );
    let mut cookies = Map::new();
    for (name, key) in [
        ("proxy_cookie_domain", "domain"),
        ("proxy_cookie_path", "path"),
    ] {
        let list: Vec<Value> = scope
            .nearest(name)
            .into_iter()
            .filter_map(|directive| texts(directive, scope))
            .collect();
        put(&mut cookies, key, list);
    }
    let flags: Vec<Value> = scope
        .nearest("proxy_cookie_flags")
        .into_iter()
        .filter_map(flags)
        .collect();
    put(&mut cookies, "flags", flags);
    put(&mut rules, "cookies", cookies);
    rules.into()
}

/// Returns the changes of `Location`.
fn redirects(
    (to, has_variables): (&Destination, bool),
    prefix: Option<&str>,
    scope: &Scope<'_>,
) -> Vec<Value> {
    let usual = || {
        let scheme = if to.is_tls { "https" } else { "http" };
        let authority = &to.authority;
        match (&to.path, prefix) {
            (Some(path), Some(prefix)) => {
                json!({ "from": format!("{scheme}://{authority}{}", encoded(path)), "to": encoded(prefix) })
            }
            (Some(_), None) => json!({ "from": format!("{scheme}://{authority}"), "to": "" }),
            (None, _) => json!({ "from": format!("{scheme}://{authority}/"), "to": "/" }),
        }
    };
    let written = scope.nearest("proxy_redirect");
    if written.is_empty() {
        // Of a destination with variables nginx knows no redirects.
        if has_variables {
            return Vec::new();
        }
        if let Some(pass) = scope
            .one("proxy_pass")
            .filter(|_| scope.is_within("proxy_pass"))
        {
            pass.changed(
                "redirects to this backend become redirects to the client's host; nginx changes \
                 redirects to the backend of the outer location",
            );
        }
        return vec![usual()];
    }
    let mut list = Vec::new();
    for directive in written {
        match directive.arg(0) {
            "off" => directive.carried(""),
            "default" => {
                directive.carried("");
                list.push(usual());
            }
            _ => list.extend(texts(directive, scope)),
        }
    }
    list
}

/// Returns a rule of two texts.
fn texts(directive: &Directive, scope: &Scope<'_>) -> Option<Value> {
    let (from, to) = (directive.arg(0), directive.arg(1));
    if from == "off" {
        directive.carried("");
        return None;
    }
    let is_regex = from.starts_with('~');
    let from = if is_regex {
        Some(from.to_owned())
    } else {
        plain(from)
    };
    let to = replacement(to, is_regex, scope);
    let is_known = from.as_deref().is_some_and(|from| {
        let regex = from.trim_start_matches('~').trim_start_matches('*');
        !is_regex || regex::Regex::new(regex).is_ok()
    });
    match (from, to) {
        (Some(from), Some(to)) if is_known => {
            directive.carried("");
            (from != to).then(|| json!({ "from": from, "to": to }))
        }
        _ => {
            directive.lost("a variable or an expression of it has no counterpart");
            None
        }
    }
}

/// Returns what takes the place of a text. A URL of the requested host becomes its path, which means
/// the same (RFC 9110, 10.2.2).
fn replacement(to: &str, is_regex: bool, scope: &Scope<'_>) -> Option<String> {
    let prefix = [
        "$scheme://$host:$server_port",
        "$scheme://$http_host",
        "$scheme://$host",
    ];
    let to = prefix
        .iter()
        .find_map(|prefix| to.strip_prefix(prefix))
        .unwrap_or(to);
    let mut out = String::new();
    for piece in pieces(to) {
        match piece {
            Piece::Variable(name) if name == "scheme" => out.push_str(scheme(scope)?),
            Piece::Text(text) if is_regex => out.push_str(&text.replace('$', "$$")),
            Piece::Text(text) => out.push_str(&text),
            Piece::Variable(name) if is_regex && name.parse::<u8>().is_ok() => {
                out.extend(["${", &name, "}"]);
            }
            Piece::Variable(name) => {
                let text = header(&format!("${{{name}}}"), scope)?;
                if text.contains('{') {
                    return None;
                }
                out.push_str(&text);
            }
        }
    }
    Some(out)
}

/// Returns the scheme of all requests to a server; `None` if there are two.
fn scheme(scope: &Scope<'_>) -> Option<&'static str> {
    let listens = scope.server()?.children().iter();
    let mut listens = listens.filter(|one| one.name == "listen");
    let has_all = scope.one("ssl").is_some_and(Directive::is_on);
    let has_tls = |listen: &Directive| has_all || listen.args.iter().any(|arg| arg == "ssl");
    let first = listens.next().is_some_and(has_tls);
    let scheme = if first { "https" } else { "http" };
    listens
        .all(|listen| has_tls(listen) == first)
        .then_some(scheme)
}

/// Returns the flags of the cookies with a name.
fn flags(directive: &Directive) -> Option<Value> {
    let name = directive.arg(0);
    if name == "off" {
        directive.carried("");
        return None;
    }
    if plain(name).is_none() && !name.starts_with('~') {
        directive.lost("names with variables have no counterpart");
        return None;
    }
    let mut value = json!({ "name": name });
    for flag in directive.args.iter().skip(1) {
        match flag.to_ascii_lowercase().as_str() {
            "secure" => value["secure"] = true.into(),
            "nosecure" => value["secure"] = false.into(),
            "httponly" => value["http_only"] = true.into(),
            "nohttponly" => value["http_only"] = false.into(),
            "nosamesite" => value["same_site"] = "remove".into(),
            "samesite=strict" => value["same_site"] = "strict".into(),
            "samesite=lax" => value["same_site"] = "lax".into(),
            "samesite=none" => value["same_site"] = "none".into(),
            flag => {
                directive.lost(format!("the flag `{flag}` is not known"));
                return None;
            }
        }
    }
    directive.carried("");
    Some(value)
}
