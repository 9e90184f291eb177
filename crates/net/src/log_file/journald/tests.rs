//! Lines and datagrams as the journal gets them.

use super::*;

/// Reads a datagram as the protocol's documentation has it.
pub(in crate::log_file) fn read(mut datagram: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut fields = Vec::new();
    while !datagram.is_empty() {
        let end = datagram
            .iter()
            .position(|b| matches!(b, b'=' | b'\n'))
            .unwrap();
        let name = String::from_utf8(datagram[..end].to_vec()).unwrap();
        assert!(
            name.chars()
                .all(|c| matches!(c, 'A'..='Z' | '0'..='9' | '_'))
                && !name.starts_with(|c: char| c == '_' || c.is_ascii_digit())
                && name.len() <= 64,
            "{name}"
        );
        let is_counted = datagram[end] == b'\n';
        datagram = &datagram[end + 1..];
        let length = if is_counted {
            let (length, rest) = datagram.split_first_chunk::<8>().unwrap();
            datagram = rest;
            usize::try_from(u64::from_le_bytes(*length)).unwrap()
        } else {
            datagram.iter().position(|b| *b == b'\n').unwrap()
        };
        fields.push((name, datagram[..length].to_vec()));
        assert_eq!(datagram[length], b'\n');
        datagram = &datagram[length + 1..];
    }
    fields
}

#[test]
fn fields_of_a_line_are_fields_of_the_journal() {
    let line = br#"{"status":502,"path":"/a\nb","route":null,"x-y":true}"#;
    let fields = read(&datagram("access log", line, true));
    let expected: [(&str, &[u8]); 7] = [
        ("MESSAGE", line),
        ("PRIORITY", b"3"),
        ("SYSLOG_IDENTIFIER", b"edgeway"),
        ("EDGEWAY_LOG", b"access log"),
        ("EDGEWAY_STATUS", b"502"),
        ("EDGEWAY_PATH", b"/a\nb"),
        ("EDGEWAY_X_Y", b"true"),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_vec()));
    assert_eq!(fields, expected);
    let plain = read(&datagram("audit log", b"not JSON", true));
    assert_eq!(plain.len(), 4);
    assert_eq!(plain[1].1, b"6");
}
