//! Codes answers with zstd, br or gzip, as the client prefers, and flushes at each chunk.
//!
//! Which answers: [`types`] and [`Compression::may_code`]. How bytes are coded is not known
//! here but in [`base::encoding`](crate::base::encoding).

mod config;
#[cfg(test)]
mod tests;
mod types;

use std::{any::Any, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, response};

use self::types::Types;
use crate::{
    base::{
        encoding::{Accepted, Encoder, Encoding},
        http::{
            Weakened, begins_with, content_length, decimal, has_token, list, list_of, varies_by,
            weakened,
        },
        metrics::{IntCounter, Metrics},
    },
    chain::{CompileCx, Exchange, Filter, FilterKind, Phases, Protocol, RequestChanges},
};

const IDENTITY: HeaderValue = HeaderValue::from_static("identity");
const CHUNKED: HeaderValue = HeaderValue::from_static("chunked");
const ACCEPT_ENCODING: HeaderValue = HeaderValue::from_static("Accept-Encoding");

/// What speaks of the bytes as the origin sent them: their length, ranges and digests.
const OF_THE_PLAIN_BYTES: [HeaderName; 6] = [
    header::CONTENT_LENGTH,
    header::ACCEPT_RANGES,
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    // RFC 3230, which those two replace.
    HeaderName::from_static("digest"),
];

/// The compiled filter.
#[derive(Debug)]
pub struct Compression {
    coder: Arc<Coder>,
}

/// What is coded, and how. The cache asks it as well: it keeps coded forms of what it has.
#[derive(Debug)]
pub struct Coder {
    /// What is offered, the favourite first.
    offered: Box<[Offer]>,
    min_size: u64,
    types: Types,
}

/// One coding on offer.
#[derive(Debug)]
pub struct Offer {
    encoding: Encoding,
    level: u8,
    content_encoding: HeaderValue,
    bytes_in: IntCounter,
    bytes_out: IntCounter,
}

/// The body on its way, in its slot of the exchange.
struct Stream {
    /// `None` after its end, or once it broke.
    encoder: Option<Encoder>,
    /// Which offer it is.
    offer: usize,
}

/// What becomes of an answer.
enum Fate<'a> {
    /// It is none of ours: nobody else gets it coded either.
    Untouched,
    /// Coded for others, not for this client.
    Plain,
    Coded(usize, &'a Offer),
}

impl FilterKind for Compression {
    const NAME: &'static str = "compression";
    const ON_BY_DEFAULT: bool = true;
    type Config = config::CompressionConfig;
    type Filter = Self;

    fn compile(config: config::CompressionConfig, cx: &mut CompileCx<'_>) -> Option<Self> {
        config.compile(cx)
    }
}

impl Filter for Compression {
    fn phases(&self) -> Phases {
        Phases::UPSTREAM | Phases::RESPONSE | Phases::RESPONSE_BODY
    }

    fn extension(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        Some(Arc::clone(&self.coder) as _)
    }

    fn request_changes(&self) -> RequestChanges {
        RequestChanges::names([header::ACCEPT_ENCODING])
    }

    /// The origin is asked for plain bytes: coding happens once, here, and what a cache
    /// keeps fits every client. "No `Accept-Encoding`" would mean that any coding is fine.
    fn on_upstream(&self, _ex: &mut Exchange<'_>, headers: &mut HeaderMap) {
        headers.insert(header::ACCEPT_ENCODING, IDENTITY);
    }

    fn on_response(&self, ex: &mut Exchange<'_>, head: &mut response::Parts) {
        if ex.facts.is_coding_settled {
            return;
        }
        // An answer that was begun and then replaced by one of ours leaves its stream behind.
        ex.facts.take::<Stream>();
        if head.status == StatusCode::NOT_MODIFIED {
            self.coder.confirm(ex, head);
            return;
        }
        let (index, offer) = match self.coder.fate(ex, head) {
            Fate::Untouched => return,
            Fate::Plain => {
                add_vary(&mut head.headers);
                return;
            }
            Fate::Coded(index, offer) => (index, offer),
        };
        // An answer to HEAD has the head of the one to GET, and nothing to code.
        let has_body = ex.head.method != Method::HEAD;
        if has_body {
            let length = content_length(&head.headers);
            match Encoder::new(offer.encoding, offer.level, length) {
                Ok(encoder) => ex.facts.put(Stream {
                    encoder: Some(encoder),
                    offer: index,
                }),
                Err(error) => {
                    log::warn!(error:%; "an answer stays plain");
                    return;
                }
            }
        }
        // Pingora has settled the framing before this phase, by the length that goes away
        // now; without `Transfer-Encoding` it would end the body by closing the connection.
        // Over HTTP/2 it takes the header out again.
        let is_chunked = has_body && ex.facts.client.protocol == Protocol::Http11;
        offer.announce(&mut head.headers, is_chunked);
    }

    fn on_response_body(&self, ex: &mut Exchange<'_>, chunk: &mut Option<Bytes>, end: bool) {
        let Some(stream) = ex.facts.slot_mut::<Stream>() else {
            return;
        };
        let input = chunk.take().unwrap_or_default();
        let Some(offer) = self.coder.offered.get(stream.offer) else {
            return;
        };
        if input.is_empty() && !end {
            return;
        }
        let mut out = Vec::new();
        let coded = match &mut stream.encoder {
            Some(encoder) if end => encoder.finish(&input, &mut out),
            Some(encoder) => encoder.push(&input, &mut out),
            None => return,
        };
        if end || coded.is_err() {
            // Its memory is not needed until the log line is written.
            stream.encoder = None;
        }
        if let Err(error) = coded {
            // Without its end the coded stream is seen to be cut; nothing false is sent.
            log::error!(error:%; "a coded answer broke off");
            return;
        }
        offer.bytes_in.inc_by(input.len() as u64);
        offer.bytes_out.inc_by(out.len() as u64);
        *chunk = Some(Bytes::from(out));
    }
}

impl Coder {
    /// The coding in which this client gets an answer that may be coded, if it gets one.
    pub fn choose(&self, ex: &Exchange<'_>) -> Option<&Offer> {
        self.chosen(ex).map(|(_, offer)| offer)
    }

    /// Makes `head` that of an answer of which some clients get coded forms; `false` if
    /// nobody gets one.
    pub fn prepare(&self, status: StatusCode, headers: &mut HeaderMap) -> bool {
        let may_code = self.may_code(status, headers);
        if may_code {
            add_vary(headers);
        }
        may_code
    }

    fn fate(&self, ex: &Exchange<'_>, head: &response::Parts) -> Fate<'_> {
        if !self.may_code(head.status, &head.headers) {
            return Fate::Untouched;
        }
        match self.chosen(ex) {
            Some((index, offer)) => Fate::Coded(index, offer),
            None => Fate::Plain,
        }
    }

    fn chosen(&self, ex: &Exchange<'_>) -> Option<(usize, &Offer)> {
        let request = &ex.head.headers;
        if !request.contains_key(header::ACCEPT_ENCODING) {
            return None;
        }
        let offered = self.offered.iter().map(|offer| offer.encoding);
        let encoding = Accepted::of(request).choose(offered)?;
        // HTTP/1.0 knows no chunks. A range is one of the plain bytes, also where the origin
        // answered it with all of them.
        if ex.facts.client.protocol == Protocol::Http10
            || request.contains_key(header::RANGE)
            || has_token(request, &header::CACHE_CONTROL, "no-transform")
        {
            return None;
        }
        let mut offers = self.offered.iter().enumerate();
        offers.find(|(_, offer)| offer.encoding == encoding)
    }

    /// Whether some client may get this answer coded: by what it is, not by who asks.
    fn may_code(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        if status.is_informational()
            || matches!(
                status,
                StatusCode::NO_CONTENT
                    | StatusCode::RESET_CONTENT
                    | StatusCode::PARTIAL_CONTENT
                    | StatusCode::NOT_MODIFIED
            )
        {
            return false;
        }
        let mut content_type = None;
        let mut length = Length::Unsaid;
        let mut has_cache_control = false;
        // One pass costs less than looking each of them up.
        for (name, value) in headers {
            match name.as_str().as_bytes() {
                // gRPC codes each message by itself, and ends in trailers that a coded body
                // would not leave room for.
                b"content-type" if begins_with(value.as_bytes(), b"application/grpc") => {
                    return false;
                }
                b"content-type" => content_type = content_type.or(Some(value)),
                b"content-length" => length = length.and(value),
                b"cache-control" => has_cache_control = true,
                b"content-range" => return false,
                b"content-encoding" if !is_plain(value) => return false,
                _ => {}
            }
        }
        // An answer of unknown length is streamed HTML, RSC or JSON far more often than a
        // small one, so it is coded.
        let length = match length {
            Length::Unsaid => None,
            Length::Once(length) => Some(length),
            Length::Oddly => content_length(headers),
        };
        content_type.is_some_and(|value| self.types.contain(value.as_bytes()))
            && length.is_none_or(|length| length > 0 && length >= self.min_size)
            && !(has_cache_control && has_token(headers, &header::CACHE_CONTROL, "no-transform"))
    }

    /// A 304 speaks of the answer that the client has: of the coded one, if that is the
    /// tag it asked with. It keeps the `Vary` of that answer too, which Next.js leaves out.
    fn confirm(&self, ex: &Exchange<'_>, head: &mut response::Parts) {
        let may_be_ours = head
            .headers
            .get(header::CONTENT_TYPE)
            .is_none_or(|value| self.types.contain(value.as_bytes()));
        if !may_be_ours {
            return;
        }
        let weak = match head.headers.get(header::ETAG).map(weakened) {
            Some(Weakened::Weak(weak)) => Some(weak),
            Some(Weakened::Already | Weakened::Malformed) | None => None,
        };
        let weak = weak.filter(|weak| {
            list_of(&ex.head.headers, &header::IF_NONE_MATCH).any(|tag| tag == weak.as_bytes())
        });
        let varies = varies_by(&head.headers, &header::ACCEPT_ENCODING);
        if weak.is_none() && varies {
            return;
        }
        if let Some(weak) = weak {
            head.headers.insert(header::ETAG, weak);
        }
        if !varies {
            head.headers.append(header::VARY, ACCEPT_ENCODING);
        }
    }
}

/// What `Content-Length` says.
enum Length {
    Unsaid,
    Once(u64),
    /// More than once, or as a list.
    Oddly,
}

impl Length {
    fn and(self, value: &HeaderValue) -> Self {
        match (self, decimal(value.as_bytes())) {
            (Self::Unsaid, Some(length)) => Self::Once(length),
            _ => Self::Oddly,
        }
    }
}

/// `Content-Encoding: identity`, which nobody need say.
fn is_plain(encoding: &HeaderValue) -> bool {
    list(encoding.as_bytes()).all(|coding| coding.eq_ignore_ascii_case(b"identity"))
}

/// Caches are to keep this answer for clients that accept alike.
fn add_vary(headers: &mut HeaderMap) {
    if !varies_by(headers, &header::ACCEPT_ENCODING) {
        headers.append(header::VARY, ACCEPT_ENCODING);
    }
}

impl Offer {
    fn new(encoding: Encoding, level: u8, metrics: &Metrics) -> Self {
        let bytes = |direction| {
            metrics.counter(
                "edgeway_compression_bytes_total",
                "Bytes of answers before (in) and after (out) coding.",
                &[("encoding", encoding.name()), ("direction", direction)],
            )
        };
        Self {
            encoding,
            level,
            content_encoding: encoding.header_value(),
            bytes_in: bytes("in"),
            bytes_out: bytes("out"),
        }
    }

    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// The level of what is coded once and sent many times: higher than what is coded on
    /// its way.
    pub fn level_at_rest(&self) -> u8 {
        let least = match self.encoding {
            Encoding::Zstd => 12,
            Encoding::Br | Encoding::Gzip => 9,
        };
        self.level.max(least)
    }

    /// The head of the coded answer.
    pub fn announce(&self, headers: &mut HeaderMap, is_chunked: bool) {
        headers.insert(header::CONTENT_ENCODING, self.content_encoding.clone());
        for name in &OF_THE_PLAIN_BYTES {
            headers.remove(name);
        }
        if is_chunked {
            headers.insert(header::TRANSFER_ENCODING, CHUNKED);
        }
        add_vary(headers);
        // RFC 9110, 8.8.1: one tag for several codings is a weak one.
        match headers.get(header::ETAG).map(weakened) {
            Some(Weakened::Weak(tag)) => {
                headers.insert(header::ETAG, tag);
            }
            Some(Weakened::Malformed) => {
                headers.remove(header::ETAG);
            }
            Some(Weakened::Already) | None => {}
        }
    }
}
