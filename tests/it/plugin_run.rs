//! `edgeway plugin run` compared with a gateway: its output for a request is what the gateway does.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::{
    cli::edgeway,
    support::{
        client::{Request, Response},
        gateway::Gateway,
        origins::EchoOrigin,
    },
};

const HOST: &str = "shop.test";

/// Plugin whose hooks do what the request says in `X-Ask`.
const PLUGIN: &str = "
export const config = { matcher: ['/a/:path*', '/b'] };
const askOf = (headers) => JSON.parse(headers.get('x-ask') ?? '{}');
const work = (headers, list = []) => { for (const [how, ...what] of list) headers[how](...what); };
const trouble = (ask, hook) => {
  if (ask.trouble?.[0] !== hook) return;
  if (ask.trouble[1] === 'loop') for (;;);
  throw new Error('no');
};
export async function onRequest(request, ctx) {
  const ask = askOf(request.headers);
  trouble(ask, 'onRequest');
  work(request.headers, ask.request);
  request.headers.set('x-seen-url', request.url);
  request.headers.set('x-seen-body', request.body === null ? 'none' : encodeURIComponent(await request.text()));
  if (ask.response) return new Response(ask.response.body, ask.response);
  if (ask.rewrite) return NextResponse.rewrite(new URL(ask.rewrite, request.url), { headers: ask.next });
  if (ask.next) return NextResponse.next({ headers: ask.next });
}
export function onRoute(request) {
  const ask = askOf(request.headers);
  request.headers.set('x-route', 'in vain');
  trouble(ask, 'onRoute');
  return ask.upstream;
}
export function onUpstreamRequest(request) {
  const ask = askOf(request.headers);
  request.headers.set('x-upstream', request.headers.get('x-a') ?? 'none');
  trouble(ask, 'onUpstreamRequest');
  work(request.headers, ask.upstreamRequest);
}
export function onUpstreamResponse(response, ctx) {
  const ask = askOf(ctx.request.headers);
  trouble(ask, 'onUpstreamResponse');
  work(response.headers, ask.upstreamResponse);
}
export function onResponse(response, ctx) {
  const ask = askOf(ctx.request.headers);
  response.headers.set('x-was', `${response.status} ${response.headers.get('x-out')} ${ctx.request.headers.get('x-a')}`);
  trouble(ask, 'onResponse');
  work(response.headers, ask.response);
  if (ask.status) response.status = ask.status;
}
export function onError(error, ctx) {
  const ask = askOf(ctx.request.headers);
  if (ask.error) return new Response(error.reason, ask.error);
}
";

const NAMES: [&str; 8] = [
    "x-a",
    "x-b",
    "x-out",
    "vary",
    "cookie",
    "connection",
    "content-length",
    "host",
];
const OUT: [&str; 6] = [
    "x-out",
    "x-b",
    "vary",
    "set-cookie",
    "transfer-encoding",
    "te",
];
const VALUES: [&str; 4] = ["1", "two, 2", "a=b; c=d", "x-a"];
const TARGETS: [&str; 11] = [
    "/a",
    "/a//b",
    "/a/./%41?x=%41",
    "/%62/c/../%2fd",
    "/a/b?x=1",
    "/a/b/c",
    "/b",
    "/b/c",
    "/",
    "/a/%20?q=%20",
    "/other",
];

struct Drawn(fastrand::Rng);

impl Drawn {
    fn one<'t>(&mut self, of: &[&'t str]) -> &'t str {
        of[self.0.usize(..of.len())]
    }

    fn in_a(&mut self, many: u8) -> bool {
        self.0.u8(..many) == 0
    }

    fn changes(&mut self, names: &[&str]) -> Value {
        let count = self.0.usize(..4);
        let all = (0..count).map(|_| {
            let name = self.one(names);
            match self.0.u8(..4) {
                0 => json!(["delete", name]),
                1 => json!(["set", name, self.one(&VALUES)]),
                _ => json!(["append", name, self.one(&VALUES)]),
            }
        });
        all.collect()
    }

    fn pairs(&mut self) -> Value {
        let count = self.0.usize(..4);
        let all = (0..count).map(|_| json!([self.one(&OUT[..4]), self.one(&VALUES)]));
        all.collect()
    }

    fn ask(&mut self) -> Value {
        let mut ask = json!({
            "request": self.changes(&NAMES),
            "upstreamRequest": self.changes(&NAMES),
            "upstreamResponse": self.changes(&OUT),
            "response": self.changes(&OUT),
        });
        match self.0.u8(..8) {
            0 | 1 => {
                let status = [200, 201, 204, 302, 404, 503][self.0.usize(..6)];
                let body = (status != 204 && !self.in_a(4)).then_some("own");
                ask["response"] =
                    json!({ "body": body, "status": status, "headers": self.pairs() });
            }
            2 => {
                ask["rewrite"] = self
                    .one(&["/c?y=2", "/a/../d", "http://other.test/"])
                    .into();
            }
            3 | 4 => ask["next"] = self.pairs(),
            _ => {}
        }
        if self.in_a(3) {
            let hook = self.one(&[
                "onRequest",
                "onRoute",
                "onUpstreamRequest",
                "onUpstreamResponse",
                "onResponse",
            ]);
            let how = if self.in_a(6) { "loop" } else { "throw" };
            ask["trouble"] = json!([hook, how]);
        }
        if self.in_a(4) {
            ask["upstream"] = self.one(&["app", "second", "nowhere"]).into();
        }
        if self.in_a(5) {
            ask["status"] = [200, 203, 204, 404][self.0.usize(..4)].into();
        }
        if self.in_a(2) {
            ask["error"] = json!({ "status": 500, "headers": self.pairs() });
        }
        ask
    }
}

/// Returns true for headers of the plugin or the request; others are the gateway's own.
fn kept(name: &str) -> bool {
    let own = ["x-a", "x-b", "x-out", "x-route", "x-upstream", "x-was"];
    let known = ["vary", "set-cookie", "cookie"];
    name.starts_with("x-seen-") || own.contains(&name) || known.contains(&name)
}

/// Returns names with their values, as far as both can know them.
fn reported_headers(headers: &Value) -> Value {
    let all = headers.as_object().expect("names and lines").iter();
    let all = all.filter(|(name, _)| kept(name));
    all.map(|(name, lines)| (name.clone(), lines.clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn seen_headers<'h>(pairs: impl Iterator<Item = (&'h str, &'h str)>) -> Value {
    let mut all = serde_json::Map::new();
    for (name, value) in pairs {
        let name = name.to_ascii_lowercase();
        // The gateway's own, since it may compress.
        let is_own = name == "vary" && value == "Accept-Encoding";
        if kept(&name) && !is_own {
            let lines = all.entry(name).or_insert_with(|| json!([]));
            lines.as_array_mut().expect("it is one").push(value.into());
        }
    }
    all.into()
}

/// Result of the gateway, in the form of `plugin run --json`.
fn seen(response: &Response) -> Value {
    let is_echo = response.header("content-type") == Some("application/json");
    let request = is_echo.then(|| {
        let seen = response.json();
        let pairs = seen["headers"].as_array().expect("pairs").clone();
        let pairs: Vec<_> = pairs.iter().collect();
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let pairs: Vec<_> = pairs.iter().map(|p| (text(&p[0]), text(&p[1]))).collect();
        let pairs = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        json!({ "method": seen["method"], "target": seen["target"], "headers": seen_headers(pairs) })
    });
    let headers = &response.headers.fields;
    let pairs = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    json!({
        "request": request,
        "status": response.status(),
        "headers": seen_headers(pairs),
    })
}

fn reported(file: &Path, method: &str, target: &str, more: &[String]) -> Value {
    let file = file.display().to_string();
    let url = format!("http://{HOST}{target}");
    let mut all = vec![
        "plugin", "run", &file, method, &url, "--json", "--wall", "5s",
    ];
    all.extend(["--upstream", "app", "--upstream", "second"]);
    all.extend(more.iter().map(String::as_str));
    let ran = edgeway(&all);
    let report = serde_json::from_str::<Value>(&ran.stdout);
    assert!(report.is_ok(), "{}{}", ran.stdout, ran.stderr);
    let report = report.expect("it is JSON");
    let request = &report["request"];
    json!({
        "request": (!request.is_null()).then(|| json!({
            "method": request["method"],
            "target": request["target"],
            "headers": reported_headers(&request["headers"]),
        })),
        "status": report["response"]["status"],
        "headers": reported_headers(&report["response"]["headers"]),
    })
}

#[tokio::test]
async fn a_run_shows_the_same_as_a_gateway() {
    let says = |what: &str| {
        std::env::var(format!("EDGEWAY_PLUGIN_RUN_{what}"))
            .ok()?
            .parse()
            .ok()
    };
    let seed = says("SEED").unwrap_or_else(crate::support::seed::drawn);
    println!("EDGEWAY_PLUGIN_RUN_SEED={seed}");
    let mut drawn = Drawn(fastrand::Rng::with_seed(seed));
    let origin = EchoOrigin::start().await;
    let address = origin.address();
    let gateway_with = async |on_error: &str| {
        let yaml = format!(
            "upstreams:\n  app: {{ backends: ['{address}'], health: false }}\n  second: {{ backends: ['{address}'], health: false }}\nroutes:\n- match: {{ path: /* }}\n  upstream: app\n  plugins: [{{ file: x/plugin.js, on_error: {on_error}, body: {{}}, limits: {{ wall: 5s }}{} }}]\n",
            if on_error == "continue" {
                ", breaker: { failures: 4000000000 }"
            } else {
                ""
            },
        );
        Gateway::start_in(&yaml, |folder| {
            fs::create_dir(folder.join("x")).expect("the folder is ours");
            fs::write(folder.join("x/plugin.js"), PLUGIN).expect("the folder is ours");
        })
        .await
    };
    let gateways = [gateway_with("refuse").await, gateway_with("continue").await];
    let file = gateways[0].folder().join("x/plugin.js");
    let (mut differ, mut statuses) = (Vec::new(), std::collections::BTreeSet::new());
    for _ in 0..says("CASES").unwrap_or(120) {
        let refuses = drawn.0.bool();
        let ask = drawn.ask().to_string();
        let target = drawn.one(&TARGETS);
        let mut headers = vec![("x-ask", ask.as_str())];
        for _ in 0..drawn.0.u8(..3) {
            headers.push((drawn.one(&["x-a", "x-b", "cookie"]), drawn.one(&VALUES)));
        }
        let body = drawn
            .in_a(3)
            .then(|| drawn.one(&["{\"a\":1}", "a=1&b=%C3%A4", "plain"]));
        if body.is_some() {
            let kind = drawn.one(&["application/json", "text/plain", "application/x+json; x=y"]);
            headers.push(("content-type", kind));
        }
        let method = if body.is_some() { "POST" } else { "GET" };
        let mut request = Request::new(method, target).header("host", HOST);
        let on_error = if refuses { "refuse" } else { "continue" };
        let mut more = vec!["--on-error".to_owned(), on_error.to_owned()];
        for (name, value) in &headers {
            request = request.header(name, *value);
            more.extend(["-H".to_owned(), format!("{name}: {value}")]);
        }
        if let Some(body) = body {
            request = request.body(body);
            more.extend(["--data".to_owned(), body.to_owned()]);
        }
        let response = gateways[usize::from(!refuses)].send(&request).await;
        let (expected, mut got) = (seen(&response), reported(&file, method, target, &more));
        if expected["request"].is_null() && expected["status"] != 503 && response.body.is_empty() {
            // A response without a body does not show what the backend got.
            got["request"] = Value::Null;
        }
        statuses.insert(response.status());
        if got != expected {
            let what = format!("{on_error} {method} {target} {headers:?} {body:?}");
            differ.push(format!("{what}\n  gateway {expected}\n  run     {got}"));
        }
    }
    let shown = differ[..differ.len().min(4)].join("\n");
    assert!(differ.is_empty(), "{}:\n{shown}", differ.len());
    assert!(
        statuses.len() > 4 && statuses.contains(&503),
        "{statuses:?}"
    );
}

/// A plugin that responds with what it was given.
const SHOWING: &str = "
export async function onRequest(request, ctx) {
  let body = null;
  try { body = await request.text(); } catch (error) { body = String(error); }
  return Response.json({ config: ctx.config, env: ctx.env, route: ctx.route, body, url: request.url });
}
";

/// A run with a configuration gives a plugin what the gateway with that configuration gives it.
#[tokio::test]
async fn a_run_with_a_configuration_has_the_settings_of_the_route() {
    let yaml = "routes:
- { name: home, match: { path: / }, respond: home }
- name: first
  match: { path: /a/* }
  respond: later
  plugins: [{ file: x/plugin.js, on_error: refuse, config: { shop: 1, list: [a, b] }, env: [PATH] }]
- name: second
  match: { host: other.test, path: /* }
  respond: later
  plugins: [{ file: x/plugin.js, on_error: continue, config: { shop: 2 }, body: {} }]
";
    let gateway = Gateway::start_in(yaml, |folder| {
        fs::create_dir(folder.join("x")).expect("the folder is ours");
        fs::write(folder.join("x/plugin.js"), SHOWING).expect("the folder is ours");
    })
    .await;
    let file = gateway.folder().join("x/plugin.js").display().to_string();
    let from = gateway.folder().join("edgeway.yaml").display().to_string();
    let run = |method: &str, host: &str, target: &str, body: &str| {
        let url = format!("http://{host}{target}");
        let mut all = vec![
            "plugin", "run", &file, method, &url, "--json", "--from", &from,
        ];
        if !body.is_empty() {
            all.extend(["--data", body]);
        }
        edgeway(&all)
    };
    for (method, host, target, body) in [
        ("GET", HOST, "/a/b?c=d", ""),
        ("POST", HOST, "/a", "k=v"),
        ("GET", "other.test", "/", ""),
        ("POST", "other.test", "/x", "k=v"),
    ] {
        let mut request = Request::new(method, target).header("host", host);
        if !body.is_empty() {
            let form = "application/x-www-form-urlencoded";
            request = request.header("content-type", form).body(body.to_owned());
        }
        let expected = gateway.send(&request).await.json();
        let ran = run(method, host, target, body);
        let report: Value = serde_json::from_str(&ran.stdout).expect(&ran.stderr);
        let given = report["response"]["body"].as_str().expect("a body");
        let given: Value = serde_json::from_str(given).expect("it is JSON");
        assert_eq!(given, expected, "{method} {host} {target}");
    }
    for (host, target, why) in [
        (HOST, "/nobody", "no route of"),
        (
            HOST,
            "/",
            "the route `home`, which takes this request, has no plugin",
        ),
    ] {
        let ran = run("GET", host, target, "");
        assert_eq!(ran.status, 1);
        assert!(ran.stderr.contains(why), "{}", ran.stderr);
    }
}
