//! Other paths of the page that an app runs for a request. Guards of these paths are guards of the
//! request too.

use std::collections::BTreeSet;

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

/// Most paths that are looked at for one request; some milliseconds.
const MOST_TARGETS: usize = 2000;

/// Most cookies of one name that are compared; beyond them, one of them may have the value.
const MOST_VALUES: usize = 8;

/// Rewrites of the app's configuration, in the order in which the app tries them.
#[derive(Debug, Default)]
pub(super) struct InnerRewrites(pub(super) Box<[InnerRewrite]>);

#[derive(Debug)]
pub(super) struct InnerRewrite {
    /// Paths that it is for; `None` stands for any.
    paths: Option<Expression>,
    /// Names of the groups of `paths`.
    names: Box<[Box<str>]>,
    has: Box<[ParameterSource]>,
    /// Paths of the app: of a page, of the layout around a page that is shown within the page that the
    /// visitor comes from, or of the source of an image.
    destinations: Box<[Box<str>]>,
    /// Places of the rewrites that the app may apply after it.
    then: Box<[usize]>,
}

/// Condition of a rewrite, which may have parameters of a destination.
#[derive(Debug)]
struct ParameterSource {
    condition: Condition,
    /// Values, with a group for each parameter; `None` if the value is one.
    values: Option<Expression>,
}

impl InnerRewrites {
    pub(super) fn new(rules: &Rules) -> Self {
        let all = rules.linked_rewrites().into_iter().map(|own| {
            let mut parts = own.rule.destination.split(['?', '#']);
            let path = parts.next().unwrap_or_default();
            let query = parts.next().filter(|_| is_image(path.as_bytes()));
            let source = values(query.unwrap_or_default().as_bytes(), b"url").next();
            let source = source.map(|url| String::from_utf8_lossy(&query::decoded(url)).into());
            // The mark of an intercepted page: `(.)`, `(..)` or `(...)`.
            let layout = path.find("/(.").map_or(path, |at| &path[..at.max(1)]);
            let all = [path.starts_with('/').then(|| layout.into()), source];
            InnerRewrite {
                paths: own.paths,
                names: group_names(&own.rule.source),
                has: own.rule.has.iter().map(ParameterSource::new).collect(),
                destinations: all.into_iter().flatten().collect(),
                then: own.then.into(),
            }
        });
        Self(all.collect())
    }

    /// Returns the paths that the app runs for one of these, by up to two rewrites in a row; `None` if
    /// there are too many.
    pub(super) fn targets(
        &self,
        paths: &BTreeSet<String>,
        request: (&Target<'_>, &HeaderMap),
    ) -> Option<BTreeSet<String>> {
        let met = |is_first| -> Vec<bool> {
            let all = self.0.iter().map(|own| own.may_be_met(request, is_first));
            all.collect()
        };
        let (first, second) = (met(true), met(false));
        let mut targets = BTreeSet::new();
        let mut left = MOST_TARGETS;
        for path in paths {
            for (own, _) in self.0.iter().zip(&first).filter(|(_, is_met)| **is_met) {
                for target in own.targets(path, request) {
                    let then = own.then.iter().filter(|place| second[**place]);
                    for later in then.map(|place| &self.0[*place]) {
                        left = left.checked_sub(1)?;
                        targets.extend(later.targets(&target, request));
                    }
                    left = left.checked_sub(1)?;
                    targets.insert(target);
                }
            }
        }
        Some(targets)
    }
}

impl InnerRewrite {
    fn may_be_met(&self, request: (&Target<'_>, &HeaderMap), is_first: bool) -> bool {
        let mut has = self.has.iter();
        !self.destinations.is_empty() && has.all(|own| own.may_be_met(request, is_first))
    }

    fn targets(&self, path: &str, request: (&Target<'_>, &HeaderMap)) -> Vec<String> {
        let groups = match self.paths.as_ref().map(|paths| paths.groups(path)) {
            Some(Ok(None)) => return Vec::new(),
            Some(Ok(groups)) => groups,
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
        let fill = |destination: &str| {
            let mut parts = destination.split(':');
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
            target
        };
        self.destinations.iter().map(|own| fill(own)).collect()
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

    /// Returns false if the request does not meet the condition. Filters may add a header, and the
    /// first rewrite parameters; apps decode values before they compare them.
    fn may_be_met(&self, (target, headers): (&Target<'_>, &HeaderMap), is_first: bool) -> bool {
        let fits = |value: &str| {
            let values = self.values.as_ref();
            values.is_none_or(|own| own.is_match(value).unwrap_or(true))
        };
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
        let may_fit = |value: &[u8]| match std::str::from_utf8(value) {
            Ok(value) if value.bytes().all(|byte| is_plain(&byte)) => fits(value),
            _ => true,
        };
        let key = self.condition.key.as_bytes();
        match &*self.condition.r#type {
            "header" if self.condition.key.eq_ignore_ascii_case(NEXT_URL) => {
                let value = self.value((target, headers));
                value.is_some_and(|value| fits(&value))
            }
            "cookie" => {
                let mut values = query::cookies(headers, key);
                values.by_ref().take(MOST_VALUES).any(may_fit) || values.next().is_some()
            }
            "query" if is_first => {
                let query = target.query.unwrap_or_default();
                values(query, key).any(may_fit)
            }
            // Without a name the app may get any.
            "host" => target.host.is_empty() || may_fit(target.host.as_bytes()),
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
    for (index, mark) in source.match_indices([':', '(', ')']) {
        let (before, after) = (&source[..index], &source[index + 1..]);
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
        let path = String::from_utf8(target.path.to_vec()).expect("text");
        let targets = all.targets(&BTreeSet::from([path]), (&target, &headers));
        Vec::from_iter(targets.expect("few")).join(" ")
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
            rule(
                "/members/:n.png",
                "/private/:n.png",
                "^/members(?:/([^/]+?)\\\\.png)(?:/)?$",
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
            ("/first/1", "/second/1 /third/1/end"),
            ("/second/1", "/fourth /third/1/end"),
            ("/by?id=1&id=2", "/a/2/ada/new"),
            ("/by?%69d=1", "/a/1/ada/new"),
            ("/by", ""),
            ("/at", "/a.test"),
            ("/thumb/a", "/_next/image /members/a.png /private/a.png"),
        ] {
            assert_eq!(targets(&all, line, &lines), expected, "{line}");
        }
        assert_eq!(targets(&all, "/by?id=1", &lines[1..]), "", "no cookie");
    }

    /// Invariant: no request is compared with more paths than some for each rewrite.
    #[test]
    fn many_rewrites_of_any_path_cost_little() {
        let regex = "^(?:/((?:[^/]+?)(?:/(?:[^/]+?))*))?(?:/)?$";
        let of = |condition: &dyn Fn(usize) -> String| {
            let rule = |number: usize| {
                format!(
                    r#"{{ "source": "/:path*", "destination": "/t{number}/:path*", "regex": "{regex}",
                    "has": [{}] }}"#,
                    condition(number)
                )
            };
            let rules: Vec<_> = (0..80).map(rule).collect();
            let rules = format!(r#"{{ "rewrites": [{}] }}"#, rules.join(","));
            InnerRewrites::new(&serde_json::from_str(&rules).expect("a manifest"))
        };
        let own = |kind: &str, value: &str| {
            of(&|number| {
                let value = value.replace('N', &number.to_string());
                format!(r#"{{ "type": "{kind}", "key": "k", "value": "{value}" }}"#)
            })
        };
        for (all, host, query, lines, expected) in [
            (
                own("host", "tN\\\\.test"),
                "t7.test",
                None,
                &[][..],
                Some(1),
            ),
            (own("host", "tN\\\\.test"), "", None, &[], Some(80)),
            (own("header", "N"), "h", None, &[], Some(80)),
            (own("header", "N.*"), "h", None, &[], None),
            (own("cookie", "vN"), "h", None, &["k=v7"], Some(1)),
            (own("cookie", "vN"), "h", None, &["k=v7; k=%767"], Some(80)),
            (own("cookie", "vN"), "h", None, &["kk=v7"], Some(0)),
            (
                own("cookie", "vN"),
                "h",
                None,
                &["k=1; k=2; k=3; k=4; k=5; k=6; k=7; k=8; k=9"],
                Some(80),
            ),
            (own("query", "vN"), "h", Some("k=vx"), &[], Some(0)),
            (own("query", "vN"), "h", Some("k=v7"), &[], Some(1 + 72)),
        ] {
            let query = query.map(str::as_bytes);
            let target = Target {
                query,
                ..Target::new(host, b"/a")
            };
            let named = lines
                .iter()
                .map(|line| (http::header::COOKIE, line.parse().unwrap()));
            let headers: HeaderMap = named.collect();
            let targets = all.targets(&BTreeSet::from(["/a".to_owned()]), (&target, &headers));
            let case = format!("{:?} {host} {query:?} {lines:?}", all.0[0].has);
            assert_eq!(targets.map(|own| own.len()), expected, "{case}");
        }
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
            let others_of = |path: &str| {
                let others = build.other_paths(&Target::new("h", path.as_bytes()), &headers);
                others.expect("few")
            };
            assert_eq!(build.may_have_other_paths(), !others.is_empty());
            if build.may_have_other_paths() {
                assert_eq!(others_of(path), others);
                assert_eq!(others_of("/PICS"), others);
                assert!(others_of("/other").is_empty());
            }
        }
    }
}
