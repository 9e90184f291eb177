//! Errors and warnings of upstreams' configuration.

use super::Bench;

/// Returns the diagnostics of `yaml`, each as `message; help`, errors and warnings.
#[track_caller]
fn messages(yaml: &str) -> Vec<String> {
    let (upstream, diagnostics) = Bench::new().try_compile(yaml);
    assert_eq!(
        upstream.is_none(),
        diagnostics.has_errors(),
        "{diagnostics:#?}"
    );
    let list = diagnostics.list().iter();
    list.map(|d| format!("{}; {}", d.message, d.help.as_deref().unwrap_or("")))
        .collect()
}

#[test]
fn invalid_addresses_are_reported_with_a_remedy() {
    for (address, message) in [
        (
            "127.0.0.1",
            "invalid backend address `127.0.0.1`; the port is missing: write `127.0.0.1:3000`",
        ),
        (
            "::1",
            "invalid backend address `::1`; the port is missing: write `[::1]:3000`",
        ),
        (
            "localhost:3000",
            "invalid backend address `localhost:3000`; write `127.0.0.1:3000`, or `[::1]:3000`: `localhost` may be either",
        ),
        (
            "http://127.0.0.1:3000/x",
            "invalid backend address `http://127.0.0.1:3000/x`; write `127.0.0.1:3000`, without scheme and path",
        ),
        (
            "api:3000",
            "invalid backend address `api:3000`; for a name write `{ dns: \"api:3000\" }`",
        ),
        (
            "127.0.0.1:0",
            "`127.0.0.1:0` has port 0, which nothing listens on; write the port that the app listens on",
        ),
        (
            "0.0.0.0:80",
            "`0.0.0.0:80` is an address to listen on, not one to connect to; write `127.0.0.1:80` for this machine",
        ),
        (
            "unix:app.sock",
            "invalid unix socket path `unix:app.sock`; write an absolute path, such as `unix:/run/app.sock`",
        ),
        (
            "?",
            "invalid backend address `?`; write `IP:PORT`, `unix:PATH` or `{ dns: \"NAME:PORT\" }`",
        ),
    ] {
        assert_eq!(
            messages(&format!("{{ backends: ['{address}'] }}")),
            [message]
        );
    }
    let long = format!("{{ backends: ['unix:/{}'] }}", "x".repeat(120));
    assert!(
        messages(&long)[0].contains("too long"),
        "{:?}",
        messages(&long)
    );
}

#[test]
fn invalid_names_are_reported_with_a_remedy() {
    for (name, message) in [
        (
            "10.0.0.1:80",
            "`10.0.0.1:80` is an address, not a name to look up; write `- 10.0.0.1:80` instead of `- { dns: … }`",
        ),
        (
            "10.0.0.1",
            "`10.0.0.1` is an address, not a name to look up; write `- 10.0.0.1` instead of `- { dns: … }`",
        ),
        (
            "api.internal",
            "`api.internal` has no port; write `{ dns: \"api.internal:3000\" }`",
        ),
        (
            "api.internal:http",
            "`api.internal:http` does not end in a port; write `NAME:PORT` with a port from 1 to 65535",
        ),
        (
            "api..x:80",
            "invalid host name `api..x`; write letters, digits and hyphens, with dots between, such as `api.internal`",
        ),
    ] {
        assert_eq!(
            messages(&format!("{{ backends: [{{ dns: '{name}' }}] }}")),
            [message]
        );
    }
}

#[test]
fn ways_to_balance_are_guessed() {
    for (balance, help) in [
        (
            "least_con",
            "unknown balancing method `least_con`; did you mean `least_conn`?",
        ),
        (
            "roundrobin",
            "unknown balancing method `roundrobin`; did you mean `round_robin`?",
        ),
        (
            "ip_hash",
            "unknown balancing method `ip_hash`; did you mean `hash:client.ip`?",
        ),
        (
            "hash:client_ip",
            "unknown hash key `client_ip`; did you mean `hash:client.ip`?",
        ),
        (
            "hash:jwt.sub.of.someone",
            "unknown hash key `jwt.sub.of.someone`; one of `client.ip`, `path`, `uri`, `header:NAME`, `cookie:NAME`, `query:NAME`",
        ),
    ] {
        let yaml = format!("{{ backends: [10.0.0.1:80], balance: '{balance}' }}");
        assert_eq!(messages(&yaml), [help]);
    }
}

#[test]
fn all_problems_are_reported_at_once() {
    let lines = messages(
        "{ backends: [10.0.0.1:80, 10.0.0.1:80, 10.0.0.2], balance: fastest, \
           sticky: { cookie: 'a b', max_age: 0s }, timeouts: { connect: 0s }, \
           eject: { for: 0s }, health: { json: true, interval: 0s } }",
    );
    let messages: Vec<&str> = lines.iter().map(|s| s.split(';').next().unwrap()).collect();
    assert_eq!(
        messages,
        [
            "backend `10.0.0.1:80` is listed twice in upstream `web`",
            "invalid backend address `10.0.0.2`",
            "unknown balancing method `fastest`",
            "invalid cookie name `a b`",
            "`health.interval` must be more than zero",
            "`health.json` needs an HTTP check, and this is a TCP one",
            "`sticky.max_age` must be more than zero",
            "`timeouts.connect` must be more than zero",
            "`eject.for` must be more than zero",
        ]
    );
}

#[test]
fn an_upstream_needs_a_backend() {
    assert!(messages("{ backends: [] }")[0].contains("has no backends"));
}

#[test]
fn one_port_with_many_workers_is_pointed_out() {
    let warned = |yaml| messages(yaml).len();
    assert_eq!(
        warned("{ backends: [127.0.0.1:3000], balance: least_conn }"),
        1
    );
    assert_eq!(warned("{ backends: [127.0.0.1:3000], balance: p2c }"), 1);
    assert_eq!(warned("{ backends: [127.0.0.1:3000], balance: node }"), 1);
    assert_eq!(
        warned("{ backends: [127.0.0.1:3000] }"),
        0,
        "nothing was asked for"
    );
    assert_eq!(
        warned("{ backends: [127.0.0.1:3000], balance: round_robin }"),
        0
    );
    assert_eq!(
        warned("{ backends: [{ dns: 'web:3000' }], balance: least_conn }"),
        0
    );
    assert_eq!(
        warned("{ backends: [127.0.0.1:3000, 127.0.0.1:3001], balance: least_conn }"),
        0
    );
}

#[test]
fn invalid_metrics_are_reported_with_a_remedy() {
    let many: Vec<String> = (0..17).map(|n| format!("m{n}")).collect();
    let many = format!("{{ server_timing: [{}] }}", many.join(", "));
    for (metrics, message) in [
        (
            "{ server_timing: ['a b'] }",
            "invalid name `a b` in `server_timing`; write a name as the app sends it, such as `db` of `Server-Timing: db;dur=53`",
        ),
        (
            "{ server_timing: [db, db] }",
            "`db` is listed twice in `server_timing`; remove one",
        ),
        (
            &many,
            "more than 16 names in `server_timing`; list those that a dashboard or an alert uses; each name is a histogram",
        ),
        (
            "{ sessions: { cookie: 'a;b' } }",
            "invalid cookie name `a;b`; write the name of the app's session cookie, such as `connect.sid`",
        ),
        (
            "{ sessions: { cookie: sid, window: 10ms } }",
            "`sessions.window` must be at least 1s; write the time after which a session counts as inactive, such as `15m`",
        ),
    ] {
        assert_eq!(
            messages(&format!(
                "{{ backends: [10.0.0.1:80], metrics: {metrics} }}"
            )),
            [message]
        );
    }
}

#[test]
fn invalid_checks_are_reported_with_a_remedy() {
    for (health, message) in [
        (
            "{ path: health }",
            "invalid path `health`; write a path that starts with `/`, percent-encoded: `/api/health`",
        ),
        (
            "{ path: '/a b' }",
            "invalid path `/a b`; write a path that starts with `/`, percent-encoded: `/api/health`",
        ),
        (
            "{ path: /, host: 'a b' }",
            "invalid host `a b`; write a name, with a port if it needs one: `shop.example.com`",
        ),
    ] {
        assert_eq!(
            messages(&format!("{{ backends: [10.0.0.1:80], health: {health} }}")),
            [message]
        );
    }
}
