//! Decides what of a file a request gets: all of it, a range, or nothing but the confirmation that
//! the client's copy is current (RFC 9110, 13 and 14).

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, Method, header};

use crate::{
    base::{http::entity_tags, http_date},
    config::model::IfModifiedSinceConfig,
};

/// Properties of a representation that conditions and ranges refer to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Validators<'a> {
    pub(crate) etag: Option<&'a HeaderValue>,
    /// Modification time in whole seconds since 1970, as in `Last-Modified`.
    pub(crate) modified: Option<u64>,
    /// Dates that confirm the client's copy.
    pub(crate) dates: IfModifiedSinceConfig,
    pub(crate) size: u64,
}

/// Part of a representation that a request gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Selection {
    Whole,
    /// Bytes from the first number up to, and without, the second.
    Range(u64, u64),
    NotModified,
    PreconditionFailed,
    Unsatisfiable,
}

/// Selects the part of a representation that this `GET` or `HEAD` gets.
pub(crate) fn select(method: &Method, headers: &HeaderMap, of: Validators<'_>) -> Selection {
    // One pass over the names costs less than a lookup of each.
    let is_relevant = |name: &http::HeaderName| {
        matches!(
            *name,
            header::IF_MATCH
                | header::IF_UNMODIFIED_SINCE
                | header::IF_NONE_MATCH
                | header::IF_MODIFIED_SINCE
                | header::RANGE
        )
    };
    if !headers.keys().any(is_relevant) {
        return Selection::Whole;
    }
    if headers.contains_key(header::IF_MATCH) {
        if !has_tag(headers, header::IF_MATCH, of.etag, Comparison::Strong) {
            return Selection::PreconditionFailed;
        }
    } else if let Some(since) = date(headers, header::IF_UNMODIFIED_SINCE)
        // RFC 9110, 13.1.4: a file without a modification time ignores it.
        && of.modified.is_some_and(|modified| modified > since)
    {
        return Selection::PreconditionFailed;
    }
    if headers.contains_key(header::IF_NONE_MATCH) {
        // RFC 9110, 13.1.3: the date is ignored if `If-None-Match` is present.
        if has_tag(headers, header::IF_NONE_MATCH, of.etag, Comparison::Weak) {
            return Selection::NotModified;
        }
    } else if let Some(since) = date(headers, header::IF_MODIFIED_SINCE)
        && of.modified.is_some_and(|modified| match of.dates {
            IfModifiedSinceConfig::Later => modified <= since,
            IfModifiedSinceConfig::Exact => modified == since,
        })
    {
        return Selection::NotModified;
    }
    // RFC 9110, 14.2: ranges are defined for GET only.
    if *method != Method::GET {
        return Selection::Whole;
    }
    match single(headers, header::RANGE) {
        Some(range) if is_current(headers, of) => range_of(range.as_bytes(), of.size),
        _ => Selection::Whole,
    }
}

/// Returns the value of a header that is present once.
fn single(headers: &HeaderMap, name: http::HeaderName) -> Option<&HeaderValue> {
    let mut lines = headers.get_all(name).iter();
    let first = lines.next()?;
    lines.next().is_none().then_some(first)
}

fn date(headers: &HeaderMap, name: http::HeaderName) -> Option<u64> {
    seconds(http_date::parse(single(headers, name)?.as_bytes())?)
}

/// Returns the whole seconds since 1970.
pub(crate) fn seconds(time: SystemTime) -> Option<u64> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.ok().as_ref().map(Duration::as_secs)
}

/// Returns the `Last-Modified` of a time in seconds since 1970.
pub(crate) fn last_modified(seconds: u64) -> Option<HeaderValue> {
    // A later year has no date in HTTP.
    let seconds = Some(seconds).filter(|seconds| *seconds < 253_402_300_800)?;
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    HeaderValue::try_from(httpdate::fmt_http_date(time)).ok()
}

/// Returns the `Content-Range` of the bytes from `start` up to, and without, `end`.
pub(crate) fn content_range(start: u64, end: u64, size: u64) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("bytes {start}-{}/{size}", end - 1)).ok()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Strong,
    Weak,
}

/// Returns true if a list of entity tags has `own` in it, or is `*` (RFC 9110, 8.8.3.2).
fn has_tag(
    headers: &HeaderMap,
    name: http::HeaderName,
    etag: Option<&HeaderValue>,
    by: Comparison,
) -> bool {
    let mut lines = headers.get_all(name).iter();
    lines.any(|line| {
        let line = line.as_bytes().trim_ascii();
        if line == b"*" {
            return true;
        }
        let Some(etag) = etag.map(HeaderValue::as_bytes) else {
            return false;
        };
        entity_tags(line).any(|tag| match (tag.strip_prefix(b"W/"), by) {
            (Some(_), Comparison::Strong) => false,
            (Some(opaque), Comparison::Weak) => opaque == etag,
            (None, _) => tag == etag,
        })
    })
}

/// Returns true if `If-Range` allows a range: it is absent, or names this very representation
/// (RFC 9110, 13.1.5). Tags are compared strongly, and our own are all strong.
fn is_current(headers: &HeaderMap, of: Validators<'_>) -> bool {
    if !headers.contains_key(header::IF_RANGE) {
        return true;
    }
    let Some(value) = single(headers, header::IF_RANGE) else {
        return false;
    };
    let value = value.as_bytes().trim_ascii();
    if value.ends_with(b"\"") {
        return of.etag.is_some_and(|own| own.as_bytes() == value);
    }
    let since = http_date::parse(value).and_then(seconds);
    since.is_some() && since == of.modified
}

/// Reads a `Range` as nginx does. The whole representation is selected for another unit, for more
/// than one satisfiable range, which RFC 9110, 14.2 allows, and for a range of an empty file.
fn range_of(value: &[u8], size: u64) -> Selection {
    let is_bytes = value
        .get(..6)
        .is_some_and(|unit| unit.eq_ignore_ascii_case(b"bytes="));
    if !is_bytes || value.len() < 7 {
        return Selection::Whole;
    }
    let mut range = None;
    let mut has_several = false;
    for spec in value[6..].split(|byte| *byte == b',') {
        let Some((start, end)) = spec_of(spec, size) else {
            return Selection::Unsatisfiable;
        };
        if start < end {
            has_several |= range.is_some();
            range = Some((start, end));
        } else if start == 0 {
            return Selection::Whole;
        }
    }
    match range {
        Some(_) if has_several => Selection::Whole,
        Some((start, end)) => Selection::Range(start, end),
        None => Selection::Unsatisfiable,
    }
}

/// Reads `1-5`, `1-` or `-5` as the range from the first number up to, and without, the second.
/// `None` if it is malformed.
fn spec_of(spec: &[u8], size: u64) -> Option<(u64, u64)> {
    let trimmed = trim_spaces(spec);
    let dash = trimmed.iter().position(|byte| *byte == b'-')?;
    let (first, last) = (
        trim_end(&trimmed[..dash]),
        trim_spaces(&trimmed[dash + 1..]),
    );
    if first.is_empty() {
        // No space may follow the dash of a suffix.
        if trimmed.get(dash + 1).is_none_or(|byte| *byte == b' ') {
            return None;
        }
        let length = capped_number(last)?;
        return Some((size.saturating_sub(length), size));
    }
    let start = number(first)?;
    if last.is_empty() {
        return Some((start, size));
    }
    let last = capped_number(last)?;
    Some((start, last.saturating_add(1).min(size)))
}

fn trim_spaces(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|byte| *byte != b' ');
    trim_end(&text[start.unwrap_or(text.len())..])
}

fn trim_end(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|byte| *byte != b' ');
    &text[..end.map_or(0, |end| end + 1)]
}

/// Reads digits. `None` also for a number that does not fit a file's size.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    let number = digits.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })?;
    i64::try_from(number).ok().map(i64::unsigned_abs)
}

/// Reads a number as [`number`] does; the largest one stands for those beyond.
fn capped_number(digits: &[u8]) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    is_number.then(|| number(digits).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(method: &Method, headers: &[(&'static str, &str)]) -> Selection {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        let etag = HeaderValue::from_static("\"a-1\"");
        let validators = Validators {
            etag: Some(&etag),
            // Sun, 06 Nov 1994 08:49:37 GMT
            modified: Some(784_111_777),
            dates: IfModifiedSinceConfig::Later,
            size: 100,
        };
        select(method, &map, validators)
    }

    fn get(headers: &[(&'static str, &str)]) -> Selection {
        ask(&Method::GET, headers)
    }

    #[test]
    fn a_current_copy_is_confirmed() {
        use Selection::{NotModified, Whole};
        let earlier = "Sun, 06 Nov 1994 08:49:36 GMT";
        let same = "Sun, 06 Nov 1994 08:49:37 GMT";
        for (headers, selection) in [
            (&[("if-none-match", "\"a-1\"")][..], NotModified),
            (&[("if-none-match", "W/\"a-1\"")], NotModified),
            (&[("if-none-match", "\"x,\", \"a-1\"")], NotModified),
            (
                &[("if-none-match", "\"x\""), ("if-none-match", "\"a-1\"")],
                NotModified,
            ),
            (&[("if-none-match", "*")], NotModified),
            (&[("if-none-match", "\"a-2\"")], Whole),
            (
                &[("if-none-match", "\"a-2\""), ("if-modified-since", same)],
                Whole,
            ),
            (&[("if-modified-since", same)], NotModified),
            (
                &[("if-modified-since", "Sun, 06 Nov 2094 08:49:37 GMT")],
                NotModified,
            ),
            (&[("if-modified-since", earlier)], Whole),
            (&[("if-modified-since", "yesterday")], Whole),
            (
                &[("if-none-match", "\"a-1\""), ("range", "bytes=0-1")],
                NotModified,
            ),
        ] {
            assert_eq!(get(headers), selection, "{headers:?}");
            if !headers.iter().any(|(name, _)| *name == "range") {
                assert_eq!(ask(&Method::HEAD, headers), selection, "{headers:?}");
            }
        }
    }

    #[test]
    fn on_request_only_the_own_date_confirms_a_copy() {
        for (since, selection) in [
            ("Sun, 06 Nov 1994 08:49:36 GMT", Selection::Whole),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Selection::NotModified),
            ("Sun, 06 Nov 1994 08:49:38 GMT", Selection::Whole),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("if-modified-since", HeaderValue::from_static(since));
            let validators = Validators {
                etag: None,
                modified: Some(784_111_777),
                dates: IfModifiedSinceConfig::Exact,
                size: 100,
            };
            assert_eq!(
                select(&Method::GET, &headers, validators),
                selection,
                "{since}"
            );
        }
    }

    #[test]
    fn a_precondition_that_fails_ends_the_request() {
        use Selection::{PreconditionFailed, Whole};
        for (headers, selection) in [
            (&[("if-match", "\"a-1\"")][..], Whole),
            (&[("if-match", "*")], Whole),
            (&[("if-match", "W/\"a-1\"")], PreconditionFailed),
            (&[("if-match", "\"b\"")], PreconditionFailed),
            (
                &[("if-unmodified-since", "Sun, 06 Nov 1994 08:49:36 GMT")],
                PreconditionFailed,
            ),
            (
                &[("if-unmodified-since", "Sun, 06 Nov 1994 08:49:37 GMT")],
                Whole,
            ),
            (&[("if-unmodified-since", "never")], Whole),
        ] {
            assert_eq!(get(headers), selection, "{headers:?}");
        }
    }

    #[test]
    fn dates_are_ignored_without_a_modification_time() {
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        let validators = Validators {
            etag: None,
            modified: None,
            dates: IfModifiedSinceConfig::Later,
            size: 100,
        };
        for name in ["if-unmodified-since", "if-modified-since"] {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(date));
            let selection = select(&Method::GET, &headers, validators);
            assert_eq!(selection, Selection::Whole, "{name}");
        }
    }

    #[test]
    fn a_range_is_read_as_nginx_reads_it() {
        use Selection::{Range, Unsatisfiable, Whole};
        for (range, selection) in [
            ("bytes=0-0", Range(0, 1)),
            ("BYTES=10-", Range(10, 100)),
            ("bytes=-10", Range(90, 100)),
            ("bytes=-1000", Range(0, 100)),
            ("bytes=5-18446744073709551616", Range(5, 100)),
            ("bytes=-18446744073709551616", Range(0, 100)),
            ("bytes=18446744073709551616-", Unsatisfiable),
            ("bytes= 1 - 5 ", Range(1, 6)),
            ("bytes=5-1000", Range(5, 100)),
            ("bytes=100-", Unsatisfiable),
            ("bytes=-0", Unsatisfiable),
            ("bytes=5-4", Unsatisfiable),
            ("bytes=a-", Unsatisfiable),
            ("bytes=1", Unsatisfiable),
            ("bytes=- 5", Unsatisfiable),
            ("bytes=1-2-3", Unsatisfiable),
            ("bytes=99999999999999999999-", Unsatisfiable),
            ("bytes=0-1,4-5", Whole),
            ("bytes=0-1,200-", Range(0, 2)),
            ("bytes=", Whole),
            ("items=0-1", Whole),
        ] {
            assert_eq!(get(&[("range", range)]), selection, "{range}");
            assert_eq!(ask(&Method::HEAD, &[("range", range)]), Whole, "{range}");
        }
    }

    #[test]
    fn a_range_of_another_version_is_the_whole() {
        let range = ("range", "bytes=0-1");
        for (if_range, is_range) in [
            ("\"a-1\"", true),
            ("Sun, 06 Nov 1994 08:49:37 GMT", true),
            ("W/\"a-1\"", false),
            ("\"a-2\"", false),
            ("Sun, 06 Nov 1994 08:49:38 GMT", false),
            ("x", false),
        ] {
            let selection = get(&[range, ("if-range", if_range)]);
            assert_eq!(selection == Selection::Range(0, 2), is_range, "{if_range}");
            assert_eq!(selection == Selection::Whole, !is_range, "{if_range}");
        }
    }
}
