//! Writes text, numbers and addresses as bytes of a line, without formatting machinery and without
//! allocations of its own.

use std::{
    io::Write as _,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use edgeway_base::out::is_obeyed;
use edgeway_net::log_file::put_thousandths;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Adds `text` as the inside of a JSON string.
///
/// Bytes that are not UTF-8 become U+FFFD, so that a line is JSON whatever a client sent.
pub fn put_json(out: &mut Vec<u8>, text: &[u8]) {
    if is_plain(text) {
        out.extend_from_slice(text);
    } else {
        put_json_slowly(out, text);
    }
}

/// Returns true for visible ASCII and spaces without quotes and backslashes. Checks eight bytes at
/// a time, since nearly all text of a log is plain; the last eight may overlap those before.
fn is_plain(text: &[u8]) -> bool {
    if let Some(last) = text.last_chunk::<8>() {
        let (words, _) = text.as_chunks::<8>();
        let mut special_bits = special(u64::from_ne_bytes(*last));
        for word in words {
            special_bits |= special(u64::from_ne_bytes(*word));
        }
        return special_bits == 0;
    }
    if let (Some(first), Some(last)) = (text.first_chunk::<4>(), text.last_chunk::<4>()) {
        let [first, last] = [first, last].map(|half| u64::from(u32::from_ne_bytes(*half)));
        return special(first << 32 | last) == 0;
    }
    text.iter().all(|b| PLAIN[usize::from(*b)])
}

/// Returns a non-zero value if one of the eight bytes of `word` is special.
///
/// If all bytes are below 128, each subtraction sets the top bit of a byte that it looks for. Its
/// borrow may mark the byte above as well, which changes nothing here.
fn special(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const TOPS: u64 = 0x8080_8080_8080_8080;
    let below_space = word.wrapping_sub(ONES * 0x20);
    let quote = (word ^ (ONES * 0x22)).wrapping_sub(ONES);
    let backslash = (word ^ (ONES * 0x5c)).wrapping_sub(ONES);
    let delete = (word ^ (ONES * 0x7f)).wrapping_sub(ONES);
    (word | below_space | quote | backslash | delete) & TOPS
}

/// Table of plain bytes, for text shorter than a word.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0x20;
    while byte < 0x7f {
        plain[byte] = byte != b'"' as usize && byte != b'\\' as usize;
        byte += 1;
    }
    plain
};

#[cold]
fn put_json_slowly(out: &mut Vec<u8>, text: &[u8]) {
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                // Writing to a Vec cannot fail.
                c if is_obeyed(c) => {
                    let _infallible = write!(out, "\\u{:04x}", u32::from(c));
                }
                c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

/// Adds `text` as nginx does inside the quotes of a `combined` line: `\x22` for every byte that
/// could end them or is not visible ASCII.
pub(super) fn put_compat(out: &mut Vec<u8>, text: &[u8]) {
    if is_plain(text) {
        out.extend_from_slice(text);
        return;
    }
    for byte in text {
        if matches!(byte, b'"' | b'\\' | 0..0x20 | 0x7f..) {
            out.extend_from_slice(b"\\x");
            out.push(HEX[usize::from(byte >> 4)].to_ascii_uppercase());
            out.push(HEX[usize::from(byte & 15)].to_ascii_uppercase());
        } else {
            out.push(*byte);
        }
    }
}

/// Adds a number in decimal.
pub(super) fn put_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Adds what `put` adds, in quotes.
pub(super) fn put_quoted(out: &mut Vec<u8>, put: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    put(out);
    out.push(b'"');
}

/// Adds a value by `put`, or `null`.
pub(super) fn put_or_null<T>(
    out: &mut Vec<u8>,
    value: Option<T>,
    put: impl FnOnce(&mut Vec<u8>, T),
) {
    match value {
        Some(value) => put(out, value),
        None => out.extend_from_slice(b"null"),
    }
}

/// Adds a duration in milliseconds with three decimals.
pub(super) fn put_millis(out: &mut Vec<u8>, span: Duration) {
    let millis = span.as_secs().saturating_mul(1000) + u64::from(span.subsec_millis());
    put_number(out, millis);
    out.push(b'.');
    put_thousandths(out, span.subsec_micros() % 1000);
}

pub(super) fn put_address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => put_v4(out, address),
        // Writing to a Vec cannot fail.
        IpAddr::V6(address) => {
            let _infallible = write!(out, "{address}");
        }
    }
}

fn put_v4(out: &mut Vec<u8>, address: Ipv4Addr) {
    for octet in address.octets() {
        for place in [100, 10] {
            if octet >= place {
                out.push(b'0' + octet / place % 10);
            }
        }
        out.extend_from_slice(&[b'0' + octet % 10, b'.']);
    }
    // No point stands after the last one.
    out.pop();
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn made(put: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        put(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn terminals_and_parsers_are_safe_from_text() {
        for (text, json, compat) in [
            (&b"plain text/1.0"[..], "plain text/1.0", "plain text/1.0"),
            (b"a\"b\\c", r#"a\"b\\c"#, r"a\x22b\x5Cc"),
            (b"a\n\x1b[2J", r"a\u000a\u001b[2J", r"a\x0A\x1B[2J"),
            ("é\u{9b}".as_bytes(), "é\\u009b", r"\xC3\xA9\xC2\x9B"),
            ("\u{202e}x".as_bytes(), r"\u202ex", r"\xE2\x80\xAEx"),
            (b"\xff!", "\u{fffd}!", r"\xFF!"),
            (b"\x7f!", r"\u007f!", r"\x7F!"),
            (b"", "", ""),
            (b"\"", r#"\""#, r"\x22"),
            (b"1234\"", r#"1234\""#, r"1234\x22"),
            (b"\"2345", r#"\"2345"#, r"\x222345"),
            (b"12345678\"", r#"12345678\""#, r"12345678\x22"),
            (b"seven!!\x7f", r"seven!!\u007f", r"seven!!\x7F"),
        ] {
            assert_eq!(made(|out| put_json(out, text)), json);
            assert_eq!(made(|out| put_compat(out, text)), compat);
        }
    }

    #[test]
    fn spans() {
        for (micros, text) in [(0, "0.000"), (999, "0.999"), (1_234_567, "1234.567")] {
            let span = Duration::from_micros(micros);
            assert_eq!(made(|out| put_millis(out, span)), text);
        }
    }

    #[test]
    fn addresses() {
        for text in ["0.0.0.0", "192.168.10.255", "2001:db8::1", "::"] {
            let address = text.parse().unwrap();
            assert_eq!(made(|out| put_address(out, address)), text);
        }
    }

    proptest! {
        #[test]
        fn any_text_comes_back_from_json(text in ".*") {
            let json = format!("\"{}\"", made(|out| put_json(out, text.as_bytes())));
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }

        #[test]
        fn any_bytes_make_json(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let json = format!("\"{}\"", made(|out| put_json(out, &bytes)));
            let read = serde_json::from_str::<String>(&json).unwrap();
            prop_assert_eq!(read, String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn no_bytes_leave_the_quotes_of_compat(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let text = made(|out| put_compat(out, &bytes));
            prop_assert!(text.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'"'));
        }
    }
}
