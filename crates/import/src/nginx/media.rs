//! Media types of files: `types`, `default_type` and `charset`.

use std::collections::BTreeMap;

use edgeway_config::model::KnownTypes;
use serde_json::{Map, Value, json};

use super::{scope::Scope, variables::add};

/// Media types of a scope.
#[derive(Debug)]
pub(super) struct MediaTypes {
    /// Types by the end of a name, with their charset.
    pub(super) by_ending: BTreeMap<String, String>,
    /// Type of all other names.
    pub(super) default: String,
}

/// Types that `charset` is for unless `charset_types` says otherwise.
const TEXT: &str = "text/html text/xml text/plain text/vnd.wap.wml application/javascript \
    application/rss+xml";

/// Types that nginx has without a `types` of its own.
const USUAL: [(&str, &str); 3] = [
    ("html", "text/html"),
    ("gif", "image/gif"),
    ("jpg", "image/jpeg"),
];

/// Returns the media types of a scope.
pub(super) fn types(scope: &Scope<'_>) -> MediaTypes {
    let charset = scope.one("charset").map(|charset| charset.arg(0));
    let charset = charset.filter(|charset| *charset != "off" && !charset.contains('$'));
    let own = scope.nearest("charset_types");
    let own = own.iter().flat_map(|one| &one.args).map(String::as_str);
    let mut listed: Vec<&str> = own.chain(["text/html"]).collect();
    if listed.len() == 1 {
        listed = TEXT.split(' ').collect();
    }
    let has_charset = |kind: &str| listed.contains(&kind) || listed.contains(&"*");
    let whole = |kind: &str| match charset.filter(|_| has_charset(kind)) {
        Some(charset) => format!("{kind}; charset={charset}"),
        None => kind.to_owned(),
    };
    let mut by_ending = BTreeMap::new();
    let types = scope.nearest("types");
    if types.is_empty() {
        let usual = USUAL.iter();
        by_ending.extend(usual.map(|(ending, kind)| ((*ending).to_owned(), whole(kind))));
    }
    for entry in types.iter().flat_map(|types| types.children()) {
        for ending in &entry.args {
            by_ending.insert(ending.to_ascii_lowercase(), whole(&entry.name));
        }
    }
    let default = scope.one("default_type");
    let default = default.map_or("text/plain", |default| default.arg(0));
    MediaTypes {
        by_ending,
        default: whole(default),
    }
}

/// Returns the value of `Content-Type` for responses of a backend, to whose texts `charset` adds its
/// name.
pub(super) fn of_backend(scope: &Scope<'_>) -> Option<String> {
    let charset = scope.one("charset")?;
    let name = charset.arg(0);
    if name == "off" {
        charset.carried("");
        return None;
    }
    if name.contains('$') {
        charset.lost("a charset by a variable has no counterpart");
        return None;
    }
    charset.carried("");
    let written = scope.nearest("charset_types");
    let names = written.iter().flat_map(|one| &one.args).map(String::as_str);
    let mut types: Vec<&str> = names.filter(|kind| kind.contains('/')).collect();
    if types.is_empty() {
        types = TEXT.split(' ').collect();
    } else if !types.contains(&"text/html") {
        types.push("text/html");
    }
    let escaped: Vec<String> = types.into_iter().map(regex::escape).collect();
    // nginx names none in redirects.
    let regex = format!("~^(?!30[12] )[0-9]+ ({})$", escaped.join("|"));
    let whole = format!("{{group.1}}; charset={name}");
    let from = "{response.content-type}";
    let value = json!({
        "from": format!("{{status}} {from}"), "values": { regex: whole }, "default": from,
    });
    Some(add("charset", charset.place(), value, scope))
}

/// Returns the section `media_types`: what is different from the types that the gateway knows.
pub(super) fn section(http: &Scope<'_>) -> Value {
    for name in ["types", "default_type", "charset", "charset_types"] {
        for own in http.own(name) {
            for one in std::iter::once(own).chain(own.children()) {
                one.carried("");
            }
        }
    }
    let types = types(http);
    let all = types.by_ending.iter();
    let mut written: Map<String, Value> = all
        .map(|(end, kind)| (end.clone(), kind.clone().into()))
        .collect();
    let mut short = written.clone();
    for (ending, kind) in KnownTypes::of_nginx() {
        match types.by_ending.get(ending) {
            Some(own) if own == kind => drop(short.remove(ending)),
            Some(_) => {}
            None => drop(short.insert(ending.to_owned(), types.default.clone().into())),
        }
    }
    if short.len() < written.len() {
        short.insert(String::new(), types.default.into());
        return json!({ "known": "nginx", "types": short });
    }
    // Nothing but what is listed has another type than the default one.
    written.insert("*".to_owned(), types.default.into());
    json!({ "types": written })
}
