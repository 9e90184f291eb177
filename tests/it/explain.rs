//! `edgeway explain`, over the example of routes.

use serde_json::Value;

use crate::cli::{BROKEN, EX_CONFIG, ROUTES, edgeway, snapshot};

/// Requests, and what is said of each.
fn explained(format: &str) -> String {
    let mut all = Vec::new();
    for request in [
        "GET http://shop.example.com/",
        "GET http://shop.example.com/products/42",
        "GET http://shop.example.com/api/v1/health",
        "PUT http://shop.example.com/api/carts/7?full=1",
        "GET http://shop.example.com/2024/./x/../may?page=2",
        "GET http://a.b.preview.example.com/_next/static/app.js",
        "GET http://www.example.com/a%20b?c=d",
        "POST http://shop.example.com/checkout/pay",
        "GET http://shop.example.com/checkout/pay -H Cookie:beta=1",
        "GET http://shop.example.com/search?format=json",
        "GET http://shop.example.com/wallet/",
        "GET /nobody",
    ] {
        let mut arguments = vec!["explain", "-c", ROUTES, "--format", format];
        arguments.extend(request.split(' '));
        let ran = edgeway(&arguments);
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{request}");
        all.push(format!("$ edgeway explain {request}\n{}\n", ran.stdout));
    }
    all.concat()
}

#[test]
fn explain_says_which_route_and_why() {
    // The same filters each time: once is enough.
    let all = explained("text");
    let mut seen = false;
    let mut is_filter = false;
    let lines = all.lines().filter(|line| {
        if !line.starts_with(' ') {
            is_filter = line.starts_with("filters ");
        }
        let is_shown = !is_filter || !seen;
        seen |= line.starts_with("considered ");
        is_shown
    });
    snapshot!("explain", lines.collect::<Vec<_>>().join("\n"));
}

#[test]
fn explain_says_the_same_to_tools() {
    let all = explained("json");
    for answer in all.split("$ edgeway explain ").skip(1) {
        let (request, json) = answer.split_once('\n').expect("the answer follows");
        let answer: Value = serde_json::from_str(json).expect("it is JSON");
        assert!(answer["route"].is_string(), "{request}: {answer}");
        let considered = answer["considered"].as_array().expect("it is a list");
        assert_eq!(considered.len(), 15, "{request}: every route is judged");
    }
    let first = all.split("\n\n").next().expect("there is a first");
    snapshot!("explain_json", first);
}

#[test]
fn what_cannot_be_explained_is_told_on_stderr() {
    for (request, why) in [
        (
            ["GET", "ftp://x/"],
            "`ftp://x/` is not a path or an http URL",
        ),
        (["GET", "/a%00"], "this request is answered with 400"),
        (["G T", "/"], "`G T` is not a method"),
    ] {
        let [method, url] = request;
        let ran = edgeway(&["explain", "-c", ROUTES, method, url]);
        assert_eq!((ran.status, ran.stdout.as_str()), (1, ""), "{request:?}");
        assert!(ran.stderr.contains(why), "{}", ran.stderr);
    }
    let ran = edgeway(&["explain", "-c", BROKEN, "GET", "/"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (EX_CONFIG, ""));
    assert!(ran.stderr.contains("3 errors"), "{}", ran.stderr);
}

#[test]
fn explain_tells_a_path_without_a_route_from_a_host_without_one() {
    let dir = tempfile::tempdir().expect("a folder for the test can be made");
    let file = dir.path().join("edgeway.yaml");
    let yaml = "listeners: [{ address: '127.0.0.1:0' }]\nroutes:\n  - match: { host: a.test, path: /here }\n    respond: ok\n";
    std::fs::write(&file, yaml).expect("the folder takes files");
    let file = file.to_str().expect("the folder's name is text");
    for (url, line) in [
        ("http://a.test/elsewhere", "none: 404"),
        ("http://b.test/here", "none: 421, no route is for this host"),
    ] {
        let ran = edgeway(&["explain", "-c", file, "GET", url]);
        let found = ran
            .stdout
            .lines()
            .find_map(|text| text.strip_prefix("route"));
        assert_eq!(
            found.map(str::trim),
            Some(line),
            "{url}\n{}{}",
            ran.stdout,
            ran.stderr
        );
    }
}
