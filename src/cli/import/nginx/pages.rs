//! Own pages for errors: `error_page` and `proxy_intercept_errors`.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{
    locations::Location,
    parse::Directive,
    report::Fates,
    scope::Scope,
    servers::Server,
    tables::header,
    upstreams::{Destination, Upstreams},
    words::{Piece, pieces, plain},
};

/// Locations that a page may come from.
pub(super) struct Sources<'s, 'a> {
    pub(super) server: &'s Server<'a>,
    pub(super) found: &'s [Location<'a>],
    pub(super) named: &'s [(String, Scope<'a>, &'a Directive)],
}

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

/// Page in the words of the gateway, and what the report says of it.
struct Page<'a> {
    value: Value,
    carried: Option<&'a Directive>,
    note: String,
}

/// Translates the pages of a location. `passes`: the location sends requests to a backend.
pub(super) fn of<'a>(
    scope: &Scope<'a>,
    sources: &Sources<'_, 'a>,
    passes: bool,
    keys: &mut Map<String, Value>,
    (upstreams, fates): (&mut Upstreams<'a>, &mut Fates),
) {
    let is_served = keys
        .get("files")
        .is_some_and(|files| files.get("not_found").is_some());
    let mut pages = Map::new();
    for directive in scope.nearest("error_page") {
        let [codes @ .., uri] = &directive.args[..] else {
            continue;
        };
        let codes: Vec<&str> = codes.iter().map(String::as_str).collect();
        if is_served && codes == ["404"] {
            // It is `files.not_found`.
            continue;
        }
        let (codes, status) = match codes.split_last() {
            Some((last, codes)) if last.starts_with('=') => match last[1..].parse() {
                Ok(code) => (codes, Status::Given(code)),
                Err(_) => (codes, Status::OfPage),
            },
            _ => (&codes[..], Status::Kept),
        };
        match page((uri, codes, status), scope, sources, (upstreams, fates)) {
            Ok(page) => {
                if let Some(carried) = page.carried {
                    fates.carried(carried, "");
                }
                for code in codes {
                    pages.entry(*code).or_insert_with(|| page.value.clone());
                }
                fates.changed(directive, page.note);
            }
            Err(why) => fates.lost(directive, format!("{why}: built-in page")),
        }
    }
    let intercept = scope
        .one("proxy_intercept_errors")
        .filter(|directive| passes && directive.is_on());
    if let Some(directive) = intercept {
        fates.carried(directive, "");
    }
    if !pages.is_empty() {
        let mut value = json!({ "pages": pages });
        if intercept.is_some() {
            value["intercept"] = true.into();
        }
        keys.insert("error_pages".to_owned(), value);
    }
}

/// Returns the page for these statuses.
fn page<'a>(
    (uri, codes, status): (&str, &[&str], Status),
    scope: &Scope<'_>,
    sources: &Sources<'_, 'a>,
    (upstreams, fates): (&mut Upstreams<'a>, &mut Fates),
) -> Result<Page<'a>, String> {
    let is_error = |code: &&str| {
        code.parse::<u16>()
            .is_ok_and(|code| (400..600).contains(&code))
    };
    if codes.is_empty() || !codes.iter().all(is_error) {
        return Err("a status below 400 has no counterpart".to_owned());
    }
    if let Some(name) = uri.strip_prefix('@') {
        let mut named = sources.named.iter();
        let (_, scope, _) = named
            .find(|(known, ..)| known == name)
            .ok_or("there is no such location")?;
        return match scope.own("proxy_pass").first().copied() {
            Some(pass) => of_upstream(pass, None, status, scope, (upstreams, fates)),
            None => returned(scope, status),
        };
    }
    if uri.starts_with("http://") || uri.starts_with("https://") {
        let code = match status {
            Status::Given(code) if is_redirect(code) => code,
            _ => 302,
        };
        return Ok(Page {
            value: redirect(uri, code, scope)?,
            carried: None,
            note: NO_HEADERS.to_owned(),
        });
    }
    let path = plain(uri).filter(|uri| uri.starts_with('/') && !uri.contains('?'));
    let path = path.ok_or("a path with variables or a query has no counterpart")?;
    let location = serving(&path, sources.found);
    let scope = location.map_or(&sources.server.scope, |location| &location.scope);
    if let Some(pass) = scope.own("proxy_pass").first().copied() {
        let prefix = location.map_or("", |location| location.text.as_str());
        let at = Some((&*path, prefix));
        return of_upstream(pass, at, status, scope, (upstreams, fates));
    }
    if scope.own("return").is_empty() {
        file(&path, status, scope)
    } else {
        returned(scope, status)
    }
}

/// Note on a page that an upstream has. The header names are those that nginx sends and this gateway
/// does not, or the other way round.
const OF_UPSTREAM: &str = "its upstream gets `host` as the client sent it and the forwarding headers, \
     but no headers that the request's own location sets, nor those of `proxy_set_header` of the \
     page's own location; of a request that was refused, or of whose body more than 64 KiB were sent \
     before, it gets a `GET` without a body, `content-type`, `if-none-match`, `if-modified-since` and \
     `range`; the client gets a page of at most 1 MiB, with the headers of the request's location, \
     not those of the page's own location, and, with the status of an error, with `cache-control: no-store`, without `etag` and \
     `accept-ranges`; without a response of that upstream, for a page that is the client's own path \
     and a body that was sent before, or for a request that was refused and whose page would be its \
     own path at the upstream of its location, the built-in page with the first status";

/// Directives that decide who gets a page, or what its upstream is asked for.
const DECIDING: [&str; 9] = [
    "allow",
    "deny",
    "auth_basic",
    "auth_request",
    "limit_req",
    "limit_conn",
    "rewrite",
    "if",
    "return",
];

/// Returns the page that an upstream has. `at` is its path and the text of its location; of a named
/// location it is the request's own.
fn of_upstream<'a>(
    pass: &'a Directive,
    at: Option<(&str, &str)>,
    status: Status,
    scope: &Scope<'a>,
    (upstreams, fates): (&mut Upstreams<'a>, &mut Fates),
) -> Result<Page<'a>, String> {
    let mut deciding = DECIDING.iter();
    if let Some(name) = deciding.find(|name| !scope.own(name).is_empty()) {
        return Err(format!("its location has `{name}`"));
    }
    let to = plain(pass.arg(0)).and_then(|url| Destination::parse(&url));
    let to = to.ok_or("its destination has variables")?;
    let path = match (at, &to.path) {
        (None, _) => None,
        (Some((path, _)), None) => Some(path.to_owned()),
        (Some((path, text)), Some(own)) => {
            let prefix = text.trim_start_matches("^~ ").trim_start_matches("= ");
            let rest = path.strip_prefix(prefix).unwrap_or_default();
            Some(format!("{own}{rest}"))
        }
    };
    let name = upstreams.name(&to, pass, scope, fates);
    let mut value = json!({ "upstream": name, "as_sent": true });
    if let Some(path) = path {
        value["path"] = path.into();
    }
    match status {
        Status::Kept => {}
        Status::OfPage => value["own_status"] = true.into(),
        Status::Given(code) => {
            if !(200..600).contains(&code) || is_redirect(code) || matches!(code, 204..=206 | 304) {
                return Err(format!("status {code} of a page has no counterpart"));
            }
            value["status"] = code.into();
        }
    }
    Ok(Page {
        value,
        carried: Some(pass),
        note: OF_UPSTREAM.to_owned(),
    })
}

pub(super) const NO_HEADERS: &str =
    "with the headers of the request's location, not those of the page's own location";

const FILE: &str = "with `cache-control: no-store`, without `etag`, `last-modified` and \
                    `accept-ranges`, with the headers of the request's location, not those of the \
                    page's own location; nginx has 413 in its place for bodies beyond the limit of \
                    that location";

const FILE_AS_SUCCESS: &str = "with the headers of the request's location, not those of the page's own \
                               location; conditions and ranges have an effect for `GET` and `HEAD` \
                               alone, a range that is not in the file has none, and no 304 takes the \
                               place of a backend's error; nginx has 413 in its place for bodies beyond \
                               the limit of that location";

/// Media types of files that are no HTML.
const TYPES: [(&str, &str); 12] = [
    ("css", "text/css"),
    ("gif", "image/gif"),
    ("ico", "image/x-icon"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("js", "application/javascript"),
    ("json", "application/json"),
    ("png", "image/png"),
    ("svg", "image/svg+xml"),
    ("txt", "text/plain"),
    ("webp", "image/webp"),
    ("xml", "text/xml"),
];

/// Returns the page that is a file.
fn file<'a>(path: &str, status: Status, scope: &Scope<'a>) -> Result<Page<'a>, String> {
    let acts = |one: &Directive| {
        matches!(
            &*one.name,
            "alias" | "proxy_pass" | "return" | "rewrite" | "try_files"
        )
    };
    let root = scope
        .one("root")
        .filter(|_| !scope.innermost().iter().any(acts))
        .and_then(|root| Some((root, plain(root.arg(0))?)));
    let (directive, root) = root.ok_or("its location serves no files")?;
    let file = format!("{}{path}", root.trim_end_matches('/'));
    let extension = Path::new(&file).extension();
    let extension = extension.and_then(|own| own.to_str()).unwrap_or_default();
    let mut value = json!({ "file": file });
    if !matches!(extension, "html" | "htm") {
        let mut types = TYPES.iter();
        let known = types.find(|(own, _)| *own == extension);
        let (_, media_type) = known.ok_or("its media type is not known")?;
        value["content_type"] = (*media_type).into();
    }
    if !Path::new(&file).is_file() {
        return Err(format!("`{file}` is not there"));
    }
    let mut note = match status {
        Status::OfPage | Status::Given(200) => FILE_AS_SUCCESS,
        Status::Kept | Status::Given(_) => FILE,
    }
    .to_owned();
    let code = match status {
        Status::Kept => None,
        Status::OfPage => Some(200),
        Status::Given(code) => Some(code),
    };
    if let Some(code) = code {
        if !(200..600).contains(&code) || is_redirect(code) || matches!(code, 204..=206 | 304) {
            return Err(format!("status {code} of a file has no counterpart"));
        }
        value["status"] = code.into();
        if code != 200 {
            note.push_str("; conditions and ranges have no effect on the page");
        }
    }
    Ok(Page {
        value,
        carried: Some(directive),
        note,
    })
}

/// Returns the page that a location returns itself.
fn returned<'a>(scope: &Scope<'a>, status: Status) -> Result<Page<'a>, String> {
    let own = scope.own("return");
    let directive = own.first().copied().ok_or("its location has no `return`")?;
    let first = directive.arg(0);
    let (code, text) = match first.parse::<u16>() {
        Ok(code) => (code, directive.arg(1)),
        Err(_) => (302, first),
    };
    if is_redirect(code) {
        return Ok(Page {
            value: redirect(text, code, scope)?,
            carried: Some(directive),
            note: NO_HEADERS.to_owned(),
        });
    }
    if directive.args.len() < 2 || !(200..600).contains(&code) || matches!(code, 204..=206 | 304) {
        return Err("its location returns no text".to_owned());
    }
    let body = plain(text).ok_or("its text has variables")?;
    let kind = scope
        .one("default_type")
        .map_or("text/plain", |kind| kind.arg(0));
    let mut value = json!({ "body": body, "content_type": kind });
    match status {
        Status::Kept => {}
        Status::OfPage => value["status"] = code.into(),
        Status::Given(code) if is_redirect(code) => {
            return Err(format!("status {code} of a text has no counterpart"));
        }
        Status::Given(code) => value["status"] = code.into(),
    }
    let note = format!(
        "with `cache-control: no-store`, {NO_HEADERS}; `content-type` whatever the path ends in"
    );
    Ok(Page {
        value,
        carried: Some(directive),
        note,
    })
}

fn is_redirect(code: u16) -> bool {
    matches!(code, 301 | 302 | 303 | 307 | 308)
}

/// Returns the page that is a redirect.
fn redirect(to: &str, code: u16, scope: &Scope<'_>) -> Result<Value, String> {
    let is_url = match pieces(to).first() {
        Some(Piece::Text(text)) => text.starts_with(['/', 'h']),
        Some(Piece::Variable(name)) => name == "scheme",
        None => false,
    };
    let to = header(to, scope).filter(|_| is_url);
    let to = to.ok_or("a variable of its target has no counterpart")?;
    Ok(json!({ "redirect": to, "status": code }))
}

/// Returns the location that serves a path: an exact one, or the longest prefix.
pub(super) fn serving<'f, 'a>(path: &str, found: &'f [Location<'a>]) -> Option<&'f Location<'a>> {
    let exact = found
        .iter()
        .find(|location| location.text.strip_prefix("= ") == Some(path));
    let prefixes = found.iter().filter_map(|location| {
        let prefix = location.text.trim_start_matches("^~ ");
        (prefix.starts_with('/') && path.starts_with(prefix)).then_some((prefix.len(), location))
    });
    let longest = prefixes.max_by_key(|(length, _)| *length);
    exact.or(longest.map(|(_, location)| location))
}
