//! `edgeway import nginx --compare`: it shows what nginx and the gateway respond differently, and
//! nothing else.

use std::{fs, net::SocketAddr, path::Path};

use tokio::process::Command;

use crate::support::{certificates::Ca, gateway::Gateway, nginx::Nginx};

/// Paths of the log, and what becomes of each.
const EQUAL: [&str; 3] = ["/same", "/file.html", "/moved"];
const DIFFERING: [&str; 2] = ["/status", "/text"];

async fn compare(
    nginx: SocketAddr,
    gateway: SocketAddr,
    config: &Path,
    log: &Path,
) -> (bool, String) {
    compare_with(&format!("http://{nginx}"), gateway, (config, log), &[]).await
}

async fn compare_with(
    nginx: &str,
    gateway: SocketAddr,
    (config, log): (&Path, &Path),
    more: &[&str],
) -> (bool, String) {
    let ran = Command::new(env!("CARGO_BIN_EXE_edgeway"))
        .args(["import", "nginx"])
        .arg(config)
        .args(["--compare", &format!("http://{gateway}")])
        .args(["--nginx", nginx, "--host", "a.test"])
        .arg("--log")
        .arg(log)
        .args(more)
        .output()
        .await
        .expect("the program runs");
    let text = [ran.stdout, ran.stderr].concat();
    (
        ran.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

#[tokio::test]
async fn differences_are_shown_and_nothing_else() {
    let home = tempfile::tempdir().expect("a folder for the test can be made");
    let www = home.path().join("www");
    fs::create_dir(&www).expect("the folder takes folders");
    fs::write(www.join("file.html"), "<p>file").expect("the folder takes files");
    let nginx = Nginx::start(home.path(), |address| {
        format!(
            "  include /etc/nginx/mime.types; access_log {0}/access.log;
  server {{
    listen {address}; server_name a.test; root {0}/www;
    location / {{ return 404 none; }}
    location = /file.html {{ }}
    location = /same {{ return 200 same; }}
    location = /status {{ return 200 same; }}
    location = /text {{ return 200 theirs; }}
    location = /moved {{ return 301 /there; }}
  }}",
            home.path().display(),
        )
    })
    .await;
    let gateway = Gateway::start(&format!(
        "
routes:
- {{ match: {{ path: /file.html }}, files: {} }}
- {{ match: {{ path: /same }}, respond: {{ body: same }} }}
- {{ match: {{ path: /status }}, respond: {{ status: 410, body: same }} }}
- {{ match: {{ path: /text }}, respond: {{ body: own }} }}
- {{ match: {{ path: /moved }}, redirect: {{ to: /there, status: 301 }} }}
",
        www.display()
    ))
    .await;
    let log = home.path().join("other.log");
    let line =
        |path: &str| format!("127.0.0.1 - - [now] \"GET {path} HTTP/1.1\" 200 1 \"-\" \"x\"\n");
    let lines = |paths: &[&str]| paths.iter().map(|path| line(path)).collect::<String>();
    let config = home.path().join("nginx.conf");
    let own = gateway.address();

    fs::write(
        &log,
        lines(&EQUAL) + "127.0.0.1 - - [now] \"POST /same HTTP/1.1\" 200 1\n",
    )
    .expect("the folder takes files");
    let (is_equal, text) = compare(nginx.address, own, &config, &log).await;
    assert!(is_equal, "{text}");
    assert!(
        text.contains("3 requests: 3 with the same response, 0 with another one"),
        "{text}"
    );

    fs::write(
        &log,
        lines(&EQUAL) + &lines(&DIFFERING) + &lines(&DIFFERING),
    )
    .expect("the folder takes files");
    let (is_equal, text) = compare(nginx.address, own, &config, &log).await;
    assert!(!is_equal);
    assert!(
        text.contains("GET a.test/status\n  status: nginx `200`, the gateway `410`"),
        "{text}"
    );
    assert!(
        text.contains("body: nginx 6 bytes, the gateway 3"),
        "{text}"
    );
    assert!(
        text.contains("5 requests: 3 with the same response, 2 with another one"),
        "{text}"
    );
    for path in EQUAL {
        assert!(!text.contains(&format!("a.test{path}\n")), "{path}: {text}");
    }

    let (is_equal, text) = compare(nginx.address, ([127, 0, 0, 1], 9).into(), &config, &log).await;
    assert!(!is_equal);
    assert!(text.contains("the gateway does not respond"), "{text}");
}

#[tokio::test]
async fn a_site_with_tls_is_compared_by_its_name() {
    let home = tempfile::tempdir().expect("a folder for the test can be made");
    let file = |name: &str| home.path().join(name);
    let ca = Ca::new();
    let issued = ca.site(&["a.test"]);
    for (name, text) in [
        ("ca", ca.pem()),
        ("cert", &issued.cert),
        ("key", &issued.key),
    ] {
        fs::write(file(&format!("{name}.pem")), text).expect("the folder takes files");
    }
    let nginx = Nginx::start(home.path(), |address| {
        let folder = home.path().display();
        format!(
            "server {{ listen {address} ssl; server_name a.test; ssl_certificate {folder}/cert.pem;
             ssl_certificate_key {folder}/key.pem; location / {{ return 200 same; }} }}"
        )
    })
    .await;
    let gateway = Gateway::start(
        "routes: [{ match: { path: /* }, respond: { body: same, content_type: text/plain } }]",
    )
    .await;
    let (config, log) = (file("nginx.conf"), file("other.log"));
    fs::write(&log, "- [now] \"GET /same HTTP/1.1\" 200 1\n").expect("the folder takes files");
    let (url, to) = (format!("https://{}", nginx.address), gateway.address());
    let certificates = file("ca.pem").display().to_string();
    let (is_equal, text) = compare_with(&url, to, (&config, &log), &["--ca", &certificates]).await;
    assert!(is_equal, "{text}");
    assert!(text.contains("1 with the same response"), "{text}");
    // Nothing is sent to a site whose certificate nobody knows.
    let (is_equal, text) = compare_with(&url, to, (&config, &log), &[]).await;
    assert!(
        !is_equal && text.contains("nginx does not respond") && text.contains("--ca FILE"),
        "{text}"
    );
}
