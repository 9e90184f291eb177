//! Requests that are odd and sound: each passes, and arrives with its meaning unchanged.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{
    PATIENCE, exchange, gateway_before,
    recorder::{Reading, Recorder, Request},
    statuses,
};

/// Requests to send, and the bodies of the requests that should arrive. All of them end the
/// connection themselves.
#[allow(clippy::too_many_lines, reason = "a list, each of its lines by itself")]
fn cases() -> Vec<(&'static str, String, Vec<&'static str>)> {
    const END: &str = "GET /end HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
    let get =
        |lines: &str| format!("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n{lines}\r\n");
    let post = |lines: &str, body: &str| {
        format!("POST / HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n{body}{END}")
    };
    let chunked = |body: &str| post("Transfer-Encoding: chunked\r\n", body);
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let cookie = format!("Cookie: {}\r\n", "a=b; ".repeat(1500));
    let many = "X: y\r\n".repeat(100);
    vec![
        ("plain", get(""), vec![""]),
        (
            "two in one write",
            format!("{}{END}", get("").replace("Connection: close\r\n", "")),
            vec!["", ""],
        ),
        ("an empty line first", format!("\r\n{}", get("")), vec![""]),
        (
            "an empty line between",
            format!(
                "{}\r\n{END}",
                post("Content-Length: 2\r\n", "ab").replace(END, "")
            ),
            vec!["ab", ""],
        ),
        ("HTTP/1.0", "GET / HTTP/1.0\r\n\r\n".to_owned(), vec![""]),
        (
            "HTTP/1.0 with a host",
            "GET / HTTP/1.0\r\nHost: a.test\r\n\r\n".to_owned(),
            vec![""],
        ),
        (
            "HTTP/1.0 that stays",
            format!("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n{END}"),
            vec!["", ""],
        ),
        ("a long head", get(&cookie), vec![""]),
        ("a hundred headers", get(&many), vec![""]),
        (
            "h2c, which nobody needs to speak",
            get("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n"),
            vec![""],
        ),
        (
            "a protocol that the connection does not go with",
            post("Upgrade: websocket\r\nContent-Length: 2\r\n", "ab"),
            vec!["ab", ""],
        ),
        ("an empty value", get("X:\r\n"), vec![""]),
        ("spaces around a value", get("X: \t y \t\r\n"), vec![""]),
        ("no space before a value", get("X:y\r\n"), vec![""]),
        (
            "a value beyond ASCII",
            get("X: \u{e9}\u{20ac}\r\n"),
            vec![""],
        ),
        (
            "every byte that a name may have",
            get("!#$%&'*+-.^`|~09aZ: y\r\n"),
            vec![""],
        ),
        (
            "a host with a port",
            get("").replace("a.test", "a.test:8080"),
            vec![""],
        ),
        ("an IPv6 host", get("").replace("a.test", "[::1]"), vec![""]),
        (
            "an IPv6 host with a port",
            get("").replace("a.test", "[2001:db8::1]:8080"),
            vec![""],
        ),
        (
            "a host in capitals with a dot",
            get("").replace("a.test", "A.TEST."),
            vec![""],
        ),
        (
            "the host in the target too",
            get("").replace("GET /", "GET http://a.test/x?y"),
            vec![""],
        ),
        ("`*`", get("").replace("GET /", "OPTIONS *"), vec![""]),
        (
            "a method that few know",
            get("").replace("GET", "M-SEARCH"),
            vec![""],
        ),
        (
            "bytes that browsers leave unencoded",
            get("").replace("GET /", "GET /[a]|{b}^?c=[d]|`e`"),
            vec![""],
        ),
        (
            "a GET with a body",
            get("Content-Length: 2\r\n") + "ab",
            vec!["ab"],
        ),
        (
            "CL.0: a body that looks like a request",
            post(&format!("Content-Length: {}\r\n", smuggled.len()), smuggled),
            vec!["GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n", ""],
        ),
        (
            "an upload in chunks",
            chunked("2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n"),
            vec!["abcde", ""],
        ),
        (
            "chunks with extensions",
            chunked("2;a=b;c=\"d e\"\r\nab\r\n0;last\r\n\r\n"),
            vec!["ab", ""],
        ),
        (
            "chunks with a trailer",
            chunked("2\r\nab\r\n0\r\nX-Sum: 1\r\nContent-Length: 9\r\n\r\n"),
            vec!["ab", ""],
        ),
        (
            "sizes with zeros and capitals",
            chunked("00A\r\n0123456789\r\n000\r\n\r\n"),
            vec!["0123456789", ""],
        ),
        ("chunks without data", chunked("0\r\n\r\n"), vec!["", ""]),
        (
            "chunked in capitals",
            post("transfer-encoding: CHUNKED\r\n", "2\r\nab\r\n0\r\n\r\n"),
            vec!["ab", ""],
        ),
        (
            "a length of zero",
            post("Content-Length: 0\r\n", ""),
            vec!["", ""],
        ),
        (
            "names with underscores",
            post(
                "Transfer_Encoding: chunked\r\nX_Y: z\r\nContent-Length: 2\r\nContent_Length: 9\r\n",
                "ab",
            ),
            vec!["ab", ""],
        ),
        (
            "an upgrade that is dropped",
            get("")
                .replace("close", "close, upgrade")
                .replace("\r\n\r\n", "\r\nUpgrade: foo/1\r\n\r\n"),
            vec![""],
        ),
        (
            "cookies on two lines",
            get("Cookie: a=b\r\nCookie: c=d\r\n"),
            vec![""],
        ),
    ]
}

fn arrived(origin: &Recorder) -> Vec<Request> {
    let seen = origin.take();
    let requests = seen.iter().flat_map(|bytes| {
        let reading = Reading::of(bytes).expect("it can be read in one way");
        assert!(!reading.is_cut);
        reading.requests
    });
    requests.collect()
}

#[tokio::test]
async fn an_odd_but_valid_request_passes() {
    let origin = Recorder::start().await;
    let gateway = gateway_before(origin.address(), "").await;
    for (name, raw, bodies) in cases() {
        let response = exchange(gateway.address(), raw.as_bytes()).await;
        let expected: Vec<u16> = bodies.iter().map(|_| 200).collect();
        let shown = String::from_utf8_lossy(&response);
        assert_eq!(statuses(&response), expected, "{name}: {shown}");
        let requests = arrived(&origin);
        let mut found: Vec<_> = requests
            .iter()
            .map(|r| r.body.escape_ascii().to_string())
            .collect();
        let mut expected: Vec<_> = bodies
            .iter()
            .map(|b| b.escape_default().to_string())
            .collect();
        // Two requests of a client may take two connections to the origin.
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{name}");
        for request in requests {
            let has_underscore = request.headers.iter().any(|(name, _)| name.contains('_'));
            assert!(!has_underscore, "{name}: {:?}", request.headers);
        }
    }
}

#[tokio::test]
async fn a_request_that_comes_byte_by_byte_is_the_same_request() {
    let origin = Recorder::start().await;
    let gateway = gateway_before(origin.address(), "").await;
    let raw = "POST /x HTTP/1.1\r\nHost: a.test\r\nX_Y: z\r\nTransfer-Encoding: chunked\r\n\r\n\
               2;e\r\nab\r\n0\r\nT: u\r\n\r\nGET /y HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
    let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in raw.as_bytes() {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut response = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut response))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(statuses(&response), [200, 200]);
    let requests = arrived(&origin);
    let seen: Vec<_> = requests
        .iter()
        .map(|r| (r.target.as_str(), r.body.as_slice()))
        .collect();
    assert_eq!(seen, [("/x", b"ab".as_slice()), ("/y", b"")]);

    // Split in two at every byte.
    for at in 1..raw.len() {
        let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(&raw.as_bytes()[..at]).await.unwrap();
        tokio::task::yield_now().await;
        stream.write_all(&raw.as_bytes()[at..]).await.unwrap();
        let mut response = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut response))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(statuses(&response), [200, 200], "{at}");
        assert_eq!(arrived(&origin).len(), 2, "{at}");
    }
}

#[tokio::test]
async fn the_bytes_after_a_valid_request_are_scanned_by_themselves() {
    let origin = Recorder::start().await;
    let gateway = gateway_before(origin.address(), "").await;
    let raw = "POST /first HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nab\
               GET /second HTTP/1.1\r\nHost : a.test\r\n\r\nGET /third HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let response = exchange(gateway.address(), raw.as_bytes()).await;
    assert_eq!(statuses(&response), [200, 400]);
    let targets: Vec<_> = arrived(&origin).into_iter().map(|r| r.target).collect();
    assert_eq!(targets, ["/first"]);
}

#[tokio::test]
async fn underscores_pass_or_are_refused_where_a_listener_says_so() {
    let raw = b"GET / HTTP/1.1\r\nHost: a.test\r\nX_Y: z\r\nConnection: close\r\n\r\n";
    for (policy, status, count) in [("allow", 200, 1), ("refuse", 400, 0), ("drop", 200, 0)] {
        let origin = Recorder::start().await;
        let listener = format!("underscores: {policy}");
        let gateway = gateway_before(origin.address(), &listener).await;
        let response = exchange(gateway.address(), raw).await;
        assert_eq!(statuses(&response), [status], "{policy}");
        let seen: usize = arrived(&origin).iter().map(|r| r.values("x_y").len()).sum();
        assert_eq!(seen, count, "{policy}");
    }
}
