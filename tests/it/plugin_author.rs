//! Messages to the author of a plugin before any gateway runs it.

use std::fs;

use tempfile::TempDir;

use crate::{
    cli::{Ran, edgeway},
    support::origins::EchoOrigin,
};

struct Written(TempDir);

impl Written {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().expect("there is room");
        fs::write(folder.path().join("plugin.js"), text).expect("it is ours");
        Self(folder)
    }

    fn run(&self, more: &[&str]) -> Ran {
        let file = self.0.path().join("plugin.js").display().to_string();
        edgeway(&[&["plugin", "run", &file], more].concat())
    }
}

#[test]
fn a_run_applies_the_plugins_own_matcher() {
    let written = Written::new(
        "export const config = { matcher: '/a/:path*' };
         export const proxy = () => new Response('here');",
    );
    let there = written.run(&["GET", "/a/b"]);
    assert!(there.stdout.contains("responds 200"), "{}", there.stdout);
    let elsewhere = written.run(&["GET", "/b"]);
    let message =
        "its `config.matcher` is not for this request to http://localhost/b: no hook runs\n";
    assert_eq!((elsewhere.status, &*elsewhere.stdout), (0, message));
}

#[test]
fn a_run_applies_header_conditions_of_the_matcher() {
    let written = Written::new(
        "export const config = { matcher: [{
             source: '/a/:path*',
             has: [{ type: 'query', key: 'q', value: '[0-9]+' }, { type: 'host', value: 'a.test' }],
             missing: [{ type: 'header', key: 'Purpose', value: 'prefetch' }, { type: 'cookie', key: 'no' }],
         }] };
         export const proxy = () => new Response('here');",
    );
    let runs = |more: &[&str]| {
        let ran = written.run(&[&["GET"], more].concat());
        assert_eq!(ran.status, 0, "{}{}", ran.stdout, ran.stderr);
        ran.stdout.contains("responds 200")
    };
    assert!(runs(&["http://a.test:81/a/b?q=7"]));
    assert!(runs(&["/a?q=7", "-H", "Host: A.test"]));
    assert!(!runs(&["http://a.test/a/b?q=x"]) && !runs(&["http://a.test/b?q=7"]));
    assert!(!runs(&["http://b.test/a?q=7"]));
    assert!(!runs(&["http://a.test/a?q=7", "-H", "purpose: prefetch"]));
    assert!(!runs(&["http://a.test/a?q=7", "-H", "cookie: a=b; no=1"]));
    let wrong = Written::new(
        "export const config = { matcher: { source: '/a', has: [{ type: 'method', key: 'GET' }] } };
         export const proxy = () => {};",
    );
    let ran = wrong.run(&["GET", "/a"]);
    let message =
        "a condition of `has` in `config.matcher` has the unknown type `method`: use `header`,";
    assert!(
        ran.status == 1 && ran.stdout.contains(message),
        "{}",
        ran.stdout
    );
}

#[test]
fn a_run_refuses_what_the_gateway_would() {
    let rewrites =
        Written::new("export const proxy = () => NextResponse.rewrite('https://other.test/x');");
    let ran = rewrites.run(&["GET", "https://a.test/"]);
    assert_eq!(ran.status, 1);
    assert!(
        ran.stdout.contains("another path of https://a.test,"),
        "{}",
        ran.stdout
    );
    let ran = rewrites.run(&["GET", "ftp://a.test/"]);
    assert_eq!(ran.status, 1);
    assert!(ran.stderr.contains("neither a path"), "{}", ran.stderr);
}

#[test]
fn a_run_shows_failed_background_work_and_reads_a_form() {
    let written = Written::new(
        "export async function onRequest(request, ctx) {
             ctx.waitUntil(Promise.reject(new TypeError('too late')));
             const form = await request.formData();
             return new Response(form.get('a'));
         }",
    );
    let ran = written.run(&["POST", "/", "-d", "a=b%20c"]);
    assert!(ran.stdout.contains("body      b c\n"), "{}", ran.stdout);
    assert!(
        ran.stdout
            .contains("warn  waitUntil failed: TypeError: too late at onRequest"),
        "{}",
        ran.stdout
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_fetches_from_the_given_origins() {
    let origin = EchoOrigin::start().await;
    let url = format!("http://{}", origin.address());
    let ran = tokio::task::spawn_blocking(move || {
        let written = Written::new(
            "export async function onRequest(request, ctx) {
                 const response = await fetch(ctx.config.url, request);
                 return new Response(String(response.status));
             }",
        );
        let config = format!(r#"{{ "url": "{url}/x" }}"#);
        let arguments = ["GET", "/", "--config", &config];
        let without = written.run(&arguments);
        assert!(
            without.stdout.contains("may not fetch"),
            "{}",
            without.stdout
        );
        written.run(&[&arguments[..], &["--fetch", &url]].concat())
    });
    let ran = ran.await.expect("it runs");
    assert!(
        ran.stdout.contains("body      200\n"),
        "{}{}",
        ran.stdout,
        ran.stderr
    );
}
