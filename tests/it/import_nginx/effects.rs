//! Effects of directives: the kinds of difference that an entry about each may explain. A
//! difference that nothing here allows needs another entry of the report, not a wider table.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use super::{
    compare::{CLOSED_BY_ITSELF, Difference, What},
    conf::Directive,
    draft::Drawn,
    servers::Entry,
};

/// Difference beside a line of the configuration.
pub(super) struct Effect<'a> {
    pub(super) request: &'a Drawn,
    pub(super) difference: &'a Difference,
    /// Difference of the same request's status, if there is one.
    pub(super) status: Option<&'a Difference>,
    pub(super) directive: &'a Directive,
    /// Status that nginx responded with.
    pub(super) code: u16,
    /// Headers that the configuration gives the use of the cache.
    pub(super) of_cache: &'a BTreeSet<String>,
}

/// Statuses that differ because of a directive: one of them on one side, since it keeps requests
/// out or lets them fail.
const STATUSES: [(&[&str], &[&str]); 10] = [
    (
        &[
            "limit_req",
            "limit_req_zone",
            "limit_req_status",
            "limit_conn",
            "limit_conn_zone",
        ],
        &["429", "503"],
    ),
    (
        &["auth_basic", "auth_basic_user_file", "auth_request"],
        &["401", "503"],
    ),
    (&["auth_request", "allow", "deny"], &["403"]),
    (&["satisfy"], &["401", "403"]),
    (&["client_max_body_size"], &["413"]),
    (
        &[
            "proxy_read_timeout",
            "proxy_connect_timeout",
            "proxy_send_timeout",
        ],
        &["502", "504"],
    ),
    (
        &["proxy_next_upstream", "proxy_pass", "max_fails", "upstream"],
        &["502", "503", "504"],
    ),
    (&["rewrite", "if"], &["503"]),
    (&["internal"], &["404"]),
    (
        &["ssl_certificate", "ssl_protocols", "listen"],
        &["0", "400", "421"],
    ),
];

/// Statuses that differ because of a directive: on both sides one of them.
const PAIRS: [(&[&str], &[&str]); 2] = [
    // What is not stored is passed on with its range and its conditions.
    (&["proxy_cache"], &["200", "206", "304", "416"]),
    (
        &["error_page", "proxy_intercept_errors"],
        &["404", "500", "502", "503", "504"],
    ),
];

/// Response headers that differ because of a directive, besides those that it names itself.
const HEADERS: [(&[&str], &[&str]); 9] = [
    (&["expires"], &["expires", "cache-control"]),
    (
        &[
            "proxy_cache",
            "proxy_cache_valid",
            "proxy_cache_key",
            "proxy_cache_path",
        ],
        &[
            "age",
            "cache-control",
            "expires",
            "x-served",
            "accept-ranges",
            "x-cache-status",
            "etag",
        ],
    ),
    (
        &[
            "default_type",
            "types",
            "return",
            "root",
            "alias",
            "try_files",
        ],
        &["content-type"],
    ),
    (
        &[
            "gzip",
            "gzip_types",
            "gzip_min_length",
            "gzip_proxied",
            "gzip_vary",
            "gzip_comp_level",
        ],
        &[
            "content-encoding",
            "vary",
            "etag",
            "accept-ranges",
            "content-range",
        ],
    ),
    (
        &["root", "alias", "try_files"],
        &[
            "accept-ranges",
            "content-range",
            "etag",
            "last-modified",
            "allow",
        ],
    ),
    (
        &["proxy_redirect", "proxy_pass", "return", "rewrite"],
        &["location", "refresh"],
    ),
    (
        &[
            "proxy_cookie_path",
            "proxy_cookie_domain",
            "proxy_cookie_flags",
        ],
        &["set-cookie"],
    ),
    (
        &["limit_req", "limit_conn", "limit_req_status"],
        &["retry-after", "ratelimit", "ratelimit-policy"],
    ),
    (&["auth_basic", "auth_request"], &["www-authenticate"]),
];

/// Words of an entry for a whole server, by what in the path of a request they explain.
const SPELLINGS: [(&str, &str); 4] = [
    ("/.", "dot segment"),
    ("//", "slash"),
    ("%", "percent"),
    ("*", "strict"),
];

/// Returns true if a difference may come from what an entry is about.
pub(super) fn fits(entry: &Entry, effect: &Effect<'_>) -> bool {
    let name = entry
        .directive
        .split_whitespace()
        .next()
        .unwrap_or_default();
    let note = &*entry.note;
    let difference = effect.difference;
    if matches!(name, "server" | "http") && effect.directive.block.is_some() {
        return fits_all(note, effect);
    }
    let about = |table: &[(&[&str], &[&str])], value: &str| {
        let mut rows = table.iter().filter(|(names, _)| names.contains(&name));
        rows.any(|(_, values)| values.contains(&value))
    };
    let status = |difference: &Difference| {
        let [theirs, ours] = [&*difference.nginx, &*difference.own];
        let is_either_304 = [theirs, ours].contains(&"304");
        let has = |name: &str| effect.request.header(name).is_some();
        let is_conditional = has("if-none-match") || has("if-modified-since");
        let is_returned = name == "return"
            && note.contains("condition")
            && is_either_304
            && is_conditional
            && [theirs, ours].contains(&effect.directive.first());
        let is_upgraded = name == "proxy_cache"
            && note.contains("request to upgrade")
            && ours == "101"
            && has("upgrade");
        // Of a cache, too, only what the entry says of conditions.
        let is_pair = about(&PAIRS, theirs)
            && about(&PAIRS, ours)
            && (name != "proxy_cache" || !is_either_304 || is_conditional);
        // A request that is refused as such is refused before any directive has an effect.
        let is_of_all = |status: &str| status == "400" && !about(&STATUSES, status);
        let is_either = (about(&STATUSES, theirs) || about(&STATUSES, ours))
            && !is_of_all(theirs)
            && !is_of_all(ours);
        is_pair
            || is_either
            || is_returned
            || is_upgraded
            || is_left_out(entry, name, (theirs, ours))
            || is_of_file(entry, (theirs, ours), effect)
            || is_of_page(entry, (theirs, ours), effect)
    };
    let argument = effect.directive.first().to_lowercase();
    match &difference.what {
        What::Status => status(difference),
        What::Asked | What::Broken => match effect.status {
            Some(found) => status(found),
            None => asks(name),
        },
        What::Page => replaces(name, effect),
        What::Header(header) => fits_header(entry, name, header, effect),
        What::Body => {
            name == "proxy_cache" || name == "error_page" && is_refused_page(note, effect)
        }
        What::Reuse => matches!(name, "keepalive_timeout" | "keepalive_requests"),
        What::Method => {
            matches!(name, "proxy_method" | "proxy_cache" | "auth_request")
                || name == "error_page" && difference.own == "GET" && is_not_as_sent(note, effect)
        }
        What::Target => {
            let is_encoded = name == "try_files" && note.contains("percent-encoded");
            is_encoded || matches!(name, "proxy_pass" | "rewrite" | "alias")
        }
        What::Checked => name == "auth_request",
        What::Sent(header) => {
            const OF_REQUEST: [&str; 4] = [
                "content-type",
                "if-none-match",
                "if-modified-since",
                "range",
            ];
            let is_own = name == "proxy_set_header" && argument == *header;
            let is_of_page = name == "error_page" && OF_REQUEST.contains(&header.as_str());
            is_own || names(note, header) && (!is_of_page || is_not_as_sent(note, effect))
        }
        What::SentBody => {
            let is_of_page = name == "error_page" && difference.own == "0";
            name == "proxy_pass_request_body"
                || is_of_page && (is_not_as_sent(note, effect) || is_refused_page(note, effect))
        }
    }
}

/// Uses of a cache as `$upstream_cache_status` has them.
const CACHED: [&str; 7] = [
    "HIT",
    "MISS",
    "BYPASS",
    "EXPIRED",
    "STALE",
    "UPDATING",
    "REVALIDATED",
];

/// Returns true if a header of a response may differ because of what an entry is about.
fn fits_header(entry: &Entry, name: &str, header: &str, effect: &Effect<'_>) -> bool {
    let (note, difference) = (&*entry.note, effect.difference);
    let argument = effect.directive.first().to_lowercase();
    let mut rows = HEADERS.iter().filter(|(names, _)| names.contains(&name));
    let is_known = rows.any(|(_, headers)| headers.contains(&header));
    let is_own = matches!(
        name,
        "add_header" | "proxy_hide_header" | "proxy_pass_header"
    );
    let (theirs, ours) = (&difference.nginx, &difference.own);
    // One of the statuses of the page.
    let code = effect.code.to_string();
    let mut codes = effect.directive.arguments().iter();
    let is_of_location = name == "error_page"
        && note.contains("not those of the page's own location")
        && codes.any(|own| own.trim_start_matches('=') == code);
    let is_cached = name == "proxy_cache"
        && effect.of_cache.contains(header)
        && [theirs, ours]
            .iter()
            .all(|value| CACHED.contains(&value.as_str()));
    let is_twice = note.contains("once, not twice")
        && effect.code == 416
        && *theirs == format!("{ours} + {ours}");
    is_own && argument == header
        || is_cached
        || is_known
        || names(note, header)
        || is_twice
        || is_of_location
}

/// Returns true if the upstream of a page does not get the client's own request, as far as the entry
/// says so: it was refused, or its body is too long to be sent twice.
fn is_not_as_sent(note: &str, effect: &Effect<'_>) -> bool {
    let is_refused = matches!(effect.code, 401 | 403 | 405 | 413 | 429);
    let is_long = effect.request.body.len() > 64 << 10;
    note.contains("`get` without a body") && (is_refused || is_long)
}

/// Returns true if statuses of a file differ by the method, or by conditions and ranges, as far as the
/// entry says so.
fn is_of_file(entry: &Entry, statuses: (&str, &str), effect: &Effect<'_>) -> bool {
    const WHOLE_OR_NOT: [&str; 5] = ["200", "206", "304", "412", "416"];
    let (theirs, ours) = statuses;
    let request = effect.request;
    let is_reading = matches!(request.method.as_str(), "GET" | "HEAD");
    let mut headers = ["range", "if-none-match", "if-modified-since"].iter();
    let is_partial = headers.any(|name| request.header(name).is_some());
    let is_either = |status: &str| theirs == status || ours == status;
    let is_both = |all: &[&str]| all.contains(&theirs) && all.contains(&ours);
    matches!(entry.directive.as_str(), "root" | "alias")
        && (entry.note.contains("405") && is_either("405") && !is_reading
            || entry.note.contains("ranges and conditions") && is_partial && is_both(&WHOLE_OR_NOT))
}

/// Returns true if the response is the page of an error of the gateway itself, whose upstream gets no
/// body, as far as the entry says so.
fn is_refused_page(note: &str, effect: &Effect<'_>) -> bool {
    let code = effect.code.to_string();
    let mut codes = effect.directive.arguments().iter();
    note.contains("gets no body") && codes.any(|own| own.trim_start_matches('=') == code)
}

/// Returns true if statuses differ by the request that nginx makes to the page of an error, as far
/// as the entry says so: that has a limit on bodies of its own, and conditions and ranges are about
/// the page.
fn is_of_page(entry: &Entry, (theirs, ours): (&str, &str), effect: &Effect<'_>) -> bool {
    let request = effect.request;
    let is_entry = |word: &str| entry.directive == "error_page" && entry.note.contains(word);
    let is_too_large = !request.body.is_empty()
        && (theirs == "413" && ours.starts_with(['4', '5']) || ours == "413");
    // The gateway has the status of the entry, nginx what it made of the request for the page.
    let mut words = effect.directive.arguments().iter();
    let given = words.find_map(|word| word.strip_prefix('='));
    let is_given = given.is_some_and(|given| ours == if given.is_empty() { "200" } else { given });
    let is_partial = match theirs {
        "206" | "416" => request.header("range").is_some(),
        "304" => {
            request.header("if-modified-since").is_some()
                || request.header("if-none-match").is_some()
        }
        _ => false,
    };
    is_entry("413") && is_too_large || is_entry("conditions and ranges") && is_given && is_partial
}

/// Returns true if a location, or what it does, is left out, and the status is the one that its entry
/// names.
fn is_left_out(entry: &Entry, name: &str, (_, ours): (&str, &str)) -> bool {
    let is_whole =
        matches!(name, "location" | "stub_status" | "empty_gif") || name.ends_with("_pass");
    is_whole && matches!(ours, "404" | "502" | "503") && entry.note.contains(ours)
}

/// Directives that choose which backends are asked.
fn asks(name: &str) -> bool {
    const ASKING: [&str; 9] = [
        "least_conn",
        "ip_hash",
        "hash",
        "proxy_next_upstream",
        "proxy_cache",
        "proxy_cache_valid",
        "proxy_cache_bypass",
        "auth_request",
        "server",
    ];
    ASKING.contains(&name)
}

/// Returns true for a header that only the gateway has, or that backends get in another form.
fn is_stated(name: &str, note: &str, difference: &Difference) -> bool {
    const FORWARDED: [&str; 5] = [
        "host",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-real-ip",
        "cf-connecting-ip",
    ];
    let may_be = difference.nginx.is_empty() || FORWARDED.contains(&name);
    // Of `Cache-Control`, one value is stated.
    let is_stated = name != "cache-control" || difference.own == "no-store";
    may_be && is_stated && names(note, name)
}

/// Returns true if a note has a header in backticks, alone or with a value.
pub(super) fn names(note: &str, header: &str) -> bool {
    let mut quoted = note.split('`').skip(1).step_by(2);
    quoted.any(|quoted| quoted.split(':').next() == Some(header))
}

/// Statuses of what comes before the size of a body is checked: conditions, addresses, passwords.
const BEFORE: [&str; 4] = ["401", "403", "404", "410"];

/// Returns true if an entry for a whole server explains a difference, by its words.
fn fits_all(note: &str, effect: &Effect<'_>) -> bool {
    let difference = effect.difference;
    let edge = effect.request.edge;
    let mut spellings = SPELLINGS.iter();
    let path = effect.request.path();
    // `proxy_pass` with a slash at its end for a location without one makes two of them.
    let (target, _) = difference
        .nginx
        .split_once('?')
        .unwrap_or((&difference.nginx, ""));
    let is_doubled = note.contains("slash") && target.contains("//");
    let is_spelling =
        is_doubled || spellings.any(|(part, word)| path.contains(part) && note.contains(word));
    let is_guarded = note.contains("spelling") && is_other_spelling(effect.directive, path);
    let is_refused = |found: &Difference| {
        let is_strange = matches!(edge, "strange" | "headers" | "host" | "method" | "version");
        let strict = note.contains("strict") && (is_strange || edge.contains("encoded"));
        let is_upgrade = edge == "upgrade" || effect.request.header("upgrade").is_some();
        let is_size = note.contains("size") && found.nginx == "413";
        is_size && !effect.request.body.is_empty() && BEFORE.contains(&&*found.own)
            || found.own == "400" && (strict || note.contains("upgrade") && is_upgrade)
            || strict && found.nginx == "400"
            || edge == "no host" && note.contains("host")
            || is_guarded && ["401", "403", "404", "410", "429"].contains(&&*found.own)
            || is_guarded && found.own == "302" && redirects_refusals(effect.directive, path)
            || found.nginx == "400" && note.contains("above the root") && is_above_root(path)
    };
    match &difference.what {
        What::Target => {
            let has_mark = difference.own == format!("{}?", difference.nginx)
                || difference.nginx == format!("{}?", difference.own);
            is_spelling || has_mark && note.contains("`?` without a query")
        }
        What::Status => is_refused(difference),
        What::Asked | What::Broken => effect.status.is_some_and(is_refused),
        What::Header(_) if is_refused_as_such(effect) && note.contains("add_header") => true,
        What::Sent(name) if name == "x-original-uri" => is_spelling,
        What::Header(name) if name == "location" => {
            names(note, name) && is_same_path(effect.request, difference)
        }
        What::Header(name) | What::Sent(name) if is_guarded && note.contains("get the headers") => {
            is_of_guarded(effect.directive, path, name) || is_stated(name, note, difference)
        }
        What::Header(name) | What::Sent(name) => is_stated(name, note, difference),
        What::Reuse => {
            // The page of an error may be one that is stored.
            let is_by_itself = difference.own == CLOSED_BY_ITSELF || effect.code >= 400;
            let has = |name: &str| effect.request.header(name).is_some();
            let is_long = effect.request.body.len() > 1 << 20;
            let is_unsaid = has("transfer-encoding") || has("expect");
            note.contains("keep-alive") && is_by_itself && (is_long || is_unsaid)
        }
        What::Body | What::Method | What::SentBody | What::Checked | What::Page => false,
    }
}

/// Returns true if a redirect leads to the same path, and to this request's own host on both sides: by
/// name, by the address that it came to, or as a path.
fn is_same_path(request: &Drawn, difference: &Difference) -> bool {
    let split = |url: &str| {
        let rest = url.split_once("//").map_or(url, |(_, rest)| rest);
        let (place, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let name = place.split(':').next().unwrap_or_default();
        let name = name.trim_end_matches('.').to_lowercase();
        (name, path.to_owned())
    };
    let (theirs, ours) = (split(&difference.nginx), split(&difference.own));
    let host = request.header("host").unwrap_or_default();
    let (host, _) = split(&format!("//{host}/"));
    let is_own = |name: &str| name == host || host.is_empty();
    theirs.1 == ours.1 && is_own(&theirs.0) && is_own(&ours.0)
}

/// Returns true if a path is another spelling of a location that keeps requests out, and a header is
/// one that some location adds or sends.
pub(super) fn is_of_guarded(whole: &Directive, path: &str, header: &str) -> bool {
    const GUARDS: [&str; 8] = [
        "if",
        "limit_except",
        "auth_basic",
        "auth_request",
        "allow",
        "deny",
        "limit_req",
        "limit_conn",
    ];
    let (mut is_guarded, mut is_written) = (false, false);
    whole.walk(&mut Vec::new(), &mut |directive, _| {
        let mut guards = GUARDS.iter();
        is_guarded |= directive.name() == "location"
            && guards.any(|guard| directive.all(guard).next().is_some())
            && is_spelling_of(directive, path);
        is_written |= match directive.name() {
            "add_header" | "proxy_set_header" => directive.first().eq_ignore_ascii_case(header),
            "expires" => matches!(header, "expires" | "cache-control"),
            _ => false,
        };
    });
    is_guarded && is_written
}

/// Returns true if the dot segments of a path lead above the root.
fn is_above_root(path: &str) -> bool {
    let mut depth = 0_i32;
    let segments = path.split('/').filter(|segment| !segment.is_empty());
    segments.into_iter().any(|segment| {
        depth += match segment {
            "." => 0,
            ".." => -1,
            _ => 1,
        };
        depth < 0
    })
}

/// Returns true if a path is another spelling of a location that asks for a login itself, and leads
/// those without one elsewhere.
fn redirects_refusals(whole: &Directive, path: &str) -> bool {
    let mut is_there = false;
    whole.walk(&mut Vec::new(), &mut |location, _| {
        let has = |name: &str, word: &str| {
            let mut own = location.all(name);
            own.any(|own| word.is_empty() || own.arguments().iter().any(|one| one == word))
        };
        let asks = has("auth_basic", "") || has("auth_request", "");
        is_there |= location.name() == "location"
            && asks
            && has("error_page", "401")
            && is_spelling_of(location, path);
    });
    is_there
}

/// Returns true if a path is no path of some location, but another spelling of one: by case, by
/// encoded characters, or by the slash at its end.
fn is_other_spelling(whole: &Directive, path: &str) -> bool {
    let mut is_spelling = false;
    whole.walk(&mut Vec::new(), &mut |location, _| {
        is_spelling |= location.name() == "location" && is_spelling_of(location, path);
    });
    is_spelling
}

/// Returns true if a path is no path of this location, but another spelling of one.
fn is_spelling_of(location: &Directive, path: &str) -> bool {
    let folded = |path: &str| {
        let decoded = percent_encoding::percent_decode_str(path).decode_utf8_lossy();
        decoded.to_lowercase().trim_end_matches('/').to_owned()
    };
    let path = &*without_dots(path);
    let spelled = folded(path);
    let text = location.arguments().last().map_or("", String::as_str);
    match location.first() {
        "=" => spelled == folded(text) && path != text,
        "~" | "~*" => {
            let around = text.replace("(?!well-known/)", "");
            is_matched(&format!("(?i){around}"), &spelled) && !is_matched(&around, path)
        }
        _ => spelled.starts_with(&folded(text)) && !path.starts_with(text),
    }
}

/// Returns a path without dot segments and doubled slashes: both sides choose the location without
/// them.
fn without_dots(path: &str) -> String {
    let mut segments = Vec::new();
    for segment in path.split_inclusive('/') {
        match segment.trim_end_matches('/') {
            ".." if segments.len() > 1 => drop(segments.pop()),
            "." | ".." => {}
            "" if !segments.is_empty() => {}
            _ => segments.push(segment),
        }
    }
    segments.concat()
}

/// Returns true if a regular expression matches; it is compiled once, for many differences.
fn is_matched(text: &str, path: &str) -> bool {
    thread_local! {
        static KNOWN: RefCell<BTreeMap<String, Option<regex::Regex>>> = RefCell::default();
    }
    KNOWN.with_borrow_mut(|known| {
        let regex = known
            .entry(text.to_owned())
            .or_insert_with(|| regex::Regex::new(text).ok());
        regex.as_ref().is_some_and(|regex| regex.is_match(path))
    })
}

/// Returns true for requests that both refuse before a location is chosen: those of an unusual
/// kind, but no usual ones that a location refuses.
fn is_refused_as_such(effect: &Effect<'_>) -> bool {
    let is_usual = matches!(effect.request.edge, "usual" | "body" | "path" | "client");
    matches!(effect.code, 400 | 405 | 505) && !is_usual
}

/// Returns true for directives that replace the responses with this request's status.
fn replaces(name: &str, effect: &Effect<'_>) -> bool {
    match name {
        "auth_request" => matches!(effect.code, 401 | 403),
        "error_page" | "proxy_intercept_errors" => effect.code >= 400,
        _ => false,
    }
}
