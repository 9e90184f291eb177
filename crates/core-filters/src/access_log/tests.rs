//! Lines of the access log as a reader sees them.

use std::{path::Path, time::Duration};

use edgeway_base::{clock::Clock, metrics::Metrics};
use edgeway_core::chain::{
    Class, Exchange, Filter, LoggedRequest, Protocol, RequestFacts, RequestId, Scheme,
    testkit::{check, refused},
};

use super::{AccessLog, fields::Field, line::LineFormat};

/// Longer than any wait of a test that passes.
const PATIENCE: Duration = Duration::from_secs(20);

fn lines_of(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    assert!(text.is_empty() || text.ends_with('\n'), "a line is cut");
    text.lines().map(str::to_owned).collect()
}

#[track_caller]
fn wait_for(description: &str, mut is_true: impl FnMut() -> bool) {
    let clock = Clock::machine();
    let end = clock.now() + PATIENCE;
    while !is_true() {
        assert!(
            clock.now() < end,
            "{description}: not so after {PATIENCE:?}"
        );
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// Returns the line of a request with every fact filled in.
fn line_of(yaml: &str) -> String {
    line_beside(yaml, &[])
}

/// Returns the line as [`line_of`] does, where filters of the route read secrets in these
/// parameters.
fn line_beside(yaml: &str, secret_names: &[String]) -> String {
    let referer = "https://shop.example.com/login?token=hunter2";
    line_with(yaml, secret_names, ("referer", referer))
}

/// Returns the line of a request with one header more.
fn line_with(yaml: &str, secret_names: &[String], more: (&'static str, &str)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let yaml = yaml.replace("FILE", &path.display().to_string());
    let (mut filter, clock, _metrics) = compile_beside(&yaml, secret_names);
    if yaml.contains("# on a terminal") {
        filter.layout.format = LineFormat::Short;
    }
    let mut request = pingora::http::RequestHeader::build(
        "GET",
        b"/caf\xc3\xa9/a%20b?page=2&token=hunter2",
        None,
    )
    .unwrap();
    for (name, value) in [
        ("host", "shop.example.com"),
        ("user-agent", "Mozilla/5.0 \"quoted\""),
        more,
        ("authorization", "Bearer hunter2"),
        ("cookie", "session=hunter2"),
    ] {
        request.insert_header(name, value).unwrap();
    }
    let mut facts = RequestFacts::new(clock.now());
    facts.client.ip = "203.0.113.9".parse().unwrap();
    facts.client.scheme = Scheme::Https;
    facts.client.protocol = Protocol::Http2;
    facts.client.listener = "public".into();
    facts.request_id = RequestId::foreign(b"abc-1").unwrap();
    facts.route = Some("shop".into());
    facts.class = Class::Page;
    facts.first_byte = Some(Duration::from_micros(9_500));
    facts.upstream.name = Some("web".into());
    facts.upstream.backend = Some("127.0.0.1:3000".into());
    facts.upstream.attempts = 2;
    facts.upstream.status = 200;
    facts.upstream.first_byte = Some(Duration::from_micros(8_250));
    facts.status = 200;
    facts.bytes_sent = 1234;
    facts.bytes_received = 56;
    facts.reason = Some("retried");
    facts.limit = Some("edge".into());
    facts.identity_mut().user = Some("ann \"x\"".into());
    clock.advance(Duration::from_micros(12_345));
    facts.total = Duration::from_micros(12_345);
    facts.ended = clock.wall();
    let ex = Exchange {
        head: &request,
        facts: &mut facts,
    };
    filter.on_log(&ex, &LoggedRequest::new(&ex), &mut None);
    drop(filter);
    wait_for("the line is there", || {
        std::fs::read(&path).is_ok_and(|bytes| bytes.ends_with(b"\n"))
    });
    std::fs::read_to_string(&path).unwrap()
}

fn compile(yaml: &str) -> (AccessLog, Clock, Metrics) {
    compile_beside(yaml, &[])
}

fn compile_beside(yaml: &str, secret_names: &[String]) -> (AccessLog, Clock, Metrics) {
    use edgeway_config::{
        diagnostic::{Diagnostics, Place},
        tree,
    };
    use edgeway_core::chain::{CompileContext, FilterKind as _};
    let (clock, metrics) = (Clock::test(), Metrics::default());
    let mut diagnostics = Diagnostics::default();
    let node = tree::parse(yaml, 0, &mut diagnostics).unwrap();
    let config = tree::read(&node, &mut diagnostics).unwrap();
    let filter = AccessLog::compile(
        config,
        &mut CompileContext {
            place: Place::default(),
            route: "test",
            folder: Path::new("."),
            upstreams: &[],
            secret_names,
            clock: &clock,
            metrics: &metrics,
            zones: &edgeway_core::zones::Zones::default(),
            shared: &edgeway_core::chain::Shared::default(),
            work: &mut edgeway_core::chain::BackgroundWork::default(),
            referenced: &mut edgeway_config::source::ReferencedFiles::default(),
            diagnostics: &mut diagnostics,
        },
    );
    (filter.unwrap(), clock, metrics)
}

#[test]
fn secrets_of_other_filters_are_never_written_whatever_redact_lists() {
    for redact in ["", ", redact: []"] {
        let yaml = format!("{{ file: FILE{redact} }}");
        let line = line_beside(&yaml, &["page".to_owned()]);
        assert!(line.contains("page=[redacted]"), "{line}");
    }
    let yaml = "{ file: FILE, headers: { request: [user-agent] } }";
    assert!(line_of(yaml).contains(r#"_headers":{"user-agent":"Mozilla"#));
    let line = line_beside(yaml, &["User-Agent".to_owned()]);
    assert!(
        line.contains(r#"_headers":{"user-agent":"[redacted]""#),
        "{line}"
    );
    assert!(line_of("{ file: FILE, redact: [] }").contains("page=2&token=hunter2"));
}

#[test]
fn a_line_on_a_terminal_is_short() {
    assert_eq!(
        line_of("{ file: FILE } # on a terminal"),
        "08:00:00 203.0.113.9 GET /caf\\xC3\\xA9/a%20b?page=2&token=[redacted] 200 12.3 ms - web retried\n"
    );
}

#[test]
fn a_json_line_has_everything_but_secrets() {
    let line = line_of("{ file: FILE }");
    assert!(!line.contains("hunter2"), "{line}");
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    insta::assert_json_snapshot!(value, @r#"
    {
      "time": "2027-01-15T08:00:00.012Z",
      "id": "abc-1",
      "client": "203.0.113.9",
      "listener": "public",
      "method": "GET",
      "scheme": "https",
      "host": "shop.example.com",
      "path": "/café/a%20b",
      "query": "page=2&token=[redacted]",
      "protocol": "HTTP/2",
      "status": 200,
      "bytes_in": 56,
      "bytes_out": 1234,
      "route": "shop",
      "class": "page",
      "upstream": "web",
      "backend": "127.0.0.1:3000",
      "attempts": 2,
      "upstream_status": 200,
      "cache": null,
      "cache_why": null,
      "total_ms": 12.345,
      "first_byte_ms": 9.5,
      "upstream_ms": 8.25,
      "reason": "retried",
      "limit": "edge",
      "user": "ann \"x\"",
      "user_agent": "Mozilla/5.0 \"quoted\"",
      "referer": "https://shop.example.com/login"
    }
    "#);
}

#[test]
fn a_compat_line_reads_as_nginx_combined_with_a_tail() {
    let line = line_of("{ file: FILE, format: compat }");
    insta::assert_snapshot!(line, @r#"203.0.113.9 - ann\x20\x22x\x22 [15/Jan/2027:08:00:00 +0000] "GET /caf\xC3\xA9/a%20b?page=2&token=[redacted] HTTP/2" 200 1234 "https://shop.example.com/login" "Mozilla/5.0 \x22quoted\x22" X-Cache-Status: - id=abc-1 route="shop" upstream="web" backend="127.0.0.1:3000" total_ms=12.345 first_byte_ms=9.500 upstream_ms=8.250 reason=retried limit=edge"#);
}

#[test]
fn words_to_redact_can_be_chosen() {
    let line = line_of("{ file: FILE, redact: [page] }");
    assert!(line.contains("page=[redacted]&token=hunter2"), "{line}");
    let line = line_of("{ file: FILE, redact: [] }");
    assert!(line.contains("page=2&token=hunter2"), "{line}");
}

/// Returns the line of a request with no facts but its target.
fn bare_line(format: &str, method: &str, target: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let yaml = format!("{{ file: {}, format: {format} }}", path.display());
    let (filter, clock, _metrics) = compile(&yaml);
    let request = pingora::http::RequestHeader::build(method, target, None).unwrap();
    let mut facts = RequestFacts::new(clock.now());
    facts.ended = clock.wall();
    let ex = Exchange {
        head: &request,
        facts: &mut facts,
    };
    filter.on_log(&ex, &LoggedRequest::new(&ex), &mut None);
    drop(filter);
    wait_for("the line is there", || {
        std::fs::read(&path).is_ok_and(|bytes| bytes.ends_with(b"\n"))
    });
    lines_of(&path).remove(0)
}

#[test]
fn a_password_in_an_absolute_target_is_not_written() {
    for format in ["json", "compat"] {
        let target = b"http://user:hunter2@shop.example.com:8080/cart?x=1";
        let line = bare_line(format, "GET", target);
        assert!(line.contains("/cart"), "{line}");
        assert!(!line.contains("hunter2"), "{line}");
    }
}

#[test]
fn a_request_that_got_nowhere_has_a_complete_line_too() {
    let line = bare_line("json", "OPTIONS", b"*");
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(value["path"], "*");
    assert_eq!(value["status"], 0);
    assert_eq!(value["upstream"], serde_json::Value::Null);
    let line = bare_line("compat", "OPTIONS", b"*");
    assert!(line.contains("\" 499 0 \"-\" \"-\""), "{line}");
}

#[test]
fn each_request_through_the_chain_has_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let checked = check::<AccessLog>(&format!("{{ file: {} }}", path.display()))
        .get("/one")
        .request("POST", "/two")
        .expect([200, 200]);
    drop(checked);
    wait_for("both lines are there", || lines_of(&path).len() == 2);
    for line in lines_of(&path) {
        serde_json::from_str::<serde_json::Value>(&line).unwrap();
    }
}

#[test]
fn nothing_is_opened_before_the_first_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let _checked = check::<AccessLog>(&format!("{{ file: {} }}", path.display()));
    assert!(!path.exists());
}

#[test]
fn mistakes_are_refused_with_a_remedy() {
    let mut seen = String::new();
    for yaml in [
        "{ file: stderr, rotate: { every: 5s, size: 1KiB, keep: 0 } }",
        "{ rotate: { every: 1d } }",
        "{ file: \"off\" }",
        "{ file: /tmp, formt: jsn }",
        "{ file: /tmp }",
        "{ fields: [time, statsu, nothing_like_it] }",
        "{ fields: [time], omit: [path] }",
        "{ omit: [time, time] }",
        "{ format: compat, omit: [time] }",
        "{ headers: { request: [\"a b\"] } }",
        "{ sample: { 2xy: 10% } }",
    ] {
        seen.push_str(&refused::<AccessLog>(yaml).join("\n"));
        seen.push('\n');
    }
    insta::assert_snapshot!(seen, @"
    the access log cannot go to `stderr`, where the gateway's own messages go; help: write `file: stdout`, or a path
    `every: 5s` is shorter than a minute; help: write `1min` or more, such as `1d`
    `size: 1KiB` is smaller than 64KiB; help: write a size such as `100MiB`
    `keep: 0` is not between 1 and 1000; help: write how many old files to keep, such as `7`
    only a file can be rotated; help: remove `rotate`, or name a `file`
    invalid file `off`; help: write `file: stdout` or a path; `access_log: false` switches it off
    unknown key `formt`; help: did you mean `format`?
    `/tmp` is a folder; help: write the path of a file in it, such as `access.log`
    unknown field `statsu`; help: did you mean `status`?
    `fields` and `omit` choose the same thing; help: remove one of them
    the field `time` is listed twice; help: remove one of them
    lines of `format: compat` have their own fields; help: write `format: json`, or remove this
    invalid header name `a b`; help: write a name such as `content-type`
    invalid status `2xy`: write one such as `404`, a class such as `5xx`, or `404,5xx`; help: write `default`, or a status or class with its share: `2xx: 10%`
    ");
}

fn names(fields: &[Field]) -> Vec<&'static str> {
    fields.iter().map(|field| field.name()).collect()
}

fn keys(line: &str) -> Vec<String> {
    let line: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).unwrap();
    line.keys().cloned().collect()
}

/// Invariant: the chosen fields are in the line in their order, with the values of the usual line.
#[test]
fn chosen_fields_are_those_of_the_usual_line() {
    let usual = line_of("{ file: FILE }");
    // No traces are exported here, no attempt failed and no error has a page.
    let absent = ["trace_id", "span_id", "failed_backend", "page_route"];
    let usual_names: Vec<&str> = names(&Field::ALL[..=Field::Referer as usize])
        .into_iter()
        .filter(|name| !absent.contains(name))
        .collect();
    assert_eq!(keys(&usual), usual_names);
    let listed = usual_names.join(", ");
    assert_eq!(
        line_of(&format!("{{ file: FILE, fields: [{listed}] }}")),
        usual
    );
    let usual: serde_json::Value = serde_json::from_str(&usual).unwrap();
    let some = line_of("{ file: FILE, fields: [status, path, time, client] }");
    assert_eq!(keys(&some), ["status", "path", "time", "client"]);
    let some: serde_json::Value = serde_json::from_str(&some).unwrap();
    for (name, value) in some.as_object().unwrap() {
        assert_eq!(*value, usual[name], "{name}");
    }
    let fewer = line_of("{ file: FILE, omit: [time, user_agent, referer] }");
    assert_eq!(keys(&fewer), usual_names[1..usual_names.len() - 2]);
    let all = names(&Field::ALL);
    let line = line_of(&format!("{{ file: FILE, fields: [{}] }}", all.join(", ")));
    assert_eq!(keys(&line), all);
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["retries"], 1);
    assert_eq!(line["tls_version"], serde_json::Value::Null);
    assert_eq!(line["trace_id"], serde_json::Value::Null);
}

#[test]
fn chosen_headers_are_written_without_their_secrets() {
    let headers = "headers: { request: [user-agent, authorization, cookie, referer, x-none], response: [x-a] }";
    let line = line_of(&format!("{{ file: FILE, {headers} }}"));
    assert!(!line.contains("hunter2"), "{line}");
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        line["request_headers"]["user-agent"],
        "Mozilla/5.0 \"quoted\""
    );
    assert_eq!(line["request_headers"]["authorization"], "[redacted]");
    assert_eq!(line["request_headers"]["cookie"], "[redacted]");
    assert_eq!(
        line["request_headers"]["referer"],
        "https://shop.example.com/login?token=[redacted]"
    );
    assert_eq!(line["request_headers"]["x-none"], serde_json::Value::Null);
    assert_eq!(line["response_headers"]["x-a"], serde_json::Value::Null);
    let line = line_of(&format!("{{ file: FILE, format: compat, {headers} }}"));
    let tail = " request_header.user-agent=\"Mozilla/5.0 \\x22quoted\\x22\" \
                request_header.authorization=\"[redacted]\" request_header.cookie=\"[redacted]\" \
                request_header.referer=\"https://shop.example.com/login?token=[redacted]\" \
                request_header.x-none=\"-\" response_header.x-a=\"-\"\n";
    assert!(line.ends_with(tail), "{line}");
}

#[test]
fn a_password_that_is_longer_than_a_logged_value_is_not_written() {
    let headers = "headers: { request: [referer] }";
    let referer = format!("https://me:{}@a.test/", "hunter2".repeat(100));
    for format in ["json", "compat"] {
        let yaml = format!("{{ file: FILE, format: {format}, {headers} }}");
        let line = line_with(&yaml, &[], ("referer", &referer));
        assert!(!line.contains("hunter2"), "{line}");
        assert!(line.contains("https://me:[redacted]@a.test/"), "{line}");
    }
}

#[test]
fn a_long_target_is_truncated_and_keeps_no_secret() {
    let target = format!(
        "/{}?a=1&token=hunter2{}",
        "p".repeat(20_000),
        "2".repeat(20_000)
    );
    let line = bare_line("json", "GET", target.as_bytes());
    assert!(line.len() < 10_000, "{} bytes", line.len());
    assert!(line.contains("a=1&token=[redacted]"), "{}", &line[8_500..]);
    // The name before the value is cut off: then so is the value.
    let target = format!("/?{}&token=hunter2", "q".repeat(8 * 1024 - 2));
    let line = bare_line("json", "GET", target.as_bytes());
    assert!(line.contains("q&t\""), "{line}");
}

/// Invariant: each line that was written counts for the inverse of its rate, and their sum is the
/// number of requests; errors and refusals have a line each.
#[test]
fn sampled_lines_tell_how_many_they_stand_for() {
    const REQUESTS: u32 = 5_000;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let sample = "{ default: 50%, 2xx: 10%, 204: 0%, 404: 100%, 503: 25% }";
    let yaml = format!(
        "{{ file: {}, fields: [status], sample: {sample} }}",
        path.display()
    );
    let (filter, clock, _metrics) = compile(&yaml);
    let request = pingora::http::RequestHeader::build("GET", b"/", None).unwrap();
    for (status, reason) in [
        (200, None),
        (204, None),
        (301, None),
        (404, None),
        (403, Some("banned")),
        (500, None),
        (503, None),
    ] {
        let mut facts = RequestFacts::new(clock.now());
        (facts.status, facts.reason) = (status, reason);
        for _ in 0..REQUESTS {
            let ex = Exchange {
                head: &request,
                facts: &mut facts,
            };
            filter.on_log(&ex, &LoggedRequest::new(&ex), &mut None);
        }
    }
    assert!(edgeway_net::log_file::flush(PATIENCE));
    let mut counted: std::collections::BTreeMap<u64, (u32, f64)> = [].into();
    for line in lines_of(&path) {
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        let (lines, sum) = counted.entry(line["status"].as_u64().unwrap()).or_default();
        *lines += 1;
        *sum += 1.0
            / line
                .get("sample_rate")
                .map_or(1.0, |rate| rate.as_f64().unwrap());
    }
    for (status, rate) in [
        (200, 0.1),
        (301, 0.5),
        (404, 1.0),
        (403, 1.0),
        (500, 1.0),
        (503, 0.25),
    ] {
        let (lines, sum) = counted[&status];
        let all = f64::from(REQUESTS);
        // Six standard deviations: once in 500 million draws.
        let spread = 6.0 * (all * rate * (1.0 - rate)).sqrt();
        let difference = f64::from(lines) - all * rate;
        assert!(difference.abs() <= spread, "{status}: {lines}");
        assert!((sum - all).abs() <= spread / rate, "{status}: {sum}");
    }
    assert!(!counted.contains_key(&204));
}
