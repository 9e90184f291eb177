//! Headers of a stored response in one allocation: a fraction of the memory of a [`HeaderMap`], and
//! of the lines of memory that a hit reads.
#![allow(
    unsafe_code,
    reason = "values that were valid when they were stored are not validated on each hit"
)]

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::allocation::allocated;

/// Headers of a stored response, in the order of the [`HeaderMap`] that they were made of.
///
/// The first two bytes are the number of values. For each value follow the code of its name, the
/// length of the value and the value; between code and length of a name without a code are its
/// length and its text.
#[derive(Clone)]
pub(super) struct StoredHeaders(Arc<[u8]>);

/// Room in a [`HeaderMap`] for headers that are added to each response, such as `Age`.
const SPARE: usize = 6;

/// Code of a name that follows as text.
const TEXT: u8 = 0;
/// Bit of a code: the value is sensitive ([`HeaderValue::is_sensitive`]).
const SENSITIVE: u8 = 0x80;
/// Codes from here on are of [`LEARNED`] names; those below are of [`COMMON`] ones.
const FIRST_LEARNED: u8 = 48;
/// A longer name is never learned.
const LONGEST_LEARNED: usize = 64;

/// Names that have a code from the start.
static COMMON: [HeaderName; 40] = [
    header::CONTENT_TYPE,
    header::CONTENT_LENGTH,
    header::DATE,
    header::CACHE_CONTROL,
    header::ETAG,
    header::LAST_MODIFIED,
    header::VARY,
    header::EXPIRES,
    header::CONTENT_ENCODING,
    header::SERVER,
    header::ACCEPT_RANGES,
    header::LINK,
    header::LOCATION,
    header::CONTENT_LANGUAGE,
    header::CONTENT_DISPOSITION,
    header::CONTENT_LOCATION,
    header::CONTENT_SECURITY_POLICY,
    header::STRICT_TRANSPORT_SECURITY,
    header::REFERRER_POLICY,
    header::X_CONTENT_TYPE_OPTIONS,
    header::X_DNS_PREFETCH_CONTROL,
    header::X_FRAME_OPTIONS,
    header::X_XSS_PROTECTION,
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    header::SET_COOKIE,
    header::AGE,
    HeaderName::from_static("x-powered-by"),
    HeaderName::from_static("x-nextjs-cache"),
    HeaderName::from_static("x-nextjs-prerender"),
    HeaderName::from_static("x-nextjs-stale-time"),
    HeaderName::from_static("x-nextjs-postponed"),
    HeaderName::from_static("x-next-cache-tags"),
    HeaderName::from_static("permissions-policy"),
    HeaderName::from_static("cross-origin-opener-policy"),
    HeaderName::from_static("cross-origin-resource-policy"),
    HeaderName::from_static("origin-agent-cluster"),
];

/// Names that responses had, the first ones to come: an origin uses few, and each costs its text
/// once. The rest of them are stored as text.
static LEARNED: [OnceLock<HeaderName>; 80] = [const { OnceLock::new() }; 80];

/// Returns the code of a name, or [`TEXT`].
fn code(name: &HeaderName) -> u8 {
    let number = |index: usize| u8::try_from(index).unwrap_or(TEXT);
    if let Some(index) = COMMON.iter().position(|common| common == name) {
        return number(index + 1);
    }
    if name.as_str().len() > LONGEST_LEARNED {
        return TEXT;
    }
    let known = |slot: &OnceLock<HeaderName>| {
        // A name without a count of references: processors would contend for it on each hit.
        slot.get_or_init(|| HeaderName::from_static(Box::leak(name.as_str().into()))) == name
    };
    let index = LEARNED.iter().position(known);
    index.map_or(TEXT, |index| FIRST_LEARNED + number(index))
}

/// Returns the name of a code other than [`TEXT`].
fn name(code: u8) -> &'static HeaderName {
    let name = match code.checked_sub(FIRST_LEARNED) {
        Some(at) => LEARNED.get(usize::from(at)).and_then(OnceLock::get),
        None => COMMON.get(usize::from(code) - 1),
    };
    name.expect("a code that was given stays")
}

/// A value in the bytes, with its name.
struct Field<'a> {
    /// Text of the name if `code` is [`TEXT`].
    text: &'a [u8],
    code: u8,
    is_sensitive: bool,
    /// Position of the value.
    start: usize,
    end: usize,
}

impl StoredHeaders {
    pub(super) fn new(headers: &HeaderMap) -> Self {
        let mut bytes = Vec::with_capacity(256);
        let count = u16::try_from(headers.len()).expect("a map has no more than 32,768 values");
        bytes.extend_from_slice(&count.to_le_bytes());
        for (name, value) in headers {
            let code = code(name);
            let sensitive = if value.is_sensitive() { SENSITIVE } else { 0 };
            bytes.push(code | sensitive);
            if code == TEXT {
                put_length(&mut bytes, name.as_str().len());
                bytes.extend_from_slice(name.as_str().as_bytes());
            }
            put_length(&mut bytes, value.len());
            bytes.extend_from_slice(value.as_bytes());
        }
        Self(bytes.into())
    }

    /// Returns the headers as a map with some room for more. The values are slices of these bytes.
    pub(super) fn to_map(&self) -> HeaderMap {
        let bytes = Bytes::from_owner(Arc::clone(&self.0));
        let mut map = HeaderMap::with_capacity(self.len() + SPARE);
        for field in self.fields() {
            let name = match field.code {
                TEXT => HeaderName::from_bytes(field.text).expect("it was a name before"),
                code => name(code).clone(),
            };
            let value = bytes.slice(field.start..field.end);
            // SAFETY: `new` copied these bytes from a `HeaderValue`, and nothing changes them.
            let mut value = unsafe { HeaderValue::from_maybe_shared_unchecked(value) };
            if field.is_sensitive {
                value.set_sensitive(true);
            }
            map.append(name, value);
        }
        map
    }

    /// Returns the number of values.
    fn len(&self) -> usize {
        usize::from(u16::from_le_bytes([self.0[0], self.0[1]]))
    }

    /// Returns the bytes in memory.
    pub(super) fn size(&self) -> usize {
        // The counts of references.
        const COUNTS: usize = 2 * size_of::<usize>();
        allocated(COUNTS + self.0.len())
    }

    fn fields(&self) -> impl Iterator<Item = Field<'_>> {
        let mut offset = 2;
        std::iter::from_fn(move || {
            let first = *self.0.get(offset)?;
            offset += 1;
            let code = first & !SENSITIVE;
            let mut text: &[u8] = &[];
            if code == TEXT {
                let len = take_length(&self.0, &mut offset);
                text = &self.0[offset..offset + len];
                offset += len;
            }
            let len = take_length(&self.0, &mut offset);
            let start = offset;
            offset += len;
            Some(Field {
                text,
                code,
                is_sensitive: first & SENSITIVE != 0,
                start,
                end: offset,
            })
        })
    }
}

/// Writes a length in groups of seven bits, the lowest first; all but the last have the upper bit.
fn put_length(bytes: &mut Vec<u8>, mut len: usize) {
    while len >= 0x80 {
        bytes.push(0x80 | low_bits(len));
        len >>= 7;
    }
    bytes.push(low_bits(len));
}

fn low_bits(len: usize) -> u8 {
    u8::try_from(len & 0x7f).expect("seven bits fit")
}

/// Reads what [`put_length`] has written.
fn take_length(bytes: &[u8], offset: &mut usize) -> usize {
    let mut len = 0;
    let mut shift = 0;
    loop {
        let byte = bytes[*offset];
        *offset += 1;
        len |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return len;
        }
        shift += 7;
    }
}

impl fmt::Debug for StoredHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_map().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// Common names, others, more than can be learned, and one that is too long for that.
    fn names() -> impl Strategy<Value = HeaderName> {
        let any = prop_oneof![
            (0..COMMON.len()).prop_map(|at| COMMON[at].as_str().to_owned()),
            "[a-z][a-z0-9-]{0,12}",
            (0..500).prop_map(|number| format!("x-number-{number}")),
            Just("x-".repeat(LONGEST_LEARNED)),
        ];
        any.prop_map(|name| HeaderName::from_bytes(name.as_bytes()).unwrap())
    }

    fn values() -> impl Strategy<Value = HeaderValue> {
        let visible = prop_oneof![0x20..=0x7e_u8, 0x80..=0xff_u8, Just(b'\t')];
        let lengths = prop_oneof![8 => 0..40_usize, 1 => 120..140_usize, 1 => 16_380..16_390_usize];
        // Long values repeat what is drawn: each byte that is drawn costs microseconds.
        let bytes = (vec(visible, 1..40), lengths);
        (bytes, any::<bool>()).prop_map(|((drawn, len), is_sensitive)| {
            let bytes: Vec<u8> = drawn.into_iter().cycle().take(len).collect();
            let mut value = HeaderValue::from_bytes(&bytes).unwrap();
            value.set_sensitive(is_sensitive);
            value
        })
    }

    fn listed(headers: &HeaderMap) -> Vec<(&HeaderName, &HeaderValue, bool)> {
        let fields = headers.iter();
        fields
            .map(|(name, value)| (name, value, value.is_sensitive()))
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn headers_come_back_as_they_were(fields in vec((names(), values()), 0..20)) {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(name, value);
            }
            let stored = StoredHeaders::new(&headers);
            let map = stored.to_map();
            prop_assert_eq!(listed(&map), listed(&headers));
            prop_assert_eq!(stored.len(), headers.len());
            // The values outlive the entry.
            drop(stored);
            prop_assert_eq!(listed(&map), listed(&headers));
        }
    }

    #[test]
    fn a_usual_response_takes_little() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            (header::CONTENT_TYPE, "text/html; charset=utf-8"),
            (header::CONTENT_LENGTH, "1024"),
            (
                header::CACHE_CONTROL,
                "s-maxage=60, stale-while-revalidate=300",
            ),
            (header::ETAG, "\"5f3759df\""),
            (header::DATE, "Sun, 06 Nov 1994 08:49:37 GMT"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let values: usize = headers.values().map(HeaderValue::len).sum();
        let size = StoredHeaders::new(&headers).size();
        assert!(size <= allocated(values + 32), "{size} bytes for {values}");
    }
}
