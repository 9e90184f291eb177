//! The access log and the process's own log, as the programs read them that collect logs.

use std::{
    collections::BTreeSet, fs, os::unix::net::UnixDatagram, path::Path, sync::Arc, time::Duration,
};

use edgeway_config::{diagnostic::Diagnostics, tree};
use regex::Regex;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::Value;

use crate::support::{
    certificates::Ca,
    client::{Connection, get},
    gateway::Gateway,
    origins::EchoOrigin,
    wait::{pass, wait_for},
};

const SOON: Duration = Duration::from_secs(10);

fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(str::to_owned).collect()
}

async fn wait_lines(path: &Path, count: usize) -> Vec<String> {
    wait_for(&format!("there are {count} lines"), SOON, async || {
        let found = lines(path);
        (found.len() >= count).then_some(found)
    })
    .await
}

#[tokio::test]
async fn chosen_fields_and_headers_are_written_in_their_order() {
    let ca = Ca::new();
    let origin = EchoOrigin::start().await;
    let gateway = Gateway::start_in(
        &format!(
            "access_log:
  file: access.log
  fields: [tls_alpn, status, tls_version, server_name, tls_cipher, range, retries, peer, port]
  headers:
    request: [x-tenant, authorization]
    response: [x-request-id, content-type, x-api-key]
listeners:
  - {{ address: 127.0.0.1:0, name: tls, tls: {{ certificates: {{ cert: site.pem, key: site.key }} }} }}
upstreams: {{ app: {{ backends: [\"{}\"], health: false }} }}
routes: [{{ match: {{ path: /* }}, upstream: app }}]
",
            origin.address()
        ),
        |folder| ca.site(&["a.test"]).write(folder, "site"),
    )
    .await;
    let trust = Arc::new(ca.trust());
    let address = gateway.listener("tls").parse().expect("an address");
    let mut client = Connection::open_tls(address, "a.test", &trust)
        .await
        .expect("the handshake succeeds");
    let sent = get("/")
        .header("x-tenant", "one\"two")
        .header("range", "bytes=0-9")
        .header("authorization", "Bearer hunter2");
    let response = client.send(&sent).await.expect("a response");
    let path = gateway.folder().join("access.log");
    let line = wait_lines(&path, 1).await.remove(0);
    assert!(!line.contains("hunter2"), "{line}");
    let line: Value = serde_json::from_str(&line).expect("it is JSON");
    let keys: Vec<&String> = line.as_object().expect("an object").keys().collect();
    assert_eq!(
        keys,
        [
            "tls_alpn",
            "status",
            "tls_version",
            "server_name",
            "tls_cipher",
            "range",
            "retries",
            "peer",
            "port",
            "request_headers",
            "response_headers"
        ]
    );
    assert_eq!(line["status"], 200);
    assert_eq!(line["request_headers"]["x-tenant"], "one\"two");
    assert_eq!(line["tls_version"], "TLSv1.3");
    assert_eq!(line["server_name"], "a.test");
    let cipher = line["tls_cipher"].as_str().expect("a cipher");
    assert!(cipher.starts_with("TLS13_"), "{cipher}");
    assert_eq!(line["range"], "bytes=0-9");
    assert_eq!(line["request_headers"]["authorization"], "[redacted]");
    assert_eq!(
        line["response_headers"]["x-request-id"],
        response.header("x-request-id").expect("there is one")
    );
    assert_eq!(line["response_headers"]["x-api-key"], Value::Null);
}

/// Invariant: a limit of the size of files, as of `LimitFSIZE=`, costs lines and no request.
#[tokio::test]
async fn a_log_that_reaches_the_limit_of_its_size_ends_no_gateway() {
    let yaml = "routes: [{ match: { path: /* }, respond: ok }]";
    let gateway = Gateway::start(yaml).await;
    let limit = |current| {
        let id = Pid::from_raw(gateway.pid().cast_signed());
        let maximum = None;
        prlimit(id, Resource::Fsize, Rlimit { current, maximum }).expect("it is ours");
    };
    let path = gateway.folder().join("access.log");
    limit(Some(1));
    for _ in 0..3 {
        assert_eq!(gateway.send(&get("/")).await.status(), 200);
        pass(Duration::from_millis(300)).await;
    }
    limit(None);
    wait_for("lines are written again", SOON, async || {
        assert_eq!(gateway.send(&get("/")).await.status(), 200);
        (!lines(&path).is_empty()).then_some(())
    })
    .await;
}

/// Invariant: a request is one line that a parser reads, whatever bytes it has.
#[tokio::test]
async fn every_byte_of_a_client_stays_in_its_line() {
    let gateway = Gateway::start(
        "access_log: { file: json.log }
routes:
  - { match: { path: /compat }, respond: ok, access_log: { file: compat.log, format: compat } }
  - { match: { path: /* }, respond: ok }
",
    )
    .await;
    let mut sent = 0;
    for path in ["/json", "/compat"] {
        for byte in 0..=255u8 {
            let mut request =
                format!("GET {path} HTTP/1.1\r\nHost: a.test\r\nUser-Agent: a").into_bytes();
            request.push(byte);
            request.extend_from_slice(b"b\r\nConnection: close\r\n\r\n");
            let mut connection = gateway.connect().await;
            connection.write(&request).await.expect("it is written");
            let response = connection.read_response().await.expect("a response");
            sent += usize::from(path == "/compat" && response.status() == 200);
        }
    }
    // Bytes that no header may have are refused at the edge, with a line in the usual log.
    let folder = gateway.folder();
    let compat = wait_lines(&folder.join("compat.log"), sent).await;
    let json = wait_lines(&folder.join("json.log"), 512 - sent).await;
    assert!(sent > 200 && sent < 256, "{sent}");
    assert_eq!((compat.len(), json.len()), (sent, 512 - sent));
    for line in &json {
        let read: Value = serde_json::from_str(line).expect("it is JSON");
        assert!(read["status"].is_number(), "{line}");
        assert!(!line.contains(char::is_control), "{line:?}");
    }
    let shape =
        Regex::new(r#"^127\.0\.0\.1 - - \[[^\]]+\] "GET /compat HTTP/1.1" 200 2 "-" "[^"]*" "#)
            .expect("it is valid");
    for line in &compat {
        assert!(shape.is_match(line), "{line}");
        assert!(line.bytes().all(|b| (0x20..0x7f).contains(&b)), "{line:?}");
    }
}

#[tokio::test]
async fn the_journal_gets_each_request_with_its_fields() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = folder.path().join("journal");
    let journal = UnixDatagram::bind(&path).expect("a socket can be made");
    journal
        .set_read_timeout(Some(SOON))
        .expect("it takes a timeout");
    let gateway = Gateway::start(&format!(
        "access_log: {{ file: \"journald:{}\" }}
routes: [{{ match: {{ path: /* }}, name: all, respond: ok }}]
",
        path.display()
    ))
    .await;
    gateway.get("/a?token=hunter2").await;
    let mut room = vec![0; 1 << 16];
    let length = journal.recv(&mut room).expect("a datagram comes");
    let text = String::from_utf8_lossy(&room[..length]);
    for field in [
        "PRIORITY=6\n",
        "SYSLOG_IDENTIFIER=edgeway\n",
        "EDGEWAY_ROUTE=all\n",
        "EDGEWAY_STATUS=200\n",
        "EDGEWAY_QUERY=token=[redacted]\n",
        "MESSAGE={\"time\":",
    ] {
        assert!(text.contains(field), "{field} in {text}");
    }
}

#[tokio::test]
async fn the_process_log_is_json_or_logfmt_if_it_is_asked_for() {
    let yaml = "routes: [{ match: { path: /* }, respond: ok }]\n";
    for format in ["json", "logfmt"] {
        let gateway = Gateway::start_with(yaml, &[("EDGEWAY_LOG_FORMAT", format)]).await;
        let stderr = gateway.stderr();
        let logged: Vec<&str> = stderr.lines().filter(|line| !line.is_empty()).collect();
        assert!(!logged.is_empty());
        for line in logged {
            if format == "json" {
                let read: Value = serde_json::from_str(line).expect("it is JSON");
                assert!(read["message"].is_string(), "{line}");
            } else {
                assert!(line.starts_with("time=20"), "{line}");
                assert!(line.contains(" level=info target=edgeway_"), "{line}");
            }
        }
    }
}

/// The fields that the page lists, in its order.
fn documented() -> Vec<String> {
    let page = fs::read_to_string("docs/filters/access_log.md").expect("the page is there");
    let tables = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let named = Regex::new(r"^[a-z_]+`").expect("it is valid");
    let name = Regex::new("`([a-z_]+)`").expect("it is valid");
    let mut found = Vec::new();
    for row in tables.map(|row| format!("`{row}")) {
        let cell = row.split(" |").next().unwrap_or_default();
        if named.is_match(&cell[1..]) {
            found.extend(name.captures_iter(cell).map(|c| c[1].to_owned()));
        }
    }
    found
}

#[test]
fn each_field_is_documented() {
    let documented: BTreeSet<String> = documented().into_iter().collect();
    for name in edgeway::testkit::access_log_fields() {
        assert!(documented.contains(name), "{name} is not documented");
    }
}

fn yaml(path: &str) -> Value {
    let text = fs::read_to_string(path).expect("the file is there");
    let mut diagnostics = Diagnostics::default();
    let read = tree::parse(&text, 0, &mut diagnostics)
        .and_then(|node| tree::read(&node, &mut diagnostics));
    read.expect("it is YAML")
}

/// The samples for collectors of logs name fields that a line has.
#[test]
fn the_samples_for_collectors_name_fields_that_exist() {
    let fields: BTreeSet<&str> = edgeway::testkit::access_log_fields().into_iter().collect();
    let promtail = yaml("deploy/logs/promtail.yaml");
    let stages = &promtail["scrape_configs"][0]["pipeline_stages"];
    let expressions = stages[0]["json"]["expressions"].as_object();
    let named: Vec<&str> = expressions
        .expect("the first stage reads JSON")
        .values()
        .filter_map(Value::as_str)
        .collect();
    assert!(named.len() > 3);
    assert!(named.iter().all(|name| fields.contains(name)), "{named:?}");
    let labels = stages.as_array().expect("a list").iter();
    let labels = labels.filter_map(|stage| stage["labels"].as_object());
    for label in labels.flat_map(serde_json::Map::keys) {
        assert!(fields.contains(label.as_str()), "{label}");
    }
    let vector = yaml("deploy/logs/vector.yaml");
    let source = vector["transforms"]["edgeway_fields"]["source"].as_str();
    let named = Regex::new(r"\.line\.([a-z_]+)").expect("it is valid");
    let source = source.expect("it is a program");
    let named: Vec<String> = named
        .captures_iter(source)
        .map(|found| found[1].to_owned())
        .collect();
    assert!(named.len() > 3, "{source}");
    let missing = named.iter().find(|name| !fields.contains(name.as_str()));
    assert_eq!(missing, None);
}
