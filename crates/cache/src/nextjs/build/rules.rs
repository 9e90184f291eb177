//! Rules of an app's configuration in `routes-manifest.json`, and what they look at in a request:
//! headers, cookies and the visitor's language decide about a response that says nothing of them.

use std::collections::BTreeSet;

use http::{HeaderMap, HeaderName, header};
use serde::Deserialize;

use super::super::paths;
use crate::{
    base::{expression::Expression, query, reserved_headers::names_a_written_header},
    chain::KeyBuilder,
};

/// Header of responses to the router.
const DEPLOYMENT: &str = "x-nextjs-deployment-id";

/// Cookie with the language that a visitor has chosen.
const LANGUAGE: &str = "NEXT_LOCALE";

/// Headers whose values follow from scheme and host, which every key has.
const KEYED: [&str; 4] = [
    "host",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
];

/// Rules in `routes-manifest.json`.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Rules {
    pub(super) base_path: Box<str>,
    pub(super) headers: Vec<Rule>,
    pub(super) on_match_headers: Vec<Rule>,
    pub(super) redirects: Vec<Rule>,
    pub(super) rewrites: Option<Rewrites>,
    /// Languages in paths: then one path has several.
    pub(super) i18n: Option<Languages>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Languages {
    locale_detection: Option<bool>,
    locales: Vec<Box<str>>,
    default_locale: Box<str>,
    domains: Vec<Domain>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Domain {
    domain: Box<str>,
    default_locale: Box<str>,
}

impl Domain {
    fn is_of(&self, host: &str) -> bool {
        let name = self.domain.split(':').next().unwrap_or_default();
        name.eq_ignore_ascii_case(host)
    }
}

impl Languages {
    /// Returns the raw path with each language that a host has by default, as Next.js compares it
    /// with matchers; `None` if the path has a language, or needs none.
    pub(super) fn localized<'p>(
        &'p self,
        path: &'p str,
        base: &str,
    ) -> Option<impl Iterator<Item = String> + 'p> {
        let (before, page) = page_in(path, base)?;
        if self.without_language(page).is_some() {
            return None;
        }
        let page = if page == "/" { "" } else { page };
        let domains = self.domains.iter().map(|domain| &domain.default_locale);
        let defaults = std::iter::once(&self.default_locale).chain(domains);
        Some(defaults.map(move |locale| format!("{before}/{locale}{page}")))
    }

    /// Returns the raw path without its language, or with that of this host.
    pub(super) fn other_path(&self, path: &str, host: &str, base: &str) -> Option<String> {
        let (before, page) = page_in(path, base)?;
        let is_data = before.len() > base.len();
        let data = page.strip_suffix(".json").filter(|_| is_data);
        Some(match self.without_language(data.unwrap_or(page)) {
            Some("") if is_data => format!("{before}/index.json"),
            Some("") if base.is_empty() => "/".to_owned(),
            Some(rest) if data.is_some() => format!("{before}{rest}.json"),
            Some(rest) => format!("{before}{rest}"),
            None => {
                let mut domains = self.domains.iter();
                let domain = domains.find(|domain| domain.is_of(host));
                let language = domain.map_or(&self.default_locale, |own| &own.default_locale);
                format!("{before}/{language}{page}")
            }
        })
    }

    /// Returns the part of a page's path behind its language, if it has one.
    fn without_language<'p>(&self, page: &'p str) -> Option<&'p str> {
        let page = page.strip_prefix('/')?;
        let (first, rest) = page.split_at(page.find('/').unwrap_or(page.len()));
        let mut locales = self.locales.iter();
        let has = locales.any(|locale| locale.eq_ignore_ascii_case(first));
        has.then_some(rest)
    }
}

/// Splits a raw path before that of its page, which follows the build in addresses of data.
fn page_in<'p>(path: &'p str, base: &str) -> Option<(&'p str, &'p str)> {
    let below = path.strip_prefix(base)?;
    let page = match below.strip_prefix("/_next/") {
        Some(rest) => &rest[rest.strip_prefix("data/")?.find('/')? + "data/".len()..],
        None => below,
    };
    let is_page = page.is_empty() || page.starts_with('/');
    is_page.then(|| path.split_at(path.len() - page.len()))
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Rule {
    pub(super) source: String,
    pub(super) regex: Option<String>,
    /// Path or URL that a rewrite or a redirect leads to.
    pub(super) destination: String,
    headers: Vec<RuleHeader>,
    pub(super) has: Vec<Condition>,
    missing: Vec<Condition>,
}

#[derive(Deserialize)]
struct RuleHeader {
    #[serde(default)]
    key: String,
}

/// Condition of a rule; one on the host has no key.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Condition {
    pub(super) r#type: String,
    #[serde(default)]
    pub(super) key: String,
    pub(super) value: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Rewrites {
    ByPhase {
        #[serde(default, rename = "beforeFiles")]
        before_files: Vec<Rule>,
        #[serde(default, rename = "afterFiles")]
        after_files: Vec<Rule>,
        #[serde(default)]
        fallback: Vec<Rule>,
    },
    /// All of these come after files.
    List(Vec<Rule>),
}

impl Rule {
    /// Returns true for the rule with which Next.js names the deployment in responses to its
    /// router: it changes no file.
    pub(super) fn is_for_router(&self) -> bool {
        !self.headers.is_empty() && self.headers.iter().all(|it| it.key == DEPLOYMENT)
    }

    /// Compiles the expression for the rule's paths. `None` if it cannot be read, so that it could
    /// match any path.
    pub(super) fn paths(&self) -> Option<Expression> {
        // Next.js compares these without regard to case, unless it is told otherwise.
        Expression::parse(self.regex.as_deref()?, true).ok()
    }
}

/// Conditions of all rules on headers and cookies.
#[derive(Debug, Default)]
pub(super) struct Deciders {
    all: Vec<Decider>,
    /// True if the paths of rules begin with a language, which those of pages may lack.
    has_languages: bool,
}

#[derive(Debug, Default)]
struct Decider {
    paths: DecidedPaths,
    headers: Vec<HeaderName>,
    cookies: Vec<Box<str>>,
    /// True for a condition on a header about the client that the gateway writes after the lookup.
    is_unknown: bool,
    is_rewrite: bool,
    /// Places of later deciders whose paths this rewrite may lead to: they decide too.
    leads_to: Vec<usize>,
}

#[derive(Debug, Default)]
enum DecidedPaths {
    #[default]
    All,
    /// Page at the base path.
    Home,
    Like(Expression),
}

/// Parts of a request that decide about a path.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Decided {
    /// Their values, for the key.
    pub(in super::super) key: KeyBuilder,
    /// True if cookies are among them, which requests in the background may lack.
    pub(in super::super) has_cookies: bool,
    /// True if the gateway does not know all of them yet.
    pub(in super::super) is_unknown: bool,
    /// True if a rewrite may lead the path to another page.
    pub(in super::super) is_rewritten: bool,
}

impl Deciders {
    pub(super) fn new(rules: &Rules) -> Self {
        let mut all = Vec::new();
        let languages = rules.i18n.as_ref();
        if languages.is_some_and(|own| own.locale_detection != Some(false)) {
            all.push(Decider {
                paths: DecidedPaths::Home,
                headers: vec![header::ACCEPT_LANGUAGE],
                cookies: vec![LANGUAGE.into()],
                ..Decider::default()
            });
        }
        let others = [&rules.headers, &rules.on_match_headers, &rules.redirects];
        // The key has the router's header already.
        let counted = others
            .into_iter()
            .flatten()
            .filter(|rule| !rule.is_for_router());
        let deciders = counted.map(|rule| Decider::new(rule, rule.paths()));
        all.extend(deciders.filter(Decider::has_conditions));
        let start = all.len();
        all.extend(rules.linked_rewrites().into_iter().map(|own| Decider {
            is_rewrite: true,
            leads_to: own.then.iter().map(|place| start + place).collect(),
            ..Decider::new(own.rule, own.paths)
        }));
        Self {
            all,
            has_languages: languages.is_some(),
        }
    }

    /// Returns what of a request decides about this raw path, for an app below `base`. `is_file`: it
    /// is that of a file of the build, which no rewrite is for.
    pub(super) fn decide(
        &self,
        path: &[u8],
        base: &str,
        headers: &HeaderMap,
        is_file: bool,
    ) -> Decided {
        let mut decided = Decided::default();
        if self.all.is_empty() {
            return decided;
        }
        let decoded = paths::decoded(path);
        let below = decoded.strip_prefix(base.as_bytes());
        let page = below.map(paths::page_of).unwrap_or_default();
        let page_path = [base.as_bytes(), page].concat();
        let forms = [path, &decoded, &page_path].map(std::str::from_utf8);
        let may_be_another = paths::may_be_another(path);
        let mut reached: BTreeSet<usize> = BTreeSet::new();
        // Each once, however many rules look at it.
        let (mut names, mut cookies) = (BTreeSet::new(), BTreeSet::new());
        for (place, decider) in self.all.iter().enumerate() {
            let is_for = match &decider.paths {
                _ if is_file && decider.is_rewrite => false,
                DecidedPaths::All => true,
                DecidedPaths::Home => below.is_some() && page.is_empty() || may_be_another,
                DecidedPaths::Like(_) if self.has_languages && !is_file => true,
                DecidedPaths::Like(paths) => {
                    let mut forms = forms.iter();
                    let is_match = |path: &&str| paths.is_match(path).unwrap_or(true);
                    may_be_another || forms.any(|form| form.as_ref().map_or(true, is_match))
                }
            };
            if is_for || reached.contains(&place) {
                decided.is_unknown |= decider.is_unknown;
                decided.is_rewritten |= decider.is_rewrite;
                names.extend(decider.headers.iter().map(HeaderName::as_str));
                cookies.extend(decider.cookies.iter().map(|name| &**name));
                reached.extend(&decider.leads_to);
            }
        }
        decided.put(headers, &names, &cookies);
        decided
    }
}

impl Decider {
    fn new(rule: &Rule, paths: Option<Expression>) -> Self {
        let mut decider = Self {
            paths: paths.map_or(DecidedPaths::All, DecidedPaths::Like),
            ..Self::default()
        };
        for Condition { r#type, key, .. } in rule.has.iter().chain(&rule.missing) {
            let name = key.to_ascii_lowercase();
            match r#type.as_str() {
                "cookie" => decider.cookies.push(key.as_str().into()),
                "header" if KEYED.contains(&&*name) => {}
                "header" if names_a_written_header(&name) => decider.is_unknown = true,
                "header" => decider.headers.extend(HeaderName::try_from(name)),
                // Host and query are in every key.
                _ => {}
            }
        }
        decider
    }

    fn has_conditions(&self) -> bool {
        self.is_unknown || !self.headers.is_empty() || !self.cookies.is_empty()
    }
}

impl Decided {
    /// Puts the values of these headers and cookies into the key.
    fn put(&mut self, headers: &HeaderMap, names: &BTreeSet<&str>, cookies: &BTreeSet<&str>) {
        for name in names {
            for value in headers.get_all(*name) {
                self.key.part("decides", name.as_bytes());
                self.key.part("=", value.as_bytes());
            }
        }
        if cookies.is_empty() {
            return;
        }
        let mut put = |name: &str, value: &[u8]| {
            self.key.part("decides", name.as_bytes());
            self.key.part("=", value);
            self.has_cookies = true;
        };
        let lines = headers.get_all(header::COOKIE).iter();
        if !query::are_cookies_clear(headers) {
            // The app may read other cookies than these.
            lines.for_each(|line| put("cookie", line.as_bytes()));
            return;
        }
        for name in cookies {
            query::cookies(headers, name.as_bytes()).for_each(|value| put(name, value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the key of a request with these headers, and whether it is known.
    fn decided(rules: &str, base: &str, path: &str, lines: &[(&str, &str)]) -> (KeyBuilder, bool) {
        let rules: Rules = serde_json::from_str(rules).expect("a manifest");
        let headers = lines.iter().map(|(name, value)| {
            let name = HeaderName::try_from(*name).expect("a name");
            (name, value.parse().expect("a value"))
        });
        let is_file = path.starts_with("/_next/static/");
        let decided =
            Deciders::new(&rules).decide(path.as_bytes(), base, &headers.collect(), is_file);
        (decided.key, !decided.is_unknown)
    }

    #[test]
    fn the_language_decides_about_the_page_at_the_base_path_alone() {
        let german = [("accept-language", "de")];
        let languages = r#"{ "i18n": { "locales": ["en", "de"], "defaultLocale": "en" } }"#;
        let off = r#"{ "i18n": { "locales": ["en"], "localeDetection": false } }"#;
        for (rules, base, path, differs) in [
            (languages, "", "/", true),
            (languages, "", "/index", true),
            (languages, "", "/de", false),
            (languages, "/site", "/site", true),
            (languages, "/site", "/site/", true),
            (languages, "/site", "/", false),
            (off, "", "/", false),
            ("{}", "", "/", false),
        ] {
            let (key, is_known) = decided(rules, base, path, &german);
            assert_eq!(key != KeyBuilder::default(), differs, "{rules} {path}");
            assert!(is_known);
        }
    }

    #[test]
    fn a_header_is_in_the_key_once() {
        let rule = |number: usize| {
            let has = r#"{ "type": "cookie", "key": "ab" }, { "type": "header", "key": "x-ab" }"#;
            format!(r#"{{ "source": "/:a*", "destination": "/{number}", "has": [{has}] }}"#)
        };
        let rules = |count: usize| {
            let all: Vec<_> = (0..count).map(rule).collect();
            format!(
                r#"{{ "rewrites": [{0}], "redirects": [{0}] }}"#,
                all.join(",")
            )
        };
        let lines = [("cookie", "ab=1; ab=2"), ("x-ab", "3")];
        let own = |count| decided(&rules(count), "", "/a", &lines).0;
        assert_eq!(own(1), own(300));
        assert_ne!(own(1), own(0));
    }

    #[test]
    fn paths_that_a_rewrite_may_lead_elsewhere_are_known() {
        let rule = r#"{ "source": "/journal/:slug", "regex": "^/journal/([^/]+?)(?:/)?$" }"#;
        for (rules, path, expected) in [
            (format!(r#"{{ "rewrites": [{rule}] }}"#), "/journal/a", true),
            (
                format!(r#"{{ "rewrites": {{ "fallback": [{rule}] }} }}"#),
                "/journal/%61",
                true,
            ),
            (format!(r#"{{ "rewrites": [{rule}] }}"#), "/blog/a", false),
            (
                format!(r#"{{ "redirects": [{rule}] }}"#),
                "/journal/a",
                false,
            ),
        ] {
            let rules: Rules = serde_json::from_str(&rules).expect("a manifest");
            let decided =
                Deciders::new(&rules).decide(path.as_bytes(), "", &HeaderMap::new(), false);
            assert_eq!(decided.is_rewritten, expected, "{path}");
        }
    }

    #[test]
    fn a_rewrite_that_an_earlier_one_leads_to_decides_too() {
        let decides = |first: &str, source: &str, regex: &str| {
            let rules = format!(
                r#"{{ "rewrites": {{
                    "beforeFiles": [
                        {{ "source": "/start", "regex": "^/start(?:/)?$", "destination": "{first}" }},
                        {{ "source": "/mid/:x", "regex": "^/mid/([^/]+?)(?:/)?$", "destination": "/end" }}
                    ],
                    "fallback": [{{ "source": "{source}", "regex": "{regex}", "destination": "/de",
                        "has": [{{ "type": "cookie", "key": "lang" }}] }}] }} }}"#
            );
            let of = |path: &str| decided(&rules, "", path, &[("cookie", "lang=de")]).0;
            assert_eq!(of("/other"), KeyBuilder::default());
            of("/start") != KeyBuilder::default()
        };
        let (home, end, below) = ("^/home(?:/)?$", "^/end(?:/)?$", "^/home/(.*)$");
        for (first, source, regex, expected) in [
            ("/home", "/home", home, true),
            ("/Home?a=:b", "/home", home, true),
            ("/homes", "/home", home, false),
            ("/:lang/page", "/home", home, true),
            ("/home/:page*", "/home/:all*", below, true),
            ("/shop/:page*", "/home/:all*", below, false),
            ("https://other/home", "/home", home, false),
            // By the rewrite between them.
            ("/mid/:x", "/end", end, true),
            ("/mid/a/b", "/end", end, false),
        ] {
            assert_eq!(decides(first, source, regex), expected, "{first} {source}");
        }
    }

    #[test]
    fn conditions_of_rules_decide_about_their_paths() {
        let rules = |condition: &str| {
            format!(
                r#"{{ "rewrites": {{ "fallback": [{{ "source": "/a", "regex": "^/a(?:/)?$",
                "missing": [{condition}] }}] }}, "headers": [{{ "source": "/x", "regex": "(" ,
                "has": [{{ "type": "query", "key": "q" }}] }}] }}"#
            )
        };
        let cookie = rules(r#"{ "type": "cookie", "key": "beta" }"#);
        let of = |path: &str, line: &str| decided(&cookie, "", path, &[("cookie", line)]).0;
        let nothing = KeyBuilder::default();
        for path in [
            "/a",
            "/A",
            "/a/",
            "/%61",
            "/_next/data/build/a.json",
            "/x/%2e%2e/a",
        ] {
            assert_ne!(of(path, "beta=1; b=2"), nothing, "{path}");
            assert_ne!(of(path, "beta=1"), of(path, "beta=2"), "{path}");
            assert_eq!(of(path, "beta=1; b=2"), of(path, "beta=1; b=3"), "{path}");
        }
        assert_eq!(of("/b", "beta=1"), nothing);
        // A line that apps read differently counts as a whole.
        assert_ne!(of("/a", "b=\"; beta=1"), of("/a", "b=\"; beta=1; c"));
        for (name, is_known) in [
            ("X-Forwarded-Proto", true),
            ("x-forwarded-for", false),
            ("x-country", true),
        ] {
            let header = rules(&format!(r#"{{ "type": "header", "key": "{name}" }}"#));
            assert_eq!(decided(&header, "", "/a", &[]).1, is_known, "{name}");
            assert!(decided(&header, "", "/b", &[]).1, "{name}");
        }
    }

    #[test]
    fn headers_and_redirects_decide_about_files_of_the_build_and_rewrites_do_not() {
        let rule = |list: &str, more: &str| {
            format!(
                r#""{list}": [{{ "source": "/:path*", "regex": "^/(?!de/).*$", {more}
                    "has": [{{ "type": "header", "key": "x-mark" }}] }}]"#
            )
        };
        let languages = r#""i18n": { "locales": ["en", "de"], "defaultLocale": "en" }, "#;
        let of_router = r#""headers": [{ "key": "x-nextjs-deployment-id" }],"#;
        for (list, more, expected) in [
            ("headers", r#""headers": [{ "key": "x-own" }],"#, true),
            ("redirects", "", true),
            ("rewrites", "", false),
            ("onMatchHeaders", of_router, false),
        ] {
            for languages in ["", languages] {
                let rules = format!("{{ {languages} {} }}", rule(list, more));
                let of = |path: &str| decided(&rules, "", path, &[("x-mark", "1")]).0;
                let differs = of("/_next/static/a.js") != KeyBuilder::default();
                assert_eq!(differs, expected, "{rules}");
                let differs = of("/de/a") != KeyBuilder::default();
                assert_eq!(
                    differs,
                    !languages.is_empty() && more != of_router,
                    "{rules}"
                );
            }
        }
    }
}
