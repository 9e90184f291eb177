//! The requests that ended last: the admin API's list and stream, and `edgeway logs`.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use rustix::{
    pipe::fcntl_setpipe_size,
    process::{Pid, Signal, kill_process},
};
use serde_json::Value;

use crate::{
    cli::{Ran, edgeway},
    support::{
        client::{Request, get},
        gateway::Gateway,
        origins::{EchoOrigin, Failure, ResettingOrigin},
        wait::wait_for,
    },
};

const SOON: Duration = Duration::from_secs(10);

/// Starts a gateway whose access log is off on one route, and off as a whole if `is_off`.
async fn front(is_off: bool) -> Gateway {
    let origin = EchoOrigin::start().await;
    let address = origin.address();
    // The origin lives as long as the process.
    Box::leak(Box::new(origin));
    let log = if is_off { "access_log: false\n" } else { "" };
    Gateway::start(&format!(
        "{log}admin: {{ address: 127.0.0.1:0, socket: admin.sock }}
upstreams:
  app: {{ backends: [\"{address}\"], health: false }}
  gone: {{ backends: [\"127.0.0.1:1\"], health: false }}
routes:
  - {{ match: {{ path: /app/* }}, name: app, upstream: app }}
  - {{ match: {{ path: /quiet/* }}, name: quiet, respond: ok, access_log: false }}
  - {{ match: {{ path: /gone/* }}, name: gone, upstream: gone }}
"
    ))
    .await
}

fn logs(gateway: &Gateway, arguments: &[&str]) -> Ran {
    let socket = gateway.admin_socket();
    edgeway(&[&["logs", "--socket", socket], arguments].concat())
}

fn parsed(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).expect("each line is JSON"))
        .collect()
}

fn paths(lines: &[Value]) -> Vec<&str> {
    lines
        .iter()
        .filter_map(|line| line["path"].as_str())
        .collect()
}

/// Returns the paths of requests that are listed in the order of their ends. The requests
/// themselves may be recorded in another order than that in which clients have their responses.
#[track_caller]
fn sorted_paths(lines: &[Value]) -> Vec<&str> {
    let times = lines
        .iter()
        .map(|line| line["time"].as_str().expect("a time"));
    assert!(times.is_sorted(), "{lines:#?}");
    let mut paths = paths(lines);
    paths.sort_unstable();
    paths
}

/// Sorts lines: those of an access log are in the order of threads.
fn by_id(mut lines: Vec<Value>) -> Vec<Value> {
    lines.sort_by_key(|line| line["id"].to_string());
    lines
}

/// Sends a request many times, over connections that each take no more than they may.
async fn flood(gateway: &Gateway, request: &Request, times: usize) {
    const A_CONNECTION: usize = 500;
    for _ in 0..times / A_CONNECTION {
        let mut connection = gateway.connect().await;
        for _ in 0..A_CONNECTION {
            connection.send(request).await.expect("a response");
        }
    }
}

#[tokio::test]
async fn a_listed_request_is_its_line_of_the_access_log() {
    let gateway = front(false).await;
    let sent = get("/app/a%20b?page=2&token=hunter2")
        .header("user-agent", "Mozilla/5.0 \"x\"")
        .header("referer", "https://shop.example.com/?token=hunter2");
    gateway.send(&sent).await;
    gateway.get("/nowhere?code=hunter2").await;
    gateway.get("/gone/x").await;
    let logged = gateway.log_lines(3).await;
    let listed = gateway.admin_get("/v1/requests").await;
    assert_eq!(listed.header("content-type"), Some("application/x-ndjson"));
    assert!(!listed.text().contains("hunter2"), "{}", listed.text());
    assert_eq!(by_id(parsed(&listed.text())), by_id(logged.clone()));
    let errors = parsed(&gateway.admin_get("/v1/requests?errors=true").await.text());
    assert_eq!(paths(&errors), ["/gone/x"]);
    assert_eq!(errors[0]["status"], 502);
}

#[tokio::test]
async fn requests_without_an_access_log_are_listed_without_their_secrets() {
    let gateway = front(true).await;
    gateway.get("/quiet/1?password=hunter2&a=b").await;
    gateway.get("/app/1?session=hunter2").await;
    gateway.get("/nowhere?api_key=hunter2").await;
    let ran = wait_for("all three are recorded", SOON, async || {
        let ran = logs(&gateway, &["--json"]);
        (parsed(&ran.stdout).len() == 3).then_some(ran)
    })
    .await;
    let listed = parsed(&ran.stdout);
    assert_eq!(sorted_paths(&listed), ["/app/1", "/nowhere", "/quiet/1"]);
    let quiet = listed.iter().find(|line| line["path"] == "/quiet/1");
    assert_eq!(quiet.unwrap()["query"], "password=[redacted]&a=b");
    assert!(!ran.stdout.contains("hunter2"), "{}", ran.stdout);
    // A request that the edge refuses has no route, and is listed as well.
    let refused = gateway.send(&Request::new("GET", "/app/%00")).await;
    assert_eq!(refused.status(), 400);
    let listed = wait_for("the refusal is recorded", SOON, async || {
        let listed = parsed(&logs(&gateway, &["--json", "--status", "400"]).stdout);
        listed.into_iter().next()
    })
    .await;
    assert!(listed["reason"].is_string(), "{listed:?}");
}

/// S-87: at most N lines, and of errors only.
#[tokio::test]
async fn errors_outlive_the_traffic_after_them_and_at_most_n_lines_are_printed() {
    let gateway = front(false).await;
    for number in 0..3 {
        gateway.get(&format!("/gone/{number}")).await;
    }
    flood(&gateway, &get("/quiet/x"), 2000).await;
    let errors = logs(&gateway, &["--errors", "--json"]);
    // A client may have its response before the end of the request is recorded.
    assert_eq!(
        sorted_paths(&parsed(&errors.stdout)),
        ["/gone/0", "/gone/1", "/gone/2"]
    );
    for (arguments, expected) in [
        (&["-n", "100", "--errors"][..], 3),
        (&["-n", "2", "--errors"], 2),
        (&["-n", "100"], 100),
        (&["-n", "100", "--route", "gone"], 3),
        (&["-n", "100", "--status", "5xx"], 3),
        (&["-n", "100", "--client", "127.0.0.0/8", "--errors"], 3),
        (&["--client", "192.0.2.1"], 0),
        (&["--slower", "1h"], 0),
    ] {
        let ran = logs(&gateway, arguments);
        let note = match expected {
            0 => "no stored request matches\n",
            _ => "",
        };
        assert_eq!(
            (ran.status, ran.stderr.as_str()),
            (0, note),
            "{arguments:?}"
        );
        assert_eq!(ran.stdout.lines().count(), expected, "{arguments:?}");
    }
    let ran = logs(&gateway, &["--errors"]);
    let row = ran.stdout.lines().next().expect("there is a row");
    let words: Vec<&str> = row.split_whitespace().collect();
    // 503 for those after the backend was ejected.
    assert!(["502", "503"].contains(&words[1]), "{row}");
    assert_eq!(words[3], "gone", "{row}");
    let target = row.rsplit(' ').next().unwrap();
    assert!(target.contains("/gone/"), "{row}");
}

#[tokio::test]
async fn the_list_and_the_stream_are_as_closed_as_actions() {
    let gateway = front(false).await;
    for path in ["/v1/requests", "/v1/requests/stream"] {
        let refused = gateway.send_admin_tcp(&get(path)).await;
        assert_eq!(refused.status(), 403, "{path}");
    }
    let refused = gateway.admin_get("/v1/requests?status=abc").await;
    assert_eq!(refused.status(), 400);
    let message = refused.json()["error"]["message"].to_string();
    assert!(message.contains("invalid status `abc`"), "{message}");
    let refused = gateway.admin_get("/v1/requests/stream?colour=red").await;
    assert_eq!(refused.status(), 400);
}

/// A program that prints lines without end.
struct Printing {
    child: Child,
    lines: Receiver<String>,
}

impl Printing {
    fn of(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let stdout = child.stdout.take().expect("it is a pipe");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let read = BufReader::new(stdout).lines().map_while(Result::ok);
            read.for_each(|line| drop(sender.send(line)));
        });
        Self { child, lines }
    }

    fn following(gateway: &Gateway, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_edgeway"));
        command
            .args([
                "logs",
                "--follow",
                "--json",
                "--socket",
                gateway.admin_socket(),
            ])
            .args(arguments);
        Self::of(command)
    }

    /// Reads until a request for this path is over, and returns the paths before and it.
    async fn read_to(&self, path: &str) -> Vec<String> {
        let mut found = Vec::new();
        wait_for(&format!("{path} is printed"), SOON, async || {
            while let Ok(line) = self.lines.try_recv() {
                let line = line.strip_prefix("data: ").unwrap_or(&line);
                if let Ok(read) = serde_json::from_str::<Value>(line)
                    && let Some(path) = read["path"].as_str()
                {
                    found.push(path.to_owned());
                }
            }
            found.iter().any(|found| found == path).then_some(())
        })
        .await;
        found
    }
}

impl Drop for Printing {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_sees_each_request_once_across_reload_and_upgrade() {
    let mut gateway = front(false).await;
    gateway.get("/app/before").await;
    let follower = Printing::following(&gateway, &["-n", "1"]);
    assert_eq!(follower.read_to("/app/before").await, ["/app/before"]);
    let mut sent = Vec::new();
    let mut seen = Vec::new();
    for round in ["first", "reloaded", "upgraded"] {
        for number in 0..20 {
            let path = format!("/app/{round}/{number}");
            gateway.get(&path).await;
            sent.push(path);
        }
        seen.extend(follower.read_to(sent.last().expect("some were sent")).await);
        match round {
            "first" => {
                gateway.signal(rustix::process::Signal::HUP);
            }
            "reloaded" => {
                gateway.upgrade().await;
            }
            _ => {}
        }
    }
    // A request that ends on another thread may be logged after the next one.
    seen.sort();
    sent.sort();
    assert_eq!(seen, sent);
}

/// A client that is not ours: `curl -N` as in the documentation.
#[tokio::test(flavor = "multi_thread")]
async fn curl_reads_the_stream_and_only_so_many_readers_are_taken() {
    let gateway = front(false).await;
    let curl = || {
        let mut command = Command::new("curl");
        command.args(["-sN", "--unix-socket", gateway.admin_socket()]);
        command.arg("http://localhost/v1/requests/stream?n=5&route=app");
        command
    };
    gateway.get("/app/one").await;
    gateway.get("/quiet/other").await;
    let mut readers = vec![Printing::of(curl())];
    assert_eq!(readers[0].read_to("/app/one").await, ["/app/one"]);
    gateway.get("/app/two").await;
    assert_eq!(readers[0].read_to("/app/two").await, ["/app/two"]);
    readers.extend((1..16).map(|_| Printing::of(curl())));
    for reader in &readers[1..] {
        reader.read_to("/app/two").await;
    }
    let refused = gateway.admin_get("/v1/requests/stream").await;
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.json()["error"]["reason"], "too_many_readers");
    readers.pop();
    // One place is free once the gateway notices that its reader is gone.
    let reader = wait_for("a place is free", SOON, async || {
        let output = Command::new("timeout")
            .args(["2", "curl", "-sN", "--unix-socket", gateway.admin_socket()])
            .arg("http://localhost/v1/requests/stream?n=5")
            .output()
            .expect("curl runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.contains("/app/two").then_some(text)
    })
    .await;
    assert!(reader.contains("id: "), "{reader}");
}

/// A reader that does not read costs the gateway no memory, and hears how many it missed.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_is_too_slow_learns_how_many_it_missed() {
    use std::{io::Read as _, io::Write as _, os::unix::net::UnixStream};
    let gateway = front(false).await;
    let mut slow = UnixStream::connect(gateway.admin_socket()).expect("the socket is there");
    slow.write_all(b"GET /v1/requests/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .expect("the gateway reads");
    let mut first = [0; 1024];
    let length = slow.read(&mut first).expect("the headers come");
    assert!(first[..length].starts_with(b"HTTP/1.1 200 "));
    let agent = "x".repeat(250);
    let path = format!("/quiet/{}", "y".repeat(500));
    let sent = get(&path).header("user-agent", agent.as_str());
    flood(&gateway, &sent, 4000).await;
    slow.set_read_timeout(Some(Duration::from_secs(2)))
        .expect("it takes a timeout");
    let (mut text, mut room) = (Vec::new(), vec![0; 1 << 16]);
    while let Ok(length @ 1..) = slow.read(&mut room) {
        text.extend_from_slice(&room[..length]);
    }
    let text = String::from_utf8_lossy(&text);
    let lines = text.matches("\"path\":").count() as u64;
    let missed: u64 = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: {\"missed\":")?.strip_suffix('}'))
        .map(|missed| missed.parse::<u64>().expect("a number"))
        .sum();
    assert!(missed > 0, "{lines} lines, none missed");
    assert_eq!(lines + missed, 4000);
}

#[tokio::test]
async fn a_response_that_broke_off_is_a_failure_and_one_that_was_asked_for_is_none() {
    let origin = ResettingOrigin::start(Failure::ResetInBody).await;
    let gateway = Gateway::start(&format!(
        "upstreams: {{ app: {{ backends: ['{origin}'], health: false }} }}
routes:
- {{ match: {{ path: /away }}, name: away, respond: {{ maintenance: {{}} }} }}
- {{ match: {{ path: /* }}, name: app, upstream: app, cache: {{}} }}
"
    ))
    .await;
    for turn in 0..10 {
        let target = format!("/broken/{turn}");
        let broken = gateway.connect().await.send(&get(&target)).await;
        assert!(broken.is_err(), "{broken:?}");
        assert_eq!(gateway.get("/away").await.status(), 503);
        let stored = get("/a").header("cache-control", "only-if-cached");
        assert_eq!(gateway.send(&stored).await.status(), 504);
    }
    for option in ["--errors", "--problems"] {
        let ran = wait_for("all are recorded", SOON, async || {
            let ran = parsed(&logs(&gateway, &[option, "--json"]).stdout);
            (ran.len() >= 10).then_some(ran)
        });
        for line in ran.await {
            let listed = (&line["status"], &line["reason"], &line["route"]);
            assert_eq!(
                listed,
                (&200.into(), &"upstream_reset".into(), &"app".into())
            );
        }
    }
    let status = logs_status(&gateway);
    assert!(
        status.contains("route app: 50% of the requests failed"),
        "{status}"
    );
    assert!(!status.contains("route away"), "{status}");
}

/// Returns the problems that `edgeway status` prints.
fn logs_status(gateway: &Gateway) -> String {
    let ran = edgeway(&["status", "--socket", gateway.admin_socket()]);
    let lines = ran.stdout.lines();
    let problems = lines.filter(|line| line.starts_with("error") || line.starts_with("warning"));
    problems.collect::<Vec<_>>().join("\n")
}

/// Gateway that ends with its test.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ended = self.0.kill();
    }
}

/// Returns what the gateway responds at this address.
fn ask(address: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(SOON)).expect("it is a time");
    let request = b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
    stream.write_all(request).expect("it reads");
    let mut response = String::new();
    let read = stream.read_to_string(&mut response);
    read.expect("the connection ends");
    response
}

/// Invariant: nobody has to read stderr for the gateway to serve and to stop.
#[tokio::test]
async fn a_reader_of_stderr_that_stops_stops_nothing_else() {
    let folder = tempfile::tempdir().expect("there is room");
    let file = folder.path().join("edgeway.yaml");
    let yaml = "listeners: [{ address: '127.0.0.1:0' }]\nadmin: false\naccess_log: false\n\
                routes: [{ match: { path: /* }, respond: ok }]\n";
    fs::write(&file, yaml).expect("there is room");
    let gateway = Command::new(env!("CARGO_BIN_EXE_edgeway"))
        .args(["run", "-c"])
        .arg(&file)
        .env("EDGEWAY_LOG", "trace")
        .env("XDG_STATE_HOME", folder.path())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it is built");
    let mut gateway = Started(gateway);
    let mut reader = BufReader::new(gateway.0.stderr.take().expect("it is piped"));
    let address = loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("it is text");
        assert!(!line.is_empty(), "it ended");
        if let Some((_, rest)) = line.split_once("listening listener=")
            && let Some((_, address)) = rest.trim_end().split_once("address=")
        {
            break address.to_owned();
        }
    };
    let least = fcntl_setpipe_size(reader.get_ref(), 4096).expect("it is a pipe");
    for number in 0..200 {
        let response = ask(&address);
        assert!(response.starts_with("HTTP/1.1 200"), "{number}: {response}");
    }
    kill_process(Pid::from_child(&gateway.0), Signal::TERM).expect("it runs");
    wait_for("it stops", SOON, async || {
        gateway.0.try_wait().expect("it is ours")
    })
    .await;
    // The control: not all lines had room.
    let mut rest = Vec::new();
    let buffered = reader.buffer().len();
    reader.read_to_end(&mut rest).expect("it has ended");
    assert!(rest.len() - buffered <= least, "{}", rest.len());
}
