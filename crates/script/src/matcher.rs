//! Matching of requests that a plugin is for, without JavaScript.
//!
//! There are two kinds of patterns: paths as routes have them (`/exact`, `/prefix/*`,
//! `/users/{id}`), and the sources of a `config.matcher` as Next.js takes them (path-to-regexp 6:
//! `/about/:path*`, `/((?!api|_next/static).*)`). Both are matched against the raw path, and those
//! of guards also against every reading of it (`base::spelling`). The conditions of a
//! `config.matcher` on headers, cookies, query and host are in `conditions`.

use std::{borrow::Cow, fmt::Write};

use http::Method;
use serde::Deserialize;

pub use super::host_pattern::{HostPattern, host_name};

use super::conditions::{self, ClientRequest, Conditions};
use crate::base::expression::Expression;

/// Conditions on a request. An empty list matches all.
#[derive(Debug, Default)]
pub struct Matcher {
    pub hosts: Vec<HostPattern>,
    pub paths: Vec<PathPattern>,
    pub methods: Vec<Method>,
}

impl Matcher {
    /// Returns true if the request matches. `host`, in lower case and without a port, is called
    /// only if all else matches.
    pub fn is_for<'h>(
        &self,
        method: &Method,
        path: &str,
        host: impl FnOnce() -> Cow<'h, str>,
    ) -> bool {
        let is_met = (self.methods.is_empty() || self.methods.contains(method))
            && (self.paths.is_empty() || self.paths.iter().any(|pattern| pattern.is_for(path)));
        if !is_met || self.hosts.is_empty() {
            return is_met;
        }
        let host = host();
        self.hosts.iter().any(|pattern| pattern.is_for(&host))
    }

    /// Matches like [`Matcher::is_for`], on a path as some app may read it.
    pub fn is_for_reading<'h>(
        &self,
        method: &Method,
        reading: &str,
        host: impl FnOnce() -> Cow<'h, str>,
    ) -> bool {
        let mut paths = self.paths.iter();
        (self.paths.is_empty() || paths.any(|pattern| pattern.is_for_reading(reading)))
            && (self.methods.is_empty() || self.methods.contains(method))
            && (self.hosts.is_empty() || {
                let host = host();
                self.hosts.iter().any(|pattern| pattern.is_for(&host))
            })
    }

    /// Returns true if a plainly written path may be another spelling of one of the matcher's
    /// paths.
    pub fn has_odd_paths(&self) -> bool {
        self.paths.iter().any(PathPattern::is_odd)
    }

    /// Returns true if the matcher matches every request.
    pub fn is_for_all(&self) -> bool {
        self.methods.is_empty() && self.paths.is_empty() && self.hosts.is_empty()
    }
}

#[derive(Debug)]
pub enum PathPattern {
    Exact(Box<str>),
    /// `/a` of `/a/*`: the path itself and all below it.
    Below(Box<str>),
    Pattern {
        regex: Box<Expression>,
        /// Case-insensitive, for guards.
        folded: Box<Expression>,
        is_odd: bool,
    },
}

/// Returns true if apps normalize a part of a path written like this: a plain path may be another
/// spelling of it.
fn is_odd(path: &str) -> bool {
    let is_folded = |byte: u8| byte.is_ascii_uppercase() || matches!(byte, b'%' | b';' | 0x80..);
    path.bytes().any(is_folded) || (path.len() > 1 && path.ends_with('/'))
}

impl PathPattern {
    /// Parses a path as routes have them.
    pub fn of_route(text: &str) -> Result<Self, String> {
        if !text.starts_with('/') {
            return Err(format!("invalid path `{text}`: it must start with `/`"));
        }
        if let Some(prefix) = text.strip_suffix("/*")
            && !prefix.contains(['{', '*'])
        {
            return Ok(Self::Below(prefix.into()));
        }
        if !text.contains(['{', '*']) {
            return Ok(Self::Exact(text.into()));
        }
        let mut regex = String::from("^");
        let open = text.strip_suffix("/*");
        let (body, ends_open) = open.map_or((text, false), |body| (body, true));
        let mut rest = body;
        while let Some(at) = rest.find(['{', '*']) {
            regex.push_str(&regex::escape(&rest[..at]));
            let end = rest[at..].find('}').filter(|_| rest[at..].starts_with('{'));
            let Some(end) = end else {
                return Err(format!(
                    "`{text}` has a `*` before its end, or a `{{` without `}}`"
                ));
            };
            regex.push_str("[^/]+");
            rest = &rest[at + end + 1..];
        }
        regex.push_str(&regex::escape(rest));
        regex.push_str(if ends_open { "(?:/.*)?$" } else { "$" });
        compiled(&regex, text)
    }

    /// Parses a source of `config.matcher`.
    pub fn of_next(source: &str) -> Result<Self, String> {
        // Next.js also serves a page under other paths for its own scripts, and a guard of the page
        // guards those too: so a build adds these to each source (16, the widest).
        let (body, suffix) = match source {
            "/" => (String::new(), ROOT_SUFFIX),
            _ => (to_regex(source)?, SUFFIX),
        };
        compiled(&format!("^{PREFIX}{body}{suffix}[/#?]?$"), source)
    }

    pub(super) fn is_for(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => path == &**exact,
            Self::Below(prefix) => path
                .strip_prefix(&**prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            // The plugin decides where matching gave up: it can look itself.
            Self::Pattern { regex, .. } => regex.is_match(path).unwrap_or(true),
        }
    }

    /// Returns true if a plainly written path may be another spelling of this one.
    fn is_odd(&self) -> bool {
        match self {
            Self::Exact(path) | Self::Below(path) => is_odd(path),
            Self::Pattern { is_odd, .. } => *is_odd,
        }
    }

    /// Matches a path as some app may read it (`base::spelling`).
    fn is_for_reading(&self, reading: &str) -> bool {
        let starts = |prefix: &str| {
            let (start, rest) = reading.as_bytes().split_at_checked(prefix.len())?;
            start
                .eq_ignore_ascii_case(prefix.as_bytes())
                .then_some(rest)
        };
        match self {
            Self::Exact(exact) => starts(exact.trim_end_matches('/'))
                .is_some_and(|rest| rest.is_empty() || (reading == "/" && &**exact == "/")),
            Self::Below(prefix) => {
                starts(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
            }
            Self::Pattern { folded, .. } => folded.is_match(reading).unwrap_or(true),
        }
    }
}

/// Data of the pages router.
const PREFIX: &str = "(?:/_next/data/[^/]+)?";
/// Data of the pages router, and responses of the app router to its own scripts.
const SUFFIX: &str = r"(?:\.json|\.rsc|\.segments/.+\.segment\.rsc)?";
const ROOT_SUFFIX: &str =
    r"(?:/(?:/?index|/?index\.json|/?index(?:\.rsc|\.segments/.+\.segment\.rsc)))?";

fn compiled(regex: &str, text: &str) -> Result<PathPattern, String> {
    let bounded = |regex: &str| {
        let regex = Expression::parse(regex, false)
            .map_err(|why| format!("`{text}` cannot be matched: {why}"));
        regex.map(Box::new)
    };
    let folded = bounded(&format!("(?i){regex}"))?;
    Ok(PathPattern::Pattern {
        regex: bounded(regex)?,
        folded,
        is_odd: is_odd(text),
    })
}

/// Translates a source as path-to-regexp 6 does with its default options, without the anchors.
fn to_regex(source: &str) -> Result<String, String> {
    if !source.starts_with('/') {
        return Err(format!(
            "invalid matcher `{source}`: it must start with `/`"
        ));
    }
    let mut regex = String::new();
    let mut rest = source;
    while let Some(next) = rest.chars().next() {
        let (prefix, from) = match rest.strip_prefix('/') {
            Some(after) if after.starts_with([':', '(']) => ("/", after),
            _ => ("", rest),
        };
        if !from.starts_with([':', '(']) {
            match next {
                '\\' => {
                    let escaped = rest[1..].chars().next();
                    let escaped = escaped.ok_or_else(|| format!("`{source}` ends with `\\`"))?;
                    regex.push_str(&regex::escape(escaped.encode_utf8(&mut [0; 4])));
                    rest = &rest[1 + escaped.len_utf8()..];
                }
                '{' | '}' | '*' | '+' | '?' => {
                    return Err(format!(
                        "`{source}` has a `{next}` that does not follow a `:name` or a `(…)`"
                    ));
                }
                _ => {
                    regex.push_str(&regex::escape(next.encode_utf8(&mut [0; 4])));
                    rest = &rest[next.len_utf8()..];
                }
            }
            continue;
        }
        let mut from = from;
        if let Some(name) = from.strip_prefix(':') {
            let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let end = end.unwrap_or(name.len());
            if end == 0 {
                return Err(format!("`{source}` has a `:` without a name"));
            }
            from = &name[end..];
        }
        let pattern = if from.starts_with('(') {
            let end = group_end(from).ok_or_else(|| format!("`{source}` has a `(` without `)`"))?;
            let pattern = &from[1..end];
            from = &from[end + 1..];
            pattern
        } else {
            "[^/#?]+?"
        };
        let modifier = from.chars().next().filter(|c| "*+?".contains(*c));
        rest = &from[usize::from(modifier.is_some())..];
        let written = match modifier {
            Some(repeated @ ('*' | '+')) if !prefix.is_empty() => {
                let end = if repeated == '*' { "?" } else { "" };
                write!(
                    regex,
                    "(?:{prefix}(?:{pattern})(?:{prefix}(?:{pattern}))*){end}"
                )
            }
            Some('?') => write!(regex, "(?:{prefix}(?:{pattern}))?"),
            Some(repeated) => write!(regex, "(?:{pattern}){repeated}"),
            None => write!(regex, "(?:{prefix}(?:{pattern}))"),
        };
        written.expect("writing to a String cannot fail");
    }
    Ok(regex)
}

/// Returns the position of the parenthesis that closes the one at the start of `text`.
fn group_end(text: &str) -> Option<usize> {
    let mut depth = 0;
    let mut is_escaped = false;
    for (index, letter) in text.char_indices() {
        match letter {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '(' => depth += 1,
            ')' if depth == 1 => return Some(index),
            ')' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// `config.matcher` of a plugin, as JSON.
#[derive(Deserialize)]
#[serde(untagged)]
enum MatcherSource {
    One(MatcherItem),
    Many(Vec<MatcherItem>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum MatcherItem {
    Path(String),
    Full(MatcherMapping),
}

#[derive(Deserialize)]
struct MatcherMapping {
    source: String,
    #[serde(flatten)]
    more: serde_json::Map<String, serde_json::Value>,
}

/// Entry of a plugin's own `config.matcher`.
#[derive(Debug)]
pub(super) struct OwnPattern {
    source: Box<str>,
    path: PathPattern,
    conditions: Option<Box<Conditions>>,
}

impl OwnPattern {
    fn read(source: MatcherItem) -> Result<Self, String> {
        let (source, mut more) = match source {
            MatcherItem::Path(path) => (path, serde_json::Map::new()),
            MatcherItem::Full(MatcherMapping { source, more }) => (source, more),
        };
        let conditions = conditions::take(&mut more)?;
        if let Some(key) = more.keys().next() {
            return Err(unknown(key));
        }
        let path = PathPattern::of_next(&source)?;
        Ok(Self {
            source: source.into(),
            path,
            conditions,
        })
    }

    /// Matches like [`OwnPattern::is_for`], on a path as some app may read it.
    pub(super) fn is_for_reading<'r>(
        &self,
        reading: &str,
        request: impl FnOnce() -> ClientRequest<'r>,
    ) -> bool {
        let conditions = self.conditions.as_ref();
        self.path.is_for_reading(reading)
            && conditions.is_none_or(|conditions| conditions.hold(&request()))
    }

    /// Returns true if a plainly written path may be another spelling of the entry's path.
    pub(super) fn has_odd_path(&self) -> bool {
        self.path.is_odd()
    }

    /// Returns true if the request matches. `request` is called only if the path matches and there
    /// are conditions.
    pub(super) fn is_for<'r>(
        &self,
        path: &str,
        request: impl FnOnce() -> ClientRequest<'r>,
    ) -> bool {
        let conditions = self.conditions.as_ref();
        self.path.is_for(path) && conditions.is_none_or(|conditions| conditions.hold(&request()))
    }
}

/// Returns the entries that a client can match or avoid at will, each with the condition that the
/// client controls; except those whose source also has an entry without conditions.
pub(super) fn clients_choice(entries: &[OwnPattern]) -> Vec<(&str, String)> {
    let is_always = |source: &str| {
        let mut entries = entries.iter();
        entries.any(|entry| *entry.source == *source && entry.conditions.is_none())
    };
    let chosen = entries.iter().filter_map(|entry| {
        let condition = entry.conditions.as_ref()?.clients_choice()?;
        Some((&*entry.source, condition))
    });
    chosen.filter(|(source, _)| !is_always(source)).collect()
}

fn unknown(key: &str) -> String {
    let instead = match key {
        "locale" => "remove it: a source is matched against the whole path, locale included",
        "regexp" => "write the path to match as `source`",
        _ => "use `source`, `has` and `missing`, and check anything else in the hook",
    };
    format!("unknown key `{key}` in `config.matcher`: {instead}")
}

/// Reads a `config.matcher`.
pub(super) fn read(json: &str) -> Result<Vec<OwnPattern>, String> {
    let written: MatcherSource = serde_json::from_str(json).map_err(|_| {
        "`config.matcher` must be a path such as `/about/:path*`, an object with a `source`, or a \
         list of these"
            .to_owned()
    })?;
    let sources = match written {
        MatcherSource::One(source) => vec![source],
        MatcherSource::Many(sources) => sources,
    };
    if sources.is_empty() {
        return Err(
            "`config.matcher` is an empty list and matches no request: remove it to match all"
                .to_owned(),
        );
    }
    sources.into_iter().map(OwnPattern::read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_next(source: &str, yes: &[&str], no: &[&str]) {
        let pattern = PathPattern::of_next(source).unwrap();
        for path in yes {
            assert!(pattern.is_for(path), "{source} and {path}: {pattern:?}");
        }
        for path in no {
            assert!(!pattern.is_for(path), "{source} and {path}: {pattern:?}");
        }
    }

    #[test]
    fn sources_match_as_in_next() {
        assert_next(
            "/about",
            &["/about", "/about/"],
            &["/about/x", "/", "/aboutx"],
        );
        assert_next(
            "/about/:path*",
            &["/about", "/about/a", "/about/a/b"],
            &["/aboutx", "/"],
        );
        assert_next("/about/:path+", &["/about/a", "/about/a/b"], &["/about"]);
        assert_next("/:lang?/x", &["/x", "/de/x"], &["/de/at/x"]);
        assert_next("/:lang(de|en)/x", &["/de/x"], &["/fr/x", "/x"]);
        assert_next(
            "/post/:id(\\d{1,3})",
            &["/post/12"],
            &["/post/x", "/post/1234"],
        );
        assert_next("/a.b", &["/a.b"], &["/axb"]);
        assert_next("/(.*)", &["/", "/a", "/a/b"], &[]);
        let all_but = "/((?!api|_next/static|_next/image|favicon.ico).*)";
        assert_next(
            all_but,
            &["/", "/a", "/xapi"],
            &["/api/x", "/_next/static/a.js", "/favicon.ico"],
        );
        for wrong in ["about", "/a/:", "/(a", "/a*", "/{a}", "/a/\\"] {
            assert!(PathPattern::of_next(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_source_matches_the_data_urls_of_next_too() {
        assert_next(
            "/dashboard/:path*",
            &[
                "/_next/data/BUILD/dashboard.json",
                "/_next/data/BUILD/dashboard/a/b.json",
                "/dashboard.rsc",
                "/dashboard/a.rsc",
                "/dashboard.segments/_tree.segment.rsc",
            ],
            &[
                "/_next/data/BUILD/about.json",
                "/_next/data/dashboard.json",
                "/_next/static/dashboard.json",
                "/dashboard.txt",
                "/x/dashboard.json",
            ],
        );
        assert_next(
            "/secret",
            &["/secret", "/secret.rsc", "/_next/data/B/secret.json"],
            &["/secret/a", "/_next/data/B/secret/a.json", "/secretxjson"],
        );
        assert_next(
            "/",
            &["/", "/index", "/_next/data/B/index.json", "/index.rsc"],
            &["/a", "/_next/data/B/a.json", "/a.rsc"],
        );
        assert_next(
            "/((?!api).*)",
            &["/_next/data/B/a.json"],
            &["/api/a", "/api.json"],
        );
    }

    #[test]
    fn patterns_with_too_many_steps_run_the_plugin() {
        let all_but = PathPattern::of_next("/((?!api|_next/static).*)").unwrap();
        let guarded = PathPattern::of_next("/((?:(?!secret).)*)").unwrap();
        let hard = PathPattern::of_next("/((?:(?!x)(?:a|aa))*c)").unwrap();
        let long = |count| format!("/{}b", "a".repeat(count));
        assert!(all_but.is_for(&long(4000)) && guarded.is_for(&long(4000)));
        // 1,129 backtracking steps: the regex finds no match.
        assert!(!hard.is_for(&long(11)));
        // 139,102 steps would find none either.
        assert!(hard.is_for(&long(21)), "the plugin can look itself");
    }

    #[test]
    fn paths_match_as_in_routes() {
        let is_for =
            |pattern: &str, path: &str| PathPattern::of_route(pattern).unwrap().is_for(path);
        assert!(is_for("/a", "/a") && !is_for("/a", "/a/"));
        assert!(is_for("/a/*", "/a") && is_for("/a/*", "/a/b/c") && !is_for("/a/*", "/ab"));
        assert!(is_for("/*", "/") && is_for("/*", "/x"));
        assert!(is_for("/u/{id}", "/u/1") && !is_for("/u/{id}", "/u/1/2"));
        assert!(
            is_for("/u/{id}/*", "/u/1")
                && is_for("/u/{id}/*", "/u/1/2")
                && !is_for("/u/{id}/*", "/u")
        );
        for wrong in ["a", "/a*b", "/{a"] {
            assert!(PathPattern::of_route(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn hosts_match_whole_or_below() {
        let is_for = |pattern: &str, host: &str| HostPattern::parse(pattern).unwrap().is_for(host);
        assert!(is_for("A.test", "a.test") && !is_for("a.test", "b.a.test"));
        assert!(is_for("*.a.test", "b.a.test") && is_for("*.a.test", "c.b.a.test"));
        assert!(!is_for("*.a.test", "a.test") && !is_for("*.a.test", ".a.test"));
        for wrong in ["", "*", "*a.test", "a test"] {
            assert!(HostPattern::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn headers_are_read_only_for_matching_paths_with_conditions() {
        let read = |json| read(json).unwrap().remove(0);
        let unread = || -> ClientRequest<'_> { panic!("it was looked at") };
        assert!(read("\"/a\"").is_for("/a", unread));
        let none = read(r#"{ "source": "/a", "has": [], "missing": [] }"#);
        assert!(none.is_for("/a", unread));
        let has = read(r#"{ "source": "/a", "has": [{ "type": "query", "key": "b" }] }"#);
        assert!(!has.is_for("/b", unread));
        let headers = http::HeaderMap::new();
        let request = |target: &'static str| ClientRequest {
            headers: &headers,
            target: target.as_bytes(),
            host: Cow::Borrowed("a.test"),
        };
        assert!(has.is_for("/a", || request("/a?b=1")) && !has.is_for("/a", || request("/a")));
    }

    #[test]
    fn a_matcher_is_one_or_a_list() {
        assert_eq!(read("\"/a\"").unwrap().len(), 1);
        assert_eq!(read("[\"/a\", { \"source\": \"/b\" }]").unwrap().len(), 2);
        for (key, instead) in [
            ("locale", "remove it"),
            ("regexp", "`source`"),
            ("have", "`has` and `missing`"),
        ] {
            let why = read(&format!("{{ \"source\": \"/b\", \"{key}\": false }}")).unwrap_err();
            assert!(why.contains(key) && why.contains(instead), "{why}");
        }
        assert!(read("1").is_err() && read("[\"a\"]").is_err());
        assert!(read("[]").unwrap_err().contains("no request"));
    }
}
