//! HTTP grammar that several slices need: lists, q-values, media types, entity tags.
//!
//! Everything here parses header bytes in place: no allocation, no panic on any input.

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Conditions, and what asks for a part: headers about the copy of a response that a client has.
pub const ABOUT_COPIES: [HeaderName; 6] = [
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::IF_UNMODIFIED_SINCE,
    header::RANGE,
];

/// Splits one comma-separated field value into its members, trimmed, without empty ones.
///
/// A comma inside a quoted string does not separate members.
pub fn list(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            let end = unquoted(rest, b',').unwrap_or(rest.len());
            let member = rest[..end].trim_ascii();
            rest = rest.get(end + 1..).unwrap_or_default();
            if !member.is_empty() {
                return Some(member);
            }
        }
        None
    })
}

/// Splits a list of entity tags. A `\` is no escape in a tag (RFC 9110, 8.8.3), so that [`list`]
/// does not fit.
pub fn entity_tags(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut is_quoted = false;
    value
        .split(move |byte| {
            is_quoted ^= *byte == b'"';
            *byte == b',' && !is_quoted
        })
        .map(<[u8]>::trim_ascii)
        .filter(|tag| !tag.is_empty())
}

/// Returns the members of a list field over all of its lines.
pub fn list_of<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers
        .get_all(name)
        .iter()
        .flat_map(|line| list(line.as_bytes()))
}

/// Returns the place of the URL in a value of `Refresh`, or in the beginning of one: `5; url=/a`.
pub fn url_of_refresh(text: &str) -> Option<usize> {
    let start = text.find([';', ','])? + 1;
    let rest = text[start..].trim_start();
    let is_named = rest
        .get(..3)
        .is_some_and(|name| name.eq_ignore_ascii_case("url"));
    let url = is_named.then(|| rest[3..].trim_start().strip_prefix('='));
    let url = url.flatten().unwrap_or(rest);
    Some(text.len() - url.trim_start_matches([' ', '\t', '"', '\'']).len())
}

/// Returns true if a list field has this member, ignoring case: `no-transform` in `Cache-Control`.
///
/// A member's argument (`max-age=5`) and parameters are not part of its name.
pub fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    list_of(headers, name).any(|member| {
        let end = member
            .iter()
            .position(|b| matches!(b, b'=' | b';'))
            .unwrap_or(member.len());
        member[..end]
            .trim_ascii_end()
            .eq_ignore_ascii_case(token.as_bytes())
    })
}

/// Returns true if a header has this name. Compares each name: among a dozen headers that takes a
/// fifth of the instructions of a lookup, which hashes the name.
#[inline]
pub fn has(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.keys().any(|own| own == name)
}

/// Returns the values of the header with this name, in their order. Compares each name, as [`has`]
/// does.
#[inline]
pub fn values<'a>(
    headers: &'a HeaderMap,
    name: &'a HeaderName,
) -> impl Iterator<Item = &'a HeaderValue> {
    let named = headers.iter().filter(move |(own, _)| *own == name);
    named.map(|(_, value)| value)
}

/// Returns true if an HTTP/1.1 request with these headers asks for a WebSocket: both the protocol
/// and the connection name the upgrade (RFC 6455, 4.2.1; RFC 9110, 7.8).
#[inline]
pub fn asks_for_websocket(headers: &HeaderMap) -> bool {
    const UPGRADE: HeaderName = http::header::UPGRADE;
    const CONNECTION: HeaderName = http::header::CONNECTION;
    has(headers, &UPGRADE)
        && has_token(headers, &UPGRADE, "websocket")
        && has_token(headers, &CONNECTION, "upgrade")
}

/// Appends a header line of HTTP/1 (RFC 9112, 5).
pub fn write_header_line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Returns true for bytes of a token (RFC 9110, 5.6.2).
pub fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Splits a member of a list at its semicolons outside of quoted strings: its name, then its
/// parameters.
pub fn parameters(member: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(member);
    std::iter::from_fn(move || {
        let text = rest?;
        let end = unquoted(text, b';').unwrap_or(text.len());
        rest = text.get(end + 1..);
        Some(text[..end].trim_ascii())
    })
}

/// Position of the first `wanted` outside of quoted strings.
fn unquoted(bytes: &[u8], wanted: u8) -> Option<usize> {
    let mut is_quoted = false;
    let mut index = 0;
    while let Some(&byte) = bytes.get(index) {
        match byte {
            b'\\' if is_quoted => index += 1,
            b'"' => is_quoted = !is_quoted,
            _ if byte == wanted && !is_quoted => return Some(index),
            _ => {}
        }
        index += 1;
    }
    None
}

/// A q-value in thousandths: 0 (not acceptable) to 1000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u16);

impl Weight {
    pub const NONE: Self = Self(0);
    pub const FULL: Self = Self(1000);

    /// Parses `0`, `0.5`, `1.000`. Digits beyond the third are dropped; `None` if the text is not a
    /// q-value.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (integer, digits) = match text {
            [integer @ (b'0' | b'1')] => (*integer, &[][..]),
            [integer @ (b'0' | b'1'), b'.', digits @ ..] => (*integer, digits),
            _ => return None,
        };
        if !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let digit = |at: usize| u16::from(digits.get(at).map_or(0, |b| b - b'0'));
        let thousandths =
            u16::from(integer - b'0') * 1000 + digit(0) * 100 + digit(1) * 10 + digit(2);
        (thousandths <= 1000).then_some(Self(thousandths))
    }

    pub fn is_wanted(self) -> bool {
        self.0 > 0
    }
}

/// Splits a member of `Accept` or `Accept-Encoding` into its name and its weight, which defaults to
/// [`Weight::FULL`]. `None` for a member with an invalid weight.
///
/// Parameters of the media type are dropped: `text/html;level=1;q=0.5` names `text/html`.
pub fn weighted(member: &[u8]) -> Option<(&[u8], Weight)> {
    let mut parts = parameters(member);
    let name = parts.next()?;
    let mut weight = Weight::FULL;
    for parameter in parts {
        if let [b'q' | b'Q', value @ ..] = parameter {
            // RFC 9110, 12.4.2: no space around the `=`. Some clients send one nevertheless.
            if let [b'=', value @ ..] = value.trim_ascii_start() {
                weight = Weight::parse(value.trim_ascii())?;
            }
        }
    }
    (!name.is_empty()).then_some((name, weight))
}

/// Returns true if `value` begins with `text`, which is in lower case, ignoring case.
#[inline]
pub fn begins_with(value: &[u8], text: &[u8]) -> bool {
    value
        .get(..text.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(text))
}

/// Returns true if these headers belong to a gRPC call or to its response, with any message
/// encoding. gRPC-Web does not count: to intermediaries it is plain HTTP.
pub fn is_call(headers: &HeaderMap) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| {
        let text = kind.as_bytes();
        // RFC 9110, 8.3.1: media types are case-insensitive.
        begins_with(text, GRPC) && matches!(text.get(GRPC.len()), None | Some(b'+' | b';' | b' '))
    })
}

/// Returns `text/html` of `text/html; charset=utf-8`, its case as sent.
pub fn essence(content_type: &[u8]) -> &[u8] {
    let end = content_type
        .iter()
        .position(|b| matches!(b, b';' | b','))
        .unwrap_or(content_type.len());
    content_type[..end].trim_ascii()
}

/// Result of weakening an entity tag when its representation gets another content coding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WeakenedTag {
    /// Already a weak tag.
    Already,
    /// The weak form of a strong one.
    Weak(HeaderValue),
    /// Invalid entity tag, such as one without quotes: it cannot be weakened.
    Malformed,
}

/// Turns `"x"` into `W/"x"`.
pub fn weakened(etag: &HeaderValue) -> WeakenedTag {
    match etag.as_bytes() {
        [b'W', b'/', b'"', .., b'"'] => WeakenedTag::Already,
        [b'"', .., b'"'] => {
            let mut weak = Vec::with_capacity(etag.len() + 2);
            weak.extend_from_slice(b"W/");
            weak.extend_from_slice(etag.as_bytes());
            HeaderValue::from_maybe_shared(bytes::Bytes::from(weak))
                .map_or(WeakenedTag::Malformed, WeakenedTag::Weak)
        }
        _ => WeakenedTag::Malformed,
    }
}

/// Returns true if `Vary` already names this field, or everything (`*`).
///
/// Callers check before they add a field, so that it is listed once.
pub fn varies_by(headers: &HeaderMap, field: &HeaderName) -> bool {
    let field = field.as_str().as_bytes();
    // Letters are the same but for the first ones of words: faster than folding each of both.
    let is_letter = |(byte, own): (&u8, &u8)| byte == own || byte.to_ascii_lowercase() == *own;
    let is_field =
        |member: &[u8]| member.len() == field.len() && member.iter().zip(field).all(is_letter);
    let names = |member: &[u8]| member == b"*" || is_field(member);
    let mut lines = values(headers, &http::header::VARY).map(HeaderValue::as_bytes);
    // Most lines have one member, and splitting costs more than all headers.
    lines.any(|line| names(line) || list(line).any(names))
}

/// Returns a value with this number. `HeaderValue::from` makes room for it twice.
pub fn number(number: impl Into<u64>) -> HeaderValue {
    let number = number.into();
    let mut digits = itoa::Buffer::new();
    HeaderValue::from_str(digits.format(number)).unwrap_or_else(|_| number.into())
}

/// Returns `Content-Length`, if it is present and all of its values agree.
pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    let mut values = list_of(headers, &http::header::CONTENT_LENGTH).map(decimal);
    let first = values.next()??;
    values.all(|other| other == Some(first)).then_some(first)
}

/// Parses a number that consists of digits alone.
pub fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_LENGTH, VARY};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn calls_are_known_by_their_content_type() {
        for (text, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/gRPC+proto", true),
            ("application/grpc; charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/json", false),
            ("", false),
        ] {
            let value = HeaderValue::from_static(text);
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, value)]);
            assert_eq!(is_call(&headers), expected, "{text}");
        }
    }

    #[test]
    fn the_url_of_refresh_is_found_as_browsers_find_it() {
        for (text, url) in [
            ("5; url=/a", "/a"),
            ("0;URL = 'http://a/'", "http://a/'"),
            ("0, /a", "/a"),
            ("0;urls", "urls"),
            ("0; url=", ""),
        ] {
            let start = url_of_refresh(text).unwrap();
            assert_eq!(&text[start..], url, "{text}");
        }
        assert_eq!(url_of_refresh("5"), None);
    }

    fn members(value: &str) -> Vec<&str> {
        list(value.as_bytes())
            .map(|m| std::str::from_utf8(m).unwrap())
            .collect()
    }

    fn lines(name: &HeaderName, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn lists_are_split_at_commas_outside_of_quotes() {
        assert_eq!(members("a, b ,c"), ["a", "b", "c"]);
        assert_eq!(members(" ,, a,,"), ["a"]);
        assert_eq!(members(r#"x="a,b", y"#), [r#"x="a,b""#, "y"]);
        assert_eq!(members(r#"x="a\",b", y"#), [r#"x="a\",b""#, "y"]);
        assert_eq!(members(r#""never closed, b"#), [r#""never closed, b"#]);
        assert!(members("").is_empty());
    }

    #[test]
    fn a_backslash_does_not_escape_the_end_of_an_entity_tag() {
        let tags: Vec<_> = entity_tags(br#" "a,b\", W/"c" ,, x"#).collect();
        assert_eq!(tags, [&br#""a,b\""#[..], br#"W/"c""#, b"x"]);
    }

    #[test]
    fn a_token_is_found_on_any_line_and_not_inside_of_others() {
        let headers = lines(&CACHE_CONTROL, &["public", "max-age=5, No-Transform"]);
        assert!(has_token(&headers, &CACHE_CONTROL, "no-transform"));
        assert!(has_token(&headers, &CACHE_CONTROL, "max-age"));
        assert!(!has_token(&headers, &CACHE_CONTROL, "no"));
        let quoted = lines(&CACHE_CONTROL, &[r#"ext="a, no-transform""#]);
        assert!(!has_token(&quoted, &CACHE_CONTROL, "no-transform"));
    }

    #[test]
    fn weights_read_as_thousandths() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1", Some(1000)),
            ("0.", Some(0)),
            ("0.5", Some(500)),
            ("0.125", Some(125)),
            ("0.0019", Some(1)),
            ("1.000", Some(1000)),
            ("1.001", None),
            ("2", None),
            ("-1", None),
            (".5", None),
            ("0.x", None),
            ("", None),
        ] {
            assert_eq!(
                Weight::parse(text.as_bytes()),
                expected.map(Weight),
                "{text}"
            );
        }
    }

    #[test]
    fn a_member_is_its_name_and_its_weight() {
        for (member, expected) in [
            ("gzip", Some(("gzip", 1000))),
            ("gzip;q=0", Some(("gzip", 0))),
            ("br ; Q=0.5", Some(("br", 500))),
            ("br; q = 0.5", Some(("br", 500))),
            ("text/html;level=1;q=0.7", Some(("text/html", 700))),
            (r#"a/b;x="1;q=0.1";q=0.2"#, Some(("a/b", 200))),
            ("gzip;quality=1", Some(("gzip", 1000))),
            ("gzip;q=", None),
            ("gzip;q=nan", None),
            (";q=1", None),
        ] {
            let read = weighted(member.as_bytes());
            assert_eq!(
                read.map(|(name, w)| (std::str::from_utf8(name).unwrap(), w.0)),
                expected,
                "{member}"
            );
        }
    }

    #[test]
    fn an_accept_header_is_a_list_of_weighted_members() {
        let headers = lines(&ACCEPT, &["text/html,application/json;q=0.9", "*/*;q=0.1"]);
        let read: Vec<_> = list_of(&headers, &ACCEPT).filter_map(weighted).collect();
        assert_eq!(read.len(), 3);
        assert_eq!(read[2], (&b"*/*"[..], Weight(100)));
    }

    #[test]
    fn the_essence_has_no_parameters() {
        assert_eq!(essence(b"text/html; charset=utf-8"), b"text/html");
        assert_eq!(essence(b" Text/HTML "), b"Text/HTML");
        assert_eq!(essence(b""), b"");
    }

    #[test]
    fn strong_tags_become_weak_and_weak_ones_stay() {
        let tag = |text: &'static str| weakened(&HeaderValue::from_static(text));
        assert_eq!(
            tag(r#""x""#),
            WeakenedTag::Weak(HeaderValue::from_static(r#"W/"x""#))
        );
        assert_eq!(tag(r#"W/"x""#), WeakenedTag::Already);
        assert_eq!(tag("x"), WeakenedTag::Malformed);
        assert_eq!(tag("\""), WeakenedTag::Malformed);
        assert_eq!(tag("W/x"), WeakenedTag::Malformed);
    }

    #[test]
    fn vary_is_looked_up_by_name_on_any_line() {
        let headers = lines(&VARY, &["rsc, Accept-encoding", "Origin"]);
        assert!(varies_by(&headers, &http::header::ACCEPT_ENCODING));
        assert!(varies_by(&headers, &http::header::ORIGIN));
        assert!(!varies_by(&headers, &ACCEPT));
        assert!(varies_by(&lines(&VARY, &["*"]), &ACCEPT));
    }

    #[test]
    fn content_lengths_must_agree() {
        let length = |values: &[&str]| content_length(&lines(&CONTENT_LENGTH, values));
        assert_eq!(length(&["12"]), Some(12));
        assert_eq!(length(&["12", "12, 12"]), Some(12));
        assert_eq!(length(&["12", "13"]), None);
        assert_eq!(length(&["+12"]), None);
        assert_eq!(length(&["99999999999999999999"]), None);
        assert_eq!(length(&[]), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            for member in list(&bytes) {
                prop_assert!(!member.is_empty());
                weighted(member);
            }
            weighted(&bytes);
            Weight::parse(&bytes);
            essence(&bytes);
            decimal(&bytes);
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                weakened(&value);
                let mut headers = HeaderMap::new();
                headers.insert(CACHE_CONTROL, value);
                has_token(&headers, &CACHE_CONTROL, "no-transform");
            }
        }

        #[test]
        fn grammar_made_of_its_own_signs_does_not_panic(text in r#"[a,;q=0.1"\\ W/]{0,40}"#) {
            for member in list(text.as_bytes()) {
                weighted(member);
            }
        }

        #[test]
        fn plain_members_come_back(items in proptest::collection::vec("[a-z]{1,5}", 0..6)) {
            let joined = items.join(" ,");
            prop_assert_eq!(members(&joined), items);
        }
    }
}
