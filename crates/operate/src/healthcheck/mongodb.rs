//! The command `ping` of MongoDB in its wire protocol: one message of fixed bytes, which needs no
//! user, and a document with `ok: 1`.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// `OP_MSG` with `{ ping: 1, $db: "admin" }`.
const PING: &[u8] = b"\x33\0\0\0\x01\0\0\0\0\0\0\0\xdd\x07\0\0\
    \0\0\0\0\0\
    \x1e\0\0\0\x10ping\0\x01\0\0\0\x02$db\0\x06\0\0\0admin\0\0";

const HEADER: usize = 16;
/// Length of the flags and of the kind of a section, before the document.
const BEFORE_DOCUMENT: usize = 5;
/// Length limit of a reply, which has some 40 to 300 bytes.
const LONGEST: usize = 64 * 1024;
const OP_MSG: u32 = 2013;

/// Sends `ping`, and reads the reply.
pub(super) async fn ping(mut stream: TcpStream) -> Result<(), String> {
    let lost = |error: std::io::Error| format!("no reply from MongoDB: {error}");
    stream.write_all(PING).await.map_err(lost)?;
    let mut header = [0; HEADER];
    stream.read_exact(&mut header).await.map_err(lost)?;
    let rest = length_of(&header).ok_or("its reply is none of MongoDB")?;
    let mut body = vec![0; rest];
    stream.read_exact(&mut body).await.map_err(lost)?;
    match body.get(BEFORE_DOCUMENT..).and_then(ok) {
        Some(true) => Ok(()),
        Some(false) => Err("MongoDB refused `ping`".to_owned()),
        None => Err("its reply is none of MongoDB".to_owned()),
    }
}

/// Returns the length of the message behind its header.
fn length_of(header: &[u8; HEADER]) -> Option<usize> {
    let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|offset| header[at + offset]));
    let rest = usize::try_from(word(0)).ok()?.checked_sub(HEADER)?;
    (word(12) == OP_MSG && rest <= LONGEST).then_some(rest)
}

/// Returns the field `ok` of a BSON document.
fn ok(document: &[u8]) -> Option<bool> {
    let mut rest = document.get(4..)?;
    loop {
        let (kind, after) = rest.split_first()?;
        let end = memchr::memchr(0, after)?;
        let (name, value) = (&after[..end], &after[end + 1..]);
        let is_one = |number: f64| (number - 1.0).abs() < f64::EPSILON;
        let integer = |bytes: &[u8]| Some(i32::from_le_bytes(bytes.get(..4)?.try_into().ok()?));
        if name == b"ok" {
            return match kind {
                0x01 => Some(is_one(f64::from_le_bytes(value.get(..8)?.try_into().ok()?))),
                0x08 => Some(*value.first()? == 1),
                0x10 => Some(integer(value)? == 1),
                _ => None,
            };
        }
        let stated = || usize::try_from(integer(value)?).ok();
        // Lengths by type: bsonspec.org. A reply to `ping` has no other types.
        let length = match kind {
            0x01 | 0x09 | 0x11 | 0x12 => 8,
            0x02 => stated()?.checked_add(4)?,
            0x03 | 0x04 => stated()?,
            0x05 => stated()?.checked_add(5)?,
            0x07 => 12,
            0x08 => 1,
            0x0a => 0,
            0x10 => 4,
            _ => return None,
        };
        rest = value.get(length..)?;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_message_has_the_lengths_it_names() {
        assert_eq!(PING.len(), usize::from(PING[0]));
        assert_eq!(
            PING.len() - HEADER - BEFORE_DOCUMENT,
            usize::from(PING[HEADER + BEFORE_DOCUMENT])
        );
    }

    /// A document of these fields, each with its type and value.
    fn document(fields: &[(u8, &str, &[u8])]) -> Vec<u8> {
        let mut body = Vec::new();
        for (kind, name, value) in fields {
            body.push(*kind);
            body.extend(name.as_bytes());
            body.push(0);
            body.extend(*value);
        }
        body.push(0);
        let length = u32::try_from(body.len() + 4).unwrap();
        [&length.to_le_bytes()[..], &body].concat()
    }

    #[test]
    fn only_the_field_ok_of_the_document_itself_counts() {
        let one = 1.0_f64.to_le_bytes();
        assert_eq!(ok(&document(&[(1, "ok", &one)])), Some(true));
        let zero = 0.0_f64.to_le_bytes();
        let text = b"\x09\0\0\0\x01ok\0 1.0\0";
        let refused = document(&[
            (0x02, "errmsg", text),
            (0x03, "inner", &document(&[(1, "ok", &one)])),
            (0x11, "operationTime", &one),
            (1, "ok", &zero),
        ]);
        assert_eq!(ok(&refused), Some(false));
        assert_eq!(
            ok(&document(&[(0x10, "ok", &1_i32.to_le_bytes())])),
            Some(true)
        );
        assert_eq!(ok(&document(&[(0x08, "ok", &[1])])), Some(true));
        assert_eq!(ok(&document(&[])), None);
        assert_eq!(ok(b""), None);
    }

    #[test]
    fn another_protocol_is_none_of_mongodb() {
        assert_eq!(length_of(b"HTTP/1.1 400 Bad"), None);
        assert_eq!(length_of(&[0xff; HEADER]), None);
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&38_u32.to_le_bytes());
        assert_eq!(length_of(&header), None, "no opcode");
        header[12..].copy_from_slice(&OP_MSG.to_le_bytes());
        assert_eq!(length_of(&header), Some(22));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _read = ok(&bytes);
        }

        #[test]
        fn a_cut_reply_is_never_good(cut in 0_usize..30) {
            let one = 1.0_f64.to_le_bytes();
            let whole = document(&[(0x10, "n", &[7, 0, 0, 0]), (1, "ok", &one)]);
            let cut = cut.min(whole.len() - 2);
            prop_assert_eq!(ok(&whole[..cut]), None);
        }
    }
}
