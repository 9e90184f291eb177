//! Counts the frames of an HTTP/2 connection as they arrive, in pieces of any size. Frames that
//! cost the client nothing and the gateway something are limited in number.
//!
//! It reads only frame headers (RFC 9113, 4.1). The `h2` crate, which reads the same bytes
//! afterwards, validates the frames.

use std::ops::Range;

use crate::{config::model::Http2Config, connection::CloseReason};

/// Length of the connection preface that a client sends before its first frame.
const PREFACE: u32 = 24;
pub(super) const FRAME_HEADER: usize = 9;

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

/// Limit on CONTINUATION frames of one header block, if its list is no longer than a few frames.
const CONTINUATIONS: u32 = 5;
const FRAME: usize = 16 * 1024;

const END: u8 = 0x1;
const ACK: u8 = 0x1;
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
    pub(super) fn new(config: &Http2Config, header_list: usize) -> Self {
        let frames = u32::try_from(header_list / FRAME).unwrap_or(u32::MAX);
        Self {
            resets: config.resets.into(),
            pings: config.pings.into(),
            settings: config.settings.into(),
            continuations: CONTINUATIONS.max(frames.saturating_add(frames / 4)),
        }
    }
}

/// Position of a connection in the client's frames.
#[derive(Debug)]
pub(super) struct Frames {
    /// Frame header that is being received.
    frame_header: [u8; FRAME_HEADER],
    length: usize,
    /// Bytes left of the preface, or of a frame's payload.
    remainder: u32,
    /// Unit that ends once `remainder` is zero.
    ends: FrameEnd,
    /// Number of header blocks that have begun, times two, plus one while one is incomplete. The
    /// connection's first SETTINGS counts as one.
    blocks: u64,
    continuations: u32,
    /// True once the preface was read.
    is_open: bool,
    /// Length of the SETTINGS frame that is being received, unless it acknowledges ours.
    settings: Option<u32>,
    /// Findings in the bytes that were fed last, for the frames on their way out.
    found: Vec<FoundFrame>,
    /// Index of the [`SPAN`] of time that the newest counts cover.
    span: u64,
    counts: [Counts; SPANS],
}

/// Frame, or a part of one, that matters to the frames on their way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FoundFrame {
    /// The client has reset a stream.
    Reset(u32),
    /// Bytes of a SETTINGS frame: their place in the bytes that were fed, and in the payload.
    Settings {
        at: Range<usize>,
        offset: usize,
    },
    EndOfSettings,
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
    /// Kibibytes sent to the client.
    Sent,
}

type Counts = [u32; Kind::Sent as usize + 1];

impl Default for Frames {
    fn default() -> Self {
        Self {
            frame_header: [0; FRAME_HEADER],
            length: 0,
            remainder: PREFACE,
            ends: FrameEnd::Nothing,
            blocks: 1,
            continuations: 0,
            is_open: false,
            settings: None,
            found: Vec::new(),
            span: 0,
            counts: Default::default(),
        }
    }
}

impl Frames {
    /// Returns an odd number while the headers of a request, or the connection preface, have begun
    /// and are incomplete. No two of them have the same number.
    pub(super) fn header_section(&self) -> u64 {
        self.blocks
    }

    /// Returns true once the client's preface was read.
    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    /// Takes what the bytes that were fed last have for the frames on their way out.
    pub(super) fn found(&mut self) -> impl Iterator<Item = FoundFrame> {
        std::mem::take(&mut self.found).into_iter()
    }

    /// Records that `bytes` bytes were sent to the client.
    pub(super) fn sent(&mut self, bytes: usize) {
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        self.add(Kind::Sent, kib);
    }

    /// Parses the next bytes, at `now` in milliseconds. Returns the close reason if a limit is
    /// exceeded.
    pub(super) fn feed(
        &mut self,
        bytes: &[u8],
        limits: &FrameLimits,
        now: u64,
    ) -> Result<(), CloseReason> {
        let fed = bytes.len();
        let mut bytes = bytes;
        while !bytes.is_empty() {
            if self.remainder > 0 {
                let remainder = usize::try_from(self.remainder).unwrap_or(usize::MAX);
                let passed = remainder.min(bytes.len());
                if let Some(length) = self.settings {
                    let at = fed - bytes.len();
                    let length = usize::try_from(length).unwrap_or(usize::MAX);
                    self.found.push(FoundFrame::Settings {
                        at: at..at + passed,
                        offset: length - remainder,
                    });
                }
                bytes = &bytes[passed..];
                self.remainder -= u32::try_from(passed).unwrap_or(self.remainder);
            } else {
                let taken = (FRAME_HEADER - self.length).min(bytes.len());
                self.frame_header[self.length..self.length + taken]
                    .copy_from_slice(&bytes[..taken]);
                self.length += taken;
                bytes = &bytes[taken..];
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
            self.is_open = true;
            if self.settings.take().is_some() {
                self.found.push(FoundFrame::EndOfSettings);
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
            self.counts[slot(self.span + ended)] = Counts::default();
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
                let most = self.others();
                self.count(Kind::Priorities, most, CloseReason::Priorities)
            }
            // RST_STREAM
            3 => {
                let stream = stream_id(&self.frame_header);
                self.found.push(FoundFrame::Reset(stream));
                self.count(Kind::Resets, limits.resets, CloseReason::Resets)
            }
            // SETTINGS
            4 => {
                if self.blocks == 1 {
                    self.ends = FrameEnd::Block;
                }
                if flags & ACK == 0 {
                    self.settings = Some(self.remainder);
                }
                self.count(Kind::Settings, limits.settings, CloseReason::Settings)
            }
            // PING
            6 => self.count(Kind::Pings, limits.pings, CloseReason::Pings),
            // WINDOW_UPDATE: clients send two for the data of one frame, some clients one for each
            // 4 KiB.
            8 => {
                let most = self.others() + self.recent(Kind::Sent);
                self.count(Kind::WindowUpdates, most, CloseReason::WindowUpdates)
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
                let most = self.others();
                self.count(Kind::Unknown, most, CloseReason::UnknownFrames)
            }
        }
    }

    /// Handles a frame with a fragment of a header block.
    fn block(&mut self, flags: u8) {
        if flags & END_HEADERS != 0 {
            self.ends = FrameEnd::Block;
        }
    }

    fn count(&mut self, kind: Kind, most: u64, reason: CloseReason) -> Result<(), CloseReason> {
        self.add(kind, 1);
        if self.recent(kind) > most {
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

/// Returns the stream that a frame header names.
pub(super) fn stream_id(header: &[u8; FRAME_HEADER]) -> u32 {
    let [.., a, b, c, d] = *header;
    u32::from_be_bytes([a & 0x7f, b, c, d])
}

fn slot(span: u64) -> usize {
    usize::try_from(span % SPANS as u64).expect("less than a handful")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const PRIORITY: u8 = 2;
    const RESET: u8 = 3;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const WINDOW_UPDATE: u8 = 8;
    const CONTINUATION: u8 = 9;

    fn limits() -> FrameLimits {
        FrameLimits::new(&Http2Config::default(), 64 * 1024)
    }

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let [.., a, b, c] = u32::try_from(length).unwrap().to_be_bytes();
        let mut frame = vec![a, b, c, kind, flags, 0, 0, 0, 1];
        frame.resize(FRAME_HEADER + length, 0xff);
        frame
    }

    /// Returns a connection that has begun.
    fn open() -> Frames {
        let mut frames = Frames::default();
        let mut start = vec![b'P'; PREFACE as usize];
        start.extend(frame(SETTINGS, 0, 12));
        frames.feed(&start, &limits(), 1).unwrap();
        assert_eq!(frames.header_section() % 2, 0);
        frames
    }

    /// Returns how many of `piece` pass, one every `pause` milliseconds; `None` if all of 5,000 do.
    fn passes(piece: &[u8], pause: u64) -> Option<(u64, CloseReason)> {
        let mut frames = open();
        (0..5000).find_map(|n| {
            let reason = frames.feed(piece, &limits(), 1 + n * pause).err()?;
            Some((n, reason))
        })
    }

    #[test]
    fn each_kind_has_its_bound() {
        let config = Http2Config::default();
        for (kind, flags, length, most, reason) in [
            (RESET, 0, 4, config.resets.into(), CloseReason::Resets),
            (PING, 0, 8, config.pings.into(), CloseReason::Pings),
            // The preface contained one.
            (
                SETTINGS,
                0,
                0,
                u64::from(config.settings) - 1,
                CloseReason::Settings,
            ),
            (DATA, 0, 0, EMPTY_DATA, CloseReason::EmptyData),
            (PRIORITY, 0, 5, MAX_OTHER_FRAMES, CloseReason::Priorities),
            (
                WINDOW_UPDATE,
                0,
                4,
                MAX_OTHER_FRAMES,
                CloseReason::WindowUpdates,
            ),
            (0xfa, 0, 3, MAX_OTHER_FRAMES, CloseReason::UnknownFrames),
        ] {
            assert_eq!(passes(&frame(kind, flags, length), 0), Some((most, reason)));
        }
        // The control: frames with data, and requests, are limited elsewhere.
        assert_eq!(passes(&frame(DATA, 0, 1), 0), None);
        assert_eq!(passes(&frame(DATA, END, 0), 0), None);
        assert_eq!(passes(&frame(HEADERS, END_HEADERS, 30), 0), None);
    }

    #[test]
    fn slow_frames_are_allowed() {
        let config = Http2Config::default();
        let pause = 10_000 / u64::from(config.pings) + 1;
        assert_eq!(passes(&frame(PING, 0, 8), pause), None);
        // The control: at twice that rate the limit is soon exceeded.
        assert!(passes(&frame(PING, 0, 8), pause / 2).is_some());
    }

    #[test]
    fn window_updates_are_allowed_for_the_bytes_sent() {
        let mut frames = open();
        for round in 0..5000 {
            frames.sent(2048);
            let updates = [frame(WINDOW_UPDATE, 0, 4), frame(WINDOW_UPDATE, 0, 4)].concat();
            assert_eq!(frames.feed(&updates, &limits(), 1), Ok(()), "{round}");
        }
    }

    #[test]
    fn a_header_block_has_few_pieces() {
        let mut frames = open();
        let begin = frame(HEADERS, 0, 10);
        let more = frame(CONTINUATION, 0, 10);
        let last = frame(CONTINUATION, END_HEADERS, 10);
        for _ in 0..100 {
            frames.feed(&begin, &limits(), 1).unwrap();
            for _ in 1..CONTINUATIONS {
                frames.feed(&more, &limits(), 1).unwrap();
            }
            frames.feed(&last, &limits(), 1).unwrap();
        }
        frames.feed(&begin, &limits(), 1).unwrap();
        for _ in 0..CONTINUATIONS {
            frames.feed(&more, &limits(), 1).unwrap();
        }
        assert_eq!(
            frames.feed(&more, &limits(), 1),
            Err(CloseReason::Continuations)
        );
    }

    #[test]
    fn a_header_section_is_incomplete_from_its_frame_header_to_its_last_byte() {
        let mut frames = Frames::default();
        let mut feed = |bytes: &[u8]| {
            frames.feed(bytes, &limits(), 1).unwrap();
            frames.header_section() % 2 == 1
        };
        assert!(feed(&[b'P'; 24]));
        let settings = frame(SETTINGS, 0, 6);
        assert!(feed(&settings[..14]));
        assert!(!feed(&settings[14..]));
        let (begin, end) = (frame(HEADERS, 0, 10), frame(CONTINUATION, END_HEADERS, 3));
        assert!(!feed(&begin[..8]));
        assert!(feed(&begin[8..12]));
        assert!(feed(&begin[12..]));
        assert!(feed(&end[..11]));
        assert!(!feed(&end[11..]));
        assert!(!feed(&frame(HEADERS, END_HEADERS, 0)));
        // A slow body is subject to the deadlines of its stream.
        assert!(!feed(&frame(DATA, 0, 100)[..50]));
    }

    fn any_frame() -> impl Strategy<Value = Vec<u8>> {
        (0u8..12, any::<u8>(), 0usize..40)
            .prop_map(|(kind, flags, length)| frame(kind, flags, length))
    }

    proptest! {
        /// Invariant: a connection knows the number of header blocks that have begun, however their
        /// bytes come. The loop of HTTP/2 rests by it.
        #[test]
        fn the_blocks_that_have_begun_are_counted(
            blocks in prop::collection::vec((0usize..3, 0usize..40, 0usize..3), 0..60),
            splits in prop::collection::vec(1usize..60, 1..50),
        ) {
            let (mut bytes, mut begins) = (Vec::new(), Vec::new());
            for (continuations, length, others) in blocks {
                begins.push(bytes.len() + FRAME_HEADER);
                let flags = if continuations == 0 { END_HEADERS } else { 0 };
                bytes.extend(frame(HEADERS, flags, length));
                for left in (0..continuations).rev() {
                    let flags = if left == 0 { END_HEADERS } else { 0 };
                    bytes.extend(frame(CONTINUATION, flags, length));
                }
                for _ in 0..others {
                    bytes.extend(frame(DATA, 0, 1));
                }
            }
            let connection = crate::connection::Connection::test();
            let mut frames = open();
            let mut fed = 0;
            for split in splits.iter().cycle() {
                connection.streams.set_header_section(frames.header_section());
                let begun = begins.iter().filter(|end| **end <= fed).count();
                prop_assert_eq!(connection.streams.header_blocks(), begun as u64);
                if fed == bytes.len() {
                    break;
                }
                let end = (fed + split).min(bytes.len());
                frames.feed(&bytes[fed..end], &limits(), 1).unwrap();
                fed = end;
            }
        }

        #[test]
        fn frames_in_pieces_count_as_complete_frames(
            all in prop::collection::vec(any_frame(), 0..300),
            splits in prop::collection::vec(1usize..60, 1..50),
        ) {
            let bytes = all.concat();
            let mut complete = open();
            let outcome = complete.feed(&bytes, &limits(), 1);
            let mut pieces = open();
            let mut remainder = &bytes[..];
            let mut seen = Ok(());
            for split in splits.iter().cycle() {
                if remainder.is_empty() || seen.is_err() {
                    break;
                }
                let (piece, after) = remainder.split_at((*split).min(remainder.len()));
                remainder = after;
                seen = pieces.feed(piece, &limits(), 1);
            }
            prop_assert_eq!(seen, outcome);
            prop_assert_eq!(pieces.header_section(), complete.header_section());
            prop_assert_eq!(pieces.counts, complete.counts);
        }

        #[test]
        fn garbage_never_panics(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20),
            times in prop::collection::vec(any::<u64>(), 20),
        ) {
            let mut frames = Frames::default();
            for (piece, now) in pieces.iter().zip(times) {
                if frames.feed(piece, &limits(), now).is_err() {
                    break;
                }
            }
        }
    }
}
