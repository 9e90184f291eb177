//! Own pages for errors: `error_page` and `proxy_intercept_errors`.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{
    locations::Location, parse::Directive, report::Fates, scope::Scope, servers::Server,
    words::plain,
};

/// Translates the pages of a location. `passes`: the location sends requests to a backend.
pub(super) fn of(
    location: &Location<'_>,
    server: &Server<'_>,
    (found, passes): (&[Location<'_>], bool),
    keys: &mut Map<String, Value>,
    fates: &mut Fates,
) {
    let scope = &location.scope;
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
        match file(uri, &codes, (found, server)) {
            Ok((file, root)) => {
                fates.carried(root, "");
                for code in codes {
                    pages.entry(code).or_insert_with(|| json!(file));
                }
                fates.changed(directive, NOTE);
            }
            Err(why) => fates.lost(directive, why),
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

const NOTE: &str = "for clients that prefer neither JSON nor plain text; with `Cache-Control: \
                    no-store`, without `ETag`, `Last-Modified` and the headers of the page's own \
                    location";

/// Returns the path of the page's file.
fn file<'a>(
    uri: &str,
    codes: &[&str],
    (found, server): (&[Location<'a>], &Server<'a>),
) -> Result<(String, &'a Directive), String> {
    let is_error = |code: &&str| {
        code.parse::<u16>()
            .is_ok_and(|code| (400..600).contains(&code))
    };
    if codes.is_empty() || !codes.iter().all(is_error) {
        return Err(
            "another status, or one below 400, has no counterpart: built-in page".to_owned(),
        );
    }
    let path = plain(uri).filter(|uri| uri.starts_with('/'));
    let Some(path) = path else {
        return Err("only a path of a file has a counterpart: built-in page".to_owned());
    };
    let scope = serving(&path, found).unwrap_or(&server.scope);
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
    let Some((directive, root)) = root else {
        return Err("its location serves no files: built-in page".to_owned());
    };
    let file = format!("{}{path}", root.trim_end_matches('/'));
    let extension = Path::new(&file).extension();
    if !extension.is_some_and(|extension| extension == "html" || extension == "htm") {
        return Err("only HTML files have a counterpart: built-in page".to_owned());
    }
    if !Path::new(&file).is_file() {
        return Err(format!("`{file}` is not there: built-in page"));
    }
    Ok((file, directive))
}

/// Returns the scope of the location that serves a path: an exact one, or the longest prefix.
fn serving<'f, 'a>(path: &str, found: &'f [Location<'a>]) -> Option<&'f Scope<'a>> {
    let exact = found
        .iter()
        .find(|location| location.text.strip_prefix("= ") == Some(path));
    let prefixes = found.iter().filter_map(|location| {
        let prefix = location.text.trim_start_matches("^~ ");
        (prefix.starts_with('/') && path.starts_with(prefix)).then_some((prefix.len(), location))
    });
    let longest = prefixes.max_by_key(|(length, _)| *length);
    exact
        .or(longest.map(|(_, location)| location))
        .map(|location| &location.scope)
}
