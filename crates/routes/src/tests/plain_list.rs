//! Test of the table against a plain list that is searched in the documented order.

use proptest::prelude::*;

use super::{Compiled, compile, request};
use crate::{Params, RouteReason, Target};

/// A route in the plain list.
#[derive(Clone, Debug)]
struct PlainRoute {
    host: Option<&'static str>,
    path: PlainPath,
    methods: Vec<&'static str>,
    header: Option<&'static str>,
}

#[derive(Clone, Debug)]
enum PlainPath {
    /// Segments, and true if `/*` follows.
    Pattern(Vec<&'static str>, bool),
    Regex(&'static str),
}

impl PlainRoute {
    fn yaml(&self) -> String {
        let mut parts = Vec::new();
        if let Some(host) = self.host {
            parts.push(format!("host: ['{host}']"));
        }
        match &self.path {
            PlainPath::Pattern(segments, is_prefix) => {
                let segments = segments.iter().copied().chain(is_prefix.then_some("*"));
                let path = segments.collect::<Vec<_>>().join("/");
                parts.push(format!("path: ['/{path}']"));
            }
            PlainPath::Regex(text) => parts.push(format!("path_regex: '{text}'")),
        }
        if !self.methods.is_empty() {
            parts.push(format!("method: [{}]", self.methods.join(", ")));
        }
        if let Some(header) = self.header {
            parts.push(format!("header: {{ x: '{header}' }}"));
        }
        format!("{{ {} }}", parts.join(", "))
    }

    fn takes(&self, host: &str, path: &str, method: &str, header: Option<&str>) -> bool {
        let takes_host = match self.host {
            None => true,
            Some(pattern) => match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
                _ if pattern.starts_with('~') => {
                    regex::Regex::new(&pattern[1..]).unwrap().is_match(host)
                }
                (Some(suffix), _) => host.ends_with(suffix) && host != suffix,
                (_, Some(prefix)) => host.starts_with(prefix),
                _ => host == pattern,
            },
        };
        let takes_path = match &self.path {
            PlainPath::Pattern(segments, is_prefix) => {
                let path: Vec<&str> = path[1..].split('/').collect();
                let same = |(pattern, segment): (&&str, &&str)| {
                    pattern == segment || (pattern.starts_with('{') && !segment.is_empty())
                };
                (path.len() == segments.len() || (*is_prefix && path.len() > segments.len()))
                    && segments.iter().zip(&path).all(same)
            }
            PlainPath::Regex(text) => regex::Regex::new(text).unwrap().is_match(path),
        };
        let takes_method = self.all_methods().is_empty() || self.all_methods().contains(&method);
        let takes_header = match (self.header, header) {
            (None, _) | (Some("*"), Some(_)) => true,
            (Some(_), None) => false,
            (Some("~2"), Some(value)) => value.contains('2'),
            (Some(wanted), Some(value)) => wanted == value,
        };
        takes_host && takes_path && takes_method && takes_header
    }

    /// Returns the values of the parameters for a matching path, and that of `/*` last.
    fn values(&self, path: &str) -> Vec<(String, String)> {
        let PlainPath::Pattern(pattern, is_prefix) = &self.path else {
            return vec![("*".to_owned(), String::new())];
        };
        let segments: Vec<&str> = path[1..].split('/').collect();
        let mut values: Vec<(String, String)> = pattern
            .iter()
            .zip(&segments)
            .filter_map(|(name, segment)| {
                let name = name.strip_prefix('{')?.strip_suffix('}')?;
                Some((name.to_owned(), (*segment).to_owned()))
            })
            .collect();
        let rest = segments[pattern.len()..].join("/");
        assert!(*is_prefix || rest.is_empty());
        values.push(("*".to_owned(), rest));
        values
    }

    fn all_methods(&self) -> Vec<&'static str> {
        let mut methods = self.methods.clone();
        if methods.contains(&"GET") {
            methods.push("HEAD");
        }
        methods.sort_unstable();
        methods.dedup();
        methods
    }

    /// Returns the documented order: host, path, predicates. Two equal keys are a conflict.
    fn key(&self) -> (i32, String, String) {
        let host = match self.host {
            None => 0,
            // One expression: its place in the file does not matter.
            Some(pattern) if pattern.starts_with('~') => -1,
            Some(pattern) if pattern.ends_with('*') => -i32::try_from(pattern.len()).unwrap() - 10,
            Some(pattern) if pattern.starts_with('*') => {
                -i32::try_from(pattern.len()).unwrap() - 100
            }
            Some(_) => -1000,
        };
        let path = match &self.path {
            PlainPath::Pattern(segments, true) if segments.is_empty() => "9".to_owned(),
            PlainPath::Pattern(segments, is_prefix) => {
                let mut key = String::from("1 ");
                for segment in segments {
                    key.push_str(if segment.starts_with('{') { "1" } else { "0" });
                }
                key.push_str(if *is_prefix { "3" } else { "2" });
                key
            }
            PlainPath::Regex(text) => format!("5 {:03} {text}", 999 - text.len()),
        };
        let methods = self.all_methods();
        let count = usize::from(!methods.is_empty()) + usize::from(self.header.is_some());
        let value = match self.header {
            Some("*") => 2,
            Some("~2") => 1,
            _ => 0,
        };
        let predicates = format!(
            "{} {} {} {value} {:?} {methods:?}",
            9 - count,
            u8::from(self.header.is_none()),
            methods.len(),
            self.header,
        );
        (host, path, predicates)
    }

    /// Returns true if no request distinguishes this route from the other one.
    fn is_same(&self, other: &Self) -> bool {
        let path = |route: &Self| match &route.path {
            PlainPath::Pattern(segments, is_prefix) => {
                let anonymous = segments
                    .iter()
                    .map(|s| if s.starts_with('{') { "{}" } else { s });
                format!("{:?} {is_prefix}", anonymous.collect::<Vec<_>>())
            }
            PlainPath::Regex(text) => (*text).to_owned(),
        };
        self.host == other.host && path(self) == path(other) && self.key().2 == other.key().2
    }
}

fn plain() -> impl Strategy<Value = PlainRoute> {
    let hosts = [
        None,
        Some("a.test"),
        Some("*.test"),
        Some("*.b.test"),
        Some("x.b.test"),
        Some("x.*"),
        Some("x.b.*"),
        Some("~^[a-x]+[.]"),
    ];
    let segment = prop::sample::select(vec!["a", "b", "", "{}"]);
    let segments = prop::collection::vec(segment, 0..4);
    let path = prop_oneof![
        8 => (segments, any::<bool>()).prop_map(|(mut segments, is_prefix)| {
            // Each parameter has its own name.
            for (segment, name) in segments.iter_mut().zip(["{p}", "{q}", "{r}", "{s}"]) {
                if *segment == "{}" {
                    *segment = name;
                }
            }
            let is_prefix = is_prefix || segments.is_empty();
            PlainPath::Pattern(segments, is_prefix)
        }),
        1 => prop::sample::select(vec!["^/a", "b$", "/b/", "a"]).prop_map(PlainPath::Regex),
    ];
    let methods = prop::sample::select(vec![
        vec![],
        vec![],
        vec!["GET"],
        vec!["HEAD"],
        vec!["POST"],
        vec!["POST", "GET"],
    ]);
    let header = prop::sample::select(vec![
        None,
        None,
        Some("1"),
        Some("2"),
        Some("*"),
        Some("~2"),
    ]);
    (prop::sample::select(hosts.to_vec()), path, methods, header).prop_map(
        |(host, path, methods, header)| PlainRoute {
            host,
            path,
            methods,
            header,
        },
    )
}

type RequestCase = (&'static str, String, &'static str, Option<&'static str>);

fn request_case() -> impl Strategy<Value = RequestCase> {
    let hosts = [
        "a.test",
        "b.test",
        "x.b.test",
        "y.x.b.test",
        "x.b.other",
        "x.test",
        "test",
        "else",
        "",
    ];
    let segment = prop::sample::select(vec!["a", "b", "c", ""]);
    let path = prop::collection::vec(segment, 1..5)
        .prop_map(|segments| format!("/{}", segments.join("/")));
    (
        prop::sample::select(hosts.to_vec()),
        path,
        prop::sample::select(vec!["GET", "HEAD", "POST", "PUT"]),
        prop::sample::select(vec![None, Some("1"), Some("2"), Some("22")]),
    )
}

fn yaml(routes: &[PlainRoute]) -> String {
    let routes: Vec<String> = routes.iter().map(PlainRoute::yaml).collect();
    format!("[{}]", routes.join(",\n"))
}

/// Returns the route, and its parameter values (by name) with `/*` last.
fn ask(
    compiled: &Compiled,
    (host, path, method, header): &RequestCase,
) -> Option<(usize, Vec<(String, String)>)> {
    let headers: Vec<(&str, &str)> = header.iter().map(|value| ("x", *value)).collect();
    let (route, params) = compiled.find(&format!("{method} {host}{path}"), &headers)?;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let names = compiled.table.as_ref().unwrap().params_of(route).iter();
    let mut values: Vec<(String, String)> = names
        .map(|(name, slot)| (name.to_owned(), text(params.get(slot, path.as_bytes()))))
        .collect();
    values.push(("*".to_owned(), text(params.rest(path.as_bytes()))));
    Some((route, values))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_table_finds_what_the_plain_list_finds(
        mut routes in prop::collection::vec(plain(), 1..14),
        requests in prop::collection::vec(request_case(), 1..12),
        turn in any::<prop::sample::Index>(),
    ) {
        let all = compile(&yaml(&routes));
        let pairs = (0..routes.len()).flat_map(|a| (0..a).map(move |b| (a, b)));
        let has_conflict = pairs.into_iter().any(|(a, b)| routes[a].is_same(&routes[b]));
        prop_assert_eq!(all.table.is_none(), has_conflict, "{:#?}", all.diagnostics);

        let mut distinct = Vec::<PlainRoute>::new();
        for route in routes.drain(..) {
            if distinct.iter().all(|known| !known.is_same(&route)) {
                distinct.push(route);
            }
        }
        let compiled = compile(&yaml(&distinct));
        let turn = turn.index(distinct.len());
        let mut turned = distinct.clone();
        turned.rotate_left(turn);
        turned.reverse();
        let turned_table = compile(&yaml(&turned));
        for request in &requests {
            let (host, path, method, header) = request;
            let found = ask(&compiled, request);
            let expected = (0..distinct.len())
                .filter(|&route| distinct[route].takes(host, path, method, *header))
                .min_by_key(|&route| distinct[route].key());
            let expected = expected.map(|route| (route, distinct[route].values(path)));
            prop_assert_eq!(&found, &expected, "{:?} in {}", request, yaml(&distinct));

            let elsewhere = ask(&turned_table, request)
                .map(|(route, values)| ((distinct.len() - 1 - route + turn) % distinct.len(), values));
            prop_assert_eq!(elsewhere, found, "the order of the file must not count");
        }
    }

    #[test]
    fn no_request_panics(host in ".{0,12}", path in prop::collection::vec(any::<u8>(), 0..40)) {
        let compiled = compile(
            "[{ host: ['*.test'] }, { path: ['/{a}/*'] }, { path_regex: 'x+', query: { a: '*' } }]",
        );
        let target = Target::new(&host, &path);
        let head = request("GET", "/", &[]);
        let mut params = Params::default();
        let table = compiled.table.as_ref().unwrap();
        let found = table.find(&target, &head, &mut params).map(|found| found.route);
        prop_assert_eq!(
            table.explain(&target, &head).iter().find(|c| c.why == RouteReason::Matched).map(|c| c.route),
            found
        );
    }
}
