//! Gates of a location besides the filters of its scope: `limit_except`, and another service by
//! `auth_request`.

use serde_json::{Map, Value, json};

use super::{
    locations::{Location, Place, Routes},
    output::add_to,
    parse::Directive,
    scope::Scope,
    tables,
    upstreams::Destination,
};

impl<'a> Routes<'a, '_> {
    /// Translates `limit_except`: a filter of methods, or the rule that leads other methods to a
    /// route of their own. With `has_rules`, the rules of the location are not for other methods.
    pub(super) fn limit_except(
        &mut self,
        place: &Place<'_, 'a>,
        location: &Location<'a>,
        has_rules: bool,
        keys: &mut Map<String, Value>,
    ) -> Option<Value> {
        let directive = location.scope.own("limit_except").first().copied()?;
        directive.carried("");
        let denies =
            matches!(directive.children(), [one] if one.name == "deny" && one.args == ["all"]);
        if denies {
            for inner in directive.children() {
                inner.carried("");
            }
            let methods = json!({ "allow": directive.args, "status": 403 });
            keys.insert("methods".to_owned(), methods);
            return has_rules.then(|| for_others(directive, json!({ "status": 403 })));
        }
        let scope = location.scope.inner(directive);
        let route = self.named_block(place, location, directive, &scope);
        Some(for_others(
            directive,
            json!({ "route": route, "then": "stop" }),
        ))
    }

    /// Translates `auth_request`; returns true if what it guards must be closed.
    pub(super) fn forward_auth(
        &mut self,
        location: &Location<'a>,
        place: &Place<'_, 'a>,
        keys: &mut Map<String, Value>,
    ) -> bool {
        let Some(directive) = location.scope.one("auth_request") else {
            return false;
        };
        let path = directive.arg(0);
        if path == "off" {
            directive.carried("");
            return false;
        }
        let exact = format!("= {path}");
        let is_around = |other: &&Location<'_>| {
            let around = other.path().filter(|_| !other.text.starts_with('='));
            around.is_some_and(|around| path.starts_with(around))
        };
        let length = |other: &&Location<'_>| other.path().map(str::len);
        let all = place.locations.iter();
        let around = { all.clone() }.filter(is_around).max_by_key(length);
        let target = { all }
            .find(|other| other.text == exact || other.text == path)
            .or(around.filter(|other| other.directive.id != location.directive.id));
        if target.is_some_and(|target| target.directive.id == location.directive.id) {
            return false;
        }
        let url = target.and_then(|target| {
            // A location without its own may hand on to a named one.
            let tried = target.scope.own("try_files").first().copied();
            let name = match tried.map(|tried| &tried.args[..]) {
                None => None,
                Some([none, name]) if none == "/dev/null" => Some(name.strip_prefix('@')?),
                Some(_) => return None,
            };
            let mut named = place.named.iter().filter(|one| Some(&*one.name) == name);
            let scope = named.next().map_or(&target.scope, |named| &named.scope);
            let has_rules = |scope: &Scope<'_>| {
                let rules = ["if", "return", "rewrite"].iter();
                rules.copied().any(|rule| !scope.own(rule).is_empty())
            };
            if has_rules(scope) || has_rules(&target.scope) {
                return None;
            }
            let pass = scope.own("proxy_pass").first().copied()?;
            let url = tables::header(pass.arg(0), scope);
            let to = Destination::parse(&url.filter(|url| !url.contains('{'))?)?;
            let authority = self.upstreams.first_address(&to.authority)?;
            let scheme = if to.is_tls { "https" } else { "http" };
            let rest = target.path().and_then(|around| path.strip_prefix(around));
            let rest = rest.filter(|_| !pass.arg(0).contains('$'));
            let path = to
                .path
                .map_or(path.to_owned(), |to| to + rest.unwrap_or_default());
            Some(format!("{scheme}://{authority}{path}"))
        });
        let Some(url) = url else {
            directive.closed("its location does not lead to a service by a fixed URL");
            return true;
        };
        for (name, value) in [("proxy_pass_request_body", "off"), ("proxy_method", "GET")] {
            let scope = target.map(|target| &target.scope);
            for one in scope.map(|scope| scope.nearest(name)).unwrap_or_default() {
                if one.arg(0).eq_ignore_ascii_case(value) {
                    one.carried("always so");
                }
            }
        }
        directive
            .changed("the service gets only `Cookie`, `Authorization` and the forwarding headers");
        let mut copy = Vec::new();
        for set in location.scope.nearest("auth_request_set") {
            let Some(name) = set.arg(1).strip_prefix("$upstream_http_") else {
                set.lost("only headers of the response have a counterpart");
                continue;
            };
            let name = name.replace('_', "-");
            let headers = location.scope.nearest("proxy_set_header").into_iter();
            let uses = headers.filter(|header| header.arg(1) == set.arg(0));
            for header in uses {
                header.carried("");
                copy.push(match header.arg(0) {
                    own if own.eq_ignore_ascii_case(&name) => name.clone(),
                    other => format!("{name} as {other}"),
                });
            }
            set.carried("");
        }
        let mut value = json!({ "url": url, "refusals": "own" });
        add_to(&mut value, "copy", copy);
        keys.insert("forward_auth".to_owned(), value);
        false
    }
}

/// Returns a rule for other methods than those of a `limit_except`.
fn for_others(directive: &Directive, mut rule: Value) -> Value {
    let mut methods = directive.args.clone();
    methods.extend((methods.iter().any(|method| method == "GET")).then(|| "HEAD".to_owned()));
    rule["if"] = "{method}".into();
    rule["is"] = format!("~^(?:{})$", methods.join("|")).into();
    rule["not"] = true.into();
    rule
}
