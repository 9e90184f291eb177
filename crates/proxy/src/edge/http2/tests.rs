//! Header blocks and frames, read by the client of `h2`.

use std::{
    io::IoSlice,
    sync::Arc,
    task::{Context, Waker},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    task::JoinSet,
};

use super::*;
use crate::connection::response_queue::{ResponseHeaders, ResponseQueue};

const DATE: &str = "Tue, 24 Nov 2026 20:20:20 GMT";

/// Owners of the client's table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tables {
    /// The writer alone.
    One,
    /// The writer and `h2`.
    Two,
}

/// Response as a test draws it.
#[derive(Clone, Debug)]
struct Drawn {
    status: u16,
    fields: Vec<(String, Vec<u8>, bool)>,
    ready: Option<usize>,
    body: usize,
}

fn ready_sets() -> [Arc<[u8]>; 3] {
    [
        Arc::from(&b"x-frame-options: DENY\r\nreferrer-policy: no-referrer\r\n"[..]),
        Arc::from(&b"strict-transport-security: max-age=1\r\nvary: a\r\nx-long: "[..]),
        Arc::from(&b""[..]),
    ]
    .map(|lines: Arc<[u8]>| {
        if lines.ends_with(b": ") {
            Arc::from([&lines, &[b'x'; 700][..], b"\r\n"].concat())
        } else {
            lines
        }
    })
}

fn drawn() -> impl Strategy<Value = Drawn> {
    let name = prop_oneof![
        "(content-type|content-range|etag|set-cookie|cache-control|x-powered|server|te)",
        "(connection|keep-alive|transfer-encoding|upgrade|proxy-connection|date)",
        "x-[a-c]{1,2}",
    ];
    let value = prop_oneof![
        prop::sample::select(vec![b"a".to_vec(), b"text/html".to_vec(), Vec::new()]),
        prop::collection::vec(prop_oneof![32u8..127, 128u8..=255], 1..60).prop_map(|mut value| {
            // `h2` as a client refuses what a server must not send.
            for end in [0, value.len() - 1] {
                value[end] = b'v';
            }
            value
        }),
        (100usize..5000).prop_map(|length| vec![b'l'; length]),
    ];
    let field = (name, value, prop::bool::weighted(0.1));
    (
        prop::sample::select(vec![200u16, 204, 206, 304, 400, 404, 418, 500, 503]),
        prop::collection::vec(field, 0..12),
        prop::option::of(0usize..3),
        prop_oneof![Just(0usize), 1usize..600, Just(40_000)],
    )
        .prop_map(|(status, fields, ready, body)| Drawn {
            status,
            fields,
            ready,
            body: if matches!(status, 204 | 304) { 0 } else { body },
        })
}

/// Names that belong to a connection, and `Date`, which the response has already.
fn is_omitted(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "transfer-encoding"
            | "upgrade"
            | "proxy-connection"
            | "date"
            | "te"
    )
}

/// Headers that the client must see, each line in its order.
fn expected(drawn: &Drawn, ready: &[Arc<[u8]>]) -> Vec<(String, Vec<u8>)> {
    let mut all = vec![("date".to_owned(), DATE.as_bytes().to_vec())];
    if let Some(set) = drawn.ready {
        let text = std::str::from_utf8(&ready[set]).unwrap();
        all.extend(text.lines().map(|line| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.to_owned(), value.as_bytes().to_vec())
        }));
    }
    let fields = drawn.fields.iter().filter(|field| !is_omitted(&field.0));
    all.extend(fields.map(|(name, value, _)| (name.clone(), value.clone())));
    all.sort();
    all
}

fn headers(drawn: &Drawn, ready: &[Arc<[u8]>]) -> Box<ResponseHeaders> {
    let mut headers = HeaderMap::new();
    for (name, value, is_sensitive) in &drawn.fields {
        let mut value = HeaderValue::from_bytes(value).unwrap();
        value.set_sensitive(*is_sensitive);
        headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value);
    }
    Box::new(ResponseHeaders {
        status: StatusCode::from_u16(drawn.status).unwrap(),
        date: HeaderValue::from_static(DATE),
        headers,
        lines: drawn.ready.map(|set| Arc::clone(&ready[set])),
    })
}

/// Passes what `h2` writes through the writer, in pieces of these lengths.
async fn copy_out(
    mut from: tokio::io::ReadHalf<DuplexStream>,
    to: Arc<tokio::sync::Mutex<tokio::io::WriteHalf<DuplexStream>>>,
    writer: Arc<parking_lot::Mutex<FrameWriter>>,
    queue: Arc<ResponseQueue>,
    pieces: Vec<usize>,
) {
    let mut pieces = pieces.into_iter().cycle();
    loop {
        let mut buffer = vec![0; pieces.next().unwrap_or(100)];
        let count = from.read(&mut buffer).await.unwrap_or(0);
        if count == 0 {
            return;
        }
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            let mut sent = Vec::new();
            {
                let mut writer = writer.lock();
                let long = writer.passes(rest);
                if long > 0 {
                    sent.extend_from_slice(writer.output());
                    let length = writer.output().len();
                    writer.sent(length);
                    sent.extend_from_slice(&rest[..long]);
                    writer.passed(long);
                    rest = &rest[long..];
                } else {
                    let cx = Context::from_waker(Waker::noop());
                    let taken = writer.take(rest, &queue, &cx);
                    rest = &rest[taken..];
                    sent.extend_from_slice(writer.output());
                    let length = writer.output().len();
                    writer.sent(length);
                }
            }
            if to.lock().await.write_all(&sent).await.is_err() {
                // The other end has ended: what it read counts.
                return;
            }
            if !rest.is_empty() {
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Passes what the client writes to `h2`, with its settings changed.
async fn copy_in(
    mut from: tokio::io::ReadHalf<DuplexStream>,
    mut to: tokio::io::WriteHalf<DuplexStream>,
    writer: Arc<parking_lot::Mutex<FrameWriter>>,
    limits: FrameLimits,
    pieces: Vec<usize>,
    tables: Tables,
) {
    let mut frames = crate::edge::frames::Frames::default();
    let mut has_settings = tables == Tables::Two;
    let mut pieces = pieces.into_iter().cycle();
    loop {
        if !has_settings && frames.is_open() {
            has_settings = true;
            if to.write_all(&FIRST_SETTINGS).await.is_err() {
                return;
            }
        }
        // The preface is read on its own, as `h2` does.
        let most = pieces.next().unwrap_or(100);
        let mut buffer = vec![0; if frames.is_open() { most } else { 24 }];
        let count = if frames.is_open() {
            from.read(&mut buffer).await
        } else {
            from.read_exact(&mut buffer).await
        };
        let count = count.unwrap_or(0);
        if count == 0 {
            return;
        }
        let buffer = &mut buffer[..count];
        frames.feed(buffer, &limits, 1).unwrap();
        for found in frames.found() {
            use crate::edge::frames::FoundFrame;
            match found {
                FoundFrame::Settings { .. } if tables == Tables::Two => {}
                FoundFrame::Settings { at, offset } => {
                    writer.lock().settings(&mut buffer[at], offset);
                }
                FoundFrame::EndOfSettings => writer.lock().end_settings(),
                FoundFrame::Reset(_) => {}
            }
        }
        if to.write_all(buffer).await.is_err() {
            return;
        }
    }
}

/// Sends the drawn responses through a server of `h2` and the writer, and compares what a client of
/// `h2` sees. Every `own`th response is one of `h2`'s own.
async fn check(
    responses: Vec<Drawn>,
    pieces: Vec<usize>,
    table: Option<u32>,
    own: usize,
    tables: Tables,
) -> Result<(), TestCaseError> {
    let ready = ready_sets();
    let (client, edge_client) = tokio::io::duplex(1 << 16);
    let (edge_server, server) = tokio::io::duplex(1 << 16);
    let (from_client, to_client) = tokio::io::split(edge_client);
    let (from_server, to_server) = tokio::io::split(edge_server);
    let writer = Arc::new(parking_lot::Mutex::new(FrameWriter::default()));
    let queue = Arc::new(ResponseQueue::default());
    let limits = frame_limits(&Listener::test());
    let mut tasks = JoinSet::new();
    tasks.spawn(copy_in(
        from_client,
        to_server,
        Arc::clone(&writer),
        limits,
        pieces.clone(),
        tables,
    ));
    tasks.spawn(copy_out(
        from_server,
        Arc::new(tokio::sync::Mutex::new(to_client)),
        Arc::clone(&writer),
        Arc::clone(&queue),
        pieces,
    ));
    let (drawn_responses, sets) = (responses.clone(), ready.clone());
    let on_server = Arc::clone(&queue);
    tasks.spawn(async move {
        let mut connection: server::Connection<_, Bytes> = server::handshake(server).await.unwrap();
        let mut drawn_responses = drawn_responses.iter().enumerate();
        while let Some(accepted) = connection.accept().await {
            let Ok((_, mut respond)) = accepted else {
                return;
            };
            let (index, drawn) = drawn_responses.next().unwrap();
            let response = headers(drawn, &sets);
            let is_last = drawn.body == 0;
            let mut stream = if index % own == own - 1 {
                let mut direct = Response::new(());
                *direct.status_mut() = response.status;
                direct.headers_mut().insert(header::DATE, response.date);
                for (name, value) in &response.headers {
                    if !is_omitted(name.as_str()) {
                        direct.headers_mut().append(name, value.clone());
                    }
                }
                respond.send_response(direct, is_last).unwrap()
            } else {
                let announced = on_server.announce();
                let mut empty = Response::new(());
                let date = HeaderValue::from_static(DATE);
                empty.headers_mut().insert(header::DATE, date);
                let stream = respond.send_response(empty, is_last).unwrap();
                announced.publish(stream.stream_id().as_u32(), response);
                stream
            };
            if !is_last {
                let body = Bytes::from(vec![b'b'; drawn.body]);
                stream.send_data(body, true).unwrap();
            }
        }
    });
    let mut builder = h2::client::Builder::new();
    if let Some(table) = table {
        builder.header_table_size(table);
    }
    builder.max_header_list_size(1 << 20);
    let (mut send, connection) = builder.handshake::<_, Bytes>(client).await.unwrap();
    tasks.spawn(async move { drop(connection.await) });
    for (index, drawn) in responses.iter().enumerate() {
        let failed = |error: h2::Error| TestCaseError::fail(format!("{index}: {error}"));
        send = send.ready().await.map_err(failed)?;
        let request = Request::get("https://a.test/").body(()).unwrap();
        let (response, _) = send.send_request(request, true).map_err(failed)?;
        let response = response.await.map_err(failed)?;
        prop_assert_eq!(response.status().as_u16(), drawn.status);
        let mut seen: Vec<_> = response
            .headers()
            .iter()
            .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
            .collect();
        seen.sort();
        let mut drawn = drawn.clone();
        if index % own == own - 1 {
            drawn.ready = None;
        }
        prop_assert_eq!(seen, expected(&drawn, &ready), "{}", index);
        let mut body = response.into_body();
        let mut length = 0;
        while let Some(piece) = body.data().await {
            let piece = piece.unwrap();
            body.flow_control().release_capacity(piece.len()).unwrap();
            length += piece.len();
        }
        prop_assert_eq!(length, drawn.body);
    }
    tasks.abort_all();
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A client reads the headers that the response has, whatever came before it on the connection.
    #[test]
    fn clients_read_the_headers_of_each_response(
        pool in prop::collection::vec(drawn(), 1..5),
        order in prop::collection::vec(any::<prop::sample::Index>(), 1..30),
        pieces in prop::collection::vec(prop_oneof![1usize..40, 100usize..20_000], 1..6),
        table in prop::option::of(prop::sample::select(vec![0u32, 64, 300, 4096, 65_536])),
        own in 2usize..6,
    ) {
        let responses = order.iter().map(|index| pool[index.index(pool.len())].clone()).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(check(responses, pieces, table, own, Tables::One))?;
    }
}

/// The control: if `h2` uses the client's table as well, clients read other headers.
#[test]
fn two_owners_of_a_table_contradict_each_other() {
    let drawn = |value: u8| Drawn {
        status: 200,
        fields: vec![("x-a".into(), vec![value], false)],
        ready: Some(0),
        body: 1,
    };
    let responses: Vec<_> = (0..12).map(|turn| drawn(b'a' + turn / 4)).collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let read = |tables| {
        let responses = responses.clone();
        runtime.block_on(check(responses, vec![1000], None, 2, tables))
    };
    read(Tables::One).unwrap();
    read(Tables::Two).unwrap_err();
}

#[test]
fn what_repeats_is_a_byte_or_two() {
    let ready = ready_sets();
    let mut encoder = hpack::HeaderEncoder::default();
    let drawn = Drawn {
        status: 200,
        fields: vec![
            (
                "content-type".into(),
                b"text/html; charset=utf-8".to_vec(),
                false,
            ),
            ("x-app".into(), b"shop".to_vec(), false),
        ],
        ready: Some(0),
        body: 0,
    };
    let lengths: Vec<usize> = (0..4)
        .map(|_| {
            let mut block = Vec::new();
            encoder.encode(&headers(&drawn, &ready), &mut block);
            block.len()
        })
        .collect();
    // The status, the date, two ready lines and two headers.
    let date = 2 + 1 + DATE.len();
    assert_eq!(lengths[2..], [1 + date + 2 + 2; 2], "{lengths:?}");
    assert!(
        lengths[0] > lengths[1] && lengths[1] > lengths[2],
        "{lengths:?}"
    );
}

#[test]
fn slices_of_a_frame_are_one_write() {
    // The writer leaves long content where it is, after the frame header in its output.
    let mut writer = FrameWriter::default();
    let queue = ResponseQueue::default();
    let cx = Context::from_waker(Waker::noop());
    let header = [0, 4, 0, 0, 1, 0, 0, 0, 1];
    let content = [7; 1024];
    let slices = [IoSlice::new(&header), IoSlice::new(&content)];
    assert_eq!(writer.take(&slices[0], &queue, &cx), 9);
    assert_eq!(writer.passes(&slices[1]), 1024);
    assert_eq!(writer.output(), header);
}
