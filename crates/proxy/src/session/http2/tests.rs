//! Responses as a client of `h2` reads them.

use std::{
    future::poll_fn,
    sync::atomic::{AtomicUsize, Ordering},
};

use http::Request;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinSet,
};

use super::*;

const DATE: HeaderValue = HeaderValue::from_static("Tue, 24 Nov 2026 20:20:20 GMT");
const SEND_TIMEOUT: Duration = Duration::from_millis(50);

type Client = h2::client::SendRequest<Bytes>;

/// Connects a client with this window to a server that serves each of its streams with `serve`.
async fn connect<F: Future<Output = ()> + Send + 'static>(
    window: u32,
    serve: impl Fn(Http2Stream) -> F + Send + 'static,
) -> (Client, JoinSet<()>) {
    let (client, server) = tokio::io::duplex(1 << 16);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut streams = JoinSet::new();
        let mut options = h2::server::Builder::new();
        options.max_send_buffer_size(SEND_BUFFER);
        let mut connection = options.handshake::<_, Bytes>(server).await.unwrap();
        while let Some(Ok((request, respond))) = connection.accept().await {
            let (request, body) = request.into_parts();
            let stream = Http2Stream::new(respond, body, &request.headers, SEND_TIMEOUT);
            streams.spawn(serve(stream));
        }
    });
    let mut options = h2::client::Builder::new();
    options.initial_window_size(window);
    let (send, connection) = options.handshake(client).await.unwrap();
    tasks.spawn(async move { drop(connection.await) });
    (send, tasks)
}

async fn get(client: &mut Client) -> Result<Response<RecvStream>, h2::Error> {
    let request = Request::get("https://a.test/").body(()).unwrap();
    let mut ready = client.clone().ready().await?;
    ready.send_request(request, true)?.0.await
}

async fn write(stream: &mut Http2Stream, mut piece: Bytes, is_last: bool) -> Result<()> {
    poll_fn(|cx| stream.poll_write(cx, &mut piece, is_last)).await
}

fn head(status: u16, headers: &[(&'static str, &str)]) -> ResponseHeader {
    let mut head = ResponseHeader::build_no_case(status, None).unwrap();
    for (name, value) in headers {
        head.append_header(*name, *value).unwrap();
    }
    head
}

fn values<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    let values = headers.get_all(name).iter();
    values.map(|value| value.to_str().unwrap()).collect()
}

#[tokio::test]
async fn headers_of_connections_are_removed_and_ready_lines_added() {
    let lines: Arc<[u8]> = Arc::from(&b"vary: b\r\nx-frame-options: DENY\r\n"[..]);
    let (mut client, _tasks) = connect(65_535, move |mut stream| {
        let lines = ReadyLines::Given(Arc::clone(&lines));
        async move {
            let headers = [
                ("connection", "x-a"),
                ("keep-alive", "5"),
                ("proxy-connection", "close"),
                ("te", "gzip"),
                ("transfer-encoding", "chunked"),
                ("upgrade", "h2c"),
                ("vary", "a"),
            ];
            let sent = stream.response(head(404, &headers), &lines, DATE, true);
            sent.unwrap();
        }
    })
    .await;
    // Twice: the second response has the lines that were parsed for the first one.
    for _ in 0..2 {
        let response = get(&mut client).await.unwrap();
        assert_eq!(response.status(), 404);
        assert!(
            response.body().is_end_stream(),
            "no frame after the headers"
        );
        let headers = response.headers();
        assert_eq!(values(headers, "vary"), ["a", "b"]);
        assert_eq!(values(headers, "x-frame-options"), ["DENY"]);
        assert_eq!(values(headers, "date"), [DATE]);
        assert_eq!(headers.len(), 4, "{headers:?}");
    }
}

#[tokio::test]
async fn the_date_of_another_server_is_kept() {
    let (mut client, _tasks) = connect(65_535, |mut stream| async move {
        let head = head(200, &[("date", "Mon, 01 Jan 2024 00:00:00 GMT")]);
        let sent = stream.response(head, &ReadyLines::NotTaken, DATE, true);
        sent.unwrap();
    })
    .await;
    let response = get(&mut client).await.unwrap();
    let dates = values(response.headers(), "date");
    assert_eq!(dates, ["Mon, 01 Jan 2024 00:00:00 GMT"]);
}

#[tokio::test]
async fn interim_responses_come_before_the_final_one() {
    let (mut client, _tasks) = connect(65_535, |mut stream| async move {
        let hints = [
            ("link", "</a.css>"),
            ("content-length", "5"),
            ("connection", "a"),
        ];
        stream.interim(&head(103, &hints)).unwrap();
        stream.interim(&head(101, &[])).unwrap();
        let sent = stream.response(head(204, &[]), &ReadyLines::NotTaken, DATE, true);
        sent.unwrap();
        // Too late.
        stream.interim(&head(103, &[])).unwrap();
    })
    .await;
    let request = Request::get("https://a.test/").body(()).unwrap();
    let (mut response, _) = client.send_request(request, true).unwrap();
    let interim = poll_fn(|cx| response.poll_informational(cx)).await;
    let interim = interim.unwrap().unwrap();
    assert_eq!(interim.status(), 103);
    assert_eq!(values(interim.headers(), "link"), ["</a.css>"]);
    assert_eq!(interim.headers().len(), 1, "{:?}", interim.headers());
    assert_eq!(response.await.unwrap().status(), 204);
}

#[tokio::test]
async fn a_body_is_sent_in_frames_that_fit_into_records() {
    for length in [1, DATA, DATA + 1, 100_000, 1_000_000] {
        let (mut client, _tasks) = connect(1 << 20, move |mut stream| async move {
            let sent = stream.response(head(200, &[]), &ReadyLines::NotTaken, DATE, false);
            sent.unwrap();
            let piece = Bytes::from(vec![b'b'; length]);
            write(&mut stream, piece, false).await.unwrap();
            write(&mut stream, Bytes::new(), true).await.unwrap();
        })
        .await;
        let mut body = get(&mut client).await.unwrap().into_body();
        let mut received = 0;
        while let Some(piece) = body.data().await {
            let piece = piece.unwrap();
            assert!(piece.len() <= DATA, "{}", piece.len());
            body.flow_control().release_capacity(piece.len()).unwrap();
            received += piece.len();
        }
        assert_eq!(received, length);
    }
}

#[tokio::test]
async fn a_client_that_does_not_open_its_window_is_given_up() {
    static FAILED: AtomicUsize = AtomicUsize::new(0);
    let (mut client, _tasks) = connect(1000, |mut stream| async move {
        let sent = stream.response(head(200, &[]), &ReadyLines::NotTaken, DATE, false);
        sent.unwrap();
        let written = write(&mut stream, Bytes::from(vec![b'b'; 5000]), true).await;
        let error = written.unwrap_err();
        assert_eq!(error.etype(), &ErrorType::WriteTimedout);
        FAILED.fetch_add(1, Ordering::Relaxed);
    })
    .await;
    let mut body = get(&mut client).await.unwrap().into_body();
    let mut received = 0;
    // The stream is reset.
    let reset = loop {
        match body.data().await.unwrap() {
            Ok(piece) => received += piece.len(),
            Err(error) => break error,
        }
    };
    assert_eq!((received, reset.reason()), (1000, Some(h2::Reason::CANCEL)));
    assert_eq!(FAILED.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn what_is_left_of_a_request_is_read_as_the_client_sends_it() {
    let (mut client, _tasks) = connect(65_535, |mut stream| async move {
        assert!(!stream.is_body_done());
        while !stream.is_body_done() {
            poll_fn(|cx| stream.poll_piece(cx)).await.unwrap();
        }
        assert!(stream.is_body_done());
        let sent = stream.response(head(200, &[]), &ReadyLines::NotTaken, DATE, true);
        sent.unwrap();
    })
    .await;
    let request = Request::post("https://a.test/").body(()).unwrap();
    let (response, mut body) = client.send_request(request, false).unwrap();
    // More than the windows: what was read is given back.
    let mut left = Bytes::from(vec![b'b'; 1 << 20]);
    while !left.is_empty() {
        body.reserve_capacity(left.len());
        let room = poll_fn(|cx| body.poll_capacity(cx)).await.unwrap().unwrap();
        let part = left.split_to(room.min(left.len()));
        body.send_data(part, left.is_empty()).unwrap();
    }
    assert_eq!(response.await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_client_that_resets_its_stream_is_gone() {
    let (done, is_done) = tokio::sync::oneshot::channel();
    let done = parking_lot::Mutex::new(Some(done));
    let (mut client, _tasks) = connect(65_535, move |mut stream| {
        let done = done.lock().take().unwrap();
        async move {
            let error = poll_fn(|cx| stream.poll_gone(cx)).await;
            done.send(error.to_string()).unwrap();
        }
    })
    .await;
    let request = Request::get("https://a.test/").body(()).unwrap();
    let (response, _) = client.send_request(request, true).unwrap();
    drop(response);
    let error = is_done.await.unwrap();
    assert!(error.contains(GONE), "{error}");
}

#[test]
fn streams_can_be_shared() {
    fn is_shared<T: Send + Sync + 'static>() {}
    is_shared::<Http2Stream>();
}

/// The control of the frames' length: one of them with its header is a record.
#[tokio::test]
async fn a_frame_with_its_header_has_the_length_of_a_record() {
    let (mut client, mut server) = tokio::io::duplex(1 << 17);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    client.write_all(preface).await.unwrap();
    // GET https://a.test/
    let block = b"\0\0\x0b\x01\x05\0\0\0\x01\x82\x87\x84\x41\x06a.test";
    let mut block = block.to_vec();
    block[2] = u8::try_from(block.len() - 9).unwrap();
    client.write_all(&block).await.unwrap();
    let mut connection = h2::server::handshake(&mut server).await.unwrap();
    let (request, respond) = connection.accept().await.unwrap().unwrap();
    let (request, body) = request.into_parts();
    let mut stream = Http2Stream::new(respond, body, &request.headers, SEND_TIMEOUT);
    let sent = stream.response(head(200, &[]), &ReadyLines::NotTaken, DATE, false);
    sent.unwrap();
    let body = Bytes::from(vec![b'b'; 40_000]);
    write(&mut stream, body, true).await.unwrap();
    drop(stream);
    let mut bytes = Vec::new();
    let read = async {
        while client
            .read_buf(&mut bytes)
            .await
            .is_ok_and(|count| count > 0)
        {}
    };
    let served = poll_fn(|cx| connection.poll_closed(cx));
    let ended = tokio::time::timeout(SEND_TIMEOUT, futures_util::future::join(read, served));
    drop(ended.await);
    let mut lengths = Vec::new();
    let mut rest = &bytes[..];
    while let [a, b, c, kind, ..] = *rest {
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        if kind == 0 {
            lengths.push(9 + length);
        }
        rest = &rest[9 + length..];
    }
    assert_eq!(lengths, [16_384, 16_384, 9 + 40_000 - 2 * DATA]);
}
