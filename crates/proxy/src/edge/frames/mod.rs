//! Counts the frames of an HTTP/2 connection as they arrive, in pieces of any size. Frames that
//! cost the client nothing and the gateway something are limited in number.
//!
//! It reads only frame headers (RFC 9113, 4.1). The `h2` crate, which reads the same bytes
//! afterwards, validates the frames.

#[cfg(test)]
mod tests;

use std::io::IoSlice;

use edgeway_config::model::Http2Config;
use smart_default::SmartDefault;

use crate::connection::CloseReason;

/// Length of the connection preface that a client sends before its first frame.
const PREFACE: u32 = 24;
const FRAME_HEADER: usize = 9;

/// Milliseconds that one set of counts covers. All of them together cover the last 10 s, a little
/// less while the newest has just begun.
const SPAN: u64 = 2500;
const SPANS: usize = 4;

/// Limit on DATA frames without data in 10 s; `h2` accepts a hundred in the life of a connection.
const EMPTY_DATA: u64 = 100;
/// Limit on each of these: PRIORITY frames and their successors, `WINDOW_UPDATE` frames other than
/// those in response to data that the gateway sends, and frames of unknown type, which must be
/// ignored (RFC 9113, 4.1).
const MAX_OTHER_FRAMES: u64 = 200;
/// Additional frames of each kind allowed per request.
const WITH_REQUEST: u64 = 4;
/// `WINDOW_UPDATE` frames in response to one DATA frame: for its stream, and for the connection.
/// Some clients send one for each 4 KiB.
const UPDATES_PER_DATA: u32 = 2;

/// Limit on CONTINUATION frames of one header block, if its list is no longer than a few frames.
const CONTINUATIONS: u32 = 5;
const FRAME: u32 = 16 * 1024;

const END: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// Limits on the frames that a client may send on one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameLimits {
    resets: u64,
    pings: u64,
    settings: u64,
    continuations: u32,
}

impl FrameLimits {
    /// Creates the limits. `header_list` is the maximum size of a request's headers after decoding.
    pub(super) fn new(config: &Http2Config, header_list: u32) -> Self {
        let frames = header_list / FRAME;
        Self {
            resets: config.resets.into(),
            pings: config.pings.into(),
            settings: config.settings.into(),
            continuations: CONTINUATIONS.max(frames.saturating_add(frames / 4)),
        }
    }
}

/// Position of a connection in the client's frames.
#[derive(Debug, SmartDefault)]
pub(super) struct Frames {
    /// Frame header that is being received.
    #[default([0; FRAME_HEADER])]
    frame_header: [u8; FRAME_HEADER],
    length: usize,
    /// Bytes left of the preface, or of a frame's payload.
    #[default(PREFACE)]
    remainder: u32,
    /// Unit that ends once `remainder` is zero.
    #[default(FrameEnd::Nothing)]
    ends: FrameEnd,
    /// Number of header blocks that have begun, times two, plus one while one is incomplete. The
    /// connection's first SETTINGS counts as one.
    #[default(1)]
    blocks: u64,
    continuations: u32,
    /// True once the client has reset a stream.
    has_resets: bool,
    /// Index of the [`SPAN`] of time that the newest counts cover.
    span: u64,
    counts: [FrameCounts; SPANS],
    /// Number of frames of each kind that may come in response to those that were sent, and do not
    /// count. It does not expire: a client may read late.
    responses: FrameCounts,
}

/// Frames on their way to the client.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SentFrames {
    data: u32,
    /// Frames that end a response.
    ends: u32,
}

impl SentFrames {
    /// Adds the frame with this header.
    fn add(&mut self, header: &[u8; FRAME_HEADER]) {
        let [.., kind, flags, _, _, _, _] = *header;
        self.data += u32::from(kind == 0);
        self.ends += u32::from(kind < 2 && flags & END != 0);
    }
}

/// Position of a connection in the frames on their way to the client.
#[derive(Debug, Default)]
pub(super) struct OutgoingFrames {
    /// Frame header that is being written.
    frame_header: [u8; FRAME_HEADER],
    length: usize,
    /// Bytes left of a frame's payload.
    remainder: usize,
}

impl OutgoingFrames {
    /// Counts the frames whose headers end in the first `written` bytes of these slices.
    pub(super) fn feed(&mut self, slices: &[IoSlice<'_>], written: usize) -> SentFrames {
        let mut sent = SentFrames::default();
        let mut written = written;
        for slice in slices {
            let mut bytes = &slice[..slice.len().min(written)];
            written -= bytes.len();
            while !bytes.is_empty() {
                let passed = self.remainder.min(bytes.len());
                self.remainder -= passed;
                bytes = &bytes[passed..];
                let count = (FRAME_HEADER - self.length).min(bytes.len());
                self.frame_header[self.length..self.length + count]
                    .copy_from_slice(&bytes[..count]);
                self.length += count;
                bytes = &bytes[count..];
                if self.length == FRAME_HEADER {
                    let [a, b, c, ..] = self.frame_header;
                    let length = u32::from_be_bytes([0, a, b, c]);
                    self.remainder = usize::try_from(length).unwrap_or(usize::MAX);
                    self.length = 0;
                    sent.add(&self.frame_header);
                }
            }
        }
        sent
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FrameEnd {
    Nothing,
    /// A header block, or the client's first SETTINGS.
    Block,
}

/// Kinds of frames and other units that are counted.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Resets,
    Pings,
    Settings,
    EmptyData,
    Priorities,
    WindowUpdates,
    Unknown,
    Requests,
}

type FrameCounts = [u32; Kind::Requests as usize + 1];

impl Frames {
    /// Returns an odd number while the headers of a request, or the connection preface, have begun
    /// and are incomplete. No two of them have the same number.
    pub(super) fn header_section(&self) -> u64 {
        self.blocks
    }

    /// Returns true once the client has reset a stream.
    pub(super) fn has_resets(&self) -> bool {
        self.has_resets
    }

    /// Records that `bytes` bytes were sent to the client, and these frames.
    pub(super) fn sent(&mut self, bytes: usize, frames: SentFrames) {
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        let updates = kib.saturating_add(frames.data.saturating_mul(UPDATES_PER_DATA));
        for (kind, more) in [
            (Kind::WindowUpdates, updates),
            // Some clients measure the way with each piece of data.
            (Kind::Pings, frames.data),
            // A client may take the rest of its request back once it has the response.
            (Kind::Resets, frames.ends),
        ] {
            let allowed = &mut self.responses[kind as usize];
            *allowed = allowed.saturating_add(more);
        }
    }

    /// Parses the next bytes, at `now` in milliseconds. Returns the close reason if a limit is
    /// exceeded.
    pub(super) fn feed(
        &mut self,
        bytes: &[u8],
        limits: &FrameLimits,
        now: u64,
    ) -> Result<(), CloseReason> {
        let mut bytes = bytes;
        while !bytes.is_empty() {
            if self.remainder > 0 {
                let remainder = usize::try_from(self.remainder).unwrap_or(usize::MAX);
                let passed = remainder.min(bytes.len());
                bytes = &bytes[passed..];
                self.remainder -= u32::try_from(passed).unwrap_or(self.remainder);
            } else {
                let count = (FRAME_HEADER - self.length).min(bytes.len());
                self.frame_header[self.length..self.length + count]
                    .copy_from_slice(&bytes[..count]);
                self.length += count;
                bytes = &bytes[count..];
                if self.length < FRAME_HEADER {
                    break;
                }
                self.length = 0;
                self.turn(now);
                self.frame(limits)?;
            }
            if self.remainder > 0 {
                continue;
            }
            if self.ends == FrameEnd::Block {
                self.ends = FrameEnd::Nothing;
                self.blocks += self.blocks & 1;
            }
        }
        Ok(())
    }

    /// Resets the counts of expired spans, up to `now`.
    fn turn(&mut self, now: u64) {
        let span = now / SPAN;
        let over = span.saturating_sub(self.span).min(SPANS as u64);
        for ended in 1..=over {
            self.counts[slot(self.span + ended)] = FrameCounts::default();
        }
        self.span = self.span.max(span);
    }

    /// Handles a complete frame header.
    fn frame(&mut self, limits: &FrameLimits) -> Result<(), CloseReason> {
        let [a, b, c, kind, flags, ..] = self.frame_header;
        self.remainder = u32::from_be_bytes([0, a, b, c]);
        match kind {
            // DATA
            0 if self.remainder == 0 && flags & END == 0 => {
                self.count(Kind::EmptyData, EMPTY_DATA, CloseReason::EmptyData)
            }
            0 => Ok(()),
            // HEADERS
            1 => {
                self.blocks = (self.blocks | 1) + 2;
                self.continuations = 0;
                self.block(flags);
                // Not limited here: the number of concurrent requests and their total are limited
                // elsewhere.
                self.add(Kind::Requests, 1);
                Ok(())
            }
            // PRIORITY, PRIORITY_UPDATE (RFC 9218, 7.1)
            2 | 0x10 => {
                let max = self.others();
                self.count(Kind::Priorities, max, CloseReason::Priorities)
            }
            // RST_STREAM
            3 => {
                self.has_resets = true;
                self.count(Kind::Resets, limits.resets, CloseReason::Resets)
            }
            // SETTINGS
            4 => {
                if self.blocks == 1 {
                    self.ends = FrameEnd::Block;
                }
                self.count(Kind::Settings, limits.settings, CloseReason::Settings)
            }
            // PING
            6 => self.count(Kind::Pings, limits.pings, CloseReason::Pings),
            // WINDOW_UPDATE
            8 => {
                let max = self.others();
                self.count(Kind::WindowUpdates, max, CloseReason::WindowUpdates)
            }
            // CONTINUATION
            9 => {
                self.continuations += 1;
                if self.continuations > limits.continuations {
                    return Err(CloseReason::Continuations);
                }
                self.block(flags);
                Ok(())
            }
            // GOAWAY, and frame types yet to be defined.
            _ => {
                let max = self.others();
                self.count(Kind::Unknown, max, CloseReason::UnknownFrames)
            }
        }
    }

    /// Handles a frame with a fragment of a header block.
    fn block(&mut self, flags: u8) {
        if flags & END_HEADERS != 0 {
            self.ends = FrameEnd::Block;
        }
    }

    fn count(&mut self, kind: Kind, max: u64, reason: CloseReason) -> Result<(), CloseReason> {
        let allowed = &mut self.responses[kind as usize];
        if *allowed > 0 {
            *allowed -= 1;
            return Ok(());
        }
        self.add(kind, 1);
        if self.recent(kind) > max {
            return Err(reason);
        }
        Ok(())
    }

    /// Returns the limit on frames that accompany requests.
    fn others(&self) -> u64 {
        MAX_OTHER_FRAMES + WITH_REQUEST * self.recent(Kind::Requests)
    }

    fn recent(&self, kind: Kind) -> u64 {
        let spans = self.counts.iter();
        spans.map(|counts| u64::from(counts[kind as usize])).sum()
    }

    fn add(&mut self, kind: Kind, more: u32) {
        let count = &mut self.counts[slot(self.span)][kind as usize];
        *count = count.saturating_add(more);
    }
}

fn slot(span: u64) -> usize {
    usize::try_from(span % SPANS as u64).expect("less than a handful")
}
