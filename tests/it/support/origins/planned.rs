//! Origin with random responses: any size, framing, content coding and pace, over HTTP/1 and
//! HTTP/2.

use std::{
    collections::{HashMap, HashSet},
    io::{self, Write},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use h2::{SendStream, server::SendResponse};
use http::{HeaderMap, HeaderValue, Response};
use parking_lot::Mutex;
use tokio::task::JoinSet;

use super::{Exchange, Origin, Serve, Then};
use crate::support::{server::Server, verify, wait::pass};

/// Way in which a complete body is distinguished from a truncated one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Length,
    Chunked,
    /// By the end of the connection.
    Close,
}

/// Use of `103 Early Hints` before the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hints {
    None,
    /// In one write with the response headers.
    Together,
    Apart,
}

/// Planned response.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is drawn for itself")]
pub(crate) struct Plan {
    pub(crate) status: u16,
    pub(crate) size: usize,
    pub(crate) seed: u64,
    /// Set for words rather than noise.
    pub(crate) is_text: bool,
    pub(crate) content_type: &'static str,
    pub(crate) framing: Framing,
    /// Content coding of the origin.
    pub(crate) coding: Option<&'static str>,
    pub(crate) has_trailers: bool,
    pub(crate) hints: Hints,
    /// Bytes of each write; `pause` is the time between two writes.
    pub(crate) piece: usize,
    pub(crate) pause: Option<Duration>,
    pub(crate) cache_control: &'static str,
    pub(crate) has_tag: bool,
    /// Set if a request for one range gets that range.
    pub(crate) has_ranges: bool,
}

impl Plan {
    /// Returns the content without content coding.
    pub(crate) fn content(&self) -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(self.seed);
        let mut all = Vec::with_capacity(self.size + 16);
        while all.len() < self.size {
            if self.is_text {
                let word = random.u16(..500);
                write!(all, "word-{word} ").expect("a buffer takes all");
            } else {
                all.extend_from_slice(&random.u64(..).to_le_bytes());
            }
        }
        all.truncate(self.size);
        all
    }

    /// Returns the body as it is sent.
    pub(crate) fn body(&self) -> Vec<u8> {
        let content = self.content();
        match self.coding {
            None => content,
            Some("gzip") => {
                let mut encoder =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(&content).expect("a buffer takes all");
                encoder.finish().expect("a buffer takes all")
            }
            Some("br") => {
                let mut out = Vec::new();
                let params = brotli::enc::BrotliEncoderParams {
                    quality: 1,
                    ..Default::default()
                };
                brotli::BrotliCompress(&mut &content[..], &mut out, &params)
                    .expect("a buffer takes all");
                out
            }
            Some("zstd") => zstd::encode_all(&content[..], 1).expect("a buffer takes all"),
            Some(other) => panic!("no coding {other}"),
        }
    }

    pub(crate) fn tag(&self) -> String {
        format!("\"{}-{}\"", self.seed, self.size)
    }

    /// Returns the headers other than those of the framing.
    fn headers(&self, body: &[u8]) -> Vec<(&'static str, String)> {
        let mut headers = vec![
            ("content-type", self.content_type.to_owned()),
            ("cache-control", self.cache_control.to_owned()),
            ("repr-digest", verify::digest(body)),
        ];
        if self.has_tag {
            headers.push(("etag", self.tag()));
        }
        if let Some(coding) = self.coding {
            headers.push(("content-encoding", coding.to_owned()));
            headers.push(("vary", "accept-encoding".to_owned()));
        }
        headers
    }
}

/// Planned responses by path.
#[derive(Debug, Default)]
pub(crate) struct Plans {
    by_path: Mutex<HashMap<String, Arc<Plan>>>,
    failing: Mutex<HashSet<String>>,
    asked: Mutex<HashMap<String, u32>>,
}

impl Plans {
    pub(crate) fn set(&self, path: &str, plan: Plan) {
        self.by_path.lock().insert(path.to_owned(), Arc::new(plan));
    }

    /// Fails this path with 503 from now on.
    pub(crate) fn fail(&self, path: &str) {
        self.failing.lock().insert(path.to_owned());
    }

    /// Returns the number of requests for a path.
    pub(crate) fn asked(&self, path: &str) -> u32 {
        self.asked.lock().get(path).copied().unwrap_or_default()
    }

    /// Returns the plan of a path, `None` if it should fail.
    fn ask(&self, path: &str) -> Option<Arc<Plan>> {
        *self.asked.lock().entry(path.to_owned()).or_default() += 1;
        if self.failing.lock().contains(path) {
            return None;
        }
        let found = self.by_path.lock().get(path).cloned();
        Some(found.unwrap_or_else(|| panic!("nothing is planned for {path}")))
    }
}

pub(crate) struct PlannedOrigin {
    plans: Arc<Plans>,
}

impl PlannedOrigin {
    pub(crate) async fn start(plans: &Arc<Plans>) -> Origin<Self> {
        let plans = Arc::clone(plans);
        Origin::listen(Self { plans }).await
    }
}

/// Returns the range of `Range: bytes=a-b`, if the header has this simple form.
fn range(value: Option<&str>, length: usize) -> Option<(usize, usize)> {
    let (from, to) = value?.strip_prefix("bytes=")?.split_once('-')?;
    let from: usize = from.parse().ok()?;
    let to: usize = to.parse().ok()?;
    (from <= to && from < length).then(|| (from, to.min(length - 1)))
}

#[async_trait]
impl Serve for PlannedOrigin {
    async fn serve(&self, exchange: &mut Exchange<'_>) -> io::Result<Then> {
        exchange.drain().await?;
        let path = exchange.request.target.clone();
        let Some(plan) = self.plans.ask(&path) else {
            return exchange
                .reply(503, "content-type: text/plain\r\n", b"bad")
                .await;
        };
        let mut body = plan.body();
        let mut lines = String::new();
        for (name, value) in plan.headers(&body) {
            lines.push_str(&format!("{name}: {value}\r\n"));
        }
        let is_same = exchange.request.header("if-none-match") == Some(&*plan.tag());
        if plan.has_tag && is_same {
            let head = format!("HTTP/1.1 304 Not Modified\r\n{lines}\r\n");
            exchange.write(head.as_bytes()).await?;
            return Ok(Then::Keep);
        }
        let mut status = plan.status;
        let wanted = exchange.request.header("range").map(str::to_owned);
        if plan.has_ranges
            && status == 200
            && let Some((from, to)) = range(wanted.as_deref(), body.len())
        {
            status = 206;
            lines.push_str(&format!(
                "content-range: bytes {from}-{to}/{}\r\n",
                body.len()
            ));
            body = body[from..=to].to_vec();
        }
        let is_chunked = plan.framing == Framing::Chunked;
        match plan.framing {
            Framing::Length => lines.push_str(&format!("content-length: {}\r\n", body.len())),
            Framing::Chunked => lines.push_str("transfer-encoding: chunked\r\n"),
            Framing::Close => lines.push_str("connection: close\r\n"),
        }
        let mut out = Vec::new();
        if plan.hints != Hints::None {
            out.extend_from_slice(
                b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n",
            );
        }
        if plan.hints == Hints::Apart {
            exchange.write(&out).await?;
            out.clear();
            pass(Duration::from_millis(5)).await;
        }
        out.extend_from_slice(format!("HTTP/1.1 {status} Any\r\n{lines}\r\n").as_bytes());
        if exchange.request.method == "HEAD" {
            exchange.write(&out).await?;
            return Ok(Then::Close);
        }
        for piece in body.chunks(plan.piece) {
            if is_chunked {
                out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                out.extend_from_slice(piece);
                out.extend_from_slice(b"\r\n");
            } else {
                out.extend_from_slice(piece);
            }
            exchange.write(&out).await?;
            out.clear();
            if let Some(pause) = plan.pause {
                pass(pause).await;
            }
        }
        if is_chunked {
            let trailers = if plan.has_trailers {
                "x-after: 1\r\n"
            } else {
                ""
            };
            out.extend_from_slice(format!("0\r\n{trailers}\r\n").as_bytes());
        }
        exchange.write(&out).await?;
        Ok(if plan.framing == Framing::Close {
            Then::Close
        } else {
            Then::Keep
        })
    }
}

/// Serves the same plans over HTTP/2, with prior knowledge.
pub(crate) struct PlannedHttp2(Server);

impl PlannedHttp2 {
    pub(crate) async fn start(plans: &Arc<Plans>) -> Self {
        let plans = Arc::clone(plans);
        let server = Server::start(move |socket| {
            let plans = Arc::clone(&plans);
            async move {
                let Ok(mut connection) = h2::server::handshake(socket).await else {
                    return;
                };
                let mut streams = JoinSet::new();
                while let Some(Ok((request, response))) = connection.accept().await {
                    let plans = Arc::clone(&plans);
                    streams.spawn(async move {
                        // The peer may disconnect at any moment.
                        drop(respond(&request.into_parts().0, response, &plans).await);
                    });
                }
            }
        });
        Self(server.await)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.address()
    }
}

async fn respond(
    request: &http::request::Parts,
    mut response: SendResponse<Bytes>,
    plans: &Plans,
) -> Result<(), h2::Error> {
    let head = |status: u16| Response::builder().status(status);
    let Some(plan) = plans.ask(request.uri.path()) else {
        let mut stream = response.send_response(head(503).body(()).unwrap(), false)?;
        return stream.send_data(Bytes::from_static(b"bad"), true);
    };
    let body = plan.body();
    let tag = plan.tag();
    let asked = request.headers.get("if-none-match");
    let is_same = plan.has_tag && asked.is_some_and(|asked| asked.as_bytes() == tag.as_bytes());
    let mut head = head(if is_same { 304 } else { plan.status });
    for (name, value) in plan.headers(&body) {
        head = head.header(name, value);
    }
    if plan.framing == Framing::Length && !is_same {
        head = head.header("content-length", body.len());
    }
    let is_bare = is_same || request.method == http::Method::HEAD;
    // Without any byte to send and without a length, the headers themselves end the stream.
    let is_over = is_bare || (body.is_empty() && !plan.has_trailers);
    let mut stream = response.send_response(head.body(()).unwrap(), is_over)?;
    if is_over {
        return Ok(());
    }
    let pieces = body.chunks(plan.piece).count();
    for (at, piece) in body.chunks(plan.piece).enumerate() {
        // The end comes with the last piece, in a separate frame, or in trailers.
        let is_end = at + 1 == pieces && !plan.has_trailers && plan.framing == Framing::Length;
        send(&mut stream, Bytes::copy_from_slice(piece), is_end).await?;
        if is_end {
            return Ok(());
        }
        if let Some(pause) = plan.pause {
            pass(pause).await;
        }
    }
    if plan.has_trailers {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-after", HeaderValue::from_static("1"));
        stream.send_trailers(trailers)
    } else {
        stream.send_data(Bytes::new(), true)
    }
}

async fn send(
    stream: &mut SendStream<Bytes>,
    mut piece: Bytes,
    is_end: bool,
) -> Result<(), h2::Error> {
    while !piece.is_empty() {
        stream.reserve_capacity(piece.len());
        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
        let Some(room) = room.transpose()? else {
            return Ok(());
        };
        let now = piece.split_to(room.min(piece.len()));
        stream.send_data(now, is_end && piece.is_empty())?;
    }
    Ok(())
}
