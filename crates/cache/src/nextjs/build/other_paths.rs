//! Other paths of the page that an app runs for a request. Guards of these paths are guards of the
//! request too.

use http::HeaderMap;

use super::rules::Rules;
use crate::base::expression::Expression;

/// Header in which the router names the page that its visitor comes from.
const NEXT_URL: &str = "next-url";

/// Pages that the app shows within the layout of the page that a visitor comes from.
#[derive(Debug, Default)]
pub(super) struct Interceptions(Box<[Interception]>);

#[derive(Debug)]
struct Interception {
    /// Paths of the page; `None` stands for any.
    paths: Option<Expression>,
    /// Pages that visitors come from; `None` stands for any.
    from: Option<Expression>,
    /// Path of the layout, whose parameters are those of the page that the visitor comes from.
    layout: Box<str>,
}

impl Interceptions {
    pub(super) fn new(rules: &Rules) -> Self {
        let rewrites = rules.all().filter(|(_, is_rewrite)| *is_rewrite);
        let all = rewrites.filter_map(|(rule, _)| {
            let mut conditions = rule.has.iter();
            let from = conditions.find(|own| own.key.eq_ignore_ascii_case(NEXT_URL))?;
            let path = rule.destination.strip_prefix(&*rules.base_path)?;
            // The mark of an intercepted page: `(.)`, `(..)` or `(...)`.
            let (layout, _) = path.split_once("/(.")?;
            let from = from.value.as_deref().map(|value| format!("^(?:{value})$"));
            Some(Interception {
                paths: rule.paths(),
                from: from.and_then(|from| Expression::parse(&from, false).ok()),
                layout: layout.into(),
            })
        });
        Self(all.collect())
    }

    /// Returns true if a request with these headers may show a page within another one.
    pub(super) fn may_apply(&self, headers: &HeaderMap) -> bool {
        !self.0.is_empty() && headers.contains_key(NEXT_URL)
    }

    /// Returns the paths of the layouts that the app runs for this raw path.
    pub(super) fn layouts(&self, path: &str, base: &str, headers: &HeaderMap) -> Vec<String> {
        // Node.js joins the lines of a header.
        let lines = headers.get_all(NEXT_URL).iter();
        let lines: Vec<_> = lines
            .map(|line| String::from_utf8_lossy(line.as_bytes()))
            .collect();
        let from = lines.join(", ");
        let is_match = |expression: &Option<Expression>, text: &str| {
            let expression = expression.as_ref();
            expression.is_none_or(|own| own.is_match(text).unwrap_or(true))
        };
        let all = self.0.iter();
        let applied = all.filter(|own| is_match(&own.from, &from) && is_match(&own.paths, path));
        let layouts = applied.map(|own| {
            let mut names = from.split('/').skip(1);
            let layout = own.layout.split('/').skip(1).map(|name| {
                let actual = names.next().unwrap_or_default();
                if name.starts_with(':') { actual } else { name }
            });
            let layout = layout.fold(base.to_owned(), |path, name| path + "/" + name);
            if layout.is_empty() {
                "/".into()
            } else {
                layout
            }
        });
        layouts.collect()
    }
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

    #[test]
    fn a_page_within_another_one_has_its_layout() {
        for (base, home) in [("", "/"), ("/base", "/base")] {
            let rules: Rules = serde_json::from_str(&RULES.replace("BASE", base)).unwrap();
            let all = Interceptions::new(&rules);
            let layouts = |path: &str, lines: &[&str]| {
                let mut headers = HeaderMap::new();
                for line in lines {
                    headers.append(NEXT_URL, line.parse().unwrap());
                }
                assert_eq!(all.may_apply(&headers), !lines.is_empty());
                all.layouts(&format!("{base}{path}"), base, &headers)
                    .join(" ")
            };
            for (path, from, layout) in [
                ("/photo/1", &["/feed"][..], format!("{base}/feed")),
                ("/Photo/1/", &["/feed/x"], format!("{base}/feed")),
                ("/photo/1", &["/feed/x", "/other"], format!("{base}/feed")),
                ("/photo/1", &["/other"], String::new()),
                ("/photos/1", &["/feed"], String::new()),
                ("/photo/1", &[], String::new()),
                ("/de/photo", &["/de/shop"], format!("{base}/de/shop")),
                ("/home", &["/"], home.to_owned()),
                ("/a", &["/"], String::new()),
            ] {
                assert_eq!(layouts(path, from), layout, "{path} {from:?}");
            }
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
            assert_eq!(build.may_have_other_paths(&headers), !others.is_empty());
            if build.may_have_other_paths(&headers) {
                assert_eq!(build.other_paths(path.as_bytes(), "h", &headers), others);
                assert_eq!(build.other_paths(b"/PICS", "h", &headers), others);
                assert!(build.other_paths(b"/other", "h", &headers).is_empty());
            }
        }
    }
}
