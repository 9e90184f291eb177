//! Clients that read slowly, or not at all, or disconnect: their effect on other readers of the
//! same response, and on requests that wait for a backend.

use std::{net::SocketAddr, time::Duration};

use tokio::{io::AsyncWriteExt, time::timeout};

use crate::support::{
    client::{Connection, get, narrow},
    front::Front,
    gateway::Gateway,
    http2,
    origins::{BigOrigin, PresetOrigin},
    wait::wait_for,
};

/// Far less than `send_timeout`.
const SOON: Duration = Duration::from_secs(15);
/// More than the kernel and the gateway hold for a client that does not read, and not too
/// large to be stored.
const LARGE: usize = 7_800_000;
/// Too large to be stored.
const TOO_LARGE: usize = 20_000_000;
const WHY: &str = "a client that does not read is the subject";

async fn front(origin: SocketAddr, upstream: &str) -> Gateway {
    Front::to(origin)
        .http2()
        .upstream(&format!("health: false{upstream}"))
        .route("cache: { ttl: 1h, force: true }")
        .start()
        .await
}

#[tokio::test]
async fn a_client_that_does_not_read_delays_no_other_reader() {
    let origin = BigOrigin::start().await;
    for framing in ["", "&chunked=1"] {
        let gateway = front(origin.address(), "").await;
        let target = format!("/?bytes={LARGE}{framing}");
        let mut idle = Connection::over(narrow(gateway.address()).await, "app.test".to_owned());
        let request = get(&target).header("host", "app.test");
        let head = idle.start(&request).await.expect("it answers");
        assert_eq!(head.header("x-cache-status"), Some("MISS"));
        let reading = timeout(SOON, gateway.send(&request)).await;
        let read = reading.expect("it is not held up");
        assert_eq!(read.header("x-cache-status"), Some("HIT"));
        assert_eq!(read.body.len(), LARGE, "{framing}");
        // The other client has lost nothing.
        let whole = idle.finish(head).await.expect("the remainder is there");
        assert_eq!(whole.body, read.body);
    }
}

#[tokio::test]
async fn a_stream_without_a_window_delays_no_other_reader() {
    let origin = PresetOrigin::start().await;
    let minute = vec![("cache-control".to_owned(), "max-age=60".to_owned())];
    origin.settings().tell("/a", 200, minute);
    origin.settings().hold("/a");
    let gateway = front(origin.address(), "").await;
    let mut idle = http2::Frames::connect(gateway.address()).await;
    // RFC 9113, 6.5.2: SETTINGS_INITIAL_WINDOW_SIZE.
    let no_room = [0, 4, 0, 0, 0, 0];
    let begin = [
        http2::PREFACE.to_vec(),
        http2::frame(http2::SETTINGS, 0, 0, &no_room),
        http2::frame(
            http2::HEADERS,
            http2::END_HEADERS | http2::END_STREAM,
            1,
            &http2::block("GET", "/a"),
        ),
    ];
    idle.write(&begin.concat()).await.expect("it reads");
    idle.until(http2::HEADERS).await.expect("it answers");
    let mut reading = gateway.connect().await;
    let request = get("/a").header("host", "app.test");
    let head = reading.start(&request).await.expect("it answers");
    assert_eq!(head.header("x-cache-status"), Some("HIT"));
    origin.settings().release("/a");
    let whole = timeout(SOON, reading.finish(head)).await;
    let whole = whole.expect("it is not held up").expect("it is whole");
    assert_eq!(whole.text(), "/a #1");
    // With a window it gets the complete response.
    let room = http2::frame(http2::WINDOW_UPDATE, 0, 1, &100u32.to_be_bytes());
    idle.write(&room).await.expect("it reads");
    let mut body = Vec::new();
    loop {
        let frame = idle.until(http2::DATA).await.expect("it goes on");
        body.extend_from_slice(&frame.payload);
        if frame.flags & http2::END_STREAM != 0 {
            break;
        }
    }
    assert_eq!(body, b"/a #1");
    assert_eq!(origin.settings().asked("/a").len(), 1);
    let lines = gateway.log_lines(2).await;
    for line in lines {
        assert_eq!(line["bytes_out"], 5, "{line:#}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_an_unstored_response_returns_its_permit() {
    const PLACES: usize = 4;
    let origin = BigOrigin::start().await;
    let bounds = format!(", max_in_flight: {{ per_backend: {PLACES}, queue: 4, wait: 200ms }}");
    for is_http2 in [false, true] {
        let gateway = front(origin.address(), &bounds).await;
        for client in 0..PLACES {
            let target = format!("/?bytes={TOO_LARGE}&client={client}");
            if is_http2 {
                let client = http2::Client::open(gateway.address()).await;
                let begun = client.begin(http2::request("GET", &target), true).await;
                let (response, _) = begun.expect("it reads");
                let (_, mut body) = response.await.expect("it answers").into_parts();
                http2::next(&mut body).await.expect("it goes on");
                // The connection closes when the client is dropped.
            } else {
                let mut leaving = gateway.connect().await;
                leaving.start(&get(&target)).await.expect("it answers");
                leaving.piece().await.expect("it goes on");
                drop(leaving.leave("leaving is the subject"));
            }
        }
        wait_for("a place is free again", SOON, async || {
            let page = gateway.get("/?bytes=10").await;
            (page.status() == 200).then_some(())
        })
        .await;
        let mut left = 0;
        for line in gateway.log_lines(PLACES + 1).await {
            if line["path"]
                .as_str()
                .is_some_and(|path| path.contains("client="))
                || line["reason"] == "client_gone"
            {
                left += 1;
                assert_eq!(line["reason"], "client_gone", "{line:#}");
                assert_eq!(line["status"], 200, "{line:#}");
            }
        }
        assert!(left >= 1, "they are logged");
        assert!(
            !gateway.stderr().contains("internal"),
            "{}",
            gateway.stderr()
        );
    }
}

#[tokio::test]
async fn a_client_closed_for_not_reading_a_stored_response_is_logged() {
    let origin = BigOrigin::start().await;
    let gateway = Front::to(&origin)
        .listener("http2: { cleartext: true }, limits: { send_timeout: 1s }")
        .route("cache: { ttl: 1h, force: true }")
        .start()
        .await;
    let plain = {
        let stream = narrow(gateway.address()).await;
        let mut idle = Connection::over(stream, "app.test".to_owned());
        let target = format!("/?bytes={LARGE}&plain=1");
        idle.start(&get(&target)).await.expect("it answers");
        idle.leave(WHY)
    };
    let mut stream = narrow(gateway.address()).await;
    let target = format!("/?bytes={LARGE}");
    let begin = [
        http2::PREFACE.to_vec(),
        http2::frame(http2::SETTINGS, 0, 0, b""),
        http2::frame(
            http2::HEADERS,
            http2::END_HEADERS | http2::END_STREAM,
            1,
            &http2::block("GET", &target),
        ),
    ];
    stream.write_all(&begin.concat()).await.expect("it reads");
    for line in gateway.log_lines(2).await {
        assert_eq!(line["reason"], "send_timeout", "{line:#}");
        assert_eq!(line["status"], 200, "{line:#}");
    }
    drop((plain, stream));
}
