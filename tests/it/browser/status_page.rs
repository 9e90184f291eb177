//! The status page in a real browser and from the command line: login, links, forms, updates.
//!
//! The checks in the browser are in `tests/browser/status_page.js`.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    browser::{describe, look},
    cli::over_socket,
    support::{
        client::{Request, get, post},
        gateway::Gateway,
        origins::FixedOrigin,
        wait::wait_for,
    },
};

const SOON: Duration = Duration::from_secs(10);
const TOKEN: &str = "0123456789abcdef0123456789abcdef";

const CHECKS: &[&str] = &[
    "a wrong token is refused, the right one opens the page, and a logout ends it",
    "a link opens the page once",
    "buttons drain and undrain, and the page shows it without loading again",
    "a purge and a lookup show what the cache has",
    "a ban is lifted by its button",
    "a request is explained",
    "requests appear as they end, with their reasons, by a filter",
    "a filter that cannot be read is explained once, and a right one continues",
    "an outdated section is not put back after a selection",
    "what was wrong with an earlier filter does not touch a later one",
    "after a form the stream begins again, as it does not know the sections that came with it",
    "updates keep focus, open details and texts that are typed",
    "without script the forms work, and the page loads itself again",
    "hostile names are shown as text",
    "the page fits and is readable, light and dark, wide and narrow",
    "the login is accessible, and what is not is seen",
    "a page of another site gets nothing and does nothing",
    "the page continues after an upgrade",
];

/// Names and paths that would be markup, if they were not escaped.
const HOSTILE: &str = "<script>alert(1)</script>";

#[tokio::test]
async fn an_operator_works_with_the_page_in_a_browser() {
    let origin = FixedOrigin::start(200, &[("cache-control", "max-age=600")], "hello").await;
    let place = origin.address();
    let yaml = |token: &str| {
        format!(
            "admin: {{ address: 127.0.0.1:0, socket: admin.sock{token} }}
audit_log: {{ file: audit.log }}
rate_limits:
  per_client: {{ rate: 1000/s }}
upstreams:
  web: {{ backends: [\"{place}\", \"127.0.0.2:1\"] }}
  single: {{ backends: [\"{place}\"] }}
routes:
  - match: {{ path: /* }}
    upstream: single
    cache: {{}}
  - name: {name}
    match: {{ host: odd.test, path: /odd/* }}
    upstream: web
",
            name = json!(HOSTILE),
        )
    };
    let mut front = Gateway::start(&yaml(&format!(", token: {TOKEN}"))).await;
    // Without a token, only a link opens the page.
    let bare = Gateway::start(&yaml("")).await;
    // So that the page has a problem, which the upgrade ends.
    assert!(!front.reload("lisen: 1").await);
    front.configure(&yaml(&format!(", token: {TOKEN}")));
    for gateway in [&front, &bare] {
        assert_eq!(gateway.get("/stored").await.status(), 200);
        for address in ["192.0.2.7", "192.0.2.8"] {
            let banned = over_socket(gateway, &["ban", address, "--reason", HOSTILE]);
            assert_eq!(banned.status, 0, "{}", banned.stderr);
        }
    }
    let link = |gateway: &Gateway| {
        let ran = over_socket(gateway, &["page"]);
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        ran.stdout.trim().to_owned()
    };
    let shared = json!({
        "admin": format!("http://{}", front.admin()),
        "site": format!("http://{}", front.address()),
        "token": TOKEN,
        "backend": place.to_string(),
        "link": link(&bare),
        "bareLinks": [link(&bare), link(&bare)],
        "bare": format!("http://{}", bare.admin()),
        "pid": front.pid(),
        "hostile": HOSTILE,
    });
    let upgraded = async {
        // The browser asks for it by a request.
        wait_for(
            "the browser is ready for the upgrade",
            Duration::from_mins(4),
            async || {
                let log = fs::read_to_string(front.folder().join("access.log")).unwrap_or_default();
                log.contains("/upgrade-now").then_some(())
            },
        )
        .await;
        front.upgrade().await
    };
    let browse = look("status_page.js", &shared);
    tokio::pin!(browse);
    let outcome = tokio::select! {
        outcome = &mut browse => outcome,
        _ = upgraded => browse.await,
    };
    let failures: Vec<String> = outcome.failed.iter().map(describe).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(outcome.passed, CHECKS);

    let drains = front.audited("drain").await;
    assert!(
        drains[0]["session"]
            .as_str()
            .is_some_and(|it| it.len() == 8),
        "{drains:?}"
    );
    let logins = front.audited("login").await;
    assert_eq!(logins[0]["outcome"], "ok");
    front.audited("logout").await;
    bare.audited("page_link").await;
}

fn form(path: &str, body: &str) -> Request {
    post(path, body.to_owned())
        .header("content-type", "application/x-www-form-urlencoded")
        .header("accept", "text/html")
}

#[tokio::test]
async fn a_link_is_printed_by_the_command_and_works_once() {
    let yaml = "admin: { address: 127.0.0.1:0, socket: admin.sock }\n\
                routes: [{ match: {}, respond: ok }]\n";
    let gateway = Gateway::start(yaml).await;
    let ran = over_socket(&gateway, &["page", "--json"]);
    let link: Value = serde_json::from_str(&ran.stdout).expect(&ran.stderr);
    assert_eq!(link["seconds"], 60);
    let url = link["url"].as_str().unwrap();
    let port = gateway.admin().port();
    let path = url
        .strip_prefix(&format!("http://edgeway.localhost:{port}"))
        .expect(url);
    let key = path.split_once("?link=").unwrap().1;
    let entered = gateway
        .send_admin_tcp(&form("/login", &format!("link={key}")))
        .await;
    assert_eq!(entered.header("location"), Some("/status"));
    let cookie = entered.header("set-cookie").unwrap();
    let cookie = cookie.split(';').next().unwrap().to_owned();
    let again = gateway
        .send_admin_tcp(&form("/login", &format!("link={key}")))
        .await;
    assert_eq!(again.header("location"), Some("/login?why=link_unknown"));
    // A session outlives a reload of the same configuration, and ends with a change of the token.
    let page = || {
        get("/status")
            .header("accept", "text/html")
            .header("cookie", &*cookie)
    };
    assert_eq!(gateway.send_admin_tcp(&page()).await.status(), 200);
    assert!(gateway.reload(yaml).await);
    assert_eq!(gateway.send_admin_tcp(&page()).await.status(), 200);
    let with_token = yaml.replace("admin.sock", &format!("admin.sock, token: {TOKEN}"));
    assert!(gateway.reload(&with_token).await);
    assert_eq!(gateway.send_admin_tcp(&page()).await.status(), 303);
    // Over the socket the page needs no session, but its forms need their value.
    let page = gateway
        .send_admin(&get("/status").header("accept", "text/html"))
        .await;
    let text = page.text();
    let csrf = text.split("name=\"csrf\" value=\"").nth(1).expect("forms");
    let csrf = csrf.split('"').next().unwrap();
    for (body, status) in [(String::new(), 403), (format!("csrf={csrf}"), 303)] {
        let body = format!("url=/&{body}");
        let sent = gateway
            .send_admin(&form("/status/act/explain", &body))
            .await;
        assert_eq!(sent.status(), status, "{}", sent.text());
    }
    // Without an address there is no link.
    let off = yaml.replace("127.0.0.1:0", "off");
    let off = Gateway::start(&off).await;
    let ran = over_socket(&off, &["page"]);
    assert_eq!(ran.status, 1);
    assert!(ran.stderr.contains("ssh -L"), "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logout_during_an_upgrade_is_one_in_the_new_process() {
    let mut gateway = Gateway::start(
        "admin: { address: 127.0.0.1:0, socket: admin.sock }\n\
         routes: [{ match: {}, respond: ok }]\n",
    )
    .await;
    let log_in = async || {
        let link = over_socket(&gateway, &["page", "--json"]);
        let link: Value = serde_json::from_str(&link.stdout).expect(&link.stderr);
        let key = link["url"].as_str().unwrap().split_once("?link=").unwrap();
        let entered = form("/login", &format!("link={}", key.1));
        let entered = gateway.send_admin_tcp(&entered).await;
        let cookie = entered.header("set-cookie").unwrap();
        cookie.split(';').next().unwrap().to_owned()
    };
    let (left, stays) = (log_in().await, log_in().await);
    let page = |cookie: &str| {
        let cookie = cookie.to_owned();
        get("/status")
            .header("accept", "text/html")
            .header("cookie", cookie)
    };
    let text = gateway.send_admin_tcp(&page(&left)).await.text();
    let csrf = text.split("name=\"csrf\" value=\"").nth(1).expect("forms");
    let csrf = csrf.split('"').next().unwrap().to_owned();
    // The new process starts once `go` exists; the sessions have been exported by then.
    let (go, started) = (
        gateway.folder().join("go"),
        gateway.folder().join("started"),
    );
    let program = gateway.folder().join("late");
    let waits = format!(
        "#!/bin/sh\n: >{}; while [ ! -e {} ]; do sleep 0.01; done; exec {} \"$@\"\n",
        started.display(),
        go.display(),
        env!("CARGO_BIN_EXE_edgeway")
    );
    fs::write(&program, waits).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    gateway.set_program(&program);
    gateway.signal(Signal::USR2);
    wait_for("the upgrade has begun", SOON, async || {
        started.exists().then_some(())
    })
    .await;
    let logout = form("/logout", &format!("csrf={csrf}")).header("cookie", &*left);
    assert_eq!(gateway.send_admin_tcp(&logout).await.status(), 303);
    fs::write(&go, "").unwrap();
    gateway.upgraded().await;
    wait_for("the logout has reached the new process", SOON, async || {
        let status = gateway.send_admin_tcp(&page(&left)).await.status();
        (status == 303).then_some(())
    })
    .await;
    assert_eq!(gateway.send_admin_tcp(&page(&stays)).await.status(), 200);
}

/// Invariant: a problem without a record of its own has the time at which it was first seen, on the
/// page and in a terminal of any width.
#[tokio::test]
async fn a_problem_says_since_when_and_the_status_fits_the_terminal() {
    let mut gateway = Gateway::start(
        "admin: { address: 127.0.0.1:0, socket: admin.sock }
upstreams:
  web: { backends: [\"127.0.0.2:1\", \"127.0.0.3:1\"], health: { path: /, interval: 100ms } }
routes:
  - match: { path: /* }
    upstream: web
",
    )
    .await;
    let down = "no backend of upstream web is healthy";
    let status = wait_for("the problem has a beginning", SOON, async || {
        // Problems are looked for while clients send requests.
        gateway.get("/").await;
        let status = over_socket(&gateway, &["status"]).stdout;
        let line = status.lines().find(|line| line.contains(down))?;
        line.contains(" (since 20").then(|| status.clone())
    })
    .await;
    assert!(status.lines().any(|line| line.chars().count() > 80));
    // The next process has it from this one.
    gateway.upgrade().await;
    let problem = |status: &str| {
        let line = status.lines().find(|line| line.contains(down));
        line.map(str::to_owned)
    };
    wait_for("the next process has the problem", SOON, async || {
        gateway.get("/").await;
        let after = over_socket(&gateway, &["status"]).stdout;
        (problem(&after)? == problem(&status)?).then_some(())
    })
    .await;
    let page = get("/status").header("accept", "text/html");
    let page = gateway.send_admin(&page).await.text();
    let (_, problem) = page.split_once(down).expect("the page has the problem");
    let (since, _) = problem.split_once("</li>").expect("it ends");
    assert!(since.contains(" since <time datetime=\"20"), "{since}");

    let program = env!("CARGO_BIN_EXE_edgeway");
    let command = format!("{program} status --socket {}", gateway.admin_socket());
    // By the size of the terminal, by `COLUMNS`, and by `COLUMNS` where there is no terminal.
    let sized = format!("stty cols 60; {command}");
    let narrow = format!("stty cols 200; COLUMNS=60 {command}");
    for arguments in [
        &["script", "-qec", &sized, "/dev/null"][..],
        &["script", "-qec", &narrow, "/dev/null"],
        &["env", "COLUMNS=60", "sh", "-c", &command],
    ] {
        let ran = std::process::Command::new(arguments[0])
            .args(&arguments[1..])
            .stdin(std::process::Stdio::null())
            .env_remove("COLUMNS")
            .output()
            .expect("it starts");
        let text = String::from_utf8(ran.stdout).expect("it prints UTF-8");
        assert!(text.contains("127.0.0.2:1"), "{arguments:?}: {text}");
        let longest = text
            .lines()
            .map(|line| line.trim_end().chars().count())
            .max();
        assert!(longest <= Some(60), "{arguments:?}: {text}");
    }
}
