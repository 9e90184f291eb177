//! Text of paths without their percent-encoding, from which the path can be written again byte by
//! byte: expressions and templates work on text, and a path may have bytes that are no UTF-8 (`%E9`
//! of an app from the time of Latin-1). nginx keeps such bytes as well.

use percent_encoding::{percent_decode, percent_encode_byte};

use super::template::{IN_PATH, escape};

/// Number to which a byte from 0x80 on is added for the private character that stands for it.
const OCTETS: u32 = 0x0010_FF00;

/// Returns the byte that a character of a decoded path stands for, if it is no character of the path.
fn octet(char: char) -> Option<u8> {
    let byte = u32::from(char).checked_sub(OCTETS)?;
    u8::try_from(byte).ok().filter(|byte| *byte >= 0x80)
}

fn push_octets(text: &mut String, bytes: &[u8]) {
    let chars = bytes.iter().map(|byte| OCTETS + u32::from(*byte));
    text.extend(chars.filter_map(char::from_u32));
}

/// Returns a path without its percent-encoding. Bytes that are no UTF-8 become private characters.
pub fn decoded(path: &[u8]) -> String {
    let bytes: Vec<u8> = percent_decode(path).collect();
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            match octet(char) {
                // The path has the private character itself.
                Some(_) => push_octets(&mut text, char.encode_utf8(&mut [0; 4]).as_bytes()),
                None => text.push(char),
            }
        }
        push_octets(&mut text, chunk.invalid());
    }
    text
}

/// Appends a character of a decoded path with its percent-encoding.
pub(super) fn push_encoded(text: &mut String, char: char) {
    if let Some(byte) = octet(char) {
        text.push_str(percent_encode_byte(byte));
        return;
    }
    let mut buffer = [0; 4];
    let bytes = char.encode_utf8(&mut buffer).bytes();
    text.extend(bytes.map(percent_encode_byte));
}

/// Returns a path without percent-encoding as a request has it.
pub fn encoded_path(path: &str) -> String {
    let mut text = String::with_capacity(path.len() + 8);
    escape(path, IN_PATH, &mut text);
    text
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn every_byte_of_a_path_comes_back(path in vec(prop_oneof![
            any::<u8>().prop_map(|byte| vec![byte]),
            any::<char>().prop_map(|char| char.to_string().into_bytes()),
            (0x0010_FF00_u32..0x0010_FFFF).prop_map(|code| {
                char::from_u32(code).map(|char| char.to_string().into_bytes()).unwrap_or_default()
            }),
        ], 0..12)) {
            let path = path.concat();
            let encoded: String = path.iter().map(|byte| percent_encode_byte(*byte)).collect();
            let again = encoded_path(&decoded(encoded.as_bytes()));
            prop_assert_eq!(percent_decode(again.as_bytes()).collect::<Vec<_>>(), path);
        }
    }

    #[test]
    fn text_stays_text() {
        assert_eq!(decoded(b"/caf%C3%A9%20x"), "/café x");
        assert_eq!(encoded_path("/café x"), "/caf%C3%A9%20x");
        assert_eq!(encoded_path(&decoded(b"/caf%e9")), "/caf%E9");
    }
}
