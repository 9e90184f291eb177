//! Parts of requests that a shape's variables name, with the values that it compares them with: a
//! map on a cookie is only tried by requests that have the cookie.

use std::collections::{BTreeMap, BTreeSet};

use super::{conf::Directive, sample::sample};

/// Part of a request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Header(String),
    Cookie(String),
    Query(String),
    /// The whole query.
    Args,
    /// The path.
    Path,
}

/// Headers that requests have for other reasons, or that are about the connection.
const OTHERS: [&str; 9] = [
    "host",
    "upgrade",
    "connection",
    "cookie",
    "authorization",
    "if-none-match",
    "if-modified-since",
    "range",
    "x-forwarded-for",
];

/// Parts of requests with the values to try.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    values: BTreeMap<Part, BTreeSet<String>>,
}

impl Wanted {
    pub(super) fn of(main: &Directive, random: &mut fastrand::Rng) -> Self {
        let mut wanted = Self::default();
        main.walk(&mut Vec::new(), &mut |directive, _| {
            for argument in directive.arguments() {
                for part in parts(argument) {
                    wanted.values.entry(part).or_default();
                }
            }
            match directive.name() {
                "map" => wanted.table(directive, random),
                "if" => wanted.condition(directive, random),
                "valid_referers" => wanted.linking_sites(directive),
                _ => {}
            }
        });
        wanted
    }

    /// Returns the parts with their values.
    pub(super) fn parts(&self) -> impl Iterator<Item = (&Part, &BTreeSet<String>)> {
        self.values.iter()
    }

    /// Returns paths that the shape looks for.
    pub(super) fn paths(&self) -> Vec<String> {
        let paths = self.values.get(&Part::Path).into_iter().flatten();
        paths
            .filter(|path| path.starts_with('/'))
            .cloned()
            .collect()
    }

    fn add(&mut self, part: &Part, value: &str) {
        self.values
            .entry(part.clone())
            .or_default()
            .insert(value.to_owned());
    }

    fn table(&mut self, map: &Directive, random: &mut fastrand::Rng) {
        let [part] = &parts(map.first())[..] else {
            return;
        };
        for entry in map.children() {
            let key = entry.name();
            if !matches!(key, "default" | "hostnames" | "volatile" | "include") {
                self.compared(part, key, random);
            }
        }
    }

    fn condition(&mut self, condition: &Directive, random: &mut fastrand::Rng) {
        let words: Vec<&str> = condition
            .arguments()
            .iter()
            .map(|word| word.trim_matches(['(', ')']))
            .filter(|word| !word.is_empty())
            .collect();
        let [variable, operator, value] = words[..] else {
            return;
        };
        let [part] = &parts(variable)[..] else {
            return;
        };
        match operator.trim_start_matches('!') {
            "=" => self.compared(part, value, random),
            "~" | "~*" => self.compared(part, &format!("~{value}"), random),
            _ => {}
        }
    }

    /// Adds values for a text, or for a regular expression that begins with `~`.
    fn compared(&mut self, part: &Part, key: &str, random: &mut fastrand::Rng) {
        match key.strip_prefix('~') {
            Some(regex) => {
                let regex = regex.trim_start_matches('*').replace("(?i)", "");
                for _ in 0..3 {
                    self.add(part, &sample(&regex, random));
                }
            }
            None => self.add(part, key),
        }
    }

    fn linking_sites(&mut self, valid: &Directive) {
        let part = Part::Header("referer".to_owned());
        for name in valid.arguments() {
            let host = name.trim_start_matches('~').replace('\\', "");
            let host = host.replace('*', "www");
            let host = host.trim_matches('.').to_owned();
            if host.contains('.') || name.starts_with('~') {
                self.add(&part, &format!("https://{host}/page"));
                self.add(&part, &format!("http://www.{host}.com/"));
            }
        }
        for other in ["https://thief.example.org/", "unknown", ""] {
            self.add(&part, other);
        }
    }
}

/// Returns the parts that the variables of a text name.
fn parts(text: &str) -> Vec<Part> {
    let names = text.split('$').skip(1).map(|rest| {
        let rest = rest.trim_start_matches('{');
        let end = rest.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        &rest[..end.unwrap_or(rest.len())]
    });
    let mut found = Vec::new();
    for name in names {
        let part = if let Some(header) = name.strip_prefix("http_") {
            Part::Header(header.replace('_', "-"))
        } else if let Some(cookie) = name.strip_prefix("cookie_") {
            Part::Cookie(cookie.to_owned())
        } else if let Some(query) = name.strip_prefix("arg_") {
            Part::Query(query.to_owned())
        } else {
            match name {
                "content_type" => Part::Header("content-type".to_owned()),
                "args" | "query_string" => Part::Args,
                "uri" | "request_uri" | "document_uri" => Part::Path,
                _ => continue,
            }
        };
        let is_other = match &part {
            Part::Header(name) => OTHERS.contains(&&**name),
            // What the backends of the shapes respond with.
            Part::Query(name) => name == "do",
            _ => false,
        };
        if !is_other && !found.contains(&part) {
            found.push(part);
        }
    }
    found
}

#[test]
fn values_come_from_what_variables_are_compared_with() {
    let text = "http {\n map $http_x_pool $p { next green; ~^sta(ble)$ blue; }\n server {\n \
        if ($cookie_lang = de) { return 204; }\n if ($uri ~ ^/(health)/$) { return 204; }\n \
        add_header X $arg_page$content_type;\n }\n}\n";
    let files = BTreeMap::from([("nginx.conf".to_owned(), text.to_owned())]);
    let main = super::conf::read(&files);
    let wanted = Wanted::of(&main, &mut fastrand::Rng::with_seed(1));
    let of = |part: Part| -> Vec<&str> {
        let values = wanted.values.get(&part).into_iter().flatten();
        values.map(String::as_str).collect()
    };
    assert_eq!(of(Part::Header("x-pool".to_owned())), ["next", "stable"]);
    assert_eq!(of(Part::Cookie("lang".to_owned())), ["de"]);
    assert_eq!(wanted.paths(), ["/health/"]);
    assert!(wanted.values.contains_key(&Part::Query("page".to_owned())));
    assert!(
        wanted
            .values
            .contains_key(&Part::Header("content-type".to_owned()))
    );
}
