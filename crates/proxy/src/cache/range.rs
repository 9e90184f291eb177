//! Parts of a stored or arriving response for a client that asks for ranges (RFC 9110, 14).

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use edgeway_base::http::decimal;
use edgeway_cache::{route::Ranges, store::Reader};
use http::{HeaderValue, Method, header};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora_proxy::{MultiRangeInfo, RangeType, range_header_filter};

use crate::context::{self, Context};

/// Bound on the ranges of one request.
const MAX_RANGES: usize = 200;

/// Content of a response that its client gets.
#[derive(Debug)]
pub(crate) enum Content {
    /// Nothing: the headers end the response.
    Nothing,
    Whole,
    Ranges(RangeCutter),
}

impl Content {
    pub(crate) fn is_nothing(&self) -> bool {
        matches!(self, Self::Nothing)
    }

    /// Moves a reader of a complete body to the range, if there is a single one.
    pub(crate) fn seek(self, reader: &mut Reader) -> Self {
        match self {
            Self::Ranges(cutter) if cutter.seek(reader) => Self::Whole,
            content => content,
        }
    }

    /// Cuts the next piece of the whole content. Returns the part that the client gets, if any.
    pub(crate) fn cut(&mut self, piece: Option<Bytes>) -> Option<Bytes> {
        match self {
            Self::Nothing => None,
            Self::Whole => piece,
            Self::Ranges(cutter) => {
                let part = cutter.cut(&piece?);
                Some(part).filter(|part| !part.is_empty())
            }
        }
    }

    /// Returns true if the client has all that it gets, whatever follows.
    pub(crate) fn is_over(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Whole => false,
            Self::Ranges(cutter) => cutter.ranges.is_empty(),
        }
    }
}

/// Ranges that are cut out of a body while it passes.
#[derive(Debug)]
pub(crate) struct RangeCutter {
    /// Ranges of which not everything was cut yet, in ascending order without overlaps.
    ranges: Vec<Range<u64>>,
    /// Position of the next piece in the body.
    at: u64,
    /// Frame around each range, if there were several.
    multipart: Option<Multipart>,
}

/// Framing of several ranges as `multipart/byteranges` (RFC 9110, 14.6).
#[derive(Debug)]
struct Multipart {
    boundary: String,
    content_type: Option<String>,
    /// Length of the whole body.
    length: u64,
}

impl RangeCutter {
    fn new(ranges: &[Range<usize>], multipart: Option<Multipart>) -> Self {
        let range = |range: &Range<usize>| range.start as u64..range.end as u64;
        Self {
            // The next one is the last.
            ranges: ranges.iter().rev().map(range).collect(),
            at: 0,
            multipart,
        }
    }

    fn seek(&self, reader: &mut Reader) -> bool {
        match (&self.ranges[..], &self.multipart) {
            ([range], None) => reader.seek(range.start, Some(range.end)),
            _ => false,
        }
    }

    fn cut(&mut self, piece: &Bytes) -> Bytes {
        let start = self.at;
        let end = start + piece.len() as u64;
        self.at = end;
        let mut out = BytesMut::new();
        while let Some(range) = self.ranges.last().filter(|range| range.start < end) {
            let range = range.clone();
            let within =
                |offset: u64| usize::try_from(offset.clamp(start, end) - start).unwrap_or_default();
            let part = piece.slice(within(range.start)..within(range.end));
            if range.end <= end {
                self.ranges.pop();
            }
            let Some(multipart) = &self.multipart else {
                return part;
            };
            if range.start >= start {
                out.extend_from_slice(multipart.part(&range).as_bytes());
            }
            out.extend_from_slice(&part);
            if self.ranges.is_empty() {
                out.extend_from_slice(multipart.end().as_bytes());
            }
            if range.end > end {
                break;
            }
        }
        out.freeze()
    }
}

impl Multipart {
    fn new(info: MultiRangeInfo, length: u64) -> Self {
        Self {
            boundary: info.boundary,
            content_type: info.content_type,
            length,
        }
    }

    /// Returns what stands before a range.
    fn part(&self, range: &Range<u64>) -> String {
        let (boundary, length) = (&self.boundary, self.length);
        let (start, last) = (range.start, range.end - 1);
        let content_type = self.content_type.as_ref();
        let content_type =
            content_type.map_or_else(String::new, |it| format!("Content-Type: {it}\r\n"));
        format!(
            "\r\n--{boundary}\r\n{content_type}Content-Range: bytes {start}-{last}/{length}\r\n\r\n"
        )
    }

    /// Returns what stands after the last range.
    fn end(&self) -> String {
        format!("\r\n--{}--\r\n", self.boundary)
    }
}

/// Finds the ranges of a `response` that the request asks for, and makes its headers those of a 206
/// or 416. For an empty body it ignores `Range` (RFC 9110, 14.2), as nginx does for ranges from its
/// start: `Content-Range` cannot name a part of it. A route may leave responses whole whose origin
/// announces no ranges (RFC 9110, 14.3).
pub(super) fn choose(
    request: &RequestHeader,
    response: &mut ResponseHeader,
    ctx: &Context,
) -> Content {
    if request.method != Method::GET
        || !request.headers.contains_key(header::RANGE)
        || is_weakly_conditional(request, response)
    {
        return Content::Whole;
    }
    let length = response.headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| decimal(length.as_bytes()));
    let Some(length @ 1..) = length else {
        return Content::Whole;
    };
    let announced = response.headers.get(header::ACCEPT_RANGES);
    let is_announced = announced.is_some();
    if announced.is_none_or(|units| units.as_bytes().eq_ignore_ascii_case(b"none"))
        && context::cache(&ctx.gateway, ctx.route)
            .is_some_and(|cache| cache.policy.ranges == Ranges::Announced)
    {
        return Content::Whole;
    }
    let range = match readable(request, length) {
        None => range_header_filter(request, response, Some(MAX_RANGES)),
        Some(request) => range_header_filter(&request, response, Some(MAX_RANGES)),
    };
    if !is_announced {
        // Without a range, what is sent from the store has none either.
        response.remove_header(&header::ACCEPT_RANGES);
    }
    match range {
        RangeType::None => Content::Whole,
        RangeType::Invalid => Content::Nothing,
        RangeType::Single(range) => Content::Ranges(RangeCutter::new(&[range], None)),
        RangeType::Multi(info) => {
            let ranges = info.ranges.clone();
            let multipart = Multipart::new(info, length);
            Content::Ranges(RangeCutter::new(&ranges, Some(multipart)))
        }
    }
}

/// Returns `request` with ranges that Pingora reads as they are meant, if it has others. Those of the
/// last 0 bytes, which it takes for empty ranges, cannot be satisfied (RFC 9110, 14.1.2), and are
/// left out; if no range is left, there is one behind the end of a body of this `length`, which gives
/// 416. Positions that no integer holds, which it takes for missing ones, are the largest integer.
fn readable(request: &RequestHeader, length: u64) -> Option<RequestHeader> {
    let ranges = request.headers.get(header::RANGE)?.to_str().ok()?;
    let (unit, listed) = ranges.split_once('=')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
    let is_empty = |range: &&str| {
        let suffix = range.trim().strip_prefix('-');
        suffix.is_some_and(|digits| is_number(digits) && digits.bytes().all(|it| it == b'0'))
    };
    let bounded = |position: &str| {
        let digits = position.trim();
        if is_number(digits) && digits.parse::<usize>().is_err() {
            usize::MAX.to_string()
        } else {
            position.to_owned()
        }
    };
    let kept = listed.split(',').filter(|range| !is_empty(range));
    let kept: Vec<String> = kept
        .map(|range| match range.split_once('-') {
            Some((first, last)) => format!("{}-{}", bounded(first), bounded(last)),
            None => range.to_owned(),
        })
        .collect();
    let kept = match kept.join(",") {
        kept if kept == listed => return None,
        none if none.trim().is_empty() => format!("{length}-"),
        kept => kept,
    };
    let mut request = request.clone();
    let value = HeaderValue::try_from(format!("{unit}={kept}")).ok()?;
    request.insert_header(header::RANGE, value).ok()?;
    Some(request)
}

/// Returns true if `If-Range` says nothing of single bytes (RFC 9110, 13.1.5): a weak tag, or a date
/// at which the content may have changed after the response was made (RFC 9110, 8.8.2.2).
fn is_weakly_conditional(request: &RequestHeader, response: &ResponseHeader) -> bool {
    let mut tags = request.headers.get_all(header::IF_RANGE).iter();
    tags.any(|tag| match tag.as_bytes().trim_ascii() {
        [b'W' | b'w', b'/', ..] => true,
        [b'"', ..] => false,
        _ => {
            let modified = response.headers.get(header::LAST_MODIFIED);
            modified.is_some() && modified == response.headers.get(header::DATE)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = b"0123456789";

    fn multipart() -> Multipart {
        Multipart {
            boundary: "b".to_owned(),
            content_type: Some("text/plain".to_owned()),
            length: 10,
        }
    }

    /// Cuts a body that arrives in pieces of this length. Returns what was cut, and the bytes that
    /// it needed.
    fn cut(cutter: RangeCutter, length: usize) -> (Vec<u8>, usize) {
        let mut content = Content::Ranges(cutter);
        let (mut out, mut read) = (Vec::new(), 0);
        for piece in BODY.chunks(length) {
            if content.is_over() {
                break;
            }
            read += piece.len();
            let part = content.cut(Some(Bytes::from_static(piece)));
            out.extend_from_slice(&part.unwrap_or_default());
        }
        assert!(content.is_over());
        (out, read)
    }

    #[test]
    fn one_range_is_cut_out_wherever_pieces_end() {
        for start in 0..10 {
            for end in start + 1..=10 {
                for length in 1..=10 {
                    let range = start..end;
                    let cutter = RangeCutter::new(std::slice::from_ref(&range), None);
                    let (out, read) = cut(cutter, length);
                    assert_eq!(out, &BODY[start..end]);
                    assert!(read < end + length, "nothing after the range is needed");
                }
            }
        }
    }

    #[test]
    fn ranges_are_read_as_they_are_meant() {
        for (sent, asked) in [
            ("bytes=0-0,-0", Some("bytes=0-0")),
            ("bytes=-0", Some("bytes=17-")),
            ("bytes= -00 , 2-", Some("bytes= 2-")),
            ("bytes=-10,0-0", None),
            ("bytes=-", None),
            ("bytes=5-1", None),
            ("bytes=0-18446744073709551615", None),
            (
                "bytes=0-99999999999999999999",
                Some("bytes=0-18446744073709551615"),
            ),
            (
                "bytes=99999999999999999999-5",
                Some("bytes=18446744073709551615-5"),
            ),
            (
                "bytes=-99999999999999999999",
                Some("bytes=-18446744073709551615"),
            ),
        ] {
            let mut request = RequestHeader::build(Method::GET, b"/", None).unwrap();
            request.insert_header("range", sent).unwrap();
            let request = readable(&request, 17);
            let range = request.as_ref().map(|request| &request.headers["range"]);
            assert_eq!(
                range.map(HeaderValue::as_bytes),
                asked.map(str::as_bytes),
                "{sent}"
            );
        }
    }

    #[test]
    fn several_ranges_are_framed_with_the_announced_length() {
        let expected = "\r\n--b\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-2/10\r\n\r\n012\
            \r\n--b\r\nContent-Type: text/plain\r\nContent-Range: bytes 3-3/10\r\n\r\n3\
            \r\n--b\r\nContent-Type: text/plain\r\nContent-Range: bytes 6-8/10\r\n\r\n678\
            \r\n--b--\r\n";
        let ranges = [0..3, 3..4, 6..9];
        for length in 1..=10 {
            let cutter = RangeCutter::new(&ranges, Some(multipart()));
            assert_eq!(cut(cutter, length).0, expected.as_bytes(), "{length}");
        }
        let mut response = ResponseHeader::build(200, None).unwrap();
        response.insert_header("content-length", "10").unwrap();
        response
            .insert_header("content-type", "text/plain")
            .unwrap();
        let mut request = RequestHeader::build(Method::GET, b"/", None).unwrap();
        request.insert_header("range", "bytes=0-2,3-3,6-8").unwrap();
        let RangeType::Multi(info) = range_header_filter(&request, &mut response, None) else {
            panic!("there are several ranges");
        };
        // Its boundary has 16 characters, in four places each.
        let longer = 4 * (info.boundary.len() - 1);
        let length = decimal(response.headers["content-length"].as_bytes());
        assert_eq!(length, Some((expected.len() + longer) as u64));
        let content_type = response.headers["content-type"].to_str().unwrap();
        assert!(content_type.ends_with(&format!("boundary={}", info.boundary)));
    }
}
