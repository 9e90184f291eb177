//! Templates of redirects. Invariant: as a browser reads the target, a value of a client is one value:
//! it neither ends the part of the URL that it is in nor leads to a host that the configuration does
//! not name.

use fastrand::Rng;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use url::Url;

use crate::support::{client::get, gateway::Gateway, seed};

/// Pieces of values, among them all that divides a URL.
const PIECES: [&str; 24] = [
    "/",
    "//",
    "\\",
    "?",
    "#",
    "&",
    "=",
    "+",
    "%",
    "%2e",
    "%2f",
    ":",
    "@",
    "..",
    "evil.test",
    "https:",
    "javascript:",
    "a",
    "b c",
    "é",
    "\"",
    "<",
    ";",
    "\t",
];

fn value(random: &mut Rng) -> String {
    let count = random.usize(1..6);
    let piece = |_| PIECES[random.usize(..PIECES.len())];
    (0..count).map(piece).collect()
}

/// Returns the problem of a target with this value in a place.
fn problem(place: &str, value: &str, to: &str) -> Option<String> {
    let base = Url::parse("http://shop.test/dir/").expect("it is a URL");
    let Ok(url) = base.join(to) else {
        // No browser follows it.
        return None;
    };
    let host = url.host_str().unwrap_or_default();
    let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    let is_right = match place {
        "path" => host == "shop.test" && url.query().is_none() && url.fragment().is_none(),
        "start" => host == "shop.test" && url.scheme() == "http",
        "value" => {
            let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
            host == "shop.test" && pairs == [pair("role", "user"), pair("v", value), pair("z", "1")]
        }
        "fragment" => host == "shop.test" && url.path() == "/a" && url.query().is_none(),
        "host" => host.ends_with(".shop.test") && url.path() == "/a",
        // The value is a part of the host, as the warning says, or a path below it.
        _ => {
            let is_below = host == "shop.test" || url.path() == "/";
            url.username().is_empty() && is_below && url.query().is_none()
        }
    };
    (!is_right).then(|| format!("{place}: {value:?} is {to}"))
}

#[tokio::test]
async fn no_value_leaves_its_part_of_a_redirect() {
    let gateway = Gateway::start(
        "
routes:
- match: { location: /path }
  respond: 404
  rules: [{ status: 302, to: '/a/{query.v}' }]
- match: { location: /start }
  respond: 404
  rules: [{ status: 302, to: '{query.v}' }]
- match: { location: /value }
  respond: 404
  rules: [{ status: 302, to: '/a?role=user&v={query.v}&z=1' }]
- match: { location: /fragment }
  respond: 404
  rules: [{ status: 302, to: '/a#{query.v}' }]
- match: { location: /host }
  respond: 404
  rules: [{ status: 302, to: 'http://x{query.v}.shop.test/a' }]
- match: { location: /end }
  respond: 404
  rules: [{ status: 302, to: 'http://shop.test{query.v}' }]
- match: { location: /raw }
  respond: 404
  rules: [{ status: 302, to: '{query.v|raw}' }]
- match: { location: /login }
  respond: 404
  rules: [{ status: 302, to: 'https://login.shop.test/?next={uri}&z=1' }]
- match: { location: /header }
  respond: ok
  headers:
    response: { set: { content-disposition: 'attachment; filename=\"{query.v}\"; size=1' } }
",
    )
    .await;
    let warnings = gateway.stderr();
    assert!(
        warnings.contains("lets a client choose the host"),
        "{warnings}"
    );
    assert!(
        warnings.contains("has a value as the client sent it"),
        "{warnings}"
    );
    let mut random = Rng::with_seed(seed::drawn());
    let sent = |place: &str, value: &str| {
        let value = utf8_percent_encode(value, NON_ALPHANUMERIC);
        get(&format!("/{place}?v={value}"))
    };
    let (mut seen, mut raw) = (0, 0);
    for _ in 0..seed::cases(120, 3000) {
        let value = value(&mut random);
        for place in ["path", "start", "value", "fragment", "host", "end", "raw"] {
            let response = gateway.send(&sent(place, &value)).await;
            let Some(to) = response.header("location") else {
                assert_eq!(place, "raw", "{value:?}: {response:?}");
                continue;
            };
            seen += 1;
            if place == "raw" {
                // The control: what is not encoded leads anywhere.
                raw += usize::from(problem("start", &value, to).is_some());
            } else if let Some(problem) = problem(place, &value, to) {
                panic!("{problem}");
            }
        }
        let response = gateway.send(&sent("header", &value)).await;
        if let Some(header) = response.header("content-disposition") {
            let unescaped = header.replace("\\\\", "").replace("\\\"", "");
            assert_eq!(unescaped.matches('"').count(), 2, "{header}");
        }
    }
    println!("{seen} targets, {raw} raw ones lead elsewhere");
    assert!(raw > 0);
    // A URL within a query is one value.
    let login = gateway.get("/login?a=1&admin=1").await;
    let to = Url::parse(login.header("location").expect("a target")).expect("it is a URL");
    let pairs: Vec<(String, String)> = to.query_pairs().into_owned().collect();
    assert_eq!(pairs[0].1, "/login?a=1&admin=1");
    assert_eq!(pairs[1], ("z".to_owned(), "1".to_owned()));
}
