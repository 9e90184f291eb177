//! Tests of the table from the user's view: routes as YAML in, the chosen route out.

mod document;
mod guards;
mod locations;
mod plain_list;

use edgeway_config::{
    diagnostic::{Diagnostics, Place, Severity},
    model::MatchConfig,
    tree,
};
use pingora::http::RequestHeader;

use super::*;

struct Compiled {
    yaml: String,
    table: Option<RouteTable>,
    diagnostics: Diagnostics,
}

/// Compiles a YAML list of matches.
#[track_caller]
fn compile(yaml: &str) -> Compiled {
    let mut diagnostics = Diagnostics::default();
    let node = tree::parse(yaml, 0, &mut diagnostics).expect("the test's YAML");
    let list: Vec<tree::Spanned<MatchConfig>> =
        tree::read(&node, &mut diagnostics).unwrap_or_else(|| panic!("{diagnostics:#?}"));
    let routes: Vec<(&MatchConfig, Place)> = list.iter().map(|m| (&m.value, m.place)).collect();
    let table = RouteTable::compile(&routes, Slashes::Keep, &mut diagnostics);
    Compiled {
        yaml: yaml.to_owned(),
        table,
        diagnostics,
    }
}

fn request(method: &str, path: &str, headers: &[(String, String)]) -> RequestHeader {
    let mut head = RequestHeader::build(method, path.as_bytes(), None).unwrap();
    for (name, value) in headers {
        head.append_header(name.clone(), value.as_str()).unwrap();
    }
    head
}

impl Compiled {
    fn find(&self, request_line: &str, headers: &[(&str, &str)]) -> Option<(usize, Params)> {
        let table = self
            .table
            .as_ref()
            .unwrap_or_else(|| panic!("{:#?}", self.diagnostics));
        let (method, url) = request_line.split_once(' ').expect("METHOD host/path");
        let at = url.find(['/', '*']).expect("a path");
        let (host, path) = url.split_at(at);
        let headers: Vec<(String, String)> = headers
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect();
        let head = request(method, path, &headers);
        let target = Target::new(host, path.as_bytes());
        let mut params = Params::default();
        let found = table
            .find(&target, &head, &mut params)
            .map(|found| found.route);
        let explained = table.explain(&target, &head);
        let matched = explained.iter().find(|c| c.why == RouteReason::Matched);
        assert_eq!(
            matched.map(|c| c.route),
            found,
            "explain is the same search"
        );
        found.map(|route| (route, params))
    }

    /// Checks which routes these requests reach; `-` for none.
    #[track_caller]
    fn reach(&self, requests: &[(&str, &str)]) {
        for (request, route) in requests {
            let found = self.find(request, &[]).map(|(route, _)| route.to_string());
            assert_eq!(found.as_deref().unwrap_or("-"), *route, "{request}");
        }
    }

    /// Returns each problem as `severity code [text at its place] message`.
    fn problems(&self) -> Vec<String> {
        let list = self.diagnostics.list().iter();
        list.map(|d| {
            let text = &self.yaml[d.place.start as usize..d.place.end as usize];
            format!("{} [{text}] {}", d.code, d.message)
        })
        .collect()
    }
}

#[test]
fn the_most_specific_path_wins() {
    compile(
        "[{ path: [/*] }, { path: [/a/*] }, { path: ['/a/{x}/c'] }, { path: [/a/b/*] },
          { path: [/a/b/c] }, { path_regex: '^/r/\\d+$' }, { path: [/a/] }, { path: ['/{x}'] }, { path: [/] }]",
    )
    .reach(&[
        ("GET x/a/b/c", "4"),
        ("GET x/a/b/d", "3"),
        ("GET x/a/b", "3"),
        ("GET x/a/b/", "3"),
        ("GET x/a/z/c", "2"),
        ("GET x/a/z/d", "1"),
        ("GET x/a//c", "1"),
        ("GET x/a", "1"),
        ("GET x/a/", "6"),
        ("GET x/A", "7"),
        ("GET x/ab", "7"),
        ("GET x/%61", "7"),
        ("GET x/r/12", "5"),
        ("GET x/r/12a", "0"),
        ("GET x/", "8"),
        ("GET x//", "0"),
        ("OPTIONS x*", "0"),
    ]);
}

#[test]
fn a_pattern_before_the_end_beats_a_longer_one_with_a_parameter() {
    compile("[{ path: ['/a/{x}/c'] }, { path: ['/a/b/*'] }]").reach(&[
        ("GET x/a/b/c", "1"),
        ("GET x/a/z/c", "0"),
        ("GET x/z", "-"),
        ("GET x*", "-"),
    ]);
}

#[test]
fn the_search_comes_back_when_predicates_fail() {
    compile(
        "[{ path: [/a/b], method: [POST] }, { path: ['/a/{x}'], method: [PUT] },
          { path: [/a/*], method: [GET] }, { path: [/*] }]",
    )
    .reach(&[
        ("POST x/a/b", "0"),
        ("PUT x/a/b", "1"),
        ("GET x/a/b", "2"),
        ("HEAD x/a/b", "2"),
        ("DELETE x/a/b", "3"),
    ]);
}

#[test]
fn hosts_come_before_paths_and_fall_through() {
    let routes = compile(
        "[{ host: ['*.test'], path: [/a] }, { host: [b.test], path: [/b] },
          { host: ['*.b.test'], path: [/c] }, { path: [/*] }, { host: ['[::1]'] }]",
    );
    routes.reach(&[
        ("GET b.test/b", "1"),
        ("GET b.test/a", "0"),
        ("GET x.b.test/c", "2"),
        ("GET y.x.b.test/c", "2"),
        ("GET b.test/c", "3"),
        ("GET x.b.test/a", "0"),
        ("GET test/a", "3"),
        ("GET .test/a", "3"),
        ("GET /a", "3"),
        ("GET [::1]/a", "4"),
    ]);
}

#[test]
fn a_host_of_its_own_shadows_and_is_reported() {
    let routes = compile("[{ path: [/api/*] }, { host: ['*.example.com'], path: [/*] }]");
    routes.reach(&[("GET a.example.com/api/x", "1"), ("GET other/api/x", "0")]);
    assert_eq!(
        routes.problems(),
        [
            "edgeway::route::shadowed [/api/*] `/api/*` is never reached for `*.example.com`: \
          the host is matched before the path"
        ]
    );
    let only = routes.diagnostics.list()[0].clone();
    assert_eq!(only.severity, Severity::Warning);
    assert_eq!(only.related.len(), 1);

    // The same path under the host too, a fallback, or another host: no warning.
    for yaml in [
        "[{ path: [/api/*] }, { host: [a.test], path: [/api/*, /*] }]",
        "[{ path: [/*] }, { host: [a.test], path: [/*] }]",
        "[{ host: [b.test], path: [/api/*] }, { host: [a.test], path: [/*] }]",
        "[{ path: [/api/*] }, { host: [a.test], path: [/*], method: [GET] }]",
    ] {
        assert_eq!(compile(yaml).problems(), [""; 0], "{yaml}");
    }
}

#[test]
fn more_predicates_come_first() {
    let routes = compile(
        "[{ path: [/x] }, { path: [/x], method: [GET] }, { path: [/x], header: { x-v: '2' } },
          { path: [/x], header: { x-v: '*' } }, { path: [/x], header: { x-v: '~^2' } },
          { path: [/x], header: { x-v: '2' }, method: [GET, POST] },
          { path: [/x], query: { v: '' } }, { path: [/x], cookie: { beta: '1' } },
          { path: [/x], method: [HEAD] }]",
    );
    for (line, headers, route) in [
        ("PUT a/x", &[][..], 0),
        ("GET a/x", &[], 1),
        ("HEAD a/x", &[], 8),
        ("PUT a/x", &[("x-v", "2")], 2),
        ("PUT a/x", &[("x-v", "1"), ("X-V", "2")], 2),
        ("PUT a/x", &[("x-v", "22")], 4),
        ("PUT a/x", &[("x-v", "1")], 3),
        ("POST a/x", &[("x-v", "2")], 5),
        ("GET a/x?a&v", &[], 6),
        ("GET a/x?v=&a", &[], 6),
        ("GET a/x?v=1", &[], 1),
        ("GET a/x?vv", &[], 1),
        ("GET a/x", &[("cookie", "a=b; beta=1")], 7),
        ("GET a/x", &[("cookie", "a=b"), ("cookie", "beta=1;c")], 7),
        ("GET a/x", &[("cookie", "xbeta=1")], 1),
        ("GET a/x?v", &[("cookie", "beta=1")], 6),
    ] {
        let found = routes.find(line, headers).map(|(route, _)| route);
        assert_eq!(found, Some(route), "{line} {headers:?}");
    }
}

#[test]
fn parameters_are_found_by_name_in_each_path_of_a_list() {
    let routes = compile(
        "[{ path: ['/{a}/to/{b}', '/back/{b}/{a}/*'] }, { path_regex: '^/(?<year>\\d{4})-(?<rest_of_it>.*)' }]",
    );
    let table = routes.table.as_ref().unwrap();
    for (path, a, b, rest) in [
        ("/x/to/y", "x", "y", ""),
        ("/back/1/2", "2", "1", ""),
        ("/back/1/2/", "2", "1", ""),
        ("/back/1/2/3//4", "2", "1", "3//4"),
    ] {
        let (route, params) = routes.find(&format!("GET h{path}"), &[]).unwrap();
        let names = table.params_of(route);
        let get = |name: &str| {
            let slot = names.slot(name).unwrap();
            std::str::from_utf8(params.get(slot, path.as_bytes())).unwrap()
        };
        assert_eq!((get("a"), get("b")), (a, b), "{path}");
        assert_eq!(params.rest(path.as_bytes()), rest.as_bytes(), "{path}");
    }
    let path = "/2024-end";
    let (route, params) = routes.find(&format!("GET h{path}"), &[]).unwrap();
    let slot = table.params_of(route).slot("year").unwrap();
    assert_eq!(params.get(slot, path.as_bytes()), b"2024");
}

#[test]
fn groups_of_hosts_are_parameters() {
    let routes = compile(
        "[{ host: ['~^(?<sub>.+)[.]a[.]test$', '~^(?<sub>b)(?=[.])'], path: '/{id}' }, { host: 'a.*' }, \
         { host: '~[.]test$' }, { host: '*.a.test', path: /below }]",
    );
    let table = routes.table.as_ref().unwrap();
    for (host, sub) in [("x.y.a.test", "x.y"), ("b.c", "b")] {
        let (route, params) = routes.find(&format!("GET {host}/7"), &[]).unwrap();
        let names = table.params_of(route);
        let get = |name: &str| params.get(names.slot(name).unwrap(), b"/7").to_vec();
        assert_eq!(
            (route, get("sub"), get("id")),
            (0, sub.into(), b"7".to_vec())
        );
    }
    routes.reach(&[
        ("GET x.a.test/below", "3"),
        ("GET x.a.test/other", "0"),
        ("GET x.a.test/a/b", "2"),
        ("GET a.b.c/x", "1"),
        ("GET a/x", "-"),
    ]);
    assert!(table.serves_host("a.b.c") && table.serves_host("z.test"));
    assert!(!table.serves_host("a"));
    for (hosts, problem) in [
        ("'~('", "invalid host `~(`"),
        ("'~(?<id>a)'", "a host uses the name `id`"),
        ("'~(?<path>a)'", "a host uses the name `path`"),
    ] {
        let problems = compile(&format!("[{{ host: [{hosts}], path: '/{{id}}' }}]")).problems();
        assert!(problems.concat().contains(problem), "{problems:?}");
    }
}

#[test]
fn a_way_given_up_leaves_no_parameter_behind() {
    let routes = compile("[{ path: ['/a/{x}/{y}/z'] }, { path: ['/{p}/b/{q}'] }]");
    let (route, params) = routes.find("GET h/a/b/c", &[]).unwrap();
    let names = routes.table.as_ref().unwrap().params_of(route);
    let values: Vec<&[u8]> = names
        .iter()
        .map(|(_, slot)| params.get(slot, b"/a/b/c"))
        .collect();
    assert_eq!(values, [b"a", b"c"]);
}

#[test]
fn regexes_come_after_patterns_and_before_the_catch_all() {
    compile(
        "[{ path: [/*] }, { path_regex: '^/a' }, { path_regex: '^/a/b' }, { path: ['/a/b/{x}'] },
          { path_regex: 'z$', method: [POST] }]",
    )
    .reach(&[
        ("GET h/a/b/c", "3"),
        ("GET h/a/b", "2"),
        ("GET h/ax", "1"),
        ("POST h/z", "4"),
        ("GET h/z", "0"),
        ("POST h/az", "1"),
    ]);
}

#[test]
fn indistinguishable_routes_are_an_error_at_both() {
    let routes = compile(
        "[{ host: [a.test, b.test], path: ['/x/{id}', /y] }, { host: [B.test], path: ['/x/{name}'] }]",
    );
    assert!(routes.table.is_none());
    assert_eq!(
        routes.problems(),
        ["edgeway::route::conflict ['/x/{name}'] two routes match the same requests: `/x/{name}`"]
    );
    let place = routes.diagnostics.list()[0].related[0].0;
    assert_eq!(
        &routes.yaml[place.start as usize..place.end as usize],
        "'/x/{id}'"
    );
    // One whose host or method has a problem is not compared without it.
    let routes = compile(
        "[{ host: ['a b.test'], path: [/y] }, { path: [/y] }, { method: ['G T'], path: [/y] }]",
    );
    assert_eq!(routes.problems().len(), 2, "{:?}", routes.problems());

    for yaml in [
        "[{}, { path: [/*] }]",
        "[{ path: [/a], method: [GET] }, { path: [/a], method: [HEAD, GET] }]",
        "[{ path: [/a], header: { X-A: '1' } }, { path: [/a], header: { x-a: '1' } }]",
        "[{ path_regex: 'a' }, { path_regex: 'a' }]",
        "[{ path: ['/{a}', '/{b}'] }]",
    ] {
        let problems = compile(yaml).problems();
        assert_eq!(problems.len(), 1, "{yaml}: {problems:?}");
        assert!(
            problems[0].starts_with("edgeway::route::conflict"),
            "{yaml}"
        );
    }
    // The same path with another method, or with another ending, is another route.
    assert_eq!(
        compile(
            "[{ path: [/a], method: [GET] }, { path: [/a] }, { path: [/a/] }, { path: [/a/*] }]"
        )
        .problems(),
        [""; 0]
    );
}

#[test]
fn every_mistake_is_reported_at_its_place() {
    let routes = compile(
        "[{ host: ['a.test:80'], path: [api], method: [get] },
          { path: [/b], path_regex: 'b' },
          { path_regex: '(', header: { 'x y': '1', host: 'a', x-a: '~[' }, query: { 'a=b': '1' } },
          { path: ['/{a}/{b}/{c}/{d}/{e}/{f}/{g}/{h}', '/x/{i}'] }, { method: [GTE, PURGE] }]",
    );
    assert!(routes.table.is_none());
    let problems = routes.problems().join("\n");
    insta::assert_snapshot!(problems, @r"
    edgeway::route::bad_host ['a.test:80'] invalid host `a.test:80`: it has a port, and ports are not matched
    edgeway::route::bad_path [api] invalid path `api`: it does not begin with `/`
    edgeway::route::bad_method [get] invalid method `get`
    edgeway::route::bad_regex ['b'] a route has `path` or `path_regex`, not both
    edgeway::route::bad_regex ['('] invalid regular expression `(`: unclosed group
    edgeway::route::bad_predicate ['a'] the host is not matched as a header
    edgeway::route::bad_predicate ['1'] invalid header name `x y`
    edgeway::route::bad_predicate ['~['] invalid regular expression `[`: unclosed character class
    edgeway::route::bad_predicate ['1'] invalid query name `a=b`
    edgeway::route::bad_path [{ path: ['/{a}/{b}/{c}/{d}/{e}/{f}/{g}/{h}', '/x/{i}'] }] the paths of a route may have 8 names, these have 9
    edgeway::route::bad_method [GTE] invalid method `GTE`
    ");
}

#[test]
fn explain_gives_the_reason_why_the_others_lost() {
    let routes = compile(
        "[{ path: [/*] }, { path: [/a/*] }, { path: [/a/b], method: [POST, PUT] }, { path: [/z] }, { host: [a.test] }]",
    );
    let head = request("GET", "/a/b", &[]);
    let explained = routes
        .table
        .as_ref()
        .unwrap()
        .explain(&Target::new("x", b"/a/b"), &head);
    let found: Vec<_> = explained
        .into_iter()
        .map(|considered| (considered.route, considered.why))
        .collect();
    let miss = "method is not POST or PUT".to_owned();
    assert_eq!(
        found,
        [
            (2, RouteReason::Predicate(miss)),
            (1, RouteReason::Matched),
            (0, RouteReason::LessSpecific(1)),
            (3, RouteReason::Path),
            (4, RouteReason::Host),
        ]
    );
}
