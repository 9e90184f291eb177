//! Finds the frame boundaries in the bytes sent to a WebSocket client: only there the gateway may
//! insert a Close frame (RFC 6455, 5.2). It does no IO and ignores payloads.

use smart_default::SmartDefault;

/// Close frame with the code 1001: the endpoint is going away (RFC 6455, 7.4.1).
pub(super) const GOING_AWAY: [u8; 4] = [0x88, 2, 0x03, 0xe9];

/// State of the bytes sent to a client since its connection became a WebSocket.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OutgoingFrames {
    at: FramePosition,
    /// True once a Close frame was sent: nothing may follow it (RFC 6455, 5.5.1).
    is_closed: bool,
}

/// Longest header of a frame: length in eight bytes, and a mask.
const MAX_FRAME_HEADER_LEN: usize = 14;
/// Length of the beginning of a status line, including its status.
const STATUS: usize = 12;

#[derive(Clone, Copy, Debug, SmartDefault)]
enum FramePosition {
    /// In HTTP response headers, of which there may be several: only those of status 101 are the
    /// last.
    #[default]
    Head {
        begin: [u8; STATUS],
        seen: usize,
        /// Number of bytes seen of the empty line at its end.
        end: usize,
    },
    /// In a frame's header, or before it.
    Header {
        bytes: [u8; MAX_FRAME_HEADER_LEN],
        seen: usize,
    },
    /// In a frame's payload, with this many bytes left.
    Payload(u64),
    /// The bytes are not WebSocket frames, so no boundary is known.
    Lost,
}

const BEFORE_A_FRAME: FramePosition = FramePosition::Header {
    bytes: [0; MAX_FRAME_HEADER_LEN],
    seen: 0,
};

impl OutgoingFrames {
    /// Returns true if the bytes sent end with a frame, or with the headers before the first.
    pub(super) fn is_between_frames(&self) -> bool {
        matches!(self.at, FramePosition::Header { seen: 0, .. })
    }

    pub(super) fn is_lost(&self) -> bool {
        matches!(self.at, FramePosition::Lost)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Records that these bytes are sent next.
    pub(super) fn sent(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let count = self.step(bytes);
            bytes = &bytes[count..];
        }
    }

    /// Returns how many of these bytes may be sent until a frame ends: all if none does, 0 if one
    /// has just ended.
    pub(super) fn until_frame_ends(&self, bytes: &[u8]) -> usize {
        let mut ahead = *self;
        let mut count = 0;
        while count < bytes.len() && !ahead.is_between_frames() {
            count += ahead.step(&bytes[count..]);
        }
        count
    }

    /// Advances by at least one byte, but not beyond the end of the current unit.
    fn step(&mut self, bytes: &[u8]) -> usize {
        match &mut self.at {
            FramePosition::Head { begin, seen, end } => {
                let byte = bytes[0];
                if let Some(place) = begin.get_mut(*seen) {
                    *place = byte;
                }
                *seen += 1;
                *end = match (byte, *end) {
                    (b'\r', 0 | 2) | (b'\n', 1 | 3) => *end + 1,
                    (b'\r', _) => 1,
                    _ => 0,
                };
                if *end == 4 {
                    self.at = match begin {
                        [
                            b'H',
                            b'T',
                            b'T',
                            b'P',
                            b'/',
                            b'1',
                            b'.',
                            _,
                            b' ',
                            b'1',
                            b'0',
                            b'1',
                        ] => BEFORE_A_FRAME,
                        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', _, b' ', b'1', ..] => {
                            FramePosition::default()
                        }
                        _ => FramePosition::Lost,
                    };
                }
                1
            }
            FramePosition::Header {
                bytes: header,
                seen,
            } => {
                header[*seen] = bytes[0];
                *seen += 1;
                if let Some((is_close, length)) = payload(&header[..*seen]) {
                    // Bytes after a Close frame have no meaning.
                    let is_lost = self.is_closed || length > i64::MAX as u64;
                    self.is_closed |= is_close;
                    self.at = match length {
                        _ if is_lost => FramePosition::Lost,
                        0 => BEFORE_A_FRAME,
                        length => FramePosition::Payload(length),
                    };
                }
                1
            }
            FramePosition::Payload(left) => {
                let count = usize::try_from(*left)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                *left -= count as u64;
                if *left == 0 {
                    self.at = BEFORE_A_FRAME;
                }
                count
            }
            FramePosition::Lost => bytes.len(),
        }
    }
}

/// Returns true for a Close frame, and the length of the payload; `None` if the header is
/// incomplete.
fn payload(header: &[u8]) -> Option<(bool, u64)> {
    let [first, second, rest @ ..] = header else {
        return None;
    };
    let extended = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    // Servers do not mask, but the bytes would be present.
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    if rest.len() < extended + mask {
        return None;
    }
    let length = match extended {
        0 => u64::from(second & 0x7f),
        _ => rest[..extended]
            .iter()
            .fold(0, |length, byte| length << 8 | u64::from(*byte)),
    };
    Some((first & 0x0f == 8, length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEADS: &[u8] = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n\
        HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n";

    /// Returns a frame with the length written in this many bytes.
    fn frame(first: u8, wide: u8, mask: bool, payload: &[u8]) -> Vec<u8> {
        let length = payload.len() as u64;
        let mask_bit = u8::from(mask) << 7;
        let mut frame = vec![first];
        match wide {
            0 if length < 126 => frame.push(mask_bit + u8::try_from(length).unwrap()),
            0 | 1 if length <= 0xffff => {
                frame.push(mask_bit + 126);
                frame.extend_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
            }
            _ => {
                frame.push(mask_bit + 127);
                frame.extend_from_slice(&length.to_be_bytes());
            }
        }
        if mask {
            frame.extend_from_slice(&[1, 2, 3, 4]);
        }
        frame.extend_from_slice(payload);
        frame
    }

    #[test]
    fn our_own_close_frame_is_one() {
        assert_eq!(frame(0x88, 0, false, &1001_u16.to_be_bytes()), GOING_AWAY);
        let mut outgoing = OutgoingFrames::default();
        outgoing.sent(HEADS);
        assert!(outgoing.is_between_frames() && !outgoing.is_closed());
        outgoing.sent(&GOING_AWAY);
        assert!(outgoing.is_between_frames() && outgoing.is_closed());
        outgoing.sent(&[0x81, 0]);
        assert!(outgoing.is_lost());
    }

    #[test]
    fn bytes_without_frames_have_no_boundary() {
        for bytes in [
            &b"HTTP/1.1 200 OK\r\n\r\n"[..],
            b"\r\n\r\n",
            b"101\r\n\r\n",
            b"HTTP/1.1 101 X\r\n",
            b"HTTP/1.1 103 X\r\n\r\n",
        ] {
            let mut outgoing = OutgoingFrames::default();
            outgoing.sent(bytes);
            assert!(!outgoing.is_between_frames(), "{bytes:?}");
        }
        let mut outgoing = OutgoingFrames::default();
        outgoing.sent(HEADS);
        outgoing.sent(&[0x82, 127, 0xff, 0, 0, 0, 0, 0, 0, 0]);
        assert!(outgoing.is_lost());
    }

    fn frames() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let payload = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..8),
            prop::collection::vec(any::<u8>(), 120..132),
            (65_530..65_540usize).prop_map(|length| vec![0x88; length]),
        ];
        let one = (0x80..0x83u8, 0..3u8, any::<bool>(), payload)
            .prop_map(|(first, wide, mask, payload)| frame(first, wide, mask, &payload));
        prop::collection::vec(one, 0..6)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn frames_end_where_they_end_however_the_stream_is_split(
            frames in frames(),
            splits in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let mut stream = HEADS.to_vec();
            let mut ends = vec![stream.len()];
            for frame in &frames {
                stream.extend_from_slice(frame);
                ends.push(stream.len());
            }
            let mut splits: Vec<usize> = splits.iter().map(|split| split.index(stream.len() + 1)).collect();
            splits.extend_from_slice(&ends);
            splits.sort_unstable();
            let mut outgoing = OutgoingFrames::default();
            let mut at = 0;
            for split in splits {
                outgoing.sent(&stream[at..split]);
                at = split;
                prop_assert_eq!(outgoing.is_between_frames(), ends.contains(&at), "{}", at);
                let next = ends.iter().find(|end| **end >= at).map_or(stream.len(), |end| *end);
                prop_assert_eq!(outgoing.until_frame_ends(&stream[at..]), next - at);
            }
            prop_assert!(outgoing.is_between_frames() && !outgoing.is_closed());
        }

        #[test]
        fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut outgoing = OutgoingFrames::default();
            outgoing.sent(HEADS);
            let count = outgoing.until_frame_ends(&bytes);
            prop_assert!(count <= bytes.len());
            outgoing.sent(&bytes);
        }
    }
}
