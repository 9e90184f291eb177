//! Frames on their way from `h2` to the client, and the client's settings on their way to `h2`.
//!
//! The header blocks of most responses are written here: `h2` gets a response without headers, and
//! its block is replaced ([`crate::connection::response_queue`]). The table that both ends of a
//! connection share (RFC 7541, 2.3.2) then has one owner, [`HeaderEncoder`]: `h2` is told that the
//! client has none, so its own blocks depend on nothing and pass as they are.

use std::{cell::Cell, collections::VecDeque, task::Context};

use super::hpack::HeaderEncoder;
use crate::{
    connection::response_queue::{QueuedHeaders, ResponseHeaders, ResponseQueue},
    edge::frames::{FRAME_HEADER, SentFrames, stream_id},
};

/// The longest frame that every client accepts (RFC 9113, 4.2).
const MAX_FRAME: usize = 16 * 1024;
/// Length from which content is written from where it is.
const LARGE: usize = 256;
/// Capacity up to which a thread keeps a buffer for the next frames.
const MAX_SPARE: usize = 8 * 1024;

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

const HEADER_TABLE_SIZE: u16 = 0x1;
/// Second byte that makes of the setting's number one that means nothing (RFC 9113, 6.5.2).
const UNKNOWN: u8 = 0xf1;
/// Announces that the table has no room any more (RFC 7541, 6.3).
const NO_TABLE: u8 = 0x20;

/// Settings that `h2` gets before those of the client: no table.
pub(in crate::edge) const FIRST_SETTINGS: [u8; 15] =
    [0, 0, 6, SETTINGS, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];

thread_local! {
    /// Buffer for the next frames that this thread writes.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Writer of one connection's frames.
#[derive(Debug, Default)]
pub(in crate::edge) struct FrameWriter {
    /// Frame header that is being received, and its length so far.
    header: [u8; FRAME_HEADER],
    length: usize,
    /// Bytes left of the payload.
    payload: usize,
    state: Payload,
    /// Bytes for the client.
    out: Vec<u8>,
    /// Frames that were taken since the last write.
    frames: SentFrames,
    encoder: HeaderEncoder,
    settings: ClientSettings,
}

/// Treatment of the payload that is being received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Payload {
    #[default]
    Passed,
    Dropped,
    /// The beginning of a header block of `h2`'s own. Its frame header is still held.
    Block,
}

/// Size of the client's table, in the order of its settings.
#[derive(Debug, Default)]
struct ClientSettings {
    /// Setting that is being received: its number, and its value so far.
    number: u16,
    value: u32,
    size: Option<u32>,
    /// Sizes that are not acknowledged yet.
    pending: VecDeque<Option<u32>>,
    /// True once the settings that the client did not send are acknowledged.
    has_first: bool,
}

impl FrameWriter {
    /// Reads a part of a SETTINGS frame of the client, which begins at `offset` of its payload, and
    /// hides the size of the table from `h2`.
    pub(in crate::edge) fn settings(&mut self, bytes: &mut [u8], offset: usize) {
        let settings = &mut self.settings;
        for (index, byte) in bytes.iter_mut().enumerate() {
            match (offset + index) % 6 {
                0 => settings.number = u16::from(*byte) << 8,
                1 => {
                    settings.number |= u16::from(*byte);
                    settings.value = 0;
                    if settings.number == HEADER_TABLE_SIZE {
                        *byte = UNKNOWN;
                    }
                }
                place => {
                    settings.value = settings.value << 8 | u32::from(*byte);
                    if place == 5 && settings.number == HEADER_TABLE_SIZE {
                        settings.size = Some(settings.value);
                    }
                }
            }
        }
    }

    /// Ends a SETTINGS frame of the client.
    pub(in crate::edge) fn end_settings(&mut self) {
        let size = self.settings.size.take();
        self.settings.pending.push_back(size);
    }

    /// Returns the bytes for the client.
    pub(in crate::edge) fn output(&self) -> &[u8] {
        &self.out
    }

    /// Takes the frames that came since the last write.
    pub(in crate::edge) fn take_frames(&mut self) -> SentFrames {
        std::mem::take(&mut self.frames)
    }

    /// Removes bytes of the output that were sent.
    pub(in crate::edge) fn sent(&mut self, count: usize) {
        if count < self.out.len() {
            self.out.drain(..count);
            return;
        }
        let mut out = std::mem::take(&mut self.out);
        if out.capacity() <= MAX_SPARE {
            out.clear();
            SPARE.set(out);
        }
    }

    /// Returns how many of `bytes`, which come next, can be written from where they are, after the
    /// output. Zero if they have to be taken.
    pub(in crate::edge) fn passes(&self, bytes: &[u8]) -> usize {
        let count = self.payload.min(bytes.len());
        if self.state == Payload::Passed && count >= LARGE {
            count
        } else {
            0
        }
    }

    /// Records that bytes were written from where they are.
    pub(in crate::edge) fn passed(&mut self, count: usize) {
        self.payload -= count;
    }

    /// Takes the next bytes of `h2`, up to content that can be written from where it is. Returns how
    /// many were taken. If none, the task is woken once a response is known.
    pub(in crate::edge) fn take(
        &mut self,
        bytes: &[u8],
        responses: &ResponseQueue,
        cx: &Context<'_>,
    ) -> usize {
        if self.out.capacity() == 0 {
            self.out = SPARE.take();
        }
        let mut rest = bytes;
        while !rest.is_empty() && self.passes(rest) == 0 {
            if self.payload > 0 {
                let count = self.payload.min(rest.len());
                let (part, after) = rest.split_at(count);
                self.payload(part);
                rest = after;
                continue;
            }
            let count = (FRAME_HEADER - self.length).min(rest.len());
            let (part, after) = rest.split_at(count);
            self.header[self.length..self.length + count].copy_from_slice(part);
            if self.length + count < FRAME_HEADER {
                self.length += count;
            } else if self.frame(responses, cx) {
                self.length = 0;
                self.frames.add(&self.header);
            } else {
                // The rest of the frame header comes again.
                break;
            }
            rest = after;
        }
        bytes.len() - rest.len()
    }

    /// Takes a part of a payload.
    fn payload(&mut self, part: &[u8]) {
        self.payload -= part.len();
        match self.state {
            Payload::Passed => self.out.extend_from_slice(part),
            Payload::Dropped => {}
            Payload::Block => {
                self.state = Payload::Passed;
                let mut part = part;
                let mut length = part.len() + self.payload;
                if part[0] == NO_TABLE {
                    part = &part[1..];
                    length -= 1;
                }
                set_length(&mut self.header, length);
                self.out.extend_from_slice(&self.header);
                self.out.extend_from_slice(part);
            }
        }
    }

    /// Handles a complete frame header. Returns false if it is not known yet what comes after it.
    fn frame(&mut self, responses: &ResponseQueue, cx: &Context<'_>) -> bool {
        let [a, b, c, kind, flags, ..] = self.header;
        let length = u32::from_be_bytes([0, a, b, c]);
        let stream = stream_id(&self.header);
        self.payload = usize::try_from(length).unwrap_or(usize::MAX);
        self.state = Payload::Passed;
        match kind {
            HEADERS => match responses.take(stream, cx) {
                QueuedHeaders::Found(response) => {
                    self.state = Payload::Dropped;
                    self.response(&response, flags);
                    return true;
                }
                QueuedHeaders::Absent if self.payload > 0 => {
                    self.state = Payload::Block;
                    return true;
                }
                QueuedHeaders::Absent => {}
                QueuedHeaders::NotKnown => {
                    self.payload = 0;
                    return false;
                }
            },
            RST_STREAM => responses.forget(stream),
            SETTINGS if flags & ACK != 0 => {
                if !std::mem::replace(&mut self.settings.has_first, true) {
                    return true;
                }
                if let Some(Some(size)) = self.settings.pending.pop_front() {
                    self.encoder.resize(size);
                }
            }
            _ => {}
        }
        self.out.extend_from_slice(&self.header);
        true
    }

    /// Writes the header block of a response, in frames with `flags`.
    fn response(&mut self, response: &ResponseHeaders, flags: u8) {
        let at = self.out.len();
        self.out.extend_from_slice(&self.header);
        let begin = self.out.len();
        self.encoder.encode(response, &mut self.out);
        let length = self.out.len() - begin;
        if length <= MAX_FRAME {
            return set_length(&mut self.out[at..], length);
        }
        let block = self.out.split_off(begin);
        self.out.truncate(at);
        let mut parts = block.chunks(MAX_FRAME).peekable();
        let mut header = self.header;
        header[4] = flags & !END_HEADERS;
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                header[4] |= END_HEADERS;
            }
            set_length(&mut header, part.len());
            self.out.extend_from_slice(&header);
            self.out.extend_from_slice(part);
            header[3] = CONTINUATION;
            header[4] = 0;
        }
    }
}

/// Sets the length in a frame header.
fn set_length(header: &mut [u8], length: usize) {
    let [a, b, c, ..] = length.to_le_bytes();
    header[..3].copy_from_slice(&[c, b, a]);
}
