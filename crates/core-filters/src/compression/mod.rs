//! Compresses responses with zstd, br or gzip, as the client prefers, and flushes at each chunk.
//!
//! `types` and `may_code` select the responses. The encoders are in
//! [`base::encoding`](edgeway_base::encoding).

mod config;
#[cfg(test)]
mod tests;
mod types;

use std::{any::TypeId, sync::Arc};

use bytes::Bytes;
use edgeway_base::{
    encoding::{AcceptedEncodings, Encoder, Encoding},
    http::{
        WeakenedTag, begins_with, content_length, decimal, has, has_token, list, list_of,
        varies_by, weakened,
    },
    metrics::Metrics,
    signature::is_signed,
};
use edgeway_config::model::StatusSet;
use edgeway_core::chain::{Exchange, Filter, Guard, Phases, Protocol, RequestChanges, Traits};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, response};

use self::types::MediaTypes;

const IDENTITY: HeaderValue = HeaderValue::from_static("identity");
const CHUNKED: HeaderValue = HeaderValue::from_static("chunked");
const ACCEPT_ENCODING: HeaderValue = HeaderValue::from_static("Accept-Encoding");
/// The same with `vary: false`, for the cache alone: no origin spells it so.
const HIDDEN: HeaderValue = HeaderValue::from_static("aCCEPT-eNCODING");

/// Headers that describe the bytes as the origin sent them: their length, ranges and digests.
const PLAIN_BYTES_HEADERS: [HeaderName; 6] = [
    header::CONTENT_LENGTH,
    header::ACCEPT_RANGES,
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    // RFC 3230, replaced by the two above.
    HeaderName::from_static("digest"),
];

/// The compiled filter.
#[derive(Debug)]
pub struct Compression {
    coder: Arc<CompressionRules>,
}

/// Rules for compression. The cache uses them too: it stores encoded forms of its responses.
#[derive(Debug)]
pub struct CompressionRules {
    /// Codings on offer, in order of preference.
    offered: Box<[Offer]>,
    min_size: u64,
    types: MediaTypes,
    /// Statuses of compressed responses; `None` for all that have content of their own.
    statuses: Option<StatusSet>,
    /// True to say that the response depends on `Accept-Encoding`.
    has_vary: bool,
}

/// A content coding on offer.
#[derive(Debug)]
pub struct Offer {
    pub encoding: Encoding,
    level: u8,
    content_encoding: HeaderValue,
    bytes: ByteCounters,
}

/// Response body being encoded, in its slot of the exchange.
struct EncodedStream {
    /// `None` after the end of the body, or after an error.
    encoder: Option<Encoder>,
    /// Index of the offer.
    offer: usize,
}

/// Mark of a request whose client has signed `Accept-Encoding`: its response is what the client
/// asked the origin for.
struct SignedEncoding;

/// Decision about a response.
enum CompressionDecision<'a> {
    /// The response is not compressed for any client.
    Untouched,
    /// The response is compressed for other clients, not for this one.
    Plain,
    Encode(usize, &'a Offer),
}

filter_kind!(Compression: config::CompressionConfig = "compression", on_by_default = true);

impl Filter for Compression {
    fn traits(self: Arc<Self>) -> Traits {
        Traits {
            request_changes: RequestChanges::names([header::ACCEPT_ENCODING]),
            body_slot: Some(TypeId::of::<EncodedStream>()),
            extension: Some(Arc::clone(&self.coder) as _),
            ..Traits::new(
                Phases::UPSTREAM | Phases::RESPONSE | Phases::RESPONSE_BODY,
                Guard::Nothing,
            )
        }
    }

    /// Requests the identity coding from the origin: the response is compressed once, here, and a
    /// stored response suits every client. A request without `Accept-Encoding` would accept any
    /// coding. A signed header stays as it is.
    fn on_upstream(&self, ex: &mut Exchange<'_>, headers: &mut HeaderMap) {
        match headers.entry(header::ACCEPT_ENCODING) {
            // A client that did not send the header cannot have signed it.
            header::Entry::Vacant(place) => {
                place.insert(IDENTITY);
            }
            header::Entry::Occupied(mut sent) => {
                let head = ex.head;
                if is_signed(&head.headers, head.uri.query(), sent.key()) {
                    ex.facts.put(SignedEncoding);
                } else {
                    sent.insert(IDENTITY);
                }
            }
        }
    }

    fn on_response(&self, ex: &mut Exchange<'_>, head: &mut response::Parts) {
        self.encode(ex, head);
        if !self.coder.has_vary {
            // The cache keeps one form for each encoding, and says so.
            remove_vary(&mut head.headers);
        }
    }

    fn on_response_body(&self, ex: &mut Exchange<'_>, chunk: &mut Option<Bytes>, end: bool) {
        let Some(stream) = ex.facts.slot_mut::<EncodedStream>() else {
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
        let encoded = match &mut stream.encoder {
            Some(encoder) if end => encoder.finish(&input, &mut out),
            Some(encoder) => encoder.push(&input, &mut out),
            None => return,
        };
        if end || encoded.is_err() {
            // Frees the memory now: it is not needed until the log line is written.
            stream.encoder = None;
        }
        if let Err(error) = encoded {
            // Without its end the encoded stream is visibly truncated; no false data is sent.
            log::error!(error:%; "compressed response ended early");
            return;
        }
        offer.bytes.input.inc_by(input.len() as u64);
        offer.bytes.output.inc_by(out.len() as u64);
        *chunk = Some(Bytes::from(out));
    }
}

impl Compression {
    /// Compresses a response that is not settled, or says that others get it compressed.
    fn encode(&self, ex: &mut Exchange<'_>, head: &mut response::Parts) {
        if ex.facts.is_coding_settled || ex.facts.slot::<SignedEncoding>().is_some() {
            return;
        }
        // A response that was started and then replaced by a reply leaves its stream behind.
        ex.facts.take::<EncodedStream>();
        if head.status == StatusCode::NOT_MODIFIED {
            self.coder.confirm(ex, head);
            return;
        }
        let (index, offer) = match self.coder.fate(ex, head) {
            CompressionDecision::Untouched => return,
            CompressionDecision::Plain => {
                if self.coder.has_vary {
                    add_vary(&mut head.headers);
                }
                return;
            }
            CompressionDecision::Encode(index, offer) => (index, offer),
        };
        // A response to HEAD has the headers of the response to GET, and no body to compress.
        let has_body = ex.head.method != Method::HEAD;
        if has_body {
            let length = content_length(&head.headers);
            match Encoder::new(offer.encoding, offer.level, length) {
                Ok(encoder) => ex.facts.put(EncodedStream {
                    encoder: Some(encoder),
                    offer: index,
                }),
                Err(error) => {
                    log::warn!(error:%; "response left uncompressed");
                    return;
                }
            }
        }
        // The length that framed the body is removed now. HTTP/1.1 has chunks in its place.
        let is_chunked = has_body && ex.facts.client.protocol == Protocol::Http11;
        offer.announce(&mut head.headers, is_chunked, self.coder.has_vary);
    }
}

impl CompressionRules {
    /// Returns the coding in which this client gets a compressible response, if any.
    pub fn choose(&self, ex: &Exchange<'_>) -> Option<&Offer> {
        self.chosen(ex).map(|(_, offer)| offer)
    }

    /// Prepares the headers of a response that some clients get compressed; returns `false` if no
    /// client does.
    pub fn prepare(&self, status: StatusCode, headers: &mut HeaderMap) -> bool {
        let may_code = self.may_code(status, headers);
        if may_code && self.has_vary {
            add_vary(headers);
        } else if may_code && !varies_by(headers, &header::ACCEPT_ENCODING) {
            headers.append(header::VARY, HIDDEN);
        }
        may_code
    }

    fn fate(&self, ex: &Exchange<'_>, head: &response::Parts) -> CompressionDecision<'_> {
        if !self.may_code(head.status, &head.headers) {
            return CompressionDecision::Untouched;
        }
        // A part is sent as it is, with the `Vary` of the whole (RFC 9110, section 15.3.7).
        let chosen = self
            .chosen(ex)
            .filter(|_| head.status != StatusCode::PARTIAL_CONTENT);
        match chosen {
            Some((index, offer)) => CompressionDecision::Encode(index, offer),
            None => CompressionDecision::Plain,
        }
    }

    fn chosen(&self, ex: &Exchange<'_>) -> Option<(usize, &Offer)> {
        let request = &ex.head.headers;
        if !has(request, &header::ACCEPT_ENCODING) {
            return None;
        }
        let offered = self.offered.iter().map(|offer| offer.encoding);
        let encoding = AcceptedEncodings::from_headers(request).choose(offered)?;
        // HTTP/1.0 has no chunked coding. A range refers to the plain bytes, even if the origin
        // responded with all of them.
        if ex.facts.client.protocol == Protocol::Http10
            || request.contains_key(header::RANGE)
            || has_token(request, &header::CACHE_CONTROL, "no-transform")
        {
            return None;
        }
        let mut offers = self.offered.iter().enumerate();
        offers.find(|(_, offer)| offer.encoding == encoding)
    }

    /// Returns true if some client may get this response compressed; depends on the response, not
    /// on the client.
    pub fn may_code(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        if status.is_informational()
            || matches!(
                status,
                StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED
            )
        {
            return false;
        }
        let is_part = status == StatusCode::PARTIAL_CONTENT;
        let status = if is_part { StatusCode::OK } else { status };
        let statuses = self.statuses.as_ref();
        if statuses.is_some_and(|statuses| !statuses.contains(status.as_u16())) {
            return false;
        }
        let mut content_type = None;
        let mut length = Length::Unsaid;
        let mut has_cache_control = false;
        // One pass costs less than looking up each header.
        for (name, value) in headers {
            match name.as_str().as_bytes() {
                // gRPC compresses each message itself, and ends with trailers, which a compressed
                // body would not allow.
                b"content-type" if begins_with(value.as_bytes(), b"application/grpc") => {
                    return false;
                }
                b"content-type" => content_type = content_type.or(Some(value)),
                b"content-length" => length = length.and(value),
                b"cache-control" => has_cache_control = true,
                b"content-range" if !is_part => return false,
                b"content-encoding" if !is_plain(value) => return false,
                _ => {}
            }
        }
        // A response of unknown length is streamed HTML, RSC or JSON far more often than a small
        // one, so it is compressed.
        let length = match length {
            Length::Unsaid => None,
            Length::Once(length) => Some(length),
            Length::Oddly => content_length(headers),
        };
        content_type.is_some_and(|value| self.types.contain(value.as_bytes()))
            && length.is_none_or(|length| is_part || length > 0 && length >= self.min_size)
            && !(has_cache_control && has_token(headers, &header::CACHE_CONTROL, "no-transform"))
    }

    /// Adjusts a 304 to the response that the client has: to the compressed one, if the client sent
    /// its entity tag. The 304 keeps the `Vary` of that response too, which Next.js leaves out.
    fn confirm(&self, ex: &Exchange<'_>, head: &mut response::Parts) {
        let has = |name: &HeaderName| head.headers.contains_key(name);
        let may_be_ours = if has(&header::CONTENT_TYPE) && has(&header::CONTENT_LENGTH) {
            // Of a file, what the 200 would have is known.
            self.may_code(StatusCode::OK, &head.headers)
        } else {
            let content_type = head.headers.get(header::CONTENT_TYPE);
            content_type.is_none_or(|value| self.types.contain(value.as_bytes()))
        };
        if !may_be_ours {
            return;
        }
        let weak = match head.headers.get(header::ETAG).map(weakened) {
            Some(WeakenedTag::Weak(weak)) => Some(weak),
            Some(WeakenedTag::Already | WeakenedTag::Malformed) | None => None,
        };
        let tag = head.headers.get(header::ETAG);
        let lists = |tag: &HeaderValue| {
            list_of(&ex.head.headers, &header::IF_NONE_MATCH).any(|own| own == tag.as_bytes())
        };
        // A client that names neither tag has the response that it would get now.
        let weak = weak
            .filter(|weak| lists(weak) || (self.chosen(ex).is_some() && !tag.is_some_and(lists)));
        let varies = varies_by(&head.headers, &header::ACCEPT_ENCODING);
        if weak.is_none() && varies {
            return;
        }
        if let Some(weak) = weak {
            head.headers.insert(header::ETAG, weak);
        }
        if !varies && self.has_vary {
            head.headers.append(header::VARY, ACCEPT_ENCODING);
        }
    }
}

/// Value of `Content-Length`.
enum Length {
    Unsaid,
    Once(u64),
    /// Sent more than once, or as a list.
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

/// Returns true for `Content-Encoding: identity`, which is the same as no header.
fn is_plain(encoding: &HeaderValue) -> bool {
    list(encoding.as_bytes()).all(|coding| coding.eq_ignore_ascii_case(b"identity"))
}

/// Adds `Vary`, so that caches select this response only for clients that accept the same codings.
fn add_vary(headers: &mut HeaderMap) {
    if !varies_by(headers, &header::ACCEPT_ENCODING) {
        headers.append(header::VARY, ACCEPT_ENCODING);
    }
}

/// Removes the line that only the cache needs, and no other of the origin.
fn remove_vary(headers: &mut HeaderMap) {
    let lines: Vec<HeaderValue> = headers.get_all(header::VARY).iter().cloned().collect();
    if lines.contains(&HIDDEN) {
        headers.remove(header::VARY);
        for line in lines.into_iter().filter(|line| *line != HIDDEN) {
            headers.append(header::VARY, line);
        }
    }
}

edgeway_base::metric_handles! {
    #[derive(Debug)]
    struct ByteCounters(encoding) {
        input { direction: "in" },
        output { direction: "out" }: IntCounter = "edgeway_compression_bytes_total",
            "Bytes of responses before (in) and after (out) compression.";
    }
}

impl Offer {
    fn new(encoding: Encoding, level: u8, metrics: &Metrics) -> Self {
        Self {
            encoding,
            level,
            content_encoding: encoding.header_value(),
            bytes: ByteCounters::new(metrics, encoding.name()),
        }
    }

    /// Returns the level for responses that are compressed once and sent many times: higher than
    /// the level for responses compressed while they are sent.
    pub fn level_at_rest(&self) -> u8 {
        let least = match self.encoding {
            Encoding::Zstd => 12,
            Encoding::Br | Encoding::Gzip => 9,
        };
        self.level.max(least)
    }

    /// Sets the headers of the compressed response.
    pub fn announce(&self, headers: &mut HeaderMap, is_chunked: bool, has_vary: bool) {
        headers.insert(header::CONTENT_ENCODING, self.content_encoding.clone());
        for name in &PLAIN_BYTES_HEADERS {
            headers.remove(name);
        }
        if is_chunked {
            headers.insert(header::TRANSFER_ENCODING, CHUNKED);
        }
        if has_vary {
            add_vary(headers);
        }
        // RFC 9110, 8.8.1: one tag for several codings is a weak one.
        match headers.get(header::ETAG).map(weakened) {
            Some(WeakenedTag::Weak(tag)) => {
                headers.insert(header::ETAG, tag);
            }
            Some(WeakenedTag::Malformed) => {
                headers.remove(header::ETAG);
            }
            Some(WeakenedTag::Already) | None => {}
        }
    }
}
