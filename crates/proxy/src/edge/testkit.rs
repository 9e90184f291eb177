//! Checks of parsers that fuzz targets and their seeds run.

use std::ops::ControlFlow;

use edgeway_config::model::UnderscoresConfig;

use super::{
    chunks::{Chunks, MAX_DIGITS, MAX_SIZE_LINE, MAX_TRAILERS_LEN},
    head::{HeadLimits, ScanResult, Scanner, is_name_byte},
    proxy_protocol::{ProxySource, v1, v2},
};

/// Checks that a head gives the same result in one piece and in
/// two, and lies within the input.
pub fn head(data: &[u8]) {
    let Some((&at, input)) = data.split_first() else {
        return;
    };
    let limits = HeadLimits::new(512, 2048, 32, UnderscoresConfig::Drop);
    let whole = Scanner::default().scan(input, &limits);
    let mut scanner = Scanner::default();
    let split = usize::from(at).min(input.len());
    let mut outcome = scanner.scan(&input[..split], &limits);
    if outcome == ScanResult::Partial {
        outcome = scanner.scan(input, &limits);
    }
    match (&whole, &outcome) {
        // An earlier refusal has seen less of the target.
        (ScanResult::Refused(_), ScanResult::Refused(_)) => {}
        _ => assert_eq!(whole, outcome),
    }
    if let ScanResult::Head(head) = whole {
        assert!(head.length <= input.len());
        assert!(input[..head.length].ends_with(b"\r\n\r\n"));
        for line in head.dropped {
            assert!(line.end <= head.length && input[line].ends_with(b"\r\n"));
        }
    }
}

/// Checks that a body ends at the same byte however it is
/// split, and that a simple parser of the whole body finds the same end.
pub fn chunks(data: &[u8]) {
    let Some((&split, body)) = data.split_first() else {
        return;
    };
    let split = usize::from(split).min(body.len());
    let mut complete = Chunks::default();
    let taken = complete.take(body);
    let mut pieces = Chunks::default();
    let first = pieces.take(&body[..split]);
    let both = if first == split {
        first + pieces.take(&body[split..])
    } else {
        first
    };
    assert_eq!((taken, &complete), (both, &pieces));
    assert_eq!(complete.are_complete().then_some(taken), end_of(body));
}

/// Returns the end of the body, if it is valid, found line by line.
pub(super) fn end_of(body: &[u8]) -> Option<usize> {
    let is_text = |byte: &u8| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f);
    let line = |from: usize| {
        let remainder = body.get(from..)?;
        let length = remainder.windows(2).position(|end| end == b"\r\n")?;
        let line = &remainder[..length];
        line.iter()
            .all(is_text)
            .then_some((line, from + length + 2))
    };
    let mut at = 0;
    loop {
        let (size, next) = line(at)?;
        let digits = size.split(|byte| *byte == b';').next()?;
        let is_size = !digits.is_empty()
            && digits.len() <= usize::from(MAX_DIGITS)
            && digits.iter().all(u8::is_ascii_hexdigit)
            && size.len() + 2 <= MAX_SIZE_LINE as usize;
        if !is_size {
            return None;
        }
        let size = usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        if size == 0 {
            at = next;
            break;
        }
        let end = next.checked_add(size)?;
        if body.get(end..end.checked_add(2)?)? != b"\r\n" {
            return None;
        }
        at = end + 2;
    }
    let trailer = at;
    loop {
        let (text, next) = line(at)?;
        if next - trailer > MAX_TRAILERS_LEN as usize {
            return None;
        }
        at = next;
        if text.is_empty() {
            return Some(at);
        }
        let name = text.iter().position(|byte| !is_name_byte(*byte))?;
        if name == 0 || text[name] != b':' {
            return None;
        }
    }
}

/// Checks that no input causes a panic, that an accepted line
/// is exactly one line, and that both versions can express an accepted client.
pub fn proxy_protocol(data: &[u8]) {
    let line = &data[..data.len().min(v1::MAX_LEN)];
    if let Ok(ControlFlow::Break(_)) = v1::parse(line) {
        assert!(line.starts_with(v1::START) && line.ends_with(b"\r\n"));
    }
    // The signature was checked before either is called.
    if data.starts_with(&v2::SIGNATURE)
        && let Some(fixed) = data.get(..v2::FIXED)
        && let Ok(length) = v2::length(fixed)
        && let Some(header) = data.get(..v2::FIXED + length)
        && let Ok(ProxySource::Client(client)) = v2::parse(header)
    {
        // Version 1 has no length that could be wrong, and describes the same client.
        let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
        let line = format!(
            "PROXY {family} {ip} {ip} {} 1\r\n",
            client.port(),
            ip = client.ip()
        );
        let read = v1::parse(line.as_bytes());
        assert!(
            matches!(read, Ok(ControlFlow::Break(ProxySource::Client(same))) if same == client)
        );
    }
}
