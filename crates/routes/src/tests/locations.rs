//! Tests of locations: nginx's order, decoded paths, parameters, and what a host may mix.

use super::{
    guards::{check, guarded},
    *,
};

/// Returns the value of a parameter of the route found.
#[track_caller]
fn param(compiled: &Compiled, line: &str, name: &str) -> String {
    let (route, params) = compiled.find(line, &[]).expect("some route takes it");
    let (_, url) = line.split_once(' ').unwrap();
    let path = &url[url.find('/').unwrap()..];
    let table = compiled.table.as_ref().unwrap();
    let value = match name {
        "rest" => params.rest(path.as_bytes()),
        name => {
            let slot = table.params_of(route).slot(name).expect("a parameter");
            params.get(slot, path.as_bytes())
        }
    };
    String::from_utf8(value.to_vec()).unwrap()
}

#[test]
fn locations_are_compared_in_the_order_of_nginx() {
    compile(
        "[{ location: / }, { location: = / }, { location: /api }, { location: /api/v2/ },
          { location: '^~ /static/' }, { location: '~ \\.php$' }, { location: '~* \\.(png|css)$' },
          { location: '~ ^/api/v2/x' }, { location: '= /api/v2/x.php' }]",
    )
    .reach(&[
        ("GET x/", "1"),
        ("GET x/a", "0"),
        ("GET x/api", "2"),
        ("GET x/apis", "2"),
        ("GET x/api/v2", "2"),
        ("GET x/api/v2/", "3"),
        ("GET x/API", "0"),
        ("GET x/api/v2/x", "7"),
        ("GET x/api/v2/x.php", "8"),
        ("GET x/api/v2/x.phps", "7"),
        ("GET x/static/a.php", "4"),
        ("GET x/a.php", "5"),
        ("GET x/a.PHP", "0"),
        ("GET x/api/a.PNG", "6"),
        ("GET x/a%2Ephp", "5"),
        ("GET x/%61pi", "2"),
        ("OPTIONS x*", "0"),
    ]);
}

#[test]
fn the_first_regular_expression_of_the_file_wins() {
    for (first, second) in [("~ a", "~ aaa"), ("~ aaa", "~ a"), ("~* A", "~ a")] {
        compile(&format!(
            "[{{ location: '{first}' }}, {{ location: '{second}' }}]"
        ))
        .reach(&[("GET x/aaa", "0"), ("GET x/b", "-")]);
    }
}

#[test]
fn expressions_may_look_around() {
    compile(
        "[{ location: / }, { location: '~ ^/(?!api|admin)' }, { location: '~ (?<!min)\\.js$' }]",
    )
    .reach(&[
        ("GET x/a", "1"),
        ("GET x/api/a", "0"),
        ("GET x/admin/a.js", "2"),
        ("GET x/admin/a.min.js", "0"),
        ("GET x/%FF", "1"),
    ]);
}

#[test]
fn an_expression_that_takes_too_long_lets_no_route_take_the_request() {
    let compiled = compile(r"[{ location: / }, { location: '~ ^/(?:(x+)\1?)+y$' }]");
    let path = "x".repeat(40);
    compiled.reach(&[(&format!("GET x/{path}"), "-"), ("GET x/b", "0")]);
}

#[test]
fn a_location_whose_conditions_do_not_hold_is_no_choice() {
    let compiled = compile(
        "[{ location: '^~ /a/', header: { x: '1' } }, { location: /a/ }, { location: '~ b$' },
          { location: '^~ /a', header: { x: '2' } }, { location: / }]",
    );
    for (value, route) in [("1", 0), ("2", 2), ("3", 2)] {
        let found = compiled.find("GET h/a/b", &[("x", value)]);
        assert_eq!(found.map(|(route, _)| route), Some(route), "{value}");
    }
    for (value, route) in [("2", 3), ("3", 2)] {
        let found = compiled.find("GET h/ab", &[("x", value)]);
        assert_eq!(found.map(|(route, _)| route), Some(route), "{value}");
    }
}

#[test]
fn locations_within_others_are_compared_in_the_order_of_nginx() {
    compile(
        "[{ location: / }, { location: /a/ }, { within: /a/, location: '~ x' },
          { location: '~ x$' }, { location: '^~ /f/' }, { within: '^~ /f/', location: '~ x' },
          { within: /a/, location: '^~ /a/q/' },
          { within: [/a/, '^~ /a/q/'], location: '~* y' },
          { within: '~ x$', location: '~ bx' }, { within: /a/, location: = /a/x/ }]",
    )
    .reach(&[
        ("GET h/a/x", "2"),
        ("GET h/a/b", "1"),
        ("GET h/b/xy", "0"),
        ("GET h/b/x", "3"),
        ("GET h/b/bx", "8"),
        ("GET h/f/xy", "5"),
        ("GET h/f/b", "4"),
        ("GET h/a/q/z", "6"),
        ("GET h/a/q/Y", "7"),
        // `^~` within another prefix stops the expressions of that one, not those around it.
        ("GET h/a/q/xz", "6"),
        ("GET h/a/q/x", "3"),
        ("GET h/a/x/", "9"),
    ]);
}

#[test]
fn a_location_within_another_needs_one_that_can_have_it() {
    for (routes, problem) in [
        ("{ within: /a/, location: '~ x' }", "no route of this host"),
        (
            "{ location: '^~ /a/' }, { within: /a/, location: '~ x' }",
            "no route of this host",
        ),
        (
            "{ location: /a/ }, { within: /a/, location: /b/ }",
            "cannot be within",
        ),
        (
            "{ location: = /a }, { within: = /a, location: '~ x' }",
            "cannot be within",
        ),
        (
            "{ location: '~ a' }, { within: '~ a', location: /a }",
            "cannot be within",
        ),
        (
            "{ within: /a/, path: [/a] }",
            "has no effect without `location`",
        ),
        (
            "{ location: /a/ }, { within: /a/, location: '~ x' }, { within: /a/, location: '~ x' }",
            "two routes match",
        ),
    ] {
        let compiled = compile(&format!("[{{ location: / }}, {routes}]"));
        let problems = compiled.problems().join(" ");
        assert!(problems.contains(problem), "{routes}: {problems}");
    }
}

#[test]
fn parameters_are_named_groups_and_the_rest() {
    let compiled = compile(
        "[{ location: /api }, { location: '~ ^/u/(?<id>[^/]+)/(?<what>.*)$' }, { location: '= /e' },
          { location: '~ ^/(?=l)(?<all>.*)$' }]",
    );
    for (line, name, value) in [
        ("GET h/api", "rest", ""),
        ("GET h/api/x", "rest", "x"),
        ("GET h/apis/x", "rest", "s/x"),
        ("GET h/%61pi/%78%79", "rest", "%78%79"),
        ("GET h/u/%c3%a4b/c%20d", "id", "%c3%a4b"),
        ("GET h/u/%c3%a4b/c%20d", "what", "c%20d"),
        ("GET h/e", "rest", ""),
        ("GET h/l%C3%A4x", "all", "l%C3%A4x"),
    ] {
        assert_eq!(param(&compiled, line, name), value, "{line}");
    }
}

#[test]
fn bad_locations_are_reported_with_a_remedy() {
    for (text, help) in [
        ("api", "write `/api`, or `~ api` for a regular expression"),
        ("'@app'", "write the route that it stands for"),
        ("/a?b", "write `/a` and the query in `query`"),
        (
            "/a%20b",
            "write the characters themselves, such as a space for `%20`",
        ),
        ("/a/../b", "write the path without them"),
        ("= /a//b", "write the path without them"),
        ("'~* '", "write one behind the `~`, such as `~ \\.php$`"),
        (
            "'~ ('",
            "the syntax is that of Rust's `regex`, with look-around and back-references",
        ),
    ] {
        let compiled = compile(&format!("[{{ location: {text} }}]"));
        let list = compiled.diagnostics.list();
        assert_eq!(list[0].help.as_deref(), Some(help), "{text}");
        assert!(compiled.table.is_none());
    }
}

#[test]
fn a_host_has_either_locations_or_paths() {
    let mixed = compile("[{ location: /a }, { path: [/b] }]");
    assert_eq!(
        mixed.problems(),
        [
            "edgeway::route::mixed_locations [/b] other routes of this host have `location`, but \
             this one does not"
        ]
    );
    let bare = compile("[{ location: /a }, {}]");
    assert_eq!(bare.problems().len(), 1);
    let both = compile("[{ location: /a, path: [/b] }]");
    assert_eq!(
        both.problems(),
        [
            "edgeway::route::bad_location [/a] a route has `location`, `path` or `path_regex`, and \
          not two of them"
        ]
    );
    compile("[{ location: /a, host: a.test }, { path: [/*] }]").reach(&[
        ("GET a.test/ab", "0"),
        ("GET a.test/b", "1"),
        ("GET b.test/ab", "1"),
    ]);
}

#[test]
fn the_same_location_twice_is_reported() {
    for text in ["/a", "= /a", "'~ a'"] {
        let twice = compile(&format!("[{{ location: {text} }}, {{ location: {text} }}]"));
        assert_eq!(twice.diagnostics.list()[0].code, "edgeway::route::conflict");
    }
    let other = compile("[{ location: '^~ /a' }, { location: /a }]");
    assert_eq!(other.diagnostics.list()[0].code, "edgeway::route::conflict");
    let method = compile("[{ location: '~ a', method: POST }, { location: '~ a' }]");
    assert_eq!(method.diagnostics.list(), []);
}

#[test]
fn what_refuses_other_hosts_guards_no_host_that_takes_every_path() {
    for (others, also) in [("c>", &[1][..]), ("c", &[1, 0])] {
        let all = guarded(
            "[{ location: / }, { location: /u/ }, { host: a.test, location: / },
              { host: [a.test, b.test], location: /_next/image }]",
            &[others, "d>", ">", ""],
        );
        check(
            &all,
            &[
                ("GET a.test/_next/image?url=/a.png", 3, &also[1..]),
                ("GET a.test/_next/image?url=/u/a.png", 3, also),
                ("GET b.test/_next/image?url=/a.png", 3, &[0]),
            ],
        );
    }
}
