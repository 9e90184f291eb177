//! Other paths of the page that an app runs for a request. Guards of these paths are guards of the
//! request too.

use http::HeaderMap;

use super::rules::{Condition, Rules};
use crate::base::{
    expression::Expression,
    query::{self, cookie_values, form_decoded, values},
    spelling::is_image,
    target::Target,
};

/// Header in which the router names the page that its visitor comes from.
const NEXT_URL: &str = "next-url";

/// Rewrites of the app's configuration to its own paths, in the order in which the app tries them.
#[derive(Debug, Default)]
pub(super) struct InnerRewrites(pub(super) Box<[InnerRewrite]>);

#[derive(Debug)]
pub(super) struct InnerRewrite {
    /// Paths that it is for; `None` stands for any.
    paths: Option<Expression>,
    /// Names of the groups of `paths`.
    names: Box<[Box<str>]>,
    has: Box<[ParameterSource]>,
    /// Path of a page, of the layout around a page that is shown within the page that the visitor
    /// comes from, or of the source of an image.
    destination: Box<str>,
}

/// Part of a request with parameters of a destination. Whether it has the right value is decided for
/// [`NEXT_URL`] alone.
#[derive(Debug)]
struct ParameterSource {
    condition: Condition,
    /// Values, with a group for each parameter; `None` if the value is one.
    values: Option<Expression>,
}

impl InnerRewrites {
    pub(super) fn new(rules: &Rules) -> Self {
        let rewrites = rules.all().filter(|(_, is_rewrite)| *is_rewrite);
        let all = rewrites.flat_map(|(rule, _)| {
            let mut parts = rule.destination.split(['?', '#']);
            let path = parts.next().unwrap_or_default();
            let query = parts.next().filter(|_| is_image(path.as_bytes()));
            let source = values(query.unwrap_or_default().as_bytes(), b"url").next();
            let source = source.map(|url| String::from_utf8_lossy(&query::decoded(url)).into());
            // The mark of an intercepted page: `(.)`, `(..)` or `(...)`.
            let layout = path.find("/(.").map_or(path, |at| &path[..at.max(1)]);
            let all = [path.starts_with('/').then(|| layout.into()), source];
            all.into_iter().flatten().map(|destination| InnerRewrite {
                paths: rule.paths(),
                names: group_names(&rule.source),
                has: rule.has.iter().map(ParameterSource::new).collect(),
                destination,
            })
        });
        Self(all.collect())
    }

    /// Returns the paths that the app runs for this one, by up to two rewrites in a row.
    pub(super) fn targets(&self, path: &str, request: (&Target<'_>, &HeaderMap)) -> Vec<String> {
        let mut targets = Vec::new();
        for (place, own) in self.0.iter().enumerate() {
            if let Some(target) = own.target(path, request) {
                let later = self.0[place + 1..].iter();
                targets.extend(later.filter_map(|own| own.target(&target, request)));
                targets.push(target);
            }
        }
        targets
    }
}

impl InnerRewrite {
    fn target(&self, path: &str, request: (&Target<'_>, &HeaderMap)) -> Option<String> {
        if !self.has.iter().all(|own| own.may_be_met(request)) {
            return None;
        }
        let groups = match self.paths.as_ref().map(|paths| paths.groups(path)) {
            Some(Ok(groups)) => Some(groups?),
            Some(Err(_)) | None => None,
        };
        let value = |name: &str| {
            let mut has = self.has.iter().rev();
            has.find_map(|own| own.parameter(name, request))
                .or_else(|| {
                    let place = self.names.iter().position(|own| **own == *name)?;
                    Some(groups.as_ref()?.get(place + 1).to_owned())
                })
        };
        let mut parts = self.destination.split(':');
        let mut target = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (name, rest) = part.split_at(end_of_name(part));
            // A parameter without a value matches those of a route's path.
            let value = value(name).unwrap_or_else(|| format!(":{name}"));
            if value.is_empty() && target.len() > 1 && target.ends_with('/') {
                target.pop();
            }
            target += &value;
            target += rest.trim_start_matches(['*', '+']);
        }
        Some(target)
    }
}

impl ParameterSource {
    fn new(condition: &Condition) -> Self {
        let values = condition.value.as_deref().map(|own| format!("^(?:{own})$"));
        Self {
            condition: condition.clone(),
            values: values.and_then(|values| Expression::parse(&values, false).ok()),
        }
    }

    /// Returns true unless the request lacks the cookie or the parameter of the condition. Filters
    /// may add a header, and apps decode values before they compare them.
    fn may_be_met(&self, request: (&Target<'_>, &HeaderMap)) -> bool {
        let is_match = |value: String| {
            let values = self.values.as_ref();
            values.is_none_or(|own| own.is_match(&value).unwrap_or(true))
        };
        match &*self.condition.r#type {
            "header" if self.condition.key.eq_ignore_ascii_case(NEXT_URL) => {
                self.value(request).is_some_and(is_match)
            }
            "cookie" | "query" => self.value(request).is_some(),
            _ => true,
        }
    }

    fn parameter(&self, name: &str, request: (&Target<'_>, &HeaderMap)) -> Option<String> {
        let value = self.value(request)?;
        let groups = |values: &Expression| values.groups(&value).ok()?;
        let named = self.values.as_ref().and_then(groups);
        let named = named.and_then(|groups| Some(groups.name(name)?.as_str().to_owned()));
        let key = match &*self.condition.r#type {
            "host" => "host",
            _ => &self.condition.key,
        };
        named.or_else(|| (key == name).then_some(value))
    }

    fn value(&self, (target, headers): (&Target<'_>, &HeaderMap)) -> Option<String> {
        let key = self.condition.key.as_bytes();
        let value = match &*self.condition.r#type {
            "query" => form_decoded(values(target.query?, key).last()?),
            "cookie" => cookie_values(headers, key).next()?,
            "host" => target.host.as_bytes().into(),
            // Node.js joins the lines of a header.
            _ => {
                let lines = headers.get_all(&*self.condition.key).iter();
                let lines: Vec<_> = lines.map(http::HeaderValue::as_bytes).collect();
                (!lines.is_empty()).then(|| lines.join(&b", "[..]).into())?
            }
        };
        Some(String::from_utf8_lossy(&value).into_owned())
    }
}

fn end_of_name(text: &str) -> usize {
    let end = text.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    end.unwrap_or(text.len())
}

/// Returns the names of the groups in the expression of a source, in their order; an empty one for a
/// group without a name.
fn group_names(source: &str) -> Box<[Box<str>]> {
    let (mut names, mut depth) = (Vec::new(), 0_usize);
    for (at, mark) in source.match_indices([':', '(', ')']) {
        let (before, after) = (&source[..at], &source[at + 1..]);
        match mark {
            _ if before.ends_with('\\') => {}
            ":" if depth == 0 => names.push(&after[..end_of_name(after)]),
            "(" => {
                // The expression of a parameter is no group of its own.
                let name = names.last().and_then(|name| before.strip_suffix(name));
                if depth == 0 && !name.is_some_and(|before| before.ends_with(':')) {
                    names.push("");
                }
                depth += 1;
            }
            ")" => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    names.into_iter().map(Into::into).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Build, rules::Languages};
    use super::*;

    const RULES: &str = r#"{ "basePath": "BASE", "rewrites": { "beforeFiles": [
        { "source": "BASE/photo/:id", "destination": "BASE/feed/(..)photo/:id",
          "has": [{ "type": "header", "key": "next-url", "value": "/feed(?:/.*)?" }],
          "regex": "^BASE/photo(?:/([^/]+?))(?:/)?$" },
        { "source": "BASE/:lang/photo", "destination": "BASE/:lang/shop/(.)photo",
          "has": [{ "type": "header", "key": "next-url", "value": "/(?<lang>[^/]+?)/shop(?:/.*)?" }],
          "regex": "^BASE(?:/([^/]+?))/photo(?:/)?$" },
        { "source": "BASE/home", "destination": "BASE/(.)home",
          "has": [{ "type": "header", "key": "next-url", "value": "/" }],
          "regex": "^BASE/home(?:/)?$" },
        { "source": "BASE/a", "destination": "BASE/b", "regex": "^BASE/a(?:/)?$",
          "has": [{ "type": "header", "key": "x-beta" }] }
    ] } }"#;

    /// Returns the paths that rewrites lead a request to.
    fn targets(all: &InnerRewrites, line: &str, lines: &[(&'static str, &str)]) -> String {
        let named = |(name, value): &(&'static str, &str)| (*name, value.parse().expect("a value"));
        let mut headers = HeaderMap::new();
        for (name, value) in lines.iter().map(named) {
            headers.append(name, value);
        }
        let target = Target::new("a.test", line.as_bytes());
        let path = std::str::from_utf8(target.path).expect("text");
        all.targets(path, (&target, &headers)).join(" ")
    }

    #[test]
    fn a_page_within_another_one_has_its_layout() {
        for (base, home) in [("", "/"), ("/base", "/base")] {
            let rules: Rules = serde_json::from_str(&RULES.replace("BASE", base)).unwrap();
            let all = InnerRewrites::new(&rules);
            for (path, from, layout) in [
                ("/photo/1", &["/feed"][..], format!("{base}/feed")),
                ("/Photo/1/", &["/feed/x"], format!("{base}/feed")),
                ("/photo/1", &["/feed/x", "/other"], format!("{base}/feed")),
                ("/photo/1", &["/other"], String::new()),
                ("/photos/1", &["/feed"], String::new()),
                ("/photo/1", &[], String::new()),
                ("/de/photo", &["/de/shop"], format!("{base}/de/shop")),
                ("/home", &["/"], home.to_owned()),
                ("/a", &["/"], format!("{base}/b")),
            ] {
                let lines: Vec<_> = from.iter().map(|own| (NEXT_URL, *own)).collect();
                let actual = targets(&all, &format!("{base}{path}"), &lines);
                assert_eq!(actual, layout, "{path} {from:?}");
            }
        }
    }

    /// Invariant: a path leads where `prepareDestination` of Next.js leads it.
    #[test]
    fn a_rewrite_leads_where_its_parameters_say() {
        let rule = |source: &str, destination: &str, regex: &str, has: &str| {
            format!(
                r#"{{ "source": "{source}", "destination": "{destination}", "regex": "{regex}", "has": [{has}] }}"#
            )
        };
        let many = "(?:/((?:[^/]+?)(?:/(?:[^/]+?))*))?";
        let rules = [
            rule("/open", "/members?a=1", "^/open(?:/)?$", ""),
            rule(
                "/shop/:id*",
                "/members/:id*",
                &format!("^/shop{many}(?:/)?$"),
                "",
            ),
            rule(
                "/:lang/x/(\\\\d+)/:n(a|b(?:c))-:end",
                "/members/:end/:n/:lang",
                "^(?:/([^/]+?))/x(?:/(\\\\d+))(?:/(a|b(?:c)))-([^/]+?)(?:/)?$",
                "",
            ),
            rule("/first/:a", "/second/:a", "^/first(?:/([^/]+?))(?:/)?$", ""),
            rule(
                "/second/:b",
                "/third/:b/end",
                "^/second(?:/([^/]+?))(?:/)?$",
                "",
            ),
            rule(
                "/third/:b*",
                "/fourth",
                &format!("^/third{many}(?:/)?$"),
                "",
            ),
            rule(
                "/first/:a",
                "https://other.test/:a",
                "^/first(?:/([^/]+?))(?:/)?$",
                "",
            ),
            rule(
                "/first/:a",
                "/before/:a",
                "^/before(?:/([^/]+?))(?:/)?$",
                "",
            ),
            rule(
                "/by",
                "/:tenant/:id/:who/:kind",
                "^/by(?:/)?$",
                r#"{ "type": "host", "value": "(?<tenant>[a-z]+)\\.test" },
                   { "type": "query", "key": "id" }, { "type": "cookie", "key": "who" },
                   { "type": "header", "key": "X-Kind", "value": "(?<kind>.+)-x" }"#,
            ),
            rule(
                "/at",
                "/:host",
                "^/at$",
                r#"{ "type": "host", "value": "a\\.test" }"#,
            ),
            rule(
                "/thumb/:n",
                "/_next/image?w=64&url=%2Fmembers%2F:n.png",
                "^/thumb(?:/([^/]+?))$",
                "",
            ),
        ];
        let manifest = format!(r#"{{ "rewrites": [{}] }}"#, rules.join(","));
        let all = InnerRewrites::new(&serde_json::from_str(&manifest).unwrap());
        let lines = [("cookie", "who=ada"), ("x-kind", "new-x")];
        for (line, expected) in [
            ("/open", "/members"),
            ("/OPEN/", "/members"),
            ("/opened", ""),
            ("/shop", "/members"),
            ("/shop/a/b%20c", "/members/a/b%20c"),
            ("/de/x/12/bc-z", "/members/z/bc/de"),
            ("/de/x/y/bc-z", ""),
            ("/first/1", "/third/1/end /second/1"),
            ("/second/1", "/fourth /third/1/end"),
            ("/by?id=1&id=2", "/a/2/ada/new"),
            ("/by?%69d=1", "/a/1/ada/new"),
            ("/by", ""),
            ("/at", "/a.test"),
            ("/thumb/a", "/_next/image /members/a.png"),
        ] {
            assert_eq!(targets(&all, line, &lines), expected, "{line}");
        }
        assert_eq!(targets(&all, "/by?id=1", &lines[1..]), "", "no cookie");
    }

    #[test]
    fn a_page_has_its_path_with_and_without_a_language() {
        let rules = r#"{ "locales": ["en", "de-AT"], "defaultLocale": "en",
            "domains": [{ "domain": "Laden.test:80", "defaultLocale": "de-AT" }] }"#;
        let languages: Languages = serde_json::from_str(rules).expect("languages");
        for base in ["", "/base"] {
            let home = if base.is_empty() { "/" } else { base };
            let data = format!("{base}/_next/data/b1");
            for (host, path, other) in [
                ("", format!("{base}/a"), Some(format!("{base}/en/a"))),
                (
                    "laden.test",
                    format!("{base}/a"),
                    Some(format!("{base}/de-AT/a")),
                ),
                (
                    "laden.test",
                    format!("{base}/EN/a"),
                    Some(format!("{base}/a")),
                ),
                ("", format!("{base}/de-at"), Some(home.to_owned())),
                (
                    "",
                    format!("{data}/a.json"),
                    Some(format!("{data}/en/a.json")),
                ),
                (
                    "",
                    format!("{data}/en/a.json"),
                    Some(format!("{data}/a.json")),
                ),
                (
                    "",
                    format!("{data}/en.json"),
                    Some(format!("{data}/index.json")),
                ),
                ("", format!("{base}/_next/static/en/a.js"), None),
            ] {
                assert_eq!(languages.other_path(&path, host, base), other, "{path}");
            }
        }
    }

    #[test]
    fn an_optimizer_at_a_path_of_its_own_is_one() {
        let folder = tempfile::tempdir().unwrap();
        for (path, others) in [("/pics", &["/_next/image"][..]), ("/_next/image", &[])] {
            let images = format!(
                r#"{{ "images": {{ "deviceSizes": [640], "imageSizes": [64], "path": "{path}",
                "loader": "default", "formats": ["image/webp"], "qualities": [75] }} }}"#
            );
            for (name, text) in [("BUILD_ID", "b1"), ("images-manifest.json", &*images)] {
                std::fs::write(folder.path().join(name), text).unwrap();
            }
            let build = Build::read(folder.path(), false).unwrap();
            let headers = HeaderMap::new();
            let others_of =
                |path: &str| build.other_paths(&Target::new("h", path.as_bytes()), &headers);
            assert_eq!(build.may_have_other_paths(), !others.is_empty());
            if build.may_have_other_paths() {
                assert_eq!(others_of(path), others);
                assert_eq!(others_of("/PICS"), others);
                assert!(others_of("/other").is_empty());
            }
        }
    }
}
