//! Own pages for errors: `error_page` and `proxy_intercept_errors`.

use serde_json::{Map, Value, json};

use super::{
    collect::{NamedLocation, mark_and_path},
    locations::Place,
    output::put,
    parse::Directive,
    rules::is_redirect,
    scope::Scope,
    tables::{self, header_of_response},
    variables::{At, known},
};

/// Status that `error_page` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    /// That of the error.
    Kept,
    /// `=`: that of the page.
    OfPage,
    /// `=CODE`.
    Given(u16),
}

/// Note on a page of another location.
const OF_ROUTE: &str = "conditions and ranges apply to the page only if its status is 200; for a \
    refused request, the upstream of its page gets no body";
/// Note on a page that the client's own request is sent for.
const AS_SENT: &str = "a body of more than 64 KiB is not sent to a second upstream: the client gets the built-in \
    page; for a refused request, the upstream of its page gets no body, and a long one gets 413 first";

/// Note on a page of a status that is no error.
const BELOW: &str = "a status below 400 has no counterpart: such a response of a backend reaches the \
    client as it is, with its `Location`";

/// Returns the named location that requests of a status go to as they are (`error_page 404 = @app`).
pub(super) fn taking<'s, 'a>(
    status: &str,
    scope: &Scope<'_>,
    place: &Place<'s, 'a>,
) -> Option<&'s NamedLocation<'a>> {
    let mut pages = scope.nearest("error_page").into_iter();
    let page = pages.find(|page| page.args.iter().any(|arg| arg == status))?;
    let name = page.args.last()?.strip_prefix('@')?;
    let named = place.named.iter().find(|known| known.name == name)?;
    page.args.iter().any(|arg| arg == "=").then_some(named)
}

/// Translates the pages of a location. `passes`: the location sends requests to a backend.
pub(super) fn convert(
    scope: &Scope<'_>,
    place: &Place<'_, '_>,
    passes: bool,
    keys: &mut Map<String, Value>,
) {
    let intercept = scope
        .one("proxy_intercept_errors")
        .filter(|directive| passes && directive.is_on());
    let sets = scope.nearest("auth_request_set");
    let mut pages = Map::new();
    for directive in scope.nearest("error_page") {
        let [codes @ .., uri] = &directive.args[..] else {
            continue;
        };
        let codes: Vec<&str> = codes.iter().map(String::as_str).collect();
        let (codes, status) = match codes.split_last() {
            Some((last, codes)) if last.starts_with('=') => match last[1..].parse() {
                Ok(code) => (codes, Status::Given(code)),
                Err(_) => (codes, Status::OfPage),
            },
            _ => (&codes[..], Status::Kept),
        };
        let is_error = |code: &&&str| matches!(code.parse(), Ok(400..=599u16));
        let (codes, below): (Vec<&str>, Vec<&str>) = codes.iter().partition(is_error);
        if !below.is_empty() {
            if intercept.is_some() {
                directive.weaker(BELOW);
            }
            directive.lost(BELOW);
        }
        if codes.is_empty() {
            continue;
        }
        // The auth service has the URL of the login, for which nginx has a variable.
        let url = [uri.as_str(), "$upstream_http_location"];
        let is_login = codes == ["401"]
            && !matches!(status, Status::Given(301 | 303 | 307 | 308))
            && sets.iter().any(|set| set.args == url);
        if let Some(asks) = keys.get_mut("forward_auth").filter(|_| is_login) {
            asks["refusals"] = "redirect".into();
            directive.carried("");
            continue;
        }
        match page((uri, status), scope, place) {
            Ok((value, note)) => {
                for code in codes {
                    pages.entry(code).or_insert_with(|| value.clone());
                }
                match note {
                    "" => directive.carried(""),
                    note => directive.changed(note),
                }
            }
            Err(why) => directive.lost(format!("{why}: built-in page")),
        }
    }
    if let Some(directive) = intercept {
        directive.carried("");
    }
    let mut value = Map::new();
    if !pages.is_empty() {
        value.insert("pages".to_owned(), pages.into());
        if intercept.is_some() {
            value.insert("intercept".to_owned(), true.into());
        }
    }
    // The pages of nginx are HTML for everybody, and some headers of errors say so.
    let is_by_media_type = |directive: &&Directive| {
        let is_of_errors = directive.args.iter().any(|arg| arg == "always");
        let value = header_of_response(directive.arg(1), scope);
        is_of_errors && value.is_some_and(|value| tables::is_by_media_type(&value, scope))
    };
    if scope.nearest("add_header").iter().any(is_by_media_type) {
        value.insert("built_in".to_owned(), "html".into());
    }
    put(keys, "error_pages", value);
}

/// Returns a page, and what is different of it.
fn page(
    (uri, status): (&str, Status),
    scope: &Scope<'_>,
    place: &Place<'_, '_>,
) -> Result<(Value, &'static str), String> {
    if let Some(name) = uri.strip_prefix('@') {
        let mut named = place.named.iter();
        let known = named.find(|known| known.name == name);
        let known = known.ok_or("there is no such location")?;
        let value = json!({ "route": known.route });
        let has_backend = !known.scope.own("proxy_pass").is_empty();
        let note = if has_backend { AS_SENT } else { "" };
        return Ok((with_status(value, status)?, note));
    }
    let is_url = uri.starts_with("http://") || uri.starts_with("https://");
    if is_url || uri.starts_with("$scheme") {
        let code = match status {
            Status::Given(code) if is_redirect(code) => code,
            _ => 302,
        };
        let to = known(uri, At::request(scope))?;
        return Ok((json!({ "redirect": to, "status": code }), ""));
    }
    let path = known(uri, At::response(scope))?;
    if !path.starts_with(['/', '{']) {
        return Err("its page is not a path".to_owned());
    }
    // The status of a redirect replaces that of the error.
    let redirects = |one: &Directive| one.arg(0).parse().map_or(true, is_redirect);
    let is_redirected = place.locations.iter().any(|one| {
        let mut returns = one
            .directive
            .children()
            .iter()
            .filter(|it| it.name == "return");
        mark_and_path(one.directive).1 == uri && returns.any(redirects)
    });
    let status = if is_redirected {
        Status::OfPage
    } else {
        status
    };
    Ok((with_status(json!({ "reroute": path }), status)?, OF_ROUTE))
}

fn with_status(mut page: Value, status: Status) -> Result<Value, String> {
    match status {
        Status::Kept => {}
        Status::OfPage => page["own_status"] = true.into(),
        Status::Given(code) => {
            let is_known = (200..600).contains(&code)
                && !is_redirect(code)
                && !matches!(code, 204..=206 | 304 | 444);
            if !is_known {
                return Err(format!("status {code} of a page has no counterpart"));
            }
            page["status"] = code.into();
        }
    }
    Ok(page)
}
