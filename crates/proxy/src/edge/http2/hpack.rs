//! Header blocks of responses (RFC 7541), with the table of one connection.
//!
//! The table only grows. What comes a second time enters it, until it is full, and what is in it has
//! the same number for as long as the connection lasts. Header lines that are ready enter it as a
//! set: later responses name each of them with a byte or two.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, StatusCode, header};
use smart_default::SmartDefault;

use crate::connection::response_queue::ResponseHeaders;

/// Size of the table at most, which is also what a client has that asks for none (RFC 9113, 6.5.2).
const MAX_TABLE: usize = 4096;
/// Size that each entry counts in addition to its bytes (RFC 7541, 4.1).
const ENTRY_OVERHEAD: usize = 32;
/// Number of entries of the static table, which come before those of a connection.
const STATIC_ENTRIES: usize = 61;
/// Length up to which a header may enter the table.
const MAX_ENTRY: usize = 1024;
/// Number of headers that are remembered after they came once.
const SEEN: usize = 64;
/// Sets of ready lines that are remembered; a route has two at most.
const MAX_READY: usize = 4;
/// Index of `:status` in the static table.
const STATUS: usize = 8;

/// First bits of each representation, and the number of bits for the index (RFC 7541, 6).
const INDEXED: (u8, u32) = (0x80, 7);
const INSERTED: (u8, u32) = (0x40, 6);
const NOT_INDEXED: (u8, u32) = (0x00, 4);
const NEVER_INDEXED: (u8, u32) = (0x10, 4);
const TABLE_SIZE: (u8, u32) = (0x20, 5);
/// Length of a string that is not compressed.
const LENGTH: (u8, u32) = (0x00, 7);

/// Encoder of the responses of one connection.
#[derive(Debug, SmartDefault)]
pub(super) struct HeaderEncoder {
    /// Headers in the table that can be found again.
    entries: Vec<Entry>,
    /// Names and values of the entries.
    text: Vec<u8>,
    /// Sets of ready lines in the table.
    ready: Vec<ReadySet>,
    /// Number of entries of the table, those of sets included.
    inserted: usize,
    size: usize,
    #[default(MAX_TABLE)]
    max_size: usize,
    /// True if the client has to be told the size of the table.
    is_resized: bool,
    /// Fingerprints of headers that came once.
    #[default([0; SEEN])]
    seen: [u16; SEEN],
}

#[derive(Debug)]
struct Entry {
    hash: u32,
    number: u16,
    at: u16,
    name: u16,
    value: u16,
}

/// Lines that entered the table one after the other.
#[derive(Debug)]
struct ReadySet {
    lines: Arc<[u8]>,
    first: usize,
    count: usize,
}

impl HeaderEncoder {
    /// Sets the size of the table that the client allows.
    pub(super) fn resize(&mut self, allowed: u32) {
        let max_size = usize::try_from(allowed).map_or(MAX_TABLE, |it| it.min(MAX_TABLE));
        if max_size != self.max_size {
            *self = Self {
                max_size,
                is_resized: true,
                ..Self::default()
            };
        }
    }

    /// Appends the header block of `response`.
    pub(super) fn encode(&mut self, response: &ResponseHeaders, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.is_resized) {
            // The table is empty, whatever the client still has in it.
            put_int(TABLE_SIZE, 0, out);
            put_int(TABLE_SIZE, self.max_size, out);
        }
        put_status(response.status, out);
        if let Some(lines) = &response.lines {
            self.put_ready(lines, out);
        }
        put_field(
            NOT_INDEXED,
            b"date",
            static_name(&header::DATE),
            response.date.as_bytes(),
            out,
        );
        for (name, value) in &response.headers {
            self.put(name, value, out);
        }
    }

    fn put(&mut self, name: &HeaderName, value: &HeaderValue, out: &mut Vec<u8>) {
        let text = name.as_str().as_bytes();
        let index = match *name {
            // RFC 9113, 8.2.2; `Date` is written already.
            header::CONNECTION
            | header::TRANSFER_ENCODING
            | header::UPGRADE
            | header::TE
            | header::DATE => return,
            _ if matches!(text, b"keep-alive" | b"proxy-connection") => return,
            _ => static_name(name),
        };
        let value_text = value.as_bytes();
        if value.is_sensitive() {
            return put_field(NEVER_INDEXED, text, index, value_text, out);
        }
        let length = text.len() + value_text.len();
        if length > MAX_ENTRY || *name == header::SET_COOKIE {
            return put_field(NOT_INDEXED, text, index, value_text, out);
        }
        let hash = hash(text, value_text);
        if let Some(number) = self.find(hash, text, value_text) {
            return put_int(INDEXED, self.index_of(number), out);
        }
        let is_new = !self.was_seen(hash);
        if is_new || !self.has_room(length + ENTRY_OVERHEAD) {
            return put_field(NOT_INDEXED, text, index, value_text, out);
        }
        put_field(INSERTED, text, index, value_text, out);
        self.remember(hash, text, value_text);
    }

    /// Writes lines that are ready, as what they are in the table.
    fn put_ready(&mut self, lines: &Arc<[u8]>, out: &mut Vec<u8>) {
        let known = self.ready.iter().find(|set| Arc::ptr_eq(&set.lines, lines));
        if let Some(set) = known {
            let newest = self.inserted + STATIC_ENTRIES;
            for number in set.first..set.first + set.count {
                put_int(INDEXED, newest - number, out);
            }
            return;
        }
        let size: usize = fields(lines).map(|field| field.size()).sum();
        let is_kept = self.ready.len() < MAX_READY && self.has_room(size);
        let first = self.inserted;
        for field in fields(lines) {
            let index = HeaderName::from_bytes(field.name)
                .ok()
                .and_then(|name| static_name(&name));
            let kind = if is_kept { INSERTED } else { NOT_INDEXED };
            put_field(kind, field.name, index, field.value, out);
            if is_kept {
                self.inserted += 1;
            }
        }
        if is_kept {
            self.size += size;
            self.ready.push(ReadySet {
                lines: Arc::clone(lines),
                first,
                count: self.inserted - first,
            });
        }
    }

    fn index_of(&self, number: usize) -> usize {
        self.inserted + STATIC_ENTRIES - number
    }

    fn has_room(&self, size: usize) -> bool {
        self.size + size <= self.max_size
    }

    fn find(&self, hash: u32, name: &[u8], value: &[u8]) -> Option<usize> {
        let mut same = self.entries.iter().filter(|entry| entry.hash == hash);
        let found = same.find(|entry| {
            let at = usize::from(entry.at);
            let middle = at + usize::from(entry.name);
            self.text[at..middle] == *name
                && self.text[middle..middle + usize::from(entry.value)] == *value
        });
        found.map(|entry| usize::from(entry.number))
    }

    /// Adds a header to the table, which has room for it.
    fn remember(&mut self, hash: u32, name: &[u8], value: &[u8]) {
        let number = self.inserted;
        self.inserted += 1;
        self.size += name.len() + value.len() + ENTRY_OVERHEAD;
        let short = |length: usize| u16::try_from(length).expect("shorter than the table");
        let entry = Entry {
            hash,
            number: short(number),
            at: short(self.text.len()),
            name: short(name.len()),
            value: short(value.len()),
        };
        self.entries.push(entry);
        self.text.extend_from_slice(name);
        self.text.extend_from_slice(value);
    }

    /// Returns true if a header with this hash came lately. Otherwise it has now.
    fn was_seen(&mut self, hash: u32) -> bool {
        let [a, b, c, d] = hash.to_le_bytes();
        let slot = &mut self.seen[usize::from(a ^ b) % SEEN];
        // Zero is an empty slot.
        let fingerprint = u16::from_le_bytes([c, d]) | 1;
        std::mem::replace(slot, fingerprint) == fingerprint
    }
}

/// Header line that is ready.
struct Field<'a> {
    name: &'a [u8],
    value: &'a [u8],
}

impl Field<'_> {
    fn size(&self) -> usize {
        self.name.len() + self.value.len() + ENTRY_OVERHEAD
    }
}

/// Returns the fields of complete header lines, whose names are in lower case.
fn fields(lines: &[u8]) -> impl Iterator<Item = Field<'_>> {
    lines.split(|byte| *byte == b'\n').filter_map(|line| {
        let line = line.strip_suffix(b"\r")?;
        let colon = memchr::memchr(b':', line)?;
        Some(Field {
            name: &line[..colon],
            value: line[colon + 1..].trim_ascii_start(),
        })
    })
}

fn put_status(status: StatusCode, out: &mut Vec<u8>) {
    let index = match status.as_u16() {
        200 => 8,
        204 => 9,
        206 => 10,
        304 => 11,
        400 => 12,
        404 => 13,
        500 => 14,
        _ => {
            let text = status.as_str().as_bytes();
            return put_field(NOT_INDEXED, b":status", Some(STATUS), text, out);
        }
    };
    put_int(INDEXED, index, out);
}

/// Writes a literal, whose name may have an `index`.
#[inline]
fn put_field(kind: (u8, u32), name: &[u8], index: Option<usize>, value: &[u8], out: &mut Vec<u8>) {
    out.reserve(name.len() + value.len() + 16);
    put_int(kind, index.unwrap_or(0), out);
    if index.is_none() {
        put_int(LENGTH, name.len(), out);
        out.extend_from_slice(name);
    }
    put_int(LENGTH, value.len(), out);
    out.extend_from_slice(value);
}

/// Writes an integer after the first bits of a byte (RFC 7541, 5.1).
#[inline]
fn put_int((first, bits): (u8, u32), value: usize, out: &mut Vec<u8>) {
    let most = (1usize << bits) - 1;
    let low = |value: usize| value.to_le_bytes()[0];
    if value < most {
        return out.push(first | low(value));
    }
    out.push(first | low(most));
    let mut left = value - most;
    while left >= 0x80 {
        out.push(low(left) | 0x80);
        left >>= 7;
    }
    out.push(low(left));
}

/// Returns a hash of a header, for a table with few entries that are compared as well.
#[inline]
fn hash(name: &[u8], value: &[u8]) -> u32 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = (name.len() as u64) << 32 | value.len() as u64;
    for part in [name, value] {
        let (words, rest) = part.as_chunks::<8>();
        for word in words {
            hash = (hash.rotate_left(5) ^ u64::from_le_bytes(*word)).wrapping_mul(FACTOR);
        }
        for byte in rest {
            hash = (hash.rotate_left(5) ^ u64::from(*byte)).wrapping_mul(FACTOR);
        }
    }
    let [.., a, b, c, d] = hash.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// Returns the index of a response header's name in the static table (RFC 7541, A).
#[inline]
fn static_name(name: &HeaderName) -> Option<usize> {
    Some(match *name {
        header::ACCEPT_RANGES => 18,
        header::ACCESS_CONTROL_ALLOW_ORIGIN => 20,
        header::AGE => 21,
        header::ALLOW => 22,
        header::CACHE_CONTROL => 24,
        header::CONTENT_DISPOSITION => 25,
        header::CONTENT_ENCODING => 26,
        header::CONTENT_LANGUAGE => 27,
        header::CONTENT_LENGTH => 28,
        header::CONTENT_LOCATION => 29,
        header::CONTENT_RANGE => 30,
        header::CONTENT_TYPE => 31,
        header::DATE => 33,
        header::ETAG => 34,
        header::EXPIRES => 36,
        header::LAST_MODIFIED => 44,
        header::LINK => 45,
        header::LOCATION => 46,
        header::PROXY_AUTHENTICATE => 48,
        header::REFRESH => 52,
        header::RETRY_AFTER => 53,
        header::SERVER => 54,
        header::SET_COOKIE => 55,
        header::STRICT_TRANSPORT_SECURITY => 56,
        header::VARY => 59,
        header::VIA => 60,
        header::WWW_AUTHENTICATE => 61,
        _ => return None,
    })
}
