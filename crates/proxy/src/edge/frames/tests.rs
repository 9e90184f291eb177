//! Tests of the counts of frames: the limits of each kind, and what responds to frames of ours.

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

fn sent(kind: u8, flags: u8) -> SentFrames {
    let mut sent = SentFrames::default();
    sent.add(&[0, 0, 1, kind, flags, 0, 0, 0, 1]);
    sent
}

/// Returns how many of `piece` pass at `now`.
fn passes_at(frames: &mut Frames, piece: &[u8], now: u64) -> u32 {
    let mut rounds = 0..100_000;
    let cut = rounds.find(|_| frames.feed(piece, &limits(), now).is_err());
    cut.expect("there is a bound")
}

#[test]
fn two_window_updates_and_a_ping_are_allowed_for_each_data_frame_however_late() {
    for (kind, length, each, most) in [
        (WINDOW_UPDATE, 4, UPDATES_PER_DATA, MAX_OTHER_FRAMES),
        (PING, 8, 1, Http2Config::default().pings.into()),
    ] {
        let mut frames = open();
        for _ in 0..5000 {
            frames.sent(0, sent(DATA, 0));
        }
        let most = u32::try_from(most).unwrap();
        let passed = passes_at(&mut frames, &frame(kind, 0, length), 60_000);
        assert_eq!(passed, 5000 * each + most);
        // The control: nothing was sent.
        let passed = passes_at(&mut open(), &frame(kind, 0, length), 60_000);
        assert_eq!(passed, most);
    }
}

#[test]
fn window_updates_are_allowed_for_the_bytes_sent() {
    let mut frames = open();
    frames.sent(16 * 1024, sent(DATA, 0));
    let passed = passes_at(&mut frames, &frame(WINDOW_UPDATE, 0, 4), 1);
    assert_eq!(u64::from(passed), 16 + 2 + MAX_OTHER_FRAMES);
}

#[test]
fn a_reset_is_allowed_for_each_response_that_has_ended() {
    let resets = frame(RESET, 0, 4);
    for (kind, flags, ended) in [(DATA, END, 1), (HEADERS, END, 1), (DATA, 0, 0), (9, 1, 0)] {
        let mut frames = open();
        frames.sent(100, sent(kind, flags));
        let passed = passes_at(&mut frames, &resets, 1);
        assert_eq!(passed, Http2Config::default().resets + ended, "{kind}");
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

/// Returns the frames that were counted on their way out: DATA frames, and ends.
fn counted(outgoing: &mut OutgoingFrames, parts: &[&[u8]], written: usize) -> (u32, u32) {
    let slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
    let sent = outgoing.feed(&slices, written);
    (sent.data, sent.ends)
}

#[test]
fn frames_on_their_way_out_are_counted_as_their_headers_are_written() {
    let mut outgoing = OutgoingFrames::default();
    let (headers, data) = (frame(HEADERS, END_HEADERS, 20), frame(DATA, 0, 1000));
    let both = [&headers[..], &data[..FRAME_HEADER]].concat();
    let payload = &data[FRAME_HEADER..];
    // The header of DATA is cut.
    let written = headers.len() + 4;
    let sent = counted(&mut outgoing, &[&both, payload], written);
    assert_eq!(sent, (0, 0));
    let sent = counted(&mut outgoing, &[&both[written..], payload], 5 + 999);
    assert_eq!(sent, (1, 0));
    let end = frame(DATA, END, 0);
    let sent = counted(&mut outgoing, &[&payload[999..], &end], 1 + end.len());
    assert_eq!(sent, (1, 1));
    let sent = counted(&mut outgoing, &[&frame(HEADERS, END_HEADERS | END, 7)], 16);
    assert_eq!(sent, (0, 1));
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    (0u8..12, any::<u8>(), 0usize..40).prop_map(|(kind, flags, length)| frame(kind, flags, length))
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
