//! Tests of actions from the user's view: a route as YAML in, the effect on requests out.

use std::path::Path;

use edgeway_base::{clock::Clock, metrics::Metrics};
use edgeway_config::{
    diagnostic::{Diagnostics, Place},
    model::{MatchConfig, WebsocketConfig},
    tree::{self, Spanned},
};
use edgeway_core::chain::{Reply, ReplyBody};
use http::header::{LOCATION, RETRY_AFTER};
use pingora::http::RequestHeader;

use super::*;
use crate::{Params, RouteTable, Target};

struct Compiled {
    table: Option<RouteTable>,
    action: Option<Action>,
    diagnostics: Diagnostics,
}

fn read(yaml: &str, diagnostics: &mut Diagnostics) -> RouteConfig {
    let node = tree::parse(yaml, 0, diagnostics).expect("the test's YAML");
    tree::read(&node, diagnostics).unwrap_or_else(|| panic!("{diagnostics:#?}"))
}

fn compile_in(folder: &Path, config: &RouteConfig, mut diagnostics: Diagnostics) -> Compiled {
    let matches: (&MatchConfig, Place) = (&config.matches.value, config.matches.place);
    let table = RouteTable::compile(&[matches], Slashes::Merge, &mut diagnostics);
    let mut cx = CompileContext {
        place: Place::default(),
        route: "test",
        folder,
        upstreams: &["web".to_owned(), "api".to_owned()],
        secret_names: &[],
        clock: &Clock::test(),
        metrics: &Metrics::default(),
        zones: &edgeway_core::zones::Zones::default(),
        shared: &edgeway_core::chain::Shared::default(),
        work: &mut edgeway_core::chain::BackgroundWork::default(),
        referenced: &mut edgeway_config::source::ReferencedFiles::default(),
        diagnostics: &mut diagnostics,
    };
    let action = Action::compile(config, &mut cx);
    Compiled {
        table,
        action,
        diagnostics,
    }
}

fn compile(yaml: &str) -> Compiled {
    let mut diagnostics = Diagnostics::default();
    let config = read(yaml, &mut diagnostics);
    compile_in(Path::new("."), &config, diagnostics)
}

/// Expects these problems of a route, each as `message; help`.
#[track_caller]
fn refuses(yaml: &str, problems: &[&str]) {
    let compiled = compile(yaml);
    let messages: Vec<String> = compiled
        .diagnostics
        .list()
        .iter()
        .map(|d| format!("{}; {}", d.message, d.help.as_deref().unwrap_or_default()))
        .collect();
    assert_eq!(messages, problems, "{yaml}");
    assert!(compiled.action.is_none(), "{yaml}");
}

impl Compiled {
    fn action(&self) -> &Action {
        self.action
            .as_ref()
            .unwrap_or_else(|| panic!("{:#?}", self.diagnostics))
    }

    /// Finds the route for a URL such as `host/path?query`, then runs `act`.
    #[track_caller]
    fn with<T>(&self, url: &str, act: impl FnOnce(&Action, &Target<'_>, &Params) -> T) -> T {
        let (host, path) = url.split_at(url.find(['/', '*']).expect("a path"));
        let target = Target::new(host, path.as_bytes());
        let request = RequestHeader::build("GET", b"/", None).unwrap();
        let mut params = Params::default();
        let table = self.table.as_ref().expect("a table");
        let found = table
            .find(&target, &request, &mut params)
            .map(|found| found.route);
        assert_eq!(found, Some(0), "{url} does not reach the route");
        act(self.action(), &target, &params)
    }

    #[track_caller]
    fn redirects(&self, url: &str, to: &str) {
        let reply = self.with(url, |action, target, params| match action {
            Action::Redirect(redirect) => redirect.reply(target, params),
            other => panic!("{other:?} is no redirect"),
        });
        let location = reply.headers.iter().find(|(name, _)| *name == LOCATION);
        let location = location.map(|(_, value)| value.to_str().unwrap());
        assert_eq!(location, Some(to), "{url}");
    }

    #[track_caller]
    fn rewrites(&self, url: &str, to: Option<&str>) {
        let target = self.with(url, |action, target, params| match action {
            Action::Forward(forward) => {
                let rewrite = forward.rewrite.as_ref().expect("a rewrite");
                rewrite.apply(target, params).expect("a good path")
            }
            other => panic!("{other:?} is no upstream"),
        });
        let target = target.map(|target| String::from_utf8(target).unwrap());
        assert_eq!(target.as_deref(), to, "{url}");
    }

    fn reply(&self, accept: &str) -> Reply {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        request.append_header("accept", accept).unwrap();
        match self.action() {
            Action::Respond(respond) => respond.reply(&request),
            other => panic!("{other:?} does not respond"),
        }
    }
}

fn header<'a>(reply: &'a Reply, name: &http::HeaderName) -> Option<&'a str> {
    let found = reply.headers.iter().find(|(known, _)| known == name);
    found.map(|(_, value)| value.to_str().unwrap())
}

/// Returns content type and body.
fn content(reply: &Reply) -> (&str, &str) {
    match &reply.body {
        ReplyBody::Bytes { content_type, body } => (
            content_type.as_ref().unwrap().to_str().unwrap(),
            std::str::from_utf8(body).unwrap(),
        ),
        other => panic!("{other:?}"),
    }
}

#[test]
fn https_keeps_host_path_and_query() {
    let route = compile("{ match: {}, redirect: { to: https, status: 308 } }");
    route.redirects("a.test/x/y?z=1&q", "https://a.test/x/y?z=1&q");
    route.redirects("a.test/", "https://a.test/");
    route.redirects("a.test/?", "https://a.test/");
    route.redirects("[::1]//x", "https://[::1]//x");
    route.redirects("a.test*", "https://a.test/");
}

#[test]
fn https_without_a_host_is_refused() {
    let route = compile("{ match: {}, redirect: { to: https, status: 308 } }");
    let reply = route.with("/x", |action, target, params| match action {
        Action::Redirect(redirect) => redirect.reply(target, params),
        other => panic!("{other:?}"),
    });
    assert_eq!(
        (reply.status.as_u16(), reply.reason),
        (400, Some("bad_host"))
    );
}

#[test]
fn templates_take_parameters_and_rest() {
    let route = compile(
        "{ match: { path: ['/old/{id}/*'] }, redirect: { to: '/new/{rest}/{id}?{query}', status: 301 } }",
    );
    route.redirects("h/old/7/a/b?x=1", "/new/a/b/7?x=1");
    route.redirects("h/old/7", "/new//7");
    route.redirects("h/old/%2F/a%20b", "/new/a%20b/%2F");
    compile("{ match: { path: ['/u/{id}'] }, redirect: { to: 'https://{host}:8443/s?u={id}&{query}', status: 302 } }")
        .redirects("h/u/a&b=c", "https://h:8443/s?u=a%26b%3Dc");
    compile(
        "{ match: { path_regex: '^/(?<lang>de|fr)-' }, redirect: { to: '/{lang}', status: 302 } }",
    )
    .redirects("h/de-x", "/de");
    compile("{ match: {}, redirect: { to: '/login?next={path}', status: 302 } }")
        .redirects("h/a?b", "/login?next=/a");
}

#[test]
fn no_redirect_leads_to_a_host_that_the_client_wrote() {
    let route = compile("{ match: { path: [/o/*] }, redirect: { to: '/{rest}', status: 302 } }");
    route.redirects("h/o//evil.test", "/evil.test");
    route.redirects("h/o///evil.test/x", "/evil.test/x");
    route.redirects("h/o/<x>{\"é", "/%3Cx%3E%7B%22%C3%A9");
    assert_eq!(route.diagnostics.list(), []);
    let route = compile("{ match: {}, redirect: '{path}' }");
    route.redirects("h//evil.test", "/evil.test");
    let warning = &route.diagnostics.list()[0];
    assert_eq!(warning.code, "edgeway::route::redirect_loop");
    for to in [
        "https://{rest}",
        "https://x.{rest}",
        "https://{host}{rest}/",
    ] {
        refuses(
            &format!("{{ match: {{}}, redirect: {{ to: '{to}', status: 302 }} }}"),
            &[&format!(
                "`{to}` lets a client choose the host it is sent to; write a `/` before the placeholder"
            )],
        );
    }
}

#[test]
fn invalid_redirects_are_reported_with_a_remedy() {
    for (to, status, problem) in [
        (
            "/{idd}",
            301,
            "unknown placeholder `{idd}` in `/{idd}`; did you mean `{id}`?",
        ),
        (
            "/{rest}",
            301,
            "`/{rest}` uses `{rest}`, but a path of this route has no `/*`; `{rest}` is what `/*` matched: end each path of the route with `/*`",
        ),
        (
            "/{id",
            301,
            "`/{id` has an unmatched `{`; write `{name}` for a placeholder, `%7B` and `%7D` for braces",
        ),
        (
            "//a.test/",
            301,
            "`//a.test/` begins with `//`, so the scheme is missing; write `https://a.test/`",
        ),
        (
            "a.test",
            301,
            "invalid redirect target `a.test`; write `https`, a path that begins with `/`, or an address with `http://` or `https://`",
        ),
        (
            "/a b",
            301,
            "invalid redirect target `/a b`: it has ' '; write it percent-encoded, as `%20` for a space",
        ),
        (
            "/x{query}",
            301,
            "misplaced `{query}` in `/x{query}`; write a `?` before it: `{path}?{query}`",
        ),
        (
            "https://a.test&{query}",
            301,
            "misplaced `{query}` in `https://a.test&{query}`; write a `?` before it: `{path}?{query}`",
        ),
        (
            "/x?{query}&a",
            301,
            "misplaced `{query}` in `/x?{query}&a`; write it last: `{path}?{query}` or `/x?a=1&{query}`",
        ),
        (
            "https://{path}",
            301,
            "`https://{path}` has no host; write it, or `{host}` for the requested host",
        ),
    ] {
        refuses(
            &format!(
                "{{ match: {{ path: ['/x/{{id}}'] }}, redirect: {{ to: '{to}', status: {status} }} }}"
            ),
            &[problem],
        );
    }
    refuses(
        "{ match: { path: ['/{a}', '/x/{b}'] }, redirect: { to: '/{a}', status: 301 } }",
        &[
            "`/{a}` uses `{a}`, but only some paths of this route have it; \
           use the same names in all of the route's paths, or write two routes",
        ],
    );
}

#[test]
fn a_path_that_cannot_be_read_is_reported_once() {
    refuses(
        "{ match: { path: ['x/{id}'] }, redirect: { to: '/{id}', status: 301 } }",
        &["invalid path `x/{id}`: it does not begin with `/`; write `/x/{id}`"],
    );
}

#[test]
fn a_prefix_is_replaced_at_full_segments() {
    let route = compile("{ match: {}, upstream: web, rewrite: { prefix: /api, with: / } }");
    route.rewrites("h/api/x?y=%2e%2e", Some("/x?y=%2e%2e"));
    route.rewrites("h/api", Some("/"));
    route.rewrites("h/api/", Some("/"));
    route.rewrites("h/api//evil.test/", Some("/evil.test/"));
    route.rewrites("h/api/a%2Fb//c", Some("/a%2Fb/c"));
    route.rewrites("h/apix", None);
    route.rewrites("h*", None);
    let route = compile(
        "{ match: { path: ['/{v}/api/*'] }, upstream: web, rewrite: { prefix: /v1/api/, with: '/{v}/' } }",
    );
    route.rewrites("h/v1/api/x", Some("/v1/x"));
    route.rewrites("h/v1/api", Some("/v1"));
    route.rewrites("h/v2/api", None);
}

#[test]
fn a_regex_rewrite_takes_groups() {
    let route = compile(
        r#"{ match: {}, upstream: web, rewrite: { regex: "^/old/([^/]*)/(?<tail>.*)$", with: "/${tail}/$1" } }"#,
    );
    route.rewrites("h/old/a/b/c?q", Some("/b/c/a?q"));
    route.rewrites("h/new/a", None);
    let route =
        compile(r#"{ match: {}, upstream: web, rewrite: { regex: "^/x(.*)$", with: "$1" } }"#);
    route.rewrites("h/xy", Some("/y"));
    route.rewrites("h/x//y", Some("/y"));
    route.rewrites("h/x", Some("/"));
    // Pieces that combine to a dot segment are resolved like a client's.
    route.rewrites("h/x/a/x..", Some("/a/x.."));
    let route = compile(
        r#"{ match: {}, upstream: web, rewrite: { regex: "^(.*)/x(.*)$", with: "$1/.$2" } }"#,
    );
    route.rewrites("h/a/b/x.", Some("/a/"));
    let refused = route.with("h/a/b/x%2e", |action, target, params| match action {
        Action::Forward(forward) => forward.rewrite.as_ref().unwrap().apply(target, params),
        other => panic!("{other:?}"),
    });
    assert_eq!(refused.unwrap_err().reason(), "bad_path");
}

#[test]
fn without_prefix_and_regex_the_full_path_is_new() {
    let route = compile(
        "{ match: { path: ['/users/{id}/*'] }, upstream: web, rewrite: { with: '/u/{rest}/of/{id}' } }",
    );
    route.rewrites("h/users/7/a/b?c", Some("/u/a/b/of/7?c"));
}

#[test]
fn a_rewrite_may_have_a_query() {
    let route = compile(
        r#"{ match: {}, upstream: web, rewrite: { regex: "^/a/([^/]*)(?<tail>.*)$", with: "/b${tail}?x=$1&y=${tail}$$" } }"#,
    );
    route.rewrites("h/a/1/c", Some("/b/c?x=1&y=/c$"));
    route.rewrites("h/a/1?q=2", Some("/b?x=1&y=$&q=2"));
    // A value stays one value.
    route.rewrites("h/a/1&z=2+3", Some("/b?x=1%26z%3D2%2B3&y=$"));
    route.rewrites("h/b?q", None);
    let route =
        compile(r#"{ match: {}, upstream: web, rewrite: { regex: "^/a/(.*)$", with: "/$1?" } }"#);
    route.rewrites("h/a/1?q=2", Some("/1"));
    let route = compile(
        "{ match: { path: ['/u/{id}'] }, upstream: web, rewrite: { with: '/user?id={id}' } }",
    );
    route.rewrites("h/u/a=b?c", Some("/user?id=a%3Db&c"));
}

#[test]
fn invalid_rewrites_are_reported_with_a_remedy() {
    for (rewrite, problem) in [
        (
            "{ prefix: /a, regex: b, with: / }",
            "a rewrite has `prefix` or `regex`, not both; leave one of them out",
        ),
        (
            "{ prefix: /a, with: b }",
            "invalid path `b`: it does not begin with `/`; write `with: /b`",
        ),
        (
            "{ prefix: /a/*, with: / }",
            "invalid path prefix `/a/*`; write `prefix: /a`",
        ),
        (
            "{ prefix: a, with: / }",
            "invalid path prefix `a`; write `prefix: /a`",
        ),
        (
            "{ prefix: /a, with: /b?c }",
            "`/b?c` has a query, and the rest of the path would follow it; leave it out, or write `regex` in place of `prefix`",
        ),
        (
            "{ prefix: /a, with: '/{address}' }",
            "unknown placeholder `{address}` in `/{address}`; there are `{path}`, `{rest}`",
        ),
        (
            "{ regex: '(', with: / }",
            "invalid regular expression `(`: unclosed group; the syntax is that of Rust's `regex`: no look-around, no back-references",
        ),
        (
            "{ regex: '(a)', with: /$2 }",
            "`/$2` uses `$2`, and the regular expression has no such group; the groups are `$0` to `$1`",
        ),
        (
            "{ regex: '(a)', with: /$1b }",
            "`/$1b` uses `$1b`, and the regular expression has no such group; write `${1}b`",
        ),
        (
            "{ regex: '(a)', with: '/$' }",
            "`/$` uses `$`, and the regular expression has no such group; write `$$` for a dollar sign",
        ),
    ] {
        refuses(
            &format!("{{ match: {{}}, upstream: web, rewrite: {rewrite} }}"),
            &[problem],
        );
    }
}

#[test]
fn a_route_does_one_thing() {
    refuses(
        "{ match: {} }",
        &["this route has no action; give it one of `upstream`, `redirect`, `respond` and `files`"],
    );
    refuses(
        "{ match: {}, upstream: web, respond: { body: x } }",
        &[
            "a route has one action, this one has `upstream` and `respond`; give it one of `upstream`, `redirect`, `respond` and `files`",
        ],
    );
    refuses(
        "{ match: {}, respond: { body: x }, rewrite: { with: / } }",
        &[
            "`rewrite` has no effect with `respond`; `rewrite` needs an `upstream` or `files`: leave it out",
        ],
    );
    refuses(
        "{ match: {}, upstream: wbe }",
        &["unknown upstream `wbe`; did you mean `web`?"],
    );
}

#[test]
fn websocket_is_off_unless_it_is_on() {
    for (enabled, refuse, expected) in [
        (true, true, Some(Websocket { idle: None })),
        (false, true, None),
        (false, false, None),
    ] {
        let mut diagnostics = Diagnostics::default();
        let mut config = read("{ match: {}, upstream: web }", &mut diagnostics);
        let websocket = WebsocketConfig {
            enabled,
            refuse,
            idle: None,
        };
        config.websocket = Some(Spanned {
            value: websocket,
            place: Place::default(),
        });
        let compiled = compile_in(Path::new("."), &config, diagnostics);
        match compiled.action() {
            Action::Forward(forward) => {
                assert_eq!(forward.websocket, expected);
                assert_eq!(forward.ignores_upgrades, !refuse);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_type_of_a_body_is_guessed() {
    for (body, content_type) in [
        ("ok", "text/plain; charset=utf-8"),
        ("  <!DOCTYPE html><p>x", "text/html; charset=utf-8"),
        (r#"{"a":[1]}"#, "application/json"),
        ("{not json}", "text/plain; charset=utf-8"),
        ("42", "text/plain; charset=utf-8"),
    ] {
        let yaml = format!("{{ match: {{}}, respond: {{ body: '{body}' }} }}");
        let reply = compile(&yaml).reply("*/*");
        assert_eq!(content(&reply), (content_type, body));
        assert_eq!((reply.status.as_u16(), reply.reason), (200, None));
    }
    let reply =
        compile("{ match: {}, respond: { body: x, content_type: text/x, headers: { x-a: b } } }")
            .reply("*/*");
    assert_eq!(content(&reply).0, "text/x");
    assert_eq!(
        header(&reply, &http::HeaderName::from_static("x-a")),
        Some("b")
    );
}

#[test]
fn a_status_alone_gets_the_built_in_page_or_nothing() {
    let reply = |status: u16| {
        compile(&format!(
            "{{ match: {{}}, respond: {{ status: {status} }} }}"
        ))
        .reply("*/*")
    };
    assert_eq!(reply(403).body, ReplyBody::Page { detail: None });
    assert_eq!(reply(204).body, ReplyBody::Empty);
}

#[test]
fn maintenance_is_503_with_a_time_and_a_page() {
    let route = compile(
        "{ match: {}, respond: { maintenance: { retry_after: 90500ms, message: '<b>soon</b>' } } }",
    );
    let reply = route.reply("text/html,*/*");
    assert_eq!(
        (reply.status.as_u16(), reply.reason),
        (503, Some("maintenance"))
    );
    assert_eq!(header(&reply, &RETRY_AFTER), Some("91"));
    let (content_type, page) = content(&reply);
    assert_eq!(content_type, "text/html; charset=utf-8");
    assert!(page.contains("<p>&lt;b&gt;soon&lt;/b&gt;</p>"), "{page}");
    for accept in ["application/json", "text/html;q=0.5, application/json"] {
        assert_eq!(
            content(&route.reply(accept)),
            (
                "application/json",
                r#"{"error":{"reason":"maintenance","message":"<b>soon</b>"}}"#
            )
        );
    }
    let reply = route.reply("application/json;q=0, */*");
    assert_eq!(content(&reply).0, "text/html; charset=utf-8");
}

#[test]
fn a_file_is_read_once_and_bounded() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("robots.txt"), "User-agent: *\n").unwrap();
    std::fs::write(folder.path().join("fits"), vec![b'x'; 1 << 20]).unwrap();
    std::fs::write(folder.path().join("large"), vec![b'x'; (1 << 20) + 1]).unwrap();
    let compiled = |file: &str| {
        let mut diagnostics = Diagnostics::default();
        let yaml = format!("{{ match: {{}}, respond: {{ file: {file} }} }}");
        let config = read(&yaml, &mut diagnostics);
        compile_in(folder.path(), &config, diagnostics)
    };
    let route = compiled("robots.txt");
    std::fs::remove_file(folder.path().join("robots.txt")).unwrap();
    let reply = route.reply("*/*");
    assert_eq!(
        content(&reply),
        ("text/plain; charset=utf-8", "User-agent: *\n")
    );
    assert_eq!(content(&compiled("fits").reply("*/*")).1.len(), 1 << 20);
    for (file, message) in [
        ("large", "is larger than 1 MiB"),
        ("gone", "No such file"),
        (".", "it is no regular file"),
    ] {
        let compiled = compiled(file);
        assert!(compiled.action.is_none(), "{file}");
        let reported = &compiled.diagnostics.list()[0].message;
        assert!(reported.contains(message), "{reported}");
    }
}

#[test]
fn invalid_responses_are_reported_with_a_remedy() {
    for (respond, problem) in [
        (
            "{ status: 204, body: x }",
            "a response with status 204 has no body; leave the body out, or write another status",
        ),
        (
            "{ body: x, file: y }",
            "a reply has one body; write one of `body`, `file` and `maintenance`",
        ),
        (
            "{ status: 302, maintenance: {} }",
            "status 302 would report success during maintenance; leave `status` out for 503",
        ),
        (
            "{ body: x, headers: { content-length: '1' } }",
            "`content-length` is set by the gateway itself; leave it out",
        ),
        (
            "{ body: x, headers: { Content-Type: a/b } }",
            "the content type is not written in `headers`; write it in `content_type`",
        ),
        (
            r#"{ body: x, headers: { x-a: "a\nb" } }"#,
            "the value of `x-a` has bytes that are not allowed in a header; write it in visible ASCII, on one line",
        ),
        (
            "{ body: x, content_type: html }",
            "invalid media type `html`; write one such as `text/html; charset=utf-8`",
        ),
        (
            "{ status: 404, content_type: a/b }",
            "`content_type` has no effect without `body` or `file`; leave it out",
        ),
    ] {
        refuses(
            &format!("{{ match: {{}}, respond: {respond} }}"),
            &[problem],
        );
    }
}
