//! The `proxy.js` of the Next.js app at the edge: it has the same effects as in Next.js.

use std::fs;

use serde_json::{Value, json};

use crate::support::{
    apps::{App, Kind, NextApp},
    client::{Request, Response},
    gateway::Gateway,
    origins::EchoOrigin,
    seed,
};

const HOST: &str = "shop.test";

/// Targets: below `/edge`, one for each case of `proxy.js`; the others are other pages.
const TARGETS: [&str; 32] = [
    "/edge",
    "/edge/",
    "/edge?q=1",
    "/edge/none",
    "/edge/none/a/b?x=1&x=2",
    "/edge/login",
    "/edge/login?next=a.b&n=1",
    "/edge/moved/first-post",
    "/edge/moved/a%20b?page=2",
    "/edge/see",
    "/edge/away",
    "/edge/plain",
    "/edge/leave",
    "/edge/rewrite/a",
    "/edge/rewrite/a/b?x=1&y=%C3%A4",
    "/edge/post",
    "/edge/gone",
    "/edge/variant",
    "/edge/variant/deep?from=here",
    "/edge/headers",
    "/edge/headers/a%2Fb?q=a+b",
    "/edge/init",
    "/edge/cookies",
    "/edge/url/a?b=1&b=2&c=+",
    "/edge/json",
    "/edge/text",
    "/edge/empty",
    "/edge/later",
    "/secret",
    "/secret/deeper",
    // Targets that the proxy does not match.
    "/secrets",
    "/isr",
];

/// Name of the visitor, the method, and headers.
type Visitor = (&'static str, &'static str, Headers);
type Headers = &'static [(&'static str, &'static str)];

/// Visitors that request each target.
const VISITORS: [Visitor; 7] = [
    ("nobody", "GET", &[]),
    (
        "a browser",
        "GET",
        &[
            ("accept", "text/html"),
            ("accept-language", "de-CH, de;q=0.9"),
            ("x-edge-forged", "1"),
        ],
    ),
    (
        "a member",
        "GET",
        &[("cookie", "auth=ok; variant=b; count=7")],
    ),
    (
        "odd cookies",
        "GET",
        &[(
            "cookie",
            "count=%31; a; b=; =c; words=%C3%A4%20b; count=2; x=%E0%A4%A",
        )],
    ),
    ("a look at the headers", "HEAD", &[("cookie", "variant=a")]),
    (
        "a click",
        "GET",
        &[("rsc", "1"), ("accept", "*/*"), ("cookie", "auth=ok")],
    ),
    ("a form", "POST", &[("cookie", "auth=no")]),
];

fn requests() -> impl Iterator<Item = (String, Request)> {
    TARGETS.iter().flat_map(|target| {
        VISITORS.iter().map(move |(who, method, headers)| {
            // As the browser's router marks it.
            let mark = match (*who == "a click", target.contains('?')) {
                (false, _) => "",
                (true, false) => "?_rsc=",
                (true, true) => "&_rsc=",
            };
            let target = &format!("{target}{mark}");
            let mut request = Request::new(method, target).header("host", HOST);
            for (name, value) in *headers {
                request = request.header(name, *value);
            }
            if *method == "POST" {
                request = request.header("content-length", "0");
            }
            (format!("{method} {target} by {who}"), request)
        })
    })
}

/// Headers that the proxy sets for its client.
const TO_CLIENTS: [&str; 4] = ["x-edge", "x-edge-cookies", "x-edge-url", "x-edge-variant"];

/// Parts of a response that must be the same for a client.
fn seen(response: &Response) -> Value {
    let cookies = response.headers.get_all("set-cookie");
    let mut cookies: Vec<String> = cookies.map(without_seconds).collect();
    cookies.sort_unstable();
    let location = response.header("location").map(|location| {
        let base = url::Url::parse(&format!("http://{HOST}/")).expect("it is one");
        base.join(location).map_or(location.to_owned(), Into::into)
    });
    let mut own: Vec<String> = [
        "x-edge",
        "x-edge-variant",
        "x-edge-cookies",
        "x-edge-url",
        "x-from",
        "allow",
    ]
    .iter()
    .filter_map(|name| Some(format!("{name}: {}", response.header(name)?)))
    .collect();
    own.extend(
        ["x-nextjs-rewritten-path", "x-nextjs-rewritten-query"]
            .iter()
            .filter_map(|name| Some(format!("{name}: {}", response.header(name)?))),
    );
    let content_type = response.header("content-type").unwrap_or("");
    // Either the request that the app's own route received, or the proxy's response.
    let body = if content_type.contains("json") && !response.body.is_empty() {
        let mut body = response.json();
        if let Some(body) = body.as_object_mut() {
            body.remove("instance");
            // Next.js passes headers that are for the client to its app as well.
            if let Some(headers) = body.get_mut("headers").and_then(Value::as_object_mut) {
                headers.retain(|name, _| !TO_CLIENTS.contains(&name.as_str()));
            }
        }
        body
    } else if content_type.contains("text/plain") {
        response.text().into()
    } else {
        Value::Null
    };
    json!({
        "status": response.status(),
        "location": location,
        "cookies": cookies,
        "headers": own,
        "type": content_type.split(';').next(),
        "body": body,
    })
}

/// Replaces the end of a cookie that has a `Max-Age`.
fn without_seconds(cookie: &str) -> String {
    let parts = cookie.split("; ");
    let parts = parts.map(|part| match part.strip_prefix("Expires=") {
        Some(_) if cookie.contains("Max-Age=") => "Expires=then",
        _ => part,
    });
    parts.collect::<Vec<_>>().join("; ")
}

async fn front(app: &App, plugins: &str) -> Gateway {
    front_with(app.address(), plugins, str::to_owned).await
}

/// Starts a gateway in front of the app; `edit` may change the plugin.
async fn front_with(
    app: impl ToString,
    plugins: &str,
    edit: impl FnOnce(&str) -> String,
) -> Gateway {
    let yaml = format!(
        "
upstreams: {{ web: {{ app: nextjs, backends: ['{}'], health: {{ path: /api/health }} }} }}
routes:
  - {{ match: {{ path: /* }}, upstream: web{plugins} }}
",
        app.to_string()
    );
    Gateway::start_in(&yaml, |folder| {
        let from = Kind::Next.folder().join("proxy.js");
        fs::create_dir(folder.join("edge")).expect("the folder is ours");
        let text = edit(&fs::read_to_string(from).expect("the app has one"));
        fs::write(folder.join("edge/proxy.js"), text).expect("the folder is ours");
    })
    .await
}

#[tokio::test]
async fn a_proxy_does_at_the_edge_what_it_does_in_next() {
    let (inside, without) = (NextApp::start().await, NextApp::start_without_proxy().await);
    let next = front(&inside, "").await;
    let edge = front(
        &without,
        ", plugins: [{ file: edge/proxy.js, on_error: refuse }]",
    )
    .await;
    let bare = front(&without, "").await;
    let (mut count, mut differ, mut differ_without) = (0, Vec::new(), 0);
    for (name, request) in requests() {
        let expected = seen(&next.send(&request).await);
        let mut got = seen(&edge.send(&request).await);
        if got["body"] == "Internal Server Error" {
            // The words of Next.js: 16.4 may lose a page's manifest while it revalidates
            // another one.
            got = seen(&edge.send(&request).await);
        }
        count += 1;
        if got != expected {
            differ.push(format!("{name}\n  next {expected}\n  edge {got}"));
        }
        differ_without += usize::from(seen(&bare.send(&request).await) != expected);
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
    assert!(count > 200, "{count}");
    // The app alone does none of it.
    assert!(differ_without > 150, "{differ_without}");
    assert_eq!(edge.count("edgeway_plugin_failures_total").await, 0);
}

/// Names and values of response headers.
const RESPONSE_HEADERS: [&str; 7] = [
    "x-out-a",
    "x-out-b",
    "x-from",
    "vary",
    "set-cookie",
    "www-authenticate",
    "link",
];
const SENT: [&str; 4] = ["x-edge-a", "x-edge-b", "x-edge-c", "cookie"];
const VALUES: [&str; 6] = ["1", "two", "a=b", "3, 4", "x-out-a", "c=d; e=f"];

/// Returns random changes of headers with these names.
fn changes(random: &mut fastrand::Rng, names: &[&str], most: usize) -> Value {
    let count = random.usize(..=most);
    let all = (0..count).map(|_| {
        let how = ["append", "append", "append", "set", "delete"][random.usize(..5)];
        let (name, value) = (
            names[random.usize(..names.len())],
            VALUES[random.usize(..6)],
        );
        match how {
            "delete" => json!([how, name]),
            _ => json!([how, name, value]),
        }
    });
    all.collect()
}

/// Response headers by name, however they are split into lines.
fn listed(response: &Response) -> Value {
    let all = RESPONSE_HEADERS.iter().map(|name| {
        let values = response.headers.get_all(name);
        let lines = values.map(|line| match *name {
            "set-cookie" => vec![without_seconds(line)],
            "vary" => line
                .split(',')
                .map(|one| one.trim().to_ascii_lowercase())
                .collect(),
            _ => line.split(", ").map(str::to_owned).collect(),
        });
        let mut values: Vec<String> = lines.flatten().collect();
        values.sort_unstable();
        // Of two equal values, Next.js sends one.
        if ["vary", "set-cookie", "www-authenticate"].contains(name) {
            values.dedup();
        }
        (*name, values)
    });
    json!({
        "status": response.status(),
        "headers": all.collect::<std::collections::BTreeMap<_, _>>(),
        "app": response.json()["headers"],
    })
}

/// Whatever values of whatever headers a proxy sets, its client and its app get the same as from
/// Next.js.
#[tokio::test]
async fn several_values_of_a_header_arrive_as_in_next() {
    let number = |variable: &str| {
        std::env::var(format!("EDGEWAY_NEXT_HEADERS_{variable}"))
            .ok()?
            .parse()
            .ok()
    };
    let seed = number("SEED").unwrap_or_else(seed::drawn);
    println!("EDGEWAY_NEXT_HEADERS_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (inside, without) = (NextApp::start().await, NextApp::start_without_proxy().await);
    let next = front(&inside, "").await;
    let plugins = ", plugins: [{ file: edge/proxy.js, on_error: refuse }]";
    let edge = front(&without, plugins).await;
    let (mut differ, mut several) = (Vec::new(), 0);
    let count = number("CASES").unwrap_or(150);
    for _ in 0..count {
        let random = &mut random;
        let origin: Vec<_> = (0..random.usize(..4))
            .map(|_| {
                [
                    RESPONSE_HEADERS[random.usize(..7)],
                    VALUES[random.usize(..6)],
                ]
            })
            .collect();
        // In Next.js `response.cookies` forgets cookies that were put into the headers; here they
        // stay, so one request has one or the other.
        let sets_cookies = random.u8(..4) == 0;
        let names = RESPONSE_HEADERS.into_iter();
        let names: Vec<_> = names
            .filter(|name| !sets_cookies || *name != "set-cookie")
            .collect();
        let mut ask = json!({ "answered": changes(random, &names, 6), "origin": origin });
        if random.bool() {
            ask["sent"] = changes(random, &SENT, 5);
        }
        if sets_cookies {
            ask["cookies"] = json!([["count", "1"], ["words", "a b"]]);
        }
        let mut request = Request::new("GET", "/edge/many")
            .header("host", HOST)
            .header("x-ask", ask.to_string())
            .header("cookie", "auth=ok; b=1");
        for _ in 0..random.u8(..3) {
            let value = VALUES[random.usize(..6)];
            request = request.header(SENT[random.usize(..3)], value);
        }
        let expected = listed(&next.send(&request).await);
        let got = listed(&edge.send(&request).await);
        let values = expected["headers"].as_object().expect("it is one").values();
        several += values
            .filter(|all| all.as_array().is_some_and(|all| all.len() > 1))
            .count();
        if got != expected {
            differ.push(format!("{ask}\n  next {expected}\n  edge {got}"));
        }
    }
    assert!(
        differ.is_empty(),
        "{}: {}",
        differ.len(),
        differ[..differ.len().min(5)].join("\n")
    );
    assert!(
        several > usize::try_from(count).expect("not so many") / 2,
        "{several}"
    );
    assert_eq!(edge.count("edgeway_plugin_failures_total").await, 0);
}

/// Conditions of `has` and `missing`, each with its own path.
fn conditions() -> Vec<Value> {
    let prefetch = json!([
        { "type": "header", "key": "next-router-prefetch" },
        { "type": "header", "key": "purpose", "value": "prefetch" },
    ]);
    let mut all = vec![
        json!({ "missing": prefetch }),
        json!({ "has": [{ "type": "query", "key": "a" }, { "type": "cookie", "key": "auth" }] }),
        json!({ "has": [], "missing": [] }),
    ];
    for (kind, key, value) in [
        ("header", "X-A", ""),
        ("header", "x-a", "1, 2"),
        ("header", "x-a", "1|\u{c3}\u{a4}"),
        ("header", "x-a", "(?<name>\\d)(?!,).*"),
        ("header", "user-agent", "one"),
        ("header", "cookie", "auth=no; auth=ok"),
        ("header", "host", "shop\\.test.*"),
        ("cookie", "auth", ""),
        ("cookie", "auth", "ok"),
        ("cookie", "auth", "\u{e4} b"),
        ("cookie", "auth", "[%\\d]+"),
        ("query", "a", ""),
        ("query", "a", "x"),
        ("query", "a", "x y|"),
        ("host", "", "shop\\.test"),
        ("host", "", "shop"),
        ("host", "", "(?<shop>.*)\\.test"),
        ("host", "", "Shop\\.test"),
    ] {
        let mut condition = json!({ "type": kind });
        for (name, text) in [("key", key), ("value", value)] {
            if !text.is_empty() {
                condition[name] = text.into();
            }
        }
        all.push(json!({ "has": [condition] }));
        all.push(json!({ "missing": [condition] }));
    }
    all
}

/// Queries and request headers.
const HEADER_CASES: [(&str, Headers); 29] = [
    ("", &[]),
    ("", &[("purpose", "prefetch")]),
    ("", &[("Purpose", "Prefetch")]),
    ("", &[("next-router-prefetch", "1"), ("rsc", "1")]),
    ("", &[("next-router-prefetch", "")]),
    ("", &[("x-a", "1")]),
    ("", &[("X-A", "1"), ("x-a", "2")]),
    ("", &[("x-a", "")]),
    ("", &[("x-a", "\u{e4}")]),
    ("", &[("user-agent", "one")]),
    ("", &[("user-agent", "one"), ("user-agent", "two")]),
    ("", &[("user-agent", "two"), ("user-agent", "one")]),
    ("", &[("cookie", "auth=ok")]),
    ("", &[("cookie", "auth=no; auth=ok")]),
    ("", &[("cookie", "auth=no"), ("cookie", "auth=ok")]),
    ("", &[("cookie", "a=1; auth; auth = \"ok\" ")]),
    ("", &[("cookie", "auth=")]),
    ("", &[("cookie", "auth=\"\"; Auth=ok")]),
    ("", &[("cookie", "auth=%C3%A4%20b")]),
    ("", &[("cookie", "auth=100%")]),
    ("?a=1", &[("cookie", "auth=1")]),
    ("?a", &[("cookie", "auth=1")]),
    ("?a=&a=", &[]),
    ("?a=x&a=y", &[]),
    ("?b=1&a=y&%61=x", &[]),
    ("?a=x+y", &[]),
    ("?A=x&b=?a=x", &[]),
    ("", &[("host", "Shop.test:8080")]),
    ("", &[("host", "shop.test.shop")]),
];

#[tokio::test]
async fn a_matcher_reads_the_request_headers_as_in_next() {
    let conditions = conditions();
    let with_paths = |key: &str, path: &dyn Fn(usize) -> String| -> Value {
        let all = conditions.iter().enumerate();
        let all = all.map(|(number, conditions)| {
            let mut matcher = conditions.clone();
            matcher[key] = path(number).into();
            matcher
        });
        all.collect()
    };
    let inside =
        NextApp::start_with_matchers(&with_paths("regexp", &|n| format!("^/edge/init/{n}$"))).await;
    let next = front(&inside, "").await;
    // The origin behind the edge has no proxy.
    let origin = EchoOrigin::start().await;
    let own = with_paths("source", &|n| format!("/edge/init/{n}"));
    let plugins = ", plugins: [{ file: edge/proxy.js, on_error: refuse }]";
    let edge = front_with(origin.address(), plugins, |text| {
        let (_, rest) = text.split_once(";\n").expect("the import");
        let (_, rest) = rest.split_once(";\n").expect("its matcher");
        format!("import {{ NextResponse }} from 'next/server';\nexport const config = {{ matcher: {own} }};\n{rest}")
    })
    .await;
    let (mut differ, mut counts) = (Vec::new(), [0, 0]);
    // Every sixth of them.
    let step = seed::cases(6, 1);
    for (number, asked) in conditions.iter().enumerate() {
        for (case, (query, headers)) in HEADER_CASES.iter().enumerate() {
            if (number + case) % step != 0 {
                continue;
            }
            let mut request = Request::new("GET", &format!("/edge/init/{number}{query}"));
            if !headers.iter().any(|(name, _)| *name == "host") {
                request = request.header("host", HOST);
            }
            for (name, value) in *headers {
                request = request.header(name, *value);
            }
            let expected = next.send(&request).await.header("x-edge").is_some();
            let got = edge.send(&request).await.header("x-edge").is_some();
            counts[usize::from(expected)] += 1;
            if got != expected {
                differ.push(format!("{query} {headers:?} in next {expected}: {asked}"));
            }
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
    let least = 300 / step;
    assert!(counts[0] > least && counts[1] > least, "{counts:?}");
}
